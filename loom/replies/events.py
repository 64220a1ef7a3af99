"""What happened, and what a wait saw of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.replies.fitting import Reply, full
from loom.replies.parts import state, time
from loom.wording import Argument, Words

if TYPE_CHECKING:  # the MCP server imports this before its first answer
    from loom.bus.events import Event
    from loom.graph.cache.waiting import Waited
    from loom.graph.model.task import Task


def waited(seen: Waited) -> Reply:
    """What a wait saw."""
    return full(
        changed=seen.changed,
        since=seen.since,
        ready=seen.ready,
        task=None if seen.task is None else _named(seen.task),
        unread=seen.unread,
        open_escalations=seen.open_escalations,
        events=[event(one) for one in seen.events],
        pruned="Older events than these were pruned; what happened right after the position may be among them."
        if seen.pruned
        else None,
        note=None
        if seen.changed
        else Words("Nothing changed before the timeout; wait again with {}.", Argument("since")),
    )


def _named(one: Task) -> Reply:
    return full(id=one.id, status=one.status, state=state(one), title=one.title)


def event(one: Event) -> Reply:
    """One event."""
    return full(
        type=one.type,
        task_id=one.task_id,
        status=one.status,
        agent=one.agent,
        at=time(one.created_at),
        data=dict(one.data) if one.data else None,
    )
