"""Many at once: one winner, no lost wake-up, no deadlock that a caller sees, and every invariant afterwards."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from loom.config import LoomConfig
from loom.db.connection import Pool
from loom.exceptions import DatabaseUnavailableError, LoomError
from loom.graph.front import Loom
from tests.conftest import Opener
from tests.graph.conftest import Gate, Rival, begun, waits
from tests.graph.test_lifecycle import holds


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


async def test_an_edge_added_while_its_parent_completes(loom: Loom, open_loom: Opener, pool: Pool, gate: Gate) -> None:
    other = await open_loom("other")
    parent = await loom.create("parent")
    await loom.claim(parent.id)
    await gate.shut("new.agent = 'other'")
    async with begun(other.create("child", depends_on=[parent.id])) as creating:
        await waits(pool, creating)
        async with begun(loom.done(parent.id)) as completing:
            await waits(pool, completing, 2)
            await gate.open()
            child = await creating
            assert child.status == "blocked"
            assert (await completing).unblocked == (child.id,)
    assert await (await loom.relay()).step()
    await holds(loom)


async def test_what_a_task_gains_after_its_claim_follows_when_it_is_done(loom: Loom) -> None:
    epic = await loom.create("epic", epic=True)
    first, second = await loom.create("first"), await loom.create("second")
    for task in (first, second):
        await loom.claim(task.id)
    await loom.update(first.id, parent_id=epic.id)
    after = await loom.create("after", depends_on=[second.id])
    assert (await loom.done(first.id)).closed == (epic.id,)
    assert (await loom.done(second.id)).unblocked == (after.id,)
    await holds(loom)


@pytest.mark.parametrize("pooler", ["none", "session", "transaction"])
async def test_a_single_statement_sees_what_was_committed_while_it_waited_whatever_isolation_is_the_default(
    config: LoomConfig, pool: Pool, gate: Gate, rival: Rival, pooler: str
) -> None:
    name = await pool.fetchval("select current_database()")
    await pool.execute(f'alter database "{name}" set default_transaction_isolation = "repeatable read"')
    config = replace(config, database=replace(config.database, pooler=pooler))
    async with Loom(config, agent="one") as loom, Loom(config, agent="other") as other:
        parent, ready = await loom.create("parent"), await loom.create("ready")
        await loom.claim(parent.id)
        await gate.shut("new.agent = 'other'")
        async with begun(other.create("child", depends_on=[parent.id])) as creating:
            await waits(pool, creating)
            async with begun(loom.done(parent.id)) as completing:
                await waits(pool, completing, 2)
                await gate.open()
                assert (await completing).unblocked == ((await creating).id,)
        await rival.execute("update tasks set title = 'changed' where id = $1", ready.id)
        async with begun(loom.claim(ready.id)) as claiming:
            await waits(pool, claiming)
            await rival.commit()
            assert await claiming is not None


async def test_an_edge_to_a_parent_that_just_completed_does_not_hold(loom: Loom, pool: Pool, rival: Rival) -> None:
    parent = await loom.create("parent")
    await rival.lock(parent.id)
    async with begun(loom.create("child", depends_on=[parent.id])) as creating:
        await waits(pool, creating)
        await rival.execute(
            "update tasks set status = 'done', done_at = now(), ready_at = null, version = 2 where id = $1", parent.id
        )
        await rival.execute(
            "insert into events (project_id, type, task_id, status, version) values ($1, 'task.done', $2, 'done', 2)",
            loom.project_id,
            parent.id,
        )
        await rival.commit()
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


async def test_a_claim_that_may_have_been_carried_out_is_not_repeated(loom: Loom, pool: Pool, rival: Rival) -> None:
    task = await loom.create("A")
    await rival.lock(task.id)
    async with begun(loom.claim(task.id)) as claiming:
        await waits(pool, claiming)
        await pool.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and wait_event_type = 'Lock'"
        )
        with pytest.raises(DatabaseUnavailableError):
            await asyncio.wait_for(claiming, 30)
    await rival.commit()
    assert (await loom.get(task.id)).task.attempt == 0
    assert await loom.claim(task.id) is not None  # the next call finds the database again


async def test_a_question_whose_connection_breaks_is_asked_again(loom: Loom, pool: Pool, rival: Rival) -> None:
    task = await loom.create("A")
    await rival.execute("lock table task_deps")
    async with begun(loom.get(task.id)) as asking:
        await waits(pool, asking)
        await pool.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and wait_event_type = 'Lock'"
        )
        await asyncio.sleep(0.1)
        await rival.commit()
        assert (await asyncio.wait_for(asking, 30)).task.id == task.id


@pytest.mark.parametrize(("error", "times"), [(ConnectionResetError, 2), (TimeoutError, 1)])
async def test_what_does_not_come_in_time_is_not_waited_for_twice(
    loom: Loom, error: type[Exception], times: int
) -> None:
    asked = 0

    async def ask(_: object) -> None:
        nonlocal asked
        asked += 1
        raise error

    with pytest.raises(DatabaseUnavailableError):
        await loom.links.read(ask)
    assert asked == times


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
