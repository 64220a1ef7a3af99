"""How far people have been told what happens: a cursor for each receiver, and what of an event still stands.

Whoever tells a receiver holds its cursor for as long as that may take, so that of many processes one does. A cursor is
moved once what lies before it has been told: a process that dies in between leaves it to be told again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

from loom.graph.store.escalations import Escalation, open_among
from loom.graph.store.plans import WAITS
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far one receiver has been told; `now`: the time when this was read."""

    receiver: str
    since: str
    """As `model.since` reads it."""
    floor: int
    """Events with this number, or a lower one, are not told any more."""
    process: str | None
    """That of who tells it now, or did last, as `process.identity` names it."""
    held_until: datetime | None
    told_at: datetime | None
    failures: int
    retry_at: datetime | None
    error: str | None
    digest_of: date | None
    strange: bool
    """Whether it was written in another history of the database, in which `since` means something else."""
    now: datetime

    @classmethod
    def from_record(cls, record: Row) -> Cursor:
        """Builds a cursor from its row."""
        return cls(**{name: record[name] for name in cls.__slots__})

    @property
    def held(self) -> bool:
        """Whether somebody tells it now."""
        return self.held_until is not None and self.held_until > self.now

    @property
    def rest(self) -> float:
        """For how many seconds the receiver is to be left alone, since it could not be told."""
        return 0.0 if self.retry_at is None else max((self.retry_at - self.now).total_seconds(), 0.0)


_NEWEST = "select id from events where project_id = $1 order by events.xid desc, id desc limit 1"


async def cursors(connection: Connection, project_id: str, receivers: Collection[str]) -> dict[str, Cursor]:
    """The cursors of these receivers, by receiver, as far as there are any."""
    records = await connection.fetch(
        """
        select c.*, c.history <> coalesce(p.history, '') as strange, loom_now() as now
          from notify_cursors c join projects p on p.id = c.project_id
         where c.project_id = $1 and c.receiver = any($2::text[])
        """,
        project_id,
        list(receivers),
    )
    return {record["receiver"]: Cursor.from_record(record) for record in records}


async def enter(tx: Transaction, receivers: Collection[str]) -> None:
    """Gives receivers a cursor that have none: they are told what happens from now on. One that is strange here goes on
    by the numbers of events, since those of transactions may have begun anew."""
    await tx.connection.execute(
        f"""
        insert into notify_cursors as c (project_id, receiver, since, last_id, history)
        select $1, r, pg_current_snapshot()::text, coalesce(({_NEWEST}), 0), coalesce(p.history, '')
          from unnest($2::text[]) r, projects p where p.id = $1
        on conflict (project_id, receiver) do update
           set since = '1:1:', floor = c.last_id, history = excluded.history where c.history <> excluded.history
        """,
        tx.project_id,
        list(receivers),
    )


async def take(
    tx: Transaction, cursor: Cursor, holder: str, process: str | None, seconds: float, *, died: bool
) -> bool:
    """Whether the holder may tell this receiver, for so many seconds: the cursor stands where it was seen, is not to
    rest, and nobody else holds it, or whoever does is known to have died (`died`)."""
    taken = await tx.connection.fetchval(
        """
        update notify_cursors set holder = $4, process = $5, held_until = loom_now() + make_interval(secs => $6)
         where project_id = $1 and receiver = $2 and since = $3
           and (held_until is null or held_until <= loom_now() or (process = $7 and $8))
           and (retry_at is null or retry_at <= loom_now())
        returning 1
        """,
        tx.project_id,
        cursor.receiver,
        cursor.since,
        holder,
        process,
        seconds,
        cursor.process,
        died,
    )
    return taken is not None


