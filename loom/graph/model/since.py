"""Where a wait has come to: what it has told of, so that the next one tells of the rest, once.

It is a snapshot of the database, as PostgreSQL writes one: `xmin:xmax:list`, where every transaction below xmin, and
below xmax those that the list does not name, had ended. What had ended then has been told. So a transaction that stays
open holds up nothing, and what it commits in the end is told then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from loom.bus.events import START, Position

_SNAPSHOT = re.compile(r"(\d{1,19}):(\d{1,19}):((?:\d{1,19}(?:,\d{1,19})*)?)", re.ASCII)
_LONGEST = 100_000  # characters


@dataclass(frozen=True, slots=True)
class Since:
    """What had ended in the snapshot `seen` has been told; of what had ended in `until`, which is empty where it is all
    that has, everything up to the position `after`."""

    seen: str
    until: str = ""
    after: Position = START

    def __str__(self) -> str:
        return f"{self.seen}/{self.until}/{self.after}" if self.until else self.seen

    def has_seen(self, position: Position) -> bool:
        """Whether what stands there has been told."""
        xmin, xmax, open_then = _parts(self.seen)
        return position <= self.after or position.xid < xmin or (position.xid < xmax and position.xid not in open_then)

    @classmethod
    def parse(cls, text: str) -> Since:
        """Reads what `str` wrote, or the position of an event, up to which all has been told. Raises ValueError for
        anything else."""
        if len(text) > _LONGEST:
            raise ValueError(text)
        if ":" not in text:
            after = Position.parse(text)
            first = max(after.xid, 1)
            return cls(f"{first}:{first}:", after=after)
        seen, *page = text.split("/")
        for snapshot in (seen, *page[:1]):
            _parts(snapshot)
        match page:
            case []:
                return cls(seen)
            case [until, after_text]:
                return cls(seen, until, Position.parse(after_text))
            case _:
                raise ValueError(text)


def _parts(snapshot: str) -> tuple[int, int, frozenset[int]]:
    """xmin, xmax and what was open. Raises ValueError for what PostgreSQL would not write."""
    fits = _SNAPSHOT.fullmatch(snapshot)
    if fits is None:
        raise ValueError(snapshot)
    xmin, xmax = int(fits[1]), int(fits[2])
    named = [int(xid) for xid in fits[3].split(",") if xid]
    bounds = [xmin - 1, *named, xmax]
    if not 0 < xmin <= xmax < 2**63 or any(one >= other for one, other in pairwise(bounds)):
        raise ValueError(snapshot)
    return xmin, xmax, frozenset(named)
