"""Servers of one's own: a schema among others, and a role that may do no more than Loom needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from loom.config import LoomConfig
from loom.exceptions import ConfigError
from loom.graph.front import Loom
from tests.failover import Pair, cluster, lent, pair
from tests.graph.test_lifecycle import holds

__all__ = ["cluster", "lent", "pair"]

Opener = Callable[..., Awaitable[Loom]]


@pytest.fixture
async def opened(config: LoomConfig) -> AsyncIterator[Opener]:
    """Opens the test's project with other settings of the database."""
    async with AsyncExitStack() as stack:

        async def opener(**database: Any) -> Loom:
            loom = Loom(replace(config, database=replace(config.database, **database)), agent="a")
            await stack.enter_async_context(loom)
            await loom.connect()
            return loom

        yield opener


async def work(loom: Loom) -> None:
    """One task from its beginning to its end, and one that waits for it."""
    first = await loom.create("A")
    second = await loom.create("B", depends_on=[first.id])
    claim = await loom.claim()
    assert claim is not None
    assert (await loom.done(claim.task.id, {"s": "x"})).unblocked == (second.id,)
    await loom.sweep()
    await (await loom.relay()).step()
    await holds(loom)


async def test_a_schema_of_its_own_is_made_and_holds_everything(opened: Opener, database_url: str) -> None:
    loom = await opened(schema="agents")
    await work(loom)
    connection = await asyncpg.connect(database_url)
    try:
        found = "select schemaname, n_live_tup > 0 from pg_stat_user_tables where relname = 'loom_migrations'"
        assert {row[0] for row in await connection.fetch(found)} == {"agents", "public"}
        assert await connection.fetchval("select count(*) from agents.tasks") == 2
        assert await connection.fetchval("select count(*) from public.tasks") == 0
    finally:
        await connection.close()
    # Another process finds it there; the same project beside it is another one, with a mirror of its own.
    assert (await (await opened(schema="agents")).status()).counts["done"] == 1
    beside = await opened()
    assert (await beside.status()).counts["done"] == 0
    assert beside._links.history != loom._links.history


async def test_a_role_that_may_make_no_schema_uses_the_one_that_is_there(
    opened: Opener, pair: Pair, config: LoomConfig
) -> None:
    for statement in (
        "create role worker login",
        "create schema agents authorization worker",
        "revoke create on database loom from public",
    ):
        await pair.primary.ask(statement)
    await work(await opened(url=pair.primary.url(user="worker"), schema="agents"))


@pytest.mark.parametrize("lent", ["transaction"], indirect=True)
async def test_behind_a_pooler_the_schema_is_that_of_the_role(lent: str, pair: Pair, opened: Opener) -> None:
    settings = {"url": lent, "pooler": "transaction", "schema": "agents"}
    with pytest.raises(ConfigError, match=r"database\.schema is agents") as caught:
        await opened(**settings)
    assert await pair.primary.ask("select to_regnamespace('agents') is null")
    said = str(caught.value.next_step)
    statement = said[said.index("ALTER ROLE") : said.index(" as one who may")]
    await pair.primary.ask(statement)
    await pair.primary.ask(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name ~ 'loom/|pgbouncer'"
    )
    await work(await opened(**settings))
    assert await pair.primary.ask("select count(*) from agents.tasks") == 2
