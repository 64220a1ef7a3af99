"""A shift: the time in which workers work, and waiting that its end cuts short."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from loom.background import Backoff, beside
from loom.exceptions import DatabaseUnavailableError, ServersError

T = TypeVar("T")

_PAUSES = (0.25, 10.0)  # seconds between tries while the servers are away: at first, at most


class Shift:
    """Goes on until somebody ends it. `broken`: the error that did."""

    def __init__(self) -> None:
        self.broken: BaseException | None = None
        self._end = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether it was ended."""
        return self._end.is_set()

    def end(self, because: BaseException | None = None) -> None:
        """Ends it. `because`: what makes going on pointless."""
        self.broken = because or self.broken
        self._end.set()

    async def until(self, *tasks: asyncio.Task[Any], timeout: float | None = None) -> None:
        """Returns when one of these is done or the shift is over, at most so many seconds later."""
        async with beside(self._end.wait()) as (over,):
            await asyncio.wait([over, *tasks], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    async def asked(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """An answer of the servers, however long they are away; None when the shift is over before they are back."""
        backoff = Backoff(*_PAUSES)
        while True:
            try:
                return await ask()
            except (DatabaseUnavailableError, ServersError):  # the housekeeper says so
                await self.until(timeout=backoff.rest())
                if self.over:
                    return None
