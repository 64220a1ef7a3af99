"""The supervisor and workflows: it carries on what nobody carries on and what needs nobody's answer."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from loom.config import LoomConfig, SkillsConfig
from loom.db.connection import Pool
from loom.graph.front import Loom
from loom.orchestration.supervisor.flows import Flows
from loom.orchestration.supervisor.loop import Supervisor
from loom.workflows import loader, runs
from tests.cli.conftest import Cli
from tests.waiting import until

Clock = Callable[[float], Awaitable[None]]

_WAITS = """
name: waits
description: Makes two tasks and waits for them.
steps:
  - id: make
    type: action
    action: create_tasks
    inputs: {tasks: [{title: One}, {title: Two, depends_on: [One]}]}
  - id: work
    type: wait
    tasks: "{{ steps.make.ids }}"
  - id: agree
    type: confirm
    message: Is it good?
  - id: more
    type: action
    action: create_tasks
    inputs: {tasks: [{title: Three}]}
"""


def given(directory: Path, text: str = _WAITS) -> None:
    """Puts a workflow into the project."""
    (directory / ".loom" / "workflows").mkdir(parents=True)
    (directory / ".loom" / "workflows" / "waits.yaml").write_text(text)


async def begun(loom: Loom) -> str:
    """Starts it, and carries it on as far as it goes."""
    run = await runs.start(loom, loader.load(loom.config).get("waits"), {})
    assert (await runs.advance(loom, run.id)).status == "waiting"
    return run.id


async def finish_all(loom: Loom) -> None:
    while (claim := await loom.claim()) is not None:
        await loom.done(claim.task.id)


async def test_it_goes_on_when_the_tasks_are_done_and_stops_where_a_person_is_asked(
    bare_shop: Loom, directory: Path, clock: Clock
) -> None:
    given(directory)
    run_id = await begun(bare_shop)
    supervisor = Supervisor(bare_shop)
    turn = await supervisor.turn(whole=True)
    assert (turn.carried, turn.unattended) == ((), ())
    await finish_all(bare_shop)
    turn = await supervisor.turn(whole=True)
    (carried,) = turn.carried
    assert (carried.run.id, carried.run.status, carried.step) == (run_id, "waiting", "agree")
    assert [run.id for run in turn.unattended] == [run_id]
    turn = await supervisor.turn(whole=True)
    assert (turn.carried, turn.unattended) == ((), ()), "it waits for somebody's yes, which was said"
    assert [run.id for run in (await Supervisor(bare_shop).turn()).unattended] == [run_id], "another says it, too"
    await runs.confirm(bare_shop, run_id, yes=True)
    assert (await supervisor.turn(whole=True)).carried == (), "whoever has answered goes on with it"
    await clock(6)
    (carried,) = (await supervisor.turn(whole=True)).carried
    assert (carried.run.status, carried.step) == ("done", None)
    assert (await bare_shop.status()).counts["pending"] == 1
    assert (await bare_shop.status()).open_workflows == 0


async def test_what_a_killed_process_held_is_carried_on_when_its_lease_is_over(
    bare_shop: Loom, directory: Path, pool: Pool, clock: Clock
) -> None:
    given(directory)
    run = await runs.start(bare_shop, loader.load(bare_shop.config).get("waits"), {})
    await pool.execute(
        "update workflow_runs set holder = 'killed', token = 1, lease_expires_at = loom_now() + interval '30 s'"
    )
    assert await runs.movable(bare_shop) == []
    await clock(31)
    assert await runs.movable(bare_shop) == [run.id]
    supervisors = [Supervisor(bare_shop) for _ in range(3)]
    turns = await asyncio.gather(*(one.turn(whole=True) for one in supervisors))
    assert sum(len(turn.carried) for turn in turns) == 1, "one of them has taken it"
    assert sum((await bare_shop.status()).counts.values()) == 2, "once"


_ASKS = """
name: waits
description: Asks a model.
steps:
  - {id: think, type: skill, skill: write_spec, inputs: {idea: sign-in}}
