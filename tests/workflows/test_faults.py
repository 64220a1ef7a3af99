"""What goes wrong around a run: answers of the database that are lost, calls that are broken off, leases that cannot be
renewed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from loom.config import DatabaseConfig, LoomConfig, trust
from loom.db.connection import Pool
from loom.exceptions import DatabaseUnavailableError
from loom.graph.front import Loom
from loom.orchestration.supervisor.flows import Flows
from loom.workflows import loader, record, runs
from tests.mcp.conftest import place
from tests.mcp.stdio import started
from tests.proxy import Lossy
from tests.waiting import until
from tests.workflows.conftest import Clock, begun, put, source
from tests.workflows.test_runs import ASK, MAKE, command, wait_for

__all__ = ["place"]

STUBBORN = "trap '' TERM; touch ready; while :; do sleep 0.1; done"


@pytest.fixture
async def lossy(database_url: str) -> AsyncIterator[Lossy]:
    way = Lossy(database_url)
    await way.make()
    yield way
    way.unmake()


async def test_an_answer_that_was_lost_passes_no_step_by(loom: Loom, config: LoomConfig, lossy: Lossy) -> None:
    task = await loom.create("one")
    await loom.done(task.id)
    async with Loom(replace(config, database=DatabaseConfig(url=lossy.url)), agent="carrier") as other:
        with pytest.raises(DatabaseUnavailableError):
            await begun(other, f"{wait_for(task.id)}\n{ASK}\n{MAKE}", patient=True)
        assert lossy.lost
        (run,) = await runs.newest(loom)
        assert run.position == 1, "the COMMIT was carried out"
        run = await runs.advance(loom, run.id, patient=True)
    assert (run.status, run.position) == ("waiting", 1), "a person has to agree first"


async def test_who_is_stopped_lets_go_however_long_its_command_takes(
    bare_shop: Loom, directory: Path, pool: Pool, clock: Clock
) -> None:
    put(directory, source(command(f"[sh, -c, {json.dumps(STUBBORN)}]")))
    trust(directory)
    await runs.start(bare_shop, loader.load(bare_shop.config).get("trial"), {})
    await clock(6)
    flows = Flows(bare_shop)
    await flows.begin()
    await until(lambda: (directory / "ready").exists())
    await flows.stop()
    assert await pool.fetchval("select lease_expires_at from workflow_runs") is None


async def test_a_call_that_is_broken_off_lets_go(place: dict[str, str], home: Path, pool: Pool) -> None:
    ready = home / "ready"
    script = STUBBORN.replace("touch ready", f"touch '{ready}'")
    put(home, source(command(f"[sh, -c, {json.dumps(script)}]")))
    async with started(**(place | {"HOME": str(home)}), LOOM_AGENT_ID="builder") as server:
        await server.initialize()
        call = {"name": "loom_workflow", "arguments": {"action": "start", "name": "trial"}}
        await server.send(json.dumps({"jsonrpc": "2.0", "id": 77, "method": "tools/call", "params": call}).encode())
        await until(ready.exists)
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 77}}
        await server.send(json.dumps(cancel).encode())
        free = "select lease_expires_at is null from workflow_runs"
        await until(lambda: pool.fetchval(free))  # which the end of its lease does not do


async def test_a_lease_that_cannot_be_renewed_for_once_ends_nothing(
    bare_shop: Loom, directory: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(record, "LEASE", 1.5)
    put(directory, source(command("[sh, -c, 'touch ready; while ! test -e go; do sleep 0.05; done']")))
    trust(directory)
    run = await runs.start(bare_shop, loader.load(bare_shop.config).get("trial"), {})
    going = asyncio.create_task(runs.advance(bare_shop, run.id))
    await until((directory / "ready").exists)
    await pool.execute(
        "create function full_disk() returns trigger language plpgsql as"
        " $$ begin raise exception 'no space' using errcode = '53100'; end $$"
    )
    await pool.execute(
        "create trigger full_disk before update on workflow_runs for each row execute function full_disk()"
    )
    await until(lambda: any("could not be renewed" in message for message in caplog.messages))
    await pool.execute("drop trigger full_disk on workflow_runs")
    (directory / "go").touch()
    assert (await going).status == "done"
