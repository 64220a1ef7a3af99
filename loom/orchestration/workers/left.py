"""What is left of a project when nothing in it will move by itself, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.graph.model.task import Task, TaskStatus
from loom.graph.store.escalations import EscalationKind

if TYPE_CHECKING:
    from loom.graph.front import Loom

_MOST = 10_000  # tasks that are looked at
_NAMED = 5  # ids in one reason


@dataclass(frozen=True, slots=True)
class Left:
    """An unfinished task, and what it waits for."""

    task_id: str
    title: str
    status: TaskStatus
    state: str
    """As of a `Task`."""
    why: str


async def left_over(loom: Loom) -> list[Left] | None:
    """The unfinished tasks if none of them can be worked on or will be by itself; None while there is something to
    wait for: ready tasks, claims, retries that will be due. What waits to land for a person's yes does not move."""
    status = await loom.status()
    if status.counts[TaskStatus.PENDING] or status.retries_due:
        return None
    gated = await _waiting_for_yes(loom) if status.counts[TaskStatus.CLAIMED] else {}
    if status.counts[TaskStatus.CLAIMED] > len(gated):
        return None
    # The counts may be of different moments; the graph is read in one statement, unfinished tasks first.
    expected = sum(status.counts.values()) - status.counts[TaskStatus.DONE] - status.counts[TaskStatus.CANCELLED]
    view = await loom.graph(limit=min(expected + 1, _MOST))
    tasks = {task.id: task for task in view.tasks if not task.status.finished}
    if len(tasks) > expected or any(_moves(task) for task in tasks.values() if task.id not in gated):
        return None
    asked = {
        one.task_id: f"waits for an answer: {one.message}"
        for one in await loom.escalations(limit=500)
        if one.kind is EscalationKind.QUESTION
    }
    asked |= gated
    asked |= {one.task_id: f"deferred: {one.message}" for one in await loom.deferrals(limit=500)}
    waits: dict[str, list[str]] = {}
    for task_id, on, waived in view.edges:
        if on in tasks and not waived:
            waits.setdefault(task_id, []).append(on)
    return [
        Left(task.id, task.title, task.status, task.state, _why(task, tasks, waits, asked)) for task in tasks.values()
    ]


async def _waiting_for_yes(loom: Loom) -> dict[str, str]:
    """The tasks whose proven work waits for somebody's yes, and what to do."""
    queue = (await loom.landings(limit=500)).queue
    return {
        one.landing.task_id: f"waits for your yes: loom landing approve {one.landing.task_id}"
        for one in queue
        if one.landing.waits_for_yes
    }


def _moves(task: Task) -> bool:
    if task.status is TaskStatus.FAILED:
        return task.retry_at is not None
    return task.status in (TaskStatus.PENDING, TaskStatus.CLAIMED)


def _why(task: Task, tasks: Mapping[str, Task], waits: Mapping[str, Sequence[str]], asked: Mapping[str, str]) -> str:
    if task.status is TaskStatus.FAILED:
        return f"dead letter: {task.dead_reason}"
    if task.id in asked:
        return asked[task.id]
    if task.id in waits:
        return f"waits for {_named(waits[task.id])}"
    if task.status is TaskStatus.EPIC:
        children = [one.id for one in tasks.values() if one.parent_id == task.id]
        return f"waits for its children {_named(children)}" if children else "has no children"
    return f"waits with its epic {task.parent_id}"


def _named(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more
