"""How often PostgreSQL is asked by what is called most: each statement is a round trip."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from loom.config import LoomConfig
from loom.graph.front import Loom


@pytest.fixture
async def loom(config: LoomConfig) -> AsyncIterator[Loom]:
    single = replace(config, database=replace(config.database, pool_min=1, pool_max=1))
    async with Loom(single, agent="a") as loom:
        yield loom


@pytest.fixture
async def said(loom: Loom) -> list[str]:
    """The first word of each statement from now on."""
    words: list[str] = []
    async with (await loom.links.pool()).acquire() as connection:
        connection.add_query_logger(lambda record: words.append(record.query.split()[0].strip(";").lower()))
    return words


async def test_a_lone_task_is_created_claimed_and_done_in_a_statement_each(loom: Loom, said: list[str]) -> None:
    task = await loom.create("A")
    assert said == ["with"]
    await loom.claim(task.id)
    assert said == ["with"] * 2
    await loom.done(task.id)
    assert said == ["with"] * 2 + ["select"]


async def test_what_somebody_else_has_claimed_is_done_in_three(config: LoomConfig, loom: Loom, said: list[str]) -> None:
    task = await loom.create("A")
    async with Loom(config, agent="b") as other:
        claim = await other.claim(task.id)
    assert claim is not None
    said.clear()
    await loom.done(task.id, token=claim.task.claim_token)
    assert said == ["begin", "select", "commit"]


async def test_what_others_wait_for_is_done_in_six(loom: Loom, said: list[str]) -> None:
    for _ in range(2):  # the first time the driver asks what the types of a statement are
        task = await loom.create("A")
        for title in "BC":
            await loom.create(title, depends_on=[task.id])
        await loom.claim(task.id)
        said.clear()
        assert len((await loom.done(task.id)).unblocked) == 2
    assert said == ["begin", "select", "select", "with", "insert", "commit"]
