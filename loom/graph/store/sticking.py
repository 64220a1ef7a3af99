"""What does not go on by itself, whoever works: the roots of what is stuck, and how much each of them holds up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from loom.graph.store.edges import HOLDS
from loom.wording import Shell, Words, call

if TYPE_CHECKING:
    from loom.db.connection import Connection

COUNTED = 200
"""How many tasks are counted at most that one of them holds up."""

_LOOKED_AT = 1_000  # dead ones, questions, and blocked ones for what they wait for
_KNOWN = 10_000  # cancelled tasks, the newest, and epics, among which that is looked for


class Cause(StrEnum):
    """Why something does not go on."""

    DEAD = "dead_letter"
    QUESTION = "question"
    DEFERRED = "deferred"
    LANDING = "landing"  # waits for a person's yes
    CANCELLED = "cancelled"  # and others wait for it
    CHILDLESS = "childless"  # an epic without children, for which others wait


@dataclass(frozen=True, slots=True)
class Root:
    """One thing that holds others up, or itself."""

    cause: Cause
    id: str
    """Of the task."""
    escalation: str | None
    """The question or deferral, where it is one."""
    title: str
    text: str
    """Why it is dead, what is asked, or why it was put off; "" where the cause says it."""
    since: datetime
    held_up: int
    """How many unfinished tasks wait for it, directly or not, `COUNTED` at most."""

    @property
    def way_out(self) -> Words:
        """The call that lets it go on."""
        match self.cause:
            case Cause.QUESTION:
                return Words("{}", call("resolve", id=self.escalation, action="answer", note=...))
            case Cause.DEFERRED:
                return Words("{}", call("resolve", id=self.escalation, action="retry"))
            case Cause.LANDING:
                return Words("{}", Shell(f"loom landing approve {self.id}"))
            case Cause.DEAD:
                return Words("{}", call("resolve", id=self.id, action="retry"))
            case Cause.CANCELLED:
                return Words("{}", call("resolve", id=self.id, action="waive"))
            case Cause.CHILDLESS:
                return Words("{}", call("create", title=..., parent_id=self.id))


async def roots(connection: Connection, project_id: str, limit: int) -> list[Root]:
    """What does not go on by itself: what holds up most first; of very many those for which most wait directly."""
    return [
        Root(
            Cause(row["cause"]),
            row["id"],
            row["escalation"],
            row["title"],
            row["text"] or "",
            row["since"],
            row["held_up"],
        )
        for row in await connection.fetch(ROOTS, project_id, limit, _LOOKED_AT, COUNTED, _KNOWN)
    ]


# What the blocked wait for is looked at from their side, and held against ids that an index brings, so that of what was
# cancelled or is an epic only that is read for which something waits.
ROOTS = f"""
with blocked as materialized (
    select id from tasks where project_id = $1 and status = 'blocked' order by priority, id limit $3
), targets as (
    select distinct e.depends_on as id from blocked b
      join task_deps e on e.project_id = $1 and e.task_id = b.id and e.waived_at is null
), awaited as (
    select id from targets w
     where id in (select id from tasks where project_id = $1 and status = 'cancelled' order by done_at desc limit $5)
        or id in (select id from tasks where project_id = $1 and status = 'epic' order by priority, id limit $5)
           and not exists(select from tasks k where k.project_id = $1 and k.parent_id = w.id limit 1)
), roots as (
    select case when t.status = 'epic' then 'childless' else 'cancelled' end as cause, t.id, null as escalation,
           t.title, null as text, t.updated_at as since
      from awaited a join tasks t on t.project_id = $1 and t.id = a.id
    union all
    select 'dead_letter', t.id, null, t.title, t.dead_reason, t.updated_at
      from (select * from tasks where project_id = $1 and status = 'failed' and retry_at is null limit $3) t
    union all
    select q.kind, q.task_id, q.id, t.title, q.message, q.raised_at
      from (select * from escalations where project_id = $1 and resolved_at is null and kind in ('question', 'deferred')
             order by raised_at limit $3) q
      join tasks t on t.project_id = $1 and t.id = q.task_id
    union all
    select 'landing', l.task_id, null, t.title, null, l.queued_at
      from landings l join tasks t on t.project_id = $1 and t.id = l.task_id
     where l.project_id = $1 and l.state = 'queued' and l.needs_yes and l.approved_at is null
), chosen as (
    select r.* from roots r, lateral (
               select count(*) as direct
                 from (select from task_deps e join tasks t on t.project_id = $1 and t.id = e.task_id
                        where e.project_id = $1 and e.depends_on = r.id and {HOLDS} limit 100) n) d
     order by d.direct desc, r.since, r.id limit $2
)
select r.*, h.held_up
  from chosen r,
       lateral (select count(*) - 1 as held_up from (
           with recursive held(id) as (
               select r.id
               union
               select n.id from held h cross join lateral (
                   select e.task_id from task_deps e join tasks t on t.project_id = $1 and t.id = e.task_id
                    where e.project_id = $1 and e.depends_on = h.id and {HOLDS}
                   union all
                   select k.parent_id from tasks k where k.project_id = $1 and k.id = h.id and k.parent_id is not null
                   union all
                   select k.id from tasks p join tasks k on k.project_id = $1 and k.parent_id = p.id
                    where p.project_id = $1 and p.id = h.id and p.status = 'epic' and k.status = 'blocked'
               ) n(id))
           select from held limit $4 + 1) n) h
 order by h.held_up desc, r.since, r.id
"""
