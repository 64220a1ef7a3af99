"""The supervisor's brain: what it mends, what it leaves to a person, and that nothing breeds."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastmcp import Client

from loom.config import SkillsConfig
from loom.db.connection import Pool
from loom.exceptions import ConfigError
from loom.graph.front import Loom
from loom.mcp.server import build
from loom.orchestration.supervisor.brain import Brain, Diagnosed
from loom.orchestration.supervisor.loop import Supervisor
from loom.skills import diagnosis, loader, providers
from tests.cli.conftest import Cli
from tests.graph.test_lifecycle import holds
from tests.skills.conftest import Model
from tests.skills.test_diagnosis import dead, fix, found
from tests.waiting import until

Clock = Callable[[float], Awaitable[None]]

# Says that it was asked, and answers when it may.
_WAITING = """
import os, sys, time
from pathlib import Path

place = Path(sys.argv[1])
sys.stdin.read()
(place / f"asked-{os.getpid()}").touch()
while not (place / "go").exists():
    time.sleep(0.02)
sys.stdout.write((place / "answer.json").read_text())
"""


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """The directory of a model that answers once there is a file `go`; see `waiting`."""
    place = tmp_path / "gate"
    place.mkdir()
    (place / "model.py").write_text(_WAITING)
    (place / "answer.json").write_text(json.dumps(found()))
    return place


def waiting(gate: Path) -> str:
    return f"'{sys.executable}' '{gate / 'model.py'}' '{gate}'"


def asked(gate: Path) -> list[int]:
    """The processes that were asked."""
    return [int(file.name.partition("-")[2]) for file in gate.glob("asked-*")]


def told(loom: Loom, command: str, **orchestration: Any) -> Loom:
    """The same project in another process, which asks this command."""
    config = replace(
        loom.config,
        skills=SkillsConfig(provider="command", command=command),
        orchestration=replace(loom.config.orchestration, **orchestration),
    )
    return Loom(config, agent="supervisor")


async def diagnosed(loom: Loom) -> list[Diagnosed]:
    """What a fresh brain does with what is open."""
    brain = Brain.of(loom)
    await brain.work_off()
    return list(brain.news())


async def asks(pool: Pool) -> int:
    return int(await pool.fetchval("select count(*) from diagnosis_asks"))


async def kept(loom: Loom, task_id: str) -> dict[str, Any]:
    """The diagnosis of a task's newest escalation."""
    diagnosis = (await loom.get(task_id)).escalations[0].diagnosis
    assert diagnosis is not None
    return diagnosis


# --- what is sure ---------------------------------------------------------------------------------------------------


async def test_a_dead_letter_is_mended_and_gets_done(shop: Loom, model: Model, clock: Clock) -> None:
    epic = await shop.create("Reports", epic=True)
    task = await shop.create("Write the report", parent_id=epic.id)
    for n in range(task.max_attempts):
        await shop.fail(task.id, f"got {n} lines")
        await clock(4_000)
        await shop.sweep()
    model.answers(found())
    (one,) = await diagnosed(shop)
    assert (one.task_id, one.reply["action"], one.reply["status"]) == (task.id, "fix_first", "blocked")
    assert await shop.escalations() == []
    await holds(shop)
    finished = []
    while (claim := await shop.claim()) is not None:
        finished.append(claim.task.id)
        await shop.done(claim.task.id)
    assert finished == [*one.reply["fixes"], task.id]
    assert (await shop.get(epic.id)).task.status == "done"
    await holds(shop)
    assert await diagnosed(shop) == []
    assert len(model.prompts) == 1
    assert "got 3 lines" in model.prompts[0]


async def test_a_question_is_left_unless_a_repair_is_sure(shop: Loom, model: Model) -> None:
    for answer, status in (
        (found("change_task"), "blocked"),
        (found("fix_first", fix("A"), confidence="medium"), "blocked"),
        (found("fix_first", fix("B")), "blocked"),
    ):
        task = await shop.create("asks")
        await shop.escalate(task.id, "Where is the schema?")
        model.answers(answer)
        (one,) = await diagnosed(shop)
        assert one.reply["status"] == status
        assert ("left" in one.reply) == (not one.reply["fixes"])
    assert [len(row.diagnosis or ()) > 0 for row in await shop.escalations()] == [True, True]
    await holds(shop)


