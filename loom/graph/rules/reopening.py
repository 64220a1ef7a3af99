"""The way back from a task that is finished: it is to be done again, and so is what closed above it.

What waited for it and has gone on since, claimed or done, goes on: its edge is waived. What has not begun waits again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from loom.bus.events import EventType
from loom.exceptions import TaskStateError
from loom.graph import deps, store
from loom.graph.model.task import Task, TaskStatus
from loom.graph.rules import creating
from loom.graph.rules.claims import Outcome, kept_output
from loom.graph.rules.holding import locked
from loom.graph.store.transaction import Transaction
from loom.wording import Words, call

_BECAUSE = "reopened"
_NAMED = 3  # children


async def reopen(tx: Transaction, task_id: str, reason: str | None, agent: str) -> Outcome:
    """Puts a done or cancelled task into play again, with all its attempts and without its output, which its event
    keeps; closed epics above it are open again.

    Raises:
        TaskNotFoundError: there is no such task.
        TaskStateError: it is not finished, it is an epic that closed by its children, or this is inside of a run.
        DependencyCycleError: by edges that were added since, it would wait for itself.
    """
    if tx.bounds.at_work:
        raise TaskStateError(
            f"{task_id} cannot be reopened from inside a run that Loom started.",
            Words("Say what is to be done again with {}.", call("create", title=...)),
        )
    await store.lock_graph(tx)
    task = await locked(tx, task_id)
    await _refuse(tx, task)
    data: dict[str, Any] = {"was": task.status} | ({"reason": reason} if reason else {})
    if task.output:
        data |= kept_output(json.dumps(task.output, ensure_ascii=False))
    again, waived = await _open(tx, task, agent, data, epic=False)
    opened = await _open_above(tx, task.parent_id, agent, waived)
    creating.refuse_cycle(await store.upstream(tx, [task_id, *opened]))
    return Outcome(
        again,
        unblocked=(task_id,) if again.status is TaskStatus.PENDING else (),
        held_up=await store.get_dependents(tx.connection, tx.project_id, task_id),
        opened=tuple(opened),
        waived=tuple(waived),
    )


async def _refuse(tx: Transaction, task: Task) -> None:
    if not task.status.finished:
        raise TaskStateError(
            f"{task.id} is {task.status.called}, so that there is nothing to reopen.",
            Words("See {} for where it stands.", call("status", task_id=task.id)),
        )
    if children := await store.some_children(tx.connection, tx.project_id, task.id, _NAMED):
        raise TaskStateError(
            f"{task.id} is an epic, which opens again with the first of its children that does.",
            Words("Reopen the child that is to be done again: {}.", ", ".join(children)),
        )


async def _open_above(tx: Transaction, parent_id: str | None, agent: str, waived: list[str]) -> list[str]:
    """Opens the closed epics above a task that is open again, and adds to `waived`. The row of the first that is open
    is locked too, so that nobody closes it who has not seen this."""
    opened: list[str] = []
    while parent_id is not None:
        epic = await locked(tx, parent_id)
        if not epic.status.finished:
            break
        _, more = await _open(tx, epic, agent, {"was": epic.status}, epic=True)
        opened.append(epic.id)
        waived += more
        parent_id = epic.parent_id
    return opened


async def _open(
    tx: Transaction, task: Task, agent: str, data: Mapping[str, Any], *, epic: bool
) -> tuple[Task, list[str]]:
    """Opens a locked task, and has what waits for it wait again. Returns it, and who goes on without it."""
    count = await store.waiting(tx, task.id)
    again = await store.reopen_task(tx, task, deps.compute_initial_status(count, epic=epic), count)
    gone_on: list[str] = []
    if task.status is TaskStatus.DONE:  # a cancelled one is waited for as it was
        gone_on = await _gone_on(tx, await store.lock_dependents(tx, task.id))
        await store.waive_edges(tx, task.id, agent, _BECAUSE, of=gone_on)
    tx.changed(again, EventType.TASK_REOPENED, agent=agent, data={**data, **({"waived": gone_on} if gone_on else {})})
    if task.status is TaskStatus.DONE:
        await deps.hold_up(tx, [task.id], agent)
    return again, gone_on


async def _gone_on(tx: Transaction, dependents: dict[str, TaskStatus]) -> list[str]:
    """Those of some locked tasks that have begun, or whose children have."""
    found = []
    for task_id, status in dependents.items():
        reach = await deps.lock_reach(tx, [task_id], finished=True) if status is TaskStatus.EPIC else {task_id: status}
        if any(one.begun for one in reach.values()):
            found.append(task_id)
    return found
