"""What a project's connections leave behind when they are given back."""

from __future__ import annotations

import asyncio

import pytest

from loom.config import LoomConfig
from loom.db import migrate
from loom.db.connection import Pool
from loom.exceptions import DatabaseUnavailableError
from loom.graph.connections import Connections
from loom.graph.front import Loom
from tests.waiting import until


async def test_what_was_given_back_is_not_opened_anew(loom: Loom, config: LoomConfig) -> None:
    links = loom.links
    await loom.create("One")
    cache = await links.cache()
    async with (await links.subscriber()).listening(lambda channel, text: False):
        await loom.close()
    for ask in (links.pool, links.subscriber, loom.status):
        with pytest.raises(DatabaseUnavailableError, match="given back"):
            await ask()
    assert await cache.state() is None, "as where Redis is away"
    assert not links.open
    assert links._redis is None


async def test_connections_that_are_given_back_while_they_are_made_do_not_stay_open(
    config: LoomConfig, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.project_id is not None
    links, made, go = Connections(config, config.project_id), asyncio.Event(), asyncio.Event()
    bring_forward = migrate.migrate

    async def slowly(*arguments: object, **named: object) -> list[str]:
        made.set()
        await go.wait()
        return await bring_forward(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(migrate, "migrate", slowly)
    opening = asyncio.create_task(links.pool())
    await made.wait()
    await links.close()
    go.set()
    with pytest.raises(DatabaseUnavailableError, match="given back"):
        await opening
    assert not links.open
    own = "select count(*) from pg_stat_activity where application_name = $1"

    async def is_gone() -> bool:
        return bool(await pool.fetchval(own, f"loom/{config.project_id}") == 0)

    await until(is_gone)


async def test_one_that_cannot_be_given_back_keeps_no_other_open(loom: Loom, monkeypatch: pytest.MonkeyPatch) -> None:
    links = loom.links
    await loom.create("One")
    database, subscriber = await links.pool(), await links.subscriber()
    redis = await links._client()
    async with subscriber.listening(lambda channel, text: False):
        pass
    end = subscriber.close

    async def fails() -> None:
        await end()
        raise RuntimeError("it cannot")

    monkeypatch.setattr(subscriber, "close", fails)
    with pytest.raises(RuntimeError, match="it cannot"):
        await links.close()
    assert database.is_closing()
    assert redis._wire is None
