"""Work that lands on a branch before it is done: begun by a worker, reported, queued, and landed or sent back.

A worker says with `begin` that its claim lands. From then on `done` is kept, and the task is done when whoever moves
the branch says `landed`, in one transaction with what follows. The claim of what is queued is held by the queue: no
lease, deadline, sweep or end of a session touches it. Before a branch is moved an *intent* is written; while one is
open nothing but `landed` ends the claim, so that what the branch has is never dropped.

This knows nothing of git: targets, branches and commits are names, and what a branch has is said by who calls. Each
function runs inside a `Transaction`; tasks are locked in id order before their landings are looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from loom import texts
from loom.bus.events import EventType
from loom.exceptions import TaskStateError
from loom.graph import deps, store
from loom.graph.model import limits
from loom.graph.model.task import Task, TaskStatus
from loom.graph.rules import claims, holding, leaving
from loom.graph.rules.claims import Outcome
from loom.graph.rules.holding import Holder
from loom.graph.store import escalations, landing_intents, landing_targets, landings
from loom.graph.store.landings import Landing, LandingState
from loom.graph.store.transaction import Transaction
from loom.wording import Shell, Words, call

_REASON = 500  # characters
_NOTE = 4_000


async def begin(tx: Transaction, task_id: str, holder: Holder, *, target: str, branch: str) -> Landing:
    """Notes that this claim lands on `target`, from `branch`; or that its worker goes on with what was sent back.

    Raises:
        TaskNotFoundError, ClaimConflictError, TaskStateError: it is not the holder's claim.
        TaskStateError: the queue has it.
    """
    task = await holding.locked(tx, task_id)
    if not holding.holds(task, holder):
        raise holding.refusal(task, holder)
    if task.queued:
        raise TaskStateError(
            f"The work on {task_id} waits in the landing queue.", Words("See {} for where it stands.", _see(task_id))
        )
    return await landings.begin(tx, task, holder.agent, target=target, branch=branch)


async def enter(
    tx: Transaction,
    task_id: str,
    token: int,
    *,
    commit_id: str,
    base: str,
    output: Mapping[str, Any] | None = None,
    usage: Mapping[str, Any] | None = None,
    outside: Sequence[str] = (),
    needs_yes: bool = False,
) -> Landing:
    """Puts the proven work of a claim into the queue, which holds the claim from now on; the same commit again changes
    nothing. It is taken late like a report, while the token is the newest and nothing has moved on.

    Args:
        token: of the claim.
        commit_id: the tip of its branch, as it was proven.
        base: where the branch leaves the target.
        output: what the work came to; None keeps what was reported.
        usage: what the attempt cost, as its runner tells; None keeps what is known.
        outside: changed paths that are not among the task's files.
        needs_yes: whether it waits for a person's yes.

    Raises:
        TaskNotFoundError, ClaimConflictError, TaskStateError: the claim was lost, or does not land, or it is being
            landed with another commit.
        InvalidInputError: the output is no object, or too large.
    """
    kept = None if output is None else limits.output(dict(output))
    task = await holding.locked(tx, task_id)
    landing = await landings.of_claim(tx.connection, tx.project_id, task_id, token)
    if landing is not None and landing.commit_id == commit_id and landing.state in (_QUEUED, _LANDED):
        return landing
    if not holding.may_go_on(task, token):
        raise holding.refusal(task, Holder(landing.agent if landing else "", token))
    if landing is None:
        raise TaskStateError(
            f"Claim {token} of {task_id} was not begun as one that lands.",
            Words("Report on it with {}.", call("done", task_id=task_id)),
        )
    await leaving.refuse_being_landed(tx, [task_id])
    if task.dead:
        await escalations.close(tx, [task_id], "done late", by=landing.agent)
    queued = await landings.enter(
        tx,
        landing.id,
        commit_id=commit_id,
        base=base,
        output=kept,
        usage=None if usage is None else json.dumps(dict(usage)),
        outside=outside,
        needs_yes=needs_yes,
        deadline_left=None if task.deadline_at is None else (task.deadline_at - await store.now(tx)).total_seconds(),
    )
    data = {"state": "queued", "target": landing.target, "commit": commit_id}
    saved = await landings.hold(tx, task)
    tx.changed(
        saved,
        EventType.TASK_LANDING,
        agent=landing.agent,
        token=token,
        data=data | ({"needs_yes": True} if needs_yes else {}),
    )
    return queued


async def intend(
    tx: Transaction, landing_ids: Sequence[int], *, commit_id: str, target: str, old: str
) -> list[Landing]:
    """Writes, before `target` is moved from `old` to `commit_id`, that this commit brings these landings: in their
    order, all of them, or none where one of them is not to be landed there any more (then the list is empty).

    From then on their claims end by `landed`, or when each intent is withdrawn.
    """
    known = await landings.get(tx.connection, tx.project_id, landing_ids)
    await store.lock(tx, [one.task_id for one in known.values()])
    found = await landings.get(tx.connection, tx.project_id, landing_ids)
    task_ids = [one.task_id for one in found.values()]
    intents = await landing_intents.still_open_of(tx.connection, tx.project_id, task_ids)
    elsewhere = {one.landing_id for one in intents if one.target != target}
    if len(found) < len(set(landing_ids)) or any(
        one.state is not _QUEUED or one.waits_for_yes or one.target != target or one.id in elsewhere
        for one in found.values()
    ):
        return []
    chosen = [found[landing_id] for landing_id in landing_ids]
    await landing_intents.intend(tx, chosen, commit_id=commit_id, target=target, old=old)
    return chosen


async def withdraw(tx: Transaction, landing_ids: Sequence[int], commit_id: str) -> None:
    """Closes the intents of these landings that name a commit, because the target was certainly not moved to it and
    cannot be any more."""
    await landing_intents.withdraw(tx, landing_ids, commit_id)


async def landed(tx: Transaction, landing_id: int, *, commit_id: str) -> Outcome:
    """Finishes the task whose work the target has, by an intent's commit; told again it returns the first answer.

    Raises TaskStateError: it is not in the queue, or no intent names that commit.
    """
    landing, task = await _locked(tx, landing_id)
    if landing.state is _LANDED:
        return await claims.first_answer(tx, task)
    intent = await landing_intents.of_commit(tx.connection, tx.project_id, landing_id, commit_id)
    if landing.state is not _QUEUED or intent is None or landing.queued_at is None:
        raise TaskStateError(
            f"The work on {task.id} was not about to be landed by {commit_id}.",
            Words("See {} for where it stands.", _see(task.id)),
        )
    moment = await store.now(tx)
    saved = await store.update_task_status(
        tx, task, TaskStatus.DONE, done_at=moment, output=json.dumps(landing.output or {})
    )
    tx.changed(saved, EventType.TASK_DONE, agent=landing.agent, token=landing.token)
    data = {
        "target": intent.target,
        "commit": commit_id,
        "milliseconds": round((moment - landing.queued_at).total_seconds() * 1000),
    }
    tx.record_event(EventType.TASK_LANDED, task.id, agent=landing.agent, data=data)
    await landings.land(tx, landing_id, commit_id, intent.target)
    follows = await deps.check_and_unblock(tx, released=[task.id], parents=[task.parent_id], agent=landing.agent)
    return Outcome(saved, follows.unblocked, follows.closed)


async def forgo(tx: Transaction, task_id: str, token: int, *, output: Mapping[str, Any]) -> Outcome:
    """Finishes a task whose work brings its target nothing: it is done, and nothing has landed. Told again it returns
    the first answer.

    Raises:
        TaskNotFoundError, ClaimConflictError, TaskStateError: the claim was lost, or does not land, or is being landed.
        InvalidInputError: the output is no object, or too large.
    """
    kept = limits.output(dict(output))
    task = await holding.locked(tx, task_id)
    landing = await landings.of_claim(tx.connection, tx.project_id, task_id, token)
    if landing is not None and task.status is TaskStatus.DONE and task.claim_token == token:
        return await claims.first_answer(tx, task)
    if landing is None or not holding.may_go_on(task, token):
        raise holding.refusal(task, Holder(landing.agent if landing else "", token))
    await leaving.leave_queue(tx, [task_id], "It brings nothing.")
    if task.dead:
        await escalations.close(tx, [task_id], "done late", by=landing.agent)
    saved = await store.update_task_status(
        tx,
        task,
        TaskStatus.DONE,
        done_at=await store.now(tx),
        retry_at=None,
        dead_reason=None,
        lapsed=False,
        output=kept,
    )
    tx.changed(saved, EventType.TASK_DONE, agent=landing.agent, token=token)
    follows = await deps.check_and_unblock(tx, released=[task.id], parents=[task.parent_id], agent=landing.agent)
    return Outcome(saved, follows.unblocked, follows.closed)


async def send_back(tx: Transaction, landing_id: int, reason: str, note: str | None = None) -> Task:
    """Gives the work back to its worker: the claim stays as it is, and out of the queue it has a lease again that ends.
    Ends it, its attempt is refunded, and reason and note go to whoever claims the task next.

    Args:
        reason: why, in a sentence.
        note: what the worker needs for it, such as the end of a check's output; shortened where it is long.

    Raises TaskStateError: it has landed, or its claim has ended, or it is being landed.
    """
    landing, task = await _locked(tx, landing_id)
    if landing.state is LandingState.SENT_BACK:
        return task
    if landing.ended_at is not None:
        raise TaskStateError(
            f"The work on {task.id} has {'landed' if landing.state is _LANDED else 'left the queue'}.",
            Words("See {} for where it stands.", _see(task.id)),
        )
    await leaving.refuse_being_landed(tx, [task.id])
    reason = texts.shorten(reason, _REASON)
    await landings.send_back(tx, landing_id, reason, None if note is None else texts.shorten(note, _NOTE))
    saved = await landings.let_go(tx, task, landing.deadline_left) if task.queued else await store.update_task(tx, task)
    data = {"reason": reason, "target": landing.target}
    tx.changed(saved, EventType.LANDING_SENT_BACK, agent=landing.agent, token=landing.token, data=data)
    return saved


async def approve(tx: Transaction, task_id: str, by: str) -> Landing:
    """Says yes to work that waits for it; again it changes nothing. Raises TaskNotFoundError, TaskStateError."""
    landing = await _gated(tx, task_id)
    if landing.approved_at is not None:
        return landing
    tx.record_event(EventType.TASK_LANDING, task_id, agent=by, data={"state": "approved", "by": by})
    return await landings.approve(tx, landing.id, by)


async def refuse(tx: Transaction, task_id: str, by: str, note: str | None) -> Task:
    """Sends work that waits for a yes, or has it and has not landed, back to its worker with a note. Raises
    TaskNotFoundError, TaskStateError."""
    landing = await _gated(tx, task_id)
    return await send_back(tx, landing.id, f"{by} refused it.", note)


async def redirect(tx: Transaction, target: str, why: str | None) -> None:
    """Has the project land on another target from now on, what is on its way too.

    Args:
        why: a sentence, shown until it is redirected again; None: it is the one that the configuration names, and
            nothing is recorded.
    """
    await store.lock(tx, await landings.under_way(tx.connection, tx.project_id))
    await landings.turn(tx, await landings.under_way(tx.connection, tx.project_id), target)
    if why is None:
        await landing_targets.forget(tx)
    else:
        await landing_targets.record(tx, target, why)


_QUEUED, _LANDED = LandingState.QUEUED, LandingState.LANDED


async def _gated(tx: Transaction, task_id: str) -> Landing:
    task = await holding.locked(tx, task_id)
    landing = await landings.of_claim(tx.connection, tx.project_id, task_id, task.claim_token)
    if landing is None or landing.state is not _QUEUED or not landing.needs_yes:
        raise TaskStateError(
            f"{task_id} does not wait for anybody's yes.", Words("See what does with {}.", Shell("loom landing show"))
        )
    return landing


async def _locked(tx: Transaction, landing_id: int) -> tuple[Landing, Task]:
    """A landing and its task, as they are once the task is locked."""
    known = (await landings.get(tx.connection, tx.project_id, [landing_id])).get(landing_id)
    if known is None:
        raise TaskStateError(
            f"There is no landing {landing_id}.", Words("See them with {}.", Shell("loom landing show"))
        )
    task = await holding.locked(tx, known.task_id)
    return (await landings.get(tx.connection, tx.project_id, [landing_id]))[landing_id], task


def _see(task_id: str) -> Any:
    return call("status", task_id=task_id)