# --- what is left to a person ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (found(confidence="low"), "not sure"),
        (found("retry", confidence="low"), "not sure"),
        (found("ask_person"), "takes a person"),
        (found("give_up"), "for a person"),
    ],
)
async def test_what_is_not_sure_is_left_with_its_diagnosis(
    shop: Loom, model: Model, answer: dict[str, Any], why: str
) -> None:
    task_id = await dead(shop)
    model.answers(answer)
    (one,) = await diagnosed(shop)
    assert why in one.reply["left"]
    (still,) = await shop.escalations()
    assert (still.handler, still.handling_until) == (None, None)
    assert await diagnosed(shop) == [], "it is not diagnosed again"
    assert sum((await shop.status()).counts.values()) == 1
    taken = await shop.take_escalation()
    assert taken is not None, "an orchestrator may take it"
    await holds(shop)
    async with Client(build(shop)) as client:  # which closes the project
        for arguments in ({"view": "escalations"}, {"task_id": task_id}):
            reply = (await client.call_tool("loom_status", arguments)).structured_content or {}
            shown = reply["escalations"][0]["diagnosis"]
            assert shown["cause"] == "The parser drops the last line."
            assert why in shown["left"]
            assert shown.get("proposed") == [one["title"] for one in answer["fix_tasks"]] or not answer["fix_tasks"]


async def test_two_wrong_answers_leave_it_to_a_person(shop: Loom, model: Model, pool: Pool) -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {},
        found("fix_first", fix("A", depends_on=[3])),
        found("fix_first", *(fix(f"T{n}") for n in range(10_000))),
        found("fix_first", fix("A\x1b[31m")),
    )
    for number, answer in enumerate(wrong, 1):
        task_id = await dead(shop)
        model.answers(answer)
        (one,) = await diagnosed(shop)
        assert "could not be used" in one.reply["left"]
        assert "could not be used" in (await kept(shop, task_id))["left"]
        assert (len(model.prompts), await asks(pool)) == (2 * number, number)
    assert await diagnosed(shop) == []
    assert (await shop.status()).counts["failed"] == len(wrong), "and no fix task was made"
    await holds(shop)


