"""The boards that the hub serves on this machine: for each project a listener of its own on loopback, begun with the
first link that somebody asks for.

A cookie belongs to a host whatever the port, so that each project's has a name of its own; the port is kept in
`boards/` beside the socket, and taken again while it is free, so that a page that was kept open finds its board again.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import Context
from pathlib import Path
from typing import NamedTuple

from loom.caller import Caller, calling
from loom.config import LoomConfig
from loom.config.inside import inside_run
from loom.exceptions import TaskStateError
from loom.graph.front import Loom
from loom.hub import connections, logs
from loom.hub.projects import Projects
from loom.web.app import board
from loom.web.entry import Entries, Gate

_HOST = "127.0.0.1"
_ENDS_WITHIN = 1  # seconds for what is being answered when the hub ends


class Visit(NamedTuple):
    """Whom a code or a cookie stands for: somebody at this machine, in a project, under a name."""

    config: LoomConfig
    agent: str


class Boards:
    """The boards of a hub."""

    def __init__(self, root: Path, projects: Projects) -> None:
        """
        Args:
            root: the directory of the hub's instance.
            projects: where their fronts come from.
        """
        self._root, self._projects = root / "boards", projects
        self._entries: Entries[Visit] = Entries()
        self._open: dict[str, tuple[int, _Server, asyncio.Task[None]]] = {}
        self._beginning = asyncio.Lock()

    async def link(self, config: LoomConfig, agent: str) -> str:
        """A link that lets a browser into the board of a project once, within a minute.

        Raises:
            TaskStateError: whoever is served is inside of a run, which would say yes to its own work there.
            ProjectNotFoundError: the configuration names no project.
            InvalidInputError: `agent` cannot be a name.
        """
        if inside_run():
            raise TaskStateError(
                "The board is not opened from inside a run that Loom started.", "Leave it to the user, in a terminal."
            )
        front = self._projects.project(config).front
        await front.beside(agent=agent).connect()
        async with self._beginning:
            opened = self._open.get(front.project_id)
            if opened is None or opened[2].done():
                opened = await self._begin(front.project_id)
        return f"http://{_HOST}:{opened[0]}/enter?code={self._entries.code(Visit(config, agent))}"

    async def close(self) -> None:
        """Ends all of them."""
        for _, server, _ in self._open.values():
            server.should_exit = True
        await asyncio.gather(*(serving for _, _, serving in self._open.values()), return_exceptions=True)
        self._open.clear()

    async def _begin(self, project_id: str) -> tuple[int, _Server, asyncio.Task[None]]:
        listener = self._bound(project_id)
        port: int = listener.getsockname()[1]
        hosts = {f"{_HOST}:{port}", f"localhost:{port}"}
        gate = Gate(board(), self._entries, self._serving, hosts=hosts, cookie=f"loom-{project_id[:8]}")
        server = _Server(connections.settings(gate, ends_within=_ENDS_WITHIN))
        serving = Context().run(asyncio.create_task, server.serve_on(listener))  # on nobody's behalf
        opened = self._open[project_id] = port, server, serving  # also where nobody waits for it any more
        while not server.started and not serving.done():
            await asyncio.wait([serving], timeout=0.01)
        return opened

    @asynccontextmanager
    async def _serving(self, visit: Visit) -> AsyncIterator[Loom]:
        """The front for one request, whose project stays open as long as that takes."""
        project = self._projects.project(visit.config)
        with project.used(), calling(Caller({})), logs.of(project):
            async with project.front.beside(agent=visit.agent) as loom:
                yield loom

    def _bound(self, project_id: str) -> socket.socket:
        """A listener on the project's port of before, or else on a free one. Raises OSError."""
        kept = self._root / project_id
        with suppress(OSError, ValueError, OverflowError):
            return socket.create_server((_HOST, int(kept.read_text("ascii"))))
        listener = socket.create_server((_HOST, 0))
        with suppress(OSError):  # as on a full disk: then it is another one the next time
            self._root.mkdir(mode=0o700, exist_ok=True)
            kept.write_text(str(listener.getsockname()[1]), "ascii")
        return listener


class _Server(connections.Server):
    """One that leaves the signals of the process to the hub."""

    async def serve_on(self, listener: socket.socket) -> None:
        """Serves until it is told to end, and leaves the port to others."""
        with listener:
            await self.serve([listener])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
