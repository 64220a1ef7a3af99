"""The events in PostgreSQL: an outbox, written with the changes that they tell of and read in the order of commits.

Sequence numbers are drawn before a transaction commits, so that a reader which went by them would skip what commits
late. A position is a transaction id and a number; the stream's readers stay behind the oldest transaction that is still
open, and a wait goes by snapshots.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from loom.bus.events import START, Event, EventType, Position
from loom.db.connection import WHOLE
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection
    from loom.graph.model.since import Since


async def record_events(tx: Transaction) -> None:
    """Writes the events that the transaction has collected, in order, and leaves none behind. Who writes one in the
    statement that makes the change has these written first, so that a task's events come in the order of its
    versions."""
    if not tx.events:
        return
    records = await tx.connection.fetch(
        """
        insert into events (project_id, type, task_id, status, version, agent, token, data)
        select $1, e.type, e.task_id, e.status, e.version, e.agent, e.token, e.data::jsonb
          from unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[], $8::text[])
               with ordinality e(type, task_id, status, version, agent, token, data, place)
         order by e.place
        returning xid::text as xid, id
        """,
        tx.project_id,
        [str(event.type) for event in tx.events],
        [event.task_id for event in tx.events],
        [event.status for event in tx.events],
        [event.version for event in tx.events],
        [event.agent for event in tx.events],
        [event.token for event in tx.events],
        [tx.stored(event.data) for event in tx.events],
    )
    tx.position = max(Position(int(record["xid"]), record["id"]) for record in records)
    tx.events.clear()


_EVENT = "xid::text as xid, id, type, task_id, status, version, agent, token, data, created_at"

# Behind the horizon no older transaction is open any more, so nothing can still appear before what was read.
_AFTER = f"""
select {_EVENT} from events
 where project_id = $1 and (xid, id) > ($2::text::xid8, $3::bigint) and xid < pg_snapshot_xmin(pg_current_snapshot())
   and id > $4
 order by events.xid, id limit $5
"""


async def after(
    connection: Connection, project_id: str, position: Position, *, limit: int, later_than_id: int = 0
) -> list[Event]:
    """Events after a position, in order, as far as no open transaction can add one before them.

    `later_than_id` leaves out what an earlier history of the database wrote.
    """
    records = await connection.fetch(_AFTER, project_id, str(position.xid), position.id, later_than_id, limit)
    return [Event.from_record(record) for record in records]


async def of_task(connection: Connection, project_id: str, task_id: str, *, limit: int) -> list[Event]:
    """A task's newest events, newest first."""
    records = await connection.fetch(
        f"select {_EVENT} from events where project_id = $1 and task_id = $2 order by id desc limit $3",
        project_id,
        task_id,
        limit,
    )
    return [Event.from_record(record) for record in records]


async def newest(
    connection: Connection,
    project_id: str,
    *,
    until: Position | None,
    types: Sequence[EventType],
    agent: str | None,
    limit: int,
) -> list[Event]:
    """A project's newest events, newest first: those up to a position and with it, of these types, or all without any,
    and by one agent. Behind the newest `LOOKED_AT` none is looked for."""
    records = await connection.fetch(
        f"""
        select {_EVENT} from (
            select * from events
             where project_id = $1 and ($2::text is null or (xid, id) <= ($2::text::xid8, $3::bigint))
             order by events.xid desc, id desc limit $4) events
         where (cardinality($5::text[]) = 0 or type = any($5)) and ($6::text is null or agent = $6)
         order by events.xid desc, id desc limit $7
        """,
        project_id,
        None if until is None else str(until.xid),
        None if until is None else until.id,
        LOOKED_AT if types or agent is not None else limit,
        [str(one) for one in types],
        agent,
        limit,
    )
    return [Event.from_record(record) for record in records]


LOOKED_AT = 20_000
"""Events among which a page looks for some of a kind."""


async def has_refused(connection: Connection, project_id: str, task_id: str, token: int) -> bool:
    """Whether a late report on a claim of a task was kept already."""
    return bool(
        await connection.fetchval(
            "select exists(select from events where project_id = $1 and task_id = $2 and type = 'task.updated'"
            " and data ->> 'refused' is not null and (data ->> 'token')::bigint = $3)",
            project_id,
            task_id,
            token,
        )
    )


async def claimant(connection: Connection, project_id: str, task_id: str, token: int) -> str | None:
    """The agent that a claim of a task was handed out to; None where there was none, or its event is gone."""
    found: str | None = await connection.fetchval(
        "select agent from events where project_id = $1 and task_id = $2 and type = 'task.claimed' and token = $3",
        project_id,
        task_id,
        token,
    )
    return found


async def has_ended(connection: Connection, project_id: str, task_id: str, token: int) -> bool:
    """Whether it was noted already how an attempt went."""
    return bool(
        await connection.fetchval(
            "select exists(select from events where project_id = $1 and task_id = $2 and type = 'attempt.ended'"
            " and token = $3)",
            project_id,
            task_id,
            token,
        )
    )


async def reopened_at(connection: Connection, project_id: str, task_id: str) -> datetime | None:
    """When a task was put into play again last, None if it never was."""
    at: datetime | None = await connection.fetchval(
        "select max(created_at) from events where project_id = $1 and task_id = $2 and type = $3",
        project_id,
        task_id,
        EventType.TASK_REOPENED,
    )
    return at


