"""The life of a claim: done, fail, escalate, release, lapse.

Each function runs inside a `Transaction`. A report is about exactly one claim: the one its token names, else the one
its agent holds. On a ready task that nobody holds, a report claims it first.

The `done` of a claim that lands is kept, and `rules/landings.py` goes on from there. However such a claim ends
otherwise, its work leaves the queue in the same transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from loom.bus.events import EventType
from loom.exceptions import LoomError
from loom.graph import deps, store
from loom.graph.model.principals import Principal
from loom.graph.model.retry import RetryPolicy
from loom.graph.model.task import Task, TaskStatus
from loom.graph.rules import holding, leaving, proofs
from loom.graph.rules.holding import Holder
from loom.graph.rules.proofs import Proven
from loom.graph.store import escalations, landings, messages
from loom.graph.store.escalations import EscalationKind
from loom.graph.store.landings import Landing, LandingState
from loom.graph.store.transaction import Transaction

_KEPT_BYTES = 8_000  # of an output that is in an event alone
_SWEPT = 200  # tasks that one sweep takes of each kind
_EXPIRED = "its lease expired"


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a claim, in seconds: how long a lease lasts unrenewed, and how long a claim may live at all."""

    lease_seconds: float
    deadline_seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a report or a decision led to. All but the task are ids."""

    task: Task
    """As it is now."""
    unblocked: tuple[str, ...] = ()
    """Tasks that became claimable."""
    closed: tuple[str, ...] = ()
    """Epics that closed."""
    held_up: tuple[str, ...] = ()
    """Unfinished tasks that still wait for this one, directly."""
    cancelled: tuple[str, ...] = ()
    """Tasks that were cancelled, this one among them."""
    opened: tuple[str, ...] = ()
    """Closed epics that are open again."""
    waived: tuple[str, ...] = ()
    """Tasks that were begun already and go on without what is done again."""
    landing: Landing | None = None
    """How far its work is on the way to its branch, where a report was kept until it is there."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: claims that had expired and retries that were due, as the tasks are now; whether it was the
    one to announce that the project is complete."""

    expired: tuple[Task, ...] = ()
    retried: tuple[Task, ...] = ()
    completed: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A report that came too late: the transaction commits what it kept of it, then `error` is raised."""

    error: LoomError
    task: Task


@dataclass(frozen=True, slots=True)
class Renewal:
    """What it came to that claims were renewed: the tasks that are still held, and of those that are not, why."""

    tasks: list[Task]
    lost: Mapping[str, LoomError]


async def done(
    tx: Transaction,
    task_id: str,
    holder: Holder,
    terms: Terms,
    output: str,
    *,
    every: Collection[str] = (),
    proven: Proven | None = None,
) -> Outcome | Refused:
    """Finishes a task. `output` is JSON text. The same token again returns the first answer; a late report is taken
    while its token is the newest and nothing has moved on, else it is refused and its output kept in an event. That of
    a claim that lands is kept until it has, and the same again says how far it is.

    `every` names the checks that every task needs; what `proven` says of them and of the task's own has to hold, or
    ProofMissingError is raised and everything stays as it was. What lands is proven before it does."""
    # A principal's report is judged by the rules below: the one statement goes by the token alone.
    at_once = not every and holder.principal is None
    completed = None if not at_once else await store.complete_task(tx, task_id, holder.agent, holder.token, output)
    if completed is not None:
        task, awaited = completed.task, completed.awaited
    else:
        found = await _claim_to_report_on(tx, task_id, holder, terms, late=True)
        if isinstance(found, _Answered):
            return await first_answer(tx, found.task)
        if isinstance(found, Refused):
            await _keep_refused(tx, found.task, holder, output)
            return found
        if found.dead:
            await escalations.close(tx, [task_id], "done late", by=holder.agent)
        if found.lands:
            return await _keep(tx, found, holder, output)
        await proofs.require(tx, found, every, proven)
        moment = await store.now(tx)
        task = await store.update_task_status(
            tx, found, TaskStatus.DONE, done_at=moment, retry_at=None, dead_reason=None, lapsed=False, output=output
        )
        tx.changed(task, EventType.TASK_DONE, agent=holder.agent, token=task.claim_token)
        awaited = True
    follows = await deps.check_and_unblock(
        tx, released=[task.id] if awaited else [], parents=[task.parent_id], agent=holder.agent
    )
    return Outcome(task, follows.unblocked, follows.closed)


