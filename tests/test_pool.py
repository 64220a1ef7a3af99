"""The connection that a pool has at hand is anybody's, and nobody's for longer than it is good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from loom.db import connection as db
from loom.db.connection import Connection, Pool, open_pool
from tests.waiting import until


@pytest.fixture
async def narrow(database_url: str) -> AsyncIterator[Pool]:
    """A pool of one connection."""
    pool = await open_pool(database_url, min_size=1, max_size=1)
    yield pool
    await asyncio.wait_for(pool.close(), 10)


async def who(connection: Connection) -> int:
    """The server's process behind a connection."""
    return int(await connection.fetchval("select pg_backend_pid()"))


async def test_whoever_waits_is_given_the_connection_that_would_stay_at_hand(narrow: Pool) -> None:
    async with asyncio.timeout(20):
        first = await db.in_one_statement(narrow, who)
        assert set(await asyncio.gather(*(db.in_one_statement(narrow, who) for _ in range(8)))) == {first}
        async with narrow.acquire() as connection:
            assert await who(connection) == first
            waiting = asyncio.create_task(db.in_one_statement(narrow, who))
            await asyncio.sleep(0.1)
        assert await waiting == first


async def test_a_connection_that_the_server_has_closed_is_at_nobodys_hand(narrow: Pool, database_url: str) -> None:
    async with narrow.acquire() as proxy:
        behind: asyncpg.Connection[asyncpg.Record] = proxy._con  # type: ignore[attr-defined]
    first = await db.in_one_statement(narrow, who)
    admin = await asyncpg.connect(database_url)
    await admin.execute("select pg_terminate_backend($1)", first)
    await admin.close()
    await until(behind.is_closed)
    assert await db.in_one_statement(narrow, who) != first


async def test_what_is_let_go_does_not_stay_at_hand(narrow: Pool) -> None:
    first = await db.in_one_statement(narrow, who)
    await narrow.expire_connections()
    second = await db.in_one_statement(narrow, who)

    async def meanwhile(connection: Connection) -> int:
        await narrow.expire_connections()
        return await who(connection)

    assert await db.in_one_statement(narrow, meanwhile) == second
    assert len({first, second, await db.in_one_statement(narrow, who)}) == 3


async def test_a_connection_whose_work_has_failed_or_was_given_up_does_not_stay_at_hand(narrow: Pool) -> None:
    async def fails(connection: Connection) -> None:
        await connection.execute("select 1 / 0")

    async def lasts(connection: Connection) -> None:
        await connection.execute("select pg_sleep(60)")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await db.in_one_statement(narrow, fails)
    assert narrow._at_hand is None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(db.in_one_statement(narrow, lasts), 0.2)
    assert narrow._at_hand is None
    assert await asyncio.wait_for(db.in_one_statement(narrow, who), 20)


async def test_a_pool_is_closed_with_a_connection_at_hand_and_one_that_would_stay_there(database_url: str) -> None:
    pool = await open_pool(database_url, min_size=2, max_size=2)
    begun = asyncio.Event()

    async def late(connection: Connection) -> int:
        begun.set()
        await asyncio.sleep(0.3)
        return await who(connection)

    await db.in_one_statement(pool, who)
    going_on = asyncio.create_task(db.in_one_statement(pool, late))
    await begun.wait()
    await db.in_one_statement(pool, who)
    await asyncio.wait_for(pool.close(), 20)
    assert await going_on
