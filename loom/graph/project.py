"""A project as a whole: made, found, and seen at a glance."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from loom.exceptions import ProjectNotFoundError
from loom.graph.model.task import Listed, TaskStatus
from loom.graph.store import counting, glance, landing_views, projects, reading, stats
from loom.graph.store.blockers import Blocker, blockers
from loom.graph.store.glance import Ask, EpicProgress, Estimate, Progress
from loom.graph.store.landing_views import LandingTally
from loom.graph.store.projects import Project
from loom.graph.store.stats import Stats
from loom.wording import Shell, Words

if TYPE_CHECKING:
    from loom.db.connection import Connection

_BLOCKED_SHOWN = 10


@dataclass(frozen=True, slots=True)
class ProjectStatus:
    """A project at a glance."""

    project_id: str
    project_name: str
    counts: dict[str, int]
    """How many tasks are in each status; every status is there."""
    ready_count: int
    blocked_tasks: list[Listed]
    """A few of the blocked ones, the most urgent first."""
    blockers: dict[str, list[Blocker]]
    """What each of those waits for."""
    open_escalations: int
    """Failures and questions that ask for somebody."""
    questions: int
    """Those of them that are questions."""
    deferred: int
    """Tasks, and epics, that are held until somebody resolves that."""
    dead_letters: int
    retries_due: int
    """Failed tasks that wait for the time at which they are tried again."""
    agents: int
    """How many hold a claim."""
    open_workflows: int
    open_plans: int
    """Plans that wait for a person's yes."""
    landing: LandingTally
    """What has landed, and what waits to."""

    @property
    def landing_of(self) -> int:
        """How many tasks have landed or can yet: the unfinished ones, epics aside."""
        unfinished = (TaskStatus.PENDING, TaskStatus.BLOCKED, TaskStatus.CLAIMED, TaskStatus.FAILED)
        return self.landing.landed + sum(self.counts[status] for status in unfinished)

    @property
    def left(self) -> int:
        """How many tasks are still to be done: the unfinished ones, without epics and dead letters."""
        going = (TaskStatus.PENDING, TaskStatus.BLOCKED, TaskStatus.CLAIMED)
        return sum(self.counts[status] for status in going) + self.retries_due


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


async def create_project(connection: Connection, project_id: str, name: str) -> str:
    """Makes sure that the project is there and knows which history of the database it lives in; returns that history.
    The first connection to a project makes it."""
    return await projects.enter(connection, project_id, name)


async def get_project(connection: Connection, project_id: str) -> Project:
    """The project's row. Raises ProjectNotFoundError if the database has none."""
    found = await projects.get(connection, project_id)
    if found is None:
        raise ProjectNotFoundError(
            f"The database has no project {project_id}.",
            Words("Run {} in the project's directory.", Shell("loom up")),
        )
    return found


async def get_project_status(
    connection: Connection, project_id: str, known_counts: dict[str, int] | None = None
) -> ProjectStatus:
    """A project at a glance. `known_counts` saves counting where the mirror has done it.

    Raises:
        ProjectNotFoundError: the database has no such project.
    """
    project = await get_project(connection, project_id)
    counts = known_counts or await counting.counts(connection, project_id)
    tallies = await reading.tallies(connection, project_id)
    blocked = await reading.blocked_tasks(connection, project_id, _BLOCKED_SHOWN)
    return ProjectStatus(
        project_id=project_id,
        project_name=project.name,
        counts=counts,
        ready_count=counts[TaskStatus.PENDING],
        blocked_tasks=blocked,
        blockers=await blockers(connection, project_id, [task.id for task in blocked]),
        landing=await landing_views.tally(connection, project_id),
        **asdict(tallies),
    )


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
