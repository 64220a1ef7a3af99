"""How sessions end, with a program that speaks as agents' programs do: what becomes of the claim, what is asked, who
rests, and that nothing of a run or of an earlier attempt lives on."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from loom.bus.events import EventType
from loom.config import WorkConfig
from loom.exceptions import CommandError
from loom.graph.front import Loom
from loom.graph.model.task import Task
from loom.graph.rules.holding import Holder
from loom.orchestration.workers import session
from loom.orchestration.workers.bench import JobPhase, JobProgress
from loom.orchestration.workers.resting import Rest, resting
from loom.orchestration.workers.runners import RUNNERS, Command
from loom.orchestration.workers.worker import Workers, command_line
from tests.orchestration.conftest import Command as LoomWork
from tests.orchestration.conftest import Project, in_environment, task_now
from tests.orchestration.test_runners import BEGUN, COMPLETED, SAID, failed, rejected, result
from tests.waiting import alive, pids, until

# Plays an agent's program: each run takes the next turn of those that were written down, and keeps what it was told.
AGENT = """
import json, os, pathlib, subprocess, sys, time
place = pathlib.Path({place!r})
number = len(list(place.glob("told-*"))) + 1
(place / f"told-{{number}}").write_text(sys.stdin.read())
(place / f"words-{{number}}").write_text(json.dumps(sys.argv[1:]))
turns = json.loads((place / "turns").read_text())
turn = turns[min(number, len(turns)) - 1]
for event in turn["events"]:
    print(json.dumps(event), flush=True)
if turn.get("run"):
    subprocess.run(turn["run"], shell=True)
sys.exit(turn.get("status", 0))
"""


class Agent:
    """A program on the path that plays an agent's."""

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.place = name, place
        path = place / name
        path.write_text(f"#!{sys.executable}\n{AGENT.format(place=str(place))}")
        path.chmod(0o755)

    def plays(self, *turns: Any) -> None:
        """What it does in its first run, its second, …; the last one again and again."""
        whole = [turn if isinstance(turn, dict) and "events" in turn else {"events": turn} for turn in turns]
        (self.place / "turns").write_text(json.dumps(whole))

    def told(self, number: int) -> str:
        return (self.place / f"told-{number}").read_text()

    def words(self, number: int) -> list[str]:
        found: list[str] = json.loads((self.place / f"words-{number}").read_text())
        return found

    @property
    def runs(self) -> int:
        return len(list(self.place.glob("told-*")))

    def option(self, name: str, number: int) -> str:
        words = self.words(number)
        return words[words.index(name) + 1]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "agents"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return place


@pytest.fixture
def claude(place: Path) -> Agent:
    return Agent("claude", place)


@pytest.fixture
def codex(place: Path) -> Agent:
    return Agent("codex", place)


@pytest.fixture
async def loom(project_loom: Project) -> Loom:
    return project_loom("tester")


class Shift:
    """Workers of a runner, and what they told."""

    def __init__(self, loom: Loom, runner: str, **options: Any) -> None:
        self.told: list[JobProgress] = []
        words = command_line(options.pop("words", []), runner)
        self.workers = Workers(loom, words, runner=RUNNERS[runner], tell=self.told.append, **options)

    async def finish(self) -> None:
        async with asyncio.timeout(30):
            await self.workers.run()

    def said(self, phase: JobPhase) -> list[str]:
        return [one.note for one in self.told if one.phase is phase]


def quick(loom: Loom, seconds: int) -> Loom:
    """The same project, whose agents may be silent for so long."""
    loom.config = replace(loom.config, work=WorkConfig(silence_seconds=seconds))
    return loom


async def attempts(loom: Loom, task: Task) -> list[dict[str, Any]]:
    history = (await loom.get(task.id)).history
    return [dict(one.data) for one in history if one.type == EventType.ATTEMPT_ENDED and one.data]


# --- a report is needed ---------------------------------------------------------------------------------------------


async def test_who_ends_without_a_report_is_asked_once_in_the_same_session(
    loom: Loom, project_loom: Project, claude: Agent
) -> None:
    claude.plays([result(result="I looked at it.")], [result(result='Done now.\n{"files": 2}')])
    task = await loom.create("A")
    shift = Shift(project_loom(), "claude")
    await shift.finish()
    found = await task_now(loom, task)
    assert (found.status, found.output, found.attempt) == ("done", {"files": 2}, 1)
    assert shift.said(JobPhase.SENT_BACK) == ["ended without a report"]
    assert claude.option("--session-id", 1)
    assert claude.option("--resume", 2) == "s-1"
    assert "You ended without a report" in claude.told(2)
    assert f"Your task is {task.id}" not in claude.told(2), "it remembers"


