"""What was done on a day: the tasks that were finished, what happened how often, and what workers told of its cost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loom.db.connection import Connection


@dataclass(frozen=True, slots=True)
class Finished:
    """A task that was done. `agent`: by whom, None for an epic; `seconds`: from its claim on; `commit`: what it landed
    with, and on which branch."""

    id: str
    title: str
    agent: str | None
    seconds: float | None
    commit: str | None
    target: str | None


@dataclass(frozen=True, slots=True)
class Spent:
    """What the workers of one agent told of their attempts; None where they told nothing of the kind."""

    agent: str
    attempts: int
    tokens: int | None
    cost_usd: float | None


async def finished(
    connection: Connection, project_id: str, begin: datetime, end: datetime, limit: int
) -> tuple[list[Finished], int]:
    """The tasks that were done between two moments, in order, at most so many; and how many there were."""
    records = await connection.fetch(
        """
        select t.id, t.title, case when t.claimed_at is not null then t.assignee end as agent,
               extract(epoch from t.done_at - t.claimed_at)::float8 as seconds, l.landed_commit as commit, l.target
          from tasks t
          left join landings l on l.project_id = t.project_id and l.task_id = t.id and l.token = t.claim_token
                              and l.state = 'landed'
         where t.project_id = $1 and t.done_at >= $2 and t.done_at < $3 and t.status = 'done'
         order by t.done_at, t.id limit $4
        """,
        project_id,
        begin,
        end,
        limit,
    )
    count: int = await connection.fetchval(
        "select count(*) from tasks where project_id = $1 and done_at >= $2 and done_at < $3 and status = 'done'",
        project_id,
        begin,
        end,
    )
    return [Finished(**record) for record in records], count


# Events between two moments: they come nearly in the order of time, so they are looked for from the newest back.
_BETWEEN = """
    from events e where e.project_id = $1 and e.created_at >= $2 and e.created_at < $3
     and (e.xid, e.id) > (
         coalesce((select xid from events where project_id = $1 and created_at < $2 order by xid desc, id desc limit 1),
                  '0'::xid8), 0)
"""


async def happened(connection: Connection, project_id: str, begin: datetime, end: datetime) -> dict[str, int]:
    """How often what happened between two moments: types of events."""
    records = await connection.fetch(f"select type, count(*) {_BETWEEN} group by type", project_id, begin, end)
    return {record["type"]: record["count"] for record in records}


async def spent(connection: Connection, project_id: str, begin: datetime, end: datetime) -> list[Spent]:
    """What attempts that ended between two moments have cost, by agent, as far as workers told."""

    def told(key: str) -> str:
        value = f"e.data -> 'usage' -> '{key}'"
        number = f"least(greatest(({value} #>> '{{}}')::numeric, 0), 1e12)"
        return f"sum(case jsonb_typeof({value}) when 'number' then {number} end)"

    records = await connection.fetch(
        f"""
        select coalesce(e.agent, '') as agent, count(*) as attempts,
               (coalesce({told("input_tokens")}, 0) + coalesce({told("output_tokens")}, 0))::bigint as tokens,
               {told("cost_usd")}::float8 as cost_usd
        {_BETWEEN} and e.type = 'attempt.ended' group by 1 order by 1
        """,
        project_id,
        begin,
        end,
    )
    return [Spent(row["agent"], row["attempts"], row["tokens"] or None, row["cost_usd"]) for row in records]


async def now(connection: Connection) -> datetime:
    """The time."""
    found: datetime = await connection.fetchval("select loom_now()")
    return found
