"""Carrying a run on, one step after the other, whatever happens to who does it.

What a killed process was at, a skill or a command, is begun again by the next; what changes the graph is done once
(`record.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from loom.exceptions import DatabaseUnavailableError, LoomError, RunLostError, ServersError, WorkflowError
from loom.graph import store
from loom.graph.model import limits
from loom.graph.store import workflow_runs, workflow_steps
from loom.graph.store.skill_runs import SkillRun, SkillRunStatus
from loom.graph.store.workflow_runs import WorkflowRun, WorkflowRunStatus
from loom.graph.store.workflow_steps import Remaining, StepRun, StepRunStatus
from loom.skills import fields
from loom.wording import Shell, Words
from loom.workflows import actions, asking, loader, values
from loom.workflows.loader import Workflow
from loom.workflows.record import Record
from loom.workflows.steps import FAIL, LONGEST, Step, StepType

if TYPE_CHECKING:
    from loom.graph.front import Loom

T = TypeVar("T")

_LOOK = (0.05, 60.0)  # seconds between two looks at what is waited for: at least, at most
_TOGETHER = 0.2  # seconds; what comes together is looked at together
_AWAY = 2.0  # seconds between two looks while the servers are away
_LOG = logging.getLogger(__name__)


class Carrier:
    """Does the steps of one run."""

    def __init__(self, loom: Loom, workflow: Workflow, agent: str, record: Record, *, patient: bool) -> None:
        """
        Args:
            patient: sleeps through wait steps.
        """
        self._loom, self._workflow, self._agent, self._record, self._patient = loom, workflow, agent, record, patient

    async def go(self) -> WorkflowRun:
        """Does what is to be done until the run is done, has failed, or waits; an error of a step fails the run.

        Raises:
            RunLostError: somebody else has taken it.
            DatabaseUnavailableError, ServersError: it can be gone on with later.
        """
        record = self._record
        await record.read()
        while record.run.status is WorkflowRunStatus.RUNNING and record.run.position < len(self._workflow.steps):
            step = self._workflow.steps[record.run.position]
            try:
                await self._do(step)
            except (DatabaseUnavailableError, ServersError):
                raise
            except RunLostError:  # the run itself, or the skill's that its new holder has ended
                raise workflow_runs.lost(record.run.id) from None
            except LoomError as error:
                await record.fail(step, str(error))
            except TimeoutError:
                await record.fail(step, f"It took longer than its timeout, {step.timeout:g} seconds.")
            except Exception as error:
                await record.fail(step, f"It met an unexpected {type(error).__name__}; the log has the details.")
                _LOG.exception("The step %s of %s failed", step.id, record.run.id)  # in these hands, so it counts
        if record.run.status is WorkflowRunStatus.RUNNING:
            await record.complete()
        return record.run

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
        behind = self._record.run.position + 1
        there = behind if target is None else self._workflow.place_of(target)
        await self._record.branch(step, holds=holds, passed=self._workflow.steps[behind:there])

    async def _confirm(self, step: Step) -> None:
        """A question to a person: the run waits, until its time is over."""
        if (row := self._record.unfinished()) is None:
            shown = {"message": str(self._value(step, "message")), "show": self._value(step, "show") or {}}
            await self._record.begin(step, shown, timeout=step.timeout)
        else:
            await self._record.must_be_in_time(row)
        await self._record.pause(step, "for a yes")

    async def _wait(self, step: Step) -> None:
        """Tasks that are to be finished, or seconds that are to pass."""
        row = self._record.unfinished() or await self._begin_to_wait(step)
        told = False
        since = await _until_answered(self._position) if self._patient else None  # before the first look
        while not _is_there(row, remaining := await _until_answered(lambda: self._look_at(row))):
            _must_not_give_up(step, row, remaining)
            if not self._patient:
                await self._record.pause(step, _waited_for(row, remaining))
                return
            if not told:
                self._record.tell_waiting(step, _waited_for(row, remaining))
                told = True
            since = await self._next_event(since, _span(row, remaining))
        await self._record.finish(step, {"finished": remaining.finished})

    async def _ask(self, step: Step) -> None:
        """A model's answer, or that of the calling agent, for which the run waits."""
        row = self._record.unfinished()
        inputs = self._inputs(step) if row is None else row.inputs
        question = asking.question(self._loom, step, inputs)
        before = await self._begun_before(row)
        if before is not None and before.status is SkillRunStatus.DONE:
            await self._record.finish(step, await question.result(before))
            return
        provider = asking.provider_for(self._loom, question)
        if provider is not None:
            await self._record.begin(step, inputs, f"asks {provider.name}")
            async with asyncio.timeout(step.timeout):
                run = await question.ask(provider, self._record.note_skill_run, _seconds(step))
            await self._record.finish(step, await question.result(run))
            return
        if _is_open(row, before):
            await self._record.must_be_in_time(row)
        else:
            await self._record.begin(step, inputs, timeout=_given_timeout(step))
            await question.open(self._record.note_skill_run)
        await self._record.pause(step, "for an answer")

    async def _act(self, step: Step) -> None:
        """An action."""
        action, inputs = actions.ACTIONS[step.facts["action"]], self._inputs(step)
        if step.id in self._workflow.commands:
            self._allow_command(step)
        await self._record.begin(step, inputs)
        async with asyncio.timeout(_seconds(step)):
            if action.look is not None:
                result: dict[str, Any] | actions.Work = await action.look(self._loom, inputs, _seconds(step))
            else:
                assert action.change is not None, "it does one of the two"
                result = await action.change(self._loom, inputs, self._agent)
        await self._record.finish(step, result)

    def _allow_command(self, step: Step) -> None:
        """A run may have been begun elsewhere, by anybody who has the database; what runs a command must count here."""
        run = self._record.run
        here = loader.load(self._loom.config).all.get(run.workflow)
        if here is None or here.definition != run.definition:
            raise WorkflowError(
                f"{step.id} would run a command, and the {run.workflow} that stands here is not the one that this run"
                " began with.",
                Words("Put its file there and run {}, or resume where it does.", Shell("loom config trust")),
            )

    # --- values -------------------------------------------------------------------------------------------------------

    @property
    def _scope(self) -> dict[str, Any]:
        """What expressions see."""
        return {"inputs": self._record.run.inputs, "steps": self._record.outputs}

    def _value(self, step: Step, key: str) -> Any:
        return values.evaluate(step.facts.get(key), self._scope, where=self._workflow.where(step, key))

    def _inputs(self, step: Step) -> dict[str, Any]:
        given = self._value(step, "inputs") or {}
        if step.type is StepType.SKILL:
            return dict(given)
        return fields.accept(actions.ACTIONS[step.facts["action"]].inputs, given, f"the step {step.id}")

    # --- asking and waiting -------------------------------------------------------------------------------------------

    async def _begun_before(self, row: StepRun | None) -> SkillRun | None:
        """The run of a skill that an earlier attempt of a step has begun."""
        if row is None or row.skill_run_id is None:
            return None
        return await asking.begun_before(self._loom, row.skill_run_id)

    async def _begin_to_wait(self, step: Step) -> StepRun:
        if "seconds" in step.facts:
            span = limits.seconds(self._value(step, "seconds"), "seconds", 0, LONGEST)
            return await self._record.begin(step, {"seconds": span}, pause=span, timeout=_given_timeout(step))
        given = self._value(step, "tasks")
        tasks = [limits.task_id(one, "tasks") for one in (given if isinstance(given, list) else [given])]
        found = await self._loom.look(lambda connection: store.get_tasks(connection, self._loom.project_id, tasks))
        if missing := [one for one in tasks if one not in found]:
            raise WorkflowError(f"This project has no {', '.join(missing[:5])} to wait for.")
        inputs = {"tasks": tasks, "dead": step.facts.get("dead", "wait")}
        return await self._record.begin(step, inputs, timeout=step.timeout)

    async def _position(self) -> str:
        """Where the events are now."""
        return (await self._loom.wait("any", timeout=0)).since

    async def _look_at(self, row: StepRun) -> Remaining:
        project_id, tasks = self._loom.project_id, row.inputs.get("tasks", [])
        return await self._loom.look(lambda connection: workflow_steps.remaining(connection, project_id, tasks))

    async def _next_event(self, since: str | None, span: float) -> str | None:
        """Sleeps until something happens, for so many seconds at most; returns where the events are then."""
        with suppress(DatabaseUnavailableError, ServersError):  # the next look says so
            since = (await self._loom.wait("any", since=since, timeout=span)).since
        await asyncio.sleep(min(_TOGETHER, span))
        return since


