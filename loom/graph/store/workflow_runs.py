"""Runs of workflows: the state that outlives whoever carries one on.

A run is held under a lease. Every write of a step (`workflow_steps.py`) goes through `held`, which locks the run and
lets only the newest holder pass, in the transaction that also writes what the step does: so neither a late holder nor a
second one can do a step again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from loom.bus.events import EventType
from loom.bus.publisher import publish_workflow
from loom.exceptions import RunLostError, RunNotFoundError
from loom.graph.store.transaction import Transaction
from loom.wording import Words, call

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row


class WorkflowRunStatus(StrEnum):
    """How far a run of a workflow is."""

    RUNNING = "running"  # carried on under a lease, or free for whoever takes it
    WAITING = "waiting"  # for an answer, for tasks or for time
    DONE = "done"
    FAILED = "failed"  # can be carried on again
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """One run."""

    id: str
    workflow: str
    """The name of the workflow."""
    version: str
    """As its file had it when the run began."""
    definition: dict[str, Any]
    """What its file said then; the run keeps to it."""
    inputs: dict[str, Any]
    """With their defaults."""
    status: WorkflowRunStatus
    position: int
    """The step that it is at, from 0; one more than the last step's when all are done."""
    error: str | None
    """Why it has failed or was cancelled; None otherwise."""
    agent: str
    """Who started it."""
    holder: str | None
    """Who carries it on, or did last; None before anybody has."""
    process: str | None
    """The process of `holder`, as `identity.own` names it; None as `holder`, and where the machine cannot tell."""
    token: int
    """Grows each time that it is taken or cancelled: who has an older one has lost it."""
    lease_expires_at: datetime | None
    """Until when it is `holder`'s; None while it is nobody's."""
    created_at: datetime
    updated_at: datetime
    """When it last went on; renewals do not count."""
    finished_at: datetime | None
    """When it was done, failed or cancelled; None before, and again once it is carried on."""

    @classmethod
    def from_record(cls, record: Row) -> WorkflowRun:
        """Builds a run from its row."""
        values = {name: record[name] for name in cls.__slots__}
        return cls(
            **values
            | {name: json.loads(values[name]) for name in ("definition", "inputs")}
            | {"status": WorkflowRunStatus(values["status"])}
        )


@dataclass(frozen=True, slots=True)
class Going:
    """A run at a glance. `step`: the one that it is at, once that was begun; else empty."""

    id: str
    workflow: str
    status: WorkflowRunStatus
    step: str
    error: str | None
    updated_at: datetime


async def begin(
    tx: Transaction, *, workflow: str, version: str, definition: Mapping[str, Any], inputs: str, agent: str
) -> WorkflowRun:
    """Writes that a run begins, with nobody holding it. `inputs` is JSON text."""
    record = await tx.connection.fetchrow(
        """
        insert into workflow_runs (project_id, id, workflow, version, definition, inputs, status, agent)
        values ($1, $2, $3, $4, $5, $6, 'running', $7) returning *
        """,
        tx.project_id,
        f"wf-{secrets.token_hex(4)}",
        workflow,
        version,
        json.dumps(definition),
        inputs,
        agent,
    )
    assert record is not None
    run = WorkflowRun.from_record(record)
    tell(tx, EventType.WORKFLOW_STARTED, run, agent)
    return run


async def acquire(
    tx: Transaction, run: WorkflowRun, holder: str, process: str | None, lease_seconds: float
) -> WorkflowRun:
    """Takes a locked run that nobody holds, whatever its status, to carry it on."""
    record = await tx.connection.fetchrow(
        """
        update workflow_runs
           set status = 'running', error = null, finished_at = null, holder = $3, process = $4, token = token + 1,
               lease_expires_at = loom_now() + make_interval(secs => $5), updated_at = loom_now()
         where project_id = $1 and id = $2 returning *
        """,
        tx.project_id,
        run.id,
        holder,
        process,
        lease_seconds,
    )
    assert record is not None
    return WorkflowRun.from_record(record)


