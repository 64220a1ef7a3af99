"""Rows of what lands: the claims whose work has to be on a branch before it is done, and the queue of those that wait
to be merged.

A row of `landings` is changed only under the lock of its task's row, so that a claim and its place in the queue end
together. What git says is not known here: a target, a branch and a commit are names.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from loom.graph.model.task import Task
from loom.graph.store import landing_intents
from loom.graph.store.tasks import COLUMNS
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row


class LandingState(StrEnum):
    """How far the work of a claim is."""

    BEGUN = "begun"  # its worker is at it
    REPORTED = "reported"  # done by what its worker says; to be committed and proven
    QUEUED = "queued"  # proven, and waits to be merged; the claim is the queue's
    LANDED = "landed"
    SENT_BACK = "sent_back"  # to its worker, who goes on under the same claim
    DROPPED = "dropped"  # the claim ended otherwise


@dataclass(frozen=True, slots=True)
class Landing:
    """The work of one claim on its way to a target."""

    id: int
    task_id: str
    token: int
    """Of the claim."""
    agent: str
    target: str
    """The branch that it is to be on."""
    branch: str
    """The branch that it is on."""
    state: LandingState
    base: str | None
    """Where the branch left the target; None before it is queued."""
    commit_id: str | None
    """The tip that was proven; None before it is queued."""
    output: dict[str, Any] | None
    """What the report said; None before it."""
    usage: dict[str, Any] | None
    outside: tuple[str, ...]
    """Paths that were changed and are not among the task's files."""
    reason: str | None
    """Why it was sent back last, in a sentence."""
    note: str | None
    """What its worker is told with that, such as the end of a check's output."""
    dropped_for: str | None
    """Why its claim ended otherwise."""
    times_sent: int
    """How often it was sent back."""
    needs_yes: bool
    """Whether a person has to approve it."""
    approved_by: str | None
    approved_at: datetime | None
    begun_at: datetime
    reported_at: datetime | None
    queued_at: datetime | None
    sent_back_at: datetime | None
    ended_at: datetime | None
    """When it landed or was dropped."""
    landed_commit: str | None
    """The commit that brought it onto the target."""

    deadline_left: float | None
    """Seconds that its claim may still live when it leaves the queue."""

    @property
    def waits_for_yes(self) -> bool:
        """Whether it stands in the queue and nobody has approved it."""
        return self.state is LandingState.QUEUED and self.needs_yes and self.approved_at is None

    @classmethod
    def from_record(cls, record: Row) -> Landing:
        """Builds a landing from its row."""
        values = {name: record[name] for name in cls.__slots__}
        parsed = {name: None if values[name] is None else json.loads(values[name]) for name in ("output", "usage")}
        return cls(**values | parsed | {"state": LandingState(values["state"]), "outside": tuple(values["outside"])})


# --- one claim's work -------------------------------------------------------------------------------------------------


async def begin(tx: Transaction, task: Task, agent: str, *, target: str, branch: str) -> Landing:
    """Notes that the claim which a locked task has lands; where it does already, that its worker is at it again."""
    await tx.connection.execute(
        "update tasks set landing_token = claim_token"
        " where project_id = $1 and id = $2 and landing_token <> claim_token",
        tx.project_id,
        task.id,
    )
    record = await tx.connection.fetchrow(
        """
        insert into landings as l (project_id, task_id, token, agent, target, branch) values ($1, $2, $3, $4, $5, $6)
        on conflict (project_id, task_id, token) do update
           set state = 'begun', agent = $4, target = $5, branch = $6
        returning *
        """,
        tx.project_id,
        task.id,
        task.claim_token,
        agent,
        target,
        branch,
    )
    assert record is not None
    return Landing.from_record(record)


async def report(tx: Transaction, landing_id: int, output: str) -> Landing:
    """Keeps what a report said, `output` as JSON text."""
    return await _set(
        tx,
        landing_id,
        "state = 'reported', output = $3::jsonb, reported_at = loom_now(), dropped_for = null, ended_at = null",
        output,
    )


async def enter(
    tx: Transaction,
    landing_id: int,
    *,
    commit_id: str,
    base: str,
    output: str | None,
    usage: str | None,
    outside: Sequence[str],
    needs_yes: bool,
    deadline_left: float | None,
) -> Landing:
    """Puts it into the queue. `output` and `usage` are JSON text; None keeps what there is. `deadline_left`: seconds
    that the claim may still live when it comes back; None keeps what is known."""
    return await _set(
        tx,
        landing_id,
        "state = 'queued', commit_id = $3, base = $4, output = coalesce($5::jsonb, output, '{}'),"
        " usage = coalesce($6::jsonb, usage), outside = $7::text[], needs_yes = $8, approved_by = null,"
        " approved_at = null, deadline_left = coalesce($9::float8, deadline_left), queued_at = loom_now(),"
        " dropped_for = null, ended_at = null",
        commit_id,
        base,
        output,
        usage,
        list(outside),
        needs_yes,
        deadline_left,
    )


async def approve(tx: Transaction, landing_id: int, by: str) -> Landing:
    """Notes who has said yes."""
    return await _set(tx, landing_id, "approved_by = $3, approved_at = loom_now()", by)


async def send_back(tx: Transaction, landing_id: int, reason: str, note: str | None) -> Landing:
    """Notes that it goes back to its worker, and why."""
    return await _set(
        tx,
        landing_id,
        "state = 'sent_back', reason = $3, note = $4, times_sent = times_sent + 1, sent_back_at = loom_now()",
        reason,
        note,
    )


