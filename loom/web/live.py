"""What happens, told to every page that is open: one look for all of a project, and a cursor for each that slept.

A page is made with a cursor, the `since` of the front's waits. Its browser follows `/live` from there: that something
happened before it came is told first; what happens from then on is read once for all.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from loom.background import end
from loom.bus.events import Event, EventType
from loom.exceptions import InvalidInputError, LoomError
from loom.graph.front import Loom
from loom.graph.front.talking import LONGEST_WAIT
from loom.graph.model.task import TaskStatus
from loom.web.rendering import loom_of

_LOG = logging.getLogger(__name__)
_GATHER = 0.03  # seconds from something that happens to the look that tells it, with all that came meanwhile
_MOST = 500  # events that are kept for a page that does not read; then it is told only that much has happened
_BREATH = 25  # seconds between two signs of life of a stream, which proxies close without
_AGAIN = 1000  # milliseconds until a browser that lost the stream comes back


@dataclass(slots=True)
class News:
    """What one page has not been told yet. `much`: more than is worth telling one by one; `over`: no more comes."""

    since: str
    events: list[Event] = field(default_factory=list)
    much: bool = False
    over: bool = False
    there: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, events: Sequence[Event], since: str) -> None:
        """Something happened."""
        self.since = since
        if len(self.events) + len(events) > _MOST:
            self.events.clear()
            self.much = True
        if not self.much:
            self.events += events
        self.there.set()

    def take(self) -> dict[str, object]:
        """All of it, as it is sent; nothing is left."""
        told: dict[str, object] = {"much": True} if self.much else {"events": [_told(one) for one in self.events]}
        self.events.clear()
        self.much = False
        self.there.clear()
        return told


class Feeds:
    """The looks at what happens, one for each project that somebody follows."""

    def __init__(self) -> None:
        self._feeds: dict[str, _Feed] = {}

    @asynccontextmanager
    async def following(self, loom: Loom) -> AsyncIterator[News]:
        """What happens in a project from now on."""
        feed = self._feeds.get(loom.project_id)
        if feed is None or feed.ended:
            feed = self._feeds[loom.project_id] = _Feed(loom)
        async with feed.following() as news:
            try:
                yield news
            finally:
                if feed.alone and self._feeds.get(loom.project_id) is feed:
                    del self._feeds[loom.project_id]

    async def cursor(self, loom: Loom) -> str:
        """Where a page stands that is made from now on."""
        feed = self._feeds.get(loom.project_id)
        if feed is not None and feed.since is not None:
            return feed.since
        return (await loom.wait(timeout=0)).since


class _Feed:
    """The look at one project. It ends with the last that follows it, or when it fails: then they come again."""

    def __init__(self, loom: Loom) -> None:
        self.since: str | None = None
        self._loom = loom
        self._followers: list[News] = []
        self._begun = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        return self._task is not None and self._task.done()

    @property
    def alone(self) -> bool:
        """Whether the one that leaves now is the last."""
        return len(self._followers) == 1

    @asynccontextmanager
    async def following(self) -> AsyncIterator[News]:
        async with self._begun:
            if self._task is None:
                self.since = (await self._loom.wait(timeout=0)).since
                self._task = asyncio.create_task(self._follow(), name="loom board")
        assert self.since is not None
        news = News(self.since, over=self._task.done())
        self._followers.append(news)
        try:
            yield news
        finally:
            self._followers.remove(news)
            if not self._followers:
                await end([self._task])

    async def _follow(self) -> None:
        try:
            while True:
                seen = await self._loom.wait(since=self.since, timeout=LONGEST_WAIT)
                self.since = seen.since
                if seen.changed:
                    for news in self._followers:
                        news.add(seen.events, seen.since)
                    await asyncio.sleep(_GATHER)
        except LoomError as error:
            _LOG.warning("The board looks away: %s", error)
        finally:
            for news in self._followers:
                news.over = True
                news.there.set()


async def stream(request: Request) -> Response:
    """What happens, as server-sent events; the id of each is the cursor behind it."""
    cursor = request.headers.get("last-event-id") or request.query_params.get("since") or None
    feeds: Feeds = request.app.state.feeds
    return EventSourceResponse(_follow(feeds, loom_of(request), cursor), ping=_BREATH)


async def _follow(feeds: Feeds, loom: Loom, cursor: str | None) -> AsyncIterator[ServerSentEvent]:
    async with feeds.following(loom) as news:
        if await _missed(loom, cursor):
            yield ServerSentEvent(json.dumps({"much": True}), id=news.since, retry=_AGAIN)
        else:
            yield ServerSentEvent(retry=_AGAIN, comment="here from now on")
        while not news.over:
            await news.there.wait()
            if not news.over:
                told = json.dumps(news.take())
                yield ServerSentEvent(told, id=news.since)


async def _missed(loom: Loom, cursor: str | None) -> bool:
    """Whether anything happened between a page's cursor and now."""
    if cursor is None:
        return False
    try:
        return (await loom.wait(since=cursor, timeout=0)).changed
    except InvalidInputError:  # of another database, or made up: the page is made anew
        return True


_STATES: dict[str, str] = {
    EventType.TASK_DEAD_LETTER: "dead",
    EventType.TASK_LANDING: "landing",
    EventType.TASK_FAILED: "retry",
}


def _told(event: Event) -> list[str]:
    """An event as a page needs it: which task, what happened, and the state of the task after it."""
    state = _STATES.get(event.type) or (TaskStatus(event.status).called if event.status else "")
    return [event.task_id or "", event.type, state]
