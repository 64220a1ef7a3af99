"""One schema for processes of several versions: who migrates, who waits, and who may not run on it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib import metadata

import asyncpg
import pytest

from loom.config import LoomConfig
from loom.db.migrate import Migration, migrate, migrations
from loom.exceptions import SchemaTooNewError, SchemaTooOldError
from loom.graph.connections import bring_forward
from loom.graph.front import Loom
from loom.graph.model.task import TaskStatus
from loom.services import Endpoints
from tests.cli.conftest import Cli, bare
from tests.conftest import with_database

__all__ = ["bare"]

OWN = metadata.version("loom-agents")
ADDS = "".join(
    f"alter table {table} add column added_later text not null default 'x';"
    for table in ("projects", "tasks", "task_deps", "events", "escalations", "messages", "skill_runs", "workflow_runs")
)
ADDITIVE = Migration(900, "adds", ADDS, needs="2.0.0")
BREAKING = Migration(901, "breaks", "alter table tasks rename column title to name", needs="99.1")
STATE = "select number, name, loom_version, needs from loom_migrations order by number"


@pytest.fixture
async def empty(servers: Endpoints) -> AsyncIterator[str]:
    """A database without anything in it."""
    name = f"loom_empty_{uuid.uuid4().hex[:8]}"
    admin = await asyncpg.connect(servers.database_url)
    await admin.execute(f"create database {name}")
    yield with_database(servers.database_url, name)
    for _ in range(50):
        try:
            await admin.execute(f"drop database {name} with (force)")
            break
        except asyncpg.InsufficientPrivilegeError:  # autovacuum is in it
            await asyncio.sleep(0.1)
    await admin.close()


async def on(url: str, known: list[Migration] | None = None) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return await migrate(connection, known)
    finally:
        await connection.close()


async def ask(url: str, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


def test_no_migration_needs_a_loom_that_does_not_exist_yet() -> None:
    known = migrations()
    assert [one.number for one in known] == list(range(1, len(known) + 1))
    assert all(tuple(map(int, one.needs.split("."))) <= tuple(map(int, OWN.split("."))) for one in known)


async def test_older_code_works_on_a_schema_that_only_adds(database_url: str, config: LoomConfig) -> None:
    assert await on(database_url, [*migrations(), ADDITIVE]) == ["adds"]
    before = await ask(database_url, STATE)
    async with Loom(config, agent="older") as loom:
        first = await loom.create("First")
        second = await loom.create("Second", depends_on=[first.id])
        await loom.claim(first.id)
        await loom.done(first.id, {"said": "yes"})
        await loom.claim(second.id)
        await loom.escalate(second.id, "Which one?")
        await loom.send("orchestrator", "Look")
        assert (await loom.status()).counts == {
            **dict.fromkeys(TaskStatus, 0),
            TaskStatus.DONE: 1,
            TaskStatus.BLOCKED: 1,
        }
        assert all(one.holds for one in await loom.doctor())
    assert await ask(database_url, STATE) == before


async def test_older_code_refuses_a_schema_that_breaks_it_and_changes_nothing(
    database_url: str, config: LoomConfig
) -> None:
    await on(database_url, [*migrations(), ADDITIVE, BREAKING])
    before = await ask(database_url, STATE)
    newest = migrations()[-1]._replace(number=800, name="mine", sql="create table mine ()")
    for known in (None, [*migrations(), newest]):  # with nothing to do, and with a migration of its own
        with pytest.raises(SchemaTooNewError) as caught:
            await on(database_url, known)
        assert caught.value.cause == f"The database needs Loom 99.1 or newer, and this is Loom {OWN}."
        assert caught.value.next_step == "Install Loom 99.1 or newer."
    assert await ask(database_url, STATE) == before
    assert (await ask(database_url, "select to_regclass('mine') as there"))[0]["there"] is None
    with pytest.raises(SchemaTooNewError):
        async with Loom(config, agent="older") as loom:
            await loom.status()
    assert await ask(database_url, "select id from projects") == []


@pytest.mark.parametrize(("needs", "refused"), [("99.1", True), (OWN, False)])
async def test_a_row_without_needs_needs_the_version_that_applied_it(
    database_url: str, needs: str, refused: bool
) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("alter table loom_migrations drop column needs")  # as it was before there was one
    await connection.execute("insert into loom_migrations (number, name, loom_version) values (900, 'x', $1)", needs)
    await connection.close()
    if refused:
        with pytest.raises(SchemaTooNewError):
            await on(database_url)
    else:
        assert await on(database_url) == []


async def test_an_old_table_is_brought_forward_by_the_next_migration(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("alter table loom_migrations drop column needs")
    old = await connection.fetch("select number, loom_version from loom_migrations order by number")
    await connection.close()
    assert await on(database_url, [*migrations(), ADDITIVE]) == ["adds"]
    rows = await ask(database_url, STATE)
    assert [(row["number"], row["loom_version"]) for row in rows[:-1]] == [tuple(row) for row in old]
    assert {row["needs"] for row in rows[:-1]} == {None}
    assert (rows[-1]["number"], rows[-1]["needs"]) == (900, "2.0.0")


async def test_many_processes_of_two_versions_at_once_migrate_an_empty_database_once(empty: str) -> None:
    older, newer = migrations(), [*migrations(), ADDITIVE]
    done = await asyncio.gather(*(on(empty, newer if number % 2 else older) for number in range(10)))
    applied = [name for names in done for name in names]
    assert sorted(applied) == sorted(one.name for one in newer)
    assert [row["number"] for row in await ask(empty, STATE)] == [one.number for one in newer]


async def test_a_migration_that_fails_leaves_nothing(empty: str) -> None:
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await on(empty, [*migrations(), Migration(900, "bad", "create tabel x ()", "1")])
    assert (await ask(empty, "select to_regclass('loom_migrations') as there"))[0]["there"] is None
    assert await on(empty) == [one.name for one in migrations()]
    assert await on(empty) == []


# --- who may ----------------------------------------------------------------------------------------------------------


async def behind(url: str) -> None:
    """Makes the database one of the version before."""
    connection = await asyncpg.connect(url)
    await migrate(connection, migrations()[:-1])
    await connection.close()


async def numbers(url: str) -> list[int]:
    return [row["number"] for row in await ask(url, STATE)]


@pytest.mark.parametrize(
    ("policy", "there", "refused"),
    [
        ("never", False, True),
        ("never", True, True),
        ("empty", False, False),
        ("empty", True, True),
        (None, False, False),  # servers of one's own
        (None, True, True),
        ("always", True, False),
    ],
)
async def test_who_connects_brings_the_schema_forward_only_where_that_is_his_to_do(
    empty: str, config: LoomConfig, policy: str | None, there: bool, refused: bool
) -> None:
    if there:
        await behind(empty)
    settings = replace(config, database=replace(config.database, url=empty, migrate=policy))
    async with Loom(settings, agent="a") as loom:
        if not refused:
            await loom.create("one")
            assert await numbers(empty) == [one.number for one in migrations()]
            return
        with pytest.raises(SchemaTooOldError) as caught:
            await loom.create("one")
    lacks = f"is older than this Loom, {OWN}: it lacks {migrations()[-1].name}"
    nothing = "has no tables of Loom's yet"
    assert caught.value.cause == f"The database {lacks if there else nothing}."
    assert str(caught.value.next_step) == "Run `loom migrate`, once for all who share it."
    if there:
        assert await numbers(empty) == [one.number for one in migrations()[:-1]]
    else:
        assert (await ask(empty, "select to_regclass('loom_migrations') as there"))[0]["there"] is None


async def test_somebody_who_means_to_brings_it_forward_once(empty: str, config: LoomConfig) -> None:
    await behind(empty)
    settings = replace(config, database=replace(config.database, url=empty, migrate="never", pool_min=0))
    newest = [migrations()[-1].name]
    assert await bring_forward(settings, look=True) == newest
    assert await numbers(empty) == [one.number for one in migrations()[:-1]], "a look changes nothing"
    assert await bring_forward(settings) == newest
    assert await bring_forward(settings) == await bring_forward(settings, look=True) == []
    async with Loom(settings, agent="a") as loom:
        await loom.create("one")


async def test_jobs_that_start_at_once_bring_it_forward_once(empty: str, config: LoomConfig) -> None:
    settings = replace(config, database=replace(config.database, url=empty))
    done = await asyncio.gather(*(bring_forward(settings) for _ in range(5)))
    assert sorted(name for names in done for name in names) == sorted(one.name for one in migrations())


async def test_the_command_tells_what_is_missing_and_brings_it(empty: str, bare: Cli, servers: Endpoints) -> None:
    """It needs no project."""
    bare.env.update(LOOM_DATABASE_URL=empty, LOOM_REDIS_URL=servers.redis_url)
    await behind(empty)
    told = bare.inside("migrate", "--check")
    assert (told.code, told.out) == (1, f"The database lacks {migrations()[-1].name}.\n")
    assert bare.ok("migrate") == {"schema": 1, "applied": [migrations()[-1].name]}
    assert bare.ok("migrate", "--check") == {"schema": 1, "missing": []}
    assert bare.inside("migrate").out == "The database was up to date.\n"


async def test_up_brings_forward_what_others_may_not(empty: str, bare: Cli, servers: Endpoints) -> None:
    bare.env.update(LOOM_DATABASE_URL=empty, LOOM_REDIS_URL=servers.redis_url)
    bare.ok("init")
    await behind(empty)
    refused = bare.inside("status", "--json")
    assert (refused.code, refused.json["error"]["code"]) == (1, "schema_too_old")
    bare.ok("up")
    bare.ok("status")


async def test_a_server_of_a_team_brings_nothing_forward(empty: str, bare: Cli, servers: Endpoints) -> None:
    bare.env.update(LOOM_DATABASE_URL=empty, LOOM_REDIS_URL=servers.redis_url)
    bare.ok("init")
    told = bare("serve", "--http")
    assert (told.code, "error: The database has no tables of Loom's yet." in told.err) == (1, True)
    await behind(empty)
    told = bare("serve", "--http")
    assert (told.code, "it lacks " in told.err, "Run `loom migrate`, once" in told.err) == (1, True, True)
    assert await numbers(empty) == [one.number for one in migrations()[:-1]]
