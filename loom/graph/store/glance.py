"""What whoever comes to a project wants to know first: what waits for a person, who is at what, how far the epics are,
and when it may end. Each question reads no more than it shows, among a hundred tasks and a million."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from loom.graph.model.task import FOREVER, Priority
from loom.graph.store.edges import HOLDS
from loom.graph.store.plans import WAITS
from loom.wording import Shell, Words, call

if TYPE_CHECKING:
    from loom.db.connection import Connection

COUNTED = 2_000
"""How many are counted at most of what a question holds up, and of an epic's children; and how many dead letters are
looked at."""

_SPANS = (1, 6, 24, 168)  # hours over which a pace is taken
_ENOUGH = 20  # tasks done, for a pace of the shortest span that has as many
_FEWEST = 5  # of the longest, or there is none
_GOAL = 500  # characters of a plan's
_LOOKED_AT = 2_000  # tasks that were finished last
_LONGEST = timedelta(days=366)


class Need(StrEnum):
    """Why something waits for a person."""

    QUESTION = "question"  # a worker asks
    CONFIRM = "confirm"  # a workflow asks for a yes
    LANDING = "landing"  # work waits in the queue for a yes
    PLAN = "plan"  # tasks that somebody proposes wait for a yes
    DEAD = "dead_letter"  # work has failed for good


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing that waits for a person."""

    need: Need
    id: str
    """Of the escalation, the workflow's run, the plan, or the task."""
    task_id: str | None
    """None for a workflow and a plan."""
    title: str
    """Of the task, the name of the workflow, or the goal of the plan, "" where it has none."""
    text: str
    """What is asked, or why it is dead; "" where the title says it."""
    since: datetime
    held_up: int
    """How many unfinished tasks depend on the task, `COUNTED` at most."""
    diagnosis: dict[str, Any] | None = None
    """What a model that was asked about the task's newest open escalation found, as `Escalation` has it."""

    @property
    def answer(self) -> Words:
        """The call that answers it."""
        match self.need:
            case Need.QUESTION:
                return Words("{}", call("resolve", id=self.id, action="answer", note=...))
            case Need.CONFIRM:
                return Words("{}", call("workflow", action="resume", run_id=self.id, inputs={"yes": True}))
            case Need.LANDING:
                return Words("{}", Shell(f"loom landing approve {self.id}"))
            case Need.PLAN:
                return Words("{}", call("decompose", plan_id=self.id))
            case Need.DEAD:
                return Words("{}", call("resolve", id=self.id, action="retry"))


class Phase(StrEnum):
    """How far claimed work is."""

    WORKING = "working"
    PROVING = "proving"  # reported, or a check runs for it
    LANDING = "landing"  # proven, in the queue


@dataclass(frozen=True, slots=True)
class Progress:
    """One task that somebody is at."""

    id: str
    title: str
    priority: Priority
    agent: str
    phase: Phase
    since: datetime
    """When it was claimed."""
    last_sign: datetime
    """When its claim was renewed last, or something else was heard of it."""
    lease_expires_at: datetime | None
    """None while it is in the queue."""
    token: int
    """Of the claim."""
    stale: bool
    """Less than a third of its lease is left, which nobody lets happen whose server still renews it."""


@dataclass(frozen=True, slots=True)
class EpicProgress:
    """How far an open epic that belongs to no other one is: `done` of its children, which are `of`, cancelled ones left
    out; `COUNTED` of each status at most."""

    id: str
    title: str
    priority: Priority
    done: int
    of: int
    waits: bool
    """Whether it waits for something, and its children with it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """When what is left may end, if it goes on at a pace: `done` tasks in the last `seconds`. `left`: unfinished tasks
    without epics and dead letters."""

    at: datetime
    left: int
    done: int
    seconds: float


async def needs_you(connection: Connection, project_id: str, limit: int) -> list[Ask]:
    """What waits for a person: so many of each kind at most, the oldest first."""
    return [
        Ask(
            Need(row["need"]),
            row["id"],
            row["task_id"],
            row["title"],
            row["text"] or "",
            row["since"],
            row["held_up"],
            None if row["diagnosis"] is None else json.loads(row["diagnosis"]),
        )
        for row in await connection.fetch(NEEDS_YOU, project_id, limit, COUNTED)
    ]


# Of very many dead ones it is not the oldest that are shown.
NEEDS_YOU = f"""
select a.*, h.held_up,
       (select d.diagnosis from escalations d
         where d.project_id = $1 and d.task_id = a.task_id and d.resolved_at is null and d.diagnosis is not null
         order by d.raised_at desc limit 1) as diagnosis
  from ((select 1 as rank, 'question' as need, q.id, q.task_id, t.title, q.message as text, q.raised_at as since
           from escalations q join tasks t on t.project_id = $1 and t.id = q.task_id
          where q.project_id = $1 and q.resolved_at is null and q.kind = 'question' order by q.raised_at limit $2)
        union all
        (select 2, 'confirm', r.id, null, r.workflow, s.inputs ->> 'message', s.started_at
           from workflow_runs r
           join workflow_steps s on s.project_id = $1 and s.run_id = r.id and s.position = r.position
          where r.project_id = $1 and r.status = 'waiting' and s.type = 'confirm' and s.status = 'waiting'
          order by r.created_at limit $2)
        union all
        (select 3, 'landing', l.task_id, l.task_id, t.title, null, l.queued_at
           from landings l join tasks t on t.project_id = $1 and t.id = l.task_id
          where l.project_id = $1 and l.state = 'queued' and l.needs_yes and l.approved_at is null
          order by l.queued_at limit $2)
        union all
        (select 4, 'plan', p.id, null, left(p.goal, {_GOAL}), null, p.created_at
           from plans p where {WAITS} order by p.created_at limit $2)
        union all
        (select 5, 'dead_letter', t.id, t.id, t.title, t.dead_reason, t.updated_at
           from (select * from tasks where project_id = $1 and status = 'failed' and retry_at is null limit $3) t
          order by t.updated_at limit $2)) a,
       lateral (select count(*) as held_up
                  from (select from task_deps e join tasks t on t.project_id = $1 and t.id = e.task_id
                         where e.project_id = $1 and e.depends_on = a.task_id and {HOLDS} limit $3) n) h
 order by a.rank, a.since, a.id