async def told(tx: Transaction, receiver: str, holder: str, since: str) -> None:
    """Moves the cursor that the holder has taken, and lets go of it: what lies before has been told."""
    await tx.connection.execute(
        f"""
        update notify_cursors
           set since = $4, last_id = coalesce(({_NEWEST}), last_id), told_at = loom_now(), failures = 0,
               retry_at = null, error = null, holder = null, held_until = null
         where project_id = $1 and receiver = $2 and holder = $3
        """,
        tx.project_id,
        receiver,
        holder,
        since,
    )


async def written(tx: Transaction, receiver: str, holder: str, day: date) -> None:
    """Notes that the digest of a day was written, and lets go of the cursor that the holder has taken."""
    await tx.connection.execute(
        """
        update notify_cursors
           set digest_of = $4, told_at = loom_now(), failures = 0, retry_at = null, error = null,
               holder = null, held_until = null
         where project_id = $1 and receiver = $2 and holder = $3
        """,
        tx.project_id,
        receiver,
        holder,
        day,
    )


async def passed(tx: Transaction, cursor: Cursor, since: str) -> None:
    """Moves a cursor that stands where it was seen and that nobody holds: up to there, there was nothing to tell."""
    await tx.connection.execute(
        f"""
        update notify_cursors set since = $4, last_id = coalesce(({_NEWEST}), last_id)
         where project_id = $1 and receiver = $2 and since = $3 and holder is null
        """,
        tx.project_id,
        cursor.receiver,
        cursor.since,
        since,
    )


async def failed(tx: Transaction, receiver: str, holder: str, error: str, rest: float) -> None:
    """Lets go of the cursor that the holder has taken: its receiver could not be told, and rests for some seconds."""
    await tx.connection.execute(
        """
        update notify_cursors
           set failures = failures + 1, retry_at = loom_now() + make_interval(secs => $5), error = $4,
               holder = null, held_until = null
         where project_id = $1 and receiver = $2 and holder = $3
        """,
        tx.project_id,
        receiver,
        holder,
        error,
        rest,
    )


# --- what still stands ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Confirm:
    """A workflow that waits for a yes: its run, its name, and what is asked."""

    run_id: str
    workflow: str
    message: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """What of some events still waits for somebody: escalations by id, confirms by run, the goals of plans, and by task
    the branch that its work waits for a yes to land on; and the titles of tasks."""

    escalations: dict[str, Escalation]
    confirms: dict[str, Confirm]
    plans: dict[str, str]
    landings: dict[str, str]
    titles: dict[str, str]


async def standing(
    connection: Connection,
    project_id: str,
    escalations: Sequence[str],
    runs: Sequence[str],
    plans: Sequence[str],
    tasks: Sequence[str],
) -> Standing:
    """What of these escalations, runs of workflows, plans, and work on tasks still waits for somebody."""
    confirms = await connection.fetch(
        """
        select r.id as run_id, r.workflow, s.inputs ->> 'message' as message
          from workflow_runs r join workflow_steps s
            on s.project_id = r.project_id and s.run_id = r.id and s.position = r.position
         where r.project_id = $1 and r.id = any($2::text[]) and r.status = 'waiting' and s.type = 'confirm'
        """,
        project_id,
        list(runs),
    )
    waiting = await connection.fetch(
        f"select p.id, p.goal from plans p where {WAITS} and p.id = any($2::text[])", project_id, list(plans)
    )
    records = await connection.fetch(
        """
        select t.id, t.title, l.target from tasks t
          left join landings l on l.project_id = t.project_id and l.task_id = t.id and l.token = t.claim_token
                              and l.state = 'queued' and l.needs_yes and l.approved_at is null
         where t.project_id = $1 and t.id = any($2::text[])
        """,
        project_id,
        list(tasks),
    )
    return Standing(
        {one.id: one for one in await open_among(connection, project_id, escalations)},
        {record["run_id"]: Confirm(**record) for record in confirms},
        {record["id"]: record["goal"] for record in waiting},
        {record["id"]: record["target"] for record in records if record["target"] is not None},
        {record["id"]: record["title"] for record in records},
    )
