"""The page of one task: all that is known of it, and all that can be done with it; its log and diff beside that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from loom import texts
from loom.bus.events import Event, EventType
from loom.graph.model.notes import without_notes
from loom.graph.store.proofs import Proof
from loom.landing.worktrees import Worktrees
from loom.orchestration.printed import Log
from loom.web.pages import cursor
from loom.web.rendering import loom_of, page

_HISTORY = 300  # events


async def show(request: Request) -> Response:
    """One task with all around it."""
    loom, since = loom_of(request), await cursor(request)
    found = await loom.get(request.path_params["task_id"])
    history = await loom.history(found.task.id, limit=_HISTORY)
    around = [found.task.id, *(one.id for one in (*found.dependencies, *found.dependents, *found.children))]
    question = next((one for one in found.escalations if one.kind == "question" and one.resolution is None), None)
    return page(
        request,
        "task.html",
        section="task",
        since=since,
        live=" ".join(around),
        one=found.task,
        found=found,
        brief=without_notes(found.task.context),
        question=question,
        history=history[::-1],
        attempts=list(attempts(history, found.proofs, datetime.now(UTC))),
    )


async def log(request: Request) -> Response:
    """The end of what the newest command for a task has printed, where it ran on this machine."""
    loom = loom_of(request)
    found = await loom.get(request.path_params["task_id"])

    def read() -> tuple[str, str]:
        with Log(found.task.id, loom.config) as opened:
            return str(opened.path), opened.more()

    path, text = await asyncio.to_thread(read)
    return page(request, "text.html", one=found.task, what="What its newest command printed", path=path, text=text)


async def diff(request: Request) -> Response:
    """What the work on a task has changed: what its newest landing brings, else what lies in its worktree."""
    loom = loom_of(request)
    found = await loom.get(request.path_params["task_id"])
    landing, trees = found.landing, await Worktrees.of_project(loom.config, to_make=False)
    if landing is not None and landing.base and landing.commit_id:
        text = await trees.brought(landing.base, landing.commit_id)
    else:
        text = await trees.changes(found.task.id, landing.target if landing else "HEAD")
    return page(
        request, "text.html", one=found.task, what="What it changes", path="", text=texts.clean(texts.mask(text))
    )


# --- attempts ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Span:
    """A part of an attempt: what was done, from when, for how many seconds, and how much of the whole width it has."""

    kind: str
    begun: datetime
    seconds: float
    left: float = 0.0
    width: float = 0.0


@dataclass(slots=True)
class Attempt:
    """One claim of a task: who, how it ended (empty while it goes on), and its parts in order."""

    number: int
    agent: str
    ended: str = ""
    spans: list[Span] = field(default_factory=list)
    reason: str = ""

    @property
    def seconds(self) -> float:
        """How long it took in all, waiting included."""
        return sum(one.seconds for one in self.spans)


_ENDS = {
    EventType.TASK_DONE: "done",
    EventType.TASK_FAILED: "failed",
    EventType.TASK_DEAD_LETTER: "dead",
    EventType.TASK_RELEASED: "given back",
    EventType.TASK_CANCELLED: "cancelled",
    EventType.TASK_BLOCKED: "asked",
    EventType.CLAIM_EXPIRED: "lapsed",
}
_READY = {EventType.TASK_CREATED, EventType.TASK_UNBLOCKED, EventType.TASK_RETRIED, EventType.TASK_RELEASED}


def attempts(history: Sequence[Event], proofs: Sequence[Proof], now: datetime) -> Iterator[Attempt]:
    """What was tried, oldest first, each attempt in the parts that it spent waiting for a worker, being worked on,
    proven and landed. `history`: oldest first; `proofs`: of the newest claim, newest first."""
    made, current, since, ready = list[Attempt](), None, now, None
    for event in history:
        at = event.created_at or now
        if event.type is EventType.TASK_CLAIMED:
            current = Attempt(len(made) + 1, event.agent or "")
            if ready is not None and ready < at:
                current.spans.append(_span("queued", ready, at))
            made.append(current)
            since, ready = at, None
        elif current is not None and event.type is EventType.TASK_LANDING:
            current.spans.append(_span("running", since, at))
            since = at
        elif current is not None and event.type in _ENDS:
            current.spans.append(_span(_part(current), since, at))
            current.ended, current.reason = _ENDS[event.type], str((event.data or {}).get("reason") or "")
            current = None
        if event.type in _READY and event.status == "pending":
            ready = at
    if current is not None:
        current.spans.append(_span(_part(current), since, now))
    if made and proofs:
        _prove(made[-1], proofs, now)
    longest = max((one.seconds for one in made), default=0.0)
    for one in made:
        _scale(one, longest)
    return iter(made)


def _part(attempt: Attempt) -> str:
    """What goes on: the landing, once the work stands in its queue."""
    return "landing" if any(one.kind == "running" for one in attempt.spans) else "running"


def _span(kind: str, begun: datetime, ended: datetime) -> Span:
    return Span(kind, begun, max((ended - begun).total_seconds(), 0.0))


def _prove(attempt: Attempt, proofs: Sequence[Proof], now: datetime) -> None:
    """Takes the time of the last proofs out of the part in which they ran."""
    running = next((one for one in attempt.spans if one.kind == "running"), None)
    first = min(one.started_at for one in proofs)
    last = max(one.ended_at or now for one in proofs)
    if running is None or not 0 < (first - running.begun).total_seconds() < running.seconds:
        return
    place = attempt.spans.index(running)
    whole = running.seconds
    running.seconds = (first - running.begun).total_seconds()
    proving = Span("proving", first, min((last - first).total_seconds(), whole - running.seconds))
    attempt.spans.insert(place + 1, proving)


def _scale(attempt: Attempt, longest: float) -> None:
    """Where each part begins and ends, in hundredths of the longest attempt."""
    left = 0.0
    for one in attempt.spans:
        one.left, one.width = left, max(100 * one.seconds / longest, 0.4) if longest else 0.4
        left += one.width
