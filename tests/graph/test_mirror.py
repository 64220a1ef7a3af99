"""The mirror: right after each commit, guarded against late writers, healed by the relay, done without when away."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import hiredis
import pytest
from redis.asyncio import Redis

from loom.bus import channels
from loom.bus.connection import TIMEOUT
from loom.bus.events import Position
from loom.bus.subscriber import Subscriber
from loom.config import LoomConfig, RedisConfig
from loom.db.connection import Pool
from loom.exceptions import TaskNotFoundError
from loom.graph import store
from loom.graph.cache import comparison, mirror
from loom.graph.cache.mirror import BATCH
from loom.graph.front import Loom
from loom.graph.model.task import Priority, ready_score
from loom.graph.store.transaction import Change
from tests.conftest import Opener, horizon_passed
from tests.graph.test_lifecycle import holds
from tests.waiting import told


async def synced(loom: Loom) -> None:
    await horizon_passed(loom)
    assert await (await loom.relay()).step()


async def stream(redis: Any, project: str) -> list[tuple[str, str]]:
    """The stream's entries as (id, type)."""
    return [(entry, fields["type"]) for entry, fields in await redis.xrange(channels.event_stream(project))]


async def test_a_change_is_mirrored_before_the_caller_goes_on(loom: Loom, redis_conn: Redis, project: str) -> None:
    await synced(loom)
    task = await loom.create("A", priority="p0", context={"k": "v"})
    key = channels.task_key(project, task.id)
    assert (await redis_conn.hget(key, "context")) == '{"k": "v"}'
    score = await redis_conn.zscore(channels.ready_queue(project), task.id)
    assert task.ready_at is not None
    assert score == ready_score(Priority.P0, task.ready_at)
    assert int(score) == 300
    await loom.claim(task.id)
    assert await redis_conn.zscore(channels.ready_queue(project), task.id) is None
    assert await redis_conn.sismember(channels.status_set(project, "claimed"), task.id)
    await loom.done(task.id)
    assert await redis_conn.hget(key, "status") == "done"
    assert 3500 < await redis_conn.ttl(key) <= 3600
    await holds(loom)


async def test_counting_down_changes_nothing_that_is_mirrored(loom: Loom) -> None:
    first, second = await loom.create("A"), await loom.create("B")
    third = await loom.create("C", depends_on=[first.id, second.id])
    await synced(loom)
    await loom.done(first.id)
    assert (await loom.get(third.id)).task == replace(third, waiting=1)
    await holds(loom)


async def test_late_writes_change_nothing(loom: Loom, redis_conn: Redis, project: str) -> None:
    await synced(loom)
    states = [await loom.create("A")]
    claim = await loom.claim()
    assert claim is not None
    states += [claim.task, (await loom.done(states[0].id)).task]
    cache = await loom._links.cache()
    for order in ([2, 1, 0], [0, 2, 1], [1, 0, 2]):
        for index in order:
            await cache.sync(Change(tasks=(states[index],)))
        assert await redis_conn.smembers(channels.status_set(project, "done")) == {states[0].id}
        assert await redis_conn.zcard(channels.ready_queue(project)) == 0
    # Neither after the finished hash has expired.
    await redis_conn.delete(channels.task_key(project, states[0].id))
    await cache.sync(Change(tasks=(states[1],)))
    assert await redis_conn.scard(channels.status_set(project, "claimed")) == 0
    await holds(loom)


async def test_events_reach_the_stream_once_and_in_order(
    loom: Loom, open_loom: Opener, redis_conn: Redis, project: str, pool: Pool
) -> None:
    await synced(loom)
    agents = [await open_loom(f"a{n}") for n in range(4)]

    async def work(agent: Loom) -> None:
        for n in range(10):
            task = await agent.create(f"T{n}")
            await agent.done(task.id)
            await (await agent.relay()).step()

    await asyncio.gather(*(work(agent) for agent in agents))
    await synced(loom)
    wanted = await pool.fetch("select xid::text || '-' || id as id, type from events order by events.xid, events.id")
    assert await stream(redis_conn, project) == [(row["id"], row["type"]) for row in wanted]
    assert len(wanted) == 120


async def test_a_row_that_commits_late_is_not_skipped(
    loom: Loom, redis_conn: Redis, project: str, database_url: str
) -> None:
    await synced(loom)
    slow = await asyncpg.connect(database_url)
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute("insert into events (project_id, type) values ($1, 'project.decomposed')", project)
    await loom.create("A")
    await synced(loom)
    assert await stream(redis_conn, project) == []  # it may not pass what is still open
    await transaction.commit()
    await slow.close()
    await synced(loom)
    assert [kind for _, kind in await stream(redis_conn, project)] == ["project.decomposed", "task.created"]


