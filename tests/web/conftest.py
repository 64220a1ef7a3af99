"""The board over a real front, served by a real server, to whoever asks over HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import httpx2
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from loom.graph.front import Loom
from loom.web.app import board

PATIENCE = 30.0  # seconds; for what takes a moment, on a machine that has much else to do


@dataclass
class Board:
    """A board that is served, and who asks it. `loom`: whose front each request brings."""

    address: str
    client: httpx2.AsyncClient
    let_in: dict[str, Loom] = field(default_factory=dict)

    async def get(self, path: str, code: int = 200) -> str:
        """A page."""
        answer = await self.client.get(path)
        assert answer.status_code == code, answer.text
        return answer.text

    async def post(self, path: str, code: int = 303, **form: str) -> httpx2.Response:
        """What becomes of a form."""
        answer = await self.client.post(path, data=form)
        assert answer.status_code == code, answer.text
        return answer


class _Server(uvicorn.Server):
    """One that leaves the signals of the process to the tests."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """Serves an application on a free port of this machine."""
    listener = socket.create_server(("127.0.0.1", 0))
    settings = uvicorn.Config(
        app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1, ws="none", proxy_headers=False
    )
    server = _Server(settings)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        for _ in range(int(PATIENCE / 0.01)):
            if server.started:
                break
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()


def letting_in(app: ASGIApp, front: Callable[[], Loom]) -> ASGIApp:
    """What stands before the board: lets everybody in as whoever `front` says."""

    async def let_in(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["loom"] = front()
        await app(scope, receive, send)

    return let_in


@pytest.fixture
async def web(loom: Loom) -> AsyncIterator[Board]:
    """The board of the test's project."""
    fronts = {"": loom}
    async with (
        served(letting_in(board(), lambda: fronts[""])) as address,
        httpx2.AsyncClient(base_url=address, timeout=PATIENCE) as client,
    ):
        yield Board(address, client, fronts)
