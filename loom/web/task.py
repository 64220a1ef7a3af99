"""The page of one task: all that is known of it, and all that can be done with it; its log and diff beside that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from loom import texts
from loom.bus.events import Event, EventType
from loom.exceptions import FileError
from loom.graph.front import Loom
from loom.graph.model.notes import without_notes
from loom.graph.store import messages
from loom.graph.store.landings import Landing
from loom.graph.store.proofs import Proof
from loom.landing.worktrees import Worktrees
from loom.orchestration.printed import Log
from loom.web.pages import cursor
from loom.web.rendering import loom_of, page

_HISTORY = 300  # events
_SAID = 50  # messages
_END = 12  # lines of a log that stand on the task's page
_SHORTEST = 0.05  # seconds of a part of an attempt between two checks that is told


async def show(request: Request) -> Response:
    """One task with all around it."""
    loom, since = loom_of(request), await cursor(request)
    found = await loom.get(request.path_params["task_id"])
    one, history = found.task, await loom.history(found.task.id, limit=_HISTORY)
    around = [one.id, *(other.id for other in (*found.dependencies, *found.dependents, *found.children))]
    question = next(
        (raised for raised in found.escalations if raised.kind == "question" and not raised.resolution), None
    )
    tried = attempts(history, found.proofs, datetime.now(UTC), found.landing)
    return page(
        request,
        "task.html",
        section="task",
        since=since,
        live=" ".join(around),
        one=one,
        found=found,
        epic=(await loom.titles([one.parent_id])).get(one.parent_id, one.parent_id) if one.parent_id else "",
        brief=without_notes(one.context),
        question=question,
        history=history[::-1],
        attempts=tried,
        used=together([attempt.used for attempt in tried]),
        talk=await _talk(loom, one.id),
        printed=await asyncio.to_thread(_printed, loom, one.id, _END) if one.claim_token else None,
    )


async def _talk(loom: Loom, task_id: str) -> Sequence[messages.Message]:
    """What agents wrote to each other in the task's thread, oldest first, for whoever may read that."""
    if not loom.may("messages"):
        return []
    return await loom.look(lambda connection: messages.thread(connection, loom.project_id, task_id, _SAID))


def _printed(loom: Loom, task_id: str, lines: int) -> tuple[str, str] | None:
    """Where the log of a task lies, and its last lines; None where there is none on this machine."""
    try:
        with Log(task_id, loom.config) as opened:
            return str(opened.path), "\n".join(opened.more().rstrip().splitlines()[-lines:])
    except FileError:
        return None


async def log(request: Request) -> Response:
    """The end of what the newest command for a task has printed, where it ran on this machine."""
    loom = loom_of(request)
    found = await loom.get(request.path_params["task_id"])

    def read() -> tuple[str, str]:
        with Log(found.task.id, loom.config) as opened:
            return str(opened.path), opened.more()

    path, text = await asyncio.to_thread(read)
    lines = [("", line) for line in text.rstrip().split("\n")]
    return page(
        request,
        "text.html",
        one=found.task,
        what="What its newest command printed",
        path=path,
        lines=lines,
        found=found,
    )


async def diff(request: Request) -> Response:
    """What the work on a task has changed: what its newest landing brings, else what lies in its worktree."""
    loom = loom_of(request)
    found = await loom.get(request.path_params["task_id"])
    landing, trees = found.landing, await Worktrees.of_project(loom.config, to_make=False)
    if landing is not None and landing.base and landing.commit_id:
        text = await trees.brought(landing.base, landing.commit_id)
    else:
        text = await trees.changes(found.task.id, landing.target if landing else "HEAD")
    lines = list(diff_lines(texts.clean(texts.mask(text))))
    return page(request, "text.html", one=found.task, what="What it changes", path="", lines=lines, found=found)


def diff_lines(text: str) -> Iterator[tuple[str, str]]:
    """The lines of a diff, each with what it is: `file`, where one begins, `place`, `add`, `cut-out`, or ""."""
    inside = False  # a hunk, outside of which a plus is no line that was added
    for line in text.rstrip().split("\n"):
        if line.startswith("diff --git "):
            inside = False
            yield "file", line
            continue
        inside = inside or line.startswith("@@")
        yield _LINES.get(line[:1], "") if inside else "", line


