"""Writes what an import brought into a project, once however often it is brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loom.bus.events import EventType
from loom.graph import store
from loom.graph.importing.fitting import NOT_BEGUN, fit
from loom.graph.importing.items import Batch
from loom.graph.importing.report import Adjustment, AdjustmentKind
from loom.graph.model.task import Task
from loom.graph.rules import editing, plans
from loom.graph.rules.holding import Holder
from loom.graph.store import origins
from loom.graph.store.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import led to."""

    tasks: list[Task]
    """The new ones."""
    ids: dict[str, str]
    """Each task of the file, by its key there, with its id here."""
    known: int
    """How many the project had already."""
    linked: int
    """How many of those now also wait for new ones."""
    retitled: int
    """How many of those have the title now that the file gives them."""
    adjustments: list[Adjustment]
    """What had to give way to the invariants, or to what the project has."""


async def write(tx: Transaction, batch: Batch, *, agent: str, max_attempts: int) -> Imported:
    """Inserts what an import brought and the project has not had before. Tasks that exist are left alone, but that
    those nobody has begun also wait for what the file newly puts before them, and that a plan's edited titles count."""
    await store.lock_graph(tx)
    fitted = fit(batch, await origins.known_tasks(tx), tx.project_id)
    planted = await plans.plant(tx, fitted.drafts, agent=agent, max_attempts=max_attempts, stuck=True)
    locked = await store.lock(tx, {*fitted.renamed, *fitted.retitled, *(id for id, _ in fitted.links)})
    for task in await origins.rename_origins(tx, fitted.renamed):
        tx.changed(task, EventType.TASK_UPDATED, agent=agent, data={"origin": task.origin_id})
    retitled = await _retitle(tx, fitted, locked, agent)
    linked = await _link(tx, fitted, planted.ids, locked, agent)
    return Imported(planted.tasks, fitted.there | planted.ids, fitted.known, linked, retitled, fitted.adjustments)


async def _retitle(tx: Transaction, fitted: Batch, locked: Mapping[str, Task], agent: str) -> int:
    count = 0
    for id, title in fitted.retitled.items():
        if locked[id].status.finished:
            fitted.report.add(AdjustmentKind.TITLE_KEPT, id, f"{id}, which was finished meanwhile")
            continue
        await editing.update(tx, id, editing.Edit(title=title), Holder(agent))
        count += 1
    return count


async def _link(tx: Transaction, fitted: Batch, ids: Mapping[str, str], locked: Mapping[str, Task], agent: str) -> int:
    before: dict[str, list[str]] = {}
    for id, key in fitted.links:
        before.setdefault(id, []).append(key)
    count = 0
    for id, keys in before.items():
        task = locked[id]
        if task.status not in NOT_BEGUN or task.attempt:
            for key in keys:
                fitted.report.add(AdjustmentKind.LEFT_ALONE, id, f"{id}, which was begun, on {key}")
            continue
        edit = editing.Edit(depends_on=(*task.depends_on, *(ids[key] for key in keys)))
        await editing.update(tx, id, edit, Holder(agent))
        count += 1
    return count