async def renew(tx: Transaction, run: WorkflowRun, lease_seconds: float) -> bool:
    """Makes a lease longer, where it was not given back. False if somebody else has taken the run."""
    await tx.connection.execute(
        """
        update workflow_runs set lease_expires_at = loom_now() + make_interval(secs => $4)
         where project_id = $1 and id = $2 and token = $3 and lease_expires_at is not null
        """,
        tx.project_id,
        run.id,
        run.token,
        lease_seconds,
    )
    return (await get(tx.connection, tx.project_id, run.id)).token == run.token


async def held(tx: Transaction, run: WorkflowRun) -> WorkflowRun:
    """Locks a run and returns it as it is now. Raises RunLostError if somebody else has taken it since."""
    now = await lock(tx, run.id)
    if now.token != run.token or now.status is not WorkflowRunStatus.RUNNING:
        raise lost(run.id)
    return now


async def lock(tx: Transaction, run_id: str) -> WorkflowRun:
    """Locks a run. Raises RunNotFoundError."""
    record = await tx.connection.fetchrow(
        "select * from workflow_runs where project_id = $1 and id = $2 for no key update", tx.project_id, run_id
    )
    if record is None:
        raise not_found(run_id)
    return WorkflowRun.from_record(record)


async def is_held(tx: Transaction, run: WorkflowRun) -> bool:
    """Whether the lease of a locked run still runs."""
    return bool(
        await tx.connection.fetchval("select coalesce($1::timestamptz > loom_now(), false)", run.lease_expires_at)
    )


async def move(
    tx: Transaction,
    run: WorkflowRun,
    *,
    status: WorkflowRunStatus,
    position: int | None = None,
    error: str | None = None,
    free: bool = False,
) -> WorkflowRun:
    """Writes where a locked run is now. It stays held while it is running, unless `free`."""
    record = await tx.connection.fetchrow(
        """
        update workflow_runs
           set status = $3, position = coalesce($4, position), error = $5, updated_at = loom_now(),
               lease_expires_at = case when $3 = 'running' and not $6 then lease_expires_at end,
               finished_at = case when $3 in ('done', 'failed', 'cancelled') then loom_now() end
         where project_id = $1 and id = $2 returning *
        """,
        tx.project_id,
        run.id,
        status,
        position,
        error,
        free,
    )
    assert record is not None
    return WorkflowRun.from_record(record)


async def complete(tx: Transaction, run: WorkflowRun, agent: str) -> WorkflowRun:
    """Writes that a locked run is done."""
    tell(tx, EventType.WORKFLOW_COMPLETED, run, agent)
    return await move(tx, run, status=WorkflowRunStatus.DONE)


async def get(connection: Connection, project_id: str, run_id: str) -> WorkflowRun:
    """One run. Raises RunNotFoundError."""
    record = await connection.fetchrow(
        "select * from workflow_runs where project_id = $1 and id = $2", project_id, run_id
    )
    if record is None:
        raise not_found(run_id)
    return WorkflowRun.from_record(record)


async def newest(connection: Connection, project_id: str, limit: int) -> list[WorkflowRun]:
    """The runs of a project, the newest first."""
    records = await connection.fetch(
        "select * from workflow_runs where project_id = $1 order by created_at desc, id limit $2", project_id, limit
    )
    return [WorkflowRun.from_record(record) for record in records]


async def unattended(connection: Connection, project_id: str, limit: int) -> list[WorkflowRun]:
    """The runs that go on only when somebody answers or mends something: those that wait for a yes or an answer, and
    those that have failed; the newest first."""
    records = await connection.fetch(
        """
        select r.* from workflow_runs r
          left join workflow_steps s on s.project_id = r.project_id and s.run_id = r.id and s.position = r.position
         where r.project_id = $1 and (r.status = 'failed' or r.status = 'waiting' and s.type <> 'wait')
         order by r.created_at desc, r.id limit $2
        """,
        project_id,
        limit,
    )
    return [WorkflowRun.from_record(record) for record in records]


