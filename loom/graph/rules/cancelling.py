"""Giving tasks up: cancelled, with all that is below them or waits for them, or waived, so that what waited goes on.

Each function runs inside a `Transaction`.
"""

from __future__ import annotations

from loom.bus.events import EventType
from loom.exceptions import TaskStateError
from loom.graph import deps, store
from loom.graph.model.task import Task, TaskStatus
from loom.graph.rules.claims import Outcome
from loom.graph.rules.holding import not_found
from loom.graph.rules.leaving import leave_queue
from loom.graph.store import escalations
from loom.graph.store.transaction import Transaction


async def cancel(tx: Transaction, task_id: str, reason: str | None, agent: str, *, downstream: bool) -> Outcome:
    """Cancels an unfinished task, for an epic all that is unfinished below it, and with `downstream` whatever waits
    for any of them. Without it dependents stay blocked and are named."""
    await store.lock_graph(tx)
    locked = await deps.lock_reach(tx, [task_id], downstream=downstream)
    if task_id not in locked:
        raise not_found(task_id)
    if locked[task_id].finished:
        raise TaskStateError(f"{task_id} is already {locked[task_id]}.", "There is nothing left to cancel.")
    unfinished = [one for one, status in locked.items() if not status.finished]
    await leave_queue(tx, unfinished, reason or "It was cancelled.")
    closed = await escalations.close(tx, unfinished, "cancel", by=agent, note=reason)
    gone = await store.cancel_tasks(tx, unfinished)
    for task in gone:
        tx.changed(
            task,
            EventType.TASK_CANCELLED,
            agent=agent,
            token=task.claim_token,
            data={"reason": reason} if reason else None,
        )
    for epic_id in {one.task_id for one in closed if locked[one.task_id] is TaskStatus.EPIC}:
        await deps.release_epic(tx, epic_id, agent)
    follows = await deps.check_and_unblock(tx, parents=[task.parent_id for task in gone], agent=agent)
    now = (await store.get_tasks(tx.connection, tx.project_id, [task_id]))[task_id]
    held = await store.get_dependents(tx.connection, tx.project_id, task_id)
    return Outcome(now, follows.unblocked, follows.closed, held_up=held, cancelled=tuple(task.id for task in gone))


async def waive(tx: Transaction, task: Task, reason: str | None, agent: str) -> Outcome:
    """Cancels a locked task and lets its dependents go on without it: its outgoing edges are marked waived."""
    if task.status in (TaskStatus.CLAIMED, TaskStatus.DONE, TaskStatus.EPIC) and not task.queued:
        raise TaskStateError(
            f"{task.id} is {task.status} and cannot be waived.", "Only work that nobody does can be waived."
        )
    await leave_queue(tx, [task.id], reason or "It was waived.")
    await escalations.close(tx, [task.id], "waive", by=agent, note=reason)
    data = {"reason": reason} if reason else None
    for gone in await store.cancel_tasks(tx, [task.id]):
        task = gone
        tx.changed(gone, EventType.TASK_CANCELLED, agent=agent, token=gone.claim_token, data=data)
    follows = await deps.check_and_unblock(tx, released=[task.id], parents=[task.parent_id], agent=agent)
    dependents = await store.waive_edges(tx, task.id, agent, reason)
    tx.record_event(EventType.TASK_WAIVED, task.id, agent=agent, data={"dependents": dependents, **(data or {})})
    return Outcome(task, follows.unblocked, follows.closed)
