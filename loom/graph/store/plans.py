"""Plans that wait for a yes: stored when they are shown, written as tasks once. And what a plan is held against."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loom import texts
from loom.bus.events import EventType
from loom.bus.publisher import publish_workflow
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row


_TOLD = 200  # characters of a goal or a note that events have
_LATELY = 7  # days


@dataclass(frozen=True, slots=True)
class Preview:
    """A stored plan; `agent`: who proposed it; `of_workflow`: a workflow asks about it itself; `answer`: what was said
    when it was written or refused, None until then."""

    id: str
    goal: str
    agent: str
    of_workflow: bool
    plan: dict[str, Any]
    answer: dict[str, Any] | None

    @classmethod
    def from_record(cls, record: Row) -> Preview:
        """Builds it from its row."""
        answer = record["answer"]
        return cls(
            record["id"],
            record["goal"],
            record["agent"],
            record["of_workflow"],
            json.loads(record["plan"]),
            None if answer is None else json.loads(answer),
        )


async def store(
    tx: Transaction, plan: str, *, count: int, goal: str, agent: str, run_id: str | None, of_workflow: bool
) -> str:
    """Stores a plan (JSON text) of so many tasks, tells of it, and returns its id."""
    plan_id: str = await tx.connection.fetchval(
        """
        insert into plans (project_id, id, goal, plan, agent, run_id, of_workflow) values ($1, $2, $3, $4, $5, $6, $7)
        returning id
        """,
        tx.project_id,
        f"plan-{secrets.token_hex(4)}",
        goal,
        plan,
        agent,
        run_id,
        of_workflow,
    )
    facts = {"tasks": count, "goal": texts.shorten(goal, _TOLD)} | ({"workflow": True} if of_workflow else {})
    _tell(tx, EventType.PLAN_PROPOSED, plan_id, agent, facts)
    return plan_id


async def get(connection: Connection, project_id: str, plan_id: str) -> Preview | None:
    """A stored plan."""
    record = await connection.fetchrow(
        "select id, goal, agent, of_workflow, plan, answer from plans where project_id = $1 and id = $2",
        project_id,
        plan_id,
    )
    return None if record is None else Preview.from_record(record)


WAITS = f"""
p.project_id = $1 and p.answer is null and not p.of_workflow
and p.created_at > loom_now() - make_interval(days => {_LATELY})
and not exists(select from plans n where n.project_id = $1 and not n.of_workflow and n.created_at >= p.created_at
                  and n.goal = p.goal and p.goal <> '' and (n.created_at, n.id) > (p.created_at, p.id))
"""
"""Of which rows `p` of plans a person is asked: those that were proposed lately and neither written nor refused since,
of each goal the newest one, of those without a goal each, and none that a workflow asks about itself."""


async def lock(tx: Transaction, plan_id: str) -> Preview | None:
    """As `get`, locked: whoever comes second waits, and then sees what the first did."""
    await tx.connection.execute(
        "select from plans where project_id = $1 and id = $2 for no key update", tx.project_id, plan_id
    )
    return await get(tx.connection, tx.project_id, plan_id)


async def refused(tx: Transaction, plan_id: str, answer: Mapping[str, Any], agent: str, note: str) -> None:
    """Notes that a locked plan was refused, and what was said, and tells of it."""
    await applied(tx, plan_id, answer)
    _tell(tx, EventType.PLAN_REFUSED, plan_id, agent, {"note": texts.shorten(note, _TOLD)} if note else {})


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


def _tell(tx: Transaction, event: EventType, plan_id: str, agent: str, facts: Mapping[str, Any]) -> None:
    """Notes an event of a plan, and announces it."""
    tx.record_event(event, agent=agent, data={"plan_id": plan_id, **facts})
    tx.announce(publish_workflow(tx.project_id, {"type": event, "plan_id": plan_id}))
