"""When people are told, and by whom: a loop in every long process, and a cursor in the database for each receiver.

What is new is read by snapshots, as a wait reads it, so that nothing is told twice and a transaction that stays open
holds up nothing. Of several processes the one that takes the cursor tells; it moves it once the other side has taken
what it was told. A process that dies in between has its lease taken over, and what it told, if it did, is told again,
under the same id: at least once, and once as long as nobody is killed within that moment.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from loom.background import Backoff
from loom.bus.events import Position
from loom.graph import store
from loom.graph.model.since import Since
from loom.graph.store import notices
from loom.orchestration.notices import news, senders
from loom.orchestration.notices.news import Bundle, News
from loom.orchestration.notices.receivers import Receiver, cursors_of
from loom.orchestration.patience import Patience
from loom.process import identity

if TYPE_CHECKING:
    from loom.config import LoomConfig, ReceiverConfig
    from loom.db.connection import Connection
    from loom.graph.front import Loom
    from loom.graph.store.notices import Cursor

_LOG = logging.getLogger(__name__)
_AT_ONCE = 200  # of what a person is told in one go; to a program one after the other
_LEASE = 2 * senders.LONGEST
_LAST_MOMENT = 1.0  # seconds for what is being told when the process ends
_GATHER = 0.3  # seconds; what comes together is told together
# Seconds until the next look when nothing says to look earlier: at first, at most, and while Redis is away.
_LOOKS = (0.5, 15.0)
_DEAF = 2.0
_BUSY = 1.0  # until the next look while somebody else tells
_AWAY = (5.0, 600.0)  # seconds between tries while the other side is away: at first, at most
_ERRORS = (1.0, 60.0)  # the same for the database
_KEEP = 60.0  # seconds; so often it is noted that there was nothing to tell


@dataclass(slots=True)
class _Progress:
    """How far this process has looked beyond a receiver's cursor, which stands at `seen`, without finding anything;
    and whether it has said that the receiver cannot be told, since it last was."""

    seen: str = ""
    looked: str = ""
    kept_at: float = 0.0
    complained: bool = False


async def try_out(config: LoomConfig, receiver: Receiver) -> str | None:
    """Tells a receiver something to see whether that works. Returns why it was not taken; None: it was."""
    bundle = Bundle(config.project_id or "", config.project_name, [news.example()], config.mcp.public_url)
    try:
        await senders.send(receiver.row, bundle)
    except senders.NotTakenError as error:
        return str(error)
    return None


class Teller:
    """Tells what there is to tell of one project, while its process lives."""

    def __init__(self, loom: Loom, wanted: Sequence[Receiver]) -> None:
        self._loom, self._wanted = loom, wanted
        self._progress = {one.key: _Progress() for one in wanted}
        self._process = identity.own()
        self._away = Backoff(*_AWAY, jitter=0.2)

    async def run(self) -> None:
        """Goes on for ever; errors are logged, and tried again."""
        patience = Patience("Telling people", *_ERRORS)
        while True:
            try:
                await self._follow(patience)
            except Exception as error:
                await asyncio.sleep(patience.after(error))

    async def look(self) -> float | None:
        """Tells what there is to tell now. Returns within how many seconds to look again; None: not sooner than
        usual."""
        cursors = await cursors_of(self._loom, self._wanted)
        rests = [await self._see_to(one, cursors[one.key]) for one in self._wanted]
        return min((rest for rest in rests if rest is not None), default=None)

    async def _follow(self, patience: Patience) -> None:
        loop, pauses = asyncio.get_running_loop(), Backoff(*_LOOKS)
        subscriber = await self._loom.subscriber()
        async with subscriber.listening(lambda channel, text: True) as woken:
            while True:
                woken.clear()
                wanted = await self.look()
                patience.renew()
                rest = pauses.rest() if subscriber.connected else _DEAF
                with suppress(TimeoutError):
                    began = loop.time()
                    await asyncio.wait_for(woken.wait(), rest if wanted is None else min(rest, wanted))
                    pauses.renew()
                    await asyncio.sleep(max(_GATHER, _BUSY - (loop.time() - began)))

    async def _see_to(self, receiver: Receiver, cursor: Cursor) -> float | None:
        """Tells one receiver what there is to tell. Returns as `look`."""
        if rest := max(cursor.rest, _quiet_left(receiver.row, cursor.now)):
            return rest
        died = cursor.held and await asyncio.to_thread(identity.is_gone, cursor.process)
        if cursor.held and not died:
            return _BUSY
        progress = self._progress[receiver.key]
        if cursor.since != progress.seen:  # somebody has told it something
            progress.seen = progress.looked = cursor.since
        page = await self._page(receiver, cursor)
        if not page.news:
            await self._pass(receiver, cursor, page.since)
            return 0.0 if page.more else None
        holder = secrets.token_hex(8)
        taken = await self._loom.transact(lambda tx: notices.take(tx, cursor, holder, self._process, _LEASE, died=died))
        if not taken:
            return _BUSY
        return await _to_its_end(asyncio.create_task(self._tell(receiver, cursor, holder, page)))

    async def _page(self, receiver: Receiver, cursor: Cursor) -> _Page:
        """What is to be told next of the events behind the cursor."""
        config, since = self._loom.config, Since.parse(self._progress[receiver.key].looked)

        async def read(connection: Connection) -> _Page:
            until = since.until or await store.events.snapshot(connection)
            events = await store.events.untold(
                connection,
                self._loom.project_id,
                since,
                until,
                limit=_AT_ONCE,
                types=news.TYPES,
                later_than_id=cursor.floor,
            )
            found = await news.read(connection, config, events, receiver.row.events)
            if receiver.row.kind == "webhook" and found[1:]:
                return _Page(found[:1], str(Since(since.seen, until, Position.parse(found[0].id))), True)
            if len(events) == _AT_ONCE:
                return _Page(found, str(Since(since.seen, until, events[-1].position)), True)
            return _Page(found, str(Since(until)), bool(since.until))

        return await self._loom.look(read)

    async def _pass(self, receiver: Receiver, cursor: Cursor, since: str) -> None:
        """Remembers that there is nothing to tell up to there; now and then in the database, for who comes after."""
        progress, now = self._progress[receiver.key], asyncio.get_running_loop().time()
        progress.looked = since
        if now < progress.kept_at + _KEEP:
            return
        progress.kept_at = now
        newest = (await self._loom.look(lambda connection: store.pulse(connection, self._loom.project_id))).newest
        if not Since.parse(cursor.since).has_seen(newest):
            await self._loom.transact(lambda tx: notices.passed(tx, cursor, since))

    async def _tell(self, receiver: Receiver, cursor: Cursor, holder: str, page: _Page) -> float:
        """Tells what is on a page, which this process holds the cursor for, and moves the cursor. Returns as `look`."""
        config = self._loom.config
        bundle = Bundle(self._loom.project_id, config.project_name, page.news, config.mcp.public_url)
        try:
            await senders.send(receiver.row, bundle)
        except senders.NotTakenError as error:
            rest = max(self._away.after(cursor.failures + 1), error.rest or 0.0)
            why = str(error)
            await self._loom.transact(lambda tx: notices.failed(tx, receiver.key, holder, why, rest))
            self._complain(receiver, why)
            return rest
        await self._loom.transact(lambda tx: notices.told(tx, receiver.key, holder, page.since))
        self._progress[receiver.key].complained = False
        return 0.0

    def _complain(self, receiver: Receiver, why: str) -> None:
        """Says once that a receiver is away."""
        progress = self._progress[receiver.key]
        if not progress.complained:
            progress.complained = True
            _LOG.warning("notify.%s could not be told, and is tried again: %s", receiver.name, why)


@dataclass(frozen=True, slots=True)
class _Page:
    """Some news, where the cursor stands behind them, and whether more may be there to read at once."""

    news: Sequence[News]
    since: str
    more: bool


def _quiet_left(row: ReceiverConfig, now: datetime) -> float:
    """How many seconds the quiet hours go on, by the clock of the receiver's zone, else on this machine's wall; 0.0
    outside of them."""
    if row.quiet is None:
        return 0.0
    local = now.astimezone(ZoneInfo(row.zone) if row.zone else None)
    begin, end = (_today_at(time.fromisoformat(at), local) for at in row.quiet.split("-"))
    if end <= begin:  # over midnight
        begin, end = (begin, end + timedelta(days=1)) if local >= begin else (begin - timedelta(days=1), end)
    return (end - local).total_seconds() if begin <= local < end else 0.0


def _today_at(at: time, now: datetime) -> datetime:
    return now.replace(hour=at.hour, minute=at.minute, second=0, microsecond=0)


async def _to_its_end(telling: asyncio.Task[float]) -> float:
    """Waits for what is being told; a moment longer when the process ends, lest it is told and nobody knows."""
    try:
        return await asyncio.shield(telling)
    except asyncio.CancelledError:
        loop = asyncio.get_running_loop()
        end = loop.time() + _LAST_MOMENT
        while not telling.done() and loop.time() < end:
            with suppress(asyncio.CancelledError):  # who ends it asks again and again
                await asyncio.wait([telling], timeout=end - loop.time())
        telling.cancel()
        telling.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody asks for it any more
        raise
