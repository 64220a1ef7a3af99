"""What holds when a server is lost and another takes its place, without what the lost one did last."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis as RedisClient

from loom.bus import channels
from loom.config import DatabaseConfig, LoomConfig, OrchestrationConfig, RedisConfig, ServersConfig
from loom.db import connection as db
from loom.exceptions import ClaimConflictError, DatabaseUnavailableError, UnavailableError
from loom.graph.front import Loom
from loom.orchestration.housekeeping import Housekeeper
from loom.services import Endpoints
from loom.services.probe import Answer, ask_postgres
from tests.conftest import horizon_passed
from tests.failover import Pair, Redis, cluster, lent, pair, redis_place
from tests.graph.conftest import until_waiting
from tests.waiting import until

__all__ = ["cluster", "lent", "pair", "redis_place"]

Process = Callable[..., Awaitable[Loom]]


@pytest.fixture
async def process(pair: Pair, servers: Endpoints) -> AsyncIterator[Process]:
    """Makes what another process would have: the same project, wherever the address leads, or at `url`."""
    config = LoomConfig(
        project_name="test",
        project_id=str(uuid.uuid4()),
        database=DatabaseConfig(url=pair.url),
        redis=RedisConfig(url=servers.redis_url),
        servers=ServersConfig(backend="external"),
        orchestration=OrchestrationConfig(sweep_seconds=0.2),
    )
    async with AsyncExitStack() as stack:

        async def make(agent: str, url: str = pair.url, pooler: str = "none") -> Loom:
            there = replace(config, database=replace(config.database, url=url, pooler=pooler))
            loom = await stack.enter_async_context(Loom(there, agent=agent))
            await loom.connect()
            return loom

        yield make


async def test_a_lost_tail_leaves_no_token_twice_and_nothing_in_the_mirror(
    pair: Pair, process: Process, redis_conn: RedisClient
) -> None:
    late, other = await process("late"), await process("other")
    task = await late.create("A")
    await synced(late)
    await pair.in_step()
    await pair.cut()
    lost = await late.create("of the lost tail")
    first = await late.claim(task.id)
    assert first is not None
    await synced(late)
    before = await generation(redis_conn, late)
    pair.primary.kill()
    await pair.promote()
    for loom in (late, other):
        await again(loom)

    # Each looks as its housekeeping does, both at once: the mirror is built anew, once.
    await asyncio.gather(*(step(loom) for loom in (late, other)))
    assert await generation(redis_conn, late) == before + 1
    assert [one.id for one in (await other.ready()).tasks] == [task.id]
    assert await redis_conn.hgetall(channels.task_key(late.project_id, lost.id)) == {}

    second = await other.claim(task.id)
    assert second is not None
    assert second.task.claim_token > first.task.claim_token
    with pytest.raises(ClaimConflictError):
        await late.done(task.id, {"by": "late"}, token=first.task.claim_token)
    done = await other.done(task.id, {"by": "other"}, token=second.task.claim_token)
    assert done.task.output == {"by": "other"}

    await synced(other)
    told: Any = await redis_conn.xrange(channels.event_stream(other.project_id))
    assert [fields["type"] for _, fields in told if fields.get("task_id") == task.id][-1] == "task.done"
    assert await generation(redis_conn, late) == before + 1
    assert all(one.holds for one in await other.doctor())


async def test_a_process_of_the_old_timeline_and_one_of_the_new_do_not_rebuild_in_turns(
    pair: Pair, process: Process, redis_conn: RedisClient
) -> None:
    old = await process("old", pair.primary.url())
    await old.create("A")
    await synced(old)
    await pair.in_step()
    await pair.cut()
    before = await generation(redis_conn, old)
    await pair.promote()
    new = await process("new")
    relays = await old.relay(), await new.relay()
    for _ in range(20):
        await asyncio.gather(old.create("B"), new.create("C"))
        await asyncio.gather(*(relay.step() for relay in relays))
    await synced(new)
    assert await generation(redis_conn, new) == before + 1
    titles = {one.title for one in (await new.ready(limit=100)).tasks}
    assert titles == {"A", "C"}
    assert {one.title for one in (await old.ready(limit=100)).tasks} == {"A", "B"}


async def test_a_process_whose_new_connections_come_to_another_history_lets_go_of_the_old_ones(
    pair: Pair, process: Process
) -> None:
    loom = await process("switched")
    await loom.create("A")
    await pair.in_step()
    await pair.cut()
    await pair.promote()  # and the old primary lives
    pool = await loom._links.pool()
    held = [await pool.acquire() for _ in range(pool.get_size() + 1)]
    for connection in held:
        await pool.release(connection)
    await asyncio.gather(*(loom.create(f"B{number}") for number in range(10)))
    assert await pair.primary.ask("select count(*) from tasks") == 1
    assert await pair.standby.ask("select count(*) from tasks") == 11


async def test_a_standby_is_named(pair: Pair, process: Process) -> None:
    first = await process("first")
    await pair.in_step()
    with pytest.raises(DatabaseUnavailableError, match="a standby, or was set to be read only"):
        await process("second", pair.standby.url())
    pair.lead_to(pair.standby)
    pool = await first._links.pool()
    await pool.expire_connections()
    with pytest.raises(DatabaseUnavailableError, match="a standby, or was set to be read only"):
        await first.create("A")
    pair.lead_to(pair.primary)
    assert await first.create("B")


async def test_a_role_that_may_only_read_is_told_so(pair: Pair, process: Process) -> None:
    await process("owner")
    await pair.primary.ask("create role reader login superuser")
    await pair.primary.ask("alter role reader set default_transaction_read_only = on")
    reader = await process("reader", pair.primary.url(user="reader"))
    with pytest.raises(DatabaseUnavailableError, match="set to be read only"):
        await reader.create("A")


async def test_a_history_is_told_without_the_function_that_names_the_system(pair: Pair, process: Process) -> None:
    await pair.primary.ask("revoke execute on function pg_control_system() from public")
    await pair.primary.ask("create role plain login")
    await pair.primary.ask("alter database loom owner to plain")
    loom = await process("plain", pair.primary.url(user="plain"))
    await loom.create("A")
    await synced(loom)
    other = await process("other", pair.primary.url(user="plain"))
    assert other._links.history == loom._links.history
    assert len((await other.ready()).tasks) == 1


async def test_a_redis_that_refuses_writes_is_read_by_nobody_after_an_interval(
    config: LoomConfig, redis_place: Callable[[str], Redis]
) -> None:
    server = redis_place("alone")
    server.start()
    config = replace(config, redis=replace(config.redis, url=server.url))
    async with Loom(config, agent="writer") as writer, Loom(config, agent="reader") as reader, client(server) as redis:
        task = await writer.create("A")
        await synced(writer)
        keeper = Housekeeper(reader)
        keeper.start()
        try:
            assert await (await reader._links.cache()).get_ready_tasks(10)
            await redis.config_set("min-replicas-to-write", 1)
            await writer.claim(task.id)
            await writer.done(task.id)
            assert (await writer.ready()).tasks == []
            await asyncio.sleep(2 * config.orchestration.sweep_seconds)
            await until(lambda: _nothing_ready(reader))
            for _ in range(20):
                assert (await reader.ready()).tasks == []
            await redis.config_set("min-replicas-to-write", 0)
            await synced(writer)
            await until(lambda: _mirror_answers(reader))
        finally:
            await keeper.stop()


async def test_a_replica_is_not_taken_for_a_mirror(config: LoomConfig, redis_place: Callable[[str], Redis]) -> None:
    server = redis_place("replica")
    server.start(replicaof="127.0.0.1 1")  # of a primary that is away
    config = replace(config, redis=replace(config.redis, url=server.url))
    async with Loom(config, agent="a") as loom:
        await loom.create("A")
        assert not await (await loom.relay()).step()
        assert len((await loom.ready()).tasks) == 1
        (told,) = [one for one in await loom.doctor() if not one.holds]
        assert "replica" in told.found


async def test_a_mirror_that_is_demoted_under_its_clients_is_taken_up_again_once_it_is_promoted(
    config: LoomConfig, redis_place: Callable[[str], Redis]
) -> None:
    server = redis_place("demoted")
    server.start()
    config = replace(config, redis=replace(config.redis, url=server.url))
    async with Loom(config, agent="writer") as writer, Loom(config, agent="reader") as reader, client(server) as redis:
        task = await writer.create("A")
        await synced(writer)
        assert await (await reader._links.cache()).get_ready_tasks(10)
        await redis.replicaof("127.0.0.1", "1")
        await writer.claim(task.id)
        assert (await writer.ready()).tasks == []
        (told,) = [one for one in await writer.doctor() if not one.holds]
        assert "replica" in told.found
        keeper = Housekeeper(reader)
        keeper.start()
        try:
            await until(lambda: _nothing_ready(reader))
            await redis.replicaof("NO", "ONE")
            await until(lambda: _mirror_answers(reader))
        finally:
            await keeper.stop()
        await synced(writer)
        assert all(one.holds for one in await writer.doctor())


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"cluster_enabled": "yes"}, "a node of a Redis Cluster"),
        ({"maxmemory": "100mb", "maxmemory_policy": "allkeys-lru"}, "its maxmemory-policy is allkeys-lru"),
        ({"min_replicas_to_write": "1"}, "Redis refuses: NOREPLICAS"),
        ({"replicaof": "127.0.0.1 1"}, "it is a replica"),
    ],
)
async def test_a_redis_that_is_no_mirror_is_named(
    config: LoomConfig, redis_place: Callable[[str], Redis], settings: dict[str, str], why: str
) -> None:
    server = redis_place("unfit")
    server.start(**settings)
    async with Loom(replace(config, redis=replace(config.redis, url=server.url)), agent="a") as loom:
        await loom.create("A")
        assert why in str(await loom.mirror_refused())
        (told,) = [one for one in await loom.doctor() if not one.holds]
        assert why in told.found
        assert len((await loom.ready()).tasks) == 1


def test_the_probe_asks_every_host_that_a_url_names(pair: Pair) -> None:
    found = ask_postgres(f"postgresql://loom@/loom?host=/nowhere,{pair.primary.sockets}")
    assert found is Answer.READY
    assert ask_postgres("postgresql://loom@127.0.0.1:1,[::1]:2/loom") is Answer.SILENT
    assert ask_postgres("postgresql://loom@127.0.0.1:x/loom") is Answer.SILENT


# --- what does not answer ---------------------------------------------------------------------------------------------


def test_every_wait_for_postgres_ends_within_half_a_minute() -> None:
    assert max(db._STATEMENT + db._CANCEL, db._CONNECTION + db._CANCEL, db._CONNECT) <= 30


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a test can wait for."""
    for name, seconds in {"_STATEMENT": 2.0, "_CONNECTION": 3.0, "_CANCEL": 1.0}.items():
        monkeypatch.setattr(db, name, seconds)


