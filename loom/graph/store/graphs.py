"""Views of the graph: its tasks, as many as fit, and the edges between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loom.graph.model.task import Task, TaskStatus
from loom.graph.store.blockers import Blocker, blockers
from loom.graph.store.states import state_of
from loom.graph.store.tasks import COLUMNS

if TYPE_CHECKING:
    from loom.db.connection import Connection

COUNTED = 10_000
"""How many tasks are counted at most of those that a view of the graph leaves out."""


@dataclass(frozen=True, slots=True)
class GraphView:
    """A part of the graph: tasks, edges as (task, depends on, waived), how many tasks were left out (at most
    `COUNTED` are counted where there is no root), and of tasks for which these do not show it what they wait for."""

    tasks: list[Task]
    edges: list[tuple[str, str, bool]]
    more: int = 0
    blockers: dict[str, list[Blocker]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outline:
    """A graph without what its tasks are made of, so that ten thousand of them cost little: rows of id, title, state
    and epic, edges as in `GraphView`, and how many tasks were left out."""

    tasks: list[tuple[str, str, str, str | None]]
    edges: list[tuple[str, str, bool]]
    more: int = 0


async def graph(connection: Connection, project_id: str, *, root: str | None, limit: int) -> GraphView:
    """The tasks of a project, or those that `root` is made of and waits for, with their edges: of too many what is in
    work first, then what is ready, has failed, waits, and was finished last."""
    if root is None:
        records = await connection.fetch(_GRAPH, project_id, limit, limit + COUNTED)
    else:
        records = await connection.fetch(
            f"""
            with recursive reach(id) as (
                select $3::text collate "C"
                union
                select n.id from reach r cross join lateral (
                    select k.id from tasks k where k.project_id = $1 and k.parent_id = r.id
                    union all
                    select e.depends_on from task_deps e where e.project_id = $1 and e.task_id = r.id
                ) n
            )
            select {COLUMNS}, count(*) over () as total from tasks t
             where project_id = $1 and id in (select id from reach)
             order by (done_at is not null), created_at, id limit $2
            """,
            project_id,
            limit,
            root,
        )
    tasks = [Task.from_record(record) for record in records]
    return await graph_of(connection, project_id, tasks, more=(records[0]["total"] if records else 0) - len(tasks))


async def graph_of(connection: Connection, project_id: str, tasks: list[Task], *, more: int) -> GraphView:
    """The same of tasks that were found already. `more`: how many of them were left out."""
    edges = await _edges(connection, project_id, [task.id for task in tasks])
    unfinished = {task.id for task in tasks if not task.status.finished}
    seen = {task_id for task_id, target, waived in edges if target in unfinished and not waived}
    unseen = [task.id for task in tasks if task.status is TaskStatus.BLOCKED and task.id not in seen]
    waits = await blockers(connection, project_id, unseen)
    return GraphView(tasks, edges, more, waits)


async def outline(connection: Connection, project_id: str, *, limit: int) -> Outline:
    """The tasks of a project that `graph` has, with the states that a filter knows."""
    records = await connection.fetch(_OUTLINE, project_id, limit, limit + COUNTED)
    tasks = [(row["id"], row["title"], row["state"], row["parent_id"]) for row in records]
    edges = await _edges(connection, project_id, [row["id"] for row in records])
    return Outline(tasks, edges, (records[0]["total"] if records else 0) - len(tasks))


# Each part in the order of its index, so that it reads no more than it shows.
_CHOSEN = """
with chosen as (
    (select id, 1 as rank from tasks where project_id = $1 and status = 'claimed' order by assignee limit $2)
    union all
    (select id, 2 from tasks where project_id = $1 and status = 'pending' order by priority, ready_at, id desc limit $2)
    union all
    (select id, 3 from tasks where project_id = $1 and status = 'failed' order by retry_at limit $2)
    union all
    (select id, 4 from tasks where project_id = $1 and status in ('blocked', 'epic') order by priority, id limit $2)
    union all
    (select id, 5 from tasks where project_id = $1 and done_at is not null order by done_at desc limit $2)
    order by rank limit $2
)
"""
_OF_ALL = "(select count(*) from (select from tasks where project_id = $1 limit $3) n) as total"
_GRAPH = f"""{_CHOSEN}
select {COLUMNS}, {_OF_ALL}
  from tasks t where project_id = $1 and id in (select id from chosen)
 order by (done_at is not null), created_at, id
"""
_OUTLINE = f"""{_CHOSEN}
select id, title, parent_id, {_OF_ALL}, {state_of("t")} as state
  from tasks t where project_id = $1 and id in (select id from chosen)
 order by (done_at is not null), created_at, id
"""


async def _edges(connection: Connection, project_id: str, task_ids: Sequence[str]) -> list[tuple[str, str, bool]]:
    records = await connection.fetch(
        """
        select task_id, depends_on, waived_at is not null as waived from task_deps
         where project_id = $1 and task_id = any($2::text[]) order by 1, 2
        """,
        project_id,
        list(task_ids),
    )
    return [(record["task_id"], record["depends_on"], record["waived"]) for record in records]
