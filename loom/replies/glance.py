"""A project at a glance, for people: the overview, and what waits for them, goes on, is next and may end when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loom.replies.fitting import Reply, full
from loom.replies.parts import age, time
from loom.replies.project import overview
from loom.replies.talk import diagnosis
from loom.replies.tasks import row, waits_for

if TYPE_CHECKING:
    from loom.graph.overview import Glance
    from loom.graph.store.glance import Ask, EpicProgress, Estimate, Progress
    from loom.graph.store.sticking import Root


def glance(found: Glance) -> Reply:
    """The overview with what a person looks for."""
    return overview(found.status) | full(
        needs_you=[_ask(one) for one in found.needs_you],
        needs_you_count=found.needs_you_count or None,
        in_progress=[_progress(one) for one in found.in_progress],
        next=[row(one) for one in found.next],
        epics=[_epic(one, found) for one in found.epics],
        more_epics=found.more_epics or None,
        may_end=None if found.estimate is None else ending(found.estimate),
    )


def stuck(found: Sequence[Root]) -> Reply:
    """What does not go on by itself, and what it holds up."""
    if not found:
        return {"stuck": [], "count": 0, "note": "Everything goes on by itself."}
    rows = [
        full(
            cause=one.cause,
            id=one.id,
            escalation=one.escalation,
            title=one.title,
            text=one.text or None,
            age=age(one.since),
            held_up=one.held_up or None,
            way_out=one.way_out,
        )
        for one in found
    ]
    return {"stuck": rows, "count": len(rows)}


def _ask(one: Ask) -> Reply:
    return full(
        need=one.need,
        id=one.id,
        task_id=one.task_id,
        title=one.title,
        text=one.text or None,
        since=time(one.since),
        age=age(one.since),
        held_up=one.held_up or None,
        diagnosis=None if one.diagnosis is None else diagnosis(one.diagnosis),
        answer=one.answer,
    )


def _progress(one: Progress) -> Reply:
    return full(
        id=one.id,
        title=one.title,
        priority=one.priority,
        agent=one.agent,
        phase=one.phase,
        since=time(one.since),
        age=age(one.since),
        last_sign=time(one.last_sign),
        silent=age(one.last_sign),
        lease_expires_at=time(one.lease_expires_at),
        stale=one.stale or None,
    )


def _epic(one: EpicProgress, found: Glance) -> Reply:
    facts = {"id": one.id, "title": one.title, "priority": one.priority, "done": one.done, "of": one.of}
    return facts | full(waits_for=waits_for(found.epic_blockers.get(one.id, ())))


def ending(one: Estimate) -> Reply:
    """When it may end, and by what pace."""
    return {"at": time(one.at), "left": one.left, "done": one.done, "seconds": round(one.seconds)}
