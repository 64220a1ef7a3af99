"""Runs on the command line, as processes that are killed, stopped and resumed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loom.db.connection import Pool
from loom.graph import store
from loom.graph.store.transaction import Transaction
from loom.process import identity
from tests.cli.conftest import Cli
from tests.waiting import until
from tests.workflows.conftest import SKILL, Model, configure, put, source
from tests.workflows.test_runs import ASK, LOUD, SAY, command

SHOUT = "- {id: shout, type: skill, skill: shout, inputs: {words: hello}}"
TASK = "- {id: make, type: action, action: create_tasks, inputs: {tasks: [{title: Made}]}}"
WAIT = "- {id: work, type: wait, tasks: '{{ steps.make.ids }}'}"


@pytest.fixture
def work(cli: Cli, home: Path) -> Cli:
    """A project on the command line with the skill `shout`."""
    put(cli.directory, SKILL, "shout.md", "skills")
    return cli


class Started:
    """A `loom workflow` that goes on, and what it says."""

    def __init__(self, cli: Cli, *words: str) -> None:
        self._cli = cli
        self.process = cli.start("workflow", *words)

    def line(self) -> str:
        """The next line that it says; empty when it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def run_id(self) -> str:
        return self.line().split()[0]

    def end(self, number: int) -> str:
        """Has it end by a signal; what it said meanwhile."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        assert "Traceback" not in out + err
        return out


async def value(pool: Pool, question: str, *arguments: Any) -> Any:
    return await pool.fetchval(question, *arguments)


async def lease_runs(pool: Pool) -> bool:
    return bool(await value(pool, "select lease_expires_at > loom_now() + interval '5 seconds' from workflow_runs"))


# --- killed ---------------------------------------------------------------------------------------------------------


async def test_killed_while_a_model_thinks(work: Cli, home: Path, model: Model, pool: Pool) -> None:
    configure(home, model)
    model.answers(LOUD).hold()
    put(work.directory, source(f"{TASK}\n{SHOUT}\n{SAY}"))
    first = Started(work, "start", "trial")
    run_id = first.run_id()
    await until(lambda: bool(model.prompts))
    assert work.inside("workflow", "resume", run_id).code == 3, "while it lives, it is its own"
    assert "carried on by tester" in work.inside("workflow", "status", run_id).out
    first.end(signal.SIGKILL)
    assert await lease_runs(pool)
    assert "Nobody carries it on" in work.inside("workflow", "status", run_id).out
    model.go_on()
    done = await asyncio.to_thread(work, "workflow", "resume", run_id)
    assert done.code == 0, "nobody waits for the lease of a process that is known to be dead"
    assert "again" in done.out
    assert "it was interrupted before" in done.out
    assert "make" not in done.out, "what was done is not done again"
    records = await pool.fetch("select status, error from skill_runs order by created_at")
    assert [tuple(record) for record in records] == [("failed", "It was interrupted."), ("done", None)]
    assert await value(pool, "select attempt from workflow_steps where step = 'shout'") == 2
    assert await value(pool, "select count(*) from tasks") == 1


async def test_killed_while_a_command_runs(work: Cli, home: Path, pool: Pool) -> None:
    script = "echo $$ >> ran; test $(wc -l < ran) -gt 1 || sleep 60"
    put(home, source(command(f"[sh, -c, {json.dumps(script)}]")))
    first = Started(work, "start", "trial")
    run_id = first.run_id()
    ran = work.directory / "ran"
    await until(lambda: ran.exists() and ran.read_text().endswith("\n"))
    first.end(signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{ran.read_text().split()[0]}").exists())
    done = work.inside("workflow", "resume", run_id, "--json")
    assert (done.code, done.json["status"]) == (0, "done")
    assert done.json["steps"][0]["attempts"] == 2
    assert len(ran.read_text().split()) == 2


async def test_killed_while_it_waits(work: Cli, home: Path, pool: Pool) -> None:
    put(work.directory, source(f"{TASK}\n{WAIT}\n{SAY}"))
    first = Started(work, "start", "trial")
    run_id = first.run_id()
    while "waiting" not in first.line():
        pass
    first.end(signal.SIGKILL)
    assert await lease_runs(pool)
    assert work.ok("claim")["title"] == "Made"
    again = Started(work, "resume", run_id)
    while "waiting" not in again.line():
        pass
    work.ok("done", work.ok("workflow", "status", run_id)["steps"][0]["output"]["ids"][0])
    out, _ = await asyncio.to_thread(again.process.communicate, timeout=30)
    assert again.process.returncode == 0
    assert "say" in out


async def test_killed_in_the_transaction_that_changes_the_graph(work: Cli, pool: Pool) -> None:
    project_id = work.ok("status")["project_id"]
    put(work.directory, source(TASK))
    async with pool.acquire() as connection, connection.transaction():
        await store.lock_graph(Transaction(connection, project_id))
        first = Started(work, "start", "trial")
        run_id = first.run_id()
        assert "make" in first.line()

        async def stands_before_the_lock() -> bool:
            waiting = "select count(*) from pg_locks where not granted and locktype = 'advisory'"
            return bool(await value(pool, waiting))

        for _ in range(1000):
            if await stands_before_the_lock():
                break
            await asyncio.sleep(0.02)
        first.end(signal.SIGKILL)
    done = await asyncio.to_thread(work, "workflow", "resume", run_id)
    assert done.code == 0
    assert "it was interrupted before" in done.out
    assert await value(pool, "select count(*) from tasks") == 1


async def test_killed_again_and_again_each_task_is_made_once(work: Cli, pool: Pool) -> None:
    chance = random.Random(7)
    steps = [
        f"- {{id: m{n}, type: action, action: create_tasks, inputs: {{tasks: [{{title: T{n}}}]}}}}" for n in range(9)
    ]
    put(work.directory, source("\n".join(steps)))
    words = ["start", "trial"]
    run_id, kills = "", 0
    while True:
        going = Started(work, *words)
        run_id = run_id or going.run_id()
        words = ["resume", run_id]
        said = [going.line() for _ in range(chance.randint(2, 6))]
        await asyncio.sleep(chance.random() * 0.02)
        going.process.kill()
        going.process.communicate(timeout=30)
        if not said[-1] or going.process.returncode == 0:
            break
        kills += 1
        assert kills < 30
    assert kills >= 2
    if await value(pool, "select status from workflow_runs") != "done":
        assert work.inside("workflow", "resume", run_id).code == 0
    records = await pool.fetch("select title, count(*) as n from tasks group by title")
    assert {record["title"]: record["n"] for record in records} == {f"T{n}": 1 for n in range(9)}
    assert await value(pool, "select count(*) from events where type = 'workflow.step_completed'") == 9
    assert await value(pool, "select count(*) from events where type = 'workflow.completed'") == 1
    assert work.ok("doctor")["ok"]


# --- stopped --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_who_stops_it_gives_the_lease_back_at_once(
    work: Cli, home: Path, model: Model, pool: Pool, number: int
) -> None:
    configure(home, model)
    model.answers(LOUD).hold()
    put(work.directory, source(SHOUT))
    first = Started(work, "start", "trial", "--json")
    await until(lambda: bool(model.prompts))
    assert first.end(number) == ""
    assert first.process.returncode == 128 + number
    record = await pool.fetchrow("select id, status, lease_expires_at from workflow_runs")
    assert record is not None
    assert (record["status"], record["lease_expires_at"]) == ("running", None)
    assert "resume" in work.ok("workflow", "status", record["id"])["next"]
    model.go_on()
    assert work.inside("workflow", "resume", record["id"], "--agent", "other").code == 0


def test_a_process_is_known_to_be_gone_only_where_that_is_certain() -> None:
    child = subprocess.Popen(["sleep", "60"])
    name = identity.own()
    assert name is not None
    here, _, began = name.rpartition(" ")
    here, _, mine = here.rpartition(" ")
    assert mine == str(os.getpid())
    try:
        assert not identity.is_gone(name)
        assert identity.is_gone(f"{here} {mine} {int(began) + 1}"), "another has its id now"
        assert identity.is_gone(f"{here} {child.pid} 1")
        for elsewhere in (None, "", "x", f"other {mine} 1", f"{here}9 {child.pid} 1", f"{here} x 1"):
            assert not identity.is_gone(elsewhere)
    finally:
        child.kill()
        child.wait()
    assert identity.is_gone(f"{here} {child.pid} 1")


# --- the command line -----------------------------------------------------------------------------------------------


def test_the_list_says_which_workflow_asks_for_a_skill_that_is_not_there(work: Cli) -> None:
    put(work.directory, source("- {id: ask, type: skill, skill: shuot, inputs: {words: hello}}"))
    put(work.directory, source("- {id: ask, type: skill, skill: shout, inputs: {word: hello}}", name="wrong"), "w.yaml")
    listed = work.ok("workflow", "list")
    assert [one["name"] for one in listed["workflows"]] == ["debug_and_fix", "ship_feature", "trial", "wrong"]
    unknown, wrong = listed["notes"]
    assert "trial.yaml: step ask, `skill`: There is no skill “shuot”. Did you mean shout?" in unknown
    assert "w.yaml: step ask, `inputs`: the skill shout does not take it" in wrong
    assert f"note: {unknown}" in work.inside("workflow", "list").err


def test_from_start_to_end(work: Cli, tmp_path: Path) -> None:
    show = "{n: '{{ inputs.n }}', goal: '{{ inputs.goal }}', many: '{{ inputs.many }}'}"
    inputs = (
        "goal: {type: string, description: What for}\nn: {type: integer, default: 1}\nmany: {type: array, default: []}"
    )
    put(work.directory, source(f"- {{id: ask, type: confirm, message: Sure?, show: {show}}}\n{SAY}", inputs))
    listed = work.ok("workflow", "list")
    assert [one["name"] for one in listed["workflows"]] == ["debug_and_fix", "ship_feature", "trial"]
    assert "ask → say" in work.inside("workflow", "list").out

    for words, code, told in (
        (["start", "trial"], 2, "The workflow trial needs the input goal (string): What for"),
        (["start", "trail"], 1, "There is no workflow “trail”.\nnext: Did you mean trial?"),
        (["start", "trial", "--input", "goal"], 2, "--input must be NAME=VALUE."),
        (["start", "trial", "--input", "goal=@nothing"], 2, "nothing cannot be read: No such file"),
        (["start", "trial", "--input", "goal=x", "--input", "n=two"], 2, "The input n of trial must be JSON of"),
        (["start", "trial", "--inputs", "[1]"], 2, "inputs must be a JSON object, not a list."),
        (["start", "trial", "--inputs", '{"goal": 1}'], 2, "The input goal of the workflow trial must"),
        (["resume", "wf-00000000"], 1, "This project has no run wf-00000000."),
        (["resume", "first"], 2, "RUN “first” is not the id of a workflow's run."),
        (["resume", "wf-00000000", "--yes", "--step", "say"], 2, "Give one of --yes, --no, --output and --step."),
        (["resume", "wf-00000000", "--note", "x"], 2, "--note belongs to --yes or --no."),
        (["status", "wf-00000000"], 1, "This project has no run wf-00000000."),
    ):  # fmt: skip
        ended = work.inside("workflow", *words)
        assert (ended.code, ended.out) == (code, ""), words
        assert ended.err.startswith("error: ")
        assert told in ended.err
        assert "\nnext: " in ended.err
        assert ended.err.count("\n") == 2
    assert work.ok("workflow", "status")["runs"] == []

    (tmp_path / "goal.txt").write_text("Sign-in\n")
    words = ["--input", f"goal=@{tmp_path / 'goal.txt'}", "--input", "n=7", "--inputs", '{"many": [1]}']
    asked = work("workflow", "start", "trial", *words)
    assert asked.code == 4, "it waits, and nobody is there to ask"
    assert "Sure?" in asked.out
    run_id = asked.out.split()[0]
    assert f"answers with `loom workflow resume {run_id} --yes`, or `loom workflow resume {run_id} --no`;" in asked.out
    shown = work.ok("workflow", "status", run_id)
    assert shown["show"] == {"n": 7, "goal": "Sign-in\n", "many": [1]}
    assert (work.inside("workflow", "resume", run_id).code, work.inside("workflow", "status", run_id).code) == (4, 0)
    refused = work.inside("workflow", "resume", run_id, "--no", "--note", "too early", "--json")
    assert (refused.code, refused.json["error"]) == (1, "ask: tester said no: too early")
    assert "said no: too early" in work.inside("workflow", "status", run_id).out
    assert work.inside("workflow", "resume", run_id, "--yes").code == 1, "it has failed and is asked anew first"
    assert work.inside("workflow", "resume", run_id).code == 4
    assert work.inside("workflow", "resume", run_id, "--yes", "--note", "now").code == 0
    assert work.inside("workflow", "resume", run_id).code == 1
    assert work.inside("workflow", "start", "trial", "--input", "goal=x", "--yes").code == 0
    assert [one["status"] for one in work.ok("workflow", "status")["runs"]] == ["done", "done"]
    assert work.inside("workflow", "status").out.count("trial") == 2


@pytest.mark.parametrize(
    ("answer", "code", "status"),
    [("y\n", 0, "done"), ("n\n", 4, "waiting"), ("\x03", 130, "waiting"), (signal.SIGTERM, 143, "waiting")],
)
def test_a_person_at_a_terminal_is_asked(work: Cli, answer: str | signal.Signals, code: int, status: str) -> None:
    put(work.directory, source(f"- {{id: ask, type: confirm, message: Really?, show: {{what: this}}}}\n{SAY}"))
    seen = work.asked("workflow", "start", "trial", answer=answer)
    assert "Really?" in seen.out
    assert seen.code == code
    assert [run["status"] for run in work.ok("workflow", "status")["runs"]] == [status]


def test_a_yes_counts_only_for_what_was_shown(work: Cli) -> None:
    steps = "- {id: first, type: confirm, message: Write a file?}\n- {id: second, type: confirm, message: Delete all?}"
    put(work.directory, source(f"{steps}\n{TASK}"))

    def faster() -> None:
        run_id = work.ok("workflow", "status")["runs"][0]["run_id"]
        assert "Delete all?" in work.inside("workflow", "resume", run_id, "--yes").out

    seen = work.asked("workflow", "start", "trial", answer="y\n", meanwhile=faster)
    assert seen.code == 1
    assert "first was answered by somebody else; it is waiting at second now." in seen.out
    assert work.ok("status")["counts"]["pending"] == 0


def test_a_run_is_cancelled(work: Cli) -> None:
    put(work.directory, source(f"{TASK}\n- {{id: ask, type: confirm, message: Sure?, timeout: 1000}}"))
    asked = work.inside("workflow", "start", "trial")
    assert re.search(r"answers count until (\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d$", asked.out, re.MULTILINE)
    run_id = asked.out.split()[0]
    ended = work.inside("workflow", "cancel", run_id, "--note", "not now")
    assert (ended.code, ended.out) == (0, f"{run_id}  cancelled  trial\n  tester cancelled it: not now\n")
    assert work.ok("workflow", "status", run_id)["status"] == "cancelled"
    again = work.inside("workflow", "cancel", run_id)
    assert (again.code, f"{run_id} is cancelled already." in again.err) == (1, True)
    assert work.inside("workflow", "resume", run_id, "--yes").code == 1
    assert work.ok("status")["counts"]["pending"] == 1, "what it made stays"


def test_the_supervisor_says_which_runs_wait_for_a_person(work: Cli) -> None:
    put(work.directory, source("- {id: ask, type: confirm, message: Sure?}"))
    run_id = work.inside("workflow", "start", "trial").out.split()[0]
    seen = work.inside("orchestrate", "--once").out
    assert f"{run_id}  trial  waits for somebody at ask\n" in seen
    assert f"loom workflow status {run_id} shows it" in seen
    work.inside("workflow", "resume", run_id, "--no")
    assert f"{run_id}  trial  failed  ask: tester said no." in work.inside("orchestrate", "--once").out
    (row,) = work.ok("orchestrate", "--once")["unattended"]
    assert (row["run_id"], row["status"], row["error"]) == (run_id, "failed", "ask: tester said no.")
    work.ok("workflow", "cancel", run_id)
    assert work.inside("orchestrate", "--once").out == "nothing new  no tasks yet\n"


def test_a_yes_is_no_answer_to_a_prompt(work: Cli) -> None:
    put(work.directory, re.sub(r"outputs: .*", "outputs: {type: object}", SKILL), "shout.md", "skills")
    put(work.directory, source(f"{SHOUT}\n{TASK}"))
    run_id = work.inside("workflow", "start", "trial").out.split()[0]
    refused = work.inside("workflow", "resume", run_id, "--yes")
    assert (refused.code, "waits for no yes or no; it is waiting at shout." in refused.err) == (1, True)
    assert work.ok("workflow", "status", run_id)["waits_for"] == "answer"


async def test_who_comes_second_is_told(work: Cli, pool: Pool) -> None:
    put(work.directory, source(ASK))
    run_id = work.inside("workflow", "start", "trial").out.split()[0]
    await pool.execute(
        "update workflow_runs set status = 'running', holder = 'elsewhere', lease_expires_at = loom_now() + '1 hour'"
    )
    conflict = work.inside("workflow", "resume", run_id, "--json")
    assert conflict.code == 3
    assert conflict.json["error"]["code"] == "claim_conflict"
    assert "is carried on by elsewhere, whose lease ends at 20" in conflict.json["error"]["cause"]


def test_answers_and_steps_on_the_command_line(work: Cli) -> None:
    put(work.directory, source(f"{SHOUT}\n{TASK}\n{WAIT}\n{ASK}"))
    asked = work.inside("workflow", "start", "trial", "--no-wait")
    assert asked.code == 4
    run_id = asked.out.split()[0]
    assert "Say it louder" in asked.out
    assert f"and answer with `loom workflow resume {run_id} --output JSON`, an object" in asked.out
    wrong = work.inside("workflow", "resume", run_id, "--output", '{"sad": 1}', "--no-wait")
    assert wrong.code == 1
    assert "'said' is a required property" in wrong.err
    assert work.inside("workflow", "resume", run_id, "--yes").code == 1
    waiting = work.inside("workflow", "resume", run_id, "--output", json.dumps(LOUD), "--no-wait", "--json")
    assert (waiting.code, waiting.json["waits_for"], waiting.json["open"]) == (4, "tasks", 1)
    assert "waits for tasks: 1 open, 0 finished" in work.inside("workflow", "resume", run_id, "--no-wait").out
    back = work.inside("workflow", "resume", run_id, "--step", "shout")
    assert (back.code, "make has changed the graph already" in back.err) == (1, True)
    work.ok("done", work.ok("ready")["tasks"][0]["id"])
    assert work.inside("workflow", "resume", run_id, "--no-wait").code == 4
    assert work.inside("workflow", "resume", run_id, "--step", "work", "--no-wait").code == 4
    assert work.ok("workflow", "resume", run_id, "--yes")["status"] == "done"


async def test_what_others_wrote_is_shown_harmlessly(work: Cli, pool: Pool) -> None:
    put(work.directory, source(ASK))
    run_id = work.inside("workflow", "start", "trial").out.split()[0]
    evil = "\x1b]0;evil\x07\x1b[2J\u202eevil\u202c\r\nline"
    await pool.execute("update workflow_runs set workflow = $1, agent = $1, holder = $1", evil)
    await pool.execute(
        "update workflow_steps set inputs = $1, agent = $2", json.dumps({"message": evil, "show": {evil: [evil]}}), evil
    )
    for words in (["status"], ["status", run_id], ["resume", run_id], ["resume", run_id, "--no", "--note", evil]):
        ended = work.inside("workflow", *words)
        assert "evil" in ended.out
        assert not {"\x1b", "\x07", "\u202e", "\r"} & set(ended.out + ended.err)
        assert not any(line.startswith("line") for line in ended.out.split("\n"))
    definition = {"name": evil, "description": "x", "steps": [{"id": evil, "type": "confirm", "message": "x"}]}
    await pool.execute("update workflow_runs set definition = $1", json.dumps(definition))
    assert work.ok("workflow", "status")["count"] == 1, "one that cannot be read takes nothing with it"
    ended = work.inside("workflow", "status", run_id)
    assert ended.code == 1
    assert not {"\x1b", "\u202e"} & set(ended.err)
