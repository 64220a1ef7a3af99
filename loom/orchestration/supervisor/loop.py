"""The supervisor: keeps a project going while agents work on it, and says what it sees.

It does what every Loom process does in the background, and watches: claims that nobody renews, escalations that wait
for a person, work that does not land, tasks that died, the end of the project. Beside that it carries workflows on, and
with a brain it has failures diagnosed. Any number may run; what they do is done once all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.exceptions import DatabaseUnavailableError, ServersError
from loom.graph.store import landing_views
from loom.orchestration.housekeeping import Housekeeper
from loom.orchestration.patience import Patience
from loom.orchestration.supervisor.flows import Carried, Flows
from loom.workflows import runs

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.graph.project import ProjectStatus
    from loom.graph.rules.claims import Swept
    from loom.graph.store.escalations import Escalation
    from loom.graph.store.landing_views import Stuck
    from loom.graph.store.reading import AgentView
    from loom.graph.store.workflow_runs import WorkflowRun
    from loom.orchestration.supervisor.brain import Brain, Diagnosed

_NOBODY_LANDS = 300.0  # seconds in the queue
_COMES_BACK = 2  # times sent back
_PAUSES = (0.5, 10.0)  # seconds between tries while the servers are away: at first, at most


@dataclass(frozen=True, slots=True)
class Turn:
    """One look of the supervisor: what it swept, and what is new since its last look."""

    swept: Swept
    escalations: tuple[Escalation, ...]
    """Open, and not seen before."""
    stale: tuple[AgentView, ...]
    """Became stale since."""
    status: ProjectStatus
    unattended: tuple[WorkflowRun, ...] = ()
    """Workflows that wait for somebody, or have failed, and were not seen so before."""
    carried: tuple[Carried, ...] = ()
    """What was done with workflows since."""
    diagnosed: tuple[Diagnosed, ...] = ()
    """What was diagnosed since."""
    stuck: tuple[Stuck, ...] = ()
    """Work that does not land by itself, and was not seen so before."""

    @property
    def complete(self) -> bool:
        """Every task is done or cancelled, and there is one."""
        finished = self.status.counts["done"] + self.status.counts["cancelled"]
        return finished > 0 and finished == sum(self.status.counts.values())


class Supervisor:
    """Watches one project."""

    def __init__(self, loom: Loom, brain: Brain | None = None) -> None:
        self._loom, self._brain, self._flows = loom, brain, Flows(loom)
        self._known: set[str] = set()
        self._unattended: set[tuple[str, str, int]] = set()
        self._stale: set[str] = set()
        self._stuck: set[tuple[int, str]] = set()

    async def turn(self, *, whole: bool = False) -> Turn:
        """Sweeps, brings the mirror up to date, and looks once.

        Args:
            whole: also carries on the workflows that can be, and has diagnosed what is open, before it looks; otherwise
                that is done beside, while `run` does.
        """
        swept, _ = await self._loom.sweep()
        if whole:
            await self._flows.work_off()
            if self._brain is not None:
                await self._brain.work_off()
        await (await self._loom.relay()).step()
        waiting = await self._loom.escalations(limit=500)
        agents = [agent for agent in await self._loom.agents() if agent.stale]
        unattended = await runs.unattended(self._loom)
        project, wait = self._loom.project_id, _NOBODY_LANDS
        stuck = await self._loom.look(lambda connection: landing_views.stuck(connection, project, wait, _COMES_BACK))
        turn = Turn(
            swept,
            tuple(one for one in waiting if one.id not in self._known),
            tuple(agent for agent in agents if agent.agent not in self._stale),
            await self._loom.status(),
            tuple(run for run in unattended if _at(run) not in self._unattended),
            self._flows.news(),
            self._brain.news() if self._brain is not None else (),
            tuple(one for one in stuck if (one.landing.id, one.trouble) not in self._stuck),
        )
        self._known = {one.id for one in waiting}
        self._stale = {agent.agent for agent in agents}
        self._unattended = {_at(run) for run in unattended}
        self._stuck = {(one.landing.id, one.trouble) for one in stuck}
        return turn

    async def run(self, *, until_complete: bool = False) -> AsyncGenerator[Turn, None]:
        """Looks again whenever something happens, and at least every sweep interval, for ever. Servers that go away are
        waited for, and that is logged.

        Args:
            until_complete: ends when the project is complete, and is so still after a `whole` turn.

        Raises:
            LoomError: the project cannot be reached to begin with.
            ConfigError: the brain cannot ask anybody.
        """
        await self._loom.connect()
        every = self._loom.config.orchestration.sweep_seconds
        since, patience = None, Patience("Supervising", *_PAUSES)
        async with AsyncExitStack() as ending:  # the last is first, and each is done
            housekeeper = Housekeeper(self._loom)
            ending.push_async_callback(housekeeper.stop)
            housekeeper.start()
            if self._brain is not None:
                ending.push_async_callback(self._brain.stop)
                self._brain.start()
            ending.push_async_callback(self._flows.stop)
            while True:
                try:
                    await self._flows.begin()
                    if self._brain is not None:
                        self._brain.wake()
                    yield (turn := await self.turn())
                    if until_complete and turn.complete:
                        yield (turn := await self.turn(whole=True))  # with what workflows do after the last task
                        if turn.complete:
                            return
                    since = (await self._loom.wait("any", since=since, timeout=min(every, 60.0))).since
                except (DatabaseUnavailableError, ServersError) as error:
                    await asyncio.sleep(patience.after(error))
                else:
                    patience.renew()
                    await asyncio.sleep(min(0.2, every))  # what comes together is looked at together


def _at(run: WorkflowRun) -> tuple[str, str, int]:
    return run.id, run.status, run.position
