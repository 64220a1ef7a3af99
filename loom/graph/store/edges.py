"""Rows of `task_deps`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from loom.graph.model.dependencies import epic_start, task_of
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection

HOLDS = "e.waived_at is null and t.done_at is null"
"""Whether an edge `e` of the task `t` still holds, as `model.dependencies.holds` has it."""


async def replace_dependencies(
    tx: Transaction, task_id: str, *, added: Collection[str], removed: Collection[str]
) -> None:
    """Changes what one task depends on; see `add_edges` and `remove_edges`."""
    if removed:
        await remove_edges(tx, task_id, removed)
    if added:
        await add_edges(tx, task_id, added)


async def add_edges(tx: Transaction, task_id: str, targets: Iterable[str]) -> None:
    """Adds dependencies of one task; the targets are held, the counter is the caller's business."""
    await tx.connection.execute(
        "insert into task_deps (project_id, task_id, depends_on) select $1, $2, unnest($3::text[])",
        tx.project_id,
        task_id,
        list(targets),
    )


async def remove_edges(tx: Transaction, task_id: str, targets: Iterable[str]) -> None:
    """Removes dependencies of one task; the counter is the caller's business."""
    await tx.connection.execute(
        "delete from task_deps where project_id = $1 and task_id = $2 and depends_on = any($3::text[])",
        tx.project_id,
        task_id,
        list(targets),
    )


async def waive_edges(
    tx: Transaction, target: str, by: str, reason: str | None, *, of: Collection[str] | None = None
) -> list[str]:
    """Marks every edge to a task as waived, or those of some dependents; returns the dependents. Whoever counts them
    down does so first."""
    records = await tx.connection.fetch(
        """
        update task_deps set waived_at = loom_now(), waived_by = $3, waive_reason = $4
         where project_id = $1 and depends_on = $2 and waived_at is null
           and ($5::text[] is null or task_id = any($5::text[]))
        returning task_id
        """,
        tx.project_id,
        target,
        by,
        reason,
        None if of is None else list(of),
    )
    return sorted(record["task_id"] for record in records)


async def waived_edges(connection: Connection, project_id: str) -> dict[str, set[str]]:
    """The waived edges of a project: task to what it was to depend on."""
    records = await connection.fetch(
        "select task_id, array_agg(depends_on) as targets from task_deps"
        " where project_id = $1 and waived_at is not null group by task_id",
        project_id,
    )
    return {record["task_id"]: set(record["targets"]) for record in records}


async def upstream(tx: Transaction, origins: Iterable[str]) -> dict[str, list[str]]:
    """Everything that these nodes of the waiting graph wait for: each node with the nodes it waits for.

    Nodes are named as in `model.dependencies`, each task of the store as if it were an epic. Only edges that hold
    count.
    """
    names = list(origins)
    records = await tx.connection.fetch(
        f"""
        with recursive up(id, at_start) as (
            select id collate "C", at_start from unnest($2::text[], $3::boolean[]) o(id, at_start)
            union
            select n.id, n.at_start
              from up u
              join tasks t on t.project_id = $1 and t.id = u.id and t.done_at is null
             cross join lateral (
                select u.id, true where not u.at_start
                union all
                select k.id, false from tasks k where not u.at_start and k.project_id = $1 and k.parent_id = u.id
                union all
                select e.depends_on, false from task_deps e
                 where u.at_start and e.project_id = $1 and e.task_id = u.id and {HOLDS}
                union all
                select t.parent_id, true where u.at_start and t.parent_id is not null
             ) n(id, at_start)
        )
        select u.id, u.at_start, t.parent_id,
               array(select e.depends_on from task_deps e
                      where u.at_start and e.project_id = $1 and e.task_id = u.id and {HOLDS}) as depends_on
          from up u join tasks t on t.project_id = $1 and t.id = u.id and t.done_at is null
        """,
        tx.project_id,
        [task_of(name) for name in names],
        [name != task_of(name) for name in names],
    )
    graph: dict[str, list[str]] = {}
    for record in records:
        task_id, parent_id = record["id"], record["parent_id"]
        if record["at_start"]:
            start = graph.setdefault(epic_start(task_id), [])
            start += record["depends_on"]
            if parent_id is not None:
                start.append(epic_start(parent_id))
        else:
            graph.setdefault(task_id, []).append(epic_start(task_id))
            if parent_id is not None:
                graph.setdefault(parent_id, []).append(task_id)
    return graph


async def get_dependents(connection: Connection, project_id: str, task_id: str) -> tuple[str, ...]:
    """Ids of the tasks that wait for this one over an edge that holds."""
    records = await connection.fetch(
        f"""
        select e.task_id from task_deps e join tasks t on t.project_id = e.project_id and t.id = e.task_id
         where e.project_id = $1 and e.depends_on = $2 and {HOLDS} order by 1
        """,
        project_id,
        task_id,
    )
    return tuple(record["task_id"] for record in records)
