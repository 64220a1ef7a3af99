"""A claim's statements: made, renewed, finished, each a single round trip."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from loom.bus.events import Position
from loom.graph.model.notes import Note, noted, read_note
from loom.graph.model.task import Priority, Task, TaskStatus
from loom.graph.store.events import record_events
from loom.graph.store.messages import NOTES_TOLD
from loom.graph.store.tasks import COLUMNS, update_task_status
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim just made."""

    task: Task
    """As it is claimed: its `claim_token` is what reports name, its `lease_expires_at` the end unless it is renewed."""
    inputs: tuple[dict[str, Any], ...]
    """What its direct dependencies left, at most 50 of them: `id`, `title`, `status`, `output` (JSON text, cut at 8,001
    characters; None where there is none), and `children`, the titles below a dependency that is an epic."""
    notes: tuple[Note, ...] = ()
    """The newest notes on the task, newest last."""
    alone: bool = False
    """Whether nothing followed if it were done now: no epic has it, and nothing waits for it."""


BEST_READY = """(select id from tasks where project_id = $1 and status = 'pending'
                   order by priority, ready_at, id desc limit 1 for no key update skip locked)"""

_INPUTS = """(select coalesce(json_agg(json_build_object(
                   'id', d.id, 'title', d.title, 'status', d.status, 'output', left(d.output::text, 8001),
                   'children', array(select k.title from tasks k
                                      where k.project_id = $1 and k.parent_id = d.id order by k.id limit 20))
                   order by d.id), '[]')
          from (select e.depends_on from task_deps e where e.project_id = $1 and e.task_id = {task}
                 order by e.depends_on limit 50) e
          join tasks d on d.project_id = $1 and d.id = e.depends_on)"""

# One round trip: the row, its event, and what the worker needs. The outer status is checked again because the row may
# have changed between the sub-select and the update.
_CLAIM = f"""
with claimed as (
    update tasks t
       set status = 'claimed', assignee = $2, claim_token = greatest(claim_token, loom_token_floor()) + 1,
           attempt = attempt + 1, lapsed = false,
           lease_seconds = $3, claimed_at = loom_now(), deadline_at = loom_now() + make_interval(secs => $4),
           lease_expires_at = loom_now() + make_interval(secs => least($3, $4)),
           version = version + 1, updated_at = loom_now()
     where project_id = $1 and status = 'pending' and id = any(array(%s))
    returning {COLUMNS}
), logged as (
    insert into events (project_id, type, task_id, status, version, agent, token, data)
    select project_id, 'task.claimed', id, status, version, assignee, claim_token, $5::jsonb from claimed
    returning xid::text as event_xid, id as event_id
)
select c.*, l.event_xid, l.event_id,
       {_INPUTS.format(task="c.id")} as inputs,
       {NOTES_TOLD.format(task="c.id")} as notes,
       c.parent_id is null and not exists(select from task_deps e where e.project_id = $1 and e.depends_on = c.id
                                                                    and e.waived_at is null) as alone
  from claimed c, logged l
"""

CLAIM_BEST = _CLAIM % BEST_READY

# As BEST_READY, but only behind a frontier: for each priority a time ($6) and an id ($7).
BEST_BEHIND = ",\n".join(
    f"""(select id from tasks where project_id = $1 and status = 'pending' and priority = {rank} and {place}
          limit 1 for no key update skip locked)"""
    for rank in range(len(Priority))
    for place in (
        f"ready_at = ($6::timestamptz[])[{rank + 1}] and id < ($7::text[])[{rank + 1}] order by id desc",
        f"ready_at > ($6::timestamptz[])[{rank + 1}] order by ready_at, id desc",
    )
)
CLAIM_BEHIND = _CLAIM.replace("array(%s)", f"array[coalesce({BEST_BEHIND})]")

CLAIM_BY_ID = _CLAIM % "values ($6)"


