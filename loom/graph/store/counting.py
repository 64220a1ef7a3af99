"""How many tasks are in each status, kept so that it is told without looking at each of a million.

What was counted up to a transaction lies in a row; whoever asks adds what the events behind it have changed, and
housekeeping moves that row on. An event says what its task has become, and the one before it what it was. So a claim
writes nothing for it, and waits for nobody.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from loom.db.connection import WHOLE
from loom.graph.model.task import TaskStatus
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row

LARGE = 2_000
"""Tasks over which the counts of a project are kept; fewer are counted in a moment."""
DUE = 500
"""Events after which they are moved on."""
ADDED = 5_000
"""Events that are added to what was kept, at most; where there are more all tasks are counted."""
BATCH = 20_000  # events by which what is kept is moved on at a time, and those of one transaction

_LANDED = "landed"  # what the landings that have landed are kept as, beside the statuses
_ALL = 2**31  # more events than anybody looks at


async def counts(connection: Connection, project_id: str) -> dict[str, int]:
    """How many tasks are in each status."""
    row = await connection.fetchrow(SINCE, project_id, None, ADDED + 1)
    if row is None or row["seen"] > ADDED or row["torn"]:
        return await _counted(connection, project_id)
    found = _sum(row)
    return {status: found[status] for status in map(str, TaskStatus)}


async def wrong(connection: Connection, project_id: str) -> list[str]:
    """The statuses of which another number is told than there are tasks, and the landings; of one snapshot."""
    told, found = await counts(connection, project_id), await _counted(connection, project_id)
    row = await connection.fetchrow(f"select {HAVE_LANDED} as told, {_ALL_LANDED} as found", project_id)
    assert row is not None
    told[_LANDED], found[_LANDED] = row["told"], row["found"]
    return [
        f"{status}: {told[status]:,} instead of {found[status]:,}" for status in found if found[status] != told[status]
    ]


async def keep(tx: Transaction) -> bool:
    """Moves on what is kept, as far as no open transaction can add anything before it, some of it at a time; whether
    there may be more. Where somebody else is at it there is nothing to do."""
    await tx.connection.execute(
        "insert into task_counts (project_id, history, upto, newest_id) values ($1, '', '0', 0)"
        " on conflict (project_id) do nothing",
        tx.project_id,
    )
    mine: bool | None = await tx.connection.fetchval(
        "select true from task_counts where project_id = $1 for no key update skip locked", tx.project_id
    )
    if not mine:
        return False
    row = await tx.connection.fetchrow(_STANDING, tx.project_id, BATCH)
    if row is not None:
        horizon, since = int(row["horizon"]), int(row["upto"])
        until = horizon if row["edge"] is None else min(horizon, max(int(row["edge"]), since + 1))
        news = await tx.connection.fetchrow(SINCE, tx.project_id, str(until), _ALL)
        assert news is not None
        if not news["torn"]:
            await _store(tx, _sum(news), str(until), news["newest"] or 0)
            return until < horizon
    await count_anew(tx)
    return False


async def count_anew(tx: Transaction) -> None:
    """Counts all tasks, if there are so many that it is worth while to keep that."""
    large = await tx.connection.fetchval(_BEGIN, tx.project_id, LARGE)
    row = await tx.connection.fetchrow(_WITH_ALL, tx.project_id, None, _ALL, timeout=WHOLE) if large else None
    if row is None:
        return
    if row["torn"]:  # until the event that tells too little lies behind the horizon
        await tx.connection.execute("delete from task_counts where project_id = $1", tx.project_id)
        return
    found, moved = _whole(json.loads(row["all"])), json.loads(row["moved"] or "{}")
    at_that_time = {status: number - moved.get(status, 0) for status, number in found.items()}
    await _store(tx, at_that_time | {_LANDED: row["all_landed"] - row["landed"]})


# --- how --------------------------------------------------------------------------------------------------------------

_EACH = """(select jsonb_object_agg(status, n)::text
               from (select status, count(*) as n from tasks where project_id = $1 group by status) t)"""
_KEPT = """
    select c.counts, c.upto, coalesce(p.history_start, 0) as start
      from task_counts c join projects p on p.id = c.project_id and p.history = c.history
     where c.project_id = $1 and c.counts is not null
