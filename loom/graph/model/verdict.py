"""What a look at a live project found of one rule that must always hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """One rule: whether it holds, what was found, and what to do about it."""

    rule: str
    holds: bool
    found: str = ""
    advice: str = ""


def verdict(rule: str, broken: Sequence[str], advice: str) -> Verdict:
    """The verdict on a rule that these break; it holds when none does."""
    if not broken:
        return Verdict(rule, True)
    more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    return Verdict(rule, False, f"{', '.join(broken[:_SHOWN])}{more}", advice)