"""


async def confirms(connection: Connection, project_id: str) -> int:
    """How many workflows wait for a yes."""
    count: int = await connection.fetchval(
        """
        select count(*) from workflow_runs r
          join workflow_steps s on s.project_id = $1 and s.run_id = r.id and s.position = r.position
         where r.project_id = $1 and r.status = 'waiting' and s.type = 'confirm' and s.status = 'waiting'
        """,
        project_id,
    )
    return count


async def in_progress(connection: Connection, project_id: str, limit: int) -> list[Progress]:
    """The claimed tasks: what is worked on before what lands, the longest claimed first."""
    return [
        Progress(
            row["id"],
            row["title"],
            Priority(f"p{row['priority']}"),
            row["assignee"],
            Phase(row["phase"]),
            row["claimed_at"],
            row["last_sign"],
            None if row["lease_expires_at"] == FOREVER else row["lease_expires_at"],
            row["claim_token"],
            row["stale"],
        )
        for row in await connection.fetch(IN_PROGRESS, project_id, limit)
    ]


IN_PROGRESS = """
select t.id, t.title, t.priority, t.assignee, t.claimed_at, t.claim_token, t.lease_expires_at,
       case when t.lease_expires_at = 'infinity' then 'landing'
            when l.state = 'reported' or p.ended_at is null and p.started_at is not null then 'proving'
            else 'working' end as phase,
       greatest(t.claimed_at, p.started_at, p.ended_at, e.created_at,
                case when t.lease_expires_at < 'infinity'
                     then t.lease_expires_at - make_interval(secs => t.lease_seconds) end) as last_sign,
       t.lease_expires_at < loom_now() + make_interval(secs => t.lease_seconds / 3) as stale
  from (select * from tasks where project_id = $1 and status = 'claimed'
         order by lease_expires_at = 'infinity', claimed_at, id limit $2) t
  left join landings l on l.project_id = $1 and l.task_id = t.id and l.token = t.claim_token
  left join lateral (select started_at, ended_at from proofs p
                      where p.project_id = $1 and p.task_id = t.id and p.token = t.claim_token
                      order by p.id desc limit 1) p on true
  left join lateral (select created_at from events e
                      where e.project_id = $1 and e.task_id = t.id order by e.id desc limit 1) e on true
 order by t.lease_expires_at = 'infinity', t.claimed_at, t.id
"""


async def epics(connection: Connection, project_id: str, limit: int) -> list[EpicProgress]:
    """Open epics that belong to no other one: by priority, the oldest first."""
    return [
        EpicProgress(
            row["id"],
            row["title"],
            Priority(f"p{row['priority']}"),
            row["done"],
            row["done"] + row["open"],
            row["waiting"] > 0,
        )
        for row in await connection.fetch(EPICS, project_id, limit, COUNTED)
    ]


# A status lies between itself and itself: so the planner takes the children's index, however many of them it expects.
EPICS = """
select t.id, t.title, t.priority, t.waiting, c.done, c.open
  from (select * from tasks where project_id = $1 and status = 'epic' and parent_id is null
         order by priority, created_at, id limit $2) t,
       lateral (select coalesce(sum(n.children) filter (where s.status = 'done'), 0)::int as done,
                       coalesce(sum(n.children) filter (where s.status <> 'done'), 0)::int as open
                  from unnest(array['pending', 'blocked', 'claimed', 'failed', 'epic', 'done']) s(status),
                       lateral (select count(*) as children
                                  from (select from tasks k where k.project_id = $1 and k.parent_id = t.id
                                           and k.status between s.status and s.status limit $3) k) n) c
 order by t.priority, t.created_at, t.id
"""


async def estimate(connection: Connection, project_id: str, left: int) -> Estimate | None:
    """When so many tasks may be done, by what was done lately; None where too little was, or nothing is left.

    What was done without a claim, such as an import, says nothing of a pace.
    """
    if left <= 0:
        return None
    spans = await connection.fetch(PACE, project_id, list(_SPANS), _LOOKED_AT)
    enough = [row for row in spans if row["done"] >= _ENOUGH][:1] or [row for row in spans if row["done"] >= _FEWEST]
    if not enough:
        return None
    done, seconds = enough[-1]["done"], enough[-1]["seconds"]
    ahead = left * seconds / done
    if ahead > _LONGEST.total_seconds():
        return None
    return Estimate(enough[-1]["now"] + timedelta(seconds=ahead), left, done, seconds)


# A span that began before the first of these claims counts from there.
PACE = """
select s.hours, count(*)::int as done, loom_now() as now,
       greatest(extract(epoch from least(make_interval(hours => s.hours), loom_now() - min(d.claimed_at))), 1)::float8
           as seconds
  from unnest($2::int[]) s(hours)
  join (select status, claimed_at, done_at from tasks where project_id = $1 and done_at is not null
         order by done_at desc limit $3) d
    on d.done_at > loom_now() - make_interval(hours => s.hours) and d.status = 'done' and d.claimed_at is not null
 group by s.hours order by s.hours
"""
