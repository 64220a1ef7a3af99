"""Many at once: one winner, no lost wake-up, no deadlock that a caller sees, and every invariant afterwards."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from loom.config import LoomConfig
from loom.db import connection as db
from loom.db.connection import Pool
from loom.exceptions import DatabaseUnavailableError, LoomError
from loom.graph import store
from loom.graph.front import Loom
from loom.graph.model.task import Priority, TaskStatus
from loom.graph.rules import editing
from loom.graph.store.transaction import Transaction
from tests.conftest import Opener
from tests.graph.test_lifecycle import holds


async def until_waiting(pool: Pool, count: int = 1) -> None:
    """Returns when that many sessions of this database really wait for a lock."""
    for _ in range(200):
        waiting = await pool.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )
        if waiting >= count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody came to wait")


def claim_until_empty(config: LoomConfig, name: str) -> tuple[list[str], list[str]]:
    """What one process claims, and the codes of its errors."""

    async def work() -> tuple[list[str], list[str]]:
        claimed: list[str] = []
        errors: list[str] = []
        async with Loom(config, agent=name) as loom:
            while True:
                try:
                    claim = await loom.claim()
                except LoomError as error:
                    errors.append(error.code)
                    continue
                if claim is None:
                    return claimed, errors
                claimed.append(claim.task.id)

    return asyncio.run(work())


async def test_sixteen_processes_claim_a_thousand_tasks_once_each(loom: Loom, config: LoomConfig) -> None:
    tasks = await loom.apply_plan({"tasks": [{"title": f"T{n}"} for n in range(1000)]})
    context = multiprocessing.get_context("spawn")
    with context.Pool(16) as processes:
        jobs = [processes.apply_async(claim_until_empty, (config, f"p{n}")) for n in range(16)]
        results = await asyncio.to_thread(lambda: [job.get(60) for job in jobs])
    claimed = Counter(task_id for ids, _ in results for task_id in ids)
    assert claimed == Counter(task.id for task in tasks)
    assert [error for _, errors in results for error in errors] == []
    await holds(loom)


async def test_sixteen_agents_want_the_same_task(loom: Loom, open_loom: Opener) -> None:
    task = await loom.create("A")
    agents = [await open_loom(f"a{n}") for n in range(16)]
    results = await asyncio.gather(*(agent.claim(task.id) for agent in agents), return_exceptions=True)
    losers = [result for result in results if isinstance(result, LoomError)]
    assert {error.code for error in losers} == {"claim_conflict"}
    assert len(losers) == 15


async def test_two_hundred_completions_that_share_dependents(loom: Loom, open_loom: Opener) -> None:
    rng = random.Random(7)
    first = [{"key": f"a{n}", "title": f"A{n}"} for n in range(200)]
    after = [
        {"key": f"b{n}", "title": f"B{n}", "depends_on": rng.sample([one["key"] for one in first], 60)}
        for n in range(40)
    ]
    tasks = await loom.apply_plan({"tasks": [*first, *after]})
    ids = [task.id for task in tasks if task.title.startswith("A")]
    rng.shuffle(ids)
    agents = [await open_loom(f"a{n}") for n in range(4)]
    outcomes = await asyncio.gather(*(agents[n % 4].done(task_id) for n, task_id in enumerate(ids)))
    freed = Counter(task_id for outcome in outcomes for task_id in outcome.unblocked)
    assert freed == Counter(task.id for task in tasks if task.title.startswith("B"))
    assert (await loom.status()).counts["blocked"] == 0
    await holds(loom)


async def test_both_halves_of_a_fan_in_at_once(loom: Loom, open_loom: Opener) -> None:
    one, two = await open_loom("one"), await open_loom("two")
    for _ in range(25):
        epic = await loom.create("E", epic=True)
        a, b = await loom.create("A", parent_id=epic.id), await loom.create("B", parent_id=epic.id)
        c, d = await loom.create("C", depends_on=[a.id, b.id]), await loom.create("D", depends_on=[epic.id])
        outcomes = await asyncio.gather(one.done(a.id), two.done(b.id))
        assert sorted(task_id for outcome in outcomes for task_id in outcome.unblocked) == sorted([c.id, d.id])
        assert [task_id for outcome in outcomes for task_id in outcome.closed] == [epic.id]
    await holds(loom)


async def test_an_edge_added_while_its_parent_completes(loom: Loom, pool: Pool) -> None:
    parent = await loom.create("parent")
    await loom.claim(parent.id)
    go = asyncio.Event()

    async def create_slowly(connection: db.Connection) -> str:
        tx = Transaction(connection, loom.project_id)
        new = store.NewTask("loom-11111111", "child", TaskStatus.PENDING, Priority.P1, 4, depends_on=(parent.id,))
        child = await editing.create(tx, new, "other")
        await go.wait()
        await store.events.record_events(tx)
        return child.status

    creating = asyncio.create_task(db.in_transaction(pool, create_slowly))
    await asyncio.sleep(0.1)
    completing = asyncio.create_task(loom.done(parent.id))
    await until_waiting(pool)
    go.set()
    assert await creating == "blocked"
    assert (await completing).unblocked == ("loom-11111111",)
    assert await (await loom.relay()).step()
    await holds(loom)


async def test_an_edge_to_a_parent_that_just_completed_does_not_hold(loom: Loom, pool: Pool) -> None:
    parent = await loom.create("parent")
    held = await asyncpg.connect(dsn=loom.config.database.url)
    transaction = held.transaction()
    await transaction.start()
    await held.execute("select from tasks where id = $1 for no key update", parent.id)
    creating = asyncio.create_task(loom.create("child", depends_on=[parent.id]))
    await until_waiting(pool)
    await held.execute(
        "update tasks set status = 'done', done_at = now(), ready_at = null, version = 2 where id = $1", parent.id
    )
    await held.execute(
        "insert into events (project_id, type, task_id, status, version) values ($1, 'task.done', $2, 'done', 2)",
        loom.project_id,
        parent.id,
    )
    await transaction.commit()
    await held.close()
    assert (await creating).status == "pending"
    await (await loom.relay()).step()
    await holds(loom)


async def test_an_epics_dependency_against_the_claim_of_its_child(loom: Loom, open_loom: Opener) -> None:
    """Either the child is claimed and the edge refused, or the edge stands and the child is blocked; never both."""
    other = await open_loom("other")
    first = await loom.create("first")
    await loom.claim(first.id)
    for _ in range(20):
        epic = await loom.create("E", epic=True)
        child = await loom.create("C", parent_id=epic.id)
        claimed, updated = await asyncio.gather(
            other.claim(child.id), loom.update(epic.id, depends_on=[first.id]), return_exceptions=True
        )
        assert isinstance(claimed, LoomError) != isinstance(updated, LoomError)
    await holds(loom)


async def test_a_claim_that_may_have_been_carried_out_is_not_repeated(
    loom: Loom, pool: Pool, database_url: str
) -> None:
    task = await loom.create("A")
    holder = await asyncpg.connect(database_url)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("select from tasks where id = $1 for no key update", task.id)
    claiming = asyncio.create_task(loom.claim(task.id))
    await until_waiting(pool)
    await pool.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and wait_event_type = 'Lock'"
    )
    with pytest.raises(DatabaseUnavailableError):
        await asyncio.wait_for(claiming, 10)
    await transaction.rollback()
    await holder.close()
    assert (await loom.get(task.id)).task.attempt == 0
    assert await loom.claim(task.id) is not None  # the next call finds the database again


@pytest.mark.parametrize("seed", range(4))
async def test_a_storm_of_everything(loom: Loom, open_loom: Opener, seed: int) -> None:
    """Agents that do anything at random, at once; only errors of Loom's own, and every invariant afterwards."""
    rng = random.Random(seed)
    known: list[str] = []
    codes: Counter[str] = Counter()

    def some(most: int) -> list[str]:
        return rng.sample(known, min(len(known), rng.randint(0, most)))

    async def act(agent: Loom) -> None:
        one = rng.choice(known) if known else "loom-00000000"
        actions: list[Callable[[], Awaitable[object]]] = [
            lambda: agent.claim(),
            lambda: agent.claim(one),
            lambda: agent.done(one, {"n": rng.random()}),
            lambda: agent.done(one),
            lambda: agent.fail(one, "because", retry=rng.random() < 0.5),
            lambda: agent.escalate(one, "what now?"),
            lambda: agent.release(one, note="later"),
            lambda: agent.update(one, depends_on=some(3)),
            lambda: agent.update(one, priority=rng.choice(["p0", "p1", "p2"])),
            lambda: agent.cancel(one, downstream=rng.random() < 0.1) if rng.random() < 0.3 else agent.ready(),
            lambda: agent.resolve(one, rng.choice(["retry", "answer", "waive", "cancel"]), note="so"),
            lambda: agent.resolve(one, "reassign", agent_id="elsewhere"),
            lambda: agent.send("*", "hello"),
            lambda: agent.sweep(),
            lambda: agent.end_session(),
        ]

        async def create() -> None:
            parent = rng.choice(known) if known and rng.random() < 0.4 else None
            made = await agent.create("T", depends_on=some(3), parent_id=parent, epic=rng.random() < 0.15)
            known.append(made.id)

        action = create if rng.random() < 0.35 else rng.choice(actions)
        try:
            await action()
        except LoomError as error:
            codes[error.code] += 1

    async def run(agent: Loom) -> None:
        for _ in range(60):
            await act(agent)

    agents = [await open_loom(f"a{n}") for n in range(8)]
    await asyncio.gather(*(run(agent) for agent in agents))
    assert set(codes) <= {"claim_conflict", "task_state", "dependency_cycle", "task_not_found", "invalid_input"}, codes
    await holds(loom)