async def test_a_postgres_that_is_stopped_holds_no_call_for_longer_than_its_bound(
    impatient: None, pair: Pair, process: Process
) -> None:
    loom = await process("a")
    await loom.create("A")
    with pair.primary.stopped():
        async with asyncio.timeout(30):
            for _ in range(2):
                with pytest.raises(UnavailableError) as told:
                    await loom.create("B")
                assert told.value
    await again(loom)
    assert await loom.create("C")


async def test_a_lock_that_somebody_keeps_is_not_waited_for_for_ever(
    impatient: None, config: LoomConfig, database_url: str
) -> None:
    config = replace(config, database=replace(config.database, pool_min=1, pool_max=2))
    async with Loom(config, agent="a") as loom:
        task = await loom.create("A")
        keeper = await asyncpg.connect(database_url)
        try:
            await keeper.execute(f"begin; select from tasks where id = '{task.id}' for update")
            async with asyncio.timeout(30):
                ends = await asyncio.gather(
                    *(loom.update(task.id, title=f"B{n}") for n in range(8)), return_exceptions=True
                )
            told = {str(one) for one in ends}
            assert all(isinstance(one, DatabaseUnavailableError) for one in ends)
            assert any("did not answer a statement within 2 s" in one for one in told)
            assert any("had none of this process's connections free within 3 s" in one for one in told)
        finally:
            keeper.terminate()
        assert (await loom.update(task.id, title="C")).task.title == "C"


