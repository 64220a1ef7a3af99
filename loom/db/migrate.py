"""Brings a database's schema up to this version of Loom, once, whoever comes first."""

from __future__ import annotations

from importlib import metadata, resources
from typing import TYPE_CHECKING, NamedTuple

from loom.exceptions import SchemaTooNewError

if TYPE_CHECKING:
    from loom.db.connection import Connection

_LOCK = 0x6C6F6F6D  # "loom", the key of the lock under which migrations run


class Migration(NamedTuple):
    """One file of `migrations/`: `number` from its name, `sql` its text."""

    number: int
    name: str
    sql: str


def migrations() -> list[Migration]:
    """All migrations that this version knows, in order."""
    files = (file for file in resources.files("loom.db").joinpath("migrations").iterdir() if file.name.endswith(".sql"))
    known = [Migration(int(file.name[:3]), file.name[4:-4], file.read_text("utf-8")) for file in files]
    return sorted(known)


async def migrate(connection: Connection) -> list[str]:
    """Runs the migrations that are missing, in one transaction, and returns their names.

    A transaction-level lock lets one process do it while the others wait and then find nothing to do. When nothing is
    missing this is a single query.

    Raises:
        SchemaTooNewError: a newer Loom has been here; nothing was changed.
    """
    known = migrations()
    if await _applied(connection, known) == known[-1].number:
        return []
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(
            "create table if not exists loom_migrations ("
            " number integer primary key, name text not null, loom_version text not null,"
            " applied_at timestamptz not null default now())"
        )
        applied = await _applied(connection, known)
        missing = [migration for migration in known if migration.number > applied]
        for migration in missing:
            await connection.execute(migration.sql)
            await connection.execute(
                "insert into loom_migrations (number, name, loom_version) values ($1, $2, $3)",
                migration.number,
                migration.name,
                metadata.version("loom-agents"),
            )
    return [migration.name for migration in missing]


async def _applied(connection: Connection, known: list[Migration]) -> int:
    """The number of the newest migration that the database has; 0 for an empty one."""
    if await connection.fetchval("select to_regclass('loom_migrations')") is None:
        return 0
    newest = await connection.fetchrow("select number, loom_version from loom_migrations order by number desc limit 1")
    if newest is None:
        return 0
    if newest["number"] > known[-1].number:
        raise SchemaTooNewError(
            f"The database was migrated by Loom {newest['loom_version']}, which is newer than this one.",
            f"Install that version: pipx install --force 'loom-agents>={newest['loom_version']}'.",
        )
    return int(newest["number"])