"""
_BEHIND = "e.project_id = $1 and e.xid >= k.upto and e.id > k.start"
# `torn`: of a task that has changed nothing is left that says what it was before.
_SINCE = f"""
with kept as materialized ({_KEPT}), seen as materialized (
    select n.* from kept k cross join lateral (
        select e.task_id, e.id, e.status, e.version from events e
         where {_BEHIND} and e.xid < coalesce($2::text::xid8, pg_snapshot_xmax(pg_current_snapshot()))
           and (e.version is not null or e.type = 'task.landed')
         order by e.xid, e.id limit $3) n
), news as (
    select task_id, max(id) as id, min(version) as first, (array_agg(status order by id desc))[1] as status
      from seen where version is not null group by task_id
), moved as (
    select n.first, b.status as old, case when b.id > n.id then b.status else n.status end as new
      from news n left join lateral (
               select e.id, e.status from kept k, events e
                where n.first > 1 and e.project_id = $1 and e.task_id = n.task_id and e.version is not null
                  and not ({_BEHIND})
                order by e.id desc limit 1) b on true
)
select k.counts::text as kept, (select count(*) from seen) as seen, (select max(id) from seen) as newest,
       (select count(*) from seen where version is null) as landed,
       exists(select from moved where old is null and first > 1) as torn,
       (select jsonb_object_agg(status, n)::text
          from (select status, sum(n) as n
                  from (select new as status, 1 as n from moved union all select old, -1 from moved) each
                 where status is not null group by status) sums) as moved{{more}}
  from kept k
"""
SINCE = _SINCE.format(more="")
_ALL_LANDED = "(select count(*) from landings where project_id = $1 and state = 'landed')"
_WITH_ALL = _SINCE.format(more=f", {_EACH} as all, {_ALL_LANDED} as all_landed")
HAVE_LANDED = f"""coalesce(
    (select (k.counts ->> 'landed')::int + (select count(*) from events e where {_BEHIND} and e.type = 'task.landed')
       from ({_KEPT}) k),
    {_ALL_LANDED})"""
"""How many landings have landed, as part of a statement whose `$1` is the project."""
_STANDING = f"""
select k.upto::text as upto, pg_snapshot_xmin(pg_current_snapshot())::text as horizon,
       (select e.xid::text from events e where {_BEHIND} order by e.xid, e.id offset $2 limit 1) as edge
  from ({_KEPT}) k
"""
_BEGIN = """
update task_counts c
   set history = coalesce(p.history, ''), upto = pg_snapshot_xmin(pg_current_snapshot()),
       newest_id = coalesce((select id from events where project_id = $1 order by xid desc, id desc limit 1), 0),
       counts = case when exists(select from tasks where project_id = $1 offset $2) then '{}'::jsonb end
  from projects p where p.id = $1 and c.project_id = $1
returning counts is not null
"""


async def _store(tx: Transaction, found: dict[str, int], upto: str | None = None, newest_id: int = 0) -> None:
    await tx.connection.execute(
        """
        update task_counts set counts = $2::jsonb, upto = coalesce($3::text::xid8, upto),
                               newest_id = greatest(newest_id, $4)
         where project_id = $1
        """,
        tx.project_id,
        json.dumps(found),
        upto,
        newest_id,
    )


def _sum(row: Row) -> dict[str, int]:
    """What was kept, with what came since."""
    kept, moved = json.loads(row["kept"]), json.loads(row["moved"] or "{}") | {_LANDED: row["landed"]}
    return {name: number + moved.get(name, 0) for name, number in kept.items()}


async def _counted(connection: Connection, project_id: str) -> dict[str, int]:
    return _whole(json.loads(await connection.fetchval(f"select {_EACH}", project_id) or "{}"))


def _whole(found: dict[str, int]) -> dict[str, int]:
    return {str(status): found.get(status, 0) for status in TaskStatus}
