"""Waiting until something changes, without polling while notices arrive and without losing what happens between waits.

The order is: subscribe, read Postgres, sleep. A notice only says "look again"; what is returned comes from the events
that were committed since the last look, so that a `since` handed back and forth covers everything once. Unlike the
stream a wait does not keep to the order of transactions: one that stays open, anywhere on the server, holds up nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from loom import texts
from loom.background import Backoff
from loom.bus import channels
from loom.bus.events import Event, EventType
from loom.bus.publisher import EVERYONE
from loom.bus.subscriber import Interest, Subscriber
from loom.db.connection import borrowed
from loom.exceptions import InvalidInputError
from loom.graph import store
from loom.graph.model.since import Since
from loom.graph.model.task import Task, TaskStatus
from loom.graph.store import escalations, messages, reading, retention
from loom.wording import Argument, Words

if TYPE_CHECKING:
    from loom.db.connection import Connection, Pool

_READY_COUNTED = 10  # ready tasks, at most
_EVENTS = 50  # at most this many come back; `since` then stands after the last of them
_PAGE = 1000  # events that one look reads
_ENDS = frozenset((EventType.TASK_DONE, EventType.TASK_CANCELLED, EventType.TASK_DEAD_LETTER))
_ENDED = frozenset((TaskStatus.DONE, TaskStatus.CANCELLED, TaskStatus.FAILED))
# Seconds until the next look when nothing says to look earlier; each pause is twice the one before.
_FIRST_LOOK = 0.5
_LONGEST_HEARING = 15.0  # while notices arrive
_LONGEST_DEAF = 5.0  # while Redis is away


class Awaited(StrEnum):
    """What a wait can be for."""

    READY = "ready"
    TASK = "task"
    INBOX = "inbox"
    ESCALATION = "escalation"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Waited:
    """What a wait saw: whether anything changed, the events that say so, and where the next wait goes on.

    Without a `since` a wait also returns at once for what is there already: `ready` tasks, the `task` when it is
    finished, unread messages, open escalations.
    """

    changed: bool
    since: str
    events: Sequence[Event] = ()
    ready: int | None = None
    task: Task | None = None
    unread: int | None = None
    open_escalations: int | None = None
    pruned: bool = False
    """Whether events after the `since` that was given have been pruned, so that only later ones were looked at."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One wait: for `what`, by `agent`, on `task_id` where it is for a task."""

    what: Awaited
    agent: str
    task_id: str | None = None
    epic: bool = False
    """Whether that task is one, whose children's ends are worth a look at once."""

    def wants(self, event: Event) -> bool:
        """Whether an event is what this waits for."""
        match self.what:
            case Awaited.READY:
                return event.status == TaskStatus.PENDING and event.type != EventType.TASK_UPDATED
            case Awaited.TASK:
                return event.task_id == self.task_id
            case Awaited.INBOX:
                return event.type == EventType.MESSAGE_SENT and bool(event.data) and self._is_for(event)
            case Awaited.ESCALATION:
                return event.type in (EventType.ESCALATION_RAISED, EventType.ESCALATION_RESOLVED)
            case Awaited.ANY:
                return True

    def interest(self, project_id: str) -> Interest:
        """Which notices are worth a look."""
        updates, escalation = channels.updates_channel(project_id), channels.escalation_channel(project_id)
        inbox = (channels.agent_channel(project_id, self.agent), channels.broadcast_channel(project_id))
        match self.what:
            case Awaited.READY:
                return lambda channel, text: channel == updates and json.loads(text)["status"] == TaskStatus.PENDING
            case Awaited.TASK:
                notes = channels.agent_channel(project_id, self.task_id or "")
                return lambda channel, text: (
                    channel == notes or (channel == updates and self._is_about(json.loads(text)))
                )
            case Awaited.INBOX:
                return lambda channel, text: channel in inbox
            case Awaited.ESCALATION:
                return lambda channel, text: channel == escalation
            case Awaited.ANY:
                return lambda channel, text: True

    def _is_about(self, change: Mapping[str, Any]) -> bool:
        return change["id"] == self.task_id or (self.epic and change["status"] in _ENDED)

    def _is_for(self, event: Event) -> bool:
        to = event.data["to"] if event.data else None
        return to == self.agent or (to == EVERYONE and event.agent != self.agent)


