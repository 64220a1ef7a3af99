"""Real servers for every test: one PostgreSQL and one Redis a session, a database of its own a test.

`--servers=embedded` (the default) starts Loom's own in a temporary place, `--servers=docker` uses testcontainers, and
LOOM_TEST_DATABASE_URL with LOOM_TEST_REDIS_URL uses what is there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from redis.asyncio import Redis

from loom import services
from loom.config import DatabaseConfig, LoomConfig, OrchestrationConfig, RedisConfig, ServersConfig
from loom.db.connection import Connection, Pool, open_pool
from loom.db.migrate import migrate
from loom.graph.front import Loom
from loom.services import Endpoints

Opener = Callable[..., Awaitable[Loom]]
_LET_GO = 10.0  # seconds; what a test that failed has left at work is ended then
# What whoever runs the tests has set, an agent and a hook of git among them.
_LEADS_ELSEWHERE = (
    *("LOOM_", "CLAUDE", "OTEL_", "PG", "XDG_"),
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_AUTHOR_", "GIT_COMMITTER_"),
    *("COLUMNS", "NO_COLOR", "FORCE_COLOR"),
    "PYTHONDONTWRITEBYTECODE",  # with it each command that a test starts compiles all of Loom, and what that imports
)
_CHOSEN = ("LOOM_TEST_", "LOOM_PG_BIN", "LOOM_REDIS_BIN")
for _name in [one for one in os.environ if one.startswith(_LEADS_ELSEWHERE) and not one.startswith(_CHOSEN)]:
    del os.environ[_name]
os.environ["LOOM_MCP_HUB"] = "never"  # no test leaves a hub behind; those that are about it ask for one
signal.signal(signal.SIGINT, signal.default_int_handler)  # else, begun by a shell in the background, all that tests
signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # start would ignore Ctrl-C
USERS_HOME = str(Path.home())  # of whoever runs the tests, for the caches and settings of their tools


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--servers", default="embedded", choices=["embedded", "docker"], help="where tests get servers")
    parser.addoption("--write-screens", action="store_true", help="record what the commands print")
    parser.addoption(
        "--model-examples", type=int, help="random histories held against the model; default: a few fixed ones"
    )


@pytest.fixture(autouse=True)
def nobodys_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home, so that no settings, skills, workflows or trust of whoever runs the tests count."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True)
def patience_with_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has much else to do is no Redis that hangs, which the mirror leaves alone for a while; tests of
    that say how long it may hang."""
    monkeypatch.setattr("loom.bus.client.TIMEOUT", 10.0)


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Endpoints]:
    """One pair of servers for the whole session."""
    database, redis = os.environ.get("LOOM_TEST_DATABASE_URL"), os.environ.get("LOOM_TEST_REDIS_URL")
    if database and redis:
        yield Endpoints(database, redis)
    elif request.config.getoption("--servers") == "docker":
        from testcontainers.community.postgres import PostgresContainer
        from testcontainers.community.redis import RedisContainer

        with (
            PostgresContainer("postgres:16-alpine", driver=None) as postgres,
            RedisContainer("redis:7-alpine") as cache,
        ):
            address = f"redis://{cache.get_container_host_ip()}:{cache.get_exposed_port(6379)}"
            yield Endpoints(postgres.get_connection_url(), address)
    else:
        config = LoomConfig(servers=ServersConfig(backend="embedded", instance=f"test-{uuid.uuid4().hex[:6]}"))
        with tempfile.TemporaryDirectory(prefix="loom-", dir="/tmp") as place:
            Path(place).chmod(0o755)
            before = os.environ.get("LOOM_DATA_DIR")
            os.environ["LOOM_DATA_DIR"] = place
            try:
                yield services.up(config)
            finally:
                services.down(config)
                os.environ.pop("LOOM_DATA_DIR") if before is None else os.environ.update(LOOM_DATA_DIR=before)


