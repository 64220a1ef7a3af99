"""Messages, inboxes, and waiting until something changes."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from loom.config import LoomConfig, RedisConfig
from loom.exceptions import InvalidInputError, MessageNotFoundError, TaskNotFoundError
from loom.graph.cache import waiting
from loom.graph.front import Loom
from tests.conftest import Opener, horizon_passed
from tests.graph.conftest import Rival

Clock = Callable[[float], Awaitable[None]]


async def texts(loom: Loom, **how: Any) -> list[str]:
    return [message.body for message in (await loom.inbox(**how)).messages]


async def test_a_message_is_read_until_it_is_acknowledged(open_loom: Opener) -> None:
    alice, bob = await open_loom("alice"), await open_loom("bob")
    sent = await alice.send("bob", "hello")
    assert await texts(bob) == ["hello"]
    assert await texts(alice) == []
    assert (await bob.inbox(ack=[sent.id])).acked == [sent.id]
    assert await texts(bob) == []
    assert await texts(bob, unread=False) == ["hello"]
    with pytest.raises(MessageNotFoundError, match=str(sent.id)):
        await alice.inbox(ack=[sent.id])


async def test_threads_hold_a_conversation_together(open_loom: Opener) -> None:
    alice, bob = await open_loom("alice"), await open_loom("bob")
    first = await alice.send("bob", "question")
    await bob.send("alice", "answer", thread_id=first.thread_id)
    await alice.send("bob", "other")
    assert await texts(alice, thread_id=first.thread_id) == ["answer"]
    assert await texts(bob, thread_id=first.thread_id, unread=False) == ["question", "answer"]


async def test_a_broadcast_reaches_each_name_for_a_day(
    open_loom: Opener, clock: Callable[[float], Awaitable[None]]
) -> None:
    alice, bob, carol = await open_loom("alice"), await open_loom("bob"), await open_loom("carol")
    sent = await alice.send("*", "all hands")
    assert [await texts(one) for one in (alice, bob, carol)] == [[], ["all hands"], ["all hands"]]
    await bob.inbox(ack=[sent.id])
    assert [await texts(one) for one in (bob, carol)] == [[], ["all hands"]]
    await clock(24 * 3600 + 1)
    assert await texts(carol) == []


async def test_an_inbox_is_read_in_pages(open_loom: Opener) -> None:
    alice, bob = await open_loom("alice"), await open_loom("bob")
    for n in range(25):
        await alice.send("bob", f"m{n}")
    found = await bob.inbox(limit=10)
    assert ([message.body for message in found.messages], found.more) == ([f"m{n}" for n in range(10)], 15)


@pytest.mark.parametrize("body", ["x" * 40_000, "", "a\0b", "\ud800"])
async def test_bad_messages_are_refused(loom: Loom, body: str) -> None:
    with pytest.raises(InvalidInputError):
        await loom.send("bob", body)
    with pytest.raises(InvalidInputError):
        await loom.send("not a name", "hello")


async def test_waiting_ends_when_it_happens(open_loom: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_FIRST_LOOK", 60.0)  # so that only a notice can end it in time
    waiter, worker = await open_loom("waiter"), await open_loom("worker")
    await (await worker.relay()).step()  # so that there are notices
    task = await worker.create("A", depends_on=[(await worker.create("first")).id])
    await worker.claim()

    async def after(what: str, act: Callable[[], Awaitable[object]], **how: Any) -> None:
        going = asyncio.create_task(waiter.wait(what, timeout=60, **how))
        await asyncio.sleep(0.3)
        assert not going.done()
        await act()
        assert (await asyncio.wait_for(going, 30)).changed

    first = (await worker.get(task.id)).dependencies[0].id
    await after("ready", lambda: worker.done(first))
    await after("task", lambda: worker.claim(task.id), task_id=task.id)
    await after("inbox", lambda: worker.send("waiter", "hi"))
    await after("escalation", lambda: worker.escalate(task.id, "?"))
    await after("any", lambda: worker.create("B"))


@pytest.mark.benchmark
async def test_a_wait_ends_within_a_few_statements(open_loom: Opener) -> None:
    """From the change to the waiter's answer, against the change alone; medians of 25."""
    waiter, worker = await open_loom("waiter"), await open_loom("worker")
    await (await worker.relay()).step()
    alone, heard = [], []
    for number in range(25):
        going = asyncio.create_task(
            waiter.wait("inbox", timeout=60, since=(await waiter.wait("inbox", timeout=0)).since)
        )
        await asyncio.sleep(0.05)
        began = time.perf_counter()
        await worker.send("waiter", f"{number}")
        alone.append(time.perf_counter() - began)
        assert (await going).changed
        heard.append(time.perf_counter() - began)
    assert statistics.median(heard) < 5 * statistics.median(alone), (heard, alone)


async def test_nothing_between_two_waits_is_lost(open_loom: Opener) -> None:
    waiter, worker = await open_loom("waiter"), await open_loom("worker")
    since = (await waiter.wait("any", timeout=0)).since
    seen: list[str] = []

    async def produce() -> None:
        for n in range(60):
            await worker.create(f"T{n}")

    producing = asyncio.create_task(produce())
    while len(seen) < 60:
        found = await waiter.wait("any", since=since, timeout=5)
        assert found.changed
        seen += [str(event.task_id) for event in found.events]
        since = found.since
        await asyncio.sleep(0.01)
    await producing
    assert len(set(seen)) == len(seen) == 60