async def wait(
    pool: Pool, subscriber: Subscriber, project_id: str, wanted: Wait, *, since: str | None, timeout: float
) -> Waited:
    """Returns when what is wanted has changed, at the latest after `timeout` seconds.

    Raises:
        InvalidInputError: `since` is not one that an earlier wait returned.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    looks = Backoff(_FIRST_LOOK, _LONGEST_HEARING)
    told = None if since is None else _since(since)
    pruned = False
    async with subscriber.listening(wanted.interest(project_id)) as woken:
        while True:
            woken.clear()
            async with borrowed(pool) as connection:
                if told is None:
                    seen = await _standing(connection, project_id, wanted)
                else:
                    oldest = await retention.pruned(connection, project_id)
                    pruned = pruned or not told.has_seen(oldest)
                    seen = await _look(connection, project_id, wanted, told)
                told = Since.parse(seen.since)
            left = end - loop.time()
            if seen.changed or left <= 0:
                return replace(seen, pruned=pruned)
            longest = left if subscriber.connected else min(left, _LONGEST_DEAF)
            with suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), min(longest, looks.rest()))
                looks.renew()


async def _look(connection: Connection, project_id: str, wanted: Wait, since: Since) -> Waited:
    """What is wanted of the events that are not told yet; passes by the others."""
    now = await store.events.snapshot(connection)
    while True:
        until = since.until or now
        events = await store.events.untold(connection, project_id, since, until, limit=_PAGE)
        ended = await _children_that_ended(connection, project_id, wanted, events)
        hits = [event for event in events if wanted.wants(event) or (event.type in _ENDS and event.task_id in ended)]
        shown = hits[:_EVENTS]
        if len(hits) > _EVENTS:
            since = Since(since.seen, until, shown[-1].position)
        elif len(events) == _PAGE:
            since = Since(since.seen, until, events[-1].position)
        else:
            since = Since(until)
        if shown:
            return await _with_state(connection, project_id, wanted, Waited(True, str(since), shown))
        if since.seen == now:
            return Waited(False, str(since))


async def _children_that_ended(
    connection: Connection, project_id: str, wanted: Wait, events: Sequence[Event]
) -> set[str]:
    """The children of the task that is waited for, where some are among those that have ended."""
    ended = [event.task_id for event in events if event.type in _ENDS and event.task_id] if wanted.task_id else []
    if not ended or wanted.task_id is None:
        return set()
    return await reading.children_among(connection, project_id, wanted.task_id, ended)


async def _standing(connection: Connection, project_id: str, wanted: Wait) -> Waited:
    """What a first wait finds there already."""
    since = await store.events.snapshot(connection)
    seen = await _with_state(connection, project_id, wanted, Waited(False, since))
    finished = seen.task is not None and (seen.task.status.finished or seen.task.dead)
    return replace(seen, changed=bool(seen.ready or seen.unread or seen.open_escalations or finished))


async def _with_state(connection: Connection, project_id: str, wanted: Wait, seen: Waited) -> Waited:
    """Adds what is there now to what was seen."""
    match wanted.what:
        case Awaited.READY:
            ready = await reading.get_ready_tasks(connection, project_id, limit=_READY_COUNTED)
            return replace(seen, ready=len(ready))
        case Awaited.TASK if wanted.task_id is not None:
            return replace(seen, task=await store.get_task(connection, project_id, wanted.task_id))
        case Awaited.INBOX:
            found, more = await messages.inbox(
                connection, project_id, wanted.agent, unread=True, thread_id=None, limit=1
            )
            return replace(seen, unread=len(found) + more)
        case Awaited.ESCALATION:
            raised = await escalations.open_escalations(connection, project_id, limit=100)
            return replace(seen, open_escalations=len(raised))
        case _:
            return seen


def _since(since: str) -> Since:
    try:
        return Since.parse(since)
    except ValueError:
        raise InvalidInputError(
            Words("{} {} is not a position.", Argument("since"), f"{texts.shorten(since, 40)!r}"),
            "Pass the one that the last wait returned, or leave it out.",
        ) from None
