"""Diagnoses: what was found out about an escalation, and how often a model may be asked for it.

A diagnosis is kept with its escalation as a JSON object: `cause`, `confidence`, `action`, `note`, `question`,
`evidence`, `proposed` (titles of fix tasks), `fixes` (ids of those that were made), `depth`, `run_id`, and `left`: why
it was left to a person. One without `left` was carried out.

The depth of a task is 0 if it is nobody's fix. A fix is one deeper than the task that it was made for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from loom.bus.events import EventType
from loom.graph import store
from loom.graph.store.escalations import COLUMNS, Escalation
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection

ASKED_AT_MOST = 3  # times that a model is asked about one escalation: those before the last have failed or were killed
CARRIED_OUT_AT_MOST = 2  # diagnoses of one task; what fails then too is for a person


@dataclass(frozen=True, slots=True)
class Case:
    """An escalation that a handler has taken to have it diagnosed. `left`: why it was left to a person instead, which
    is recorded then."""

    escalation: Escalation
    left: str | None = None


async def pending(connection: Connection, project_id: str) -> bool:
    """Whether an open escalation that nobody looks at was not diagnosed yet."""
    return bool(await connection.fetchval(f"select exists({_PENDING})", project_id))


async def take(
    tx: Transaction, handler: str, seconds: float, *, per_hour: int, fix_depth: int
) -> Case | datetime | None:
    """Gives the oldest such escalation to a handler, for so many seconds, and counts that a model is asked about it.

    None: there is none. A time: models were asked `per_hour` times within the last hour, in the whole project, and may
    be asked again then. The row of the project is locked, so that however many take at once are counted one after the
    other.

    Args:
        fix_depth: a task of this depth is left to a person.
    """
    await tx.connection.execute("select from projects where id = $1 for no key update", tx.project_id)
    record = await tx.connection.fetchrow(
        f"{_PENDING} order by raised_at, id limit 1 for no key update skip locked", tx.project_id
    )
    if record is None:
        return None
    found = Escalation.from_record(record)
    if left := await _beyond(tx, found, fix_depth):
        await leave(tx, found, left, by=handler)
        return Case(found, left)
    again: datetime | None = await tx.connection.fetchval(
        """
        select asked_at + interval '1 hour' from diagnosis_asks
         where project_id = $1 and asked_at > loom_now() - interval '1 hour'
         order by asked_at desc offset $2 limit 1
        """,
        tx.project_id,
        per_hour - 1,
    )
    if again is not None:
        return again
    await tx.connection.execute(
        """
        update escalations set handler = $3, handling_until = loom_now() + make_interval(secs => $4)
         where project_id = $1 and id = $2
        """,
        tx.project_id,
        found.id,
        handler,
        seconds,
    )
    await tx.connection.execute(
        "insert into diagnosis_asks (project_id, escalation_id, asked_by) values ($1, $2, $3)",
        tx.project_id,
        found.id,
        handler,
    )
    return Case(found)


async def hold(tx: Transaction, taken: Escalation) -> bool:
    """Locks the graph, the task and the row of an escalation that was taken. False: it was resolved or diagnosed
    meanwhile."""
    await store.lock_graph(tx)
    await store.lock(tx, [taken.task_id])
    record = await tx.connection.fetchrow(
        f"select {COLUMNS} from escalations where project_id = $1 and id = $2 for no key update",
        tx.project_id,
        taken.id,
    )
    now = None if record is None else Escalation.from_record(record)
    return now is not None and now.resolution is None and now.diagnosed_at is None


async def give_back(tx: Transaction, taken: Escalation, handler: str) -> None:
    """Ends the handling of an escalation that was taken and could not be diagnosed."""
    await tx.connection.execute(
        "update escalations set handler = null, handling_until = null"
        " where project_id = $1 and id = $2 and handler = $3",
        tx.project_id,
        taken.id,
        handler,
    )


async def record(tx: Transaction, escalation: Escalation, diagnosis: Mapping[str, Any], *, by: str) -> None:
    """Keeps a diagnosis with its escalation, which nobody handles any more then; an event tells it."""
    await tx.connection.execute(
        """
        update escalations set diagnosis = $3, diagnosed_at = loom_now(), handler = null, handling_until = null
         where project_id = $1 and id = $2
        """,
        tx.project_id,
        escalation.id,
        json.dumps(diagnosis),
    )
    names = ("action", "confidence", "left", "fixes", "run_id")
    data = {name: diagnosis[name] for name in names if diagnosis.get(name)}
    tx.happened(EventType.TASK_UPDATED, escalation.task_id, agent=by, data={"diagnosed": escalation.id, **data})


async def leave(tx: Transaction, escalation: Escalation, why: str, *, by: str) -> None:
    """Records that an escalation is left to a person without a diagnosis, and why."""
    depth = await depth_of(tx.connection, tx.project_id, escalation.task_id)
    await record(tx, escalation, {"action": "ask_person", "left": why, "fixes": [], "depth": depth}, by=by)


async def newest(connection: Connection, project_id: str, task_id: str) -> Escalation | None:
    """The newest escalation of a task, an open one before all that are resolved."""
    found = await connection.fetchrow(
        f"select {COLUMNS} from escalations where project_id = $1 and task_id = $2"
        " order by resolved_at is not null, raised_at desc, id limit 1",
        project_id,
        task_id,
    )
    return None if found is None else Escalation.from_record(found)


async def depth_of(connection: Connection, project_id: str, task_id: str) -> int:
    """How many tasks this one is a fix of, one after the other."""
    depth: int | None = await connection.fetchval(
        """
        select max((diagnosis ->> 'depth')::integer) + 1 from escalations
         where project_id = $1 and diagnosis is not null and diagnosis -> 'fixes' @> jsonb_build_array($2::text)
        """,
        project_id,
        task_id,
    )
    return depth or 0


_PENDING = f"""
select {COLUMNS} from escalations
 where project_id = $1 and resolved_at is null and diagnosed_at is null
   and (handling_until is null or handling_until <= loom_now())
"""


async def _beyond(tx: Transaction, found: Escalation, fix_depth: int) -> str | None:
    """Why no model is to be asked about an escalation, or None."""
    depth = await depth_of(tx.connection, tx.project_id, found.task_id)
    if depth >= fix_depth:
        fix = " of a fix" * (depth - 1)
        return f"It is a fix{fix}, and orchestration.fix_depth is {fix_depth}."
    carried_out = await tx.connection.fetchval(
        "select count(*) from escalations where project_id = $1 and task_id = $2 and not diagnosis ? 'left'",
        tx.project_id,
        found.task_id,
    )
    if carried_out >= CARRIED_OUT_AT_MOST:
        return f"{carried_out} diagnoses of it were carried out, and it did not get done."
    asked = await tx.connection.fetchval(
        "select count(*) from diagnosis_asks where project_id = $1 and escalation_id = $2", tx.project_id, found.id
    )
    if asked >= ASKED_AT_MOST:
        return f"A model was asked about it {asked} times and did not answer."
    return None
