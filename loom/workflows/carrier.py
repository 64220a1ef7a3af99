"""Carrying a run on, one step after the other, whatever happens to who does it.

A run is held under a lease. What changes the graph is written together with the record of its step, under the lock of
the run and only by its newest holder, so that it is done once. What a killed process was at, a skill or a command, is
begun again by the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from loom import texts
from loom.exceptions import (
    DatabaseUnavailableError,
    LoomError,
    RunLostError,
    RunNotFoundError,
    ServersError,
    WorkflowError,
)
from loom.graph import store
from loom.graph.model import limits
from loom.graph.store import workflow_runs
from loom.graph.store.skill_runs import SkillRun, SkillRunStatus
from loom.graph.store.transaction import Transaction
from loom.graph.store.workflow_runs import Remaining, StepRun, StepRunStatus, WorkflowRun, WorkflowRunStatus
from loom.skills import fields
from loom.wording import Shell, Words
from loom.workflows import actions, asking, loader, values
from loom.workflows.loader import FAIL, LONGEST, Step, StepType, Workflow

if TYPE_CHECKING:
    from loom.graph.front import Loom

LEASE = 30.0  # seconds; renewed three times as often
OUTPUT_BYTES = 1_000_000
_LOOK = (0.05, 60.0)  # seconds between two looks at what is waited for: at least, at most
_TOGETHER = 0.2  # seconds; what comes together is looked at together
_AWAY = 2.0  # seconds between two looks while the servers are away
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


class Carrier:
    """The newest holder of a run."""

    def __init__(
        self, loom: Loom, run: WorkflowRun, workflow: Workflow, agent: str, *, patient: bool, tell: Tell
    ) -> None:
        """
        Args:
            patient: sleeps through wait steps.
            tell: is called with what happens.
        """
        self._loom, self._run, self._workflow, self._agent = loom, run, workflow, agent
        self._patient, self._tell = patient, tell
        self._rows: dict[int, StepRun] = {}
        self._outputs: dict[str, Any] = {}

    async def go(self) -> WorkflowRun:
        """Does what is to be done until the run is done, has failed, or waits; an error of a step fails the run.

        Raises:
            RunLostError: somebody else has taken it.
            DatabaseUnavailableError, ServersError: it can be gone on with later.
        """
        rows = await self._loom.look(
            lambda connection: workflow_runs.steps(connection, self._loom.project_id, self._run.id)
        )
        self._rows = {row.position: row for row in rows}
        self._outputs = {row.step: row.output for row in rows if row.output is not None}
        while self._run.status is WorkflowRunStatus.RUNNING and self._run.position < len(self._workflow.steps):
            step = self._workflow.steps[self._run.position]
            try:
                await self._do(step)
            except (DatabaseUnavailableError, ServersError):
                raise
            except RunLostError:  # the run itself, or the skill's that its new holder has ended
                raise workflow_runs.lost(self._run.id) from None
            except LoomError as error:
                await self._fail(step, str(error))
            except TimeoutError:
                await self._fail(step, f"It took longer than its timeout, {step.timeout:g} seconds.")
            except Exception as error:
                await self._fail(step, f"It met an unexpected {type(error).__name__}; the log has the details.")
                _LOG.exception("The step %s of %s failed", step.id, self._run.id)  # in these hands, so it counts
        if self._run.status is WorkflowRunStatus.RUNNING:
            self._run = await self._held(lambda tx, run: workflow_runs.complete(tx, run, self._agent))
        return self._run

    async def keep(self) -> None:
        """Makes the lease longer, again and again; returns when somebody else has taken the run."""
        while True:
            await asyncio.sleep(LEASE / 3)
            try:
                if not await self._loom.transact(lambda tx: workflow_runs.renew(tx, self._run, LEASE)):
                    return
            except RunNotFoundError:
                return
            except Exception as error:  # what is at work goes on: should the lease run out, its record is refused
                _LOG.warning("The lease of %s could not be renewed: %s", self._run.id, error)

    async def let_go(self) -> None:
        """Gives the lease back if the run is in these hands still; where that fails, it runs out."""
        if self._run.status is WorkflowRunStatus.RUNNING:
            with suppress(LoomError):
                await self._loom.transact(self._free)

    async def _free(self, tx: Transaction) -> None:
        run = await workflow_runs.held(tx, self._run)  # wherever it is now
        await workflow_runs.move(tx, run, status=WorkflowRunStatus.RUNNING, free=True)

    # --- the types of steps -------------------------------------------------------------------------------------------

    async def _do(self, step: Step) -> None:
        match step.type:
            case StepType.CONDITION:
                await self._decide(step)
            case StepType.CONFIRM:
                await self._confirm(step)
            case StepType.WAIT:
                await self._wait(step)
            case _ if asking.is_asked(step):
                await self._ask(step)
            case _:
                await self._act(step)

    async def _decide(self, step: Step) -> None:
        """A condition: the run goes on elsewhere, and what lies between is passed by."""
        holds = bool(values.expression(step.facts["if"], self._scope, where=self._workflow.where(step, "if")))
        target = step.facts.get("then" if holds else "else")
        if target == FAIL:
            raise WorkflowError(str(self._value(step, "message")))
        here = self._run.position
        there = here + 1 if target is None else self._workflow.place_of(target)
        between = self._workflow.steps[here + 1 : there]

        async def write(tx: Transaction, run: WorkflowRun) -> WorkflowRun:
            await self._write_begun(tx, run, step, "{}")
            skipped = [(place, one.id, one.type) for place, one in enumerate(between, here + 1)]
            await workflow_runs.skip_steps(tx, run, skipped, self._agent)
            output = limits.json_object(result, "output")
            return await workflow_runs.complete_step(tx, run, step.id, self._agent, output=output, there=there)

        result = {"holds": holds}
        self._run = await self._held(write)
        self._outputs[step.id] = result
        self._tell(StepProgress(StepPhase.DONE, step.id, step.type, "yes" if holds else "no"))
        for one in between:
            self._tell(StepProgress(StepPhase.SKIPPED, one.id, one.type))

    async def _confirm(self, step: Step) -> None:
        """A question to a person: the run waits, until its time is over."""
        if (row := self._unfinished()) is None:
            shown = {"message": str(self._value(step, "message")), "show": self._value(step, "show") or {}}
            await self._begin(step, shown, timeout=step.timeout)
        else:
            await self._still_in_time(row)
        await self._pause(step, "for a yes")

    async def _wait(self, step: Step) -> None:
        """Tasks that are to be finished, or seconds that are to pass."""
        row = self._unfinished() or await self._begin_to_wait(step)
        since, told = None, False
        while True:
            try:
                if self._patient and since is None:  # what happens after the first look is not slept through
                    since = (await self._loom.wait("any", timeout=0)).since
                awaited = await self._look_at(row)
            except (DatabaseUnavailableError, ServersError):
                await asyncio.sleep(_AWAY)
                continue
            if not awaited.open if row.wake_at is None else row.wake_at <= awaited.now:
                await self._finish(step, {"finished": awaited.finished})
                return
            if awaited.dead and row.inputs.get("dead") == FAIL:
                raise WorkflowError(f"It waits for dead work: {', '.join(awaited.dead[:5])}.")
            if row.deadline_at is not None and row.deadline_at <= awaited.now:
                raise WorkflowError(f"It waited longer than its timeout, {step.timeout:g} seconds.")
            tasks = f"for {awaited.open:,} task{'s' * (awaited.open != 1)}"
            what = tasks if row.wake_at is None else "for its time"
            if not self._patient:
                await self._pause(step, what)
                return
            if not told:
                self._tell(StepProgress(StepPhase.WAITING, step.id, step.type, what))
                told = True
            ends = [end for end in (row.wake_at, row.deadline_at) if end is not None]
            shortest, longest = _LOOK
            span = min([longest, *((end - awaited.now).total_seconds() for end in ends)])
            with suppress(DatabaseUnavailableError, ServersError):  # the next look says so
                since = (await self._loom.wait("any", since=since, timeout=max(span, shortest))).since
            await asyncio.sleep(min(_TOGETHER, max(span, shortest)))

    async def _ask(self, step: Step) -> None:
        """A model's answer, or that of the calling agent, for which the run waits."""
        row = self._unfinished()
        inputs = self._inputs(step) if row is None else row.inputs
        question = asking.question(self._loom, step, inputs)
        run, opened = None, row is not None and row.status is StepRunStatus.WAITING
        if row is not None and row.skill_run_id is not None:
            before = await asking.begun_before(self._loom, row.skill_run_id)
            run = before if before.status is SkillRunStatus.DONE else None
            opened = before.status is SkillRunStatus.OPEN
        if run is None:
            provider = asking.provider_for(self._loom, question)
            if provider is None:
                if opened:
                    await self._still_in_time(row)
                else:
                    await self._begin(step, inputs, timeout=_given_timeout(step))
                    await question.open(self._note_skill_run)
                await self._pause(step, "for an answer")
                return
            await self._begin(step, inputs, f"asks {provider.name}")
            assert step.timeout is not None, "all of this type have one"
            async with asyncio.timeout(step.timeout):
                run = await question.ask(provider, self._note_skill_run, step.timeout)
        await self._finish(step, await question.result(run))

    async def _act(self, step: Step) -> None:
        """An action."""
        action, inputs = actions.ACTIONS[step.facts["action"]], self._inputs(step)
        if step.id in self._workflow.commands:
            self._allow_command(step)
        await self._begin(step, inputs)
        assert step.timeout is not None, "all of this type have one"
        async with asyncio.timeout(step.timeout):
            if action.look is not None:
                result: dict[str, Any] | actions.Work = await action.look(self._loom, inputs, step.timeout)
            else:
                assert action.change is not None, "it does one of the two"
                result = await action.change(self._loom, inputs, self._agent)
        await self._finish(step, result)

    def _allow_command(self, step: Step) -> None:
        """A run may have been begun elsewhere, by anybody who has the database; what runs a command must count here."""
        here = loader.load(self._loom.config).all.get(self._run.workflow)
        if here is None or here.definition != self._run.definition:
            raise WorkflowError(
                f"{step.id} would run a command, and the {self._run.workflow} that stands here is not the one that this"
                " run began with.",
                Words("Put its file there and run {}, or resume where it does.", Shell("loom config trust")),
            )

    # --- values -------------------------------------------------------------------------------------------------------

    @property
    def _scope(self) -> dict[str, Any]:
        """What expressions see."""
        return {"inputs": self._run.inputs, "steps": self._outputs}

    def _value(self, step: Step, key: str) -> Any:
        return values.evaluate(step.facts.get(key), self._scope, where=self._workflow.where(step, key))

    def _inputs(self, step: Step) -> dict[str, Any]:
        given = self._value(step, "inputs") or {}
        if step.type is StepType.SKILL:
            return dict(given)
        return fields.accept(actions.ACTIONS[step.facts["action"]].inputs, given, f"the step {step.id}")

    # --- what is read and written -------------------------------------------------------------------------------------

    def _unfinished(self) -> StepRun | None:
        """What is known of the step that the run is at, if it has begun and not ended."""
        row = self._rows.get(self._run.position)
        return row if row is not None and row.finished_at is None else None

    async def _look_at(self, row: StepRun) -> Remaining:
        tasks = row.inputs.get("tasks", [])
        return await self._loom.look(
            lambda connection: workflow_runs.remaining(connection, self._loom.project_id, tasks)
        )

    async def _held(self, work: Callable[[Transaction, WorkflowRun], Awaitable[Any]]) -> Any:
        """Does something with the run while it is locked and in these hands."""

        async def write(tx: Transaction) -> Any:
            run = await workflow_runs.held(tx, self._run)
            if run.position != self._run.position:  # an answer was lost on its way, and what was asked for is done
                raise workflow_runs.lost(run.id)
            return await work(tx, run)

        return await self._loom.transact(write)

    async def _begin_to_wait(self, step: Step) -> StepRun:
        if "seconds" in step.facts:
            span = limits.seconds(self._value(step, "seconds"), "seconds", 0, LONGEST)
            return await self._begin(step, {"seconds": span}, pause=span, timeout=_given_timeout(step))
        given = self._value(step, "tasks")
        tasks = [limits.task_id(one, "tasks") for one in (given if isinstance(given, list) else [given])]
        found = await self._loom.look(lambda connection: store.get_tasks(connection, self._loom.project_id, tasks))
        if missing := [one for one in tasks if one not in found]:
            raise WorkflowError(f"This project has no {', '.join(missing[:5])} to wait for.")
        inputs = {"tasks": tasks, "dead": step.facts.get("dead", "wait")}
        return await self._begin(step, inputs, timeout=step.timeout)

    async def _still_in_time(self, row: StepRun | None) -> None:
        if row is not None and await self._held(lambda tx, run: is_over(tx, row)):
            raise WorkflowError("Nobody answered in time.", "Resume it to ask again.")

    async def _begin(
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
        before = self._unfinished()
        text = limits.json_object(dict(inputs), "inputs", OUTPUT_BYTES)
        row: StepRun = await self._held(lambda tx, run: self._write_begun(tx, run, step, text, pause, timeout))
        self._rows[row.position] = row
        again = before is not None and before.status is StepRunStatus.RUNNING
        if again:
            note = ", ".join(one for one in (note, "it was interrupted before") if one)
        self._tell(StepProgress(StepPhase.AGAIN if again else StepPhase.BEGUN, step.id, step.type, note))
        return row

    async def _write_begun(
        self,
        tx: Transaction,
        run: WorkflowRun,
        step: Step,
        inputs: str,
        pause: float | None = None,
        timeout: float | None = None,
    ) -> StepRun:
        return await workflow_runs.begin_step(
            tx,
            run,
            step=step.id,
            type=step.type,
            inputs=inputs,
            agent=self._agent,
            timeout=timeout,
            pause=pause,
        )

    async def _note_skill_run(self, tx: Transaction, skill_run: SkillRun) -> None:
        await workflow_runs.note_skill_run(tx, await workflow_runs.held(tx, self._run), skill_run.id)

    async def _finish(self, step: Step, result: dict[str, Any] | actions.Work) -> None:
        """Writes what a step came to; a change to the graph is made in the same transaction."""
        output: dict[str, Any] = {}

        async def write(tx: Transaction, run: WorkflowRun) -> WorkflowRun:
            nonlocal output
            output = await result(tx) if callable(result) else result
            text, there = limits.json_object(output, "output", OUTPUT_BYTES), run.position + 1
            return await workflow_runs.complete_step(tx, run, step.id, self._agent, output=text, there=there)

        self._run = await self._held(write)
        self._outputs[step.id] = output
        self._tell(StepProgress(StepPhase.DONE, step.id, step.type))

    async def _pause(self, step: Step, why: str) -> None:
        self._run = await self._held(lambda tx, run: workflow_runs.pause(tx, run, step.id, self._agent, why))
        self._tell(StepProgress(StepPhase.WAITING, step.id, step.type, why))

    async def _fail(self, step: Step, why: str) -> None:
        why = texts.shorten(texts.clean(why), 8000)

        async def write(tx: Transaction, run: WorkflowRun) -> WorkflowRun:
            if self._unfinished() is None:  # it failed before it could begin
                await self._write_begun(tx, run, step, "{}")
            return await workflow_runs.fail(tx, run, step.id, self._agent, why)

        self._run = await self._held(write)
        self._tell(StepProgress(StepPhase.FAILED, step.id, step.type, why))


def _given_timeout(step: Step) -> float | None:
    """Seconds that the workflow itself gives a step, where the default for its type says nothing."""
    return step.timeout if "timeout" in step.facts else None


async def is_over(tx: Transaction, row: StepRun) -> bool:
    """Whether the time of a step is over."""
    return row.deadline_at is not None and row.deadline_at <= await store.now(tx)
