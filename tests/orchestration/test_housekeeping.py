"""Housekeeping: what happens by itself while a process lives, and that nothing ends it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from redis.asyncio import Redis

from loom.bus import channels
from loom.config import LoomConfig, RedisConfig, RetentionConfig
from loom.graph.front import Loom
from loom.orchestration import housekeeping, printed
from loom.orchestration.housekeeping import Housekeeper, once
from tests.conftest import Opener
from tests.waiting import until, until_renewed

Clock = Callable[[float], Awaitable[None]]


@asynccontextmanager
async def kept(loom: Loom) -> AsyncIterator[None]:
    housekeeper = Housekeeper(loom)
    housekeeper.start()
    try:
        yield
    finally:
        await housekeeper.stop()


async def test_what_happens_reaches_the_stream(loom: Loom, redis_conn: Redis) -> None:
    async with kept(loom):
        task = await loom.create("A")
        await loom.done(task.id)
        stream = channels.event_stream(loom.project_id)

        async def relayed() -> bool:
            return "project.complete" in str(await redis_conn.xrange(stream))

        await until(relayed)
    assert [one for one in await loom.doctor() if not one.holds] == []


async def test_without_redis_lapsed_claims_come_back_all_the_same(
    open_loom: Opener, loom: Loom, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    other = await open_loom("other", claim_ttl_seconds=60)
    task = await other.create("A")
    await other.claim(task.id)
    deaf = replace(loom.config, redis=RedisConfig(url="redis://127.0.0.1:1"))
    async with Loom(deaf, agent="alone") as alone, kept(alone):
        await clock(120)

        async def pending() -> bool:
            return (await loom.get(task.id)).task.status == "pending"

        await until(pending)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_database_that_is_away_is_told_once(loom: Loom, caplog: pytest.LogCaptureFixture) -> None:
    gone = replace(
        loom.config,
        database=replace(loom.config.database, url="postgresql://loom:x@127.0.0.1:1/loom"),
        orchestration=replace(loom.config.orchestration, sweep_seconds=0.05),
    )
    async with Loom(gone, agent="alone") as alone, kept(alone):

        async def told_of() -> bool:
            return bool(caplog.records)

        await until(told_of)
        await asyncio.sleep(1)  # it is tried again
    told = [record.getMessage() for record in caplog.records if record.name == "loom.orchestration.patience"]
    assert len(told) == 1
    assert told[0].startswith("Housekeeping has to wait: ")


async def test_what_a_process_without_redis_did_is_carried_by_another(loom: Loom, redis_conn: Redis) -> None:
    """Though that one has done nothing itself since."""
    stream = channels.event_stream(loom.project_id)

    async def relayed() -> bool:
        return bool(await redis_conn.xlen(stream))

    async with kept(loom):
        await loom.create("A")
        await until(relayed)
        before = await redis_conn.xlen(stream)
        async with Loom(replace(loom.config, redis=RedisConfig(url="redis://127.0.0.1:1")), agent="deaf") as deaf:
            await deaf.create("B")

        async def carried() -> bool:
            return await redis_conn.xlen(stream) > before

        await until(carried)


async def test_a_redis_that_was_emptied_while_nothing_happened_is_filled_again(
    loom: Loom, redis_conn: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loom.orchestration.housekeeping._RELAY_AT_LEAST", 0.5)
    stream = channels.event_stream(loom.project_id)

    async def filled() -> bool:
        return bool(await redis_conn.xlen(stream))

    await loom.create("A")
    async with kept(loom):
        await until(filled)
        await redis_conn.delete(*[key async for key in redis_conn.scan_iter(channels.everything(loom.project_id))])
        await until(filled)


async def test_a_short_lease_is_renewed_in_time(open_loom: Opener) -> None:
    one, other = await open_loom("one"), await open_loom("other")
    task = await one.create("A")
    async with kept(one), kept(other):
        claim = await one.claim(task.id, lease_seconds=6)
        assert claim is not None
        await until_renewed(other, claim.task)


async def test_the_first_renewal_of_a_short_lease_does_not_wait_for_an_interval(open_loom: Opener) -> None:
    one, other = await open_loom("one", sweep_seconds=60), await open_loom("other")
    task = await one.create("A")
    async with kept(one), kept(other):
        await asyncio.sleep(0.5)  # it rests
        claim = await one.claim(task.id, lease_seconds=6)
        assert claim is not None
        await until_renewed(other, claim.task)


async def test_renewals_come_by_the_shortest_lease_and_no_oftener(
    open_loom: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    loom, renewals, renew = await open_loom("one"), 0, Loom.renew
    long, short = await loom.create("A"), await loom.create("B")

    async def counted(self: Loom) -> list[str]:
        nonlocal renewals
        renewals += 1
        return await renew(self)

    monkeypatch.setattr(Loom, "renew", counted)
    async with kept(loom):
        await until(lambda: renewals == 1)
        await loom.claim(long.id)
        await asyncio.sleep(1.5)
        assert renewals == 1, "the one it begins with"
        began = asyncio.get_running_loop().time()
        await loom.claim(short.id, lease_seconds=6)
        await until(lambda: renewals >= 3)
        assert asyncio.get_running_loop().time() - began > 3, "a third of the lease lies between two"


async def test_a_short_command_leaves_things_in_order(loom: Loom, redis_conn: Redis) -> None:
    await loom.create("A")
    await once(loom)
    assert await redis_conn.xlen(channels.event_stream(loom.project_id)) > 0


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Logs of which one was written now, and the others long ago."""
    directory = tmp_path / ".loom" / "logs"
    directory.mkdir(parents=True)
    for name in ("loom-0000000a-1.log", "loom-0000000a-2.log", "loom-0000000b-setup.log", "mcp.log"):
        (directory / name).write_text(name)
        if name != "loom-0000000a-2.log":
            os.utime(directory / name, (1_000_000, 1_000_000))
    return directory


async def test_old_logs_of_tasks_go_by_themselves(
    loom: Loom, tmp_path: Path, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "_RELAY_AT_LEAST", 0.0)
    config = replace(loom.config, project_dir=tmp_path, retention=RetentionConfig(runs_days=7))
    async with Loom(config, agent="a") as other, kept(other):
        await until(lambda: {one.name for one in logs.iterdir()} == {"loom-0000000a-2.log", "mcp.log"})


def test_logs_are_kept_for_ever_where_runs_are(config: LoomConfig, tmp_path: Path, logs: Path) -> None:
    printed.prune(replace(config, project_dir=tmp_path, retention=RetentionConfig(runs_days=0)))
    assert len(list(logs.iterdir())) == 4
