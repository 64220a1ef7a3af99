"""How many tasks are in each status: always what counting them says, without counting them."""

from __future__ import annotations

import asyncio
import random

import pytest

from loom.db import connection as db
from loom.db.connection import Pool
from loom.exceptions import LoomError
from loom.graph import project
from loom.graph.front import Loom
from loom.graph.rules import retention
from loom.graph.store import counting
from tests.conftest import Opener
from tests.graph.conftest import Rival, soon
from tests.graph.test_landings import land, queued
from tests.graph.test_scale import buffers, fill


@pytest.fixture(autouse=True)
def kept_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are kept of projects of any size, and moved on at every sweep."""
    monkeypatch.setattr(counting, "LARGE", 0)
    monkeypatch.setattr(counting, "DUE", 1)


async def sound(loom: Loom, pool: Pool) -> None:
    async with db.snapshot(pool) as connection:
        assert await counting.wrong(connection, loom.project_id) == []


async def standing(loom: Loom, pool: Pool) -> int:
    """The transaction up to which is counted; 0 where nothing is kept."""
    found: str | None = await pool.fetchval(
        "select upto::text from task_counts where project_id = $1 and counts is not null", loom.project_id
    )
    return int(found or 0)


async def test_whatever_is_done_to_tasks_their_counts_follow(loom: Loom, pool: Pool) -> None:
    await loom.create("first")
    await loom.sweep()
    before = await standing(loom, pool)
    assert before
    epic = await loom.create("epic", epic=True)
    one, two, three = [await loom.create(title, parent_id=epic.id) for title in ("one", "two", "three")]
    await loom.create("after", depends_on=[one.id])
    for step in (
        loom.claim(one.id), loom.done(one.id), loom.claim(two.id), loom.fail(two.id, "no"), loom.cancel(three.id),
        loom.reopen(one.id), loom.reopen(three.id), loom.done(one.id), loom.cancel(epic.id),
        loom.apply_plan({"tasks": [{"title": f"T{n}"} for n in range(30)]}),
    ):  # fmt: skip
        await step
        await sound(loom, pool)
    assert await standing(loom, pool) == before, "what is new is added to what was kept"
    await loom.sweep()
    assert await standing(loom, pool) > before
    await sound(loom, pool)
    assert [one.rule for one in await loom.doctor() if not one.holds] == []


async def test_what_an_open_transaction_may_add_is_not_counted_yet(loom: Loom, pool: Pool, rival: Rival) -> None:
    """A change of an older transaction may come later than one of a newer one, of the same task too."""
    task = await loom.create("A")
    await loom.sweep()
    await rival.execute("select pg_current_xact_id()")
    claim = await loom.claim(task.id)
    assert claim is not None
    await loom.sweep()
    await sound(loom, pool)
    await rival.execute(
        "update tasks set status = 'pending', lease_expires_at = null, version = 3 where id = $1", task.id
    )
    await rival.execute(
        "insert into events (project_id, type, task_id, status, version) values ($1, 'task.updated', $2, 'pending', 3)",
        loom.project_id, task.id,
    )  # fmt: skip
    await rival.commit()
    await sound(loom, pool)
    await loom.sweep()
    await sound(loom, pool)


async def test_counting_begins_behind_what_is_still_open(loom: Loom, pool: Pool, rival: Rival) -> None:
    task = await loom.create("A")
    assert await loom.claim(task.id)
    await rival.execute(
        "update tasks set status = 'pending', lease_expires_at = null, version = 3 where id = $1", task.id
    )
    await rival.execute(
        "insert into events (project_id, type, task_id, status, version) values ($1, 'task.updated', $2, 'pending', 3)",
        loom.project_id, task.id,
    )  # fmt: skip
    await loom.create("B")  # which is counted by its event, since that of the older transaction may still come
    await loom.sweep()
    assert await standing(loom, pool)
    await sound(loom, pool)
    await rival.commit()
    await sound(loom, pool)


async def test_events_of_before_the_history_are_not_counted_when_their_transactions_come_again(
    loom: Loom, pool: Pool
) -> None:
    """As where a project was restored on another server, whose transactions have other numbers."""
    await loom.create("A")
    await pool.execute("update projects set history_start = (select max(id) from events)")
    await loom.sweep()
    upto = await standing(loom, pool)
    await pool.execute("update events set xid = $1::text::xid8", str(upto + 3))
    for _ in range(10):
        await pool.execute("select pg_current_xact_id()")
    await sound(loom, pool)
    await loom.sweep()
    await sound(loom, pool)


async def test_many_at_once_are_counted_at_every_moment(loom: Loom, pool: Pool, open_loom: Opener) -> None:
    await loom.apply_plan({"tasks": [{"title": f"T{n}"} for n in range(40)]})
    await loom.sweep()
    draw, moments, working = random.Random(1), set[int](), True

    async def work(one: Loom) -> None:
        for _ in range(15):
            try:
                if claim := await one.claim():
                    await (one.done if draw.random() < 0.6 else one.cancel)(claim.task.id)
                    if draw.random() < 0.5:
                        await one.reopen(claim.task.id)
            except LoomError:
                pass  # somebody else was faster

    async def keep() -> None:
        while working:
            await loom.sweep()
            moments.add(await standing(loom, pool))

    async def look() -> None:
        while working:
            await sound(loom, pool)

    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(keep()), group.create_task(keep()), group.create_task(look())]
        fronts = [await open_loom(f"w{n}") for n in range(4)]
        await asyncio.gather(*map(work, fronts))
        working = False
        await asyncio.gather(*beside)
    assert len(moments) > 3
    await sound(loom, pool)


async def test_whoever_claims_waits_for_nobody_who_counts(loom: Loom, pool: Pool, rival: Rival) -> None:
    await loom.create("A")
    await loom.sweep()
    before = await standing(loom, pool)
    await rival.execute("select from task_counts for update")
    claim = await soon(loom.claim())
    assert claim is not None
    await soon(loom.done(claim.task.id))
    await soon(loom.sweep())
    assert await standing(loom, pool) == before, "one counts at a time"


async def test_where_nothing_says_what_a_task_was_all_are_counted(loom: Loom, pool: Pool) -> None:
    task = await loom.create("A")
    await loom.sweep()
    await loom.claim(task.id)
    await pool.execute("delete from events where version = 1")
    await sound(loom, pool)
    await loom.sweep()
    await loom.sweep()
    assert await standing(loom, pool)
    await sound(loom, pool)


async def test_where_nothing_says_it_nothing_is_kept_before_that_lies_behind_all_that_is_open(
    loom: Loom, pool: Pool, rival: Rival
) -> None:
    task = await loom.create("A")
    await rival.execute("select pg_current_xact_id()")
    await loom.claim(task.id)
    await pool.execute("delete from events where version = 1")
    await loom.sweep()
    assert await standing(loom, pool) == 0
    await sound(loom, pool)
    await rival.commit()
    await loom.sweep()
    assert await standing(loom, pool)
    await sound(loom, pool)


async def test_where_too_much_has_happened_all_are_counted(
    loom: Loom, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "ADDED", 3)
    await loom.create("A")
    await loom.sweep()
    await loom.apply_plan({"tasks": [{"title": f"T{n}"} for n in range(10)]})
    await sound(loom, pool)


async def test_what_is_counted_is_pruned_and_nothing_else(loom: Loom, pool: Pool) -> None:
    """A landing counts by its event, which nothing else would tell of once it is gone."""
    await loom.create("A")
    await loom.sweep()
    _, landing = await queued(loom)
    await land(loom, landing)
    await pool.execute("update events set created_at = now() - interval '2 years'")
    await loom.transact(lambda tx: retention.prune(tx, loom.config.retention))
    assert await pool.fetchval("select count(*) from events where type = 'task.landed'") == 0
    assert (await loom.status()).landing.landed == 1
    await sound(loom, pool)


async def test_what_was_counted_in_another_history_does_not_count(loom: Loom, pool: Pool) -> None:
    await loom.create("A")
    await loom.sweep()
    await pool.execute("""update task_counts set counts = '{"done": 7}', history = 'another'""")
    await sound(loom, pool)
    await pool.execute("update task_counts set newest_id = 0")
    await loom.sweep()
    assert await standing(loom, pool)
    await sound(loom, pool)


async def test_wrong_counts_are_told_and_mended(loom: Loom, pool: Pool) -> None:
    await loom.create("A")
    await loom.sweep()
    await pool.execute("""update task_counts set counts = counts || '{"done": 7}'""")
    found = [one for one in await loom.doctor() if not one.holds]
    assert [(one.rule, one.found) for one in found] == [
        ("it is known how many tasks are in each status", "done: 7 instead of 0")
    ]
    assert [one for one in await loom.doctor(deep=True) if not one.holds] == []


async def test_of_few_tasks_nothing_is_kept(loom: Loom, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "LARGE", 1)
    await loom.create("A")
    await loom.sweep()
    assert not await standing(loom, pool)
    assert (await loom.status()).counts["pending"] == 1
    await loom.create("B")
    await loom.sweep()
    assert await standing(loom, pool)
    await sound(loom, pool)


async def test_counts_are_moved_on_in_steps(loom: Loom, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    await loom.create("A")
    await loom.sweep()
    monkeypatch.setattr(counting, "BATCH", 2)
    for n in range(7):
        await loom.create(f"T{n}")
    steps = 0
    while await loom.transact(counting.keep):
        steps += 1
        await sound(loom, pool)
    assert steps >= 2
    monkeypatch.setattr(counting, "ADDED", 0)
    await loom.create("B")
    assert (await loom.status()).counts["pending"] == 9, "of too many events all tasks are counted"


async def test_a_hundred_thousand_are_counted_by_what_has_changed(loom: Loom, pool: Pool) -> None:
    await fill(loom, pool, 100_000)
    await pool.execute(
        "insert into events (project_id, type, task_id, status, version)"
        " select project_id, 'task.created', id, status, version from tasks"
    )
    await pool.execute("analyze events")
    await loom.sweep()
    for _ in range(100):  # each of which lets four others go
        claim = await loom.claim()
        assert claim is not None
        await loom.done(claim.task.id)
    assert await buffers(pool, counting.SINCE, loom.project_id, None, counting.ADDED + 1) <= 500 * 12
    async with pool.acquire() as connection:
        status = await project.get_project_status(connection, loom.project_id)
    assert (status.counts["done"], status.counts["pending"]) == (50_100, 10_300)
    await sound(loom, pool)
