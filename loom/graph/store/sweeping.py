"""What a sweep looks for: leases that are over, retries that are due, and a project that is complete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.bus.events import START, Position
from loom.graph.model.task import Task
from loom.graph.store import counting
from loom.graph.store.tasks import COLUMNS
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection


@dataclass(frozen=True, slots=True)
class Pulse:
    """Whether a project wants anything from a sweep: leases over, retries due, everything finished since it was last
    announced, its counts behind; and where its newest event stands."""

    expired: bool
    due: bool
    complete: bool
    uncounted: bool
    newest: Position


# Whether anything is unfinished is asked of the partial indexes, one after the other.
_UNFINISHED = """(
    exists(select from tasks where project_id = $1 and status = 'pending')
 or exists(select from tasks where project_id = $1 and status = 'claimed')
 or exists(select from tasks where project_id = $1 and status in ('blocked', 'epic'))
 or exists(select from tasks where project_id = $1 and status = 'failed'))"""

PULSE = f"""
select exists(select from tasks
               where project_id = $1 and status = 'claimed' and lease_expires_at <= loom_now()) as expired,
       exists(select from tasks where project_id = $1 and status = 'failed' and retry_at <= loom_now()) as due,
       not {_UNFINISHED}
         and (select done_at from tasks where project_id = $1 and done_at is not null order by done_at desc limit 1)
             > coalesce(completed_at, '-infinity') as complete,
       coalesce((select newest_id from task_counts where project_id = $1), 0) as counted,
       (select xid::text || '-' || id from events where project_id = $1 order by xid desc, id desc limit 1) as newest
  from projects where id = $1
"""


async def pulse(connection: Connection, project_id: str) -> Pulse:
    """One cheap query that tells whether there is anything to do."""
    record = await connection.fetchrow(PULSE, project_id)
    if record is None:
        return Pulse(False, False, False, False, START)
    newest = Position.parse(record["newest"]) if record["newest"] else START
    uncounted = newest.id >= record["counted"] + counting.DUE
    return Pulse(record["expired"], record["due"], bool(record["complete"]), uncounted, newest)


async def mark_complete(tx: Transaction) -> bool:
    """Notes that the project is complete, if it is and nobody has noted it; the row's lock lets one process win."""
    await tx.connection.execute("select from projects where id = $1 for no key update", tx.project_id)
    marked: int | None = await tx.connection.fetchval(
        f"""
        update projects set completed_at = n.newest
          from (select max(done_at) as newest from tasks where project_id = $1 and done_at is not null) n
         where id = $1 and not {_UNFINISHED} and n.newest > coalesce(completed_at, '-infinity')
        returning 1
        """,
        tx.project_id,
    )
    return marked is not None


async def expired_claims(tx: Transaction, limit: int) -> list[Task]:
    """Locks claimed tasks whose lease is over, passing by what another sweep has locked."""
    return await _lock_unlocked(tx, "status = 'claimed' and lease_expires_at <= loom_now()", limit)


async def due_retries(tx: Transaction, limit: int) -> list[Task]:
    """Locks failed tasks whose retry time has come, passing by what another sweep has locked."""
    return await _lock_unlocked(tx, "status = 'failed' and retry_at <= loom_now()", limit)


async def _lock_unlocked(tx: Transaction, condition: str, limit: int) -> list[Task]:
    records = await tx.connection.fetch(
        f"select {COLUMNS} from tasks t where project_id = $1 and {condition}"
        " order by id limit $2 for no key update of t skip locked",
        tx.project_id,
        limit,
    )
    return [Task.from_record(record) for record in records]