class Frontier:
    """Where this process last found the best ready task of each priority.

    What was claimed before leaves dead entries in the index of ready tasks, and while an old snapshot keeps them a
    claim passes over them one by one; behind the frontier there are none. What becomes ready in front of it, in a
    transaction that began before the newest claim and committed after it, is found once the frontier is looked up
    again: every second, and when nothing lies behind it.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._times: list[datetime] = []
        self._ids: list[str] = []

    def bounds(self) -> tuple[list[datetime], list[str]] | None:
        """The times and ids, by priority; None where it has to be looked up."""
        return (self._times, self._ids) if time.monotonic() < self._until else None

    def found(self, task: Task) -> None:
        """The best ready task of all was this one: those before its priority have none now."""
        before, since = task.priority.rank, task.claimed_at or _EPOCH
        self._times = [since] * before + [_EPOCH] * (len(Priority) - before)
        self._ids = [""] * len(Priority)
        self._until = time.monotonic() + _FRONTIER_SECONDS
        self.moved(task)

    def moved(self, task: Task) -> None:
        """The best ready task behind the frontier was this one."""
        rank = task.priority.rank
        self._times[rank], self._ids[rank] = task.ready_at or _EPOCH, task.id


_EPOCH = datetime.fromtimestamp(0, UTC)
_FRONTIER_SECONDS = 1.0


async def claim_task(
    tx: Transaction,
    agent: str,
    *,
    lease_seconds: float,
    deadline_seconds: float,
    task_id: str | None = None,
    frontier: Frontier | None = None,
) -> Claim | None:
    """Claims one task, or the best ready one; counts the attempt and draws the next token.

    The event is written by the same statement, so that on its own, outside of a transaction block, it is a whole claim.
    None: the task is not claimable, or nothing is ready.
    """
    await record_events(tx)
    arguments: tuple[Any, ...] = (tx.project_id, agent, lease_seconds, deadline_seconds, tx.stored(None))
    if task_id is not None:
        return _claimed(tx, await tx.connection.fetchrow(CLAIM_BY_ID, *arguments, task_id))
    if frontier is not None and (bounds := frontier.bounds()) is not None:
        claim = _claimed(tx, await tx.connection.fetchrow(CLAIM_BEHIND, *arguments, *bounds))
        if claim is not None:
            frontier.moved(claim.task)
            return claim
    claim = _claimed(tx, await tx.connection.fetchrow(CLAIM_BEST, *arguments))
    if claim is not None and frontier is not None:
        frontier.found(claim.task)
    return claim


async def as_claimed(connection: Connection, task: Task, agent: str) -> Claim:
    """A ready task as its next claim would have it, while it stays unclaimed."""
    claimed = replace(
        task, status=TaskStatus.CLAIMED, assignee=agent, attempt=task.attempt + 1, claim_token=task.claim_token + 1
    )
    around = f"select {_INPUTS.format(task='$2')} as inputs, {NOTES_TOLD.format(task='$2')} as notes"
    record = await connection.fetchrow(around, task.project_id, task.id)
    assert record is not None
    return _claim(claimed, record)


def _claimed(tx: Transaction, record: Row | None) -> Claim | None:
    if record is None:
        return None
    task = Task.from_record(record)
    tx.logged(task, Position(int(record["event_xid"]), record["event_id"]))
    return _claim(task, record, alone=record["alone"])


def _claim(task: Task, record: Row, *, alone: bool = False) -> Claim:
    notes = noted(task.context, (read_note(**one) for one in json.loads(record["notes"])))
    return Claim(task, tuple(json.loads(record["inputs"])), tuple(notes), alone)


async def fail_task(tx: Transaction, task: Task, reason: str, *, retry_at: datetime | None) -> Task:
    """Writes that a locked task has failed: to be tried again at `retry_at`, or without one a dead letter, which keeps
    the reason."""
    dead_reason = reason if retry_at is None else None
    return await update_task_status(tx, task, TaskStatus.FAILED, retry_at=retry_at, dead_reason=dead_reason)


async def renew_leases(
    connection: Connection, project_id: str, claims: Mapping[str, int], owner: str | None = None
) -> dict[str, datetime | None]:
    """Gives each of these claims (token by task id) its lease anew, never past its deadline; one statement for all,
    which locks the rows in id order. What the landing queue holds is left as it is. `owner`: the name of the principal
    whose claims alone are.

    Returns the new ends of those that still stand, None for what is queued; whatever is missing was lost.
    """
    records = await connection.fetch(
        """
        with standing as (
            select t.id, t.lease_expires_at = 'infinity' as queued
              from tasks t join unnest($2::text[], $3::bigint[]) c(id, token) on c.id = t.id
             where t.project_id = $1 and t.status = 'claimed' and t.claim_token = c.token
               and ($4::text is null or t.assignee = $4 or starts_with(t.assignee, $4 || '/'))
             order by t.id for no key update of t),
        renewed as (
            update tasks t
               set lease_expires_at = least(loom_now() + make_interval(secs => t.lease_seconds), t.deadline_at)
              from standing s where t.project_id = $1 and t.id = s.id and not s.queued
            returning t.id, t.lease_expires_at)
        select id, lease_expires_at from renewed
         union all
        select id, null from standing where queued
        """,
        project_id,
        list(claims),
        list(claims.values()),
        owner,
    )
    return {record["id"]: record["lease_expires_at"] for record in records}


async def renew_due(connection: Connection, project_id: str, agent: str) -> None:
    """Gives the claims of an agent of which a third of the lease is over their lease anew, in one statement that writes
    nothing where there is none. What a sweep is about to take back stays over."""
    await connection.execute(
        """
        with due as (
            select id from tasks
             where project_id = $1 and status = 'claimed' and assignee = $2 and lease_expires_at > loom_now()
               and lease_expires_at < least(loom_now() + make_interval(secs => lease_seconds * 2 / 3), deadline_at)
             order by id for no key update)
        update tasks t
           set lease_expires_at = least(loom_now() + make_interval(secs => t.lease_seconds), t.deadline_at)
          from due d where t.project_id = $1 and t.id = d.id
        """,
        project_id,
        agent,
    )


async def holds_beside(
    connection: Connection, project_id: str, name: str, tasks: Sequence[str], epic: str | None
) -> bool:
    """Whether an agent called `name`, or `name/` and something more, holds a task in that epic, or without an epic one
    of these tasks."""
    return bool(
        await connection.fetchval(
            """
            select exists(
                select from tasks
                 where project_id = $1 and status = 'claimed' and (assignee = $2 or starts_with(assignee, $2 || '/'))
                   and (parent_id = $4 or $4::text is null and id = any($3::text[])))
            """,
            project_id,
            name,
            tasks,
            epic,
        )
    )


@dataclass(frozen=True, slots=True)
class Completed:
    """A task just finished, and whether any other waits for it."""

    task: Task
    awaited: bool


async def complete_task(
    tx: Transaction, task_id: str, agent: str, token: int | None, output: str, *, alone: bool = False
) -> Completed | None:
    """Finishes the claim that `token` names, or without one the claim of `agent`, and writes its event, in one round
    trip; None if there is no such claim. `alone`: only one from which nothing follows, so that this, outside of a
    transaction block, is all of it."""
    await record_events(tx)
    record = await tx.connection.fetchrow(
        "select (f.done).*, f.depends_on, f.event_xid, f.event_id, f.awaited"
        f"  from loom_complete_{'alone' if alone else 'task'}($1, $2, $3, $4, $5) f",
        tx.project_id,
        task_id,
        agent,
        token,
        output,
    )
    if record is None or record["event_id"] is None:
        return None
    task = Task.from_record(record)
    tx.logged(task, Position(int(record["event_xid"]), record["event_id"]))
    return Completed(task, record["awaited"])
