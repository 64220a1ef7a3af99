"""How long rests what has failed, and what becomes of what goes on beside something."""

from __future__ import annotations

import asyncio
import threading

import pytest
from redis.asyncio import Redis

from loom.background import Backoff, beside, end, taken
from loom.bus import subscriber
from loom.services import Endpoints
from tests.waiting import until


def test_a_rest_is_twice_the_one_before_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 3)
    assert [backoff.rest() for _ in range(5)] == [0.5, 1, 2, 3, 3]
    backoff.renew()
    assert backoff.rest() == 0.5


def test_however_often_something_fails_its_rest_can_be_told() -> None:
    assert Backoff(1, 30).after(10**9) == 30
    assert Backoff(0, 0).rest() == 0


def test_jitter_spreads_rests_to_both_sides() -> None:
    rests = [Backoff(10, 100, jitter=0.2).rest() for _ in range(1000)]
    assert 8 <= min(rests) < 9 < 11 < max(rests) <= 12


async def test_a_subscription_that_stood_is_made_anew_without_a_longer_rest_each_time(
    servers: Endpoints, redis_conn: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "_PAUSES", (0.05, 10.0))
    url = servers.redis_url
    named = f"{url}{'&' if '?' in url else '?'}client_name=rests"
    heard = subscriber.Subscriber(named, "nothing:*")
    async with heard.listening(lambda channel, text: False) as woken:
        for _ in range(7):
            woken.clear()
            for client in await redis_conn.client_list(_type="pubsub"):
                if client["name"] == "rests":
                    await redis_conn.client_kill_filter(_id=client["id"])
            await asyncio.wait_for(woken.wait(), 30)
        assert heard._backoff.rest() == 0.05, "a first rest"
    await heard.close()


async def test_a_subscription_that_is_closed_is_not_begun_again(servers: Endpoints) -> None:
    """As by a call whose cancellation was lost, and which nobody waits for any more."""
    heard = subscriber.Subscriber(servers.redis_url, "nothing:*")
    async with heard.listening(lambda channel, text: False):
        assert heard.connected
    await heard.close()
    async with heard.listening(lambda channel, text: False):
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "loom-subscriber"]
        assert not heard.connected


async def test_what_goes_on_beside_something_ends_with_it() -> None:
    begun: list[asyncio.Task[None]] = []

    async def work() -> None:
        async with beside(asyncio.Event().wait(), asyncio.Event().wait()) as tasks:
            begun.extend(tasks)
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await until(lambda: begun)
    await end([working])
    assert len(begun) == 2
    assert all(task.cancelled() for task in begun)


async def test_what_a_thread_has_taken_for_somebody_who_was_cancelled_is_given_back() -> None:
    taking, go, given_back = threading.Event(), threading.Event(), list[str]()

    def take() -> str:
        taking.set()
        assert go.wait(30)
        return "it"

    waiting = asyncio.create_task(taken(take, given_back.append))
    await asyncio.to_thread(taking.wait, 30)
    waiting.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert given_back == ["it"]
    assert await taken(lambda: "another", given_back.append) == "another"
    assert given_back == ["it"]
