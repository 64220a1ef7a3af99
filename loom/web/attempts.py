"""What was tried at a task, each attempt in the parts that it spent waiting, being worked on, proven and landed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from loom.bus.events import Event, EventType
from loom.graph.store.landings import Landing
from loom.graph.store.proofs import Proof

_SHORTEST = 0.05  # seconds of a part of an attempt between two checks that is told
_ENDS: dict[str, str] = {
    EventType.TASK_DONE: "done",
    EventType.TASK_FAILED: "failed",
    EventType.TASK_DEAD_LETTER: "dead",
    EventType.TASK_RELEASED: "given back",
    EventType.TASK_CANCELLED: "cancelled",
    EventType.TASK_BLOCKED: "asked",
    EventType.CLAIM_EXPIRED: "lapsed",
}
_TURNS: dict[str, str] = {EventType.TASK_LANDING: "landing", EventType.LANDING_SENT_BACK: "running"}
"""What is done from an event on."""


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


def attempts(
    history: Sequence[Event], proofs: Sequence[Proof], now: datetime, landing: Landing | None = None
) -> list[Attempt]:
    """What was tried, oldest first, each attempt in the parts that it spent waiting for a worker, being worked on,
    proven and landed. `history`: oldest first; `proofs`: of the newest claim; `landing`: of the newest that lands."""
    made, current, part, since, ready = list[Attempt](), None, "running", now, None
    for event in history:
        at = event.created_at or now
        if event.type == EventType.TASK_CLAIMED:
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


def together(used: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of what attempts have used, as far as they told."""
    names = ("input_tokens", "output_tokens", "cost_usd")
    told = {name: [one[name] for one in used if isinstance(one.get(name), int | float)] for name in names}
    return {name: sum(values) for name, values in told.items() if values}


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
    told = {one.token: (one.data or {}).get("usage") for one in history if one.type == EventType.ATTEMPT_ENDED}
    for one in made:
        used = told.get(one.token) or (landing.usage if landing is not None and landing.token == one.token else None)
        one.used = used if isinstance(used, Mapping) else {}


def _scale(made: Sequence[Attempt]) -> None:
    """Where each part begins and ends, in hundredths of the longest attempt."""
    longest = max((one.seconds for one in made), default=0.0)
    for attempt in made:
        left = 0.0
        for one in attempt.spans:
            one.left, one.width = left, max(100 * one.seconds / longest, 0.4) if longest else 0.4
            left += one.width
