"""What is kept of diagnoses: with an escalation what was found out about it, and each time that a model was asked.

A diagnosis is a JSON object: `cause`, `confidence`, `action`, `note`, `question`, `evidence`, `proposed` (titles of fix
tasks), `fixes` (ids of those that were made), `depth`, `run_id`, and `left`: why it was left to a person. One without
`left` was carried out.

The depth of a task is 0 if it is nobody's fix. A fix is one deeper than the task that it was made for.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from loom.graph.store.escalations import COLUMNS, Escalation
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection

_PENDING = f"""
select {COLUMNS} from escalations
 where project_id = $1 and resolved_at is null and diagnosed_at is null and kind <> 'deferred'
   and (handling_until is null or handling_until <= loom_now())
"""


async def any_pending(connection: Connection, project_id: str) -> bool:
    """Whether an open failure or question that nobody looks at was not diagnosed yet."""
    return bool(await connection.fetchval(f"select exists({_PENDING})", project_id))


async def lock_pending(tx: Transaction) -> Escalation | None:
    """Locks the oldest such escalation, passing by what another handler has locked.

    The row of the project is locked first, so that however many take at once are counted one after the other.
    """
    await tx.connection.execute("select from projects where id = $1 for no key update", tx.project_id)
    record = await tx.connection.fetchrow(
        f"{_PENDING} order by raised_at, id limit 1 for no key update skip locked", tx.project_id
    )
    return None if record is None else Escalation.from_record(record)


async def asked_again_at(tx: Transaction, per_hour: int) -> datetime | None:
    """When a model may be asked again, where models were asked `per_hour` times within the last hour; else None."""
    again: datetime | None = await tx.connection.fetchval(
        """
        select asked_at + interval '1 hour' from diagnosis_asks
         where project_id = $1 and asked_at > loom_now() - interval '1 hour'
         order by asked_at desc offset $2 limit 1
        """,
        tx.project_id,
        per_hour - 1,
    )
    return again


async def count_ask(tx: Transaction, escalation_id: str, handler: str, seconds: float) -> None:
    """Gives an escalation to a handler, for so many seconds, and counts that a model is asked about it."""
    await tx.connection.execute(
        """
        update escalations set handler = $3, handling_until = loom_now() + make_interval(secs => $4)
         where project_id = $1 and id = $2
        """,
        tx.project_id,
        escalation_id,
        handler,
        seconds,
    )
    await tx.connection.execute(
        "insert into diagnosis_asks (project_id, escalation_id, asked_by) values ($1, $2, $3)",
        tx.project_id,
        escalation_id,
        handler,
    )


async def lock(tx: Transaction, escalation_id: str) -> Escalation | None:
    """Locks an escalation."""
    record = await tx.connection.fetchrow(
        f"select {COLUMNS} from escalations where project_id = $1 and id = $2 for no key update",
        tx.project_id,
        escalation_id,
    )
    return None if record is None else Escalation.from_record(record)


async def give_back(tx: Transaction, escalation_id: str, handler: str) -> None:
    """Ends the handling of an escalation, if this handler still has it."""
    await tx.connection.execute(
        "update escalations set handler = null, handling_until = null"
        " where project_id = $1 and id = $2 and handler = $3",
        tx.project_id,
        escalation_id,
        handler,
    )


async def keep(tx: Transaction, escalation_id: str, diagnosis: str) -> None:
    """Keeps a diagnosis, JSON text, with its escalation, which nobody handles any more then."""
    await tx.connection.execute(
        """
        update escalations set diagnosis = $3, diagnosed_at = loom_now(), handler = null, handling_until = null
         where project_id = $1 and id = $2
        """,
        tx.project_id,
        escalation_id,
        diagnosis,
    )


async def newest(connection: Connection, project_id: str, task_id: str) -> Escalation | None:
    """The newest escalation of a task that somebody is asked about, an open one before all that are resolved."""
    found = await connection.fetchrow(
        f"select {COLUMNS} from escalations where project_id = $1 and task_id = $2 and kind <> 'deferred'"
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


async def carried_out(tx: Transaction, task_id: str) -> int:
    """How many diagnoses of a task were carried out."""
    count: int = await tx.connection.fetchval(
        "select count(*) from escalations where project_id = $1 and task_id = $2 and not diagnosis ? 'left'",
        tx.project_id,
        task_id,
    )
    return count


async def times_asked(tx: Transaction, escalation_id: str) -> int:
    """How often a model was asked about an escalation."""
    count: int = await tx.connection.fetchval(
        "select count(*) from diagnosis_asks where project_id = $1 and escalation_id = $2", tx.project_id, escalation_id
    )
    return count
