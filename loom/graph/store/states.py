"""What people call a task's status, in SQL: its state, as `Task.state` has it for one that was read."""

from __future__ import annotations

_CONDITIONS = {
    "ready": "{0}.status = 'pending'",
    "blocked": "{0}.status = 'blocked'",
    "claimed": "({0}.status = 'claimed' and {0}.lease_expires_at < 'infinity')",
    "landing": "({0}.status = 'claimed' and {0}.lease_expires_at = 'infinity')",
    "retry": "({0}.status = 'failed' and {0}.retry_at is not null)",
    "dead": "({0}.status = 'failed' and {0}.retry_at is null)",
    "epic": "{0}.status = 'epic'",
    "done": "{0}.status = 'done'",
    "cancelled": "{0}.status = 'cancelled'",
}
CONDITIONS = {state: condition.format("t") for state, condition in _CONDITIONS.items()}
"""By which a row `t` is in a state."""


def state_of(row: str) -> str:
    """The state of a row of `tasks`."""
    cases = " ".join(f"when {condition.format(row)} then '{state}'" for state, condition in _CONDITIONS.items())
    return f"case {cases} end"
