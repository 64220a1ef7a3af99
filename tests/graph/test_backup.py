"""A project as a file: whole or not at all, on the way out and on the way in, and anew in what its fences count by."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from loom.config import LoomConfig
from loom.db.connection import Pool
from loom.db.migrate import migrate, migrations
from loom.exceptions import (
    BackupError,
    ClaimConflictError,
    FileError,
    ProjectNotFoundError,
    RestoreError,
    SchemaTooOldError,
)
from loom.graph.backup import restore, write
from loom.graph.front import Loom
from loom.graph.store import backup, projects
from loom.services import Endpoints
from tests.cli.conftest import Cli, bare, cli
from tests.conftest import Opener
from tests.graph.conftest import Rival, until_waiting
from tests.test_brought_forward import NUMBERS, PROJECT, ROWS, everything
from tests.test_migrations import ask, empty

__all__ = ["bare", "cli", "empty"]

OTHER = "00000000-0000-4000-8000-000000000002"


def at(config: LoomConfig, url: str, project_id: str | None = PROJECT) -> LoomConfig:
    """The same settings with another database."""
    return replace(config, project_id=project_id, database=replace(config.database, url=url))


async def filled(url: str, number: int) -> dict[str, list[dict[str, Any]]]:
    """Makes a database of that version, with rows of every kind, and returns them."""
    connection = await asyncpg.connect(url)
    try:
        await migrate(connection, migrations()[:number])
        for one in NUMBERS[:number]:
            if one in ROWS:
                await connection.execute(ROWS[one].format(PROJECT))
        return await everything(connection)
    finally:
        await connection.close()


def lowered(row: dict[str, Any], by: int) -> dict[str, Any]:
    """A row as it was before its tokens were raised."""
    return row | {name: row[name] - by for name in backup.TOKENS if row.get(name)}


@pytest.mark.parametrize("number", [1, 6, 12, NUMBERS[-1]])
async def test_rows_of_every_kind_and_version_come_back(
    empty: str, database_url: str, config: LoomConfig, tmp_path: Path, number: int
) -> None:
    before = await filled(empty, number)
    made = await write(at(config, empty), tmp_path / "b")
    assert made.rows == {name: len(rows) for name, rows in before.items() if name not in backup.DERIVED | backup.APART}
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    assert await restore(at(config, database_url, None), tmp_path / "b") == made

    connection = await asyncpg.connect(database_url)
    after = await everything(connection)
    (raised,) = {row["claim_token"] for row in after["tasks"] if row["title"] == "claimed"}
    assert raised - 1 > 0, "every token is higher than any that was handed out since"
    for table in before.keys() - {"projects"} - backup.DERIVED - backup.APART:
        found = sorted((lowered(row, raised - 1) for row in after[table]), key=repr)
        assert [{name: row.get(name) for name in old} for row, old in zip(found, before[table], strict=True)] == (
            before[table]
        ), table
    assert len(after["task_texts"]) == len(after["tasks"])
    assert await connection.fetchval("select count(*) from pg_namespace where nspname like 'loom_restore%'") == 0
    await connection.close()

    async with Loom(at(config, database_url), agent="ann") as loom:
        assert [one for one in await loom.doctor() if not one.holds] == []
        await loom.resolve("esc-00000001", "answer", note="this one")
        await loom.done("loom-00000004")
        with pytest.raises(ClaimConflictError):
            await loom.done("loom-00000003", token=1)
        finished = await loom.done("loom-00000003", token=raised)
        assert (finished.closed, finished.unblocked) == (("loom-00000001",), ("loom-00000005",))
        assert [one for one in await loom.doctor() if not one.holds] == []


async def test_whatever_fences_by_a_token_is_raised(pool: Pool) -> None:
    rows = await pool.fetch(
        "select distinct column_name from information_schema.columns"
        " where table_schema = 'public' and column_name like '%token%' and data_type in ('bigint', 'integer')"
    )
    fences = {row[0] for row in rows} - {"input_tokens", "output_tokens"}  # which count what a model has read
    assert fences <= set(backup.TOKENS), "name it in TOKENS"


@asynccontextmanager
async def restored(config: LoomConfig, file: Path, **options: Any) -> AsyncIterator[Loom]:
    """The project after its restoration, as a new process sees it."""
    await restore(config, file, **options)
    async with Loom(config, agent="after") as loom:
        yield loom


async def test_a_restored_project_begins_a_new_history(
    config: LoomConfig, tmp_path: Path, open_loom: Opener, pool: Pool
) -> None:
    before = Loom(config, agent="before")
    async with before as loom:
        task = await loom.create("A")
        free = await loom.create("nobody's")
        claim = await loom.claim(task.id)
        assert claim is not None
        await write(config, tmp_path / "b")
        await loom.release(task.id)
        later = await loom.claim(task.id)
        assert later is not None
        await loom.claim(free.id)
        await loom.create("lost with what came after the backup")
        await (await loom.relay()).step()
        history, number = loom._links.history, await pool.fetchval("select max(id) from events")

    async with restored(config, tmp_path / "b", replacing="test") as loom:
        assert [one.title for one in (await loom.find("")).tasks] == ["A", "nobody's"]
        assert loom._links.history != history
        assert loom._links.history.startswith(f"{history}+")
        cache = await loom._links.cache()
        assert (state := await cache.state()) is not None
        assert state.usable, "the mirror was built by who restored"
        assert await cache.counts() == (await loom.status()).counts
        for token in (claim.task.claim_token, later.task.claim_token):
            with pytest.raises(ClaimConflictError):
                await loom.done(task.id, token=token)
        await loom.claim(free.id)
        with pytest.raises(ClaimConflictError):
            await loom.done(free.id, token=1)  # which the first claim since the backup had
        await loom.create("B")
        assert await pool.fetchval("select min(id) from events where data is null") > 0
        assert await pool.fetchval("select max(id) from events") > number, "no number is drawn twice"
        assert await (await loom.relay()).step()
        assert [one for one in await loom.doctor() if not one.holds] == []
    # Another process, and the same backup once more: the same history, then another one.
    async with Loom(config, agent="later") as loom:
        await loom.status()
        second = loom._links.history
    async with restored(config, tmp_path / "b", replacing="test") as loom:
        await loom.status()
        assert loom._links.history not in (history, second)


async def test_a_process_that_lived_through_it_lets_go_of_the_mirror(loom: Loom, pool: Pool) -> None:
    await loom.create("A")
    relay = await loom.relay()
    assert await relay.step()
    async with pool.acquire() as connection:
        await backup.begin_anew(connection, loom.project_id, await projects.history(connection))
    assert not await relay.step()
    assert await relay.step()
    assert (state := await (await loom._links.cache()).state()) is not None
    assert state.usable
    assert await pool.fetchval("select history from projects where id = $1", loom.project_id) == (
        (await loom._links.cache()).history
    )


@pytest.mark.parametrize("by", ["backup", "dump"])
async def test_what_was_written_on_a_server_that_had_come_further_is_older_than_what_comes(
    config: LoomConfig, empty: str, pool: Pool, tmp_path: Path, by: str
) -> None:
    """Its transactions have higher numbers than this server has come to."""
    async with Loom(config, agent="a") as loom:
        for title in ("A", "B", "C"):
            await loom.create(title)
    await pool.execute(
        "update events set created_at = now() - interval '1 hour' * (10 - id), xid = (1000000000 + id)::text::xid8"
    )
    if by == "backup":
        await write(config, tmp_path / "b")
        config = at(config, empty, config.project_id)
        await restore(config, tmp_path / "b")
    else:
        await pool.execute("update projects set history = 'elsewhere'")
    async with Loom(config, agent="a") as loom:
        assert [one for one in await loom.doctor() if not one.holds] == []
        old = await loom.events()
        assert [one.position.id for one in old] == sorted((one.position.id for one in old), reverse=True)
        assert len({one.position.xid for one in old}) == 3
        since = await loom.since(60)
        await loom.create("D")
        newest, *rest = await loom.events()
        assert rest == old
        assert [one.task_id for one in (await loom.wait("any", since=since, timeout=0)).events] == [newest.task_id]


async def test_what_a_project_has_is_left_alone(config: LoomConfig, tmp_path: Path) -> None:
    file = tmp_path / "b"
    async with Loom(config, agent="a") as loom:
        task = await loom.create("A")
        await write(config, file)
        with pytest.raises(RestoreError, match="Processes are at work on the project test on these servers, with"):
            await restore(config, file, replacing="test")
    with pytest.raises(RestoreError, match=r"The project test has something on these servers: 1 events, 1 tasks\."):
        await restore(config, file)
    with pytest.raises(RestoreError, match="its name is not tset"):
        await restore(config, file, replacing="tset")
    first, *rest = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    (tmp_path / "disguised").write_bytes(gzip.compress(b"".join([changed(first, project="other"), *rest])))
    with pytest.raises(RestoreError, match=r"The project test has something .*, and its name is not other\."):
        await restore(config, tmp_path / "disguised", replacing="other")
    with pytest.raises(BackupError, match="holds the project test, and this is another one"):
        await restore(replace(config, project_id=OTHER), file)
    with pytest.raises(FileError, match="it is there already"):
        await write(config, file)
    async with Loom(config, agent="a") as loom:
        assert (await loom.get(task.id)).task.title == "A"


async def test_the_same_project_is_restored_once_by_two(config: LoomConfig, empty: str, tmp_path: Path) -> None:
    async with Loom(config, agent="a") as loom:
        await loom.create("A")
    await write(config, tmp_path / "b")
    there = at(config, empty, config.project_id)
    done = await asyncio.gather(*(restore(there, tmp_path / "b") for _ in range(2)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in done) == ["Backup", "RestoreError"]


async def test_what_is_made_while_a_project_is_restored_comes_after_it(
    config: LoomConfig, tmp_path: Path, pool: Pool, rival: Rival
) -> None:
    async with Loom(config, agent="a") as loom:
        await loom.create("A")
    await write(config, tmp_path / "b")
    await rival.execute("lock table proofs in share mode")  # whose rows are to go, which a restore waits for
    restoring = asyncio.create_task(restore(config, tmp_path / "b", replacing="test"))
    await until_waiting(pool, 1)
    async with Loom(config, agent="a") as loom:
        making = asyncio.create_task(loom.create("B"))
        await until_waiting(pool, 2)
        await rival.commit()
        await restoring
        await making
        assert [one.title for one in (await loom.find("")).tasks] == ["A", "B"]


async def test_a_database_that_others_bring_forward_is_left_as_it_is(
    config: LoomConfig, empty: str, tmp_path: Path
) -> None:
    async with Loom(config, agent="a") as loom:
        await loom.create("A")
    await write(config, tmp_path / "b")
    there = at(config, empty, config.project_id)
    never = replace(there, database=replace(there.database, migrate="never"))
    with pytest.raises(SchemaTooOldError, match="Run `loom migrate`, once for all who share it"):
        await restore(never, tmp_path / "b")
    assert (await ask(empty, "select to_regclass('loom_migrations') as there"))[0]["there"] is None
    await restore(there, tmp_path / "b")
    await restore(never, tmp_path / "b", replacing="test")


async def test_without_redis_a_project_is_restored_all_the_same(config: LoomConfig, empty: str, tmp_path: Path) -> None:
    async with Loom(config, agent="a") as loom:
        await loom.create("A")
    await write(config, tmp_path / "b")
    away = replace(at(config, empty, config.project_id), redis=replace(config.redis, url="redis://127.0.0.1:1"))
    await restore(away, tmp_path / "b")
    async with Loom(away, agent="a") as loom:
        assert [one.title for one in (await loom.find("")).tasks] == ["A"]


async def test_who_has_nothing_to_write_is_told(config: LoomConfig, empty: str, tmp_path: Path) -> None:
    for settings in (at(config, empty), config, replace(config, project_id=None)):
        with pytest.raises(ProjectNotFoundError):
            await write(settings, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


# --- files that are none ----------------------------------------------------------------------------------------------


@pytest.fixture
async def lines(config: LoomConfig, tmp_path: Path) -> list[bytes]:
    """A whole backup, unpacked."""
    async with Loom(config, agent="a") as loom:
        await loom.create('A\\ "b"', context={"text": "tab\tand line\nand \\."})
    await write(config, tmp_path / "whole")
    return gzip.decompress((tmp_path / "whole").read_bytes()).splitlines(keepends=True)


def changed(line: bytes, **facts: Any) -> bytes:
    """An object in a line, with other facts."""
    return json.dumps(json.loads(line) | facts).encode() + b"\n"


async def refused(config: LoomConfig, url: str, file: Path, pattern: str) -> None:
    """Holds that a file is refused in one sentence and a next step, and changes nothing."""
    await ask_nothing(url)
    with pytest.raises(BackupError, match=pattern) as caught:
        await restore(at(config, url, None), file)
    assert caught.value.cause.endswith(".")
    assert "\n" not in str(caught.value)
    await ask_nothing(url)


async def ask_nothing(url: str) -> None:
    """Holds that a database has no project, and nothing half done."""
    assert await ask(url, "select nspname from pg_namespace where nspname like 'loom_restore%'") == []
    if (await ask(url, "select to_regclass('projects') as there"))[0]["there"]:
        assert await ask(url, "select id from projects") == []


async def test_a_backup_reads_the_same_whatever_a_database_shows(
    config: LoomConfig, loom: Loom, pool: Pool, tmp_path: Path
) -> None:
    await loom.create("task")
    database = await pool.fetchval("select current_database()")
    await pool.execute(f"alter database \"{database}\" set datestyle = 'German'")
    await write(config, tmp_path / "b")
    assert re.search(rb"\t\d{4}-\d\d-\d\d ", gzip.decompress((tmp_path / "b").read_bytes()))


async def test_nobody_waits_for_a_backup_that_is_no_file(config: LoomConfig, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "b")
    with pytest.raises(BackupError, match="it is no regular file"):
        await restore(config, tmp_path / "b")


async def test_a_line_without_end_is_not_read_to_its_end(
    config: LoomConfig, empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loom.graph.backup._LINE_BYTES", 1_000)
    (tmp_path / "b").write_bytes(gzip.compress(b" " * 1_000_000 + b"{}\n"))
    await refused(config, empty, tmp_path / "b", "its end is missing")


async def test_a_newer_a_foreign_and_a_torn_file_are_refused(
    config: LoomConfig, empty: str, lines: list[bytes], tmp_path: Path
) -> None:
    whole, file = (tmp_path / "whole").read_bytes(), tmp_path / "b"
    first, last = lines[0], lines[-1]
    newer = "was made by Loom 99.1, and this is .*, which is older. Install Loom 99.1 or newer"
    numbers = [*json.loads(first)["migrations"], 999]
    for text, pattern in (
        ([changed(first, version="99.1", migrations=numbers), *lines[1:]], newer),
        ([changed(first, version="99.1", loom_backup=2), *lines[1:]], newer),
        ([changed(first, version="99.1", migrations=[[1]]), *lines[1:]], newer),
        ([changed(first, migrations=[numbers[-2]]), *lines[1:]], "is no whole backup"),
        *(
            ([changed(first, **wrong), *lines[1:]], "it does not begin like one")
            for wrong in (
                {"project": 7},
                {"project_id": "../x"},
                {"project_id": "a\0b"},
                {"made_at": float("nan")},
                {"made_at": -1e300},
                {"made_at": 1e18},
            )
        ),
        ([first, b'{"rows": {}}\n'], "it does not have the rows that it counts"),
        ([b"[1]\n"], "something else where Loom writes what comes next"),
        ([b"x" * 50], "its end is missing"),
        ([], "its end is missing"),
        (lines[:-1], "its end is missing"),
        (lines[: len(lines) // 2], "its end is missing"),
        ([*lines[:-1], changed(last, rows={})], "it does not have the rows that it counts"),
        ([*lines, b"more\n"], "it does not have the rows that it counts"),
        ([changed(first, project_id=OTHER), *lines[1:]], "it has rows of other projects"),
        ([first, changed(lines[1], table="pg_class"), *lines[2:]], "a table that its version does not have"),
        ([first, changed(lines[1], columns=["id", "x"]), *lines[2:]], "a table that its version does not have"),
        ([first, changed(lines[1], table=["projects"]), *lines[2:]], "a table that its version does not have"),
        ([first, changed(lines[1], columns=[["id"]]), *lines[2:]], "a table that its version does not have"),
        ([first, changed(lines[1], columns=["id", "id"]), *lines[2:]], "a table that its version does not have"),
        ([*lines[:2], b"no row\n", *lines[3:]], "is no whole backup"),
    ):
        file.write_bytes(gzip.compress(b"".join(text)))
        await refused(config, empty, file, pattern)
    for data, pattern in (
        (whole[: len(whole) // 2], "is no whole backup"),
        (whole[:-4], "is no whole backup"),
        (whole[:40] + b"\x00" + whole[41:], "is no whole backup"),
        (b"PGDMP", "is no whole backup: Not a gzipped file"),
    ):
        file.write_bytes(data)
        await refused(config, empty, file, pattern)
    await refused(config, empty, tmp_path / "none", "cannot be read: No such file")
    await restore(at(config, empty, None), tmp_path / "whole")
    async with Loom(at(config, empty, config.project_id), agent="a") as loom:
        (task,) = (await loom.find("")).tasks
        assert task.title == 'A\\ "b"'
        assert (await loom.get(task.id)).task.context == {"text": "tab\tand line\nand \\."}


# --- killed in the middle ---------------------------------------------------------------------------------------------


async def killed(config: LoomConfig, call: str) -> None:
    """Runs a call of `loom.graph.backup` while nobody may touch the tasks, and kills it there."""
    url = str(config.database.url)
    code = (
        "import asyncio\nfrom pathlib import Path\nfrom loom.config import *\n"
        "from loom.graph.backup import restore, write\n"
        f"config = LoomConfig(project_id={config.project_id!r}, database=DatabaseConfig(url={url!r}),"
        f" redis=RedisConfig(url={config.redis.url!r}), servers=ServersConfig(backend='external'))\n"
        f"asyncio.run({call})"
    )
    holder = await asyncpg.connect(url)
    async with asyncio.timeout(30):
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("lock table tasks in access exclusive mode")
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
        waiting = 0
        while not waiting:
            await asyncio.sleep(0.1)
            waiting = await holder.fetchval(
                "select count(*) from pg_locks where not granted and relation = 'tasks'::regclass"
            )
        process.kill()
        await process.wait()
        await transaction.rollback()
        left = 1
        while left:
            await asyncio.sleep(0.1)
            left = await holder.fetchval(
                "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'loom'"
            )
    await holder.close()


async def test_a_backup_that_is_killed_leaves_no_file(config: LoomConfig, tmp_path: Path) -> None:
    async with Loom(config, agent="a") as loom:
        await loom.create("A")
    file = tmp_path / "b"
    await killed(config, f"write(config, Path({str(file)!r}))")
    assert list(tmp_path.iterdir()) == []
    await write(config, file)


async def test_a_restore_that_is_killed_leaves_no_project(config: LoomConfig, empty: str, tmp_path: Path) -> None:
    async with Loom(config, agent="a") as loom:
        await loom.create("A")
    file = tmp_path / "b"
    await write(config, file)
    connection = await asyncpg.connect(empty)
    await migrate(connection)
    await connection.close()
    there = at(config, empty, config.project_id)
    await killed(there, f"restore(config, Path({str(file)!r}))")
    await ask_nothing(empty)
    await restore(there, file)
    async with Loom(there, agent="a") as loom:
        assert len((await loom.find("")).tasks) == 1


# --- the commands -----------------------------------------------------------------------------------------------------


async def test_the_commands_write_and_put_back(cli: Cli, bare: Cli, empty: str, servers: Endpoints) -> None:
    cli.create("one")
    made = cli.ok("backup", "shop.loom")
    assert (made["project"], made["rows"]["tasks"], made["file"]) == ("shop", 1, "shop.loom")
    assert made["bytes"] == (cli.directory / "shop.loom").stat().st_size
    told = cli.inside("restore", "shop.loom")
    assert (told.code, told.out) == (1, "")
    assert "has something on these servers: 1 events, 1 tasks." in told.err
    assert "--replace" not in told.err, "what takes away is not suggested"
    refused = cli.inside("restore", "shop.loom", "--replace", "shop", LOOM_RUN="x")
    assert "cannot be changed from inside a run" in refused.err
    cli.create("two")
    told = cli.inside("restore", "shop.loom", "--replace", "shop")
    assert told.out.startswith("From shop.loom: shop as of ")
    assert told.out.endswith("with 1 task and 1 event.\n")
    assert cli.ok("status")["counts"]["pending"] == 1
    told = cli.inside("backup", "again.loom")
    assert "again.loom, " in told.out
    # Elsewhere, where there is no project: on empty servers, by what the file says of itself.
    cli.env["LOOM_DATABASE_URL"] = empty
    assert cli.ok("restore", "again.loom")["rows"]["tasks"] == 1
    assert cli.ok("list")["count"] == 1


async def test_a_project_comes_to_another_machine(cli: Cli, empty: str) -> None:
    cli.create("one")
    made = cli.ok("backup", str(cli.directory.parent / "shop.loom"))
    there = replace(cli, directory=cli.directory.parent / "there", env=cli.env | {"HOME": str(cli.directory.parent)})
    there.directory.mkdir()
    there.env.update(LOOM_DATABASE_URL=empty, LOOM_REDIS_URL="redis://127.0.0.1:1")
    told = there.inside("restore", made["file"])
    assert (told.code, f"loom config set project_id {made['project_id']}" in told.err) == (0, True), told.err
    there.ok("init")
    there.ok("config", "set", "project_id", made["project_id"])
    assert there.ok("list")["count"] == 1
