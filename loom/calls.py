"""How many calls this process has answered, by tool and outcome, and how long they took: for its metrics."""

from __future__ import annotations

from typing import NamedTuple


class Answered(NamedTuple):
    """Calls that ended alike."""

    number: int
    seconds: float


_answered: dict[tuple[str, str], Answered] = {}


def count(tool: str, outcome: str, seconds: float) -> None:
    """Counts a call.

    Args:
        tool: which one; never what a caller has made up.
        outcome: `ok`, or the code of an error.
        seconds: how long it took.
    """
    before = _answered.get((tool, outcome), Answered(0, 0.0))
    _answered[tool, outcome] = Answered(before.number + 1, before.seconds + seconds)


def answered() -> dict[tuple[str, str], Answered]:
    """All of them, by tool and outcome."""
    return dict(sorted(_answered.items()))
