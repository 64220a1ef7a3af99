"""Where a project lands its work, and who does that: what it lands on instead of what its configuration says, and the
lease by which one at a time lands on a target."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection


@dataclass(frozen=True, slots=True)
class RecordedTarget:
    """What a project lands on instead of what its configuration says, why, and since when."""

    target: str
    why: str
    since: datetime


async def recorded(connection: Connection, project_id: str) -> RecordedTarget | None:
    """What a project lands on instead of what its configuration says; None: it is as configured."""
    record = await connection.fetchrow(
        "select target, why, since from landing_targets where project_id = $1", project_id
    )
    return None if record is None else RecordedTarget(**record)


async def record(tx: Transaction, target: str, why: str) -> None:
    """Has the project land on another target from now on."""
    await tx.connection.execute(
        "insert into landing_targets (project_id, target, why) values ($1, $2, $3)"
        " on conflict (project_id) do update set target = $2, why = $3, since = loom_now()",
        tx.project_id,
        target,
        why,
    )


async def forget(tx: Transaction) -> None:
    """Has the project land on what its configuration says."""
    await tx.connection.execute("delete from landing_targets where project_id = $1", tx.project_id)


async def take_lease(tx: Transaction, target: str, holder: str, seconds: float) -> bool:
    """Whether the holder lands on a target for so many seconds from now: nobody else does, or his time is over. That
    others then do not is a saving; what is safe is so without it."""
    taken = await tx.connection.fetchval(
        """
        insert into landing_leases as l (project_id, target, holder, until)
        values ($1, $2, $3, loom_now() + make_interval(secs => $4))
        on conflict (project_id, target) do update set holder = $3, until = excluded.until
         where l.holder = $3 or l.until <= loom_now()
        returning true
        """,
        tx.project_id,
        target,
        holder,
        seconds,
    )
    return bool(taken)


async def give_lease(tx: Transaction, target: str, holder: str) -> None:
    """Lets others land on a target, if the holder is the one who does."""
    await tx.connection.execute(
        "delete from landing_leases where project_id = $1 and target = $2 and holder = $3",
        tx.project_id,
        target,
        holder,
    )


async def holder_of_lease(connection: Connection, project_id: str, target: str) -> str | None:
    """Who has the lease of a target, also where its time is over."""
    found: str | None = await connection.fetchval(
        "select holder from landing_leases where project_id = $1 and target = $2", project_id, target
    )
    return found