async def test_what_is_there_already_is_returned_at_once(loom: Loom) -> None:
    task = await loom.create("A")
    assert (await loom.wait("ready", timeout=5)).ready == 1
    await loom.send(loom.agent, "note to self")
    assert (await loom.wait("inbox", timeout=5)).unread == 1
    await loom.done(task.id)
    seen = await loom.wait("task", task_id=task.id, timeout=5)
    assert seen.task is not None
    assert seen.task.status == "done"
    assert not (await loom.wait("ready", timeout=0.1)).changed


async def test_waiting_without_redis_looks_for_itself(config: LoomConfig, open_loom: Opener) -> None:
    worker = await open_loom("worker")
    async with Loom(replace(config, redis=RedisConfig(url="unix:///nonexistent.sock")), agent="deaf") as deaf:
        waiting = asyncio.create_task(deaf.wait("ready", timeout=60))
        await asyncio.sleep(1)
        await worker.create("A")
        assert (await asyncio.wait_for(waiting, 30)).changed


async def test_bad_waits_are_refused(loom: Loom) -> None:
    for what, task_id in (("nothing", None), ("task", None), ("ready", "loom-00000000")):
        with pytest.raises(InvalidInputError):
            await loom.wait(what, task_id=task_id)
    bad_positions = ("x", "1", "1-2-3", "-1--1", "999999999999999999999999-1", "1'; drop table tasks--2")
    bad_snapshots = ("5:4:", "0:1:", "1:9:9", "2:9:1", "1:9:3,2", "1:9:3,3", "1:9", "1:2:/3:4:", "1:2:/3:4:/x", "٣:4:")
    for since in (*bad_positions, *bad_snapshots, f"1:{2**63}:", "1:9:" + "3," * 60_000):
        with pytest.raises(InvalidInputError):
            await loom.wait("any", since=since, timeout=0)
    with pytest.raises(InvalidInputError):
        await loom.wait("any", timeout=61)
    with pytest.raises(TaskNotFoundError):
        await loom.wait("task", task_id="loom-00000000")


# --- a transaction that stays open somewhere --------------------------------------------------------------------------


@pytest.fixture
async def stall(loom: Loom, database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A session with a transaction that writes events and stays open."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("begin")
    await connection.execute("insert into events (project_id, type) values ($1, 'project.decomposed')", loom.project_id)
    yield connection
    connection.terminate()


@pytest.mark.parametrize("what", ["task", "ready"])
async def test_a_wait_is_not_held_up_by_a_transaction_that_stays_open(
    loom: Loom, stall: object, open_loom: Opener, what: str
) -> None:
    task, other = await loom.create("A"), await open_loom("other")
    await loom.create("B", depends_on=[task.id])
    chosen: dict[str, Any] = {"task_id": task.id} if what == "task" else {}
    await other.claim(task.id)
    since = (await loom.wait(what, timeout=0, **chosen)).since
    waiting = asyncio.create_task(loom.wait(what, since=since, timeout=60, **chosen))
    await asyncio.sleep(0.1)
    await other.done(task.id)
    seen = await asyncio.wait_for(waiting, 30)
    assert seen.changed
    assert (seen.ready, seen.task and str(seen.task.status)) == ((None, "done") if what == "task" else (1, None))
    again = await loom.wait(what, since=seen.since, timeout=0, **chosen)
    assert not again.changed, "what was told is told again"


async def test_who_holds_the_stream_up_is_named(loom: Loom, rival: Rival, clock: Clock) -> None:
    await rival.execute("select pg_current_xact_id()")
    await loom.create("A")
    assert all(one.holds for one in await loom.doctor()), "not for a moment"
    await clock(120)
    (told,) = [one for one in await loom.doctor() if not one.holds]
    assert re.fullmatch(r"for 1\d\d s, by a transaction that process \d+ \(.+\) has open", told.found), told.found
    await rival.commit()
    await horizon_passed(loom)
    assert all(one.holds for one in await loom.doctor())


async def test_each_event_is_told_once_whatever_order_transactions_end_in(
    loom: Loom, stall: asyncpg.Connection[asyncpg.Record]
) -> None:
    first = (await loom.wait("any", timeout=0)).since
    task = await loom.create("A")
    seen = await loom.wait("any", since=first, timeout=0)
    assert [event.task_id for event in seen.events] == [task.id]
    await stall.execute("commit")  # it began before, and its event has the lower number
    late = await loom.wait("any", since=seen.since, timeout=0)
    assert [str(event.type) for event in late.events] == ["project.decomposed"]
    assert not (await loom.wait("any", since=late.since, timeout=0)).changed
    assert len((await loom.wait("any", since=first, timeout=0)).events) == 2


async def test_a_page_that_ends_within_a_transaction_loses_and_repeats_nothing(
    loom: Loom, stall: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_EVENTS", 3)
    monkeypatch.setattr(waiting, "_PAGE", 5)
    since = (await loom.wait("any", timeout=0)).since
    await loom.apply_plan({"tasks": [{"title": f"T{n}"} for n in range(8)]})
    told: list[Any] = []
    for number in range(12):
        if number == 2:
            await stall.execute("commit")
            await loom.create("after")
        seen = await loom.wait("any", since=since, timeout=0)
        told += [event.position for event in seen.events]
        since = seen.since
    assert len(told) == len(set(told)) == 10
    assert not seen.changed


async def test_doctor_names_who_holds_the_stream_up(
    loom: Loom, stall: asyncpg.Connection[asyncpg.Record], clock: Clock
) -> None:
    await loom.create("A")
    assert all(one.holds for one in await loom.doctor())
    await clock(100)
    (told,) = [one for one in await loom.doctor() if not one.holds]
    assert f"process {stall.get_server_pid()}" in told.found
    await stall.execute("commit")
    assert all(one.holds for one in await loom.doctor())
