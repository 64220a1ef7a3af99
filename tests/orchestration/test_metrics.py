"""What is measured is right, is read by Prometheus, and costs little however long a project has gone on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from fastmcp import Client
from fastmcp.exceptions import ToolError
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from loom import calls
from loom.bus import channels
from loom.db.connection import Pool
from loom.graph.front import Loom
from loom.graph.store import metrics as totals
from loom.mcp.server import build
from loom.orchestration import metrics
from tests.cli.conftest import Cli, bare, cli
from tests.conftest import Opener
from tests.pages import DOCS, METRICS

__all__ = ["bare", "cli"]

Clock = Callable[[float], Awaitable[None]]
Samples = dict[str, dict[tuple[str, ...], float]]


async def measured(*fronts: Loom) -> Samples:
    """Each sample by its name and the labels beside those of the project, as the reference parser reads it."""
    text = (await metrics.exposition(fronts)).decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            labels = tuple(value for name, value in sample.labels.items() if not name.startswith("project"))
            assert labels not in found.setdefault(sample.name, {}) or len(fronts) > 1, sample
            found[sample.name][labels] = sample.value
    return found


async def test_tasks_events_and_what_waits_are_counted(loom: Loom, clock: Clock) -> None:
    done = await loom.create("Done")
    claim = await loom.claim(done.id)
    assert claim is not None
    await clock(90)
    usage = {"input_tokens": 1000, "output_tokens": 20, "cost_usd": 0.25, "model": "m", "cached_input_tokens": -5}
    await loom.note_attempt(done.id, claim.task.claim_token, {"usage": usage})
    await loom.done(done.id)
    asked, ready = await loom.create("Asks"), await loom.create("Ready", priority="p2")
    await loom.claim(asked.id)
    await loom.escalate(asked.id, "Which?")
    dead = await loom.create("Dead")
    await loom.claim(dead.id)
    await loom.fail(dead.id, "no", retry=False)
    await clock(60)
    assert ready.id
    await (await loom.relay()).step()
    first = await measured(loom)
    counts = {"pending": 1, "blocked": 1, "claimed": 0, "done": 1, "failed": 1, "cancelled": 0, "epic": 0}
    assert first["loom_tasks"] == {(status,): count for status, count in counts.items()}
    assert first["loom_events_total"][("task.claimed",)] == 3
    assert first["loom_events_total"][("task.done",)] == 1
    assert first["loom_waiting"] == {("question",): 1, ("dead_letter",): 1, ("landing",): 0}
    assert 60 <= first["loom_oldest_ready_seconds"][()] < 90
    assert 90 <= first["loom_task_seconds_sum"][("working",)] < 100
    assert first["loom_task_seconds_count"] == {("waiting",): 1, ("working",): 1}
    assert first["loom_tokens_total"] == {("input",): 1000, ("output",): 20, ("cached_input",): 0}
    assert first["loom_cost_usd_total"] == {(): 0.25}
    assert first["loom_up"] == first["loom_mirror_up"] == {(): 1}
    again = await measured(loom)
    assert again["loom_events_total"] == first["loom_events_total"], "each event counts once"


async def test_whatever_an_agent_tells_of_its_usage_nothing_breaks(loom: Loom) -> None:
    for number, usage in enumerate(["much", {"cost_usd": "a lot"}, [1], {"input_tokens": 1, "cost_usd": None}, {}]):
        task = await loom.create(f"Task {number}")
        claim = await loom.claim(task.id)
        assert claim is not None
        await loom.note_attempt(task.id, claim.task.claim_token, {"usage": usage})
    huge = await loom.create("Huge")
    await loom.look(
        lambda connection: connection.execute(
            "insert into events (project_id, type, task_id, data)"
            " values ($1, 'attempt.ended', $2, '{\"usage\": {\"cost_usd\": 1e999}}')",
            loom.project_id,
            huge.id,
        )
    )
    found = await measured(loom)
    assert found["loom_tokens_total"] == {("input",): 1}
    assert found["loom_cost_usd_total"] == {(): 1e12}


async def test_many_who_ask_at_once_count_each_event_once(open_loom: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "BATCH", 7)
    looms = [await open_loom(f"agent{number}") for number in range(4)]
    for number in range(20):
        task = await looms[0].create(f"Task {number}")
        await looms[0].done(task.id)
    while True:
        await asyncio.gather(*(metrics.exposition([loom]) for loom in looms))
        found = (await measured(looms[0]))["loom_events_total"]
        if found[("task.done",)] == 20:
            break
    assert found[("task.created",)] == found[("task.claimed",)] == 20


async def test_what_an_open_transaction_may_still_write_is_waited_for(loom: Loom, pool: Pool) -> None:
    async with pool.acquire() as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("insert into events (project_id, type) values ($1, 'message.sent')", loom.project_id)
        await loom.create("A")
        assert "loom_events_total" not in await measured(loom)
        await transaction.commit()
    assert (await measured(loom))["loom_events_total"] == {("message.sent",): 1, ("task.created",): 1}


async def test_in_another_history_of_the_database_totals_go_on(loom: Loom, pool: Pool) -> None:
    await loom.create("A")
    await measured(loom)
    await pool.execute("update metric_cursors set history = 'another', xid = '9000000000'")
    await loom.create("B")
    assert (await measured(loom))["loom_events_total"] == {("task.created",): 2}


async def test_the_lag_of_the_mirror_is_that_of_its_stream(loom: Loom, redis_conn: Redis, clock: Clock) -> None:
    await loom.create("A")
    await (await loom.relay()).step()
    assert (await measured(loom))["loom_mirror_lag_seconds"] == {(): 0}
    await loom.create("B")
    await clock(45)
    assert 45 <= (await measured(loom))["loom_mirror_lag_seconds"][()] < 75
    await redis_conn.delete(*[key async for key in redis_conn.scan_iter(channels.everything(loom.project_id))])
    gone = await measured(loom)
    assert (gone["loom_mirror_up"], "loom_mirror_lag_seconds" in gone) == ({(): 0}, False)


async def test_a_project_whose_servers_are_away_is_told_and_holds_up_no_other(loom: Loom) -> None:
    url = "postgresql://loom:hunter2@127.0.0.1:1/loom"
    config = replace(loom.config, project_name='a "b"\\c', database=replace(loom.config.database, url=url))
    async with Loom(config, agent="a") as gone:
        text = (await metrics.exposition([gone, loom])).decode()
    up = {
        s.labels["project"]: s.value
        for f in text_string_to_metric_families(text)
        for s in f.samples
        if s.name == "loom_up"
    }
    assert up == {'a "b"\\c': 0, "test": 1}
    assert "hunter2" not in text


async def test_calls_are_counted_by_tool_and_outcome(loom: Loom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_answered", {})
    async with Client(build(loom)) as client:
        await client.call_tool("loom_create", {"title": "A"})
        for arguments in ({"task_id": "loom-00000000"}, {"no": 1}):
            with pytest.raises(ToolError):
                await client.call_tool("loom_done", arguments)
        found = await measured(loom)
    expected = {("loom_create", "ok"): 1, ("loom_done", "invalid_input"): 1, ("loom_done", "task_not_found"): 1}
    assert found["loom_calls_total"] == expected
    assert all(0 < seconds < 60 for seconds in found["loom_call_seconds_total"].values())


def test_the_command_prints_the_same(cli: Cli) -> None:
    cli.create("A")
    rows = cli.ok("metrics")["metrics"]
    assert {"loom_tasks", "loom_events_total", "loom_up"} <= {one["name"] for one in rows}
    families = {family.name for family in text_string_to_metric_families(cli.inside("metrics").out)}
    assert {"loom_tasks", "loom_events", "loom_up"} <= families


def test_the_page_names_every_metric() -> None:
    told = set(re.findall(r"^\| `(loom_\w+)`", DOCS["docs/monitoring.md"], re.MULTILINE))
    assert told == METRICS


async def test_plans_are_bounded(loom: Loom, pool: Pool) -> None:
    """However many tasks and events there are, what is asked reads the few rows that it tells of."""
    await pool.execute(
        """
        insert into tasks (project_id, id, title, status, max_attempts, ready_at, done_at)
        select $1, 'loom-' || to_char(n, 'FM00000000'), 't', case n % 2 when 0 then 'pending' else 'done' end, 1, now(),
               case n % 2 when 1 then now() end
          from generate_series(1, 20000) n
        """,
        loom.project_id,
    )
    events = "insert into events (project_id, type) select $1, 'task.created' from generate_series(1, 50000)"
    await pool.execute(events, loom.project_id)
    await pool.execute("vacuum analyze tasks, events")
    while await loom.transact(totals.count):
        pass
    await loom.create("One more")
    read = await blocks(pool, totals.READY_FOR, loom.project_id)
    assert read < 50
    newest = await pool.fetchrow("select xid::text as xid, event_id, floor from metric_cursors")
    assert newest is not None
    read = await blocks(pool, totals.COUNT, loom.project_id, newest["xid"], newest["event_id"], newest["floor"], 1000)
    assert read < 200


async def blocks(pool: Pool, statement: str, *arguments: object) -> int:
    """How many blocks a statement reads."""
    async with pool.acquire() as connection, connection.transaction():
        plan = await connection.fetchval(f"explain (analyze, buffers, format json) {statement}", *arguments)
    counted = re.findall(r'"Shared (?:Hit|Read) Blocks": (\d+)', plan)
    return sum(map(int, counted[:2]))
