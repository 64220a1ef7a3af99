"""That a call answered on the direct way is answered as FastMCP answers it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastmcp import FastMCP
from fastmcp.server.middleware import Middleware

from loom.graph.front import Loom
from loom.mcp import wire
from loom.mcp.direct import Direct
from loom.mcp.server import build

OLDEST, EARLIER, HANDSHAKE, MODERN = "2024-11-05", "2025-06-18", "2025-11-25", "2026-07-28"
CALLS: dict[str, dict[str, Any]] = {
    "one without arguments": {"name": "loom_ready"},
    "arguments that are null": {"name": "loom_ready", "arguments": None},
    "arguments": {"name": "loom_ready", "arguments": {"limit": 1}},
    "one that is refused": {"name": "loom_status", "arguments": {"task_id": "loom-00000000"}},
    "an argument beyond a limit": {"name": "loom_ready", "arguments": {"limit": 0}},
    "an argument that is not there": {"name": "loom_ready", "arguments": {"colour": "red"}},
    "a tool that is not there": {"name": "loom_fly", "arguments": {}},
    "arguments that are a list": {"name": "loom_ready", "arguments": [1]},
    "a name that is a number": {"name": 1},
    "a name that is a list": {"name": []},
    "no name": {"arguments": {}},
    "nothing": {},
    "something more": {"name": "loom_ready", "arguments": {}, "colour": "red"},
    "a task of its own": {"name": "loom_ready", "arguments": {}, "task": {"ttl": 1000}},
    "an answer to a question that was not asked": {"name": "loom_ready", "requestState": "x"},
}


async def answers(server: FastMCP, *requests: dict[str, Any]) -> list[Any]:
    """What a server answers to these messages, each sent once the one before is answered; one whose id is None is sent
    without one, and has no answer."""
    given: asyncio.Queue[bytes] = asyncio.Queue()
    said: asyncio.Queue[Any] = asyncio.Queue()

    async def write(data: bytes) -> None:
        said.put_nowait(json.loads(data))

    async def ask() -> list[Any]:
        heard = []
        for number, request in enumerate(requests):
            asks = request.get("id", number) is not None
            message = {"jsonrpc": "2.0", "id": number, **request}
            if not asks:
                del message["id"]
            given.put_nowait(json.dumps(message).encode() + b"\n")
            if asks:
                heard.append(await said.get())
        given.put_nowait(b"")
        return heard

    async with asyncio.timeout(30):
        asking = asyncio.create_task(ask())
        await wire.serve(server, lambda _: given.get(), write)
        return await asking


def greeting(version: str) -> dict[str, Any]:
    who = {"name": "test", "version": "1"}
    return {"method": "initialize", "params": {"protocolVersion": version, "capabilities": {}, "clientInfo": who}}


def enveloped(params: dict[str, Any]) -> dict[str, Any]:
    prefix = "io.modelcontextprotocol"
    said = {f"{prefix}/protocolVersion": MODERN, f"{prefix}/clientCapabilities": {}}
    return params | {"_meta": said}


def around(loom: Loom, *, direct: bool) -> FastMCP:
    server = build(loom.beside(agent="me"))
    if not direct:
        first = wire.low_level(server).middleware.pop(0)
        assert isinstance(first, Direct)
    return server


def conversation(version: str) -> list[dict[str, Any]]:
    if version == MODERN:
        return [{"method": "tools/call", "params": enveloped(params)} for params in CALLS.values()]
    return [greeting(version), *({"method": "tools/call", "params": params} for params in CALLS.values())]


@pytest.mark.parametrize("version", [OLDEST, EARLIER, HANDSHAKE, MODERN])
async def test_a_call_is_answered_as_fastmcp_would(loom: Loom, version: str) -> None:
    direct, around_about = [
        await answers(around(loom, direct=direct), *conversation(version)) for direct in (True, False)
    ]
    assert direct == around_about
    assert len({json.dumps(one.get("result", one.get("error"))) for one in direct}) > 5


@pytest.mark.parametrize("version", [HANDSHAKE, MODERN])
async def test_a_plain_call_does_not_come_to_fastmcp(loom: Loom, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    met = []
    whole = FastMCP.call_tool

    async def call_tool(self: FastMCP, name: str, *arguments: Any, **options: Any) -> Any:
        met.append(name)
        return await whole(self, name, *arguments, **options)

    monkeypatch.setattr(FastMCP, "call_tool", call_tool)
    await answers(around(loom, direct=True), *conversation(version)[:4])
    assert not met


async def test_a_call_before_the_client_has_introduced_itself_is_refused(loom: Loom) -> None:
    call = {"method": "tools/call", "params": {"name": "loom_create", "arguments": {"title": "Too early"}}}
    direct, around_about = [await answers(around(loom, direct=direct), call) for direct in (True, False)]
    assert direct == around_about
    assert "error" in direct[0]
    assert not (await loom.ready()).tasks


async def test_middleware_of_fastmcp_meets_each_call(loom: Loom) -> None:
    met = []

    class Met(Middleware):
        async def on_call_tool(self, context: Any, call_next: Any) -> Any:
            met.append(context.message.name)
            return await call_next(context)

    server = around(loom, direct=True)
    server.add_middleware(Met())
    await answers(server, *conversation(HANDSHAKE)[:2])
    assert met == ["loom_ready"]


async def test_a_call_that_wants_no_answer_is_none(loom: Loom) -> None:
    create = {"method": "tools/call", "params": {"name": "loom_create", "arguments": {"title": "Nobody asked"}}}
    await answers(around(loom, direct=True), greeting(HANDSHAKE), {"id": None, **create}, conversation(HANDSHAKE)[1])
    assert not (await loom.ready()).tasks
