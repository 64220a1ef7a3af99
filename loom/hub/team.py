"""Whose a server over HTTP is, asked of the database that all its replicas share: tokens, cookies, and the project."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from contextvars import Context

from loom.bus import channels
from loom.config import LoomConfig
from loom.exceptions import LoomError
from loom.graph.front import Loom
from loom.graph.store.tokens import AccessToken
from loom.hub.projects import OpenProject, Projects

_READY_WITHIN = 2.0  # seconds for the database to answer
_READY_EVERY = 1.0  # seconds between two looks whether it does, however many ask


class Team:
    """One project, for whoever has a token of it. What its checks are, and who is told of it, stands in its
    configuration, which no other project of the database shares."""

    def __init__(self, config: LoomConfig, projects: Projects) -> None:
        self._config, self._projects = config, projects
        self._looking: asyncio.Task[bool] | None = None  # whether the database answers
        self._looked_at = 0.0

    @property
    def own(self) -> Loom:
        """The front of the project where the server runs. Raises ProjectNotFoundError."""
        return self.project().front

    def project(self) -> OpenProject:
        """The project. Raises ProjectNotFoundError."""
        return self._projects.project(self._config)

    async def admitted(self, secret: str, client: str) -> AccessToken | None:
        """See `Loom.admitted`. The token of another project is none here."""
        return self._ours(await self.own.admitted(secret, client))

    async def still_admitted(self, tokens: Collection[AccessToken]) -> set[str]:
        """See `Loom.still_admitted`."""
        return await self.own.still_admitted(tokens)

    async def code(self, token: AccessToken) -> str:
        """See `Loom.entry_code`."""
        return await self.own.entry_code(token)

    async def enter(self, code: str) -> str | None:
        """See `Loom.enter`."""
        return await self.own.enter(code)

    async def visitor(self, cookie: str) -> AccessToken | None:
        """See `Loom.visitor`. The cookie of another project is none here."""
        return self._ours(await self.own.visitor(cookie))

    @asynccontextmanager
    async def revocations(self) -> AsyncIterator[asyncio.Event]:
        """Gives an event that is set when tokens are revoked, on whichever replica, as soon as Redis tells of it. The
        project stays open meanwhile. Raises LoomError."""
        project = self.project()
        with project.used():
            channel = channels.tokens_channel(project.front.project_id)
            subscriber = await project.front.subscriber()
            async with subscriber.listening(lambda heard, _: heard == channel) as woken:
                yield woken

    async def ready(self) -> bool:
        """Whether the database answers. However many ask, it is looked at once a second."""
        now = asyncio.get_running_loop().time()
        if self._looking is None or (self._looking.done() and now >= self._looked_at + _READY_EVERY):
            self._looked_at = now
            self._looking = Context().run(asyncio.create_task, self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> bool:
        try:
            async with asyncio.timeout(_READY_WITHIN):
                await self.own.since(0)
        except (LoomError, TimeoutError):
            return False
        return True

    def _ours(self, token: AccessToken | None) -> AccessToken | None:
        return token if token is not None and token.project_id == self._config.project_id else None