async def test_who_stays_silent_has_failed_with_his_last_words(
    loom: Loom, project_loom: Project, claude: Agent
) -> None:
    claude.plays([result(result="I will not.")], [result(result="Still not.")])
    worker = project_loom(max_retries=0)
    task = await worker.create("A")
    await Shift(worker, "claude").finish()
    assert (await task_now(loom, task)).dead_reason == "ended without a report: Still not."
    assert claude.runs == 2


async def test_what_the_agent_has_reported_itself_stands(loom: Loom, project_loom: Project, codex: Agent) -> None:
    task = await loom.create("A")
    report = f'{sys.executable} -m loom done {task.id} --token $LOOM_CLAIM_TOKEN --output \'{{"by": "me"}}\''
    codex.plays({"events": [BEGUN, SAID, COMPLETED], "run": report})
    with in_environment(loom.config):
        os.environ["PATH"] = f"{codex.place}{os.pathsep}{os.environ['PATH']}"
        shift = Shift(project_loom(), "codex")
        await shift.finish()
    assert (await task_now(loom, task)).output == {"by": "me"}
    assert shift.said(JobPhase.REPORTED) == ["by the command itself"]
    assert codex.runs == 1


async def test_a_hand_in_that_is_no_output_is_asked_about(loom: Loom, project_loom: Project, claude: Agent) -> None:
    claude.plays({"events": [result()], "run": "echo '[1]' > $LOOM_OUTPUT_FILE"}, [result(result='{"a": 1}')])
    task = await loom.create("A")
    await Shift(project_loom(), "claude").finish()
    assert "LOOM_OUTPUT_FILE was not taken" in claude.told(2)
    assert (await task_now(loom, task)).output == {"a": 1}


async def test_structured_output_is_a_report(loom: Loom, project_loom: Project, claude: Agent) -> None:
    claude.plays([result(structured_output={"a": 1})])
    task = await loom.create("A")
    await Shift(project_loom(), "claude").finish()
    assert (await task_now(loom, task)).output == {"a": 1}


async def test_ones_own_command_may_have_to_report_too(loom: Loom, project_loom: Project, place: Path) -> None:
    script = f"""n=$(($(ls {place} | wc -l) + 1)); cat > {place}/told-$n; test $n = 1 || echo '{{"n": 2}}'"""
    task = await loom.create("A")
    workers = Workers(project_loom(), command_line(["sh", "-c", script]), runner=Command(must_report=True))
    assert await workers.run() == []
    assert (await task_now(loom, task)).output == {"n": 2}
    second = (place / "told-2").read_text()
    assert second.startswith((place / "told-1").read_text().partition("-----")[0]), "it remembers nothing"
    assert "You ended without a report" in second


# --- ends that are no success ---------------------------------------------------------------------------------------


async def test_a_refusal_fails_the_task(loom: Loom, project_loom: Project, claude: Agent) -> None:
    claude.plays({"events": failed("invalid_request", "I can't help with this.", stop_reason="refusal"), "status": 1})
    worker = project_loom(max_retries=0)
    task = await worker.create("A")
    await Shift(worker, "claude").finish()
    assert (await task_now(loom, task)).dead_reason == "It was refused: I can't help with this."
    assert claude.runs == 1


async def test_what_breaks_is_an_attempt(loom: Loom, project_loom: Project, codex: Agent) -> None:
    broken = [BEGUN, {"type": "turn.failed", "error": {"message": "Codex ran out of room."}}]
    codex.plays({"events": broken, "status": 1})
    task = await loom.create("A")
    await Shift(project_loom(), "codex").finish()
    found = await task_now(loom, task)
    assert (found.dead_reason, found.attempt) == ("Codex ran out of room.", 2)