@pytest.fixture(scope="session")
def template(servers: Endpoints) -> str:
    """The name of a database with the schema in it, to make each test's from."""
    name = f"loom_template_{uuid.uuid4().hex[:8]}"

    async def prepare() -> None:
        admin = await asyncpg.connect(servers.database_url)
        await admin.execute(f"create database {name}")
        await admin.close()
        connection = await asyncpg.connect(with_database(servers.database_url, name))
        await migrate(connection)
        await connection.close()

    asyncio.run(prepare())
    return name


@pytest.fixture
async def database_url(servers: Endpoints, template: str) -> AsyncIterator[str]:
    """A database for one test."""
    name = f"loom_test_{uuid.uuid4().hex[:8]}"
    admin = await asyncpg.connect(servers.database_url)
    await admin.execute(f"create database {name} template {template}")
    yield with_database(servers.database_url, name)
    for _ in range(50):
        try:
            await admin.execute(f"drop database {name} with (force)")
            break
        except asyncpg.InsufficientPrivilegeError:  # autovacuum is in it, which only a superuser may end
            await asyncio.sleep(0.1)
    await admin.close()


@pytest.fixture
def config(database_url: str, servers: Endpoints) -> LoomConfig:
    """A project of its own in that database."""
    return LoomConfig(
        project_name="test",
        project_id=str(uuid.uuid4()),
        database=DatabaseConfig(url=database_url),
        redis=RedisConfig(url=servers.redis_url),
        servers=ServersConfig(backend="external"),
        orchestration=OrchestrationConfig(sweep_seconds=0.2),
    )


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """A pool on the test's database."""
    pool = await open_pool(database_url, min_size=1, max_size=20)
    yield pool
    await asyncio.wait_for(pool.close(), _LET_GO)


@pytest.fixture
async def redis_conn(servers: Endpoints) -> AsyncIterator[Redis]:
    """A Redis client."""
    redis = Redis.from_url(servers.redis_url, decode_responses=True)
    yield redis
    await redis.aclose()


@pytest.fixture
async def open_loom(config: LoomConfig) -> AsyncIterator[Opener]:
    """Opens the test's project as often as asked, each time as another process would."""
    stack = AsyncExitStack()

    async def opener(agent: str = "tester", **orchestration: float) -> Loom:
        chosen = replace(config, orchestration=replace(config.orchestration, **orchestration))  # type: ignore[arg-type]
        return await stack.enter_async_context(Loom(chosen, agent=agent))

    yield opener
    await asyncio.wait_for(stack.aclose(), _LET_GO)


@pytest.fixture
async def loom(open_loom: Opener) -> Loom:
    """The test's project, as an agent called `tester`."""
    loom = await open_loom()
    await loom.connect()
    return loom


@pytest.fixture
async def project(loom: Loom) -> str:
    """The id of the test's project, its row in place."""
    return loom.project_id


@pytest.fixture
async def clock(pool: Pool) -> Callable[[float], Awaitable[None]]:
    """Moves Loom's clock, in the test's own database, ahead by seconds."""
    total = 0.0

    async def advance(seconds: float) -> None:
        nonlocal total
        total += seconds
        await pool.execute(
            "create or replace function loom_now() returns timestamptz language sql stable parallel safe"
            f" as 'select now() + interval ''{total} seconds'''"
        )

    return advance


async def horizon_passed(loom: Loom) -> None:
    """Waits until the relay may read all that was committed so far. On a server that several test workers share, their
    transactions hold it up as well; one that the test itself has open is not waited for."""

    async def look(connection: Connection, mark: str | None = None) -> tuple[str, bool]:
        found = await connection.fetchrow(
            "select pg_snapshot_xmax(s)::text, pg_snapshot_xmin(s) >= coalesce($1::text::xid8, pg_snapshot_xmax(s))"
            " or exists(select from pg_stat_activity where datname = current_database() and backend_xid is not null)"
            " from pg_current_snapshot() s",
            mark,
        )
        assert found is not None
        return found[0], found[1]

    mark, passed = await loom.look(look)
    async with asyncio.timeout(30):
        while not passed:
            await asyncio.sleep(0.01)
            _, passed = await loom.look(lambda connection: look(connection, mark))


def with_database(url: str, name: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
