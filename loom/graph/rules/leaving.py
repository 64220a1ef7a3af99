"""The way out of the landing queue for work whose claim ends otherwise than by landing.

What is being landed at this moment does not leave it. What was sent back and nobody took up again is told to whoever
takes the task up next, and its attempt is refunded.
"""

from __future__ import annotations

from collections.abc import Collection

from loom.exceptions import TaskStateError
from loom.graph.model.task import Task
from loom.graph.store import landing_intents, landings, messages
from loom.graph.store.landings import Landing, LandingState
from loom.graph.store.transaction import Transaction
from loom.wording import Shell, Words, call

_QUEUE = "landing"  # who writes a note of the landing queue's


async def leave_queue(tx: Transaction, task_ids: Collection[str], why: str) -> None:
    """Takes what of these locked tasks is on its way to a branch off it, because their claims end otherwise. Raises
    TaskStateError where one is being landed."""
    await refuse_being_landed(tx, task_ids)
    await landings.drop(tx, task_ids, why)


async def refuse_being_landed(tx: Transaction, task_ids: Collection[str]) -> None:
    """Raises TaskStateError where a branch is about to be moved that brings one of these locked tasks."""
    intents = await landing_intents.still_open_of(tx.connection, tx.project_id, task_ids)
    if intents:
        raise TaskStateError(
            f"{intents[0].task_id} is being landed on {intents[0].target} at this moment.",
            Words(
                "Wait for it with {}; where nobody lands, {} says what became of it.",
                call("wait", what="task", task_id=intents[0].task_id),
                Shell("loom land"),
            ),
        )


async def landing_of(tx: Transaction, task: Task) -> Landing | None:
    """How the work of a locked task's claim stands, None where it does not land."""
    if not task.lands:
        return None
    return await landings.of_claim(tx.connection, tx.project_id, task.id, task.claim_token)


async def tell_why_sent_back(tx: Transaction, task: Task, landing: Landing | None) -> None:
    """Tells whoever takes a task up next why its work was sent back, where it was."""
    if landing is not None and landing.sent_back_at is not None:
        text = "\n".join(part for part in (landing.reason, landing.note) if part)
        await messages.note(tx, task.id, _QUEUE, text)


async def is_refunded(tx: Transaction, task: Task, landing: Landing | None) -> bool:
    """Whether a lapse does not count: the work was sent back, and nobody took it up again. That goes as often as the
    task may be tried at all."""
    if landing is None or landing.state is not LandingState.SENT_BACK:
        return False
    return await landings.times_sent_back(tx.connection, tx.project_id, task.id) < task.max_attempts