async def test_a_limit_gives_back_and_all_workers_rest_until_it_is_over(
    loom: Loom, project_loom: Project, claude: Agent
) -> None:
    at = int(time.time()) + 3
    used_up = [rejected(at), *failed("rate_limit", "You've hit your limit · resets 7:45pm (UTC)")]
    claude.plays({"events": used_up, "status": 1}, [result(result='{"a": 1}')])
    worker = project_loom(max_retries=0)
    task = await worker.create("A", priority="p0")
    shift = Shift(worker, "claude", agents=3)
    running = asyncio.create_task(shift.finish())
    await until(lambda: shift.said(JobPhase.GIVEN_BACK))
    assert "claude rests until" in shift.said(JobPhase.GIVEN_BACK)[0]
    assert "You've hit your limit" in shift.said(JobPhase.GIVEN_BACK)[0]
    given = await task_now(loom, task)
    assert (given.status, given.attempt) == ("pending", 0)
    rest = resting(loom.config)
    assert [(one.runner, one.agents) for one in rest] == [("claude", 3)]
    assert rest[0].until >= datetime.fromtimestamp(at, UTC)
    await loom.create("B")
    assert claude.runs == 1, "nobody claims meanwhile"
    await running
    assert time.time() >= at
    assert (await task_now(loom, task)).status == "done"
    assert resting(loom.config) == []
    assert [one["end"] for one in await attempts(loom, task)] == ["reported", "limit"]