async def done_alone(tx: Transaction, task_id: str, holder: Holder, output: str) -> Outcome | None:
    """As `done`, of a claim from which nothing follows and that needs no check: one statement without a transaction
    block. None: it is another one, or there is none, and nothing has changed."""
    completed = await store.complete_task(tx, task_id, holder.agent, holder.token, output, alone=True)
    return None if completed is None else Outcome(completed.task)


async def fail(
    tx: Transaction,
    task_id: str,
    holder: Holder,
    terms: Terms,
    policy: RetryPolicy,
    reason: str,
    *,
    retry: bool,
    output: str | None = None,
) -> Outcome | Refused:
    """Ends a claim without a result: to be tried again after a backoff, or as a dead letter when attempts are used up
    or `retry` is false. Either way an escalation records it. `output`, JSON text, is kept with the event."""
    task = await _claim_to_report_on(tx, task_id, holder, terms)
    if isinstance(task, _Answered | Refused):
        return Refused(holding.refusal(task.task, holder), task.task) if isinstance(task, _Answered) else task
    await _leave(tx, task, reason)
    kept = {} if output is None else {"output": json.loads(output)}
    moment = await store.now(tx)
    if retry and task.attempt < task.max_attempts:
        again = moment + timedelta(seconds=policy.backoff(task.attempt))
        saved = await store.fail_task(tx, task, reason, retry_at=again)
        data = {"reason": reason, "attempt": task.attempt, "retry_at": again.isoformat()} | kept
        tx.changed(saved, EventType.TASK_FAILED, agent=holder.agent, token=task.claim_token, data=data)
        await escalations.create_escalation(
            tx, task_id, EscalationKind.FAILURE, reason, raised_by=holder.agent, attempt=task.attempt,
            resolution=f"retry at {again.isoformat(timespec='seconds')}",
        )  # fmt: skip
        return Outcome(saved)
    saved = await _bury(tx, task, reason, holder.agent, kept)
    return Outcome(saved, held_up=await store.get_dependents(tx.connection, tx.project_id, task_id))


async def escalate(tx: Transaction, task_id: str, holder: Holder, terms: Terms, message: str) -> Outcome | Refused:
    """Ends a claim with a question: the task is blocked until somebody resolves the escalation."""
    task = await _claim_to_report_on(tx, task_id, holder, terms)
    if isinstance(task, _Answered | Refused):
        return Refused(holding.refusal(task.task, holder), task.task) if isinstance(task, _Answered) else task
    await _leave(tx, task, "Its worker asked a question.")
    saved = await store.update_task_status(tx, task, TaskStatus.BLOCKED, waiting=task.waiting + 1)
    tx.changed(saved, EventType.TASK_BLOCKED, agent=holder.agent, token=task.claim_token, data={"question": message})
    await escalations.create_escalation(
        tx, task_id, EscalationKind.QUESTION, message, raised_by=holder.agent, attempt=task.attempt
    )
    return Outcome(saved, held_up=await store.get_dependents(tx.connection, tx.project_id, task_id))


async def release(tx: Transaction, task_id: str, holder: Holder, note: str | None) -> Outcome:
    """Gives a claim back on purpose: the task is ready again and its attempt is refunded."""
    task = await holding.locked(tx, task_id)
    if not holding.holds(task, holder):
        raise holding.refusal(task, holder)
    await _leave(tx, task, "It was given back.")
    await leaving.tell_why_sent_back(tx, task, await leaving.landing_of(tx, task))
    if note:
        await messages.note(tx, task_id, holder.agent, note)
    saved = await store.update_task_status(
        tx, task, TaskStatus.PENDING, ready_at=await store.now(tx), attempt=max(task.attempt - 1, 0)
    )
    data = {"note": note} if note else None
    tx.changed(saved, EventType.TASK_RELEASED, agent=holder.agent, token=task.claim_token, data=data)
    return Outcome(saved)


async def renew(tx: Transaction, holders: Mapping[str, Holder]) -> Renewal:
    """Renews the claims of tasks, each by its holder, where they still stand."""
    tasks = await store.lock(tx, holders)
    standing = {one.id: one.claim_token for one in tasks.values() if holding.holds(one, holders[one.id])}
    await store.renew_leases(tx.connection, tx.project_id, standing)
    renewed = await store.get_tasks(tx.connection, tx.project_id, list(standing))
    lost = {
        task_id: holding.refusal(tasks[task_id], holder) if task_id in tasks else holding.not_found(task_id)
        for task_id, holder in holders.items()
        if task_id not in standing
    }
    return Renewal(list(renewed.values()), lost)


