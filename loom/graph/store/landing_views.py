"""What is to be seen of what lands: at a glance, the queue and what is around it, and what does not land by itself."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from loom.graph.store.counting import HAVE_LANDED
from loom.graph.store.landing_targets import RecordedTarget
from loom.graph.store.landings import Landing, LandingState

if TYPE_CHECKING:
    from loom.db.connection import Connection

_STUCK_SHOWN = 100


@dataclass(frozen=True, slots=True)
class LandingTally:
    """How much of a project has landed, is queued, and of that waits for a person's yes; what was recorded of where it
    lands. `any`: something lands at all."""

    any: bool
    landed: int
    queued: int
    needs_yes: int
    recorded: RecordedTarget | None


async def tally(connection: Connection, project_id: str) -> LandingTally:
    """What there is to tell of a project's landings at a glance."""
    row = await connection.fetchrow(
        f"""
        select exists(select from landings where project_id = $1) as any,
               {HAVE_LANDED} as landed,
               q.queued, q.needs_yes, t.target, t.why, t.since
          from (select count(*) as queued,
                       count(*) filter (where needs_yes and approved_at is null) as needs_yes
                  from landings where project_id = $1 and state = 'queued') q
          left join landing_targets t on t.project_id = $1
        """,
        project_id,
    )
    assert row is not None
    recorded = None if row["target"] is None else RecordedTarget(row["target"], row["why"], row["since"])
    return LandingTally(row["any"], row["landed"], row["queued"], row["needs_yes"], recorded)


@dataclass(frozen=True, slots=True)
class LandingLease:
    """Who lands on a target now, and until when unless he goes on."""

    target: str
    holder: str
    until: datetime


@dataclass(frozen=True, slots=True)
class ShownLanding:
    """A landing with the title of its task; `intended`: its target is about to be moved to a commit that brings it."""

    landing: Landing
    title: str
    intended: bool = False


async def shown(
    connection: Connection, project_id: str, states: Collection[LandingState], limit: int
) -> list[ShownLanding]:
    """Landings in these states: those that have not ended in the order in which they were queued and begun, others the
    newest first."""
    records = await connection.fetch(
        """
        select l.*, t.title, exists(select from landing_intents i where i.project_id = $1 and i.landing_id = l.id
                                       and i.closed_at is null) as intended
          from landings l join tasks t on t.project_id = $1 and t.id = l.task_id
         where l.project_id = $1 and l.state = any($2::text[])
         order by l.ended_at desc nulls first, l.queued_at, l.begun_at, l.id limit $3
        """,
        project_id,
        [str(state) for state in states],
        limit,
    )
    return [ShownLanding(Landing.from_record(record), record["title"], record["intended"]) for record in records]


async def sent_back(connection: Connection, project_id: str, limit: int) -> list[ShownLanding]:
    """What was sent back last, and has not landed since."""
    records = await connection.fetch(
        """
        select l.*, t.title from landings l join tasks t on t.project_id = $1 and t.id = l.task_id
         where l.project_id = $1 and l.sent_back_at is not null and t.status not in ('done', 'cancelled')
           and not exists(select from landings n where n.project_id = $1 and n.task_id = l.task_id and n.token > l.token
                             and n.sent_back_at is not null)
         order by l.sent_back_at desc limit $2
        """,
        project_id,
        limit,
    )
    return [ShownLanding(Landing.from_record(record), record["title"]) for record in records]


async def landers(connection: Connection, project_id: str) -> list[LandingLease]:
    """Who lands now, and on what."""
    records = await connection.fetch(
        "select target, holder, until from landing_leases where project_id = $1 and until > loom_now() order by target",
        project_id,
    )
    return [LandingLease(**record) for record in records]


@dataclass(frozen=True, slots=True)
class LandingView:
    """A project's landings: what is queued, in its order; what is worked on or reported; what was sent back and has not
    landed since; what has landed, newest first; who lands now. Some of each."""

    tally: LandingTally
    queue: list[ShownLanding]
    working: list[ShownLanding]
    sent_back: list[ShownLanding]
    landed: list[ShownLanding]
    landers: list[LandingLease]


async def overview(connection: Connection, project_id: str, limit: int) -> LandingView:
    """What there is to see of a project's landings."""
    return LandingView(
        await tally(connection, project_id),
        await shown(connection, project_id, [LandingState.QUEUED], limit),
        await shown(connection, project_id, [LandingState.BEGUN, LandingState.REPORTED], limit),
        await sent_back(connection, project_id, limit),
        await shown(connection, project_id, [LandingState.LANDED], limit),
        await landers(connection, project_id),
    )


class Trouble(StrEnum):
    """Why work does not land by itself."""

    ASKS = "asks"  # for a person's yes
    NOBODY_LANDS = "nobody_lands"  # it has waited for long, and nobody lands on its target
    COMES_BACK = "comes_back"  # it was sent back again and again


@dataclass(frozen=True, slots=True)
class Stuck:
    """Work that does not land by itself, the title of its task, and how often that was sent back."""

    landing: Landing
    title: str
    trouble: Trouble
    times_sent: int


async def stuck(connection: Connection, project_id: str, seconds: float, times: int) -> list[Stuck]:
    """What somebody should look at: what waits for a yes, what has been queued for so many seconds while nobody landed,
    and unfinished tasks whose work was sent back so many times."""
    records = await connection.fetch(
        """
        select l.*, t.title, s.sent, f.trouble
          from (select q.id, case when q.needs_yes and q.approved_at is null then 'asks' else 'nobody_lands' end
                       as trouble
                  from landings q
                 where q.project_id = $1 and q.state = 'queued'
                   and ((q.needs_yes and q.approved_at is null)
                     or (coalesce(q.approved_at, q.queued_at) < loom_now() - make_interval(secs => $2)
                         and not exists(select from landing_leases e where e.project_id = $1 and e.target = q.target
                                           and e.until > loom_now())))
                 union all
                select max(b.id), 'comes_back'
                  from landings b join tasks t on t.project_id = $1 and t.id = b.task_id and t.done_at is null
                 where b.project_id = $1 and b.sent_back_at is not null
                 group by b.task_id having sum(b.times_sent) >= $3) f
          join landings l on l.project_id = $1 and l.id = f.id
          join tasks t on t.project_id = $1 and t.id = l.task_id
          cross join lateral (select sum(n.times_sent) as sent from landings n
                               where n.project_id = $1 and n.task_id = l.task_id) s
         order by l.queued_at, l.id limit $4
        """,
        project_id,
        seconds,
        times,
        _STUCK_SHOWN,
    )
    return [Stuck(Landing.from_record(one), one["title"], Trouble(one["trouble"]), one["sent"]) for one in records]