async def test_what_died_between_commit_and_mirror_is_healed(loom: Loom, open_loom: Opener, config: LoomConfig) -> None:
    await synced(loom)
    task = await loom.create("A")
    nowhere = replace(config, redis=RedisConfig(url="unix:///nonexistent/redis.sock"))
    async with Loom(nowhere, agent="killed") as killed:  # commits, and never reaches the mirror
        await killed.claim(task.id)
        await killed.done(task.id)
    assert (await (await loom._links.cache()).get_task(task.id)).status == "pending"  # type: ignore[union-attr]
    await synced(loom)
    assert (await (await loom._links.cache()).get_task(task.id)).status == "done"  # type: ignore[union-attr]
    await holds(loom)


@pytest.mark.parametrize("lost", ["everything", "position", "tasks"])
async def test_a_flushed_mirror_is_rebuilt_while_others_write(
    loom: Loom, open_loom: Opener, redis_conn: Redis, project: str, lost: str
) -> None:
    await loom.apply_plan({"tasks": [{"title": f"T{n}"} for n in range(BATCH + 20)]})
    await loom.fail((await loom.ready(limit=1)).tasks[0].id, "no", retry=False)
    await synced(loom)
    keys = [key async for key in redis_conn.scan_iter(channels.everything(project))]
    if lost == "everything":
        await redis_conn.delete(*keys)
    elif lost == "position":
        await redis_conn.hdel(channels.mirror_key(project), "position")
    else:
        await redis_conn.delete(*(key for key in keys if key != channels.mirror_key(project)))
        await redis_conn.delete(channels.mirror_key(project))
    writer = await open_loom("writer")

    async def write() -> None:
        for _ in range(30):
            await writer.claim()

    others = [await open_loom(f"r{n}") for n in range(3)]
    relays = [await other.relay() for other in [loom, *others]]
    await asyncio.gather(write(), *(relay.step() for relay in relays))
    await synced(loom)
    await holds(loom)
    assert (await loom.status()).counts["claimed"] == 30
    assert len(await stream(redis_conn, project)) > BATCH


async def test_a_rebuild_that_was_cut_short_is_taken_up_at_once(
    loom: Loom, open_loom: Opener, redis_conn: Redis, project: str
) -> None:
    """As when a session ends while its server fills a Redis that was flushed."""
    await loom.apply_plan({"tasks": [{"title": f"T{n}"} for n in range(6 * BATCH)]})
    await synced(loom)
    other = await (await open_loom("other")).relay()
    relay, pending = await loom.relay(), channels.status_set(project, "pending")
    for _ in range(10):  # before Python 3.12 a client may lose the cancellation
        rebuild = asyncio.create_task(relay.rebuild_cache())
        while not 0 < await redis_conn.scard(pending) < 6 * BATCH and not rebuild.done():
            pass
        rebuild.cancel()
        await asyncio.wait([rebuild])
        if rebuild.cancelled():
            break
    assert rebuild.cancelled()
    assert await redis_conn.hget(channels.mirror_key(project), "position") is None
    assert await other.step()
    assert await redis_conn.scard(pending) == 6 * BATCH
    await holds(loom)


async def test_a_redis_that_lost_its_last_second_is_replayed(loom: Loom, redis_conn: Redis, project: str) -> None:
    first = await loom.create("A")
    await synced(loom)
    await loom.claim(first.id)
    await loom.create("B")
    await synced(loom)
    wanted = await stream(redis_conn, project)
    assert await redis_conn.hget(channels.mirror_key(project), "position") == wanted[-1][0]
    # As it was a second ago: position, stream and task.
    await redis_conn.hset(channels.mirror_key(project), "position", wanted[0][0])
    await redis_conn.delete(channels.event_stream(project))
    await redis_conn.hset(channels.task_key(project, first.id), mapping={"version": "1", "status": "pending"})
    await synced(loom)
    assert await stream(redis_conn, project) == wanted[1:]
    await holds(loom)


