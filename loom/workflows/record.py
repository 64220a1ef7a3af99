"""The record of a run in the hands of whoever carries it on: what its steps came to, read once and written under its
lease.

Every write locks the run and lets only its newest holder pass, at the step that this one is at; a change to the graph
is made in the same transaction as the record of its step.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from loom import texts
from loom.exceptions import LoomError, RunNotFoundError, WorkflowError
from loom.graph import store
from loom.graph.model import limits
from loom.graph.store import workflow_runs, workflow_steps
from loom.graph.store.skill_runs import SkillRun
from loom.graph.store.transaction import Transaction
from loom.graph.store.workflow_runs import WorkflowRun, WorkflowRunStatus
from loom.graph.store.workflow_steps import StepRun, StepRunStatus
from loom.workflows import actions
from loom.workflows.steps import Step, StepType

if TYPE_CHECKING:
    from loom.graph.front import Loom

LEASE = 30.0  # seconds; renewed three times as often
OUTPUT_BYTES = 1_000_000
_LOG = logging.getLogger(__name__)


class StepPhase(StrEnum):
    """What just became of a step."""

    BEGUN = "begun"
    AGAIN = "again"  # begun again, after it was interrupted
    DONE = "done"
    SKIPPED = "skipped"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StepProgress:
    """How far a step is; `note`: what more there is to say."""

    phase: StepPhase
    step: str
    type: StepType
    note: str = ""


Tell = Callable[[StepProgress], None]


class Record:
    """The record of one run, of which this process is the newest holder."""

    def __init__(self, loom: Loom, run: WorkflowRun, agent: str, tell: Tell) -> None:
        """
        Args:
            tell: is called with what happens to its steps.
        """
        self.run = run
        self.outputs: dict[str, Any] = {}
        self._loom, self._agent, self._tell = loom, agent, tell
        self._rows: dict[int, StepRun] = {}

    async def read(self) -> None:
        """Reads what the steps have come to so far."""
        rows = await self._loom.look(
            lambda connection: workflow_steps.of_run(connection, self._loom.project_id, self.run.id)
        )
        self._rows = {row.position: row for row in rows}
        self.outputs = {row.step: row.output for row in rows if row.output is not None}

    def unfinished(self) -> StepRun | None:
        """What is known of the step that the run is at, if it has begun and not ended."""
        row = self._rows.get(self.run.position)
        return row if row is not None and row.finished_at is None else None

    # --- the lease ----------------------------------------------------------------------------------------------------

    async def held(self, work: Callable[[Transaction, WorkflowRun], Awaitable[Any]]) -> Any:
        """Does something with the run while it is locked and in these hands. Raises RunLostError."""

        async def write(tx: Transaction) -> Any:
            run = await workflow_runs.held(tx, self.run)
            if run.position != self.run.position:  # an answer was lost on its way, and what was asked for is done
                raise workflow_runs.lost(run.id)
            return await work(tx, run)

        return await self._loom.transact(write)

    async def keep(self) -> None:
        """Makes the lease longer, again and again; returns when somebody else has taken the run."""
        while True:
            await asyncio.sleep(LEASE / 3)
            try:
                if not await self._loom.transact(lambda tx: workflow_runs.renew(tx, self.run, LEASE)):
                    return
            except RunNotFoundError:
                return
            except Exception as error:  # what is at work goes on: should the lease run out, its record is refused
                _LOG.warning("The lease of %s could not be renewed: %s", self.run.id, error)

    async def let_go(self) -> None:
        """Gives the lease back if the run is in these hands still; where that fails, it runs out."""
        if self.run.status is WorkflowRunStatus.RUNNING:
            with suppress(LoomError):
                await self._loom.transact(self._free)

    async def _free(self, tx: Transaction) -> None:
        run = await workflow_runs.held(tx, self.run)  # wherever it is now
        await workflow_runs.move(tx, run, status=WorkflowRunStatus.RUNNING, free=True)

    # --- what becomes of steps ----------------------------------------------------------------------------------------

    async def begin(
        self,
        step: Step,
        inputs: Mapping[str, Any],
        note: str = "",
        *,
        pause: float | None = None,
        timeout: float | None = None,
    ) -> StepRun:
        """Writes that a step begins. `pause` and `timeout`: seconds that it waits, and within which it must have ended;
        what is done at once is timed by who does it."""
        before = self.unfinished()
        text = limits.json_object(dict(inputs), "inputs", OUTPUT_BYTES)
        row: StepRun = await self.held(lambda tx, run: self._write_begun(tx, run, step, text, pause, timeout))
        self._rows[row.position] = row
        again = before is not None and before.status is StepRunStatus.RUNNING
        if again:
            note = ", ".join(one for one in (note, "it was interrupted before") if one)
        self._tell(StepProgress(StepPhase.AGAIN if again else StepPhase.BEGUN, step.id, step.type, note))
        return row

    async def finish(self, step: Step, result: dict[str, Any] | actions.Work) -> None:
        """Writes what a step came to; a change to the graph is made in the same transaction."""
        output: dict[str, Any] = {}

        async def write(tx: Transaction, run: WorkflowRun) -> WorkflowRun:
            nonlocal output
            output = await result(tx) if callable(result) else result
            text, there = limits.json_object(output, "output", OUTPUT_BYTES), run.position + 1
            return await workflow_steps.complete(tx, run, step.id, self._agent, output=text, there=there)

        self.run = await self.held(write)
        self.outputs[step.id] = output
        self._tell(StepProgress(StepPhase.DONE, step.id, step.type))

    async def branch(self, step: Step, *, holds: bool, passed: Sequence[Step]) -> None:
        """Writes what a condition came to, and that the steps behind it that it passes by are skipped."""
        here, result = self.run.position, {"holds": holds}

        async def write(tx: Transaction, run: WorkflowRun) -> WorkflowRun:
            await self._write_begun(tx, run, step, "{}")
            skipped = [(place, one.id, one.type) for place, one in enumerate(passed, here + 1)]
            await workflow_steps.skip(tx, run, skipped, self._agent)
            output, there = limits.json_object(result, "output"), here + 1 + len(passed)
            return await workflow_steps.complete(tx, run, step.id, self._agent, output=output, there=there)

        self.run = await self.held(write)
        self.outputs[step.id] = result
        self._tell(StepProgress(StepPhase.DONE, step.id, step.type, "yes" if holds else "no"))
        for one in passed:
            self._tell(StepProgress(StepPhase.SKIPPED, one.id, one.type))

    async def pause(self, step: Step, why: str) -> None:
        """Writes that a step waits, and the run with it, in nobody's hands."""
        self.run = await self.held(lambda tx, run: workflow_steps.pause(tx, run, step.id, step.type, self._agent, why))
        self.tell_waiting(step, why)

    def tell_waiting(self, step: Step, why: str) -> None:
        """Tells that a step waits, whether the run pauses over that or not."""
        self._tell(StepProgress(StepPhase.WAITING, step.id, step.type, why))

    async def fail(self, step: Step, why: str) -> None:
        """Writes that a step has failed, and the run with it."""
        why = texts.shorten(texts.clean(why), 8000)

        async def write(tx: Transaction, run: WorkflowRun) -> WorkflowRun:
            if self.unfinished() is None:  # it failed before it could begin
                await self._write_begun(tx, run, step, "{}")
            return await workflow_steps.fail(tx, run, step.id, self._agent, why)

        self.run = await self.held(write)
        self._tell(StepProgress(StepPhase.FAILED, step.id, step.type, why))

    async def complete(self) -> None:
        """Writes that the run is done."""
        self.run = await self.held(lambda tx, run: workflow_runs.complete(tx, run, self._agent))

    async def note_skill_run(self, tx: Transaction, skill_run: SkillRun) -> None:
        """Writes which run of a skill answers the step that the run is at."""
        await workflow_steps.note_skill_run(tx, await workflow_runs.held(tx, self.run), skill_run.id)

    async def must_be_in_time(self, row: StepRun | None) -> None:
        """Raises WorkflowError once the time to answer a step is over."""
        if row is not None and await self.held(lambda tx, run: is_over(tx, row)):
            raise WorkflowError("Nobody answered in time.", "Resume it to ask again.")

    async def _write_begun(
        self,
        tx: Transaction,
        run: WorkflowRun,
        step: Step,
        inputs: str,
        pause: float | None = None,
        timeout: float | None = None,
    ) -> StepRun:
        return await workflow_steps.begin(
            tx,
            run,
            step=step.id,
            type=step.type,
            inputs=inputs,
            agent=self._agent,
            timeout=timeout,
            pause=pause,
        )


async def is_over(tx: Transaction, row: StepRun) -> bool:
    """Whether the time of a step is over."""
    return row.deadline_at is not None and row.deadline_at <= await store.now(tx)
