"""Two transactions at once, made to meet the same way every time.

A `Rival` is somebody else's transaction, held open by hand. A `Gate` stops Loom's own transactions right before they
commit, with everything written and every lock held. Whoever has to wait for one of them is waited for by looking at the
database's list of sessions, never by sleeping. A test that fails ends: what it began is cancelled, and both let go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
import pytest

from loom.db.connection import Pool
from loom.graph.front import Loom
from loom.graph.model.task import Task

T = TypeVar("T")
PATIENCE = 30.0  # seconds; for what takes a moment, on a machine that has much else to do


async def until_waiting(pool: Pool, count: int = 1) -> None:
    """Returns when that many sessions of this database really wait for a lock."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    while loop.time() < end:
        waiting = await pool.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )
        if waiting >= count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody came to wait")


async def waits(pool: Pool, work: asyncio.Task[Any], count: int = 1) -> None:
    """Returns when `work`, and as many sessions as `count` says, wait for a lock; fails at once if it has ended."""
    waiting = asyncio.create_task(until_waiting(pool, count))
    await asyncio.wait({waiting, work}, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        raise AssertionError(f"it did not wait, and came to {work.exception() or work.result()!r}")
    await waiting


@asynccontextmanager
async def begun(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Something that goes on meanwhile; it is cancelled if the test fails before its end."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=PATIENCE)


async def soon(work: Awaitable[T]) -> T:
    """What does not wait for anybody comes to its end."""
    return await asyncio.wait_for(work, PATIENCE)


class Rival:
    """Somebody else's transaction."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection
        self._transaction = connection.transaction()

    async def begin(self) -> None:
        await self._transaction.start()

    async def execute(self, statement: str, *arguments: Any) -> None:
        """Does something within it."""
        await self._connection.execute(statement, *arguments)

    async def lock(self, *task_ids: str) -> None:
        """Locks the rows of tasks, as for a change."""
        await self.execute("select from tasks where id = any($1::text[]) for no key update", list(task_ids))

    async def commit(self) -> None:
        await self._transaction.commit()


@pytest.fixture
async def rival(database_url: str) -> AsyncIterator[Rival]:
    """A transaction that is open, until it commits or the test ends."""
    connection = await asyncpg.connect(database_url)
    rival = Rival(connection)
    await rival.begin()
    yield rival
    connection.terminate()


class Gate:
    """Stops transactions that write certain events right before they commit."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def shut(self, condition: str) -> None:
        """From now on; `condition` is about the row `new` of the events, in SQL."""
        await self._connection.execute(
            f"""
            create function stop() returns trigger language plpgsql as
                'begin perform pg_advisory_xact_lock_shared(77); return null; end';
            create constraint trigger gate after insert on events deferrable initially deferred
                for each row when ({condition}) execute function stop();
            select pg_advisory_lock(77);
            """
        )

    async def open(self) -> None:
        """Lets them go on."""
        await self._connection.execute("select pg_advisory_unlock(77)")


@pytest.fixture
async def gate(database_url: str) -> AsyncIterator[Gate]:
    """A gate that stands open."""
    connection = await asyncpg.connect(database_url)
    yield Gate(connection)
    connection.terminate()


async def unlocked(pool: Pool, task_ids: Iterable[str]) -> list[str]:
    """Those of these tasks that nobody has locked for a change, or holds."""
    records = await pool.fetch(
        "select id from tasks where id = any($1::text[]) order by id for no key update skip locked", list(task_ids)
    )
    return [record["id"] for record in records]


@pytest.fixture
async def downwards(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids of new tasks go down, and no index is used, so that rows are not met in the order of their ids unless a
    statement asks for it."""
    numbers = iter(range(0xFFFF, 0, -1))
    monkeypatch.setattr("loom.ids.task_id", lambda: f"loom-{next(numbers):08x}")
    connection = await asyncpg.connect(database_url)
    for setting in ("enable_indexscan", "enable_bitmapscan"):
        await connection.execute(
            f"do $$ begin execute format('alter database %I set {setting} = off', current_database()); end $$"
        )
    await connection.close()


async def waive_edge(pool: Pool, task: Task, target: Task) -> None:
    """Marks one dependency as waived and counts it down, whatever its target is: as a way back into play of what was
    waived, or an import, may leave it."""
    await pool.execute(
        "update task_deps set waived_at = loom_now() where task_id = $1 and depends_on = $2", task.id, target.id
    )
    await pool.execute(
        """
        update tasks set waiting = waiting - 1, version = version + 1,
               status = case when waiting = 1 and status = 'blocked' then 'pending' else status end,
               ready_at = case when waiting = 1 and status = 'blocked' then loom_now() else ready_at end
         where id = $1
        """,
        task.id,
    )
    await pool.execute(
        "insert into events (project_id, type, task_id, status, version)"
        " select project_id, 'task.updated', id, status, version from tasks where id = $1",
        task.id,
    )


async def row(pool: Pool, task: Task) -> asyncpg.Record:
    """A task's row as it is committed."""
    found = await pool.fetchrow("select * from tasks where id = $1", task.id)
    assert found is not None
    return found


async def kill(loom: Loom, task: Task) -> None:
    """Makes a dead letter of it."""
    await loom.fail(task.id, "no", retry=False)
