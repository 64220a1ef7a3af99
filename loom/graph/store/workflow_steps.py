"""Steps of workflows: what each came to, and what that does to its run.

A step is written under the lock of its run, in the transaction that also writes what the step does. Its run goes on,
waits or ends with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from loom import texts
from loom.bus.events import EventType
from loom.graph.store.transaction import Transaction
from loom.graph.store.workflow_runs import WorkflowRun, WorkflowRunStatus, move, tell

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row


class StepRunStatus(StrEnum):
    """How far a step of a run is."""

    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"  # passed by, after a condition


@dataclass(frozen=True, slots=True)
class StepRun:
    """What one step of a run came to."""

    position: int
    """Its place in the workflow, from 0."""
    step: str
    """Its id in the workflow."""
    type: str
    """As the workflow names it."""
    status: StepRunStatus
    attempt: int
    """How often it was begun, from 1."""
    inputs: dict[str, Any]
    """What it was begun with, its expressions evaluated; empty where it has none, or failed over them."""
    output: dict[str, Any] | None
    """What later steps can use; None until it is done."""
    error: str | None
    """Why it has failed; None otherwise."""
    skill_run_id: str | None
    """The run of a skill that answers it, or the plan; None for other steps, and before somebody is asked."""
    agent: str
    """Who began it, or ended it."""
    started_at: datetime
    """When the newest attempt began; one that was interrupted counts on."""
    wake_at: datetime | None
    """When its pause is over; None unless it waits for time."""
    deadline_at: datetime | None
    """Until when it waits; None for as long as it takes."""
    finished_at: datetime | None
    """When it was done, failed or skipped; None before."""

    @classmethod
    def from_record(cls, record: Row) -> StepRun:
        """Builds a step from its row."""
        values = {name: record[name] for name in cls.__slots__}
        output = values["output"]
        return cls(
            **values
            | {"inputs": json.loads(values["inputs"]), "output": None if output is None else json.loads(output)}
            | {"status": StepRunStatus(values["status"])}
        )

    @property
    def question(self) -> str:
        """What names the question that it asks where it waits for a yes: another one once somebody has gone back and
        the same step asks again."""
        return f"{self.step} {self.started_at.isoformat()}"


@dataclass(frozen=True, slots=True)
class Remaining:
    """How far the tasks are that a step waits for, as of `now`; the dead ones are among the open."""

    finished: int
    open: int
    dead: tuple[str, ...]
    now: datetime


async def begin(
    tx: Transaction,
    run: WorkflowRun,
    *,
    step: str,
    type: str,
    inputs: str,
    agent: str,
    timeout: float | None = None,
    pause: float | None = None,
) -> StepRun:
    """Writes that the step that a locked run is at begins, or begins again; then the deadline and the pause stay
    that were noted for an attempt which was interrupted.

    Args:
        inputs: JSON text.
        timeout: seconds from now to its deadline.
        pause: seconds from now for which it waits.
    """
    record = await tx.connection.fetchrow(
        """
        insert into workflow_steps
               (project_id, run_id, position, step, type, status, inputs, agent, deadline_at, wake_at)
        values ($1, $2, $3, $4, $5, 'running', $6, $7,
                loom_now() + make_interval(secs => $8), loom_now() + make_interval(secs => $9))
        on conflict (project_id, run_id, position) do update
           set status = 'running', attempt = workflow_steps.attempt + 1, inputs = excluded.inputs, output = null,
               error = null, agent = excluded.agent, finished_at = null,
               started_at = case when workflow_steps.finished_at is null then workflow_steps.started_at
                                 else excluded.started_at end,
               deadline_at = case when workflow_steps.finished_at is null then workflow_steps.deadline_at
                                  else excluded.deadline_at end,
               wake_at = case when workflow_steps.finished_at is null then workflow_steps.wake_at
                              else excluded.wake_at end,
               skill_run_id = null
        returning *
        """,
        tx.project_id,
        run.id,
        run.position,
        step,
        type,
        inputs,
        agent,
        timeout,
        pause,
    )
    assert record is not None
    return StepRun.from_record(record)


async def note_skill_run(tx: Transaction, run: WorkflowRun, skill_run_id: str) -> None:
    """Notes which run of a skill answers the step that a locked run is at."""
    await tx.connection.execute(
        "update workflow_steps set skill_run_id = $4 where project_id = $1 and run_id = $2 and position = $3",
        tx.project_id,
        run.id,
        run.position,
        skill_run_id,
    )


async def pause(tx: Transaction, run: WorkflowRun, step: str, type: str, agent: str, reason: str) -> WorkflowRun:
    """Writes that the step that a locked run is at, of this type, waits, and the run with it, held by nobody."""
    await _mark(tx, run, StepRunStatus.WAITING, agent)
    tell(tx, EventType.WORKFLOW_WAITING, run, agent, {"step": step, "step_type": type, "waits": reason})
    return await move(tx, run, status=WorkflowRunStatus.WAITING)


async def complete(
    tx: Transaction, run: WorkflowRun, step: str, agent: str, *, output: str, there: int, free: bool = False
) -> WorkflowRun:
    """Writes that the step that a locked run is at is done, with its output (JSON text), and that the run goes on
    `there`; it stays held unless `free`."""
    await _mark(tx, run, StepRunStatus.DONE, agent, output=output)
    tell(tx, EventType.WORKFLOW_STEP_COMPLETED, run, agent, {"step": step})
    return await move(tx, run, status=WorkflowRunStatus.RUNNING, position=there, free=free)


async def fail(tx: Transaction, run: WorkflowRun, step: str, agent: str, why: str) -> WorkflowRun:
    """Writes that the step that a locked run is at has failed, and the run with it."""
    await _mark(tx, run, StepRunStatus.FAILED, agent, error=why)
    tell(tx, EventType.WORKFLOW_FAILED, run, agent, {"step": step, "error": texts.shorten(why, 1000)})
    return await move(tx, run, status=WorkflowRunStatus.FAILED, error=f"{step}: {why}")


async def cancel(tx: Transaction, run: WorkflowRun, agent: str, why: str) -> WorkflowRun:
    """Writes that a locked run is cancelled, and with it the step that it is at; whoever carries it on has lost it."""
    await tx.connection.execute(
        "update workflow_runs set token = token + 1 where project_id = $1 and id = $2", tx.project_id, run.id
    )
    if run.status is not WorkflowRunStatus.FAILED:  # else its step has said why
        await _mark(tx, run, StepRunStatus.FAILED, agent, error=why)
    tell(tx, EventType.WORKFLOW_CANCELLED, run, agent, {"error": why})
    return await move(tx, run, status=WorkflowRunStatus.CANCELLED, error=why)


async def skip(tx: Transaction, run: WorkflowRun, skipped: Sequence[tuple[int, str, str]], agent: str) -> None:
    """Writes that steps, each with its position, name and type, are passed by."""
    await tx.connection.executemany(
        """
        insert into workflow_steps (project_id, run_id, position, step, type, status, agent, finished_at)
        values ($1, $2, $3, $4, $5, 'skipped', $6, loom_now())
        """,
        [(tx.project_id, run.id, *one, agent) for one in skipped],
    )


async def forget(tx: Transaction, run: WorkflowRun, position: int) -> None:
    """Takes back what the steps from a position on came to, so that they are done again."""
    await tx.connection.execute(
        "delete from workflow_steps where project_id = $1 and run_id = $2 and position >= $3",
        tx.project_id,
        run.id,
        position,
    )


async def of_run(connection: Connection, project_id: str, run_id: str) -> list[StepRun]:
    """The steps of a run that have begun or were passed by, in their order."""
    records = await connection.fetch(
        "select * from workflow_steps where project_id = $1 and run_id = $2 order by position", project_id, run_id
    )
    return [StepRun.from_record(record) for record in records]


async def current(connection: Connection, project_id: str, run_ids: Sequence[str]) -> dict[str, StepRun]:
    """The step that each of some runs is at, by the run's id, where it was begun."""
    records = await connection.fetch(
        """
        select s.* from workflow_runs r
          join workflow_steps s on s.project_id = r.project_id and s.run_id = r.id and s.position = r.position
         where r.project_id = $1 and r.id = any($2::text[])
        """,
        project_id,
        run_ids,
    )
    return {record["run_id"]: StepRun.from_record(record) for record in records}