async def note_attempt(tx: Transaction, task_id: str, holder: Holder, data: Mapping[str, Any]) -> None:
    """Notes how the attempt went that a claim was, once for each claim: how its runs ended, and what they used. What
    has become of the task meanwhile does not matter."""
    task = await holding.locked(tx, task_id)
    assert holder.token is not None, "an attempt is a claim"
    if holder.principal is not None:  # others may have claimed it before, and since
        made_by = await store.events.claimant(tx.connection, tx.project_id, task_id, holder.token)
        if not holder.principal.owns(made_by):
            raise holding.not_yours(task, holder)
    if not await store.events.has_ended(tx.connection, tx.project_id, task_id, holder.token):
        tx.record_event(EventType.ATTEMPT_ENDED, task_id, agent=holder.agent, token=holder.token, data=data)


async def lapse(tx: Transaction, task: Task) -> Task:
    """Takes a locked task back from a claim whose lease is over. The attempt stays counted, so that a task that kills
    its agents becomes a dead letter in the end; not that of work which was sent back and nobody took up again."""
    landing = await leaving.landing_of(tx, task)
    if await leaving.is_refunded(tx, task, landing):
        return await _lapsed(tx, task, _EXPIRED, landing, attempt=max(task.attempt - 1, 0))
    if task.attempt >= task.max_attempts:
        await _leave(tx, task, _EXPIRED)
        return await _bury(
            tx, replace(task, lapsed=True), f"{_EXPIRED} in attempt {task.attempt} of {task.max_attempts}", None
        )
    return await _lapsed(tx, task, _EXPIRED, landing, attempt=task.attempt)


async def lapse_if_over(tx: Transaction, task_id: str) -> bool:
    """Takes a task back from a claim whose lease is over and that no sweep has seen yet; whether it was one."""
    found = (await store.lock(tx, [task_id])).get(task_id)
    if found is None or found.lease_expires_at is None or found.lease_expires_at > await store.now(tx):
        return False
    await lapse(tx, found)
    return True


async def sweep(tx: Transaction) -> Swept:
    """Gives back claims whose lease is over, puts failed tasks whose retry is due into play, some of them at a time,
    and raises `project.complete` if every task is finished and it was not raised since. Rows that another sweep has
    locked are passed by."""
    expired = [await lapse(tx, task) for task in await store.expired_claims(tx, _SWEPT)]
    retried = []
    for task in await store.due_retries(tx, _SWEPT):
        again = await into_play(tx, task)
        tx.changed(again, EventType.TASK_RETRIED, data={"attempt": again.attempt})
        retried.append(again)
    completed = await store.mark_complete(tx)
    if completed:
        tx.record_event(EventType.PROJECT_COMPLETE)
    return Swept(tuple(expired), tuple(retried), completed)


async def give_back(
    tx: Transaction, held: Mapping[str, int], reason: str, principal: Principal | None = None
) -> list[Task]:
    """Lets those of these claims (token by task id) lapse that still stand, because whoever made them has left in
    order: their attempts do not count. What the landing queue holds is not theirs to give back, nor what another
    principal than the one who calls has."""
    tasks = await store.lock(tx, held)
    standing = [
        task
        for task in tasks.values()
        if holding.holds(task, Holder(task.assignee or "", held[task.id], principal)) and not task.queued
    ]
    return [
        await _lapsed(tx, task, reason, await leaving.landing_of(tx, task), attempt=max(task.attempt - 1, 0))
        for task in standing
    ]


async def into_play(tx: Transaction, task: Task, *, fresh: bool = False) -> Task:
    """Makes a locked task pending, or blocked where it waits for something, its counter computed anew.

    An epic stays one. `fresh` starts the count of attempts anew. The caller notes the event.
    """
    count = await store.waiting(tx, task.id)
    status = deps.compute_initial_status(count, epic=task.status is TaskStatus.EPIC)
    ready_at = await store.now(tx) if status is TaskStatus.PENDING else None
    return await store.update_task_status(
        tx, replace(task, attempt=0) if fresh else task, status, waiting=count, ready_at=ready_at, retry_at=None,
        dead_reason=None, lapsed=False,
    )  # fmt: skip


async def first_answer(tx: Transaction, task: Task) -> Outcome:
    """What the report that finished a task was told, read again from the events of its transaction."""
    consequences = await store.consequences(tx.connection, tx.project_id, task.id)
    return Outcome(task, *consequences)


