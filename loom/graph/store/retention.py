"""Taking away what has been kept long enough, a batch at a time by primary key, so that no statement takes long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.bus.events import START, Position
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection

BATCH = 5_000  # rows


async def take_turn(tx: Transaction) -> bool:
    """Whether this transaction may prune: one process of a project does at a time, the others pass by."""
    return bool(
        await tx.connection.fetchval(
            "select true from projects where id = $1 for no key update skip locked", tx.project_id
        )
    )


async def pruned(connection: Connection, project_id: str) -> Position:
    """The position up to which events may be missing; the start where none are."""
    record = await connection.fetchrow(
        "select pruned_xid::text as xid, pruned_id as id from projects where id = $1", project_id
    )
    return START if record is None else Position(int(record["xid"]), record["id"])


async def prune_events(tx: Transaction, days: int) -> int:
    """Looks at the oldest events that no earlier step has looked at, and takes away those that are older than so many
    days, save the newest versioned one of each task, which tells its row. Returns how many it has looked at."""
    done = await pruned(tx.connection, tx.project_id)
    records = await tx.connection.fetch(
        """
        select xid::text as xid, id, task_id
          from (select xid, id, task_id, created_at from events
                 where project_id = $1 and (xid, id) > ($2::text::xid8, $3::bigint) order by xid, id limit $4) e
         where created_at < loom_now() - make_interval(days => $5)
         order by e.xid, id
        """,
        tx.project_id,
        str(done.xid),
        done.id,
        BATCH,
        days,
    )
    if not records:
        return 0
    end = Position(int(records[-1]["xid"]), records[-1]["id"])
    where = "e.project_id = $1 and (e.xid, e.id) <= ($2::text::xid8, $3::bigint)"
    # What was kept for a task in an earlier step goes with the step that meets a newer event of it.
    for part, *values in (
        ("(e.xid, e.id) > ($4::text::xid8, $5::bigint)", str(done.xid), done.id),
        ("e.task_id = any($4::text[])", list({record["task_id"] for record in records if record["task_id"]})),
    ):
        await tx.connection.execute(
            f"""
            delete from events e
             where {where} and {part}
               and not (e.version is not null
                        and not exists(select from events n where n.project_id = $1 and n.task_id = e.task_id
                                          and n.version > e.version))
            """,
            tx.project_id,
            str(end.xid),
            end.id,
            *values,
        )
    await tx.connection.execute(
        "update projects set pruned_xid = $2::text::xid8, pruned_id = $3 where id = $1",
        tx.project_id,
        str(end.xid),
        end.id,
    )
    return len(records)


async def prune_messages(tx: Transaction, days: int) -> int:
    """Takes the oldest messages away that are older than so many days, read or not; returns how many. A note stays
    for as long as its task is unfinished: whoever claims that next is to read it."""
    ids = [
        record["id"]
        for record in await tx.connection.fetch(
            """
            select id from messages m
             where project_id = $1
               and id < coalesce((select id from messages
                                   where project_id = $1 and created_at >= loom_now() - make_interval(days => $3)
                                   order by id limit 1), 9223372036854775807)
               and coalesce((select t.status in ('done', 'cancelled') from tasks t
                              where t.project_id = $1 and t.id = m.recipient), true)
             order by id limit $2
            """,
            tx.project_id,
            BATCH,
            days,
        )
    ]
    if ids:
        for statement in (
            "delete from message_acks where project_id = $1 and message_id = any($2::bigint[])",
            "delete from messages where project_id = $1 and id = any($2::bigint[])",
        ):
            await tx.connection.execute(statement, tx.project_id, ids)
    return len(ids)


async def prune_runs(tx: Transaction, days: int) -> int:
    """Takes runs of workflows and skills away that ended longer ago than so many days, and stored plans that are older;
    returns how many of the kind of which there were most."""
    runs = [
        record["id"]
        for record in await tx.connection.fetch(
            """
            select id from workflow_runs
             where project_id = $1 and finished_at < loom_now() - make_interval(days => $2)
             order by created_at limit $3
            """,
            tx.project_id,
            days,
            BATCH,
        )
    ]
    for statement in (
        "delete from workflow_steps where project_id = $1 and run_id = any($2::text[])",
        "delete from workflow_runs where project_id = $1 and id = any($2::text[])",
    ):
        if runs:
            await tx.connection.execute(statement, tx.project_id, runs)
    most = len(runs)
    for table, time in (("skill_runs", "finished_at"), ("plans", "created_at")):
        gone = await tx.connection.execute(
            f"""
            delete from {table} where project_id = $1 and id in (
                select id from {table} where project_id = $1 and {time} < loom_now() - make_interval(days => $2)
                 order by created_at limit $3)
            """,
            tx.project_id,
            days,
            BATCH,
        )
        most = max(most, int(gone.split()[-1]))
    return most


async def prune_proofs(tx: Transaction, days: int) -> int:
    """Takes the oldest proofs away that began longer ago than so many days; returns how many. Whoever needs one again
    has the check run again."""
    gone = await tx.connection.execute(
        """
        delete from proofs where project_id = $1 and id in (
            select id from (select id, started_at from proofs where project_id = $1 order by id limit $3) p
             where started_at < loom_now() - make_interval(days => $2))
        """,
        tx.project_id,
        days,
        BATCH,
    )
    return int(gone.split()[-1])


async def prune_landings(tx: Transaction, days: int) -> int:
    """Takes intents away that were closed longer ago than so many days, and claims that landed nothing and ended as
    long ago; returns how many of the kind of which there were more. A claim that a late report may still take up stays,
    and where work has landed does."""
    most = 0
    for statement in (_INTENTS, _DROPPED):
        gone = await tx.connection.execute(statement, tx.project_id, days, BATCH)
        most = max(most, int(gone.split()[-1]))
    return most


_INTENTS = """
delete from landing_intents where project_id = $1 and id in (
    select id from landing_intents where project_id = $1 and closed_at < loom_now() - make_interval(days => $2)
     order by id limit $3)
"""
_DROPPED = """
delete from landings where project_id = $1 and id in (
    select l.id from landings l join tasks t on t.project_id = $1 and t.id = l.task_id
     where l.project_id = $1 and l.state = 'dropped' and l.ended_at < loom_now() - make_interval(days => $2)
       and (t.claim_token <> l.token or t.done_at is not null)
       and not exists(select from landing_intents i where i.project_id = $1 and i.landing_id = l.id)
     order by l.id limit $3)
"""
