"""What lands: the queue, who lands, what was sent back and why, what waits for a yes, and what is on its branch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loom.replies.fitting import Reply, full
from loom.replies.parts import age, time
from loom.wording import Shell, Words

if TYPE_CHECKING:  # the MCP server imports this before its first answer
    from loom.graph.project import ProjectStatus
    from loom.graph.store.landing_views import LandingView, ShownLanding
    from loom.graph.store.landings import Landing

NEXT = {
    "begun": "Go on with it and report again.",
    "reported": "End now: what lies in your directory is committed, proven and landed after you have ended.",
    "queued": "Nothing is left to do: the work is proven and waits to be landed.",
}
"""What whoever has reported does next, by how far the work is."""


def landings(found: LandingView) -> Reply:
    """The queue of a project and what is around it; what was sent back and what has landed stand newest last."""
    reply = full(
        queue=[_queued(one) for one in found.queue],
        count=found.tally.queued,
        working=[_row(one) for one in found.working],
        sent_back=[_sent(one) for one in reversed(found.sent_back)],
        landed=[_landed(one) for one in reversed(found.landed)],
        landed_count=found.tally.landed,
        landers=[{"target": one.target, "holder": one.holder, "until": time(one.until)} for one in found.landers],
        **_recorded(found.tally.recorded),
    )
    if not found.tally.any:
        reply["note"] = Words("Nothing lands here yet; {} makes it.", Shell("loom work --land"))
    elif found.queue and not found.landers:
        reply["note"] = Words("Nobody lands now; {} does.", Shell("loom land"))
    return {"queue": []} | reply


def glance(status: ProjectStatus) -> Reply | None:
    """How far the landings of a project are; None where nothing lands."""
    tally = status.landing
    if not tally.any and tally.recorded is None:
        return None
    return {"landed": tally.landed, "of": status.landing_of} | full(
        queued=tally.queued or None, waits_for_yes=tally.needs_yes or None, **_recorded(tally.recorded)
    )


def landed(one: Landing | None) -> Reply | None:
    """Where a task's work has landed; None unless it has."""
    if one is None or one.landed_commit is None:
        return None
    return full(target=one.target, commit=one.landed_commit, at=time(one.ended_at))


def on_its_way(one: Landing | None) -> Reply | None:
    """How far an unfinished task's work is on its way, or how far it came; None where no claim of it lands."""
    if one is None:
        return None
    return full(
        state=one.state,
        target=one.target,
        branch=one.branch,
        commit=one.commit_id,
        queued_at=time(one.queued_at),
        waits_for_yes=one.waits_for_yes or None,
        approved_by=one.approved_by,
        sent_back=one.times_sent or None,
        note=one.note if one.state == "sent_back" else None,
        outside=list(one.outside),
    )


def why(one: Landing | None) -> str | None:
    """Why a task's work has not landed, where that is more than that somebody is at it."""
    if one is None:
        return None
    if one.waits_for_yes:
        return "It waits for a person's yes."
    if one.state == "queued":
        return "It is proven and waits to be landed."
    return one.dropped_for if one.state == "dropped" else one.reason


def _recorded(one: Any) -> Reply:
    return {} if one is None else {"target": one.target, "target_because": one.why, "target_since": time(one.since)}


def _row(shown: ShownLanding) -> Reply:
    one = shown.landing
    return full(
        id=one.task_id,
        title=shown.title,
        state=one.state,
        agent=one.agent,
        target=one.target,
        branch=one.branch,
        sent_back=one.times_sent or None,
    )


def _queued(shown: ShownLanding) -> Reply:
    one = shown.landing
    return _row(shown) | full(
        commit=one.commit_id,
        age=None if one.queued_at is None else age(one.queued_at),
        waits_for_yes=one.waits_for_yes or None,
        approved_by=one.approved_by,
        being_landed=shown.intended or None,
        outside=list(one.outside),
    )


def _sent(shown: ShownLanding) -> Reply:
    one = shown.landing
    return _row(shown) | full(reason=one.reason, note=one.note, at=time(one.sent_back_at))


def _landed(shown: ShownLanding) -> Reply:
    one = shown.landing
    took = None if one.queued_at is None or one.ended_at is None else (one.ended_at - one.queued_at).total_seconds()
    return full(
        id=one.task_id,
        title=shown.title,
        agent=one.agent,
        target=one.target,
        commit=one.landed_commit,
        at=time(one.ended_at),
        seconds=None if took is None else round(took, 3),
        approved_by=one.approved_by,
    )
