"""What PostgreSQL's planner believes of the tables, brought up to date where autovacuum would take too long."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from loom.db.connection import WHOLE

if TYPE_CHECKING:
    from loom.db.connection import Connection

_FEW = 500  # tasks over which any plan goes quickly
_MANY = 10_000
_MUCH = 5  # a fifth of what is there


async def analyze(connection: Connection, project_id: str, added: int = 0) -> None:
    """Refreshes the planner's statistics after so many tasks were added, if that is much for the table or the planner
    thinks that the project has far fewer than it has, instead of waiting for autovacuum to notice: that looks at what
    has changed in the whole table, and beside a large project a new one is hardly anything. Only of the columns that
    statements choose by; the others are wide."""
    known: float = await connection.fetchval("select reltuples from pg_class where oid = 'tasks'::regclass")
    if added * _MUCH >= known or await _misjudged(connection, project_id):
        await connection.execute(
            "analyze (skip_locked) tasks (project_id, id, status, priority, ready_at, parent_id, retry_at, done_at),"
            " task_deps (project_id, task_id, depends_on, waived_at)",
            timeout=WHOLE,
        )


async def _misjudged(connection: Connection, project_id: str) -> bool:
    plan = await connection.fetchval("explain (format json) select from tasks where project_id = $1", project_id)
    believed = json.loads(plan)[0]["Plan"]["Plan Rows"]
    if believed >= _MANY:  # planned for as a large one; to count its rows takes longer than that is worth
        return False
    return bool(
        await connection.fetchval(
            "select exists(select from tasks where project_id = $1 offset $2)", project_id, believed * _MUCH + _FEW
        )
    )
