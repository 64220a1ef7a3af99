"""The cascade's statements, one level at a time.

Each level is locked in id order before it is counted, an epic's row before its children are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.graph.model.task import Task
from loom.graph.store.tasks import COLUMNS
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Row


@dataclass(frozen=True, slots=True)
class Level:
    """What one level of the cascade changed: tasks that became claimable (or blocked), and epics whose children now
    follow, cancelled ones included, whose children count as all others do."""

    tasks: tuple[Task, ...]
    epics: tuple[str, ...]


# What waits for a task. The planner knows how long a given list is and nothing of a selected one, so that it
# keeps one plan for all instead of making one for each, which costs it more than the statement.
_HELD = """task_deps where project_id = $1 and depends_on = any(array(select unnest($2::text[])))
                                     and waived_at is null"""


async def count_dependents(tx: Transaction, tasks: Sequence[str], step: int) -> Level:
    """Tells the dependents of tasks that they wait for one thing less each, because it is finished (step -1), or for
    one more, because it is open again (step 1)."""
    dependents = await tx.connection.fetch(
        f"""
        select id from tasks
         where project_id = $1 and id = any(array(select task_id from {_HELD})) order by id for no key update
        """,
        tx.project_id,
        tasks,
    )
    if not dependents:
        return Level((), ())
    return _level(await tx.connection.fetch(DEPENDENTS, tx.project_id, tasks, step))


async def count_children(tx: Transaction, epics: Sequence[str], step: int) -> Level:
    """Tells the children of epics whose own `waiting` reached zero (step -1) or left it (step 1)."""
    await tx.connection.execute(
        "select from tasks where project_id = $1 and parent_id = any($2::text[]) order by id for no key update",
        tx.project_id,
        epics,
    )
    return _level(await tx.connection.fetch(CHILDREN, tx.project_id, epics, step))


# The counter moves in every status; what is mirrored, version and time, only where the status follows. Which tasks are
# meant is found out once, and they are met by their ids: a project that is newer than its statistics, beside a large
# one, looks to the planner as if it had hardly a row, and it would go through all of it for each.
_COUNT = f"""
with c as materialized (%s), counted as (
    update tasks t
       set waiting = t.waiting + c.step,
           status = case when t.status = 'blocked' and t.waiting + c.step = 0 then 'pending'
                         when t.status = 'pending' and t.waiting + c.step > 0 then 'blocked' else t.status end,
           ready_at = case when t.status = 'blocked' and t.waiting + c.step = 0 then loom_now()
                           when t.status = 'pending' then null else t.ready_at end,
           version = t.version + (t.status = 'pending' or (t.status = 'blocked' and t.waiting + c.step = 0))::integer,
           updated_at = case when t.status = 'pending' or (t.status = 'blocked' and t.waiting + c.step = 0)
                             then loom_now() else t.updated_at end
      from c
     where t.project_id = $1 and t.id = any(array(select id from c)) and t.id = c.id
    returning t.*, c.step
)
select {COLUMNS}, t.step from counted t
 where t.status = 'pending' or (t.status = 'blocked' and t.waiting = t.step)
    or (t.status in ('epic', 'cancelled') and t.waiting = greatest(t.step, 0))
 order by t.id
"""
DEPENDENTS = _COUNT % f"select task_id as id, $3::integer * count(*)::integer as step from {_HELD} group by task_id"
CHILDREN = _COUNT % "select id, $3::integer as step from tasks where project_id = $1 and parent_id = any($2::text[])"


def _level(records: Sequence[Row]) -> Level:
    follows = [record["status"] in ("pending", "blocked") for record in records]
    return Level(
        tuple(Task.from_record(record) for record, moved in zip(records, follows, strict=True) if moved),
        tuple(record["id"] for record, moved in zip(records, follows, strict=True) if not moved),
    )


async def close_epic(tx: Transaction, epic_id: str) -> Task | None:
    """Closes an epic if all its children are finished: done if one is done, else cancelled. None: it stays open.

    The row is locked first and the children are looked at afterwards, so that of two last children the later one sees
    the earlier.
    """
    await tx.connection.execute(
        "select from tasks where project_id = $1 and id = $2 for no key update", tx.project_id, epic_id
    )
    record = await tx.connection.fetchrow(
        f"""
        update tasks t
           set status = case when exists(select from tasks k where k.project_id = $1 and k.parent_id = $2
                                            and k.status = 'done') then 'done' else 'cancelled' end,
               done_at = loom_now(), version = version + 1, updated_at = loom_now()
         where project_id = $1 and id = $2 and status = 'epic'
           and exists(select from tasks k where k.project_id = $1 and k.parent_id = $2)
           and not exists(select from tasks k where k.project_id = $1 and k.parent_id = $2
                             and k.status = any(array['pending', 'blocked', 'claimed', 'failed', 'epic']))
        returning {COLUMNS}
        """,
        tx.project_id,
        epic_id,
    )
    return None if record is None else Task.from_record(record)
