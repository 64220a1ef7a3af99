"""Rows of intents: what is about to be merged, so that of what was when somebody died it is known whether it was.

An intent names the commit to which a target is about to be moved, for each landing that it brings. It is open until
somebody says what became of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row
    from loom.graph.store.landings import Landing


@dataclass(frozen=True, slots=True)
class Intent:
    """That a target is about to be moved from `old` to a commit that brings a landing."""

    id: int
    landing_id: int
    task_id: str
    commit_id: str
    target: str
    old: str
    at: datetime

    @classmethod
    def from_record(cls, record: Row) -> Intent:
        """Builds an intent from its row."""
        return cls(**{name: record[name] for name in cls.__slots__})


async def intend(tx: Transaction, found: Sequence[Landing], *, commit_id: str, target: str, old: str) -> None:
    """Writes that the target is about to be moved to a commit which brings these."""
    await tx.connection.execute(
        """
        insert into landing_intents (project_id, landing_id, task_id, commit_id, target, old)
        select $1, o.id, o.task_id, $4, $5, $6 from unnest($2::bigint[], $3::text[]) o(id, task_id)
        on conflict (project_id, landing_id, commit_id) do update set closed_at = null, target = $5, old = $6
        """,
        tx.project_id,
        [one.id for one in found],
        [one.task_id for one in found],
        commit_id,
        target,
        old,
    )


async def withdraw(tx: Transaction, landing_ids: Collection[int], commit_id: str) -> None:
    """Closes the intents of these that name a commit."""
    await tx.connection.execute(
        "update landing_intents set closed_at = loom_now()"
        " where project_id = $1 and landing_id = any($2::bigint[]) and commit_id = $3 and closed_at is null",
        tx.project_id,
        list(landing_ids),
        commit_id,
    )


async def close(tx: Transaction, landing_id: int) -> None:
    """Closes whatever intent of a landing is open."""
    await tx.connection.execute(
        "update landing_intents set closed_at = loom_now()"
        " where project_id = $1 and landing_id = $2 and closed_at is null",
        tx.project_id,
        landing_id,
    )


async def still_open(connection: Connection, project_id: str, target: str | None = None) -> list[Intent]:
    """The intents of which nobody has said yet what became of them, oldest first; of all targets unless one is
    named."""
    records = await connection.fetch(
        "select * from landing_intents where project_id = $1 and closed_at is null"
        " and ($2::text is null or target = $2) order by id",
        project_id,
        target,
    )
    return [Intent.from_record(record) for record in records]


async def still_open_of(connection: Connection, project_id: str, task_ids: Collection[str]) -> list[Intent]:
    """The open intents of these tasks."""
    records = await connection.fetch(
        "select * from landing_intents where project_id = $1 and closed_at is null and task_id = any($2::text[])"
        " order by id",
        project_id,
        list(task_ids),
    )
    return [Intent.from_record(record) for record in records]


async def of_queued(connection: Connection, project_id: str, target: str) -> list[tuple[Intent, bool]]:
    """Every intent of what is still in the queue, oldest first, and whether it is open. One that was withdrawn counts
    too: somebody may have moved the target by it all the same."""
    records = await connection.fetch(
        "select i.*, i.closed_at is null as open from landing_intents i"
        " join landings l on l.project_id = i.project_id and l.id = i.landing_id and l.state = 'queued'"
        " where i.project_id = $1 and i.target = $2 order by i.id",
        project_id,
        target,
    )
    return [(Intent.from_record(record), record["open"]) for record in records]


async def of_commit(connection: Connection, project_id: str, landing_id: int, commit_id: str) -> Intent | None:
    """The intent, open or closed, that names this commit for a landing."""
    record = await connection.fetchrow(
        "select * from landing_intents where project_id = $1 and landing_id = $2 and commit_id = $3",
        project_id,
        landing_id,
        commit_id,
    )
    return None if record is None else Intent.from_record(record)