async def test_what_a_newer_loom_tells_of_holds_nobody_up(
    loom: Loom, pool: Pool, redis_conn: Redis, project: str
) -> None:
    """It may write kinds of events into the same database that this one does not know."""
    task = await loom.create("A")
    since = (await loom.wait("task", task_id=task.id, timeout=0)).since
    await pool.execute(
        "insert into events (project_id, type, task_id, agent) values ($1, 'task.praised', $2, 'newer')",
        loom.project_id,
        task.id,
    )
    await loom.claim(task.id)
    seen = await loom.wait("any", since=since, timeout=0)
    assert [one.type for one in seen.events] == ["task.praised", "task.claimed"]
    assert (await loom.history(task.id))[-2].type == "task.praised"
    await synced(loom)
    assert [kind for _, kind in await stream(redis_conn, project)] == ["task.created", "task.praised", "task.claimed"]
    await holds(loom)


async def test_another_history_starts_another_generation(
    loom: Loom, open_loom: Opener, redis_conn: Redis, project: str, pool: Pool
) -> None:
    await loom.create("A")
    await synced(loom)
    generation = await redis_conn.hget(channels.mirror_key(project), "generation")
    # A restore elsewhere: the rows are older than what Redis holds, their transaction numbers mean nothing.
    await pool.execute("update projects set history = 'elsewhere'")
    await pool.execute("update events set xid = '4000000000000'")
    await redis_conn.hset(channels.mirror_key(project), "history", "elsewhere")
    restored = await open_loom("restored")
    await restored.create("B")
    await synced(restored)
    assert await redis_conn.hget(channels.mirror_key(project), "generation") != generation
    assert [kind for _, kind in await stream(redis_conn, project)] == ["task.created"]
    await holds(restored)


async def test_a_newer_layout_is_left_alone(loom: Loom, redis_conn: Redis, project: str) -> None:
    await synced(loom)
    await redis_conn.hset(channels.mirror_key(project), "layout", "999")
    task = await loom.create("A")
    assert not await (await loom.relay()).step()
    assert [one.id for one in (await loom.ready()).tasks] == [task.id]
    assert await redis_conn.hget(channels.mirror_key(project), "layout") == "999"


async def without(redis_url: str, config: LoomConfig) -> float:
    """Does something of everything with a Redis that is of no use; returns how many seconds it took."""
    async with Loom(replace(config, redis=RedisConfig(url=redis_url)), agent="a") as loom:
        await loom.connect()
        began = time.perf_counter()
        a = await loom.create("A")
        b = await loom.create("B", depends_on=[a.id])
        await loom.claim()
        assert (await loom.done(a.id)).unblocked == (b.id,)
        assert [one.id for one in (await loom.ready()).tasks] == [b.id]
        await loom.send("*", "hello")
        assert (await loom.wait("ready", timeout=5)).ready == 1
        assert not await (await loom.relay()).step()
        await loom.done(b.id)
        return time.perf_counter() - began


