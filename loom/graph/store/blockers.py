"""What a task that cannot be claimed waits for, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from loom.graph.model.task import TaskStatus
from loom.graph.store.edges import HOLDS
from loom.graph.store.escalations import HOLDING
from loom.graph.store.states import state_of

if TYPE_CHECKING:
    from loom.db.connection import Connection

SHOWN = 5  # of each task


@dataclass(frozen=True, slots=True)
class Blocker:
    """One thing that a task waits for: another task, a question or deferral that is open, or the time of its retry."""

    id: str
    """Of the task or the escalation; of the task itself where it waits for a time."""
    status: TaskStatus | None = None
    """The other task's; None for anything else."""
    state: str = ""
    """What people call that."""
    via: str | None = None
    """The epic above that waits for it, and the task with it; None where it is the task's own dependency."""
    childless: bool = False
    """Whether it is an epic that has no children yet, and so cannot close."""
    question: str | None = None
    """What kind of escalation it is, where it is one: a question, or deferred."""
    until: datetime | None = None
    """When a failed task is tried again."""


async def blockers(connection: Connection, project_id: str, task_ids: Sequence[str]) -> dict[str, list[Blocker]]:
    """What unfinished tasks wait for, those that wait for something, each with the first few."""
    found: dict[str, list[Blocker]] = {}
    for row in await connection.fetch(_TASKS, project_id, list(task_ids), SHOWN):
        via = None if row["at"] == row["task_id"] else row["at"]
        blocker = Blocker(row["id"], TaskStatus(row["status"]), row["state"], via, row["childless"])
        found.setdefault(row["task_id"], []).append(blocker)
    for row in await connection.fetch(_OTHERS, project_id, list(task_ids)):
        via = None if row["at"] == row["task_id"] else row["at"]
        blocker = Blocker(row["id"], via=via, question=row["kind"], until=row["retry_at"])
        found.setdefault(row["task_id"], []).append(blocker)
    return found


_UP = """
with recursive up(task_id, at) as (
    select id collate "C", id collate "C" from unnest($2::text[]) w(id)
    union
    select u.task_id, t.parent_id from up u
      join tasks t on t.project_id = $1 and t.id = u.at and t.parent_id is not null
)
"""
# A task waits for what it depends on, and for what the epics above it depend on, over edges that hold. These are asked
# for by themselves: so the planner takes the index for each task, however many it expects, and not all edges there are.
_TASKS = f"""{_UP}, waits as (
    select u.task_id, u.at, d.id, d.status, {state_of("d")} as state,
           d.status = 'epic' and not exists(select from tasks k where k.project_id = $1 and k.parent_id = d.id)
               as childless,
           row_number() over (partition by u.task_id order by u.at <> u.task_id, d.id) as place
      from up u
      join tasks t on t.project_id = $1 and t.id = u.at
      cross join lateral (select e.depends_on from task_deps e
                           where e.project_id = $1 and e.task_id = u.at and {HOLDS} offset 0) e
      join tasks d on d.project_id = $1 and d.id = e.depends_on and d.status <> 'done'
)
select * from waits where place <= $3 order by task_id, place
"""
# And for what holds itself or an epic above it.
_OTHERS = f"""{_UP}
select u.task_id, u.at, q.id, q.kind, null::timestamptz as retry_at from up u
  join escalations q on q.project_id = $1 and q.task_id = u.at and {HOLDING}
union all
select id, id, id, null, retry_at from tasks
 where project_id = $1 and id = any($2::text[]) and status = 'failed' and retry_at is not null
"""
