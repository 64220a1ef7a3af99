"""A team's server as it is: uvicorn on a free port, behind its guard, on the test's database."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from starlette.types import ASGIApp

from loom.config import LoomConfig, ServerConfig
from loom.graph.front import Loom
from loom.hub.listener import Place, bound_socket, server
from loom.hub.projects import Projects
from loom.remote.front import Remote

PATIENCE = 30.0  # seconds; for what takes a moment, on a machine that has much else to do


@dataclass
class Served:
    """A server, and those who come to it."""

    url: str
    loom: Loom
    config: LoomConfig
    tokens: dict[str, str] = field(default_factory=dict)

    async def token(self, name: str = "ann", role: str = "worker") -> str:
        """A token, made once."""
        if name not in self.tokens:
            self.tokens[name] = (await self.loom.add_token(name, role)).secret
        return self.tokens[name]

    @asynccontextmanager
    async def http(self, token: str | None = None, **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
        """A client with a token, or without one."""
        more = {"authorization": f"Bearer {token}"} if token else {}
        async with httpx2.AsyncClient(base_url=self.url, headers=more | headers, timeout=PATIENCE) as client:
            yield client

    def mcp(self, token: str, mode: str = "auto") -> Client[Any]:
        """An MCP client with a token."""
        transport = StreamableHttpTransport(f"{self.url}/mcp", headers={"authorization": f"Bearer {token}"})
        return Client(transport, mode=mode)

    @asynccontextmanager
    async def remote(
        self, monkeypatch: pytest.MonkeyPatch, name: str = "ann", role: str = "worker", agent: str | None = None
    ) -> AsyncIterator[Remote]:
        """The front from afar."""
        monkeypatch.setenv("LOOM_TOKEN", await self.token(name, role))
        config = LoomConfig(server=ServerConfig(self.url))
        async with Remote(config, agent=agent) as remote:
            yield remote


@asynccontextmanager
async def serving(
    config: LoomConfig, port: int = 0, *, before: Callable[[ASGIApp], ASGIApp] = lambda app: app, **place: Any
) -> AsyncIterator[int]:
    """Serves on a port of this machine, as another process would. `before`: puts something before all of it."""
    projects = Projects()
    listener = bound_socket(Place("127.0.0.1", port))
    port = listener.getsockname()[1]
    made = server(projects, config, Place("127.0.0.1", port, **place), port)
    made.config.app = before(made.config.app)  # type: ignore[arg-type]
    running = asyncio.create_task(_run(made, listener))
    try:
        async with asyncio.timeout(PATIENCE):
            while not made.started:  # noqa: ASYNC110 - uvicorn says it no other way
                await asyncio.sleep(0.01)
        yield port
    finally:
        made.should_exit = True
        await running
        await projects.close()
        listener.close()


def certified(place: Path) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl, for a certificate")
    certificate, key = place / "cert.pem", place / "key.pem"
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


async def _run(made: uvicorn.Server, listener: Any) -> None:
    await made._serve([listener])  # what `serve` does, without its handlers of signals


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve(loom: Loom, config: LoomConfig) -> AsyncIterator[Serve]:
    """Serves the test's project as often as asked."""
    async with AsyncExitStack() as stack:

        async def begin(**place: Any) -> Served:
            chosen = replace(config, orchestration=replace(config.orchestration, sweep_seconds=3600))
            port = await stack.enter_async_context(serving(chosen, **place))
            return Served(f"http://127.0.0.1:{port}", loom, config)

        yield begin


@pytest.fixture
async def served(serve: Serve) -> Served:
    """The test's project, served."""
    return await serve()