async def land(tx: Transaction, landing_id: int, commit_id: str, target: str) -> Landing:
    """Notes that it has landed, and where; nothing of it is open any more."""
    await landing_intents.close(tx, landing_id)
    return await _set(
        tx,
        landing_id,
        "state = 'landed', landed_commit = $3, target = $4, ended_at = loom_now(), output = null",
        commit_id,
        target,
    )


async def drop(tx: Transaction, task_ids: Collection[str], reason: str) -> None:
    """Ends whatever of these locked tasks was on its way."""
    await tx.connection.execute(
        """
        update landings set state = 'dropped', dropped_for = $3, ended_at = loom_now()
         where project_id = $1 and task_id = any($2::text[])
           and state in ('begun', 'reported', 'queued', 'sent_back')
        """,
        tx.project_id,
        list(task_ids),
        reason,
    )


async def turn(tx: Transaction, task_ids: Collection[str], target: str) -> None:
    """Has what is on its way, of these locked tasks, go to another target."""
    await tx.connection.execute(
        "update landings set target = $3 where project_id = $1 and task_id = any($2::text[])"
        " and state in ('begun', 'reported', 'queued', 'sent_back')",
        tx.project_id,
        list(task_ids),
        target,
    )


async def _set(tx: Transaction, landing_id: int, assignments: str, *values: Any) -> Landing:
    record = await tx.connection.fetchrow(
        f"update landings set {assignments} where project_id = $1 and id = $2 returning *",
        tx.project_id,
        landing_id,
        *values,
    )
    assert record is not None, "a landing is looked up before it is changed"
    return Landing.from_record(record)


# --- the claim, as the queue holds it and gives it back ---------------------------------------------------------------


async def hold(tx: Transaction, task: Task) -> Task:
    """Gives the claim of a locked task to the queue: it ends neither by its lease nor by its deadline."""
    return await _hold(tx, task, "lease_expires_at = 'infinity', deadline_at = null")


async def let_go(tx: Transaction, task: Task, deadline_left: float | None = None) -> Task:
    """Gives a locked task back to whoever has its claim, with a lease anew, which ends as any other. `deadline_left`:
    seconds that the claim may still live, a lease at least; None leaves its deadline, but for that lease."""
    return await _hold(
        tx,
        task,
        "lease_expires_at = loom_now() + make_interval(secs => lease_seconds),"
        " deadline_at = greatest(loom_now() + make_interval(secs => lease_seconds),"
        " coalesce(loom_now() + make_interval(secs => $3::float8), deadline_at))",
        deadline_left,
    )


async def _hold(tx: Transaction, task: Task, assignments: str, *values: Any) -> Task:
    record = await tx.connection.fetchrow(
        f"""
        update tasks t
           set status = 'claimed', attempt = greatest(attempt, 1), lapsed = false, retry_at = null, dead_reason = null,
               {assignments}, version = version + 1, updated_at = loom_now()
         where project_id = $1 and id = $2
        returning {COLUMNS}
        """,
        tx.project_id,
        task.id,
        *values,
    )
    assert record is not None, "only a locked task is held"
    return Task.from_record(record)


# --- reading ----------------------------------------------------------------------------------------------------------


async def get(connection: Connection, project_id: str, landing_ids: Collection[int]) -> dict[int, Landing]:
    """Those of these landings that exist."""
    records = await connection.fetch(
        "select * from landings where project_id = $1 and id = any($2::bigint[])", project_id, list(landing_ids)
    )
    return {record["id"]: Landing.from_record(record) for record in records}


async def of_claim(connection: Connection, project_id: str, task_id: str, token: int) -> Landing | None:
    """What a claim's work came to; None if it does not land."""
    record = await connection.fetchrow(
        "select * from landings where project_id = $1 and task_id = $2 and token = $3", project_id, task_id, token
    )
    return None if record is None else Landing.from_record(record)


async def of_task(connection: Connection, project_id: str, task_id: str) -> Landing | None:
    """What the newest claim of a task that lands came to."""
    record = await connection.fetchrow(
        "select * from landings where project_id = $1 and task_id = $2 order by token desc limit 1", project_id, task_id
    )
    return None if record is None else Landing.from_record(record)


async def waiting(connection: Connection, project_id: str, target: str, limit: int = 16) -> list[Landing]:
    """What waits to be merged into a target and needs nobody's yes, oldest first. What is about to be merged into
    another target is not among it."""
    records = await connection.fetch(
        """
        select * from landings l
         where project_id = $1 and state = 'queued' and target = $2 and (not needs_yes or approved_at is not null)
           and not exists(select from landing_intents i where i.project_id = $1 and i.landing_id = l.id
                             and i.closed_at is null and i.target <> $2)
         order by queued_at, id limit $3
        """,
        project_id,
        target,
        limit,
    )
    return [Landing.from_record(record) for record in records]


async def under_way(connection: Connection, project_id: str) -> list[str]:
    """Ids of the tasks whose work is on its way to a target, in their order."""
    records = await connection.fetch(
        "select distinct task_id from landings"
        " where project_id = $1 and state in ('begun', 'reported', 'queued', 'sent_back') order by task_id",
        project_id,
    )
    return [record["task_id"] for record in records]


async def times_sent_back(connection: Connection, project_id: str, task_id: str) -> int:
    """How many claims of a task ended otherwise after their work was sent back."""
    found: int = await connection.fetchval(
        "select count(*) from landings where project_id = $1 and task_id = $2 and state = 'dropped' and times_sent > 0",
        project_id,
        task_id,
    )
    return found