_LINES = {"+": "add", "-": "cut-out", "@": "place"}


# --- attempts ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Span:
    """A part of an attempt: what was done, from when till when, and where it stands in the whole width of a line."""

    kind: str
    begun: datetime
    ended: datetime
    left: float = 0.0
    width: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it took."""
        return max((self.ended - self.begun).total_seconds(), 0.0)


@dataclass(slots=True)
class Attempt:
    """One claim of a task: who, how it ended (empty while it goes on), its parts in order, and what its worker told
    that it has used."""

    number: int
    agent: str
    token: int | None
    ended: str = ""
    spans: list[Span] = field(default_factory=list)
    reason: str = ""
    used: Mapping[str, Any] = field(default_factory=dict)

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
_TURNS = {EventType.TASK_LANDING: "landing", EventType.LANDING_SENT_BACK: "running"}
"""What is done from an event on."""


def attempts(
    history: Sequence[Event], proofs: Sequence[Proof], now: datetime, landing: Landing | None = None
) -> list[Attempt]:
    """What was tried, oldest first, each attempt in the parts that it spent waiting for a worker, being worked on,
    proven and landed. `history`: oldest first; `proofs`: of the newest claim; `landing`: of the newest that lands."""
    made, current, part, since, ready = list[Attempt](), None, "running", now, None
    for event in history:
        at = event.created_at or now
        if event.type is EventType.TASK_CLAIMED:
            current = Attempt(len(made) + 1, event.agent or "", event.token)
            if ready is not None and ready < at:
                current.spans.append(Span("queued", ready, at))
            made.append(current)
            part, since = "running", at
        elif current is not None and event.type in _TURNS | _ENDS:
            if (turn := _TURNS.get(event.type, "")) != part:
                current.spans.append(Span(part, since, at))
                part, since = turn, at
            if event.type in _ENDS:
                current.ended, current.reason = _ENDS[event.type], str((event.data or {}).get("reason") or "")
                current = None
        if event.status is not None:
            ready = (ready or at) if event.status == "pending" else None
    if current is not None:
        current.spans.append(Span(part, since, now))
    if made:
        _prove(made[-1], proofs, now)
    _use(made, history, landing)
    _scale(made)
    return made


def _prove(attempt: Attempt, proofs: Sequence[Proof], now: datetime) -> None:
    """Takes the time of checks out of the parts in which they ran."""
    for proof in sorted(proofs, key=lambda one: one.started_at):
        begun, ended = proof.started_at, proof.ended_at or now
        place = next(
            (n for n, one in enumerate(attempt.spans) if one.kind == "running" and one.begun <= begun < one.ended), None
        )
        if place is None:
            continue
        whole = attempt.spans[place]
        ended = min(max(ended, begun), whole.ended)
        parts = [
            Span("running", whole.begun, begun),
            Span("proving", begun, ended),
            Span("running", ended, whole.ended),
        ]
        attempt.spans[place : place + 1] = [one for one in parts if one.seconds >= _SHORTEST or one.kind == "proving"]


def _use(made: Sequence[Attempt], history: Sequence[Event], landing: Landing | None) -> None:
    """Notes what each attempt has used: as it was told at its end, else with what it brought to land."""
    told = {one.token: (one.data or {}).get("usage") for one in history if one.type is EventType.ATTEMPT_ENDED}
    for one in made:
        used = told.get(one.token) or (landing.usage if landing is not None and landing.token == one.token else None)
        one.used = used if isinstance(used, Mapping) else {}


def together(used: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of what attempts have used, as far as they told."""
    names = ("input_tokens", "output_tokens", "cost_usd")
    told = {name: [one[name] for one in used if isinstance(one.get(name), int | float)] for name in names}
    return {name: sum(values) for name, values in told.items() if values}


def _scale(made: Sequence[Attempt]) -> None:
    """Where each part begins and ends, in hundredths of the longest attempt."""
    longest = max((one.seconds for one in made), default=0.0)
    for attempt in made:
        left = 0.0
        for one in attempt.spans:
            one.left, one.width = left, max(100 * one.seconds / longest, 0.4) if longest else 0.4
            left += one.width
