"""What the supervisor does for workflows: it carries on those that nobody carries on and that need nobody's answer.

Each is held under its own lease, so that any number of supervisors may do this, and people and agents beside them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.background import end
from loom.exceptions import ClaimConflictError, LoomError
from loom.workflows import runs

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.graph.store.workflow_runs import WorkflowRun

_AT_ONCE = 8
_REST = 60.0  # seconds after an error
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Carried:
    """How far a run was carried; `step`: where it is now, None at its end."""

    run: WorkflowRun
    step: str | None


class Flows:
    """Carries on the workflows of one project."""

    def __init__(self, loom: Loom) -> None:
        self._loom = loom
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by run
        self._news: list[Carried] = []
        self._told: set[tuple[str, str]] = set()
        self._rests: dict[str, float] = {}  # until when, by run

    async def begin(self) -> None:
        """Begins to carry on what can be, some at a time, beside whoever calls. Raises LoomError: the servers are
        away."""
        for run_id in await runs.movable(self._loom):
            resting = time.monotonic() < self._rests.get(run_id, 0)
            if run_id not in self._tasks and not resting and len(self._tasks) < _AT_ONCE:
                task = asyncio.create_task(self._carry(run_id), name=f"loom supervises {run_id}")
                self._tasks[run_id] = task
                task.add_done_callback(lambda _, run_id=run_id: self._tasks.pop(run_id))  # type: ignore[misc]

    async def work_off(self) -> None:
        """Carries on what can be, and returns when all of it has come as far as it can. Raises LoomError: the servers
        are away."""
        try:
            await self.begin()
            while self._tasks:
                await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
                await self.begin()
        finally:
            await self.stop()  # what still runs when this was broken off

    async def stop(self) -> None:
        """Lets go of all runs; each can be gone on with at once."""
        await end(list(self._tasks.values()))

    def news(self) -> tuple[Carried, ...]:
        """What was carried on since this was last called."""
        news, self._news = tuple(self._news), []
        return news

    async def _carry(self, run_id: str) -> None:
        try:
            run = await runs.advance(self._loom, run_id)
        except ClaimConflictError:
            return  # somebody else does
        except Exception as error:
            self._rests[run_id] = time.monotonic() + _REST
            self._tell(run_id, error)
        else:
            step = runs.step_at(run)
            self._news.append(Carried(run, None if step is None else step.id))

    def _tell(self, run_id: str, error: Exception) -> None:
        """Says each kind of error of a run once."""
        if (run_id, type(error).__name__) in self._told:
            return
        self._told.add((run_id, type(error).__name__))
        if isinstance(error, LoomError):
            _LOG.warning("%s has to wait: %s", run_id, error)
        else:
            _LOG.error("%s could not be carried on and is tried again", run_id, exc_info=error)