async def _until_answered(ask: Callable[[], Awaitable[T]]) -> T:
    """An answer of the servers, as soon as they are there."""
    while True:
        try:
            return await ask()
        except (DatabaseUnavailableError, ServersError):
            await asyncio.sleep(_AWAY)


def _is_there(row: StepRun, remaining: Remaining) -> bool:
    """Whether what a step waits for has come."""
    return not remaining.open if row.wake_at is None else row.wake_at <= remaining.now


def _must_not_give_up(step: Step, row: StepRun, remaining: Remaining) -> None:
    """Raises WorkflowError for a wait that has lost its sense, or its time."""
    if remaining.dead and row.inputs.get("dead") == FAIL:
        raise WorkflowError(f"It waits for dead work: {', '.join(remaining.dead[:5])}.")
    if row.deadline_at is not None and row.deadline_at <= remaining.now:
        raise WorkflowError(f"It waited longer than its timeout, {step.timeout:g} seconds.")


def _waited_for(row: StepRun, remaining: Remaining) -> str:
    tasks = f"for {remaining.open:,} task{'s' * (remaining.open != 1)}"
    return tasks if row.wake_at is None else "for its time"


def _span(row: StepRun, remaining: Remaining) -> float:
    """Seconds until the next look at the latest."""
    shortest, longest = _LOOK
    ends = [end for end in (row.wake_at, row.deadline_at) if end is not None]
    return max(min([longest, *((end - remaining.now).total_seconds() for end in ends)]), shortest)


def _is_open(row: StepRun | None, before: SkillRun | None) -> bool:
    """Whether the calling agent was asked already and may still answer."""
    if before is not None:
        return before.status is SkillRunStatus.OPEN
    return row is not None and row.status is StepRunStatus.WAITING


def _seconds(step: Step) -> float:
    """The timeout of a step of a type that always has one."""
    assert step.timeout is not None, "all of this type have one"
    return step.timeout


def _given_timeout(step: Step) -> float | None:
    """Seconds that the workflow itself gives a step, where the default for its type says nothing."""
    return step.timeout if "timeout" in step.facts else None
