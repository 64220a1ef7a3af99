"""Writes many new tasks at once, in one transaction or not at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from loom.bus.events import EventType
from loom.graph import deps, store
from loom.graph.model import plan
from loom.graph.model.bulk import uncollected
from loom.graph.model.dependencies import epic_start, waits_for
from loom.graph.model.plan import Draft
from loom.graph.model.task import Task, TaskStatus
from loom.graph.rules import creating
from loom.graph.store import NewTask, escalations, origins
from loom.graph.store.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Planted:
    """What was written: ids by key of the batch, and the tasks that are new."""

    ids: dict[str, str]
    tasks: list[Task]


async def plant(
    tx: Transaction, drafts: Sequence[Draft], *, agent: str, max_attempts: int, stuck: bool = False
) -> Planted:
    """Inserts drafts and their edges; each status is computed from its dependencies as they are now. `stuck`: what
    waits for a cancelled task comes in as well, and waits until that is waived."""
    with uncollected():
        creating.refuse_protected_at_work(tx, (path for draft in drafts for path in draft.files))
        await store.lock_graph(tx)
        drafts = plan.order(drafts)
        # Of tasks that are equal otherwise the one with the highest id is claimed first: so they keep the plan's order.
        drawn = sorted(await store.draw_ids(tx, len(drafts)), reverse=True)
        ids = dict(zip((draft.key for draft in drafts), drawn, strict=True))
        own = set(ids.values())
        outside = sorted({ids.get(name, name) for draft in drafts for name in draft.depends_on} - own)
        statuses = await creating.hold_existing(tx, outside)
        if not stuck:
            creating.refuse_cancelled(statuses)
        wanted = {ids.get(draft.parent, draft.parent) for draft in drafts if draft.parent} - own
        parents = {parent_id: await creating.adopt(tx, parent_id, agent) for parent_id in sorted(wanted)}
        rows = _rows(drafts, ids, statuses, parents, max_attempts)
        if outside and parents:
            await _refuse_cycles(tx, rows, outside, list(parents))

        inserted = await store.insert_tasks(tx, rows)
        for row in rows:
            tx.changed(inserted[row.id], EventType.TASK_CREATED, agent=agent)
        await escalations.defer(tx, {ids[one.key]: one.deferred for one in drafts if one.deferred}, by=agent)
        return Planted(ids, [inserted[row.id] for row in rows])


async def plant_once(tx: Transaction, drafts: Sequence[Draft], *, agent: str, max_attempts: int) -> list[Task]:
    """As `plant`, of drafts whose origin ids come from an idempotency key: what there is already is taken as it is now.
    Returns the tasks in the order of the drafts."""
    await store.lock_graph(tx)
    known = await origins.by_origin(tx, [draft.origin_id for draft in drafts if draft.origin_id])
    there = {draft.key: known[draft.origin_id] for draft in drafts if draft.origin_id in known}
    ids = {key: task.id for key, task in there.items()}
    new = [
        replace(
            draft,
            parent=ids.get(draft.parent, draft.parent) if draft.parent else None,
            depends_on=tuple(ids.get(name, name) for name in draft.depends_on),
        )
        for draft in drafts
        if draft.key not in there
    ]
    planted = await plant(tx, new, agent=agent, max_attempts=max_attempts) if new else Planted({}, [])
    made = {task.id: task for task in planted.tasks}
    return [there[draft.key] if draft.key in there else made[planted.ids[draft.key]] for draft in drafts]


def _rows(
    drafts: Sequence[Draft],
    ids: dict[str, str],
    statuses: dict[str, TaskStatus],
    parents: dict[str, Task],
    max_attempts: int,
) -> list[NewTask]:
    """The rows of drafts that are in order: parents and dependencies before what waits for them."""
    waiting: Counter[str] = Counter({parent.id: parent.waiting for parent in parents.values()})
    checks = {parent.id: parent.checks for parent in parents.values()}
    done = {task_id for task_id, status in statuses.items() if status is TaskStatus.DONE}
    rows = []
    for draft in drafts:
        task_id = ids[draft.key]
        parent_id = ids.get(draft.parent, draft.parent) if draft.parent else None
        targets = tuple(dict.fromkeys(ids.get(name, name) for name in draft.depends_on))
        waived = frozenset(ids.get(name, name) for name in draft.waived)
        waiting[task_id] = sum(target not in done and target not in waived for target in targets)
        waiting[task_id] += parent_id is not None and waiting[parent_id] > 0
        waiting[task_id] += draft.deferred is not None
        checks[task_id] = creating.handed_down(checks[parent_id], draft.checks) if parent_id else draft.checks
        if draft.status is TaskStatus.DONE:
            done.add(task_id)
        rows.append(
            NewTask(
                id=task_id,
                title=draft.title,
                status=(
                    draft.status
                    if draft.status.finished
                    else deps.compute_initial_status(waiting[task_id], epic=draft.epic)
                ),
                priority=draft.priority,
                max_attempts=max_attempts,
                waiting=waiting[task_id],
                parent_id=parent_id,
                context=json.dumps(draft.context),
                output=None if draft.output is None else json.dumps(draft.output),
                done_when=draft.done_when,
                depends_on=targets,
                waived=waived,
                origin_id=draft.origin_id,
                created_at=draft.created_at,
                done_at=draft.done_at,
                files=draft.files,
                checks=checks[task_id],
                labels=draft.labels,
            )
        )
    return rows


async def _refuse_cycles(tx: Transaction, rows: Sequence[NewTask], outside: list[str], parents: list[str]) -> None:
    """New tasks can close a cycle only by way of existing ones: through a dependency and back through a parent."""
    own = {row.id for row in rows}
    edges = waits_for(
        {row.id: row.depends_on for row in rows},
        {row.id: row.parent_id for row in rows if row.parent_id in own},
        {row.parent_id for row in rows if row.parent_id} | {row.id for row in rows if row.status is TaskStatus.EPIC},
    )
    above = await store.upstream(tx, [*outside, *parents])
    for node, targets in above.items():
        edges.setdefault(node, []).extend(targets)
    for row in rows:
        if row.parent_id in parents:
            edges.setdefault(row.parent_id, []).append(row.id)
            start = epic_start(row.id)
            edges[start if start in edges else row.id].append(epic_start(row.parent_id))
    creating.refuse_cycle(edges)