# --- what a server cannot do ------------------------------------------------------------------------------------------


async def test_a_role_that_may_not_create_is_told_what_it_lacks(pair: Pair, process: Process) -> None:
    await pair.primary.ask("create role visitor login")
    with pytest.raises(DatabaseUnavailableError, match="does not let this role do that: permission denied for schema"):
        await process("visitor", pair.primary.url(user="visitor"))


async def test_tables_of_another_program_are_left_alone(pair: Pair, process: Process) -> None:
    await pair.primary.ask("create table tasks (title text)")
    with pytest.raises(DatabaseUnavailableError, match=r"another program .*tasks.* exists"):
        await process("a")
    assert await pair.primary.ask("select count(*) from information_schema.tables where table_schema = 'public'") == 1


async def test_a_server_without_a_connection_left_says_so(pair: Pair, process: Process) -> None:
    await pair.primary.ask("create role few login connection limit 0")
    with pytest.raises(DatabaseUnavailableError, match="has no connection left for Loom"):
        await process("a", pair.primary.url(user="few"))


async def test_what_a_server_has_given_up_by_itself_is_told(database_url: str) -> None:
    """By the time-outs of a role or a database, or because somebody has told it to."""

    def refused(said: str) -> Any:
        return pytest.raises(DatabaseUnavailableError, match=said)

    one, other = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    try:
        with refused(r"did not go on with that: .* statement timeout"), db.translated():
            await one.execute("set statement_timeout = 1; select pg_sleep(5)")
        await other.execute("create table held ()")
        await other.execute("begin; lock table held")
        with refused(r"did not go on with that: .* lock timeout"), db.translated():
            await one.execute("set statement_timeout = 0; set lock_timeout = 1; select from held")
        await other.execute("rollback; set idle_in_transaction_session_timeout = 1; begin")
        await asyncio.sleep(0.2)
        with refused("does not answer"), db.translated():
            await other.execute("select 1")
    finally:
        one.terminate()
        other.terminate()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (asyncpg.PostgresIOError("could not read block 1"), "has trouble with its own files: could not read block 1."),
        (
            asyncpg.InvalidSchemaNameError("none has been selected"),
            "knows no schema to look in: none has been selected.",
        ),
        (asyncpg.ConfigurationLimitExceededError("too large"), "has met a limit of its own configuration: too large."),
    ],
)
def test_a_server_in_trouble_is_told_from_one_that_is_away(error: Exception, said: str) -> None:
    with pytest.raises(DatabaseUnavailableError, match=f"^PostgreSQL {said}"), db.translated():
        raise error


