"""A project at length: what whoever comes to it wants to know first, and how it went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.graph.model.task import Listed, TaskStatus
from loom.graph.project import ProjectStatus
from loom.graph.store import glance, reading, stats
from loom.graph.store.blockers import Blocker, blockers
from loom.graph.store.glance import Ask, EpicProgress, Estimate, Progress
from loom.graph.store.stats import Stats

if TYPE_CHECKING:
    from loom.db.connection import Connection


@dataclass(frozen=True, slots=True)
class Glance:
    """What whoever comes to a project wants to know first. Each list has its beginning; the counts say how much more
    there is."""

    status: ProjectStatus
    needs_you: list[Ask]
    """What waits for a person: questions, workflows, landings and plans that want a yes, dead letters."""
    needs_you_count: int
    in_progress: list[Progress]
    """Who is at what; `status.counts` says how many tasks are claimed."""
    next: list[Listed]
    """What is claimed next."""
    epics: list[EpicProgress]
    """The open ones that belong to no other epic, by priority."""
    more_epics: bool
    epic_blockers: dict[str, list[Blocker]]
    """What each of those waits for that waits for something."""
    estimate: Estimate | None
    """When all may be done; None where too little was done lately to say."""


async def get_glance(connection: Connection, status: ProjectStatus, limit: int) -> Glance:
    """The project that `status` is of, with at most `limit` things in each list."""
    project_id, counts = status.project_id, status.counts
    epics = await glance.epics(connection, project_id, limit + 1) if counts[TaskStatus.EPIC] else []
    held = [one.id for one in epics[:limit] if one.waits]
    asks = status.questions + status.landing.needs_yes + status.open_plans + status.dead_letters
    if status.open_workflows:
        asks += await glance.confirms(connection, project_id)
    return Glance(
        status,
        needs_you=await glance.needs_you(connection, project_id, limit) if asks else [],
        needs_you_count=asks,
        in_progress=await glance.in_progress(connection, project_id, limit) if counts[TaskStatus.CLAIMED] else [],
        next=await reading.get_ready_tasks(connection, project_id, limit=limit) if status.ready_count else [],
        epics=epics[:limit],
        more_epics=len(epics) > limit,
        epic_blockers=await blockers(connection, project_id, held) if held else {},
        estimate=await glance.estimate(connection, project_id, status.left),
    )


async def get_stats(
    connection: Connection, status: ProjectStatus, seconds: float, *, by: str | None, offset: float, limit: int
) -> Stats:
    """How the project that `status` is of went in the last so many seconds, as a whole and `by` one of `stats.GROUPS`;
    see `store.stats`."""
    project_id = status.project_id
    since, until, partly = await stats.span(connection, project_id, seconds)
    whole = await stats.figures(connection, project_id, since, until, None, 0, 1)
    groups = [] if by is None else await stats.figures(connection, project_id, since, until, by, offset, limit)
    return Stats(
        since,
        until,
        partly,
        whole[0] if whole else stats.NOTHING,
        groups,
        await glance.estimate(connection, project_id, status.left),
    )
