"""The projects that the hub has open: one front each, with its connections and its housekeeper."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import AsyncExitStack, contextmanager
from contextvars import Context
from dataclasses import replace

from loom.background import end, through
from loom.config import KEYS, LoomConfig
from loom.graph.front import Loom
from loom.hub import logs
from loom.mcp.logs import of_project
from loom.orchestration.housekeeping import Housekeeper

IDLE = 120.0
"""Seconds that a project stays open without a user."""

_LOG = logging.getLogger(__name__)
_CLOSES_WITHIN = 4.0  # seconds


class OpenProject:
    """One project under one configuration, and who uses it."""

    def __init__(self, config: LoomConfig) -> None:
        self.front = Loom(replace(config, agent_id=None, skills_api_key=None), agent="hub")
        self.log = of_project(config)
        self.users = 0
        self.used_at = time.monotonic()
        self._housekeeper = Housekeeper(self.front)
        for warning in config.warnings:
            _LOG.warning("%s", warning)
        logging.getLogger("loom").setLevel(min(logging.getLevelName(config.log_level), _level()))

    def start(self) -> None:
        """Begins to keep it in order, on nobody's behalf."""

        def begin() -> None:
            with logs.of(self):
                self._housekeeper.start()

        Context().run(begin)

    @property
    def tells(self) -> bool:
        """Whether people are told of it, and it is still there."""
        directory = self.front.config.project_dir
        return self._housekeeper.tells and (directory is None or directory.exists())

    @contextmanager
    def used(self) -> Iterator[None]:
        """Has one user more meanwhile, and so stays open."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1

    async def close(self) -> None:
        """Gives back its connections, also where its housekeeper does not stop; takes a few seconds at most."""
        async with AsyncExitStack() as stack:  # all of it, also where who waits is cancelled
            if self.log is not None:
                stack.callback(self.log.close)
            stack.push_async_callback(_in_time, self.front.close)
            stack.push_async_callback(_in_time, self._housekeeper.stop)


class Projects:
    """All of them, by configuration. One that nobody uses for a while is closed, unless people are told of it."""

    def __init__(self, *, idle: float = IDLE) -> None:
        """
        Args:
            idle: see `IDLE`.
        """
        self._idle = idle
        self._open: dict[Hashable, OpenProject] = {}
        self._closing: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def project(self, config: LoomConfig) -> OpenProject:
        """A project, opened if need be. Whoever uses it for longer counts himself among its `users`. Raises
        ProjectNotFoundError."""
        key = (config.project_dir, config.withheld, *KEYS.of(config))
        if key not in self._open:
            project = OpenProject(config)
            project.start()
            self._open[key] = project
        if self._closing is None:
            self._closing = Context().run(asyncio.create_task, self._close_idle())
        self._open[key].used_at = time.monotonic()
        return self._open[key]

    async def close(self) -> None:
        """Closes all of them."""
        if self._closing is not None:
            await end([self._closing])
        await asyncio.gather(*(project.close() for project in self._open.values()))
        self._open.clear()

    async def _close_idle(self) -> None:
        while True:
            await asyncio.sleep(self._idle / 4)
            for key, project in self._idle_ones():
                if project.users == 0:
                    del self._open[key]  # who comes meanwhile opens it anew
                    await through(asyncio.create_task(project.close()))  # also where all are closed meanwhile

    def _idle_ones(self) -> list[tuple[Hashable, OpenProject]]:
        """Those that nobody uses for a while. Of the configurations of a project the one that was used last tells
        people, so that what a changed one does not name is not told any more."""
        long_ago = time.monotonic() - self._idle
        by_use = sorted(self._open.values(), key=lambda one: one.used_at)
        last = {one.front.project_id: one for one in by_use}
        return [
            (key, one)
            for key, one in self._open.items()
            if one.users == 0 and one.used_at < long_ago and not (one is last[one.front.project_id] and one.tells)
        ]


async def _in_time(close: Callable[[], Awaitable[None]]) -> None:
    try:
        async with asyncio.timeout(_CLOSES_WITHIN):
            await close()
    except Exception as error:
        _LOG.warning("A project could not be closed: %s", error or "no answer in time")


def _level() -> int:
    return logging.getLogger("loom").level or logging.WARNING
