"""Brings a database's schema up to this version of Loom, once, whoever comes first and may.

A file of `migrations/` is named by its number. Its first line may be `-- needs: 2.0.0`, the oldest Loom that still
runs where it has been applied: a migration that only adds names an older one than that which brings it, and locks
nobody out. Without that line it is the version that applies it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from loom import bridge
from loom.bundled import bundled
from loom.db.connection import WHOLE, block
from loom.exceptions import ConfigError, SchemaTooNewError, SchemaTooOldError
from loom.wording import Shell, Words

if TYPE_CHECKING:
    from loom.db.connection import Connection

_FILES = bundled("db/migrations", ".sql")
_LOCK = 0x6C6F6F6D  # "loom", the key of the lock under which migrations run
_NEEDS = re.compile(r"-- needs: (\d+(?:\.\d+)*)\n")
# The column came later than the table: a row that has none needs the version that applied it.
_TABLE = """
create table if not exists loom_migrations (
    number       integer     primary key,
    name         text        not null,
    loom_version text        not null,
    applied_at   timestamptz not null default now(),
    needs        text
);
alter table loom_migrations add column if not exists needs text
"""


class Policy(StrEnum):
    """Whether whoever connects migrates. A database that several machines share is brought forward by somebody who
    means to: the first of them with a newer Loom would lock the others out."""

    ALWAYS = "always"
    EMPTY = "empty"
    """Only where there is no schema of Loom's yet."""
    NEVER = "never"


class Migration(NamedTuple):
    """One file of `migrations/`: `number` from its name, `sql` its text, `needs` the oldest Loom that runs on it."""

    number: int
    name: str
    sql: str
    needs: str


def migrations() -> list[Migration]:
    """All migrations that this version knows, in order."""
    return [_migration(name, text.decode()) for name, text in _FILES.items()]


def _migration(name: str, sql: str) -> Migration:
    stated = _NEEDS.match(sql)
    return Migration(int(name[:3]), name[4:-4], sql, stated[1] if stated else bridge.VERSION)


async def missing(connection: Connection, known: Sequence[Migration] | None = None) -> list[Migration]:
    """The migrations that a database lacks, in order; nothing is changed. Raises SchemaTooNewError."""
    return (await _lacking(connection, migrations() if known is None else known))[0]


async def migrate(
    connection: Connection,
    known: Sequence[Migration] | None = None,
    *,
    schema: str | None = None,
    policy: Policy = Policy.ALWAYS,
) -> list[str]:
    """Runs the migrations that are missing, in one transaction, and returns their names.

    A transaction-level lock lets one process do it while the others wait and then find nothing to do. When nothing is
    missing this is a single query. What a newer Loom has added and does not mind is left as it is.

    Args:
        known: what to bring it up to, by default all that there are.
        schema: where all of it is, made if it is not there; by default where the connection comes to by itself.
        policy: whether that is for this caller to do.

    Raises:
        ConfigError: the connection comes to another schema; nothing was changed.
        SchemaTooNewError: a newer Loom has made it unfit for this one; nothing was changed.
        SchemaTooOldError: something is missing, and it is not for this caller to bring; nothing was changed.
    """
    known = migrations() if known is None else known
    if schema is not None:
        await _must_come_to(connection, schema)
    lacking, empty = await _lacking(connection, known)
    if not lacking:
        return []
    if policy is Policy.NEVER or (policy is Policy.EMPTY and not empty):
        raise _too_old(lacking, empty)
    async with block(connection):
        await connection.execute("select pg_advisory_xact_lock($1)", _LOCK, timeout=WHOLE)
        if schema is not None and await connection.fetchval("select to_regnamespace($1) is null", schema):
            await connection.execute(f'create schema "{schema}"')
        return await apply(connection, known)


async def apply(connection: Connection, known: Sequence[Migration]) -> list[str]:
    """As `migrate`, within a transaction of the caller's who has made sure that nobody else does."""
    await connection.execute(_TABLE)
    lacking = _missing(await _applied(connection), known)
    for migration in lacking:
        await connection.execute(migration.sql, timeout=WHOLE)
        await connection.execute(
            "insert into loom_migrations (number, name, loom_version, needs) values ($1, $2, $3, $4)",
            migration.number,
            migration.name,
            bridge.VERSION,
            migration.needs,
        )
    return [migration.name for migration in lacking]


async def _lacking(connection: Connection, known: Sequence[Migration]) -> tuple[list[Migration], bool]:
    """What a database lacks, and whether that is because it has nothing of Loom's."""
    try:
        return _missing(await _applied(connection), known), False
    except asyncpg.UndefinedTableError:
        return list(known), True


def _too_old(lacking: Sequence[Migration], empty: bool) -> SchemaTooOldError:
    names = ", ".join(migration.name for migration in lacking)
    cause = "has no tables of Loom's yet" if empty else f"is older than this Loom, {bridge.VERSION}: it lacks {names}"
    return SchemaTooOldError(
        f"The database {cause}.", Words("Run {}, once for all who share it.", Shell("loom migrate"))
    )


async def _must_come_to(connection: Connection, schema: str) -> None:
    found = await connection.fetchrow(
        "select current_setting('search_path') as path, current_user as role, current_database() as database"
    )
    assert found is not None
    first, role, database = found["path"].split(",")[0].strip().strip('"'), found["role"], found["database"]
    if first != schema:
        raise ConfigError(
            f"Connections to PostgreSQL come to the schema {first or 'of no name'}, and database.schema is {schema}.",
            f"A pooler leaves that to the role: run ALTER ROLE {role} IN DATABASE {database} SET search_path = {schema}"
            " as one who may, then have the pooler connect anew.",
        )


async def _applied(connection: Connection) -> dict[int, str]:
    """The migrations that the database has, and the oldest Loom that runs on each."""
    rows = await connection.fetch(
        "select number, coalesce(to_jsonb(one) ->> 'needs', loom_version) as needs from loom_migrations one"
    )
    return {row["number"]: row["needs"] for row in rows}


def _missing(applied: Mapping[int, str], known: Sequence[Migration]) -> list[Migration]:
    """What is to be applied. Raises SchemaTooNewError."""
    numbers = {migration.number for migration in known}
    needs = max((needs for number, needs in applied.items() if number not in numbers), key=_order, default="0")
    if _order(needs) > _order(bridge.VERSION):
        raise SchemaTooNewError(
            f"The database needs Loom {needs} or newer, and this is Loom {bridge.VERSION}.",
            f"Install Loom {needs} or newer.",
        )
    return [migration for migration in known if migration.number not in applied]


def _order(version: str) -> tuple[int, ...]:
    """Sorts versions by their numbers."""
    leading = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in leading[0].split(".")] if leading else [0]
    while numbers and not numbers[-1]:
        numbers.pop()  # 2.0 is 2.0.0
    return tuple(numbers)
