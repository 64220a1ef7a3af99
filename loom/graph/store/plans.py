"""Plans that wait for a yes: stored when they are shown, written as tasks once. And what a plan is held against."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row


@dataclass(frozen=True, slots=True)
class Preview:
    """A stored plan; `answer` is what was said when it was written or refused, None until then."""

    id: str
    goal: str
    plan: dict[str, Any]
    answer: dict[str, Any] | None

    @classmethod
    def from_record(cls, record: Row) -> Preview:
        """Builds it from its row."""
        answer = record["answer"]
        return cls(
            record["id"], record["goal"], json.loads(record["plan"]), None if answer is None else json.loads(answer)
        )


async def store(tx: Transaction, plan: str, *, goal: str, agent: str, run_id: str | None) -> str:
    """Stores a plan (JSON text) and returns its id."""
    plan_id: str = await tx.connection.fetchval(
        "insert into plans (project_id, id, goal, plan, agent, run_id) values ($1, $2, $3, $4, $5, $6) returning id",
        tx.project_id,
        f"plan-{secrets.token_hex(4)}",
        goal,
        plan,
        agent,
        run_id,
    )
    return plan_id


async def get(connection: Connection, project_id: str, plan_id: str) -> Preview | None:
    """A stored plan."""
    record = await connection.fetchrow(
        "select id, goal, plan, answer from plans where project_id = $1 and id = $2", project_id, plan_id
    )
    return None if record is None else Preview.from_record(record)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan that waits for a yes; `agent`: who proposed it, `created_at`: when."""

    id: str
    goal: str
    agent: str
    created_at: datetime


async def proposed(connection: Connection, project_id: str, limit: int) -> list[Proposal]:
    """The plans that were shown lately and neither written nor refused since, the newest first: of each goal the newest
    one, and none that a workflow asks about itself."""
    records = await connection.fetch(PROPOSED, project_id, _LATELY, limit)
    return [Proposal(record["id"], record["goal"], record["agent"], record["created_at"]) for record in records]


PROPOSED = """
select p.id, p.goal, p.agent, p.created_at from plans p
 where p.project_id = $1 and p.answer is null and p.created_at > loom_now() - make_interval(days => $2)
   and not exists(select from plans n where n.project_id = $1 and n.goal = p.goal
                     and (n.created_at, n.id) > (p.created_at, p.id))
   and not exists(select from workflow_steps s where s.project_id = $1 and s.output ->> 'plan_id' = p.id)
 order by p.created_at desc, p.id limit $3
"""
_LATELY = 7  # days


async def lock(tx: Transaction, plan_id: str) -> Preview | None:
    """As `get`, locked: whoever comes second waits, and then sees what the first did."""
    await tx.connection.execute(
        "select from plans where project_id = $1 and id = $2 for no key update", tx.project_id, plan_id
    )
    return await get(tx.connection, tx.project_id, plan_id)


async def applied(tx: Transaction, plan_id: str, answer: Mapping[str, Any]) -> None:
    """Notes that a locked plan was written or refused, and what was said."""
    await tx.connection.execute(
        "update plans set applied_at = loom_now(), answer = $3 where project_id = $1 and id = $2",
        tx.project_id,
        plan_id,
        json.dumps(answer),
    )


async def open_tasks(connection: Connection, project_id: str, limit: int) -> list[tuple[str, str, str]]:
    """Id, status and title of the unfinished tasks, the newest first."""
    records = await connection.fetch(
        "select id, status, title from tasks where project_id = $1 and done_at is null"
        " order by created_at desc, id limit $2",
        project_id,
        limit,
    )
    return [(record["id"], record["status"], record["title"]) for record in records]


async def same_titles(connection: Connection, project_id: str, titles: Collection[str]) -> dict[str, str]:
    """Which of these titles, in lower case and with single spaces, an unfinished task bears: its id by the title."""
    records = await connection.fetch(
        """
        select min(id) as id, title from (
            select id, lower(btrim(regexp_replace(title, '\\s+', ' ', 'g'))) as title from tasks
             where project_id = $1 and done_at is null
        ) t where title = any($2::text[]) group by title
        """,
        project_id,
        list(titles),
    )
    return {record["title"]: record["id"] for record in records}
