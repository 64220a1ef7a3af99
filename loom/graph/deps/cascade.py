"""What follows when tasks finish: dependents count down, epics let their children go, epics close, and so on upwards.

The cascade runs inside the transaction that finished the tasks, level by level, each level locked in id order and the
epic's row last; what still deadlocks is tried again by `db.connection.in_transaction`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from loom.bus.events import EventType
from loom.graph import store
from loom.graph.model.task import Task, TaskStatus
from loom.graph.store import escalations
from loom.graph.store.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Consequences:
    """Ids of the tasks that became claimable and of the epics that closed."""

    unblocked: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()


async def check_and_unblock(
    tx: Transaction, *, released: Iterable[str] = (), parents: Iterable[str | None] = (), agent: str | None
) -> Consequences:
    """Carries on from finished tasks until nothing more follows.

    Args:
        released: tasks whose dependents wait no longer for them: they are done, or are being waived.
        parents: epics that may close, because a child of theirs was finished.
        agent: who caused it, for the events.
    """
    unblocked: list[str] = []
    closed: list[str] = []
    finished = list(released)
    to_close = {parent for parent in parents if parent is not None}
    while finished or to_close:
        if finished:
            unblocked += await _release(tx, finished, agent)
        finished, above = [], set()
        for epic_id in sorted(to_close):
            epic = await store.close_epic(tx, epic_id)
            if epic is None:
                continue
            closed.append(epic.id)
            tx.changed(epic, _CLOSED[epic.status], agent=agent)
            if epic.waiting and await escalations.close(tx, [epic.id], "closed", by=agent):
                await release_epic(tx, epic.id, agent)
            if epic.status is TaskStatus.DONE:
                finished.append(epic.id)
            if epic.parent_id is not None:
                above.add(epic.parent_id)
        to_close = above
    return Consequences(tuple(unblocked), tuple(closed))


async def follow_epic(tx: Transaction, epic: Task, before: int, agent: str | None) -> tuple[str, ...]:
    """Passes on to an epic's children that its own `waiting`, which was `before`, reached or left zero.

    Returns the ids of the tasks that became claimable.
    """
    if (before > 0) == (epic.waiting > 0):
        return ()
    return tuple(await _descend(tx, [epic.id], -1 if epic.waiting == 0 else 1, agent))


async def hold_up(tx: Transaction, opened: list[str], agent: str | None) -> None:
    """Has what waits for tasks that are open again wait, and what is in the epics among it."""
    level = await store.count_dependents(tx, opened, 1)
    _note(tx, level, agent)
    await _descend(tx, list(level.epics), 1, agent)


async def release_epic(tx: Transaction, epic_id: str, agent: str | None) -> None:
    """Counts anew what a locked epic waits for, of whose escalations some were closed, and has its children follow."""
    epic = (await store.lock(tx, [epic_id]))[epic_id]
    waiting = await store.waiting(tx, epic_id)
    if waiting != epic.waiting:
        saved = await store.update_task(tx, replace(epic, waiting=waiting))
        tx.changed(saved, EventType.TASK_UPDATED, agent=agent)
        await follow_epic(tx, saved, epic.waiting, agent)


_CLOSED = {TaskStatus.DONE: EventType.TASK_DONE, TaskStatus.CANCELLED: EventType.TASK_CANCELLED}


async def _release(tx: Transaction, finished: list[str], agent: str | None) -> list[str]:
    level = await store.count_dependents(tx, finished, -1)
    freed = _note(tx, level, agent)
    return freed + await _descend(tx, list(level.epics), -1, agent)


async def _descend(tx: Transaction, epics: list[str], step: int, agent: str | None) -> list[str]:
    freed: list[str] = []
    while epics:
        level = await store.count_children(tx, epics, step)
        freed += _note(tx, level, agent)
        epics = list(level.epics)
    return freed


def _note(tx: Transaction, level: store.Level, agent: str | None) -> list[str]:
    freed = []
    for task in level.tasks:
        if task.status is TaskStatus.PENDING:
            freed.append(task.id)
            tx.changed(task, EventType.TASK_UNBLOCKED, agent=agent)
        else:
            tx.changed(task, EventType.TASK_BLOCKED, agent=agent)
    return freed
