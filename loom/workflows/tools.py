"""What both faces say about workflows: one call, and brief replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from loom import replies
from loom.exceptions import InvalidInputError, PlanError, WorkflowError, WorkflowStateError
from loom.graph.store.workflow_runs import WorkflowRun, WorkflowRunStatus
from loom.graph.store.workflow_steps import StepRun, StepRunStatus
from loom.process import identity
from loom.replies import Reply
from loom.skills import loader as skills
from loom.skills.fields import brief
from loom.skills.library import Library
from loom.skills.loader import Skill
from loom.wording import Argument, Shell, Words, call
from loom.workflows import loader, runs
from loom.workflows.loader import Workflow
from loom.workflows.steps import StepType

if TYPE_CHECKING:
    from loom.graph.front import Loom


async def workflow(
    loom: Loom,
    action: str,
    name: str | None = None,
    run_id: str | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Reply:
    """Lists workflows, starts one, goes on with a run, or tells where runs stand, on behalf of an agent. It goes as far
    as it can without waiting. Raises LoomError."""
    await loom.permit(f"workflow.{action}")
    if action == "list":
        return listed(loader.load(loom.config), skills.load(loom.config))
    if action == "status":
        return listed_runs(await runs.newest(loom)) if run_id is None else await shown(loom, run_id, whole=True)
    if action == "start":
        if name is None:
            raise InvalidInputError(
                "There is no name of a workflow to start.",
                Words("Pass {}; see {}.", Argument("name"), call("workflow", action="list")),
            )
        begun = await runs.start(loom, loader.load(loom.config).get(name), inputs or {})
        run_id = begun.id
    elif run_id is None:
        raise InvalidInputError(
            Words("There is no {} to resume.", Argument("run_id")),
            Words("Pass {}; see {}.", Argument("run_id"), call("workflow", action="status")),
        )
    elif inputs:
        try:
            if (await _answer(loom, run_id, inputs)).status is WorkflowRunStatus.FAILED:  # by a no
                return await shown(loom, run_id)
        except PlanError as error:
            return {
                "run_id": run_id,
                "status": "sent_back",
                "problems": list(error.problems),
                "next": Words(
                    "Correct all of these in the plan, and answer again with {}.",
                    call("workflow", action="resume", run_id=run_id, inputs=...),
                ),
            }
    await runs.advance(loom, run_id)
    return await shown(loom, run_id)


async def _answer(loom: Loom, run_id: str, given: Mapping[str, Any]) -> WorkflowRun:
    """Gives a run what it waits for: `{"yes": true or false, "note"?}`, or what its prompt asked for. Raises
    LoomError."""
    run, rows = await runs.look(loom, run_id)
    match await runs.waits_for(loom, run, rows):
        case {"waits_for": "confirm"}:
            yes, note = given.get("yes"), given.get("note", "")
            if not isinstance(yes, bool) or not isinstance(note, str):
                raise InvalidInputError(
                    f"{run.id} waits for a yes or no.",
                    Words(
                        "Answer with {}, or with false and a note that says why.",
                        call("workflow", action="resume", run_id=run.id, inputs={"yes": True}),
                    ),
                )
            question = rows[-1].question  # it waits at the last that has begun
            return await runs.confirm(loom, run.id, yes=yes, question=question, note=note, by_agent=True)
        case {"waits_for": "answer"}:
            return await runs.answer(loom, run.id, given)
    raise WorkflowStateError(
        f"{run.id} waits for no answer; it is {run.status}.",
        Words("Go on with {}.", call("workflow", action="resume", run_id=run.id)),
    )


def listed(found: Library[Workflow], known: Library[Skill]) -> Reply:
    """The workflows, and what was left out or cannot start."""
    rows = [
        replies.full(
            name=one.name,
            description=one.description,
            inputs=brief(one.inputs),
            steps=[step.id for step in one.steps],
            source=None if one.source == "built-in" else one.source,
        )
        for one in found.all.values()
    ]
    return replies.full(workflows=rows, count=len(rows), notes=loader.notes(found, known))


def listed_runs(found: Sequence[WorkflowRun]) -> Reply:
    """Runs, the newest first, as a list that has it last."""
    if not found:
        return {"runs": [], "count": 0, "note": "No workflow was started yet."}
    rows = [
        replies.full(
            run_id=one.id,
            workflow=one.workflow,
            status=str(one.status),
            step=_step(one),
            held_by=_holder(one),
            age=replies.age(one.created_at),
        )
        for one in reversed(found)
    ]
    return {"runs": rows, "count": len(rows)}


async def shown(loom: Loom, run_id: str, *, whole: bool = False) -> Reply:
    """Where a run stands and what it waits for; with `whole` also what its steps came to."""
    run, rows = await runs.look(loom, run_id)
    waits = await runs.waits_for(loom, run, rows)
    return replies.full(
        run_id=run.id,
        status=str(run.status),
        workflow=run.workflow,
        step=_step(run),
        held_by=_holder(run),
        error=run.error,
        **{name: value for name, value in waits.items() if name != "agents"},
        next=_next(run, waits),
        inputs=run.inputs if whole else None,
        steps=_steps(run, rows, whole=whole),
        output=_outcome(rows) if run.status is WorkflowRunStatus.DONE else None,
    )


def _steps(run: WorkflowRun, rows: Sequence[StepRun], *, whole: bool) -> list[Reply]:
    begun = {row.step: row for row in rows}
    steps = []
    for step in runs.workflow_of(run).steps:
        row = begun.get(step.id)
        facts = replies.full(
            id=step.id,
            type=str(step.type),
            status="pending" if row is None else str(row.status),
            attempts=row.attempt if row is not None and row.attempt > 1 else None,
            seconds=_seconds(row),
        )
        if whole and row is not None:
            facts |= replies.full(by=row.agent, skill_run_id=row.skill_run_id, error=row.error, output=row.output)
        steps.append(facts)
    return steps


def _outcome(rows: Sequence[StepRun]) -> Mapping[str, Any] | None:
    """What the last step came to that did something."""
    done = [
        row.output for row in rows if row.status is StepRunStatus.DONE and row.type in (StepType.SKILL, StepType.ACTION)
    ]
    return done[-1] if done else None


def _seconds(row: StepRun | None) -> float | None:
    if row is None or row.finished_at is None:
        return None
    return round((row.finished_at - row.started_at).total_seconds(), 1) or None


def _holder(run: WorkflowRun) -> str | None:
    return None if run.lease_expires_at is None or identity.is_gone(run.process) else run.holder


def _step(run: WorkflowRun) -> str | None:
    with suppress(WorkflowError):  # a definition that another Loom understood
        step = runs.step_at(run)
        return None if step is None else step.id
    return None


def _next(run: WorkflowRun, waits: Mapping[str, Any]) -> Words | None:
    again = call("workflow", action="resume", run_id=run.id)
    keeper = Shell("loom orchestrate")
    match waits:
        case {"trouble": _}:
            return Words("Mend that, and go on with {}.", again)
        case {"waits_for": "confirm", "agents": True}:
            yes = call("workflow", action="resume", run_id=run.id, inputs={"yes": True})
            return Words("Decide, and answer with {}, or with false and a note.", yes)
        case {"waits_for": "confirm"}:
            person = runs.answered_by_a_person(run.id)
            return Words("A person who has seen this answers with {}; that goes on with it, too.", person)
        case {"waits_for": "answer"}:
            answer = call("workflow", action="resume", run_id=run.id, inputs=...)
            return Words("Do what the prompt says, and answer with {}, an object that fits expects.", answer)
        case {"waits_for": "tasks"}:
            return Words("When the tasks are done, go on with {}, unless {} does; all may claim them.", again, keeper)
        case {"waits_for": "time"}:
            return Words("When that time has come, go on with {}, unless {} does.", again, keeper)
    if run.status is WorkflowRunStatus.RUNNING and _holder(run) is None:
        return Words("Nobody carries it on; go on with {}.", again)
    if run.status is WorkflowRunStatus.FAILED:
        return Words("Mend what failed, and go on with {}: it begins again with that step.", again)
    return None
