"""What has been kept long enough goes, and what tells a row stays."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from loom.bus import channels
from loom.config import LoomConfig, RetentionConfig
from loom.db.connection import Pool
from loom.exceptions import ClaimConflictError
from loom.graph.front import Loom
from loom.graph.rules import landings as landing
from loom.graph.store import proofs, retention
from tests.graph import test_landings as landings
from tests.graph.test_lifecycle import holds

Clock = Callable[[float], Awaitable[None]]
YEAR = 366 * 86400.0


async def types(pool: Pool) -> list[str]:
    return [row["type"] for row in await pool.fetch("select type from events order by id")]


async def test_old_events_go_save_those_that_tell_their_rows(loom: Loom, pool: Pool, clock: Clock) -> None:
    done, other = await loom.create("done"), await loom.create("other")
    await loom.done(done.id)
    await clock(YEAR)
    await loom.update(other.id, title="still open")
    await loom.prune()
    assert await types(pool) == ["task.done", "task.updated"]
    await holds(loom)


async def test_what_was_kept_for_a_row_goes_when_the_row_has_moved_on(loom: Loom, pool: Pool, clock: Clock) -> None:
    task = await loom.create("A")
    await clock(YEAR)
    await loom.prune()
    assert await types(pool) == ["task.created"]
    await loom.update(task.id, title="B")
    await clock(YEAR)
    await loom.prune()
    assert await types(pool) == ["task.updated"]
    await holds(loom)


async def test_many_batches(loom: Loom, pool: Pool, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 7)
    for task in await loom.apply_plan({"tasks": [{"title": f"T{n}"} for n in range(20)]}):
        await loom.done(task.id)
    await loom.send("x", "hello")
    await clock(YEAR)
    await loom.prune()
    assert await types(pool) == ["task.done"] * 20
    assert await pool.fetchval("select count(*) from messages") == 0
    await holds(loom)


async def test_notes_stay_while_their_task_is_unfinished(
    loom: Loom, pool: Pool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    task, other = await loom.create("A"), await loom.create("B")
    for text in ("one", "two", "three"):
        await loom.note(task.id, text)
    await loom.note(other.id, "four")
    await loom.send("x", "hello")
    await clock(YEAR)
    await loom.send("x", "young")
    await loom.prune()
    assert [one.text for one in (await loom.get(task.id)).notes] == ["one", "two", "three"]
    assert await pool.fetchval("select count(*) from messages") == 5
    await loom.done(task.id)
    await loom.cancel(other.id)
    await loom.prune()
    assert [row["body"] for row in await pool.fetch("select body from messages")] == ["young"]


async def test_nothing_young_goes(loom: Loom, pool: Pool) -> None:
    task = await loom.create("A")
    await loom.done(task.id)
    await loom.prune()
    assert len(await types(pool)) == 3


async def test_zero_days_keep_for_ever(config: LoomConfig, pool: Pool, clock: Clock) -> None:
    async with Loom(replace(config, retention=RetentionConfig(0, 0, 0)), agent="a") as loom:
        task = await loom.create("A")
        await loom.done(task.id)
        await clock(100 * YEAR)
        await loom.prune()
    assert len(await types(pool)) == 3


async def test_old_proofs_go(loom: Loom, pool: Pool, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)

    async def ran() -> None:
        await loom.transact(lambda tx: proofs.begin(tx, "unit", "a" * 64, agent="a", tree="t"))

    for _ in range(5):
        await ran()
    await clock(YEAR)
    await ran()
    await loom.prune()
    assert await pool.fetchval("select count(*) from proofs") == 1
    await clock(YEAR)
    await loom.prune()
    assert await pool.fetchval("select count(*) from proofs") == 0


async def test_one_process_prunes_at_a_time(loom: Loom, pool: Pool, clock: Clock) -> None:
    task = await loom.create("A")
    await loom.done(task.id)
    await clock(YEAR)
    async with pool.acquire() as held, held.transaction():
        await held.execute("select from projects where id = $1 for no key update", loom.project_id)
        await loom.prune()
        assert len(await types(pool)) == 3
    await loom.prune()
    assert await types(pool) == ["task.done"]


async def test_a_wait_from_before_what_was_pruned_begins_there_and_says_so(loom: Loom, clock: Clock) -> None:
    since = (await loom.wait("any", timeout=0)).since
    task = await loom.create("A")
    await loom.done(task.id)
    await clock(YEAR)
    await loom.prune()
    seen = await loom.wait("any", since=since, timeout=0)
    assert seen.pruned
    assert not (await loom.wait("any", since=seen.since, timeout=0)).pruned


async def test_a_late_report_is_kept_once_and_not_whole(loom: Loom, pool: Pool, clock: Clock) -> None:
    task = await loom.create("A")
    first = await loom.claim(task.id)
    assert first is not None
    await clock(700)
    await loom.sweep()
    await loom.claim(task.id, agent_id="other")
    for token in (first.task.claim_token, first.task.claim_token, 77, 78):
        with pytest.raises(ClaimConflictError):
            await loom.done(task.id, {"text": "x" * 200_000}, token=token)
    (row,) = await pool.fetch("select data from events where data ->> 'refused' is not null")
    assert json.loads(row["data"])["output_bytes"] > 200_000
    assert len(row["data"]) < 9_000


async def test_the_stream_names_large_data_and_does_not_carry_it(loom: Loom, redis_conn: Redis) -> None:
    task = await loom.create("A")
    await loom.claim(task.id)
    await loom.fail(task.id, "y" * 5_000)
    assert await (await loom.relay()).step()
    entries: Any = await redis_conn.xrange(channels.event_stream(loom.project_id))
    told = [fields["data"] for _, fields in entries if "data" in fields]
    assert any("left_out" in json.loads(data) for data in told)
    assert all(len(data) < 2_100 for data in told)


async def test_a_claim_by_id_takes_over_from_a_lease_that_no_sweep_has_seen(loom: Loom, clock: Clock) -> None:
    task = await loom.create("A")
    await loom.claim(task.id, agent_id="gone")
    await clock(700)
    claim = await loom.claim(task.id, agent_id="next")
    assert claim is not None
    assert (claim.task.assignee, claim.task.attempt) == ("next", 2)
    await holds(loom)


async def test_a_claim_that_landed_nothing_goes_after_all_that_was_about_to_land_of_it(
    loom: Loom, pool: Pool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, queued = await landings.queued(loom)
    for commit in ("b" * 40, "c" * 40):
        await landings.intend(loom, queued, commit=commit)
        await loom.transact(partial(landing.withdraw, landing_ids=[queued.id], commit_id=commit))
    await loom.cancel(task.id)
    await clock(YEAR)
    monkeypatch.setattr(retention, "BATCH", 1)
    await loom.prune()
    assert await pool.fetchval("select count(*) from landing_intents") == 0
    assert await pool.fetchval("select count(*) from landings") == 0


async def test_of_what_lands_the_tasks_keep_where_they_are(loom: Loom, pool: Pool, clock: Clock) -> None:
    _, first = await landings.queued(loom, "landed")
    await landings.intend(loom, first, commit="c" * 40)
    await loom.transact(lambda tx: landing.withdraw(tx, [first.id], "c" * 40))
    await landings.land(loom, first)
    task, second = await landings.queued(loom, "released")
    await landings.intend(loom, second)
    await loom.transact(lambda tx: landing.withdraw(tx, [second.id], landings.MERGED))
    await loom.release(task.id)
    late = (await landings.begun(loom, "late")).task
    cancelled, _ = await landings.queued(loom, "cancelled")
    await loom.cancel(cancelled.id)
    await clock(700)
    await loom.sweep()
    again = await loom.claim(task.id)
    assert again is not None
    await loom.prune()
    assert await pool.fetchval("select count(*) from landings") == 4
    assert await pool.fetchval("select count(*) from landing_intents") == 3
    await clock(YEAR)
    await loom.prune()
    assert {one["task_id"] for one in await pool.fetch("select * from landings")} == {first.task_id, late.id}
    assert await pool.fetchval("select count(*) from landing_intents") == 0
    assert (await loom.get(first.task_id)).landing is not None
    assert (await loom.done(late.id, token=late.claim_token)).landing is not None