def kept_output(output: str) -> dict[str, Any]:
    """What an event keeps of an output that no row has: not more of it than a reader wants."""
    whole = output.encode()
    if len(whole) <= _KEPT_BYTES:
        return {"output": json.loads(output)}
    return {"output_begins": whole[:_KEPT_BYTES].decode(errors="ignore"), "output_bytes": len(whole)}


# --- how --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answered:
    task: Task


async def _claim_to_report_on(
    tx: Transaction, task_id: str, holder: Holder, terms: Terms, *, late: bool = False
) -> Task | _Answered | Refused:
    """Locks the task that a report is about. Claims it first where nobody holds it and the report names no claim."""
    task = await holding.locked(tx, task_id)
    if holding.holds(task, holder):
        return task
    if holder.is_stranger_to(task):
        raise holding.refusal(task, holder)
    if holder.token is not None:
        if task.claim_token != holder.token:
            return Refused(holding.refusal(task, holder), task)
        if task.status is TaskStatus.DONE:
            return _Answered(task)
        if late and holding.may_go_on(task, holder.token):
            return task
        return Refused(holding.refusal(task, holder), task)
    if task.status is TaskStatus.PENDING:
        claimed = await store.claim_task(
            tx,
            holder.agent,
            lease_seconds=terms.lease_seconds,
            deadline_seconds=terms.deadline_seconds,
            task_id=task_id,
        )
        assert claimed is not None, "a locked pending task can be claimed"
        return claimed.task
    raise holding.refusal(task, holder)


async def _keep(tx: Transaction, task: Task, holder: Holder, output: str) -> Outcome:
    """Keeps a report until its work has landed; one that was kept already says how far it is. Of a claim that has ended
    by itself, it goes on."""
    landing = await landings.of_claim(tx.connection, tx.project_id, task.id, task.claim_token)
    assert landing is not None, "a claim that lands was begun as one"
    if landing.state in (LandingState.REPORTED, LandingState.QUEUED):
        return Outcome(task, landing=landing)
    landing = await landings.report(tx, landing.id, output)
    data = {"state": "reported", "target": landing.target}
    if task.status is TaskStatus.CLAIMED:
        tx.record_event(EventType.TASK_LANDING, task.id, agent=holder.agent, data=data)
    else:
        task = await landings.let_go(tx, task)
        tx.changed(task, EventType.TASK_LANDING, agent=holder.agent, token=task.claim_token, data=data)
    return Outcome(task, landing=landing)


async def _keep_refused(tx: Transaction, task: Task, holder: Holder, output: str) -> None:
    """Keeps what a late report brought, with an event: once for each claim that there was, and not more of it than a
    reader wants, so that nobody fills the log by reporting again and again."""
    token = holder.token
    if token is None or not 0 < token <= task.claim_token:
        return
    if await store.events.has_refused(tx.connection, tx.project_id, task.id, token):
        return
    data = {"refused": "done", "token": token, **kept_output(output)}
    tx.record_event(EventType.TASK_UPDATED, task.id, agent=holder.agent, data=data)


async def _lapsed(tx: Transaction, task: Task, reason: str, landing: Landing | None, *, attempt: int) -> Task:
    await _leave(tx, task, reason)
    await leaving.tell_why_sent_back(tx, task, landing)
    saved = await store.update_task_status(
        tx, task, TaskStatus.PENDING, ready_at=await store.now(tx), attempt=attempt, lapsed=True
    )
    tx.changed(saved, EventType.CLAIM_EXPIRED, agent=task.assignee, token=task.claim_token, data={"reason": reason})
    return saved


async def _bury(
    tx: Transaction, task: Task, reason: str, agent: str | None, kept: Mapping[str, Any] | None = None
) -> Task:
    saved = await store.fail_task(tx, task, reason, retry_at=None)
    data = {"reason": reason, "attempt": task.attempt, **(kept or {})}
    tx.changed(saved, EventType.TASK_DEAD_LETTER, agent=agent or task.assignee, token=task.claim_token, data=data)
    await escalations.create_escalation(
        tx, task.id, EscalationKind.FAILURE, reason, raised_by=agent or task.assignee, attempt=task.attempt
    )
    return saved


async def _leave(tx: Transaction, task: Task, why: str) -> None:
    """Takes the work of a locked task out of the queue, or off its way there, because the claim that it has ends
    otherwise."""
    if task.lands:
        await leaving.leave_queue(tx, [task.id], why)
