from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from loom import bridge
from loom.hub.door import Hub
from tests.mcp.conftest import place as place
from tests.mcp.stdio import Server

Knock = Callable[..., Awaitable["Connection"]]
LIMIT = 2**24


class Connection(Server):
    """A client of the hub, spoken to line by line over its socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
        super().__init__(cast("asyncio.subprocess.Process", SimpleNamespace(stdin=writer, stdout=reader)))
        self.reader, self.writer, self.said = reader, writer, answer

    async def hang_up(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


@asynccontextmanager
async def serving(root: Path, **options: float) -> AsyncIterator[Hub]:
    """A hub in this process, its socket a real one."""
    root.mkdir(parents=True, exist_ok=True)
    hub = Hub(root, **options)
    assert await hub.begin()
    ending = asyncio.create_task(hub.ended())
    try:
        yield hub
    finally:
        hub.end()
        await asyncio.wait_for(ending, 30)


async def knock(root: Path, environ: dict[str, str], want: str = "mcp", **more: Any) -> Connection:
    """Comes to a hub as the bridge does."""
    reader, writer = await asyncio.open_unix_connection(root / bridge.SOCKET, limit=LIMIT)
    hello = {
        "want": want,
        "version": bridge.VERSION,
        "dir": environ.get("LOOM_PROJECT_DIR", "/"),
        "environ": environ,
        "session": environ.get("CLAUDE_CODE_SESSION_ID", ""),
    }
    made = Connection(reader, writer, {})
    try:
        writer.write(json.dumps(hello | more).encode() + b"\n")
        made.said = json.loads(await asyncio.wait_for(reader.readline(), 30))
    except (OSError, ValueError):
        await made.hang_up()
        raise
    return made


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of an instance of servers, empty."""
    monkeypatch.setenv("LOOM_DATA_DIR", str(tmp_path / "data"))
    root = Path(bridge.instance_dir("default"))
    root.mkdir(parents=True)
    return root


@pytest.fixture
def home(place: dict[str, str]) -> dict[str, str]:
    """The variables that lead to the test's project, of a user who is at home where the hub is."""
    return place | {"HOME": os.environ["HOME"]}


@pytest.fixture
async def come(root: Path, home: dict[str, str]) -> AsyncIterator[Knock]:
    """Comes to the hub as one more client of the test's project, greeted and ready."""
    stack = AsyncExitStack()

    async def come(**environ: str) -> Connection:
        made = await knock(root, home | environ)
        assert made.said == {"ok": True}, made.said
        stack.push_async_callback(made.hang_up)
        await made.initialize()
        return made

    yield come
    await stack.aclose()
