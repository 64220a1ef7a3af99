"""Where each target stood when it was looked at last, so that a move of somebody else's is told from a landing.

A tip moves only from the one that its writer knew: of two who note one landing late, none brings an older tip back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection


async def seen(connection: Connection, project_id: str, target: str) -> str | None:
    """The commit at which a target stood last; None if it was never looked at."""
    found: str | None = await connection.fetchval(
        "select commit_id from landing_tips where project_id = $1 and target = $2", project_id, target
    )
    return found


async def see(tx: Transaction, target: str, old: str | None, new: str) -> None:
    """Notes that a target stands at `new`, if it is known to have stood at `old`, None: if nothing is known of it."""
    if old is None:
        await tx.connection.execute(
            "insert into landing_tips (project_id, target, commit_id) values ($1, $2, $3) on conflict do nothing",
            tx.project_id,
            target,
            new,
        )
    else:
        await tx.connection.execute(
            "update landing_tips set commit_id = $4 where project_id = $1 and target = $2 and commit_id = $3",
            tx.project_id,
            target,
            old,
            new,
        )


async def forget(tx: Transaction, target: str) -> None:
    """Takes a target as it stands the next time."""
    await tx.connection.execute("delete from landing_tips where project_id = $1 and target = $2", tx.project_id, target)
