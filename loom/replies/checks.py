"""What both faces say of checks: those that run for a report, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loom.replies.fitting import Reply
from loom.replies.tasks import outcome
from loom.wording import Words, call

if TYPE_CHECKING:  # the MCP server imports this before its first answer
    from loom.graph.rules.claims import Outcome
    from loom.graph.store.proofs import Proof


@dataclass(frozen=True, slots=True)
class Checking:
    """Checks that run for the report on a task: their names, and for how many seconds they have run."""

    task_id: str
    checks: tuple[str, ...]
    seconds: float


def reported(made: Outcome | Checking) -> Reply:
    """The answer to a report that work is done."""
    if not isinstance(made, Checking):
        return outcome(made)
    return {
        "id": made.task_id,
        "status": "checking",
        "checks": list(made.checks),
        "seconds": round(made.seconds),
        "next": Words("They go on. Make the same call again for the result: {}.", call("done", task_id=made.task_id)),
    }


def checked(found: Sequence[Proof]) -> Reply:
    """What is known of checks."""
    return {"green": all(one.green for one in found), "checks": [proof(one) for one in found], "count": len(found)}


def proof(one: Proof) -> dict[str, Any]:
    """One of them; of a green one not what it printed."""
    facts = {"name": one.check_name, "exit_status": one.exit_status, "seconds": round(one.seconds or 0.0, 2)}
    return facts if one.green else facts | {"tail": one.tail}