async def test_a_provider_that_fails_is_asked_three_times(
    shop: Loom, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = await dead(shop)
    for number, command in enumerate(("false", "yes", "/no/such/command"), 1):
        async with told(shop, command) as loom:
            brain = Brain.of(loom)
            with caplog.at_level(logging.WARNING, "loom"):
                await brain.work_off()
                await brain.work_off()  # which rests
            assert brain.news() == ()
        (still,) = await shop.escalations()
        assert (still.handler, still.diagnosis) == (None, None)
        assert await asks(pool) == len(caplog.records) == number
    (one,) = await diagnosed(shop)
    assert "asked about it 3 times" in one.reply["left"]
    assert (await kept(shop, task_id))["left"] == one.reply["left"]
    assert await asks(pool) == 3
    await holds(shop)


# --- limits ---------------------------------------------------------------------------------------------------------


async def test_fixes_of_fixes_end_at_the_depth(shop: Loom, model: Model) -> None:
    task_id = await dead(shop)
    for depth in range(2):
        model.answers(found("fix_first", fix(f"Repair {depth}")))
        (one,) = await diagnosed(shop)
        (task_id,) = one.reply["fixes"]
        await shop.fail(task_id, "no", retry=False)
    (one,) = await diagnosed(shop)
    assert (one.task_id, one.escalation) == (task_id, (await shop.escalations())[0].id)
    assert "fix_depth is 2" in one.reply["left"]
    assert (await kept(shop, task_id))["depth"] == 2
    assert len(model.prompts) == 2, "nobody was asked about the last"
    assert sum((await shop.status()).counts.values()) == 3
    await holds(shop)


async def test_one_task_is_mended_twice_at_most(shop: Loom, model: Model) -> None:
    task_id = await dead(shop)
    model.answers(found("retry"))
    for _ in range(2):
        (one,) = await diagnosed(shop)
        assert one.reply["status"] == "pending"
        await shop.fail(task_id, "again", retry=False)
    (one,) = await diagnosed(shop)
    assert "2 diagnoses" in one.reply["left"]
    assert len(model.prompts) == 2
    await holds(shop)


async def test_the_rate_holds_for_all_supervisors_together(shop: Loom, model: Model, pool: Pool, clock: Clock) -> None:
    for n in range(7):
        await dead(shop, f"T{n}")
    model.answers(found("give_up"))
    command = shop.config.skills.command or ""
    async with (
        told(shop, command, diagnoses_per_hour=3) as one,
        told(shop, command, diagnoses_per_hour=3) as other,
    ):
        for wanted, together in ((3, 3), (3, 6), (1, 7)):
            both = await asyncio.gather(diagnosed(one), diagnosed(other))
            assert sum(map(len, both)) == wanted
            assert await pool.fetchval("select count(*) from skill_runs") == await asks(pool) == together
            assert await diagnosed(one) == []
            await clock(3_601)
    await holds(shop)


async def test_when_a_model_may_be_asked_again_is_said_once(
    shop: Loom, model: Model, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(3):
        await dead(shop, f"T{n}")
    model.answers(found("give_up"))
    async with told(shop, shop.config.skills.command or "", diagnoses_per_hour=2) as loom:
        brain = Brain.of(loom)
        await brain.work_off()
        assert len(brain.news()) == 2
        await brain.work_off()
    first: datetime = await pool.fetchval("select min(asked_at) from diagnosis_asks")
    (told_so,) = caplog.messages
    assert told_so.startswith(f"Diagnosing waits until {(first + timedelta(hours=1)).astimezone():%H:%M:%S}: ")


async def test_many_at_once_diagnose_each_once(shop: Loom, model: Model, pool: Pool) -> None:
    ids = {await dead(shop, f"T{n}") for n in range(4)}
    model.answers(found("retry"))
    done = await asyncio.gather(*(diagnosed(shop) for _ in range(4)))
    assert {one.task_id for some in done for one in some} == ids
    assert sum(map(len, done)) == await pool.fetchval("select count(*) from skill_runs") == await asks(pool) == 4
    await holds(shop)


# --- beside others --------------------------------------------------------------------------------------------------


async def test_a_person_who_is_faster_wins(shop: Loom, gate: Path) -> None:
    async with told(shop, waiting(gate)) as loom:
        for cancelled in (False, True):
            task_id = await dead(shop)
            brain = Brain.of(loom)
            working = asyncio.create_task(brain.work_off())
            await until(lambda: _true(len(asked(gate)) == 1))
            await (shop.cancel(task_id) if cancelled else shop.resolve(task_id, "retry"))
            before = await shop.get(task_id)
            (gate / "go").touch()
            await working
            assert brain.news() == ()
            assert await shop.get(task_id) == before
            for file in (*gate.glob("asked-*"), gate / "go"):
                file.unlink()
    assert sum((await shop.status()).counts.values()) == 2
    await holds(shop)


async def test_the_supervisor_goes_on_meanwhile(shop: Loom, gate: Path) -> None:
    async with told(shop, waiting(gate)) as loom:
        turns = Supervisor(loom, Brain.of(loom)).run()
        await dead(shop)
        async with asyncio.timeout(30):
            while not asked(gate):
                assert (await anext(turns)).diagnosed == ()
            (gate / "go").touch()
            while not (diagnosed := (await anext(turns)).diagnosed):
                pass
        assert diagnosed[0].reply["action"] == "fix_first"
        await turns.aclose()
    await holds(shop)


async def test_stopped_it_ends_the_model_and_gives_back(shop: Loom, gate: Path, pool: Pool) -> None:
    await dead(shop)
    async with told(shop, waiting(gate)) as loom:
        turns = Supervisor(loom, Brain.of(loom)).run()
        async with asyncio.timeout(30):
            while not asked(gate):
                await anext(turns)
        await turns.aclose()
    (model,) = asked(gate)
    with pytest.raises(ProcessLookupError):
        os.kill(model, 0)
    (still,) = await shop.escalations()
    assert (still.handler, still.diagnosed_at) == (None, None)
    assert await pool.fetchval("select status from skill_runs") == "failed"
    await holds(shop)


async def test_off_unless_asked_for(shop: Loom, model: Model, pool: Pool) -> None:
    await dead(shop)
    model.answers(found())
    turn = await Supervisor(shop).turn(whole=True)
    assert (len(turn.escalations), turn.diagnosed) == (1, ())
    assert (await asks(pool), model.prompts) == (0, [])


async def test_what_only_a_person_can_set_ends_it(shop: Loom) -> None:
    await dead(shop)
    config = replace(shop.config, skills=SkillsConfig(provider="openai", base_url="http://127.0.0.1:1"))
    async with Loom(config) as loom:
        provider = providers.choose(config)
        assert provider is not None
        brain = Brain(loom, loader.load(config).get(diagnosis.SKILL), provider)  # unlike `of`, checks nothing
        turns = Supervisor(loom, brain).run()

        async def go_on() -> None:
            async for turn in turns:
                assert turn.diagnosed == ()

        with pytest.raises(ConfigError, match="needs a model"):
            await asyncio.wait_for(go_on(), 30)
    assert (await shop.escalations())[0].handler is None


def test_without_a_provider_it_is_refused(shop: Loom) -> None:
    with pytest.raises(ConfigError, match="no provider"):
        Brain.of(Loom(replace(shop.config, skills=SkillsConfig())))


@pytest.mark.parametrize(
    ("skills", "why"),
    [
        (SkillsConfig(provider="openai"), "needs a model"),
        (SkillsConfig(provider="anthropic", model="m"), "needs a key"),
    ],
)
def test_without_what_its_provider_needs_it_is_refused(
    shop: Loom, monkeypatch: pytest.MonkeyPatch, skills: SkillsConfig, why: str
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=why):
        Brain.of(Loom(replace(shop.config, skills=skills)))


# --- the command line -----------------------------------------------------------------------------------------------


def configured(cli: Cli, command: str) -> Cli:
    home = Path(cli.env["HOME"]) / ".loom"
    home.mkdir(exist_ok=True)
    (home / "config.yaml").write_text(yaml.safe_dump({"skills": {"command": command}}))
    return cli


# A worker that can write the report once somebody has repaired the parser.
_WORKER = 'if grep -q "Repair the parser"; then touch repaired; else test -e repaired; fi'


def test_from_failure_to_done_on_the_command_line(cli: Cli, model: Model) -> None:
    configured(cli, model.command)
    model.answers(found("fix_first", fix("Repair the parser")))
    cli.env["LOOM_MAX_RETRIES"] = "0"
    task_id = cli.create("Write the report")
    assert cli("work", "--", "sh", "-c", _WORKER).code == 4
    seen = cli("orchestrate", "--once", "--diagnose")
    assert seen.code == 0, seen.err
    assert seen.out.startswith("mended")
    assert "The parser drops the last line. (high confidence)" in seen.out
    assert f".loom/logs/{task_id}-1.log" not in model.prompts[0]
    assert cli("work", "--", "sh", "-c", _WORKER).code == 0
    assert cli.ok("status")["counts"]["done"] == 2
    assert cli.inside("doctor").code == 0


def test_what_is_left_is_shown(cli: Cli, model: Model) -> None:
    configured(cli, model.command)
    model.answers(found("ask_person", question="Which key?\x1b[31m"))
    task_id = cli.create("Write the report")
    cli.ok("fail", task_id, "--reason", "no", "--no-retry")
    shown = [cli.inside("orchestrate", "--once", "--diagnose").out]
    shown += [cli.inside("status", *words).out for words in ((), (task_id,), ("--view", "escalations"))]
    for text in shown:
        assert "The parser drops the last line. (high confidence)" in text
        assert "Which key?" in text
        assert "\x1b" not in text
    assert shown[0].startswith("left")
    again = cli.ok("orchestrate", "--once", "--diagnose")
    assert "diagnosed" not in again
    assert again["escalations"][0]["diagnosis"]["question"].startswith("Which key?")
    assert cli.ok("status", task_id)["escalations"][0]["diagnosis"]["action"] == "ask_person"


def test_a_rate_that_is_used_up_is_said(cli: Cli, model: Model) -> None:
    configured(cli, model.command)
    cli.ok("config", "set", "orchestration.diagnoses_per_hour", "1")
    model.answers(found("ask_person", question="Which key?"))
    for title in ("Write the report", "Send the report"):
        cli.ok("fail", cli.create(title), "--reason", "no", "--no-retry")
    seen = cli("orchestrate", "--once", "--diagnose", "--json")
    assert len(json.loads(seen.out)["diagnosed"]) == 1
    assert "Diagnosing waits until" in seen.err
    assert "orchestration.diagnoses_per_hour is 1" in seen.err


def test_rows_for_programs(cli: Cli, model: Model) -> None:
    configured(cli, model.command)
    model.answers(found("retry"))
    task_id = cli.create("Write the report")
    cli.ok("fail", task_id, "--reason", "no", "--no-retry")
    (row,) = cli.ok("orchestrate", "--once", "--diagnose")["diagnosed"]
    assert (row["task_id"], row["status"], row["action"], row["fixes"]) == (task_id, "pending", "retry", [])


def test_a_look_at_nothing_new_says_where_the_project_stands(cli: Cli) -> None:
    assert cli.inside("orchestrate", "--once").out == "nothing new  no tasks yet\n"
    cli.create()
    assert cli.inside("orchestrate", "--once").out == "nothing new  1 pending\n"
    assert cli.ok("orchestrate", "--once")["counts"]["pending"] == 1


def test_diagnosing_without_a_provider_ends_at_once(bare: Cli, cli: Cli) -> None:
    refused = cli.inside("orchestrate", "--diagnose")
    assert refused.code == 1
    assert "no provider is set" in refused.err
    assert "skills.command" in refused.err


async def test_killed_in_the_middle_it_loses_nothing(cli: Cli, gate: Path, pool: Pool, clock: Clock) -> None:
    configured(cli, waiting(gate))
    task_id = await asyncio.to_thread(cli.create, "Write the report")
    await asyncio.to_thread(cli.ok, "fail", task_id, "--reason", "no", "--no-retry")
    supervisor = cli.start("orchestrate", "--diagnose")
    try:
        await until(lambda: _true(len(asked(gate)) == 1), 30)
        supervisor.kill()
        await asyncio.to_thread(supervisor.communicate)
        early = await asyncio.to_thread(cli.ok, "orchestrate", "--once", "--diagnose")
        assert "diagnosed" not in early, "it is still taken"
        (gate / "go").touch()
        await clock(661)
        late = await asyncio.to_thread(cli.ok, "orchestrate", "--once", "--diagnose")
        assert late["diagnosed"][0]["action"] == "fix_first"
        assert await asks(pool) == 2
        assert (await asyncio.to_thread(cli.inside, "doctor")).code == 0
    finally:
        supervisor.kill()
        for process in asked(gate):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue


def test_ended_it_gives_back(cli: Cli, gate: Path) -> None:
    configured(cli, waiting(gate))
    cli.ok("fail", cli.create("Write the report"), "--reason", "no", "--no-retry")
    supervisor = cli.start("orchestrate", "--diagnose")
    try:
        for _ in range(600):
            if asked(gate):
                break
            time.sleep(0.05)
        (model,) = asked(gate)
        supervisor.terminate()
        out, err = supervisor.communicate(timeout=30)
        assert (supervisor.returncode, err) == (143, "")
        assert out.startswith("failure")
        with pytest.raises(ProcessLookupError):
            os.kill(model, 0)
        (gate / "go").touch()
        (row,) = cli.ok("orchestrate", "--once", "--diagnose")["diagnosed"]
        assert row["action"] == "fix_first"
    finally:
        supervisor.kill()
        supervisor.wait()


async def _true(value: bool) -> bool:
    return value
