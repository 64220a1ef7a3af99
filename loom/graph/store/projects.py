"""Rows of `projects`, and which history of the database they live in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg

from loom.db.connection import block
from loom.graph.store import events

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row


@dataclass(frozen=True, slots=True)
class Project:
    """One project."""

    id: str
    name: str
    created_at: datetime
    archived_at: datetime | None

    @classmethod
    def from_record(cls, record: Row) -> Project:
        """Builds a project from its row."""
        return cls(str(record["id"]), record["name"], record["created_at"], record["archived_at"])


# Restored elsewhere, or to an earlier time, or from a dump into another database: transaction numbers start again.
_HISTORY = """
select {} || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
    || '/' || (select oid::text from pg_database where datname = current_database())
    || coalesce(nullif('.' || current_schema(), '.public'), '')
"""
_SYSTEM = "(select system_identifier::text from pg_control_system())"
# For a role that may not ask for the system: the table of projects, and the transaction that made it.
_STAND_IN = """
(select attrelid::text || '.' || xmin::text from pg_attribute
  where attrelid = 'projects'::regclass and attname = 'id')
"""


async def history(connection: Connection) -> str:
    """Which history of which database a connection is in: `<system>/<timeline>/<database>`, the timeline in hex, and
    the schema after the database, unless it is `public`."""
    try:
        found: str = await connection.fetchval(_HISTORY.format(_SYSTEM))
    except asyncpg.InsufficientPrivilegeError:
        found = await connection.fetchval(_HISTORY.format(_STAND_IN))
    return found


async def has_tasks(connection: Connection, project_id: str) -> bool:
    """Whether the project has any task, in whatever status."""
    return bool(await connection.fetchval("select exists (select from tasks where project_id = $1)", project_id))


async def enter(connection: Connection, project_id: str, name: str) -> str:
    """Makes sure that the project's row exists and knows the history of this database, and returns the project's own:
    that of the database, or one that it began there when it was restored, `<history>+<word>`.

    A history that is new to the project begins after the newest event there is: the old ones were written under
    transaction numbers that mean nothing now.
    """
    now = await history(connection)
    known: str | None = await connection.fetchval("select history from projects where id = $1", project_id)
    if known is not None and is_of(known, now):
        return known
    async with block(connection):
        done = await connection.execute(
            """
            insert into projects as p (id, name, history, history_start) values ($1, $2, $3, 0)
            on conflict (id) do update
               set history = $3, pruned_xid = '0', pruned_id = 0,
                   history_start = (select coalesce(max(id), 0) from events where project_id = $1)
             where p.history is distinct from $3
            """,
            project_id,
            name,
            now,
        )
        if done.endswith(" 1"):
            await events.put_behind(connection, project_id)
    return now


def is_of(own: str, history: str) -> bool:
    """Whether a project's own history is one of this history of a database."""
    return own.partition("+")[0] == history


async def begun(connection: Connection, project_id: str) -> tuple[str, int]:
    """The project's own history, and the number of the newest event that an earlier one wrote; 0 where there was
    none."""
    record = await connection.fetchrow("select history, history_start from projects where id = $1", project_id)
    return ("", 0) if record is None else (record["history"] or "", record["history_start"] or 0)


async def get(connection: Connection, project_id: str) -> Project | None:
    """The project's row."""
    record = await connection.fetchrow("select * from projects where id = $1", project_id)
    return None if record is None else Project.from_record(record)


async def list_projects(connection: Connection) -> list[Project]:
    """All projects of this database, oldest first."""
    return [
        Project.from_record(record)
        for record in await connection.fetch("select * from projects order by created_at, id")
    ]


async def archive(connection: Connection, project_id: str) -> bool:
    """Hides a project from lists; nothing is removed. False if it was archived before."""
    done = await connection.execute(
        "update projects set archived_at = loom_now() where id = $1 and archived_at is null", project_id
    )
    return done.endswith(" 1")


async def connected(connection: Connection, project_id: str) -> dict[str, int]:
    """Projects other than this one that have connections to this server: name to how many. A project of another
    database is named by its id."""
    records = await connection.fetch(
        """
        select coalesce(p.name, substr(a.application_name, 6)) as name, count(*) as sessions
          from pg_stat_activity a left join projects p on p.id::text = substr(a.application_name, 6)
         where a.application_name like 'loom/%' and substr(a.application_name, 6) <> $1 group by 1 order by 1
        """,
        project_id,
    )
    return {record["name"]: record["sessions"] for record in records}
