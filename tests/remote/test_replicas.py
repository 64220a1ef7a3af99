"""Two servers behind a round robin, under the tests of the tools: nothing depends on which of them is asked."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport

from loom.graph.model.principals import Principal
from tests.mcp import test_tools
from tests.mcp.test_tools import Agent
from tests.remote.conftest import PATIENCE, Serve, Served

_URL = "http://loom.example.org"
_OF_A_PROCESS = (
    {  # which build a server of their own, or hold what one connection remembers
        name
        for name, test in vars(test_tools).items()
        if name.startswith("test_") and "agent" not in test.__code__.co_varnames[: test.__code__.co_argcount]
    }
    | {"test_what_a_task_touches_and_must_pass"}
)  # checks run where the work is, which is not here
globals().update(
    {name: test for name, test in vars(test_tools).items() if name.startswith("test_") and name not in _OF_A_PROCESS}
)


class _RoundRobin(httpx2.AsyncHTTPTransport):
    """Sends each request to the next of several servers."""

    def __init__(self, servers: list[Served]) -> None:
        super().__init__()
        self._next = itertools.cycle(servers)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        there = httpx2.URL(next(self._next).url)
        request.url = request.url.copy_with(scheme=there.scheme, host=there.host, port=there.port)
        return await super().handle_async_request(request)


@pytest.fixture
async def agent(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    """An administrator whose agents may have any name."""
    monkeypatch.setattr(Principal, "owns", lambda *_: True)
    servers = [await serve(public_url=_URL), await serve(public_url=_URL)]
    robin = _RoundRobin(servers)
    headers = {"authorization": f"Bearer {await servers[0].token('tester', 'admin')}"}

    def client(headers: Any = None, timeout: Any = None, auth: Any = None, **_: Any) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=robin, headers=headers, timeout=PATIENCE * 5, auth=auth)

    transport = StreamableHttpTransport(f"{_URL}/mcp", headers=headers, httpx_client_factory=client)
    async with Client(transport) as connected:
        yield Agent(connected)
