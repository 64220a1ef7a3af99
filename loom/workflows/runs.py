"""Workflows at work: begun, carried on, answered, looked at.

    run = await runs.start(loom, library.get("ship_feature"), {"goal": "..."})
    run = await runs.advance(loom, run.id)                  # as far as it goes now
    await runs.confirm(loom, run.id, yes=True)              # if it waits for that
    run = await runs.advance(loom, run.id)

All state is in the database, written before and after each step, so that anybody can carry a run on, from anywhere;
`carrier.py` and `record.py` say how.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from loom import texts
from loom.background import end, through
from loom.exceptions import ClaimConflictError, InvalidInputError, LoomError, WorkflowStateError
from loom.graph.model import limits
from loom.graph.store import workflow_runs, workflow_steps
from loom.graph.store.transaction import Transaction
from loom.graph.store.workflow_runs import WorkflowRun, WorkflowRunStatus
from loom.graph.store.workflow_steps import StepRun, StepRunStatus
from loom.process import identity
from loom.skills import fields
from loom.skills import loader as skills
from loom.wording import Argument, Shell, Words, call
from loom.workflows import actions, asking, loader
from loom.workflows.carrier import Carrier
from loom.workflows.loader import Workflow
from loom.workflows.record import LEASE, OUTPUT_BYTES, Record, Tell, is_over
from loom.workflows.steps import Step, StepType

if TYPE_CHECKING:
    from loom.db.connection import Connection
    from loom.graph.front import Loom

_RUN_ID = re.compile(r"wf-[0-9a-f]{8}")
_MOVED_AT_ONCE = 100


async def start(loom: Loom, workflow: Workflow, inputs: Mapping[str, Any]) -> WorkflowRun:
    """Begins a run, which nobody carries on yet.

    Raises:
        InvalidInputError: an input is missing, unknown or of the wrong type.
        WorkflowError: a step asks for a skill that is not there.
    """
    loader.check_skills(workflow, skills.load(loom.config))
    text = limits.json_object(workflow.accept(inputs), "inputs", fields.INPUTS_BYTES)
    agent = loom.caller()
    return await loom.transact(
        lambda tx: workflow_runs.begin(
            tx,
            workflow=workflow.name,
            version=workflow.version,
            definition=workflow.definition,
            inputs=text,
            agent=agent,
        )
    )


async def advance(
    loom: Loom,
    run_id: str,
    *,
    patient: bool = False,
    from_step: str | None = None,
    tell: Tell = lambda progress: None,
) -> WorkflowRun:
    """Carries a run on until it is done, has failed, or waits. A failed one begins again with the step that failed.

    Args:
        patient: sleeps through its wait steps, however long they take.
        from_step: goes back to this step first; refused where that would do again what has changed the graph.
        tell: is called with what happens to its steps.

    Raises:
        RunNotFoundError, WorkflowStateError: it is done.
        ClaimConflictError: somebody else carries it on.
        DatabaseUnavailableError: the database went away; the run can be carried on later.
    """
    run_id, agent = known(run_id), loom.caller()
    run, workflow = await loom.transact(lambda tx: _take(tx, run_id, agent, from_step))
    record = Record(loom, run, agent, tell)
    carrier = Carrier(loom, workflow, agent, record, patient=patient)
    going = asyncio.create_task(carrier.go(), name=f"loom {run_id}")
    keeping = asyncio.create_task(record.keep(), name=f"loom {run_id} lease")
    try:
        await asyncio.wait({going, keeping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = going.done()
        await through(asyncio.create_task(_let_go(record, going, keeping)))
    if ended:
        return going.result()
    raise workflow_runs.lost(run_id)


async def _let_go(record: Record, *tasks: asyncio.Task[Any]) -> None:
    await end(tasks)
    await record.let_go()


async def confirm(
    loom: Loom,
    run_id: str,
    *,
    yes: bool,
    question: str | None = None,
    note: str = "",
    by_agent: bool = False,
) -> WorkflowRun:
    """Answers the confirm step that a run waits at. After a yes it can be carried on; after a no it has failed.

    Args:
        question: the one that was shown, as `StepRun.question` names it; None: whichever it waits with.
        by_agent: an agent answers, and not a person, which the step has to allow.

    Raises:
        RunNotFoundError, WorkflowStateError: it does not wait for that, or agents may not answer, or time is over.
    """
    run_id, agent = known(run_id), loom.caller()
    said = limits.reason(note, "note") if note.strip() else ""

    async def write(tx: Transaction) -> WorkflowRun:
        run = await workflow_runs.lock(tx, run_id)
        step = step_at(run)
        if run.status is not WorkflowRunStatus.WAITING or step is None or step.type is not StepType.CONFIRM:
            raise WorkflowStateError(f"{run.id} waits for no yes or no; {_standing(run)}.", _see(run))
        if by_agent and not step.facts.get("agents"):
            raise WorkflowStateError(
                f"The step {step.id} of {run.workflow} is answered by a person.",
                Words("Have your user run {}.", answered_by_a_person(run.id)),
            )
        row = _row(run, await workflow_steps.of_run(tx.connection, tx.project_id, run.id))
        if question not in (None, row.question):
            shown = (question or "").partition(" ")[0]
            since = "asked anew" if shown == step.id else "answered by somebody else"
            raise WorkflowStateError(f"{shown} was {since}; {_standing(run)} now.", _see(run))
        await _in_time(tx, run, row)
        if not yes:
            return await workflow_steps.fail(tx, run, step.id, agent, f"{agent} said no{f': {said}' if said else '.'}")
        output = limits.json_object({"yes": True, "by": agent, "note": said}, "output")
        there = run.position + 1
        return await workflow_steps.complete(tx, run, step.id, agent, output=output, there=there, free=True)

    return await loom.transact(write)


async def answer(loom: Loom, run_id: str, given: Mapping[str, Any]) -> WorkflowRun:
    """Answers, as its prompt asked for, the step that a run waits at because there is no provider.

    Raises:
        AnswerError, PlanError: the answer is wrong; it can be given again.
        RunNotFoundError, WorkflowStateError: it does not wait for that.
    """
    run, rows = await look(loom, run_id)
    step = step_at(run)
    if run.status is not WorkflowRunStatus.WAITING or step is None or not asking.is_asked(step):
        raise WorkflowStateError(f"{run.id} waits for no answer; {_standing(run)}.", _see(run))
    row, agent = _row(run, rows), loom.caller()
    if row.deadline_at is not None:
        await loom.transact(lambda tx: _in_time(tx, run, row))
    output = await asking.question(loom, step, row.inputs).take(given, row.skill_run_id)
    text = limits.json_object(output, "output", OUTPUT_BYTES)

    async def write(tx: Transaction) -> WorkflowRun:
        now = await workflow_runs.lock(tx, run.id)
        if now.status is not WorkflowRunStatus.WAITING:
            return now  # somebody else has answered
        rows = await workflow_steps.of_run(tx.connection, tx.project_id, run.id)
        if _row(now, rows).question != row.question:
            return now  # somebody else has answered, or has it asked anew
        there = row.position + 1
        return await workflow_steps.complete(tx, now, step.id, agent, output=text, there=there, free=True)

    return await loom.transact(write)


async def cancel(loom: Loom, run_id: str, *, note: str = "") -> WorkflowRun:
    """Ends a run for good, whoever carries it on; what it has made so far stays.

    Raises:
        RunNotFoundError, WorkflowStateError: it is done, or cancelled.
    """
    run_id, agent = known(run_id), loom.caller()
    said = limits.reason(note, "note") if note.strip() else ""

    async def write(tx: Transaction) -> WorkflowRun:
        run = await workflow_runs.lock(tx, run_id)
        if run.status in (WorkflowRunStatus.DONE, WorkflowRunStatus.CANCELLED):
            raise WorkflowStateError(f"{run.id} is {run.status} already.", _see(run))
        return await workflow_steps.cancel(tx, run, agent, f"{agent} cancelled it{f': {said}' if said else '.'}")

    return await loom.transact(write)


async def look(loom: Loom, run_id: str) -> tuple[WorkflowRun, list[StepRun]]:
    """A run, and its steps as far as it has come. Raises RunNotFoundError."""
    run_id = known(run_id)

    async def both(connection: Connection) -> tuple[WorkflowRun, list[StepRun]]:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            run = await workflow_runs.get(connection, loom.project_id, run_id)
            return run, await workflow_steps.of_run(connection, loom.project_id, run_id)

    return await loom.look(both)


async def newest(loom: Loom, limit: int = 50) -> list[WorkflowRun]:
    """The runs of the project, the newest first."""
    return await loom.look(lambda connection: workflow_runs.newest(connection, loom.project_id, limits.page(limit)))


async def unattended(loom: Loom, limit: int = 50) -> list[WorkflowRun]:
    """The runs that go on only when somebody answers, or mends what failed; the newest first."""
    return await loom.look(lambda connection: workflow_runs.unattended(connection, loom.project_id, limit))


async def movable(loom: Loom) -> list[str]:
    """The ids of runs that nobody carries on and that would not wait for anybody's answer: their holder is gone, or
    what they waited for is there."""
    return await loom.look(lambda connection: workflow_runs.movable(connection, loom.project_id, _MOVED_AT_ONCE))


async def waits_for(loom: Loom, run: WorkflowRun, rows: list[StepRun]) -> dict[str, Any]:
    """What a run that waits waits for: `waits_for` is confirm, answer, tasks or time, and the rest says more, such as
    `until` when."""
    step = step_at(run)
    if run.status is not WorkflowRunStatus.WAITING or step is None:
        return {}
    row = _row(run, rows)
    until = {} if row.deadline_at is None else {"until": row.deadline_at.isoformat(timespec="seconds")}
    if step.type is StepType.CONFIRM:
        return {"waits_for": "confirm", "agents": bool(step.facts.get("agents")), **row.inputs, **until}
    if asking.is_asked(step):
        try:
            return {"waits_for": "answer", **until, **await asking.question(loom, step, row.inputs).prompt()}
        except LoomError as error:  # such as a skill that is gone; whoever only looks is told all the rest
            return {"waits_for": "answer", "trouble": str(error)}
    if row.wake_at is not None:
        return {"waits_for": "time", "until": row.wake_at.isoformat(timespec="seconds")}
    tasks = await loom.look(
        lambda connection: workflow_steps.remaining(connection, loom.project_id, row.inputs["tasks"])
    )
    return {"waits_for": "tasks", "finished": tasks.finished, "open": tasks.open, "dead": list(tasks.dead[:20])}


def answered_by_a_person(run_id: str) -> Words:
    """The commands that answer a yes or no; no tool does it, since an agent is not to say yes for its user."""
    return Words(
        "{}, or {}", Shell(f"loom workflow resume {run_id} --yes"), Shell(f"loom workflow resume {run_id} --no")
    )


def step_at(run: WorkflowRun) -> Step | None:
    """The step that a run is at; None behind the last."""
    workflow = workflow_of(run)
    return workflow.steps[run.position] if run.position < len(workflow.steps) else None


def workflow_of(run: WorkflowRun) -> Workflow:
    """The workflow as it was when the run began."""
    return loader.read(run.definition, f"{run.workflow} of {run.id}", "built-in")  # it was checked then


def known(run_id: object) -> str:
    """The id of a run. Raises InvalidInputError for anything else."""
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        raise InvalidInputError(
            Words("{} {} is not the id of a workflow's run.", Argument("run_id"), texts.quote(str(run_id))),
            "Pass it as it was given.",
        )
    return run_id


async def _take(tx: Transaction, run_id: str, agent: str, from_step: str | None) -> tuple[WorkflowRun, Workflow]:
    """Takes a run that nobody holds, if this Loom understands its workflow."""
    run = await workflow_runs.lock(tx, run_id)
    workflow = workflow_of(run)
    if await workflow_runs.is_held(tx, run) and not identity.is_gone(run.process):
        assert run.lease_expires_at is not None, "it is held"
        raise ClaimConflictError(
            f"{run.id} is carried on by {run.holder}, whose lease ends at"
            f" {run.lease_expires_at.isoformat(timespec='seconds')} unless it is renewed.",
            Words("See {}, or try again then.", call("workflow", action="status", run_id=run.id)),
        )
    if run.status is WorkflowRunStatus.CANCELLED:
        raise WorkflowStateError(f"{run.id} is cancelled.", "Start the workflow again for another run.")
    if from_step is not None:
        await _go_back(tx, run, workflow, from_step)
    elif run.status is WorkflowRunStatus.DONE:
        raise WorkflowStateError(f"{run.id} is done.", "Start the workflow again for another run.")
    return await workflow_runs.acquire(tx, run, agent, identity.own(), LEASE), workflow


async def _go_back(tx: Transaction, run: WorkflowRun, workflow: Workflow, step_id: str) -> None:
    there = workflow.place_of(step_id)
    if there >= len(workflow.steps) or there > run.position:
        raise WorkflowStateError(f"{run.id} has not come to {step_id} yet.", "Go on where it is.")
    for row in await workflow_steps.of_run(tx.connection, tx.project_id, run.id):
        action = workflow.steps[row.position].facts.get("action")
        if row.position >= there and row.status is StepRunStatus.DONE and action and actions.ACTIONS[action].change:
            raise WorkflowStateError(
                f"{row.step} has changed the graph already and is not done twice.",
                f"Go back to a step after it, or start {run.workflow} again.",
            )
    await workflow_steps.forget(tx, run, there)
    await workflow_runs.move(tx, run, status=WorkflowRunStatus.RUNNING, position=there, free=True)


def _row(run: WorkflowRun, rows: Iterable[StepRun]) -> StepRun:
    """What is known of the step that a run waits at."""
    return next(row for row in rows if row.position == run.position)


async def _in_time(tx: Transaction, run: WorkflowRun, row: StepRun) -> None:
    if await is_over(tx, row):
        raise WorkflowStateError(
            f"The time to answer {row.step} is over.",
            Words("A person has it asked again with {}.", Shell(f"loom workflow resume {run.id} --step {row.step}")),
        )


def _standing(run: WorkflowRun) -> str:
    step = None if run.status is WorkflowRunStatus.DONE else step_at(run)
    return f"it is {run.status}" if step is None else f"it is {run.status} at {step.id}"


def _see(run: WorkflowRun) -> Words:
    return Words("See {}.", call("workflow", action="status", run_id=run.id))
