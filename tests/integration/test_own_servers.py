"""Servers of one's own: a schema among others, a role that may do no more than Loom needs, a private CA, a Sentinel."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from loom import services
from loom.config import LoomConfig
from loom.exceptions import ConfigError
from loom.graph.front import Loom
from loom.services import Endpoints
from tests.failover import Pair, Redis, cluster, lent, pair, redis_place
from tests.graph.test_lifecycle import holds

__all__ = ["cluster", "lent", "pair", "redis_place"]

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
    claim = await loom.claim(first.id)
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


async def test_the_role_of_the_manual_may_work_and_no_more(opened: Opener, pair: Pair) -> None:
    await (await opened(url=pair.primary.url())).create("made by the owner")
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text("utf-8")
    script = page.partition("```sql\n")[2].partition("```")[0]
    for statement in "\n".join(line.partition("--")[0] for line in script.splitlines()).split(";"):
        if statement.strip():
            await pair.primary.ask(statement)
    url = pair.primary.url(user="worker")
    loom = await opened(url=url)
    await work(loom)
    await loom.apply_plan({"tasks": [{"title": f"T{number}"} for number in range(1_000)]})
    task = await loom.create("C")
    await loom.claim(task.id)
    await loom.escalate(task.id, "Which one?")
    await loom.resolve(task.id, "answer", note="this one")
    await loom.send("*", "all done")
    await loom.prune()
    assert len(await loom.projects()) == 1
    await holds(loom)
    await pair.primary.ask("revoke delete on messages, skill_runs from worker")
    assert [(one.rule, one.found) for one in await loom.doctor() if not one.holds] == [
        ("the role may do what Loom does", "delete on messages, delete on skill_runs")
    ]
    connection = await asyncpg.connect(url)
    try:
        for statement in ("drop table tasks", "create table more (x int)", "truncate tasks"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


# --- Redis ------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def encrypted(servers: Endpoints, tmp_path: Path) -> AsyncIterator[str]:
    """Where the tests' Redis answers over TLS, with a certificate that nobody but `tmp_path/ca.pem` vouches for."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make a certificate")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", tmp_path / "key.pem", "-out", tmp_path / "ca.pem")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names, *files)
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    parts = urlsplit(servers.redis_url)

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_unix_connection(parts.path)
        await asyncio.gather(carry(reader, outer), carry(inner, writer))

    server = await asyncio.start_server(meet, "localhost", 0, ssl=context)
    password = parse_qs(parts.query)["password"][0]
    yield f"rediss://:{password}@localhost:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_a_redis_with_a_private_ca_is_asked_as_it_is_used(
    config: LoomConfig, encrypted: str, tmp_path: Path
) -> None:
    trusted = replace(config, redis=replace(config.redis, url=f"{encrypted}?ssl_ca_certs={tmp_path / 'ca.pem'}"))
    _, health = await asyncio.to_thread(services.check, trusted)
    assert (health.running, health.hint) == (True, "")
    async with Loom(trusted, agent="a") as loom:
        await loom.create("A")
        assert await loom.mirror_refused() is None
        await holds(loom)
        subscriber = await loom._links.subscriber()
        async with subscriber.listening(lambda channel, text: channel.endswith("updates")) as woken:
            assert subscriber.connected
            woken.clear()
            await loom.create("C")
            await asyncio.wait_for(woken.wait(), 30)

    unknown = replace(config, redis=replace(config.redis, url=encrypted))
    _, health = await asyncio.to_thread(services.check, unknown)
    assert not health.running
    assert "certificate that is not trusted here; name the file of its CA as ssl_ca_certs in `redis.url`" in health.hint
    async with Loom(unknown, agent="a") as loom:
        assert (await loom.create("B")).title == "B"  # from Postgres alone
        assert len((await loom.ready()).tasks) == 3


async def test_the_port_of_a_sentinel_is_refused_by_name(
    config: LoomConfig, redis_place: Callable[[str], Redis]
) -> None:
    server = redis_place("sentinel")
    server.start_sentinel()
    async with Loom(replace(config, redis=replace(config.redis, url=server.url)), agent="a") as loom:
        await loom.create("A")
        assert "the port of a Sentinel, which Loom does not speak to: name the primary itself" in str(
            await loom.mirror_refused()
        )
        assert len((await loom.ready()).tasks) == 1