async def going(connection: Connection, project_id: str, limit: int) -> list[Going]:
    """The runs that go on, or wait for something else than a yes, and of the newest those that have failed within a day
    otherwise than by a no; the newest first."""
    records = await connection.fetch(
        """
        select r.id, r.workflow, r.status, coalesce(s.step, '') as step, r.error, r.updated_at
          from (select id from workflow_runs where project_id = $1 and status in ('running', 'waiting')
                union all
                select id from (select id, status, updated_at from workflow_runs where project_id = $1
                                 order by created_at desc, id limit $3) newest
                 where status = 'failed' and updated_at > loom_now() - interval '1 day') n
          join workflow_runs r on r.project_id = $1 and r.id = n.id
          left join workflow_steps s on s.project_id = $1 and s.run_id = r.id and s.position = r.position
         where r.status = 'running' or s.type is distinct from 'confirm'
         order by r.created_at desc, r.id limit $2
        """,
        project_id,
        limit,
        _FAILED_AMONG,
    )
    return [Going(**dict(record) | {"status": WorkflowRunStatus(record["status"])}) for record in records]


_FAILED_AMONG = 200  # runs, the newest, that are looked at for failed ones


async def movable(connection: Connection, project_id: str, limit: int) -> list[str]:
    """The runs that nobody holds and that can go on without an answer from anybody: whose holder is gone, whose tasks
    are finished, whose pause or time is over. One that was just begun or answered is left to whoever did that."""
    records = await connection.fetch(_MOVABLE, project_id, limit, _GRACE)
    return [record["id"] for record in records]


_GRACE = 5.0  # seconds
_MOVABLE = """
select r.id from workflow_runs r
  left join workflow_steps s on s.project_id = r.project_id and s.run_id = r.id and s.position = r.position
 where r.project_id = $1 and r.status in ('running', 'waiting')
   and case when r.status = 'running'
            then coalesce(r.lease_expires_at, r.updated_at + make_interval(secs => $3)) <= loom_now()
            when s.deadline_at <= loom_now() then true
            when s.skill_run_id is not null
            then exists (select from skill_runs k
                          where k.project_id = r.project_id and k.id = s.skill_run_id and k.finished_at is not null)
            when s.type <> 'wait' then false
            when s.wake_at is not null then s.wake_at <= loom_now()
            else (select coalesce(bool_and(t.done_at is not null), true)
                         or s.inputs ->> 'dead' = 'fail'
                            and coalesce(bool_or(t.status = 'failed' and t.retry_at is null), false)
                    from jsonb_array_elements_text(s.inputs -> 'tasks') w(id)
                    left join tasks t on t.project_id = r.project_id and t.id = w.id)
       end
 order by r.created_at limit $2
"""


def not_found(run_id: str) -> RunNotFoundError:
    """The error for an id that no run of the project has."""
    advice = Words("See {} for its runs.", call("workflow", action="status"))
    return RunNotFoundError(f"This project has no run {run_id}.", advice)


def lost(run_id: str) -> RunLostError:
    """The error for who carried a run on that somebody else has taken."""
    return RunLostError(
        f"{run_id} was taken over or cancelled by somebody else.",
        Words("See {}.", call("workflow", action="status", run_id=run_id)),
    )


def tell(
    tx: Transaction, event: EventType, run: WorkflowRun, agent: str, data: Mapping[str, Any] | None = None
) -> None:
    """Notes an event of a run, and announces it to who follows workflows."""
    facts = {"run": run.id, "workflow": run.workflow, **(data or {})}
    tx.record_event(event, agent=agent, data=facts)
    tx.announce(publish_workflow(tx.project_id, {"type": event, **facts}))