async def replay_from(connection: Connection, project_id: str, count: int, later_than_id: int) -> Position:
    """The position from which a reader meets the newest `count` events that are readable, and all that come."""
    record = await connection.fetchrow(
        """
        select xid::text as xid, id from events
         where project_id = $1 and id > $3 and xid < pg_snapshot_xmin(pg_current_snapshot())
         order by events.xid desc, id desc offset $2 limit 1
        """,
        project_id,
        count,
        later_than_id,
    )
    return START if record is None else Position(int(record["xid"]), record["id"])


async def position_at(connection: Connection, project_id: str, seconds: float) -> Position:
    """The position from which a reader meets everything of the last so many seconds."""
    record = await connection.fetchrow(
        """
        select xid::text as xid, id from events
         where project_id = $1 and created_at < loom_now() - make_interval(secs => $2)
         order by events.xid desc, id desc limit 1
        """,
        project_id,
        seconds,
    )
    return START if record is None else Position(int(record["xid"]), record["id"])


async def snapshot(connection: Connection) -> str:
    """Which transactions have ended by now, as PostgreSQL writes it."""
    found: str = await connection.fetchval("select pg_current_snapshot()::text")
    return found


async def untold(
    connection: Connection,
    project_id: str,
    since: Since,
    until: str,
    *,
    limit: int,
    types: Collection[EventType] | None = None,
    later_than_id: int = 0,
) -> list[Event]:
    """Events that have not been told, of the transactions that had ended in the snapshot `until`, in order.

    Args:
        types: only these kinds; None: all.
        later_than_id: as in `after`.
    """
    records = await connection.fetch(
        f"""
        select {_EVENT} from events
         where project_id = $1 and (xid, id) > ($2::text::xid8, $3::bigint)
           and xid >= pg_snapshot_xmin($4::text::pg_snapshot) and xid < pg_snapshot_xmax($5::text::pg_snapshot)
           and not pg_visible_in_snapshot(xid, $4::text::pg_snapshot)
           and pg_visible_in_snapshot(xid, $5::text::pg_snapshot)
           and ($7::text[] is null or type = any($7::text[])) and id > $8
         order by events.xid, id limit $6
        """,
        project_id,
        str(since.after.xid),
        since.after.id,
        since.seen,
        until,
        limit,
        None if types is None else [str(one) for one in types],
        later_than_id,
    )
    return [Event.from_record(record) for record in records]


async def held_up(connection: Connection, project_id: str, seconds: float) -> str | None:
    """Who has held the stream up for longer than so many seconds, by a transaction that stays open; None where nobody
    has."""
    held: float | None = await connection.fetchval(
        "select extract(epoch from loom_now() - min(created_at))::float8 from events"
        " where project_id = $1 and xid >= pg_snapshot_xmin(pg_current_snapshot())",
        project_id,
    )
    if held is None or held < seconds:
        return None
    record = await connection.fetchrow(
        "select pid, application_name, usename from pg_stat_activity"
        " where backend_xid is not null order by age(backend_xid) desc limit 1"
    )
    who = f"process {record['pid']} ({record['application_name'] or record['usename']})" if record else "a session"
    return f"for {held:.0f} s, by a transaction that {who} has open"


async def put_behind(connection: Connection, project_id: str) -> None:
    """Has the project's events stand before all that this server is still to write, in their order. Those that were
    written on another one, and came by a dump or a backup, may be of transactions with numbers that this one has not
    come to: they would pass for newer than what comes, and for not yet readable. Where it has had fewer transactions
    than the project, neighbours share a number."""
    await connection.execute(
        """
        with ranked as materialized (
            select xid as was, row_number() over (order by xid) as rank, count(*) over () as count
              from (select distinct xid from events where project_id = $1) one
        )
        update events e set xid = ceil(r.rank * least(r.count, h.passed) / r.count)::text::xid8
          from ranked r, (select pg_snapshot_xmin(pg_current_snapshot())::text::numeric - 1 as passed) h
         where e.project_id = $1 and e.xid = r.was
           and exists (select from events where project_id = $1 and xid >= pg_snapshot_xmax(pg_current_snapshot()))
        """,
        project_id,
        timeout=WHOLE,
    )


async def consequences(
    connection: Connection, project_id: str, task_id: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the tasks that finishing a task, the last time, unblocked and of the epics it closed: events of the same
    transaction."""
    records = await connection.fetch(
        """
        select e.type, e.task_id
          from events f join events e on e.project_id = f.project_id and e.xid = f.xid
                                     and e.created_at = f.created_at and e.id > f.id
         where f.project_id = $1 and f.task_id = $2 and f.type = 'task.done'
           and f.version = (select max(version) from events
                             where project_id = $1 and task_id = $2 and type = 'task.done')
           and e.type in ('task.unblocked', 'task.done', 'task.cancelled') order by e.id
        """,
        project_id,
        task_id,
    )
    unblocked = tuple(record["task_id"] for record in records if record["type"] == EventType.TASK_UNBLOCKED)
    closed = tuple(record["task_id"] for record in records if record["type"] != EventType.TASK_UNBLOCKED)
    return unblocked, closed
