"""The queue of open escalations: a list in Redis, kept by the notices that say that one was raised or resolved.

Whoever handles escalations takes them from Postgres (`Loom.take_escalation`), which gives each to one handler and has
it back from one that died; the list is for readers that only look.
"""

from __future__ import annotations


def push_escalation(escalation_id: str) -> dict[str, str]:
    """The part of a notice that has an escalation join the queue, at its end, once."""
    return {"enqueue": escalation_id}


def pop_escalation(escalation_id: str) -> dict[str, str]:
    """The part of a notice that has an escalation leave the queue, wherever it stands."""
    return {"dequeue": escalation_id}