async def test_whatever_isolation_a_database_has_by_default_a_statement_sees_what_was_committed_before_it(
    config: LoomConfig, database_url: str, pool: db.Pool
) -> None:
    """Else the last two children of an epic, done at once, would each see the other one open, and the epic stay so."""
    name = await pool.fetchval("select current_database()")
    await pool.execute(f'alter database "{name}" set default_transaction_isolation = "repeatable read"')
    keeper = await asyncpg.connect(database_url)
    async with Loom(config, agent="a") as loom:
        epic = await loom.create("E", epic=True)
        children = [(await loom.create(title, parent_id=epic.id)).id for title in ("one", "two")]
        for child in children:
            await loom.claim(child)
        await keeper.execute(f"begin; select from tasks where id = '{epic.id}' for no key update")
        both = asyncio.gather(*(loom.done(child) for child in children))
        await until_waiting(pool, 2)
        await keeper.execute("commit")
        await both
        assert (await loom.get(epic.id)).task.status == "done"
    await keeper.close()


async def test_variables_for_other_servers_do_not_lead_away_from_looms_own(
    servers: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGPORT": "1",
        "PGSSLMODE": "verify-full",
        "PGSSLNEGOTIATION": "direct",
        "PGTARGETSESSIONATTRS": "standby",
        "PGGSSLIB": "sspi",
    }.items():
        monkeypatch.setenv(name, value)
    pool = await db.open_pool(servers.database_url, min_size=0, max_size=1, ours=True)
    try:
        assert await pool.fetchval("select 1") == 1
    finally:
        pool.terminate()


