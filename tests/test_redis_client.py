"""The client of Redis: many callers on one connection, failures that end with the call."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from loom.bus.client import Client, RefusedError, announced
from loom.bus.connection import TIMEOUT
from loom.services import Endpoints


@pytest.fixture
async def client(servers: Endpoints) -> AsyncIterator[Client]:
    client = Client(servers.redis_url)
    yield client
    await client.call("DEL", "client:test")
    await client.aclose()


async def test_answers_as_redis_gives_them(client: Client) -> None:
    assert await client.call("SET", "client:test", "ä\n") == "OK"
    assert await client.call("GET", "client:test") == "ä\n"
    assert await client.call("GET", "client:none") is None
    assert await client.together(("STRLEN", "client:test"), ("MGET", "client:test", "client:none")) == [
        3,
        ["ä\n", None],
    ]


async def test_a_hundred_callers_each_get_their_own_answer(client: Client) -> None:
    found = await asyncio.gather(*(client.call("ECHO", number) for number in range(100)))
    assert found == [str(number) for number in range(100)]


async def test_who_goes_leaves_the_others_their_answers(client: Client) -> None:
    await client.call("PING")
    calls = [asyncio.create_task(client.call("ECHO", number)) for number in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert found[1::2] == [str(number) for number in range(1, 20, 2)]


async def test_an_error_of_redis_is_raised_and_the_connection_goes_on(client: Client) -> None:
    await client.call("SET", "client:test", "text")
    with pytest.raises(RefusedError, match="WRONGTYPE"):
        await client.call("LPUSH", "client:test", "x")
    with pytest.raises(RefusedError, match="WRONGTYPE"):
        await client.together(("LPUSH", "client:test", "x"), ("GET", "client:test"))
    assert await client.call("GET", "client:test") == "text"


async def test_a_script_is_sent_again_where_redis_has_forgotten_it(client: Client) -> None:
    script = "return {KEYS[1], ARGV[1]}"
    for _ in range(2):
        assert await client.evaluate(script, ["client:test"], [7]) == ["client:test", "7"]
    await client.call("SCRIPT", "FLUSH")
    assert await client.evaluate(script, ["client:test"], [7]) == ["client:test", "7"]


async def test_after_a_lost_connection_the_next_call_connects_again(client: Client) -> None:
    number = await client.call("CLIENT", "ID")
    other = Client(client._url)
    await other.call("CLIENT", "KILL", "ID", number)
    await other.aclose()
    assert client._wire is not None
    await client._wire.lost.wait()
    assert await client.call("CLIENT", "ID") != number


async def test_a_connection_that_is_lost_among_several_commands_is_told_once(client: Client) -> None:
    """To whoever asked; what nobody hears would be printed, wherever standard error leads."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    await client.call("PING")
    heard = ""
    try:
        await client._ask([("QUIT",), ("PING",), ("PING",), ("PING",)])
    except OSError as error:  # whose traceback would keep the others alive
        heard = str(error)
    assert await client.call("PING") == "PONG"
    gc.collect()
    assert ("closed" in heard, told) == (True, [])


async def test_after_its_end_a_client_opens_nothing(servers: Endpoints) -> None:
    client = Client(servers.redis_url)
    connecting = asyncio.create_task(client.call("PING"))
    await asyncio.sleep(0)
    await client.aclose()
    with pytest.raises(OSError, match=r"closed|given back"):
        await connecting
    with pytest.raises(OSError, match=r"closed|given back"):
        await client.call("PING")
    with pytest.raises(OSError, match="given back"):
        await client.ping()


async def test_a_redis_that_hangs_costs_a_moment_and_its_late_answer_is_nobodys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("loom.bus.client.TIMEOUT", TIMEOUT)
    asked = 0
    late = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read(100)
        if asked == 1:
            await late.wait()
        writer.write(f"+{asked}\r\n".encode())
        writer.close()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    async with server:
        client = Client(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(TimeoutError):
            await client.call("PING")
        assert await client.call("PING") == "2"
        late.set()
        await client.aclose()


async def test_what_is_rare_is_the_whole_clients(client: Client) -> None:
    await client.call("SET", "client:test", "x")
    found: list[Any] = [key async for key in client.scan_iter(match="client:*")]
    assert found == ["client:test"]


async def test_what_is_announced_is_heard_until_the_connection_ends(client: Client) -> None:
    async with aclosing(announced(f"{client._url}&client_name=hears", "client:*")) as news:
        assert await anext(news) is None
        for number in range(3):
            await client.call("PUBLISH", "client:x", f"ä{number}")
        await client.call("PUBLISH", "other:x", "not this")
        assert [await anext(news) for _ in range(3)] == [("client:x", f"ä{number}") for number in range(3)]
        listed = await client.call("CLIENT", "LIST", "TYPE", "pubsub")
        (mine,) = [line for line in listed.splitlines() if "name=hears" in line]
        waiting = asyncio.ensure_future(anext(news))
        await client.call("CLIENT", "KILL", "ID", mine.partition(" ")[0].removeprefix("id="))
        with pytest.raises(ConnectionResetError):
            await waiting


def test_neither_commands_nor_what_is_announced_need_the_whole_client(servers: Endpoints) -> None:
    code = f"""
import asyncio, sys, loom.graph.cache
from loom.bus.client import Client
from loom.bus.subscriber import Subscriber

async def main():
    client, heard = Client({servers.redis_url!r}), Subscriber({servers.redis_url!r}, "client:*")
    async with heard.listening(lambda channel, text: text == "x") as woken:
        woken.clear()
        await client.call("PUBLISH", "client:x", "x")
        await asyncio.wait_for(woken.wait(), 30)
    await heard.close()
    await client.aclose()

asyncio.run(main())
print([name for name in sys.modules if name == "redis"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
