"""Small parts of replies: times, and the word for how a task stands."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol, overload

from loom.graph.model.task import TaskStatus


@overload
def time(moment: datetime) -> str: ...
@overload
def time(moment: None) -> None: ...
@overload
def time(moment: datetime | None) -> str | None: ...
def time(moment: datetime | None) -> str | None:
    """A time of day, in UTC, to the second."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def age(since: datetime) -> str:
    """How long ago, in the largest unit that fits."""
    seconds = max(int((datetime.now(UTC) - since).total_seconds()), 0)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


class _Standing(Protocol):
    @property
    def status(self) -> TaskStatus: ...
    @property
    def state(self) -> str: ...


def state(one: _Standing) -> str | None:
    """What people call the status of a task, or of what names one, where that is another word."""
    return None if one.state == one.status else one.state
