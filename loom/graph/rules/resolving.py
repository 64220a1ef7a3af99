"""Ways out of dead, escalated and deferred work: retry, answer, reassign, waive, cancel."""

from __future__ import annotations

from enum import StrEnum

from loom.bus.events import EventType
from loom.exceptions import EscalationNotFoundError, InvalidInputError, TaskStateError
from loom.graph import deps, store
from loom.graph.model.task import Task, TaskStatus
from loom.graph.rules import cancelling
from loom.graph.rules.claims import Outcome, Terms, into_play
from loom.graph.rules.holding import not_found
from loom.graph.rules.leaving import leave_queue
from loom.graph.store import escalations, messages
from loom.graph.store.escalations import EscalationKind
from loom.graph.store.transaction import Transaction
from loom.wording import Argument, Words, call


class Resolution(StrEnum):
    """What to do with dead, escalated or deferred work."""

    RETRY = "retry"
    ANSWER = "answer"
    REASSIGN = "reassign"
    WAIVE = "waive"
    CANCEL = "cancel"


async def resolve(
    tx: Transaction,
    target: str,
    action: Resolution,
    *,
    by: str,
    note: str | None,
    assignee: str | None,
    terms: Terms,
    downstream: bool,
) -> Outcome:
    """Resolves an escalation, or the open escalations of a task, in one of five ways.

    Args:
        target: id of a task or of an escalation.
        by: who decides.
        note: kept on the task for its next worker; the answer itself for `answer`.
        assignee: whom `reassign` gives the task to.
        downstream: whether `cancel` takes along what waits for the task.
    """
    task_id = await _task_of(tx, target)
    if action is Resolution.CANCEL:
        return await cancelling.cancel(tx, task_id, note, by, downstream=downstream)
    found = await store.lock(tx, [task_id])
    if task_id not in found:
        raise not_found(task_id)
    task = found[task_id]
    if action is Resolution.WAIVE:
        return await cancelling.waive(tx, task, note, by)
    resolved = await escalations.close(tx, [task.id], action, by=by, note=note)
    question = next((one for one in resolved if one.kind is EscalationKind.QUESTION), None)
    held = any(one.kind is not EscalationKind.FAILURE for one in resolved)
    if not held and not await _is_free(tx, task, action):
        raise TaskStateError(
            f"{task.id} is {task.status.called} and has no open escalation.",
            "Only failed, escalated or deferred work can be resolved.",
        )
    if action is Resolution.ANSWER and (note is None or question is None):
        raise InvalidInputError(
            f"{task.id} has no open question." if note else Words("An answer needs its text in {}.", Argument("note")),
            Words(
                "Requeue it with {}, and with {} if there is something to say.",
                call("resolve", id=task.id, action="retry"),
                Argument("note"),
            ),
        )
    if action is Resolution.REASSIGN and task.status is TaskStatus.EPIC:
        raise TaskStateError(
            f"{task.id} is an epic, which nobody claims.",
            Words("Let its children go with {}.", call("resolve", id=task.id, action="retry")),
        )
    again = await into_play(tx, task, fresh=True)
    data = {"action": action, "by": by} | ({"note": note} if note else {})
    tx.changed(again, EventType.TASK_RETRIED, agent=by, data=data)
    if note:
        asker = question.raised_by if action is Resolution.ANSWER and question is not None else None
        await _tell(tx, task.id, note, by, asker)
    if action is Resolution.REASSIGN:
        again = await _hand_over(tx, again, by, assignee, note, terms)
    if again.status is TaskStatus.EPIC:
        return Outcome(again, unblocked=await deps.follow_epic(tx, again, task.waiting, by))
    return Outcome(again, unblocked=(again.id,) if again.status is TaskStatus.PENDING else ())


async def _tell(tx: Transaction, task_id: str, note: str, by: str, asker: str | None) -> None:
    """Keeps what was said with a decision on its task, and sends it to who has asked."""
    await messages.note(tx, task_id, by, note)
    if asker is not None:
        await messages.send(tx, by, asker, f"Answer on {task_id}: {note}", task_id)


async def defer(tx: Transaction, task_id: str, reason: str, agent: str) -> Outcome:
    """Puts off a task that is ready or waits; `resolve` with retry brings it back."""
    found = await store.lock(tx, [task_id])
    if task_id not in found:
        raise not_found(task_id)
    task = found[task_id]
    if task.status not in (TaskStatus.PENDING, TaskStatus.BLOCKED):
        raise TaskStateError(
            f"{task.id} is {task.status}; only what is ready or waits can be put off.",
            Words("See {} for where it stands.", call("status", task_id=task.id)),
        )
    if await escalations.is_deferred(tx, task_id):
        raise TaskStateError(
            f"{task.id} is put off already.",
            Words("It is brought back with {}.", call("resolve", id=task.id, action="retry")),
        )
    saved = await store.update_task_status(tx, task, TaskStatus.BLOCKED, waiting=task.waiting + 1)
    tx.changed(saved, EventType.TASK_BLOCKED, agent=agent, data={"deferred": reason})
    await escalations.defer(tx, {task_id: reason}, by=agent)
    return Outcome(saved, held_up=await store.get_dependents(tx.connection, tx.project_id, task_id))


async def _is_free(tx: Transaction, task: Task, action: Resolution) -> bool:
    """Whether a task without an open question can be put into play: it has failed, or waits to be landed and somebody
    else is to do it."""
    if task.queued and action is Resolution.REASSIGN:
        await leave_queue(tx, [task.id], "It was given to somebody else.")
        return True
    return task.status is TaskStatus.FAILED


async def _hand_over(
    tx: Transaction, task: Task, by: str, assignee: str | None, note: str | None, terms: Terms
) -> Task:
    if assignee is None:
        raise InvalidInputError("Reassigning needs the name of the agent.", Words("Pass {}.", Argument("agent_id")))
    if task.status is not TaskStatus.PENDING:
        raise TaskStateError(
            f"{task.id} still waits for other tasks.",
            Words("Requeue it with {}; it is ready when they are done.", call("resolve", id=task.id, action="retry")),
        )
    claim = await store.claim_task(
        tx, assignee, lease_seconds=terms.lease_seconds, deadline_seconds=terms.deadline_seconds, task_id=task.id
    )
    assert claim is not None, "a locked pending task can be claimed"
    text = f"{task.id} is now yours, claim token {claim.task.claim_token}: {task.title}"
    await messages.send(tx, by, assignee, f"{text}\n{note}" if note else text, task.id)
    return claim.task


async def _task_of(tx: Transaction, target: str) -> str:
    """The id of the task that a task's or an open escalation's id leads to."""
    if not target.startswith("esc-"):
        return target
    escalation = await escalations.get(tx.connection, tx.project_id, target)
    if escalation is None:
        raise EscalationNotFoundError(
            f"There is no escalation {target} in this project.",
            Words("See the open ones with {}.", call("status", view="escalations")),
        )
    if escalation.resolution is not None:
        by = f", by {escalation.resolved_by}" if escalation.resolved_by else ""
        raise TaskStateError(
            f"{target} was already resolved: {escalation.resolution}{by}.",
            Words("See {} for where its task stands.", call("status", task_id=escalation.task_id)),
        )
    return escalation.task_id
