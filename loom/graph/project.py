"""A project as a whole: made, found, and how it stands."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from loom.exceptions import ProjectNotFoundError
from loom.graph.model.task import Listed, TaskStatus
from loom.graph.store import counting, landing_views, projects, reading
from loom.graph.store.blockers import Blocker, blockers
from loom.graph.store.landing_views import LandingTally
from loom.graph.store.projects import Project
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