"""


async def test_it_carries_on_beside_and_lets_go_when_it_is_stopped(
    config: LoomConfig, directory: Path, pool: Pool, clock: Clock
) -> None:
    given(directory, _ASKS)
    slow = replace(config, project_dir=directory, skills=SkillsConfig(command="sleep 60"))
    async with Loom(slow, agent="supervisor") as loom:
        flows = Flows(loom)
        run = await runs.start(loom, loader.load(loom.config).get("waits"), {})
        await clock(6)
        await flows.begin()
        await until(lambda: pool.fetchval("select skill_run_id from workflow_steps"))
        await flows.begin()
        await flows.stop()
        await clock(6)
        assert await runs.movable(loom) == [run.id], "nobody holds it now"
        assert (await runs.look(loom, run.id))[0].token == 1, "it was taken once"
        assert await pool.fetchval("select status from skill_runs") == "failed", "and the model is not asked any more"


async def test_more_than_are_carried_on_at_once_are_worked_off(bare_shop: Loom, directory: Path, clock: Clock) -> None:
    given(directory)
    workflow = loader.load(bare_shop.config).get("waits")
    begun = {(await runs.start(bare_shop, workflow, {})).id for _ in range(20)}
    await clock(6)
    flows = Flows(bare_shop)
    await flows.work_off()
    assert await runs.movable(bare_shop) == []
    assert {carried.run.id for carried in flows.news()} == begun


async def test_what_cannot_be_carried_on_is_neither_taken_nor_tried_again_at_once(
    bare_shop: Loom, directory: Path, pool: Pool, clock: Clock
) -> None:
    given(directory)
    run = await runs.start(bare_shop, loader.load(bare_shop.config).get("waits"), {})
    await pool.execute("update workflow_runs set definition = definition || '{\"steps\": []}'")
    await clock(6)
    flows = Flows(bare_shop)
    await flows.work_off()
    assert (await runs.look(bare_shop, run.id))[0].token == 0, "nobody holds what this Loom does not understand"
    assert await runs.movable(bare_shop) == [run.id]
    await pool.execute("update workflow_runs set definition = $1", json.dumps(run.definition))
    await flows.work_off()
    assert flows.news() == (), "it rests after an error"
    await Flows(bare_shop).work_off()
    assert (await runs.look(bare_shop, run.id))[0].status == "waiting", "another may carry it on"


_MORE = """
name: waits
description: Makes a task when another one is done.
steps:
  - {id: one, type: action, action: create_tasks, inputs: {tasks: [{title: One}]}}
  - {id: work, type: wait, tasks: "{{ steps.one.ids }}"}
  - {id: two, type: action, action: create_tasks, inputs: {tasks: [{title: Two}]}}
"""


async def test_what_a_workflow_makes_after_the_last_task_is_waited_for(cli: Cli) -> None:
    given(cli.directory, _MORE)
    assert cli.inside("workflow", "start", "waits", "--no-wait").code == 4
    cli.ok("done", cli.ok("claim")["id"])
    supervisor = cli.start("orchestrate", "--until-complete")
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            await asyncio.to_thread(supervisor.wait, 5)  # it goes on: there is something to do now
        await until(lambda: cli.ok("ready")["count"])
        cli.ok("done", cli.ok("claim")["id"])
        out, err = await asyncio.to_thread(supervisor.communicate, timeout=30)
    finally:
        supervisor.kill()
    assert (supervisor.returncode, err) == (0, "")
    assert "waits  done" in out


async def test_the_command_line_says_how_far_it_came(cli: Cli, directory: Path) -> None:
    given(cli.directory, _WAITS.replace("message: Is it good?", 'message: "Is it good\\u202e?"'))
    begun = cli("workflow", "start", "waits", "--no-wait", "--json")
    assert begun.code == 4
    assert cli.ok("status")["open_workflows"] == 1
    assert "1 workflow under way" in cli.inside("status").out
    for _ in range(2):
        cli.ok("done", cli.ok("claim")["id"])
    looked = cli("orchestrate", "--once")
    assert looked.code == 0
    assert f"workflow   {begun.json['run_id']}  waits  waits for somebody at agree" in looked.out
    ended = cli("workflow", "resume", begun.json["run_id"], "--no", "--note", "not yet", "--json")
    assert ended.code == 1
    assert ended.json["error"] == "agree: tester said no: not yet"
    assert cli.ok("status").get("open_workflows") is None
