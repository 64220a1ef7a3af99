"""Housekeeping: what every long-lived Loom process does in the background, and every short one once.

A sweep gives lapsed claims back and puts due retries into play; a relay step carries events to the mirror; a renewal
keeps the leases of the claims that this process handed out; once an hour what has been kept long enough goes, from the
database and from the logs on this machine; and people are told what waits for them, where `notify` says so. Any number
of processes may do all of it at a time, and none of it may ever end a process: an error is logged, and tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from loom import tracing
from loom.background import end
from loom.bus.events import START
from loom.orchestration import printed
from loom.orchestration.patience import Patience

if TYPE_CHECKING:
    from loom.graph.front import Loom

_GATHER = 0.2  # seconds from a commit to the relay step that carries it, with all that came meanwhile
_LONGEST_BACKOFF = 60.0
_RENEW_AGAIN = 1.0  # seconds; a lease does not wait
_PRUNE_EVERY = 3600.0
_RELAY_AT_LEAST = 60.0  # a Redis that was emptied while nothing happened is filled again


class Housekeeper:
    """Keeps one project in order while its process lives."""

    def __init__(self, loom: Loom) -> None:
        self._loom = loom
        self._every = loom.config.orchestration.sweep_seconds
        self._newest = START  # where the newest event stood at the last sweep
        self._prune_at = time.monotonic() + _RELAY_AT_LEAST  # a process that lives briefly leaves it to others
        self._sweep_at = self._relayed_at = -_RELAY_AT_LEAST
        self._tasks: list[asyncio.Task[None]] = []
        self._telling: list[asyncio.Task[None]] = []

    @property
    def tells(self) -> bool:
        """Whether people are told, which ends with it."""
        return bool(self._telling)

    def start(self, *, order: bool = True) -> None:
        """Begins, in the running event loop. Connects with the first turn.

        Args:
            order: false where another front of this process does all but the renewal of this one's claims.
        """
        from loom.ahead import read_ahead  # which a short command has no use for

        tracing.begin()
        read_ahead()
        leases = self._persistently(self._loom.renew, self._loom.until_renewal, _RENEW_AGAIN)
        self._tasks = [asyncio.create_task(leases, name="loom leases")]
        if order:
            clearing = self._persistently(self._clear_logs, partial(asyncio.sleep, _PRUNE_EVERY), _LONGEST_BACKOFF)
            self._tasks.append(asyncio.create_task(clearing, name="loom logs"))
        if order and self._loom.keeps_order:
            work = self._persistently(self._keep_order, self._until_next, _LONGEST_BACKOFF)
            self._tasks.append(asyncio.create_task(work, name="loom housekeeping"))
            if self._loom.config.notify:
                from loom.orchestration import notices  # which needs much that others do without

                self._telling = notices.start(self._loom)

    async def stop(self) -> None:
        """Ends; returns when nothing runs any more."""
        await end([*self._tasks, *self._telling])
        self._tasks, self._telling = [], []
        await tracing.flush()

    async def _keep_order(self) -> None:
        """A sweep if one is due, and a relay step if there is anything to carry."""
        loom, now = self._loom, time.monotonic()
        behind = loom.committed.is_set()
        loom.committed.clear()
        relay = await loom.relay()
        if now >= self._sweep_at:
            _, newest = await loom.sweep()
            relay.expect(self._newest)
            self._newest = newest
            self._sweep_at = now + self._every
            behind = behind or newest > relay.position
        if now >= self._prune_at:
            self._prune_at = now + _PRUNE_EVERY
            await loom.prune()
        if behind or now >= self._relayed_at + _RELAY_AT_LEAST:
            await relay.step()
            self._relayed_at = now

    async def _clear_logs(self) -> None:
        """Takes the logs away that have been kept long enough, also where the database is behind a server."""
        await asyncio.sleep(_RELAY_AT_LEAST)  # a process that lives briefly leaves it to others
        await asyncio.to_thread(printed.prune, self._loom.config)

    async def _until_next(self) -> None:
        """Sleeps until the next sweep, or until a moment after this process commits something."""
        try:
            await asyncio.wait_for(self._loom.committed.wait(), max(self._sweep_at - time.monotonic(), 0))
        except TimeoutError:
            return
        await asyncio.sleep(min(_GATHER, self._every))

    async def _persistently(
        self, work: Callable[[], Awaitable[object]], rest: Callable[[], Awaitable[None]], longest: float
    ) -> None:
        """Works and rests for ever, after an error for at most `longest` seconds."""
        patience = Patience("Housekeeping", min(self._every, longest), longest)
        while True:
            try:
                await work()
            except Exception as error:
                await asyncio.sleep(patience.after(error))
            else:
                patience.renew()
                await rest()


async def once(loom: Loom) -> None:
    """The housekeeping of a short command, at its end: one sweep, and a relay step if it has changed anything.

    Never raises: the command has done its work.
    """
    try:
        await loom.sweep()
        if loom.committed.is_set():
            await (await loom.relay()).step()
    except Exception as error:
        Patience("Housekeeping", 0, 0).after(error)