async def remaining(connection: Connection, project_id: str, task_ids: Sequence[str]) -> Remaining:
    """How far some tasks are; one that the project does not have is open for ever."""
    record = await connection.fetchrow(
        """
        select count(*) filter (where t.done_at is not null) as finished,
               count(*) filter (where t.done_at is null) as open,
               array_agg(w.id order by w.id) filter (where t.status = 'failed' and t.retry_at is null) as dead,
               loom_now() as now
          from unnest($2::text[]) w(id) left join tasks t on t.project_id = $1 and t.id = w.id
        """,
        project_id,
        list(dict.fromkeys(task_ids)),
    )
    assert record is not None
    return Remaining(record["finished"], record["open"], tuple(record["dead"] or ()), record["now"])


async def _mark(
    tx: Transaction,
    run: WorkflowRun,
    status: StepRunStatus,
    agent: str,
    *,
    output: str | None = None,
    error: str | None = None,
) -> None:
    await tx.connection.execute(
        """
        update workflow_steps
           set status = $4, agent = $5, output = $6, error = $7,
               finished_at = case when $4 in ('done', 'failed') then loom_now() end
         where project_id = $1 and run_id = $2 and position = $3
        """,
        tx.project_id,
        run.id,
        run.position,
        status,
        agent,
        output,
        error,
    )
