"""Writes what an import brought into a project, once however often it is brought."""

from __future__ import annotations

from dataclasses import dataclass

from loom.graph import store
from loom.graph.importing.fitting import NOT_BEGUN, fit
from loom.graph.importing.items import Batch
from loom.graph.importing.report import Adjustment
from loom.graph.model.task import Task
from loom.graph.rules import editing, plans
from loom.graph.store.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import led to: the new tasks, how many the project had already, how many of those now also wait for new
    ones, and what had to give way to the invariants."""

    tasks: list[Task]
    known: int
    linked: int
    adjustments: list[Adjustment]


async def write(tx: Transaction, batch: Batch, *, agent: str, max_attempts: int) -> Imported:
    """Inserts what an import brought and the project has not had before. Tasks that exist are left alone, but that
    those nobody has begun also wait for what the file newly puts before them."""
    await store.lock_graph(tx)
    fitted = fit(batch, await store.outline(tx), tx.project_id)
    planted = await plans.plant(tx, fitted.drafts, agent=agent, max_attempts=max_attempts, stuck=True)
    before: dict[str, list[str]] = {}
    for task_id, key in fitted.links:
        before.setdefault(task_id, []).append(planted.ids[key])
    untouched = [
        task for task in (await store.lock(tx, before)).values() if task.status in NOT_BEGUN and not task.attempt
    ]
    for task in untouched:
        edit = editing.Edit(depends_on=(*task.depends_on, *before[task.id]))
        await editing.update(tx, task.id, edit, agent)
    return Imported(planted.tasks, fitted.known, len(untouched), fitted.adjustments)
