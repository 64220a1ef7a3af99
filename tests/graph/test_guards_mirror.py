"""The mirror's second line: what keeps it true, and readers from believing it, when something has gone wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from loom.bus import channels
from loom.bus.client import Client
from loom.bus.connection import Breaker
from loom.bus.events import START, Position
from loom.config import LoomConfig, RedisConfig
from loom.db.connection import Pool
from loom.graph import store
from loom.graph.cache import Cache, waiting
from loom.graph.cache.mirror import BATCH
from loom.graph.front import Loom
from loom.graph.store.transaction import Change
from tests.conftest import Opener, horizon_passed
from tests.graph.conftest import Rival, begun, kill, soon
from tests.graph.test_lifecycle import Clock, holds
from tests.graph.test_mirror import stream, synced
from tests.waiting import told

NOWHERE = "unix:///nonexistent/redis.sock"


async def cache_of(loom: Loom) -> Cache:
    return await loom._links.cache()


async def spoil(redis: Any, name: str) -> None:
    """Has every write fail that reaches this name."""
    await redis.delete(name)
    await redis.set(name, "no list, set or hash")


async def answers(cache: Cache) -> None:
    """Returns when Redis is tried again, after it has failed."""
    async with asyncio.timeout(30):
        while await cache.state() is None:  # noqa: ASYNC110 - the breaker goes by the clock
            await asyncio.sleep(0.05)


async def queue(redis: Any, project: str) -> list[str]:
    """The queue of open escalations."""
    found: list[str] = await redis.lrange(channels.escalation_channel(project), 0, -1)
    return found


async def held(redis: Any, project: str, field: str) -> str | None:
    """What the mirror says of itself."""
    found: str | None = await redis.hget(channels.mirror_key(project), field)
    return found


async def change(redis: Any, project: str, **fields: str) -> None:
    """Has the mirror say something else of itself."""
    await redis.hset(channels.mirror_key(project), mapping=fields)


async def titles(loom: Loom) -> list[str]:
    return [task.title for task in (await loom.ready()).tasks]


# --- writes that fail -------------------------------------------------------------------------------------------------


async def test_after_a_write_that_failed_reads_go_to_postgres_until_the_relay_has_passed_it(
    loom: Loom, redis_conn: Any, project: str
) -> None:
    await synced(loom)
    await loom.create("A")
    cache, ready = await cache_of(loom), channels.ready_queue(project)
    kept = await redis_conn.zrange(ready, 0, -1, withscores=True)
    await spoil(redis_conn, ready)
    await loom.create("B")
    await redis_conn.delete(ready)
    await redis_conn.zadd(ready, dict(kept))
    await answers(cache)
    assert await cache.get_ready_tasks(10) is None
    assert await titles(loom) == ["A", "B"]
    await synced(loom)
    found = await cache.get_ready_tasks(10)
    assert found is not None
    assert [one.title for one in found] == ["A", "B"]
    await holds(loom)


async def test_of_two_writes_that_failed_the_later_one_counts(loom: Loom, redis_conn: Any, project: str) -> None:
    """In whichever order they fail."""
    tasks = [await loom.create(f"T{n}") for n in range(2)]
    await synced(loom)
    door = Way((await cache_of(loom))._redis)
    cache = Cache(door.client, project, history=(await cache_of(loom)).history, stream_maxlen=100)
    door.shut = True
    for task, position in zip(tasks, (Position(2**61, 9), Position(1, 3)), strict=True):
        assert not await cache.sync(Change(tasks=(task,), position=position))
    door.shut = False
    await answers(cache)
    assert await cache.get_ready_tasks(10) is None
    await change(redis_conn, project, position=str(Position(2**61, 9)))
    assert await cache.get_ready_tasks(10) is not None


class Way:
    """A way to Redis that can be shut; counts who tries."""

    def __init__(self, client: Callable[[], Awaitable[Client]]) -> None:
        self._client = client
        self.shut = False
        self.tries = 0

    async def client(self) -> Client:
        self.tries += 1
        if self.shut:
            raise OSError("away")
        return await self._client()


async def test_a_large_change_of_which_the_first_part_was_not_written_has_failed(
    loom: Loom, redis_conn: Any, project: str
) -> None:
    await synced(loom)
    cache = await cache_of(loom)
    plan = {"tasks": [{"title": f"T{n}"} for n in range(BATCH + 5)]}
    tasks = await loom.apply_plan(plan)
    answers_in_turn = iter([None, "written"])

    async def write(**_: Any) -> str | None:
        return next(answers_in_turn)

    cache._write = write  # type: ignore[method-assign]
    assert not await cache.sync(Change(tasks=tuple(tasks), position=Position(2**60, 1)))
    assert cache._unseen == Position(2**60, 1)


async def test_a_redis_that_fails_is_left_alone_for_a_while(loom: Loom) -> None:
    """However often it is asked meanwhile; once it answers, the next failure is a first one again."""
    way = Way((await cache_of(loom))._redis)
    cache = Cache(way.client, loom.project_id, history=(await cache_of(loom)).history, stream_maxlen=100)
    way.shut = True
    for _ in range(5):
        assert await cache.state() is None
    assert way.tries == 1
    way.shut = False
    await answers(cache)
    way.shut = True
    assert await cache.state() is None
    assert cache._breaker._until - time.monotonic() <= 1, "the pause does not grow from what is over"


def test_a_breaker_waits_longer_each_time_up_to_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("loom.bus.connection.time.monotonic", lambda: now)
    breaker, pauses = Breaker(), []
    for _ in range(7):
        breaker.failed()
        began = now
        while not breaker.closed:
            now += 0.5
        pauses.append(now - began)
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    breaker.succeeded()
    assert breaker.closed


# --- what readers do not believe --------------------------------------------------------------------------------------


async def test_reads_during_a_rebuild_are_answered_by_postgres(loom: Loom, redis_conn: Any, project: str) -> None:
    task = await loom.create("A")
    await synced(loom)
    cache = await cache_of(loom)
    generation = await cache.begin()
    assert generation is not None
    assert await cache.empty(generation)
    assert await cache.counts() is None
    assert await titles(loom) == ["A"]
    assert (await loom.status()).counts["pending"] == 1
    state = await cache.state()
    assert state is not None
    assert not state.usable
    # What is written meanwhile does not make it whole.
    await loom.create("B")
    assert await titles(loom) == ["A", "B"]
    assert await held(redis_conn, project, "position") is None
    assert not await (await loom.relay()).step(), "somebody is at it"
    await cache.abandon(generation)
    await synced(loom)
    await holds(loom)
    assert await cache.get_task(task.id) is not None


@pytest.mark.parametrize("field", ["layout", "history"])
async def test_another_mirror_is_neither_read_nor_written(
    loom: Loom, redis_conn: Any, project: str, field: str
) -> None:
    task = await loom.create("A")
    await synced(loom)
    cache = await cache_of(loom)
    await change(redis_conn, project, **{field: "0"})
    assert await cache.get_ready_tasks(10) is None
    assert await titles(loom) == ["A"]
    state = await cache.state()
    assert state is not None
    assert not state.usable
    await loom.claim(task.id)
    assert await redis_conn.zscore(channels.ready_queue(project), task.id) is not None, "it is somebody else's"
    await synced(loom)
    assert await held(redis_conn, project, field) != "0"
    await holds(loom)


async def test_a_mirror_without_a_position_is_not_read(loom: Loom, redis_conn: Any, project: str) -> None:
    await loom.create("A")
    await synced(loom)
    await redis_conn.hdel(channels.mirror_key(project), "position")
    await redis_conn.delete(channels.ready_queue(project))
    assert await titles(loom) == ["A"]
    await synced(loom)
    await holds(loom)


@pytest.mark.parametrize("field", ["position", "layout", "history"])
async def test_a_mirror_that_says_what_nobody_has_written_is_built_anew(
    loom: Loom, redis_conn: Any, project: str, field: str
) -> None:
    await loom.create("A")
    await synced(loom)
    await redis_conn.hset(channels.mirror_key(project), field, "nothing of ours")
    await redis_conn.delete(channels.ready_queue(project))
    (await cache_of(loom)).try_again()
    assert await titles(loom) == ["A"]
    (await cache_of(loom)).try_again()
    await synced(loom)
    await holds(loom)


async def test_a_task_that_is_damaged_in_the_mirror_comes_from_postgres(
    loom: Loom, redis_conn: Any, project: str
) -> None:
    task = await loom.create("A")
    await synced(loom)
    cache = await cache_of(loom)
    for field, damage in (("version", "many"), ("created_at", "once"), ("context", "{")):
        kept = await redis_conn.hget(channels.task_key(project, task.id), field)
        await redis_conn.hset(channels.task_key(project, task.id), field, damage)
        assert await cache.get_task(task.id) is None
        cache.try_again()
        await redis_conn.hset(channels.task_key(project, task.id), field, kept)
    await redis_conn.hset(channels.task_key(project, task.id), "created_at", "once")
    assert await cache.get_ready_tasks(10) is None


async def test_a_list_that_changes_while_it_is_read_comes_from_postgres(
    loom: Loom, redis_conn: Any, project: str
) -> None:
    task = await loom.create("A")
    await synced(loom)
    await redis_conn.hset(channels.task_key(project, task.id), "status", "claimed")
    assert await (await cache_of(loom)).get_ready_tasks(10) is None
    assert await titles(loom) == ["A"]


async def test_ready_work_of_one_priority_is_of_that_priority(loom: Loom) -> None:
    for priority in ("p0", "p1", "p2"):
        await loom.create(priority, priority=priority)
    await synced(loom)
    for priority in ("p0", "p1", "p2"):
        assert [task.title for task in (await loom.ready(priority=priority)).tasks] == [priority]


# --- who writes what --------------------------------------------------------------------------------------------------


async def test_of_two_relays_only_one_carries_an_event(loom: Loom, redis_conn: Any, project: str, pool: Pool) -> None:
    """The position that a write continues from is compared in the same step."""
    await synced(loom)
    cache = await cache_of(loom)
    before = Position.parse(str(await held(redis_conn, project, "position")))
    task = await loom.create("A")
    await synced(loom)
    wanted = await stream(redis_conn, project)
    async with pool.acquire() as connection:
        events = await store.events.after(connection, project, before, limit=10)
    late = [replace(event, position=Position(event.position.xid, event.position.id + 1)) for event in events]
    assert not await cache.follow(before, late, [task], [])
    assert await stream(redis_conn, project) == wanted
    assert await held(redis_conn, project, "position") == wanted[-1][0]


async def test_a_relay_that_was_not_first_stops(loom: Loom, redis_conn: Any, project: str) -> None:
    await synced(loom)
    relay, cache = await loom.relay(), await cache_of(loom)
    for n in range(3):
        await loom.create(f"T{n}")
    follow = cache.follow

    async def second(*arguments: Any) -> bool:
        await change(redis_conn, project, position="9-9")
        return await follow(*arguments)

    cache.follow = second  # type: ignore[assignment,method-assign]
    before = relay.position
    assert not await soon(relay.step())
    assert relay.position == before


async def test_an_older_state_of_a_task_is_not_written_again_by_its_version(
    loom: Loom, redis_conn: Any, project: str
) -> None:
    """Nor the same: its announcement has gone out."""
    await synced(loom)
    task = await loom.create("A")
    claim = await loom.claim(task.id)
    assert claim is not None
    cache = await cache_of(loom)
    async with redis_conn.pubsub() as pubsub:
        await pubsub.subscribe(channels.updates_channel(project))
        assert await cache.sync(Change(tasks=(task,)))
        assert await cache.sync(Change(tasks=(claim.task,)))
        assert await told(pubsub, redis_conn, channels.updates_channel(project)) == []
    await holds(loom)


async def test_a_cancelled_task_stays_so_when_its_hash_has_expired(loom: Loom, redis_conn: Any, project: str) -> None:
    await synced(loom)
    task = await loom.create("A")
    await loom.cancel(task.id)
    await redis_conn.delete(channels.task_key(project, task.id))
    await (await cache_of(loom)).sync(Change(tasks=(task,)))
    assert await redis_conn.zcard(channels.ready_queue(project)) == 0
    await holds(loom)


async def test_a_finished_task_is_written_where_its_hash_has_expired(loom: Loom, redis_conn: Any, project: str) -> None:
    """As a child that was cancelled and is waived long after."""
    await synced(loom)
    task = (await loom.done((await loom.create("A")).id)).task
    await redis_conn.delete(channels.task_key(project, task.id))
    await (await cache_of(loom)).sync(Change(tasks=(replace(task, version=task.version + 1),)))
    assert await redis_conn.exists(channels.task_key(project, task.id))


async def test_the_hash_of_a_task_long_finished_is_not_written(loom: Loom, redis_conn: Any, project: str) -> None:
    task = (await loom.done((await loom.create("A")).id)).task
    old = await loom.done((await loom.create("B")).id)
    assert old.task.done_at is not None
    await synced(loom)
    pool = await loom._links.pool()
    await pool.execute("update tasks set done_at = done_at - interval '59 min' where id = $1", task.id)
    await pool.execute("update tasks set done_at = done_at - interval '61 min' where id = $1", old.task.id)
    assert await (await loom.relay()).rebuild_cache()
    assert 0 < await redis_conn.ttl(channels.task_key(project, task.id)) <= 60
    assert not await redis_conn.exists(channels.task_key(project, old.task.id))
    entry = (await cache_of(loom))._entry((await loom.get(old.task.id)).task)
    assert "fields" not in entry, "they do not even travel"
    await holds(loom)


async def test_a_field_that_is_gone_leaves_the_mirror(loom: Loom, redis_conn: Any, project: str) -> None:
    await synced(loom)
    task = await loom.create("A", done_when="It works.")
    await loom.update(task.id, done_when="")
    assert not await redis_conn.hexists(channels.task_key(project, task.id), "done_when")
    await holds(loom)


async def test_a_dead_letter_that_was_brought_back_leaves_the_dead_letters(
    loom: Loom, redis_conn: Any, project: str
) -> None:
    await synced(loom)
    task = await loom.create("A")
    await kill(loom, task)
    dead = channels.dead_letter_set(project)
    assert await redis_conn.smembers(dead) == {task.id}
    await loom.resolve(task.id, "retry")
    assert await redis_conn.smembers(dead) == set()
    await holds(loom)


# --- rebuilds ---------------------------------------------------------------------------------------------------------


async def test_a_rebuild_that_was_taken_over_writes_nothing(loom: Loom, redis_conn: Any, project: str) -> None:
    task = await loom.create("A")
    await synced(loom)
    cache = await cache_of(loom)
    first = await cache.begin()
    assert first is not None
    assert await cache.begin() is None, "its time is not over"
    await change(redis_conn, project, building="1")  # as some seconds later
    second = await cache.begin()
    assert second not in (None, first)
    assert not await cache.load(first, [task])
    assert not await cache.finish(first, START, [])
    await cache.abandon(first)
    assert await cache.begin() is None, "the second is still at it"
    assert await held(redis_conn, project, "position") is None
    assert second is not None
    assert await cache.load(second, [task])
    assert await cache.finish(second, START, [])


async def test_a_rebuild_that_gets_on_is_not_taken_over(loom: Loom, redis_conn: Any, project: str) -> None:
    task = await loom.create("A")
    await synced(loom)
    cache = await cache_of(loom)
    generation = await cache.begin()
    assert generation is not None
    await change(redis_conn, project, building="1")
    assert await cache.load(generation, [task])
    assert await cache.begin() is None


async def test_a_rebuild_of_another_history_is_taken_over_at_once(loom: Loom, redis_conn: Any, project: str) -> None:
    await synced(loom)
    elsewhere = Cache((await cache_of(loom))._redis, project, history="elsewhere", stream_maxlen=100)
    assert await elsewhere.begin() is not None
    await synced(loom)
    await holds(loom)


async def test_a_rebuild_writes_what_was_written_while_it_emptied(loom: Loom, redis_conn: Any, project: str) -> None:
    """The hash stands with the same version, and its id is in no set."""
    task = await loom.create("A")
    await synced(loom)
    cache = await cache_of(loom)
    generation = await cache.begin()
    assert generation is not None
    assert await cache.empty(generation)
    await loom.claim(task.id)  # is mirrored
    await redis_conn.delete(channels.status_set(project, "claimed"))
    now = (await loom.get(task.id)).task
    assert await cache.load(generation, [now])
    assert await redis_conn.sismember(channels.status_set(project, "claimed"), task.id)
    assert await cache.load(generation, [task]), "as the snapshot had it"
    assert await redis_conn.zscore(channels.ready_queue(project), task.id) is None


async def test_a_rebuild_that_fails_is_given_back(loom: Loom, open_loom: Opener, redis_conn: Any) -> None:
    await loom.create("A")
    await synced(loom)
    cache, relay = await cache_of(loom), await loom.relay()

    async def load(*_: Any) -> bool:
        return False

    cache.load = load  # type: ignore[assignment,method-assign]
    assert not await relay.rebuild_cache()
    other = await open_loom("other")
    await synced(other)
    await holds(other)


async def test_a_rebuild_begins_with_the_newest_events(
    config: LoomConfig, loom: Loom, redis_conn: Any, project: str
) -> None:
    for n in range(8):
        await loom.create(f"T{n}")
    short = replace(config, redis=replace(config.redis, stream_maxlen=3))
    async with Loom(short, agent="short") as other:
        await synced(other)
        assert [kind for _, kind in await stream(redis_conn, project)] == ["task.created"] * 3
        await horizon_passed(other)
        assert await (await other.relay()).rebuild_cache()
        await synced(other)
        assert len(await stream(redis_conn, project)) == 3


async def test_a_rebuild_makes_the_queue_of_escalations_anew(loom: Loom, redis_conn: Any, project: str) -> None:
    for n in range(3):
        await kill(loom, await loom.create(f"T{n}"))
    await synced(loom)
    wanted = [one.id for one in await loom.escalations()]
    assert await queue(redis_conn, project) == wanted
    await redis_conn.rpush(channels.escalation_channel(project), "esc-00000000")
    generation = await (await cache_of(loom)).begin()
    assert generation is not None
    assert await (await cache_of(loom)).finish(generation, START, wanted)
    assert await queue(redis_conn, project) == wanted
    await redis_conn.delete(channels.escalation_channel(project))
    assert await (await loom.relay()).rebuild_cache()
    assert await queue(redis_conn, project) == wanted


# --- what a killed process left ---------------------------------------------------------------------------------------


async def test_what_a_killed_process_did_not_announce_is_announced_by_the_relay(
    loom: Loom, config: LoomConfig, redis_conn: Any, project: str
) -> None:
    """Messages, escalations raised and resolved, and the queue of those; as well as its tasks."""
    await synced(loom)
    asked = await loom.create("asked")
    await loom.escalate(asked.id, "?")
    await synced(loom)
    async with redis_conn.pubsub() as pubsub:
        await pubsub.psubscribe(channels.everything(project))
        async with Loom(replace(config, redis=RedisConfig(url=NOWHERE)), agent="killed") as killed:
            await killed.send("bob", "hi")
            await killed.send("*", "all")
            await killed.resolve(asked.id, "answer", note="so")
            await kill(killed, await killed.create("dead"))
        (raised,) = await loom.escalations()
        await synced(loom)
        heard = await told(pubsub, redis_conn, channels.updates_channel(project))
    assert set(heard) >= {
        channels.agent_channel(project, "bob"),
        channels.broadcast_channel(project),
        channels.escalation_channel(project),
        channels.updates_channel(project),
    }
    assert heard.count(channels.escalation_channel(project)) == 2
    assert await queue(redis_conn, project) == [raised.id]
    await holds(loom)


async def test_an_escalation_that_is_announced_twice_is_in_the_queue_once(
    loom: Loom, redis_conn: Any, project: str
) -> None:
    """By whoever raised it, and by the relay after him."""
    await synced(loom)
    await kill(loom, await loom.create("A"))
    (raised,) = await loom.escalations()
    assert await queue(redis_conn, project) == [raised.id]
    await synced(loom)
    assert await queue(redis_conn, project) == [raised.id]
    await loom.resolve(raised.id, "retry")
    assert await queue(redis_conn, project) == []
    await synced(loom)
    assert await queue(redis_conn, project) == []


async def test_the_relay_passes_by_what_another_history_wrote(
    loom: Loom, open_loom: Opener, redis_conn: Any, project: str, pool: Pool
) -> None:
    """Its transaction numbers mean nothing here, small as they may be."""
    await loom.create("A")
    await pool.execute("update projects set history = 'elsewhere'")
    await pool.execute("update events set xid = '1'")
    restored = await open_loom("restored")
    await restored.create("B")
    await synced(restored)
    await change(redis_conn, project, position="0-0")
    await redis_conn.delete(channels.event_stream(project))
    await synced(restored)
    assert [kind for _, kind in await stream(redis_conn, project)] == ["task.created"]


async def test_a_rebuild_counts_no_event_of_another_history(
    loom: Loom, config: LoomConfig, redis_conn: Any, project: str, pool: Pool
) -> None:
    """Though its transaction number is higher than those of today."""
    for n in range(3):
        await loom.create(f"T{n}")
    await pool.execute("update projects set history = 'elsewhere'")
    async with Loom(replace(config, redis=replace(config.redis, stream_maxlen=1)), agent="restored") as restored:
        new = await restored.create("new")
        await pool.execute("update events set xid = pg_current_xact_id() where task_id <> $1", new.id)
        await horizon_passed(restored)
        assert await (await restored.relay()).rebuild_cache()
        await synced(restored)
    assert [kind for _, kind in await stream(redis_conn, project)] == ["task.created"]


async def test_a_rebuild_goes_on_behind_what_is_still_open(
    loom: Loom, config: LoomConfig, redis_conn: Any, project: str, rival: Rival
) -> None:
    """A transaction that commits after it has a smaller number than what has committed before."""
    await rival.execute("insert into events (project_id, type) values ($1, 'project.decomposed')", project)
    async with Loom(replace(config, redis=replace(config.redis, stream_maxlen=1)), agent="short") as short:
        for n in range(3):
            await loom.create(f"T{n}")
        assert await (await short.relay()).rebuild_cache()
        await rival.commit()
        await synced(short)
    assert [kind for _, kind in await stream(redis_conn, project)] == ["project.decomposed", *["task.created"] * 3]


async def test_events_stand_in_the_order_of_their_transactions(
    loom: Loom, redis_conn: Any, project: str, rival: Rival
) -> None:
    """Not in that of their own numbers, which a transaction that began earlier may draw later."""
    await synced(loom)
    await rival.execute("select pg_current_xact_id()")
    await loom.create("A")
    await rival.execute("insert into events (project_id, type) values ($1, 'project.decomposed')", project)
    await rival.commit()
    await synced(loom)
    assert [kind for _, kind in await stream(redis_conn, project)] == ["project.decomposed", "task.created"]


# --- what the comparison sees -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["set", "no set", "score", "dead", "field", "no hash", "stranger"])
async def test_whatever_is_wrong_in_the_mirror_is_seen(loom: Loom, redis_conn: Any, project: str, wrong: str) -> None:
    task = await loom.create("A")
    await synced(loom)
    found: Any = redis_conn
    key = channels.task_key(project, task.id)
    match wrong:
        case "set":
            await found.sadd(channels.status_set(project, "done"), task.id)
        case "no set":
            await found.srem(channels.status_set(project, "pending"), task.id)
        case "score":
            await found.zadd(channels.ready_queue(project), {task.id: 1.0})
        case "dead":
            await found.sadd(channels.dead_letter_set(project), task.id)
        case "field":
            await found.hset(key, "title", "B")
        case "no hash":
            await found.delete(key)
        case _:
            task = replace(task, id="loom-0000000a")
            await found.sadd(channels.status_set(project, "pending"), task.id)
    (verdict,) = [one for one in await loom.doctor() if not one.holds]
    assert task.id in str(verdict)


async def test_what_differs_for_a_moment_only_is_not_told(loom: Loom, redis_conn: Any, project: str) -> None:
    """Different tasks at each look: others write meanwhile."""
    tasks = [await loom.create(f"T{n}") for n in range(3)]
    await synced(loom)
    cache, numbers = await cache_of(loom), iter(range(3))
    everything = cache.everything

    async def moving() -> Any:
        found = await everything()
        assert found is not None
        found.hashes.pop(tasks[next(numbers)].id)
        return found

    cache.everything = moving  # type: ignore[method-assign]
    assert [one for one in await loom.doctor() if not one.holds] == []


# --- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["subscriber", "relay", "cache"])
async def test_those_who_come_at_once_share_what_is_made(open_loom: Opener, what: str) -> None:
    """As many who wait before anything is connected: what each made for himself would be closed by nobody."""
    make = getattr((await open_loom()).links, what)
    made = await asyncio.gather(*(make() for _ in range(3)))
    assert all(one is made[0] for one in made)


async def test_a_wait_returns_a_page_and_the_next_goes_on_after_it(loom: Loom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_EVENTS", 5)
    since = (await loom.wait("any", timeout=0)).since
    for n in range(12):
        await loom.create(f"T{n}")
    seen: list[str | None] = []
    while len(seen) < 12:
        found = await loom.wait("any", since=since, timeout=5)
        assert 0 < len(found.events) <= 5
        seen += [event.task_id for event in found.events]
        since = found.since
    assert len(set(seen)) == 12


@pytest.mark.parametrize("what", ["ready", "task", "inbox", "escalation"])
async def test_a_wait_is_not_ended_by_what_it_is_not_for(loom: Loom, open_loom: Opener, what: str) -> None:
    other, task = await open_loom("other"), await loom.create("A")
    since = (await loom.wait("any", timeout=0)).since
    await other.create("epic", epic=True)
    await other.update(task.id, title="B") if what != "task" else await other.create("C")
    await other.send("carol", "not for tester")
    await loom.send("*", "by tester itself")
    if what != "ready":
        await other.claim((await other.create("D")).id)
    found = await loom.wait(what, since=since, timeout=0, task_id=task.id if what == "task" else None)
    assert not found.changed


async def test_a_notice_is_worth_one_look(loom: Loom, redis_conn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a few that come later and later, should what it tells of not be readable yet; not one after the other."""
    await synced(loom)
    looks, look = 0, waiting._look

    async def counted(*arguments: Any) -> waiting.Waited:
        nonlocal looks
        looks += 1
        return await look(*arguments)

    monkeypatch.setattr(waiting, "_look", counted)
    async with begun(loom.wait("inbox", timeout=2)) as waits_for_it:
        await asyncio.sleep(0.5)
        await redis_conn.publish(channels.agent_channel(loom.project_id, loom.agent), "{}")
        assert not (await waits_for_it).changed
    assert looks < 15


async def test_a_task_that_is_dead_is_not_waited_for(loom: Loom) -> None:
    task = await loom.create("A")
    await kill(loom, task)
    assert (await loom.wait("task", task_id=task.id, timeout=0)).changed


async def test_a_since_reaches_back_as_far_as_asked(loom: Loom, clock: Clock) -> None:
    await loom.create("old")
    await clock(100)
    new = await loom.create("new")
    await horizon_passed(loom)
    found = await loom.wait("any", since=await loom.since(50), timeout=0)
    assert [event.task_id for event in found.events] == [new.id]
    found = await loom.wait("any", since=await loom.since(500), timeout=0)
    assert len(found.events) == 2