async def test_an_address_that_cannot_be_followed_is_named(pair: Pair, process: Process) -> None:
    with pytest.raises(DatabaseUnavailableError, match="cannot be connected to as its address asks"):
        await process("a", f"{pair.url}&sslmode=verify-full")


# --- a pooler ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lent", ["transaction"], indirect=True)
async def test_a_pooler_may_lend_a_server_for_each_transaction(lent: str, process: Process) -> None:
    looms = [await process(f"a{number}", lent, "transaction") for number in range(3)]
    tasks = await looms[0].apply_plan({"tasks": [{"title": f"T{number}"} for number in range(30)]})

    async def work(loom: Loom) -> int:
        done = 0
        while (claim := await loom.claim()) is not None:
            assert (await loom.get(claim.task.id)).task.status == "claimed"
            await loom.done(claim.task.id, {"by": loom.agent})
            done += 1
        return done

    ends = await asyncio.gather(*(work(loom) for loom in looms for _ in range(4)))
    assert sum(ends) == len(tasks)
    assert all(one.holds for one in await looms[0].doctor())


@pytest.mark.parametrize("lent", ["session"], indirect=True)
async def test_a_pooler_that_was_not_named_is(lent: str, process: Process) -> None:
    with pytest.raises(DatabaseUnavailableError, match=r"database\.pooler"):
        await process("a", lent)
    loom = await process("b", lent, "session")
    assert await loom.create("A")


async def test_a_transaction_that_its_process_has_left_open_ends(pair: Pair, process: Process) -> None:
    pool = await (await process("a"))._links.pool()
    assert await pool.fetchval("show idle_in_transaction_session_timeout") == "1min"


async def synced(loom: Loom) -> None:
    """The mirror has what was committed."""
    await horizon_passed(loom)
    await step(loom)


async def step(loom: Loom) -> None:
    """The relay has come to its end, after another process where that was at it."""
    relay = await loom.relay()
    await until(relay.step)


async def again(loom: Loom) -> None:
    """Its connections that are broken have been found so."""

    async def are_found() -> bool:
        with suppress(UnavailableError):
            await loom.sweep()
            return True
        return False

    await until(are_found)


async def generation(redis: RedisClient, loom: Loom) -> int:
    """How often the mirror was built."""
    return int(await redis.hget(channels.mirror_key(loom.project_id), "generation") or 0)


@asynccontextmanager
async def client(server: Redis) -> AsyncIterator[RedisClient]:
    """A client of it."""
    redis = RedisClient.from_url(server.url, decode_responses=True)
    try:
        yield redis
    finally:
        await redis.aclose()


async def _nothing_ready(loom: Loom) -> bool:
    return not (await loom.ready()).tasks


async def _mirror_answers(loom: Loom) -> bool:
    return await (await loom._links.cache()).get_ready_tasks(10) is not None
