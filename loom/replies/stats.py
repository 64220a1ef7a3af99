"""How a project went lately."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.replies.fitting import Reply, full
from loom.replies.glance import ending
from loom.replies.parts import time

if TYPE_CHECKING:
    from loom.graph.store.stats import Figures, Stats


def stats(found: Stats, by: str | None = None) -> Reply:
    """The figures of a span, all together and by group; times are medians in seconds."""
    groups = [{by: one.group} | full(title=one.title or None) | _figures(one) for one in found.groups] if by else None
    return full(
        since=time(found.since),
        until=time(found.until),
        partly=found.partly or None,
        **_figures(found.total),
        by=by,
        groups=groups,
        may_end=None if found.estimate is None else ending(found.estimate),
    )


def _figures(one: Figures) -> Reply:
    return {"done": one.done, "failed": one.failed} | full(
        per_day=round(one.per_day, 1),
        failure_rate=None if one.failure_rate is None else round(one.failure_rate, 3),
        **{
            name: None if seconds is None else round(seconds, 1)
            for name, seconds in (
                ("waiting", one.waiting),
                ("working", one.working),
                ("proving", one.proving),
                ("landing", one.landing),
            )
        },
    )
