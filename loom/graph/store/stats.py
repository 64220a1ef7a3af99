"""How a project went lately: how much was done, how long it took, how much failed; as a whole, and by epic, agent,
runner or day.

Only so many of the newest finished tasks are looked at, so that it costs the same among a thousand and a million; where
more were finished within the span, the figures begin with the oldest one that was looked at, and say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from loom.graph.store.glance import Estimate

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row

LOOKED_AT = 10_000
"""Tasks and failures that are looked at, at most."""

GROUPS = ("epic", "agent", "runner", "day")
"""What figures are told apart by."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was done in a span, and how long that took: medians in seconds, None where nothing of the kind was."""

    group: str
    """The epic's id, the agent, the runner or the day; "" where there is none, and for all together."""
    title: str
    """Of the epic; "" for anything else."""
    done: int
    failed: int
    """Attempts that failed; a lapse is none."""
    per_day: float
    """Tasks done in a day of the span, or on the day itself."""
    waiting: float | None
    """From when a task was ready to the claim that finished it."""
    working: float | None
    """From that claim to its report, without the checks."""
    proving: float | None
    """All runs of checks for that claim."""
    landing: float | None
    """From the queue onto the branch."""

    @property
    def failure_rate(self) -> float | None:
        """Failures among all attempts that ended with a report; None where there was none."""
        return self.failed / (self.done + self.failed) if self.done + self.failed else None


NOTHING = Figures("", "", 0, 0, 0.0, None, None, None, None)
"""Of a span in which nothing was done."""


@dataclass(frozen=True, slots=True)
class Stats:
    """How a project went from `since` to `until`. `partly`: more was finished in the span that was asked for, and it
    begins later. `groups`: by name of the day, else what has most done first."""

    since: datetime
    until: datetime
    partly: bool
    total: Figures
    groups: list[Figures]
    estimate: Estimate | None
    """When all may be done, as a glance has it."""


async def span(connection: Connection, project_id: str, seconds: float) -> tuple[datetime, datetime, bool]:
    """From when to when so many seconds back can be told, and whether that is less than was asked for."""
    row = await connection.fetchrow(SPAN, project_id, seconds, LOOKED_AT)
    assert row is not None
    return row["since"], row["until"], row["partly"]


SPAN = """
select greatest(n.oldest, w.begin) as since, loom_now() as until, coalesce(n.oldest > w.begin, false) as partly
  from (select loom_now() - make_interval(secs => $2) as begin) w,
       (select (select done_at from tasks where project_id = $1 and done_at is not null
                 order by done_at desc offset $3 limit 1) as oldest) n
"""


async def figures(
    connection: Connection, project_id: str, since: datetime, until: datetime, by: str | None, offset: float, limit: int
) -> list[Figures]:
    """The figures of all that was finished in a span, by group, or all together.

    Args:
        by: one of `GROUPS`; None for all together.
        offset: seconds by which the days are those of a zone east of Greenwich.
        limit: groups, those with most done, or the newest days.
    """
    group, failed_group = _GROUPED[by]
    order = "f.name desc" if by == "day" else "f.done desc, f.failed desc, f.name"
    days = max((until - since).total_seconds() / 86400, 1 / 86400)
    records = await connection.fetch(
        STATS.format(group=group, failed_group=failed_group, order=order),
        project_id, since, until, LOOKED_AT, limit, *([offset] if by == "day" else []),
    )  # fmt: skip
    found = [_figures(row, 1.0 if by == "day" else days) for row in records]
    return found[::-1] if by == "day" else found


def _figures(row: Row, days: float) -> Figures:
    return Figures(
        group=row["name"],
        title=row["title"] or "",
        done=row["done"],
        failed=row["failed"],
        per_day=row["done"] / days,
        waiting=row["waiting"],
        working=row["working"],
        proving=row["proving"],
        landing=row["landing"],
    )


_DAY = "to_char({} at time zone 'UTC' + make_interval(secs => $6), 'YYYY-MM-DD')"
_RUNNER = """coalesce((select e.data ->> 'runner' from events e
                         where e.project_id = $1 and e.task_id = {} and e.type = 'attempt.ended' and {}
                         order by e.id limit 1), '')"""
# How what is done, and what has failed, is told apart.
_GROUPED = {
    None: ("''", "''"),
    "epic": ("coalesce(t.parent_id, '')", "coalesce(t.parent_id, '')"),
    "agent": ("coalesce(t.assignee, '')", "coalesce(q.raised_by, '')"),
    "runner": (
        _RUNNER.format("t.id", "e.token = t.claim_token"),
        _RUNNER.format("q.task_id", "e.created_at >= q.raised_at"),  # it is noted once the failure is
    ),
    "day": (_DAY.format("t.done_at"), _DAY.format("q.raised_at")),
}

# A task that nobody claimed, such as an epic or one that came in done, was not worked on.
STATS = """
with done as (
    select {group} as name, extract(epoch from t.claimed_at - t.ready_at)::float8 as waiting,
           greatest(extract(epoch from coalesce(l.reported_at, l.queued_at, t.done_at) - t.claimed_at)::float8
                    - coalesce(p.seconds, 0), 0) as working,
           p.seconds as proving, extract(epoch from l.ended_at - l.queued_at)::float8 as landing
      from (select * from tasks where project_id = $1 and done_at between $2 and $3
             order by done_at desc limit $4) t
      left join landings l on l.project_id = $1 and l.task_id = t.id and l.token = t.claim_token
      left join lateral (select sum(seconds) as seconds from proofs p
                          where t.claim_token > 0 and p.project_id = $1 and p.task_id = t.id
                            and p.token = t.claim_token) p on true
     where t.status = 'done' and t.claimed_at is not null
), failed as (
    select {failed_group} as name
      from (select * from escalations where project_id = $1 and kind = 'failure' and raised_at between $2 and $3
             order by raised_at desc limit $4) q
      join tasks t on t.project_id = $1 and t.id = q.task_id
), figures as (
    select name, sum(done)::int as done, sum(failed)::int as failed, max(waiting) as waiting, max(working) as working,
           max(proving) as proving, max(landing) as landing
      from (select name, count(*) as done, 0 as failed,
                   percentile_cont(0.5) within group (order by waiting) as waiting,
                   percentile_cont(0.5) within group (order by working) as working,
                   percentile_cont(0.5) within group (order by proving) as proving,
                   percentile_cont(0.5) within group (order by landing) as landing
              from done group by name
            union all
            select name, 0, count(*), null, null, null, null from failed group by name) parts
     group by name
)
select f.*, e.title from figures f left join tasks e on e.project_id = $1 and e.id = f.name
 order by {order} limit $5
"""
