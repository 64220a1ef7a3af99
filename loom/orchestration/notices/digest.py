"""The digest of a day: what was done, by whom and at what cost, and what waits for a person, as a page of Markdown.

Once a day is over, its page is written into the directories that `notify` names (`obsidian`), by one process. A page is
replaced as a whole, so that it does no harm to write it again.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom import files, texts
from loom.background import Backoff
from loom.graph.store import days, notices
from loom.orchestration.notices.receivers import Receiver, cursors_of
from loom.orchestration.patience import Patience
from loom.process import identity

if TYPE_CHECKING:
    from loom.db.connection import Connection
    from loom.graph.front import Loom
    from loom.graph.store.days import Finished, Spent
    from loom.graph.store.glance import Ask
    from loom.graph.store.notices import Cursor

_LISTED = 200  # tasks of a day
_WAITING = 50  # of what waits
_TITLE = 120
_TEXT = 300
_NAME = 80  # characters of a project's name in that of a file
_LOOKED_BACK = 7  # days that are written afterwards, where nothing ran for so long
_LEASE = 60.0  # seconds for a page
_NEXT = 3600.0  # seconds until the next look, at most
_ERRORS = (5.0, 600.0)


@dataclass(frozen=True, slots=True)
class Digest:
    """What there is to tell of a day. `events`: how often what happened; `waits`: what waits now, of `waiting`."""

    day: date
    project: str
    project_id: str
    done: Sequence[Finished]
    done_count: int
    events: dict[str, int]
    spent: Sequence[Spent]
    waits: Sequence[Ask]
    waiting: int

    @property
    def empty(self) -> bool:
        """Whether nothing happened on it."""
        return not self.events and not self.done_count

    def facts(self) -> dict[str, Any]:
        """It, for programs."""
        return {
            "day": self.day.isoformat(),
            "project": {"id": self.project_id, "name": self.project},
            "done": [{name: value for name, value in _slots(one) if value is not None} for one in self.done],
            "done_count": self.done_count,
            "events": self.events,
            "spent": [{name: value for name, value in _slots(one) if value is not None} for one in self.spent],
            "waits": [
                {"need": one.need, "id": one.id, "title": one.title, "text": one.text, "answer": one.answer}
                for one in self.waits
            ],
            "waits_count": self.waiting,
        }


def _slots(one: Finished | Spent) -> list[tuple[str, Any]]:
    return [(name, getattr(one, name)) for name in type(one).__slots__]


async def of_day(loom: Loom, day: date) -> Digest:
    """The digest of a day as the clock of this machine has days; of today, of what is over of it."""
    begin, end = (datetime.combine(one, time.min).astimezone() for one in (day, day + timedelta(days=1)))
    project_id = loom.project_id

    async def read(connection: Connection) -> tuple[Any, ...]:
        return (
            await days.finished(connection, project_id, begin, end, _LISTED),
            await days.happened(connection, project_id, begin, end),
            await days.spent(connection, project_id, begin, end),
        )

    (done, count), events, spent = await loom.look(read)
    now = await loom.glance(limit=_WAITING)
    return Digest(
        day, loom.config.project_name, project_id, done, count, events, spent, now.needs_you, now.needs_you_count
    )


# --- as a page --------------------------------------------------------------------------------------------------------


def markdown(digest: Digest) -> str:
    """The page. What agents have written is text in it and nothing else, whatever reads it."""
    return "\n".join(_page(digest)) + "\n"


def _page(digest: Digest) -> Iterator[str]:
    yield from ("---", f"loom_project: {digest.project_id}", f"date: {digest.day.isoformat()}", "---")
    yield f"# {inert(digest.project)}, {digest.day.isoformat()}"
    yield ""
    yield _summary(digest)
    if digest.done:
        yield from ("", "## Done", "")
        yield from (_finished(one) for one in digest.done)
        if left := digest.done_count - len(digest.done):
            yield f"- and {left:,} more"
    if digest.spent:
        yield from ("", "## Cost, as far as workers told", "", "| agent | attempts | tokens | US dollars |")
        yield "|---|---:|---:|---:|"
        for one in digest.spent:
            tokens = "" if one.tokens is None else f"{one.tokens:,}"
            cost = "" if one.cost_usd is None else f"{one.cost_usd:,.2f}"
            yield f"| {inert(one.agent)} | {one.attempts:,} | {tokens} | {cost} |"
    if digest.waits:
        yield from ("", "## Waits for you", "")
        for ask in digest.waits:
            text = f": {inert(ask.text, _TEXT)}" if ask.text else ""
            yield f"- {ask.need} {ask.id}, {inert(ask.title)}{text}"
        if left := digest.waiting - len(digest.waits):
            yield f"- and {left:,} more"


_SAID = (
    ("task.created", "created"),
    ("task.claimed", "claimed"),
    ("task.failed", "failed and tried again"),
    ("task.dead_letter", "failed for good"),
    ("landing.sent_back", "sent back"),
    ("claim.expired", "lost by their agents"),
)


def _summary(digest: Digest) -> str:
    parts = [f"{digest.done_count:,} tasks done"]
    parts += [f"{digest.events[event]:,} {words}" for event, words in _SAID if event in digest.events]
    return f"{', '.join(parts)}."


def _finished(one: Finished) -> str:
    by = f", by {inert(one.agent)}" if one.agent else ""
    took = f" in {round(one.seconds / 60):,} min" if one.seconds is not None and one.agent else ""
    landed = f", {one.commit[:12]} on {inert(one.target or '')}" if one.commit else ""
    return f"- {one.id} {inert(one.title)}{by}{took}{landed}"


def inert(text: str, most: int = _TITLE) -> str:
    """A text of somebody else's that means nothing in Markdown but itself, nor to what else may read the page: no link,
    no embedded page, no tag, field, query or template of Obsidian and its extensions. On one line, without secrets."""
    shown = texts.shorten(texts.one_line(texts.outward(text)), most)
    return re.sub(r"[^\w\s.,;!?()'\"/+-]|_|^[\d.)+-]+", _entities, shown)


def _entities(found: re.Match[str]) -> str:
    return "".join(c if not c.isascii() else f"&#{ord(c)};" for c in found[0])


# --- written ----------------------------------------------------------------------------------------------------------


def write(directory: Path, digest: Digest) -> Path:
    """Writes the page into a directory that is there; returns the file. Raises OSError."""
    directory = directory.expanduser()
    if not directory.is_dir():
        raise NotADirectoryError(0, "it is no directory", str(directory))
    name = re.sub(r"[^\w .-]", "-", texts.one_line(digest.project)).strip(" .")[:_NAME] or "project"
    path = directory / f"{digest.day.isoformat()} {name} {digest.project_id[:4]}.md"
    files.write(path, markdown(digest))
    return path


class Diary:
    """Has the days of one project written down, while its process lives."""

    def __init__(self, loom: Loom, wanted: Sequence[Receiver]) -> None:
        self._loom, self._wanted = loom, wanted
        self._process = identity.own()
        self._away = Backoff(*_ERRORS)

    async def run(self) -> None:
        """Goes on for ever; errors are logged, and tried again."""
        patience = Patience("The digest", *_ERRORS)
        while True:
            try:
                rest = await self.look()
            except Exception as error:
                rest = patience.after(error)
            else:
                patience.renew()
            await asyncio.sleep(rest)

    async def look(self) -> float:
        """Writes what is due. Returns the seconds until the next look."""
        cursors = await cursors_of(self._loom, self._wanted)
        return min([await self._see_to(one, cursors[one.key]) for one in self._wanted])

    async def _see_to(self, receiver: Receiver, cursor: Cursor) -> float:
        if cursor.rest:
            return cursor.rest
        now = cursor.now.astimezone()
        yesterday = now.date() - timedelta(days=1)
        first = yesterday if cursor.digest_of is None else cursor.digest_of + timedelta(days=1)
        due = max(first, yesterday - timedelta(days=_LOOKED_BACK - 1))
        if due > yesterday:
            midnight = datetime.combine(now.date() + timedelta(days=1), time.min).astimezone()
            return min((midnight - now).total_seconds() + 1, _NEXT)
        died = cursor.held and await asyncio.to_thread(identity.is_gone, cursor.process)
        holder = secrets.token_hex(8)
        if not await self._loom.transact(lambda tx: notices.take(tx, cursor, holder, self._process, _LEASE, died=died)):
            return _ERRORS[0]
        digest = await of_day(self._loom, due)
        try:
            if not digest.empty:
                await asyncio.to_thread(write, Path(receiver.row.obsidian or ""), digest)
        except OSError as error:
            rest, why = self._away.after(cursor.failures + 1), f"The digest cannot be written: {error.strerror}."
            await self._loom.transact(lambda tx: notices.failed(tx, receiver.key, holder, why, rest))
            return rest
        await self._loom.transact(lambda tx: notices.written(tx, receiver.key, holder, due))
        return 0.0
