"""Live notices: one subscription per process, any number of listeners, each woken by what interests it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from loom.background import Backoff, end
from loom.bus.client import announced
from loom.bus.connection import TIMEOUT, is_away

Interest = Callable[[str, str], bool]
_PAUSES = (1.0, 10.0)  # seconds between tries while Redis is away: at first, at most


class Subscriber:
    """The subscription of a process to everything that one project announces."""

    def __init__(self, url: str, pattern: str) -> None:
        """
        Args:
            url: where Redis is, as for `Client`.
            pattern: which channels to hear.
        """
        self._url = url
        self._pattern = pattern
        self._listeners: dict[asyncio.Event, Interest] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._heard = asyncio.Event()
        self._backoff = Backoff(*_PAUSES)

    @property
    def connected(self) -> bool:
        """Whether notices arrive now; where not, a listener has to look for itself."""
        return self._heard.is_set()

    @asynccontextmanager
    async def listening(self, interest: Interest) -> AsyncIterator[asyncio.Event]:
        """Gives an event that is set when a notice arrives for which `interest(channel, text)` holds.

        When it is entered the subscription stands, or could not be had within a moment; so whoever reads the database
        inside has missed nothing. It is also set when the subscription had to be made anew.
        """
        woken = asyncio.Event()
        self._listeners[woken] = interest
        try:
            if not self._closed and (self._task is None or self._task.done()):
                self._task = asyncio.create_task(self._listen(), name="loom-subscriber")
            if not self.connected and not self._closed:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._heard.wait(), TIMEOUT)
            yield woken
        finally:
            del self._listeners[woken]

    async def close(self) -> None:
        """Ends the subscription, for good: whoever comes to listen later hears nothing and looks for himself."""
        self._closed = True
        if self._task is not None:
            await end([self._task])
        self._heard.clear()

    async def _listen(self) -> None:
        while True:
            try:
                await self._hear()
            except Exception as error:
                if not is_away(error):
                    raise
            self._heard.clear()
            await asyncio.sleep(self._backoff.rest())

    async def _hear(self) -> None:
        async with aclosing(announced(self._url, self._pattern)) as news:
            async for told in news:
                if told is None:
                    self._heard.set()
                    self._backoff.renew()
                    self._wake(None, "")
                else:
                    self._wake(*told)

    def _wake(self, channel: str | None, text: str) -> None:
        for woken, interest in self._listeners.items():
            if channel is None or interest(channel, text):
                woken.set()
