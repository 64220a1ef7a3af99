"""How far a change reaches, held as a whole before it is looked at."""

from __future__ import annotations

from collections.abc import Sequence

from loom.graph import store
from loom.graph.model.task import TaskStatus
from loom.graph.store.transaction import Transaction


async def lock_reach(
    tx: Transaction, task_ids: Sequence[str], *, downstream: bool = False, finished: bool = False
) -> dict[str, TaskStatus]:
    """Locks tasks and all that lies below them, and returns their statuses as they are then.

    Whoever gives an epic a child locks the epic first, so what is locked gains nothing; what came between the look and
    the lock is looked for again until nothing more comes.

    Args:
        task_ids: where it begins; those that do not exist are left out.
        downstream: whether what waits for one of them belongs to it, over edges that hold.
        finished: whether finished tasks below belong to it.
    """
    locked: dict[str, TaskStatus] = {}
    while True:
        reach = await store.below(tx, task_ids, downstream=downstream, finished=finished)
        if not (more := [task_id for task_id in reach if task_id not in locked]):
            return locked
        found = await store.lock_statuses(tx, more)
        locked |= found
        if not found:  # ids of no task
            return locked
