"""Totals of what has happened in a project, for metrics: events by type, how long finished tasks took, what was spent.

They only grow. They are kept in the database, so that they go on over restarts and are the same whichever process is
asked, and each event is read for them once. What an open transaction may still add something before waits, as the
stream does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.bus.events import Position
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection

BATCH = 20_000  # events

Totals = dict[tuple[str, str], float]
"""By metric and label: `events` by type; `seconds` and `tasks` by phase, as `stats` has them; `tokens` by kind, and
`cost_usd` with none."""


async def count(tx: Transaction) -> bool:
    """Adds what has happened since the last time, some of it; whether there may be more. Where somebody else is at it
    there is nothing left to do."""
    await tx.connection.execute(
        """
        insert into metric_cursors as c (project_id, history)
        select id, coalesce(history, '') from projects where id = $1
        on conflict (project_id) do update
           set xid = '0', event_id = 0, floor = c.newest_id, history = excluded.history
         where c.history <> excluded.history
        """,
        tx.project_id,
    )
    record = await tx.connection.fetchrow(
        "select xid::text as xid, event_id, floor from metric_cursors where project_id = $1"
        " for no key update skip locked",
        tx.project_id,
    )
    if record is None:
        return False
    counted: int = await tx.connection.fetchval(
        COUNT, tx.project_id, record["xid"], record["event_id"], record["floor"], BATCH
    )
    return counted == BATCH


# The phases are those of `stats`: a task that nobody claimed, such as an epic, was not worked on. What agents tell of
# what they used is whatever they say; a total never falls over it.
COUNT = """
with news as materialized (
    select * from events
     where project_id = $1 and (xid, id) > ($2::text::xid8, $3::bigint) and id > $4
       and xid < pg_snapshot_xmin(pg_current_snapshot())
     order by xid, id limit $5
), finished as (
    select extract(epoch from t.claimed_at - t.ready_at)::float8 as waiting,
           extract(epoch from coalesce(l.reported_at, l.queued_at, t.done_at) - t.claimed_at)::float8 as worked,
           p.seconds as proving, extract(epoch from l.ended_at - l.queued_at)::float8 as landing
      from news n
      join tasks t on t.project_id = $1 and t.id = n.task_id and t.claim_token = n.token
      left join landings l on l.project_id = $1 and l.task_id = t.id and l.token = t.claim_token
      left join lateral (select sum(seconds) as seconds from proofs p
                          where p.project_id = $1 and p.task_id = t.id and p.token = t.claim_token) p on true
     where n.type = 'task.done' and t.claimed_at is not null and t.done_at is not null
), phases as (
    select f.phase, sum(greatest(f.seconds, 0)) as seconds, count(*) as tasks
      from finished, lateral (values ('waiting', waiting), ('working', worked - coalesce(proving, 0)),
                                     ('proving', proving), ('landing', landing)) f(phase, seconds)
     where f.seconds is not null group by f.phase
), used as (
    select u.key, sum(least(greatest((u.value #>> '{}')::numeric, 0), 1e12)::float8) as total
      from news n, jsonb_each(case jsonb_typeof(n.data -> 'usage') when 'object' then n.data -> 'usage' end) u
     where n.type = 'attempt.ended' and jsonb_typeof(u.value) = 'number'
       and u.key in ('input_tokens', 'cached_input_tokens', 'output_tokens', 'cost_usd')
     group by u.key
), added as (
    insert into metric_totals as m (project_id, metric, label, total)
    select $1, metric, label, total from (
        select 'events', type, count(*)::float8 from news group by type
        union all select 'seconds', phase, seconds from phases
        union all select 'tasks', phase, tasks from phases
        union all select case key when 'cost_usd' then 'cost_usd' else 'tokens' end,
                         case key when 'cost_usd' then '' else replace(key, '_tokens', '') end, total from used
    ) a(metric, label, total)
    on conflict (project_id, metric, label) do update set total = m.total + excluded.total
), moved as (
    update metric_cursors c set xid = n.xid, event_id = n.id, newest_id = greatest(c.newest_id, h.highest)
      from (select xid, id from news order by xid desc, id desc limit 1) n, (select max(id) as highest from news) h
     where c.project_id = $1
)
select count(*) from news
"""


async def totals(connection: Connection, project_id: str) -> Totals:
    """What has been counted."""
    records = await connection.fetch(
        "select metric, label, total from metric_totals where project_id = $1 order by metric, label", project_id
    )
    return {(record["metric"], record["label"]): record["total"] for record in records}


async def ready_for(connection: Connection, project_id: str) -> float:
    """How many seconds the task that has been ready the longest has been so; 0.0 where none is."""
    seconds: float | None = await connection.fetchval(READY_FOR, project_id)
    return max(seconds or 0.0, 0.0)


READY_FOR = """
select extract(epoch from loom_now() - min(r.ready_at))::float8
  from generate_series(0, 2) p(priority)
  join lateral (select t.ready_at from tasks t
                 where t.project_id = $1 and t.status = 'pending' and t.priority = p.priority
                 order by t.ready_at limit 1) r on true
"""


async def behind(connection: Connection, project_id: str, position: Position) -> float:
    """For how many seconds a reader of the stream that has come to a position has not carried an event; 0.0 where it
    has carried all."""
    seconds: float | None = await connection.fetchval(
        """
        select extract(epoch from loom_now() - created_at)::float8 from events
         where project_id = $1 and (xid, id) > ($2::text::xid8, $3::bigint)
           and id > coalesce((select history_start from projects where id = $1), 0)
         order by xid, id limit 1
        """,
        project_id,
        str(position.xid),
        position.id,
    )
    return max(seconds or 0.0, 0.0)