async def test_a_provider_that_is_away_costs_no_attempt(
    loom: Loom, project_loom: Project, codex: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loom.orchestration.workers.resting._AGAIN", (0.2, 0.4))
    away = [BEGUN, {"type": "turn.failed", "error": {"message": "We’re currently experiencing high demand"}}]
    codex.plays({"events": away, "status": 1}, {"events": away, "status": 1}, [BEGUN, {**SAID, "item": {
        "id": "i", "type": "agent_message", "text": '{"a": 1}'}}, COMPLETED])  # fmt: skip
    worker = project_loom(max_retries=0)
    task = await worker.create("A")
    await Shift(worker, "codex").finish()
    found = await task_now(loom, task)
    assert (found.status, found.attempt, codex.runs) == ("done", 1, 3)


async def test_a_task_for_which_its_provider_is_always_away_fails_and_the_rest_is_done(
    loom: Loom, project_loom: Project, codex: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loom.orchestration.workers.resting._AGAIN", (0.05, 0.1))
    monkeypatch.setattr("loom.orchestration.workers.resting._AWAY", 3)
    events = [BEGUN, {"type": "turn.failed", "error": {"message": "We’re currently experiencing high demand"}}]
    away = {"events": events, "status": 1}
    answer = [BEGUN, {**SAID, "item": {"id": "i", "type": "agent_message", "text": '{"a": 1}'}}, COMPLETED]
    codex.plays(away, away, away, answer)
    worker = project_loom(max_retries=0)
    first, second = await worker.create("A", priority="p0"), await worker.create("B")
    await Shift(worker, "codex").finish()
    failed, done = await task_now(loom, first), await task_now(loom, second)
    assert (failed.status, failed.attempt, done.status, codex.runs) == ("failed", 1, "done", 4)
    assert "Its provider was away for it again and again" in (failed.dead_reason or "")


async def test_a_provider_that_answers_others_each_time_is_not_away(loom: Loom) -> None:
    rest = Rest(loom.config, "codex", 2)
    assert not rest.blames("alone")
    assert not rest.blames("alone")
    for blamed in (False, False, True, False):
        assert rest.blames("task") is blamed
        rest.succeeded()


async def test_who_is_not_logged_in_stops_and_no_task_suffers(loom: Loom, project_loom: Project, claude: Agent) -> None:
    claude.plays({"events": failed("authentication_failed", "Invalid API key"), "status": 1})
    worker = project_loom(max_retries=0)
    task = await worker.create("A")
    with pytest.raises(CommandError, match="claude cannot work: Invalid API key") as caught:
        await Shift(worker, "claude").finish()
    assert "log in" in caught.value.next_step
    found = await task_now(loom, task)
    assert (found.status, found.attempt) == ("pending", 0)


# --- silence --------------------------------------------------------------------------------------------------------


async def test_who_says_nothing_for_too_long_is_ended(
    loom: Loom, project_loom: Project, claude: Agent, place: Path
) -> None:
    leave = f"sleep 300 & echo $$ $! > {place}/pids; wait"
    claude.plays({"events": [{"type": "system", "subtype": "init", "session_id": "s"}], "run": leave})
    worker = quick(project_loom(max_retries=0), 1)
    task = await worker.create("A")
    await Shift(worker, "claude").finish()
    assert (await task_now(loom, task)).dead_reason == "The command said nothing for 1 s, and was ended."
    assert not any(map(alive, pids(place / "pids")))


async def test_who_waits_for_a_tool_of_his_own_may_be_silent(loom: Loom, project_loom: Project, claude: Agent) -> None:
    call = {"type": "assistant", "message": {"content": [{"type": "tool_use", "id": "t1"}]}}
    answer = f"print({json.dumps(json.dumps(result(result=chr(123) + chr(125))))})"
    claude.plays({"events": [call], "run": f"sleep 2.5; {sys.executable} -c '{answer}'"})
    task = await loom.create("A")
    await Shift(quick(project_loom(max_retries=0), 1), "claude").finish()
    assert (await task_now(loom, task)).status == "done"


async def test_who_waits_for_his_provider_for_too_long_rests(
    loom: Loom, project_loom: Project, codex: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_STALL_SECONDS", 1.0)
    monkeypatch.setattr("loom.orchestration.workers.resting._AGAIN", (0.2, 0.4))
    waits = {"type": "error", "message": "Reconnecting... waiting for network"}
    again = f"while sleep 0.2; do echo '{json.dumps(waits)}'; done"
    said = {"type": "item.completed", "item": {"id": "i", "type": "agent_message", "text": '{"a": 1}'}}
    codex.plays({"events": [BEGUN, waits], "run": again}, [BEGUN, said, COMPLETED])
    worker = project_loom(max_retries=0)
    task = await worker.create("A")
    shift = Shift(worker, "codex")
    await shift.finish()
    assert "waiting for network" in shift.said(JobPhase.GIVEN_BACK)[0]
    assert (await task_now(loom, task)).status == "done"


# --- what lives on --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="without /proc nobody is found")
async def test_what_an_earlier_attempt_has_left_is_ended_first(
    loom: Loom, project_loom: Project, claude: Agent, place: Path
) -> None:
    task, other = await loom.create("A"), await loom.create("B", priority="p2")
    claim = await loom.claim(task.id)
    assert claim is not None
    await loom.release(task.id)

    def leave(**more: str) -> subprocess.Popen[bytes]:
        env = dict(os.environ) | {"LOOM_PROJECT_DIR": str(loom.config.project_dir)} | more
        return subprocess.Popen(["sleep", "300"], env=env, start_new_session=True)

    earlier = leave(LOOM_TASK_ID=task.id, LOOM_CLAIM_TOKEN=str(claim.task.claim_token))
    foreign = [
        leave(LOOM_TASK_ID=task.id, LOOM_CLAIM_TOKEN=str(claim.task.claim_token), LOOM_PROJECT_DIR="/elsewhere"),
        leave(LOOM_TASK_ID=other.id, LOOM_CLAIM_TOKEN="9"),
        leave(LOOM_TASK_ID=task.id, LOOM_CLAIM_TOKEN="none"),
    ]
    try:
        claude.plays(
            {"events": [result(result='{"a": 1}')], "run": f"test -e /proc/{earlier.pid}/exe; echo $? > {place}/gone"}
        )
        await Shift(project_loom(), "claude").finish()
        assert (place / "gone").read_text() == "1\n"
        assert [one.poll() for one in foreign] == [None, None, None]
    finally:
        for one in (earlier, *foreign):
            one.kill()
            await asyncio.to_thread(one.wait)


# --- what was used --------------------------------------------------------------------------------------------------


async def test_what_was_used_is_noted_once_for_the_attempt(loom: Loom, project_loom: Project, claude: Agent) -> None:
    usage = {"input_tokens": 100, "output_tokens": 5}
    claude.plays(
        [result(usage=usage, total_cost_usd=0.8)], [result(result='{"a": 1}', usage=usage, total_cost_usd=0.9)]
    )
    task = await loom.create("A")
    await Shift(project_loom(), "claude").finish()
    found = await attempts(loom, task)
    assert found == [
        {
            "runner": "claude",
            "end": "reported",
            "runs": 2,
            "usage": {"input_tokens": 200, "output_tokens": 10, "cost_usd": 0.9, "model": "large"},
        }
    ]
    history = (await loom.get(task.id)).history
    noted = next(one for one in history if one.type == EventType.ATTEMPT_ENDED)
    done = await task_now(loom, task)
    assert (noted.token, noted.agent, noted.version) == (done.claim_token, done.assignee, None)


async def test_an_attempt_is_noted_once(loom: Loom) -> None:
    from loom.graph.rules import claims

    task = await loom.create("A")
    for _ in range(2):
        await loom.transact(lambda tx: claims.note_attempt(tx, task.id, Holder("me", 1), {"end": "silent"}))
    await loom.transact(lambda tx: claims.note_attempt(tx, task.id, Holder("me", 2), {"end": "broken"}))
    assert [one["end"] for one in await attempts(loom, task)] == ["broken", "silent"]


# --- what it is told ------------------------------------------------------------------------------------------------


def carries(text: str, *parts: str) -> list[bool]:
    return [part in text for part in parts]


async def test_the_prompt_speaks_literal_values(
    loom: Loom, project_loom: Project, claude: Agent, codex: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "AGENTS.md").write_text("Use tabs.\n")
    (tmp_path / "CLAUDE.md").write_text("@AGENTS.md\n")
    prompts: dict[str, str] = {}
    for agent in (claude, codex):
        task = await loom.create(f"For {agent.name}")
        text = '{"a": 1}'
        said = {"type": "item.completed", "item": {"id": "i", "type": "agent_message", "text": text}}
        agent.plays([result(result=text)] if agent is claude else [BEGUN, said, COMPLETED])
        await Shift(project_loom(), agent.name).finish()
        prompts[agent.name] = agent.told(agent.runs)
        assert "$" not in prompts[agent.name]
        assert f'call the tool loom_done with task_id "{task.id}"' in prompts[agent.name]
        assert "without -C, cd or variables" in prompts[agent.name]
    token = (await task_now(loom, task)).claim_token
    assert carries(prompts["claude"], "Use tabs.", "@AGENTS.md", " --token 1 --output '{") == [True, False, True]
    assert carries(prompts["codex"], "Use tabs.", f"--token {token}") == [False, False]


async def test_a_dry_run_shows_and_claims_nothing(loom: Loom, command: LoomWork, claude: Agent) -> None:
    first = await loom.create("A")
    await loom.done(first.id, {"name": "x"})
    task = await loom.create("Build it", depends_on=[first.id], done_when="It runs")
    code, out, err = await command.run("--runner", "claude", "--dry-run", "--", "--model", "m")
    assert (code, err) == (0, "")
    assert f"{claude.place}/claude -p --output-format stream-json" in out
    assert "--model m" in out
    assert f"Your task is {task.id}, attempt 1" in out
    assert '"name": "x"' in out
    code, out, _ = await command.run("--runner", "claude", "--dry-run", "--json")
    assert json.loads(out)["command"][1] == "-p"
    found = await task_now(loom, task)
    assert (found.status, found.claim_token, claude.runs) == ("pending", 0, 0)
    await loom.done(task.id)
    held = await loom.create("Held", files=["src", "docs"], checks=["unit"])
    _, out, _ = await command.run("--runner", "claude", "--dry-run")
    assert carries(out, "It is about these paths: src, docs\n", "Green before it is done: unit\n") == [True, True]
    await loom.cancel(held.id)
    code, _, err = await command.run("--runner", "claude", "--dry-run")
    assert (code, "No task is ready" in err) == (1, True)
    code, _, err = await command.run("--runner", "claude", "--report", "status")
    assert (code, "says nothing about a task" in err) == (2, True)


async def test_status_says_who_rests(
    loom: Loom, command: LoomWork, claude: Agent, status: Callable[[], dict[str, Any]]
) -> None:
    used_up = [rejected(int(time.time()) + 3000), *failed("rate_limit", "You've hit your limit")]
    claude.plays({"events": used_up, "status": 1})
    await loom.create("A")
    running = command.start("--agents", "2", "--runner", "claude")
    try:
        await until(lambda: resting(loom.config))
        found = await asyncio.to_thread(status)
        assert [(one["runner"], one["agents"], one["why"]) for one in found["resting"]] == [
            ("claude", 2, "You've hit your limit")
        ]
        running.kill()
        await asyncio.to_thread(running.communicate)
        assert "resting" not in await asyncio.to_thread(status), "who has died rests no more"
    finally:
        running.kill()
        await asyncio.to_thread(running.communicate)


@pytest.fixture
def status(loom: Loom, tmp_path: Path) -> Callable[[], dict[str, Any]]:
    def ask() -> dict[str, Any]:
        with in_environment(loom.config) as env:
            words = [sys.executable, "-m", "loom", "status", "--json"]
            done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return ask