@pytest.fixture
async def hung(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A Redis that answers nothing."""
    monkeypatch.setattr("loom.bus.client.TIMEOUT", TIMEOUT)
    inside: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda reader, writer: inside.append(writer), "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for writer in inside:
        writer.transport.abort()


NO_REDIS = "unix:///nonexistent/redis.sock"


async def test_without_redis_everything_works(config: LoomConfig, hung: str) -> None:
    for url in (NO_REDIS, hung):
        await without(url, config)


class _Strange(asyncio.Protocol):
    """Gives the same answer to each command."""

    def __init__(self, answer: bytes) -> None:
        self.lost = asyncio.Event()
        self.transport: Any = None
        self._answer = answer
        self._commands = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._commands.feed(data)
        while self._commands.gets() is not False:
            self.transport.write(self._answer)

    def connection_lost(self, _: Exception | None) -> None:
        self.lost.set()


@asynccontextmanager
async def strange(answer: bytes) -> AsyncIterator[str]:
    """Something that is taken for a Redis."""
    made: list[_Strange] = []

    def come() -> _Strange:
        made.append(_Strange(answer))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(come, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for one in made:
            one.transport.abort()
            await one.lost.wait()


@pytest.mark.parametrize("answer", [b"+OK\r\n", b"$-1\r\n", b":1\r\n", b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n"])
async def test_where_redis_answers_something_else_everything_works(config: LoomConfig, answer: bytes) -> None:
    async with strange(answer) as url:
        await without(url, config)


async def test_what_was_announced_by_no_redis_does_not_end_listening(config: LoomConfig) -> None:
    async with strange(b"+OK\r\n+OK\r\n") as url:
        subscriber = Subscriber(url, channels.everything(config.project_id or ""))
        async with subscriber.listening(lambda *_: True) as woken:
            await asyncio.wait_for(woken.wait(), 30)
            woken.clear()
            await asyncio.wait_for(woken.wait(), 30)  # it was lost, and is made anew
        await subscriber.close()


async def test_a_redis_that_hangs_is_told_of_and_one_late_answer_is_not(
    config: LoomConfig, hung: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loom.bus.connection._FIRST_PAUSE", 0.0)
    caplog.set_level("WARNING", "loom.graph.cache.mirror")
    async with Loom(replace(config, redis=RedisConfig(url=hung)), agent="a") as loom:
        await loom.create("A")
        assert caplog.messages == []
        await loom.create("B")
        assert caplog.messages == ["Redis does not answer (TimeoutError); Postgres goes on alone"]
        caplog.clear()
        loom._links._cache = None  # as in another process
        (await loom._links.cache()).try_again()
        await loom.create("C")
        assert caplog.messages == []
    async with Loom(replace(config, redis=RedisConfig(url=NO_REDIS)), agent="a") as loom:
        await loom.create("D")
        assert caplog.messages == ["Redis does not answer (FileNotFoundError); Postgres goes on alone"]


@pytest.mark.benchmark
async def test_a_redis_that_hangs_costs_a_few_timeouts(config: LoomConfig, hung: str) -> None:
    assert await without(hung, config) < await without(NO_REDIS, config) + 5 * TIMEOUT


async def test_a_process_reads_its_own_writes_after_the_mirror_failed(loom: Loom, redis_conn: Redis) -> None:
    await synced(loom)
    await loom.create("A")
    cache = await loom._links.cache()
    cache._unseen = Position(2**60, 1)  # as after a failed write
    assert await cache.get_ready_tasks(10) is None
    assert len((await loom.ready()).tasks) == 1
    cache._unseen = Position(1, 1)
    await synced(loom)  # the relay has passed it
    assert await cache.get_ready_tasks(10) is not None


async def test_who_only_looks_asks_postgres_alone(
    loom: Loom, open_loom: Opener, redis_conn: Redis, project: str
) -> None:
    await loom.done((await loom.create("A")).id)
    await synced(loom)
    await redis_conn.sadd(channels.status_set(project, "pending"), "loom-00000000")
    assert (await (await open_loom("second")).status()).counts["pending"] == 0
    await redis_conn.srem(channels.status_set(project, "pending"), "loom-00000000")


async def test_messages_and_escalations_are_announced(loom: Loom, redis_conn: Redis, project: str) -> None:
    await synced(loom)
    async with redis_conn.pubsub() as pubsub:
        await pubsub.psubscribe(channels.everything(project))
        task = await loom.create("A")
        await loom.escalate(task.id, "?")
        await loom.send("bob", "hi")
        await loom.send("*", "all")
        heard = set(await told(pubsub, redis_conn, channels.updates_channel(project)))
    assert heard == {
        channels.updates_channel(project),
        channels.escalation_channel(project),
        channels.agent_channel(project, "bob"),
        channels.broadcast_channel(project),
    }


async def test_names_of_one_project_do_not_reach_another(open_loom: Opener, config: LoomConfig, loom: Loom) -> None:
    async with Loom(replace(config, project_id=str(uuid.uuid4())), agent="b") as other:
        task = await loom.create("A")
        await other.create("B")
        await synced(other)
        await synced(loom)
        assert [one.title for one in (await other.ready()).tasks] == ["B"]
        with pytest.raises(TaskNotFoundError):
            await other.claim(task.id)
        await holds(other)


async def test_a_reader_that_begins_at_the_newest_position_meets_what_comes(pool: Pool, loom: Loom) -> None:
    await horizon_passed(loom)
    async with pool.acquire() as connection:
        start = await store.events.replay_from(connection, loom.project_id, 0, 0)
    await loom.create("A")
    await horizon_passed(loom)
    async with pool.acquire() as connection:
        (event,) = await store.events.after(connection, loom.project_id, start, limit=10)
    assert event.type == "task.created"


async def test_a_process_of_an_earlier_timeline_leaves_the_mirror_alone(loom: Loom, redis_conn: Redis) -> None:
    await synced(loom)
    cache = await loom._links.cache()
    system, timeline, database = cache.history.split("/")
    generation = await redis_conn.hget(channels.mirror_key(loom.project_id), "generation")
    await redis_conn.hset(
        channels.mirror_key(loom.project_id), "history", f"{system}/{int(timeline, 16) + 1:08X}/{database}"
    )
    relay = await loom.relay()
    assert not await relay.step()
    assert not await relay.rebuild_cache()
    assert await redis_conn.hget(channels.mirror_key(loom.project_id), "generation") == generation
    assert await cache.get_ready_tasks(10) is None
    assert await loom.create("A")


async def test_a_process_of_a_later_timeline_takes_the_mirror_over_once(loom: Loom, redis_conn: Redis) -> None:
    cache = await loom._links.cache()
    system, timeline, database = cache.history.split("/")
    key = channels.mirror_key(loom.project_id)
    earlier = f"{system}/{int(timeline, 16) - 1:08X}/{database}"
    await redis_conn.hset(key, mapping={"history": earlier, "layout": "1", "generation": "7", "position": "5-5"})
    await synced(loom)
    assert await redis_conn.hget(key, "generation") == "8"
    await synced(loom)
    assert await redis_conn.hget(key, "generation") == "8"


async def test_a_mirror_that_another_process_has_built_since_it_was_looked_at_is_not_built_again(
    loom: Loom, open_loom: Opener, redis_conn: Redis
) -> None:
    await synced(loom)
    await redis_conn.hset(channels.mirror_key(loom.project_id), "layout", "0")
    other = await (await open_loom("other")).relay()
    seen = await other._cache.state()
    assert seen is not None
    assert not seen.usable
    await synced(loom)
    assert not await other.rebuild_cache(seen.generation)
    assert await other.step()
    assert await redis_conn.hget(channels.mirror_key(loom.project_id), "generation") == str(int(seen.generation) + 1)


async def test_a_mirror_that_has_fallen_behind_is_not_read(loom: Loom, redis_conn: Redis) -> None:
    await loom.create("A")
    await synced(loom)
    cache = await loom._links.cache()
    relay = await loom.relay()
    assert await cache.get_ready_tasks(10) is not None
    _, newest = await loom.sweep()
    relay.expect(Position(newest.xid + 10_000, newest.id))
    assert await cache.get_ready_tasks(10) is None
    assert (await loom.ready()).tasks


async def test_a_redis_that_may_drop_what_it_holds_is_no_mirror(loom: Loom, redis_conn: Redis) -> None:
    await loom.create("A")
    await synced(loom)
    cache = await loom._links.cache()
    try:
        await redis_conn.config_set("maxmemory", "900mb")
        await redis_conn.config_set("maxmemory-policy", "allkeys-lru")
        assert not await (await loom.relay()).step()
        assert cache.refused is not None
        assert await cache.get_ready_tasks(10) is None
        (told,) = [one for one in await loom.doctor() if not one.holds]
        assert "allkeys-lru" in told.found
        assert (await loom.ready()).tasks
    finally:
        await redis_conn.config_set("maxmemory", "0")
        await redis_conn.config_set("maxmemory-policy", "noeviction")
    await synced(loom)
    await holds(loom)


async def test_large_fields_are_left_to_postgres(loom: Loom, redis_conn: Redis, project: str) -> None:
    large = {"text": "x" * 100_000}
    tasks = [await loom.create(f"T{n}", context=large) for n in range(30)]
    await synced(loom)
    assert await (await loom.relay()).rebuild_cache()
    key = channels.task_key(project, tasks[0].id)
    assert await redis_conn.hget(key, "left_out") == "context"
    assert await redis_conn.hget(key, "context") is None
    assert await (await loom._links.cache()).get_task(tasks[0].id) is None
    claim = await loom.claim(tasks[0].id)
    assert claim is not None
    assert claim.task.context == large
    await holds(loom)


async def test_a_call_of_the_script_is_bounded_by_bytes(loom: Loom) -> None:
    tasks = [await loom.create(f"T{n}", done_when="d" * 8_000) for n in range(300)]
    batches = [len(batch) for batch in mirror._batches(tasks)]
    assert sum(batches) == 300
    assert max(batches) < 130


async def test_tokens_of_another_timeline_begin_where_none_was_handed_out(loom: Loom, pool: Pool) -> None:
    task = await loom.create("A")
    first = await loom.claim(task.id)
    assert first is not None
    await loom.release(task.id)
    assert await pool.fetchval("select loom_token_floor()") == 0
    await pool.execute(
        "create or replace function loom_token_floor() returns bigint language sql stable as 'select 1::bigint << 32'"
    )
    second = await loom.claim(task.id)
    assert second is not None
    assert (first.task.claim_token, second.task.claim_token) == (1, 2**32 + 1)


async def test_doctor_outlasts_a_rebuild_that_a_killed_process_has_begun(
    loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert comparison._TRIES * comparison._PAUSE > mirror._BUILDING_SECONDS
    await loom.create("A")
    await synced(loom)
    monkeypatch.setattr(mirror, "_BUILDING_SECONDS", 2)
    assert await (await loom._links.cache()).begin() is not None
    assert not await (await loom.relay()).step()
    await holds(loom)
