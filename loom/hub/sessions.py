"""What the hub does for one connection, and for its claims when it has ended.

Identity, claims and their renewal belong to the connection. A client that starts its server again, or takes up a
session of before, comes back soon and under the same session: so the claims of a connection that has ended are renewed
for a while, and given back, their attempts refunded, unless another connection of that session takes them over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loom.background import end, through
from loom.caller import Caller, calling
from loom.config import LoomConfig, load_config
from loom.exceptions import LoomError
from loom.graph.front import Loom
from loom.hub import logs
from loom.hub.projects import OpenProject, Projects
from loom.mcp import wire
from loom.mcp.server import Application, serving

if TYPE_CHECKING:
    from fastmcp import FastMCP

GRACE = 60.0
"""Seconds that the claims of a connection that has ended wait for another one of its session."""

_LOG = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Session:
    """One connection, or what is left of it."""

    caller: Caller
    application: Application = field(init=False)
    loom: Loom | None = None
    project: OpenProject | None = None
    config: LoomConfig | None = None  # read ahead, for the first call
    taking_up: asyncio.Task[None] | None = None
    waiting: asyncio.Task[None] | None = None  # for another connection, once this one has ended
    over: bool = False  # too late for another one

    @property
    def log(self) -> logging.Handler | None:
        return None if self.project is None else self.project.log


class Sessions:
    """Everybody whom the hub serves."""

    def __init__(self, server: FastMCP, projects: Projects, *, grace: float = GRACE) -> None:
        """
        Args:
            server: from `loom.mcp.server.shared`.
            grace: see `GRACE`.
        """
        self._server, self._projects, self._grace = server, projects, grace
        self._going: set[_Session] = set()
        self._left: set[_Session] = set()  # those that have ended, until their claims are given back
        self._giving_back: set[asyncio.Task[None]] = set()
        self._ending = False

    def __len__(self) -> int:
        return len(self._going)

    async def serve(self, caller: Caller, config: LoomConfig | None, read: wire.Read, write: wire.Write) -> None:
        """Serves one connection until its end.

        Args:
            config: the caller's, where it could be read.
            read, write: as for `wire.serve`.
        """
        session = _Session(caller, config=config)
        session.application = Application(lambda: self._front_of(session), alone=False)
        self._going.add(session)
        with calling(caller), serving(session.application), logs.of(session):
            try:
                with suppress(LoomError):  # the tools tell, and try again
                    session.application.loom()
                await wire.serve(self._server, read, write)
            except Exception:
                _LOG.exception("A session failed")
            finally:
                self._going.discard(session)
                await through(asyncio.create_task(self._leave(session)))  # who ends the hub asks again and again

    async def settled(self) -> None:
        """Returns when the claims of those that have ended are given back, or taken over."""
        while pending := [*self._giving_back, *(one.waiting for one in self._left if one.waiting)]:
            await asyncio.wait(pending)

    async def close(self) -> None:
        """Gives back, at once, the claims of those that have ended. Those that go on are ended by who began them."""
        self._ending = True
        for session in list(self._left):
            if not session.over and session.waiting is not None:
                session.waiting.cancel()
                self._later(self._give_back(session))
        await self.settled()

    def _front_of(self, session: _Session) -> Loom:
        """The front of a connection. Raises LoomError while there is no project."""
        config, session.config = session.config or load_config(), None
        project = self._projects.project(config)
        loom = Loom(config, links=project.front.links)
        project.users += 1
        session.project, session.loom = project, loom
        if session.caller.session:
            self._take_over(session, loom)
        lasts = bool(config.agent_id or session.caller.session)  # its name outlives a process
        session.taking_up = asyncio.create_task(self._take_up(session, loom, own=lasts))
        return loom

    def _take_over(self, session: _Session, loom: Loom) -> None:
        """Gives a connection the claims of those of the same session, and agent, that have ended."""
        for other in list(self._left):
            same = other.caller.session == session.caller.session and other.project is session.project
            if same and not other.over and other.loom and other.waiting and other.loom.agent == loom.agent:
                loom.take_over(other.loom)
                other.waiting.cancel()
                self._later(self._give_back(other))

    async def _take_up(self, session: _Session, loom: Loom, *, own: bool) -> None:
        """Has those claims renewed that were handed out by a hub that has died: to this agent, if its `own` name is one
        that it had then, and to those that share its session, once each of them has called."""
        worked_on = session.caller.environ.get("LOOM_TASK_ID")  # which the worker holds that started the client

        def is_looked_after(task_id: str, token: int) -> bool:
            others = (other.loom for other in (*self._going, *self._left) if other is not session)
            return task_id == worked_on or any(other and other.holds.get(task_id) == token for other in others)

        named = None if own else await loom.next_name()
        while True:
            try:
                await loom.take_up(is_looked_after, named)
            except LoomError as error:
                _LOG.warning("What %s holds is not renewed: %s", named or loom.agent, error)
            named = await loom.next_name()

    async def _leave(self, session: _Session) -> None:
        """A connection has ended."""
        if session.taking_up is not None:
            await end([session.taking_up])
        loom = await session.application.rest()
        if self._ending or self._grace == 0 or loom is None or not loom.holds:
            await self._give_back(session)
        else:
            self._left.add(session)
            session.waiting = asyncio.create_task(self._wait_for_another(session))

    async def _wait_for_another(self, session: _Session) -> None:
        await asyncio.sleep(self._grace)
        self._later(self._give_back(session))

    async def _give_back(self, session: _Session) -> None:
        session.over = True
        self._left.discard(session)
        await session.application.stop()
        if session.project is not None:
            session.project.users -= 1

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)
