"""Proofs: what Loom has seen of a check, one row for each time that it ran one.

A row is written before the check runs and closed after it, so that what a killed process was at can be told. Which
check it is, is said by a hash of all that makes it that check; another one under the same name proves nothing for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row

TAIL_BYTES = 2_000


@dataclass(frozen=True, slots=True)
class Proof:
    """One run of a check. `exit_status` and `ended_at` are None while it runs; a closed one without an exit status, as
    of a run that changed what it was to look at, proves nothing."""

    id: int
    task_id: str | None
    """For whose claim it ran; None: for none, as for a group of tasks."""
    token: int | None
    tree: str | None
    """The tree that it ran on, and counts for; None outside of a repository, where it counts for its claim alone."""
    commit_id: str | None
    """The one commit that it counts for, of a check that reads history."""
    check_name: str
    check_hash: str
    agent: str
    started_at: datetime
    ended_at: datetime | None
    exit_status: int | None
    seconds: float | None
    tail: str
    """The end of what it printed, at most `TAIL_BYTES`."""
    flaky: bool
    """Whether it is the second run, after one of the same that was red."""

    @classmethod
    def from_record(cls, record: Row) -> Proof:
        """Builds a proof from a row."""
        return cls(**{field: record[field] for field in cls.__slots__})

    @property
    def green(self) -> bool:
        """It proves what it was run for."""
        return self.exit_status == 0


_COLUMNS = ", ".join(f"p.{field}" for field in Proof.__slots__)


async def begin(
    tx: Transaction,
    check_name: str,
    check_hash: str,
    *,
    agent: str,
    tree: str | None,
    commit_id: str | None = None,
    task_id: str | None = None,
    token: int | None = None,
) -> int:
    """Notes that a check is about to run, and returns the number of its row. `commit_id` only for a check that reads
    history: its proof counts for no other commit, whatever its tree. `task_id` and `token` together, or neither."""
    number: int = await tx.connection.fetchval(
        """
        insert into proofs (project_id, task_id, token, tree, commit_id, check_name, check_hash, agent)
        values ($1, $2, $3, $4, $5, $6, $7, $8) returning id
        """,
        tx.project_id,
        task_id,
        token,
        tree,
        commit_id,
        check_name,
        check_hash,
        agent,
    )
    return number


async def close(
    tx: Transaction, number: int, *, exit_status: int | None, seconds: float, tail: str, flaky: bool = False
) -> Proof | None:
    """Notes how a run ended, and returns it; the tail is kept from its end. Without an exit status it proves nothing.
    None if it was not open any more: what has ended once stays as it is."""
    kept = tail.replace("\0", "").encode(errors="replace")[-TAIL_BYTES:].decode(errors="ignore")
    closed = await tx.connection.fetchrow(
        f"""
        update proofs p set ended_at = loom_now(), exit_status = $3, seconds = $4, tail = $5, flaky = $6
         where project_id = $1 and id = $2 and ended_at is null returning {_COLUMNS}
        """,
        tx.project_id,
        number,
        exit_status,
        seconds,
        kept,
        flaky,
    )
    return None if closed is None else Proof.from_record(closed)


async def green(
    connection: Connection,
    project_id: str,
    hashes: Mapping[str, str],
    *,
    tree: str | None,
    commit_id: str | None = None,
    task_id: str | None = None,
    token: int | None = None,
) -> dict[str, Proof]:
    """The newest green proof of each of these checks (their hashes by name) that has one, by name.

    Args:
        tree: what they are to be proven for. None: there is no repository, and what counts was proven without one for
            the claim that `task_id` and `token` name.
        commit_id: of that tree, for checks that read history.
    """
    place = "((p.tree = $4 and p.commit_id is null) or p.commit_id = $5)"
    values: tuple[object, ...] = (tree, commit_id)
    if tree is None:
        place = "p.task_id = $4 and p.token = $5 and p.tree is null and p.commit_id is null"
        values = (task_id, token)
    records = await connection.fetch(
        f"""
        select w.name, {_COLUMNS}
          from unnest($2::text[], $3::text[]) w(name, hash),
               lateral (select * from proofs p
                         where p.project_id = $1 and p.check_hash = w.hash and p.exit_status = 0 and {place}
                         order by p.id desc limit 1) p
        """,
        project_id,
        list(hashes),
        list(hashes.values()),
        *values,
    )
    return {record["name"]: Proof.from_record(record) for record in records}


async def of_task(
    connection: Connection, project_id: str, task_id: str, limit: int, *, token: int | None = None
) -> list[Proof]:
    """The newest proofs that ran for a task, or for one claim of it, newest first."""
    records = await connection.fetch(
        f"""
        select {_COLUMNS} from proofs p
         where project_id = $1 and task_id = $2 and ($3::bigint is null or token = $3) order by id desc limit $4
        """,
        project_id,
        task_id,
        token,
        limit,
    )
    return [Proof.from_record(record) for record in records]
