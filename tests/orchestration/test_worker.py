"""Workers, with real commands on real servers: what they run, what they report, and that nothing outlives its claim."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loom.background import end
from loom.bus.events import EventType
from loom.exceptions import FileError, InvalidInputError, LoomError
from loom.graph.front import Loom
from loom.landing.places import state_dir
from loom.orchestration.workers.bench import JobPhase
from loom.orchestration.workers.worker import Workers, command_line
from tests.orchestration.conftest import Clock, Command, Project, Work, in_environment, task_now
from tests.proxy import Door
from tests.waiting import alive, pids, until, until_renewed


@pytest.fixture
async def loom(project_loom: Project) -> Loom:
    """The project as those see it who look at what the workers do."""
    return project_loom("tester")


# --- what a command gets, and what it gives -------------------------------------------------------------------------


async def test_dependents_are_told_what_came_before(loom: Loom, project_loom: Project, tmp_path: Path) -> None:
    first = await loom.create("Design\u202e it", context={"note": "\x1b[31mred\u200b"}, done_when="It is drawn")
    second = await loom.create("Build it", depends_on=[first.id])
    script = f'cat > {tmp_path}/$LOOM_TASK_ID; echo working; echo "{{\\"by\\": \\"$LOOM_AGENT_ID\\"}}"; echo'
    assert await Work(project_loom(), script, agents=2).finish() == []
    done = await task_now(loom, first)
    assert done.output == {"by": done.assignee}
    prompt = (tmp_path / second.id).read_text()
    assert "Title: Build it" in prompt
    assert f"From {first.id} (done), Design it:" in prompt
    assert f'"by": "{done.assignee}"' in prompt
    told = (tmp_path / first.id).read_text()
    assert "It is drawn" in told
    assert "[31mred" in told
    assert not {"\u202e", "\x1b", "\u200b"} & set(told)


async def test_what_tasks_say_stands_between_lines_that_nobody_can_guess(
    loom: Loom, project_loom: Project, tmp_path: Path
) -> None:
    await loom.create("A")
    await loom.create("B")
    await Work(project_loom(), f"cat > {tmp_path}/$LOOM_TASK_ID").finish()
    words = [
        {line.split()[1] for line in file.read_text().splitlines() if line.startswith("----- ")}
        for file in tmp_path.glob("loom-*")
    ]
    assert [len(word) for word in words] == [1, 1]
    assert words[0] != words[1]


async def test_output(loom: Loom, project_loom: Project, tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ('echo \'{"a": 1}\' > "$LOOM_OUTPUT_FILE"; echo \'{"a": 2}\'', {"a": 1}),
        ("echo '{\"a\": 3}'; printf '\\n\\n'", {"a": 3}),
        ("echo '{\"a\": 3}'; echo bye", {"text": '{"a": 3}\nbye'}),
        ("echo '{}'", {}),
        ("echo '[1]'", {"text": "[1]"}),
        ("printf '\\033[31mred\\033[0m \\377\\000 x'", {"text": "red \N{REPLACEMENT CHARACTER} x"}),
        ("true", {"text": ""}),
    ]
    tasks = [await loom.create("A") for _ in cases]
    for task, (script, _) in zip(tasks, cases, strict=True):
        (tmp_path / task.id).write_text(script)
    await Work(project_loom(), f"exec sh {tmp_path}/$LOOM_TASK_ID", agents=3).finish()
    assert [(await task_now(loom, task)).output for task in tasks] == [output for _, output in cases]


async def test_a_file_that_is_no_output_does_not_lose_the_work(
    loom: Loom, project_loom: Project, tmp_path: Path
) -> None:
    contents = ["[1]", "{", '{"a": NaN}', '{"a": "' + "x" * 300_000 + '"}']
    tasks = [await loom.create("A") for _ in contents]
    for task, content in zip(tasks, contents, strict=True):
        (tmp_path / task.id).write_text(content)
    await Work(project_loom(), f'cat {tmp_path}/$LOOM_TASK_ID > "$LOOM_OUTPUT_FILE"; echo hello', agents=2).finish()
    for task in tasks:
        found = await task_now(loom, task)
        assert found.status == "done"
        assert found.output is not None
        assert found.output["text"] == "hello"
        assert found.output["note"].startswith("$LOOM_OUTPUT_FILE was not taken: ")


# Works a small task off and then a large one, and prints the large one's id and by how many kB it has raised the most
# memory that the process ever had. (What Linux gives as ru_maxrss counts that of the parent, too.)
WEIGHED = """
import asyncio, resource, sys
from loom import process
from loom.graph.front import Loom
from loom.orchestration.workers.worker import Workers, command_line

process.LOG_BYTES = 1_000_000

def peak():
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])

async def main():
    async with Loom.here() as loom:
        for script in sys.argv[1:]:
            task, before = await loom.create("A"), peak()
            assert await Workers(loom, command_line(["sh", "-c", script])).run() == []
        print(task.id, peak() - before)

asyncio.run(main())
"""


async def test_a_hundred_megabytes_of_output(loom: Loom, command: Command, tmp_path: Path) -> None:
    large = "head -c 100000000 /dev/zero | tr '\\0' x; echo; echo end"
    with in_environment(loom.config) as env:
        weighed = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", WEIGHED, "echo end", large],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert weighed.returncode == 0, weighed.stderr
    task_id, more = weighed.stdout.split()
    output = (await loom.get(task_id)).task.output
    assert output is not None
    assert output["text"].endswith("x\nend")
    assert len(output["text"]) <= 8_000
    assert (tmp_path / ".loom" / "logs" / f"{task_id}-1.log").stat().st_size < 1_001_000
    assert int(more) < 20_000


async def test_where_no_log_can_be_kept_nothing_is_run_and_no_attempt_counts(
    loom: Loom, project_loom: Project, tmp_path: Path
) -> None:
    task = await loom.create("A")
    logs = tmp_path / ".loom" / "logs"
    logs.parent.mkdir(exist_ok=True)
    logs.write_text("a file of somebody's\n")
    with pytest.raises(FileError, match=rf"^{logs}/{task.id}-1\.log cannot be written: .*\. Mend that"):
        await Work(project_loom(), f"touch {tmp_path}/ran").finish()
    found = await task_now(loom, task)
    assert (found.status, found.attempt, (tmp_path / "ran").exists()) == ("pending", 0, False)
    assert logs.read_text() == "a file of somebody's\n"


# --- failing --------------------------------------------------------------------------------------------------------


async def test_a_failure_is_tried_again_and_then_dead(loom: Loom, project_loom: Project) -> None:
    task = await loom.create("A")
    waits = await loom.create("B", depends_on=[task.id])
    work = Work(project_loom(), "echo no luck >&2; exit 7")
    left = await work.finish()
    dead = await task_now(loom, task)
    assert dead.dead
    assert dead.attempt == 2
    assert dead.dead_reason == "The command ended with exit status 7: no luck"
    assert {one.task_id: one.why for one in left} == {
        task.id: f"dead letter: {dead.dead_reason}",
        waits.id: f"waits for {task.id}",
    }
    assert work.workers.counts[JobPhase.FAILED] == 2


async def test_a_retry_is_waited_for(loom: Loom, project_loom: Project, clock: Clock, tmp_path: Path) -> None:
    task = await loom.create("A")
    script = f"test -e {tmp_path}/again || {{ touch {tmp_path}/again; kill -9 $$; }}"
    work = Work(project_loom(backoff_base_seconds=600), script)
    async with work.going() as running:
        await until(lambda: work.said(JobPhase.FAILED))
        assert "killed by signal SIGKILL and said nothing" in work.said(JobPhase.FAILED)[0].note
        await asyncio.sleep(0.5)
        assert not running.done()
        await clock(800)
        async with asyncio.timeout(30):
            left = await running
    assert left is not None
    assert left == []
    assert (await task_now(loom, task)).attempt == 2


async def test_a_question_is_left_to_a_person(loom: Loom, project_loom: Project) -> None:
    task = await loom.create("A")
    epic = await loom.create("All", epic=True)
    work = Work(project_loom(), f"{sys.executable} -m loom escalate $LOOM_TASK_ID --token $LOOM_CLAIM_TOKEN 'Which?'")
    with in_environment(loom.config):
        left = await work.finish()
    assert [one.note for one in work.said(JobPhase.REPORTED)] == ["by the command itself"]
    assert {one.task_id: one.why for one in left} == {
        task.id: "waits for an answer: Which?",
        epic.id: "has no children",
    }


async def test_a_claim_that_the_command_ended_is_left_alone(loom: Loom, project_loom: Project) -> None:
    task = await loom.create("A")
    script = f"""{sys.executable} -m loom done $LOOM_TASK_ID --output '{{"by": "me"}}'; echo '{{"by": "other"}}'"""
    with in_environment(loom.config):
        work = Work(project_loom(), script)
        assert await work.finish() == []
    assert work.workers.counts[JobPhase.REPORTED] == 1
    assert (await task_now(loom, task)).output == {"by": "me"}
    assert len([one for one in (await loom.get(task.id)).history if one.type == EventType.TASK_DONE]) == 1


# --- ending commands ------------------------------------------------------------------------------------------------


async def test_what_a_command_leaves_behind_is_ended(loom: Loom, project_loom: Project, tmp_path: Path) -> None:
    task = await loom.create("A")
    stubborn = "trap '' TERM; sleep 300"
    script = f"""
        sleep 300 & echo $! >> {tmp_path}/pids
        setsid sh -c 'echo $$ >> {tmp_path}/pids; exec sleep 300' &
        (sh -c 'echo $$ >> {tmp_path}/pids; {stubborn}' &)
        while test $(wc -l < {tmp_path}/pids) -lt 3; do sleep 0.01; done
        echo '{{"a": 1}}'
    """
    await Work(project_loom(), script).finish()
    assert (await task_now(loom, task)).output == {"a": 1}
    left = pids(tmp_path / "pids")
    assert len(left) == 3
    assert not any(map(alive, left))


async def test_the_deadline_kills(project_loom: Project, tmp_path: Path) -> None:
    loom = project_loom(deadline_seconds=1, max_retries=0)
    task = await loom.create("A")
    work = Work(loom, f"sleep 300 & echo $$ $! > {tmp_path}/pids; wait")
    left = await work.finish()
    assert len(left) == 1
    assert (await task_now(loom, task)).dead
    assert not any(map(alive, pids(tmp_path / "pids")))


async def test_a_lost_claim_kills_and_its_output_is_kept(loom: Loom, project_loom: Project, tmp_path: Path) -> None:
    task = await loom.create("A")
    work = Work(project_loom(), f"echo so far; sleep 300 & echo $$ $! > {tmp_path}/pids; wait")
    async with work.going():
        await until(lambda: len(pids(tmp_path / "pids")) == 2)
        await loom.cancel(task.id)
        await until(lambda: work.said(JobPhase.LOST))
        assert not any(map(alive, pids(tmp_path / "pids")))
    kept = [one for one in (await loom.get(task.id)).history if one.data and "refused" in one.data]
    assert [one.data and one.data["output"] for one in kept] == [{"text": "so far", "killed": True}]
    assert "already cancelled" in work.said(JobPhase.LOST)[0].note


async def test_a_task_that_somebody_else_has_claimed_is_theirs(
    loom: Loom, project_loom: Project, tmp_path: Path
) -> None:
    task = await loom.create("A")
    work = Work(project_loom(deadline_seconds=3600), f"echo $$ > {tmp_path}/pids; exec sleep 300")
    async with work.going():
        await until(lambda: pids(tmp_path / "pids"))
        await loom.release(task.id, token=(await task_now(loom, task)).claim_token)
        claim = await loom.claim(task.id)
        assert claim is not None
        await until(lambda: work.said(JobPhase.LOST))
        assert not any(map(alive, pids(tmp_path / "pids")))
        assert "was lost; the newest is" in work.said(JobPhase.LOST)[0].note
        await loom.done(task.id, {"by": "tester"})
    assert (await task_now(loom, task)).output == {"by": "tester"}


async def test_a_claim_that_lapsed_ends_its_command(project_loom: Project, clock: Clock, tmp_path: Path) -> None:
    loom = project_loom(max_retries=0, deadline_seconds=3600)
    task = await loom.create("A")
    work = Work(loom, f"echo $$ > {tmp_path}/pids; exec sleep 300")
    async with work.going() as running:
        await until(lambda: pids(tmp_path / "pids"))
        await clock(4000)  # past the deadline, where no renewal reaches
        async with asyncio.timeout(30):
            left = await running
    assert left is not None
    assert work.workers.counts[JobPhase.LOST] == 1
    assert not any(map(alive, pids(tmp_path / "pids")))
    assert (await task_now(loom, task)).dead


async def test_a_worker_that_cannot_renew_stops_its_command_when_its_lease_is_over(
    loom: Loom, door: Door, tmp_path: Path
) -> None:
    task = await loom.create("A")
    cut_off = replace(
        loom.config,
        database=replace(loom.config.database, url=door.url),
        orchestration=replace(loom.config.orchestration, claim_ttl_seconds=4),
    )
    async with Loom(cut_off, agent="worker") as other:
        work = Work(other, f"sleep 300 & echo $$ $! > {tmp_path}/pids; wait")
        async with work.going():
            await until(lambda: len(pids(tmp_path / "pids")) == 2)
            await until_renewed(loom, await task_now(loom, task))
            assert all(map(alive, pids(tmp_path / "pids")))
            door.shut()
            cut = time.monotonic()
            await until(lambda: not any(map(alive, pids(tmp_path / "pids"))))
            assert time.monotonic() - cut < 8
            door.open()
            await until(lambda: work.said(JobPhase.FAILED) or work.said(JobPhase.LOST))
    assert (await task_now(loom, task)).status != "claimed"


async def test_a_running_command_is_not_idle(loom: Loom, project_loom: Project, tmp_path: Path) -> None:
    task = await loom.create("A")
    script = f"touch {tmp_path}/begun; while ! test -e {tmp_path}/go; do sleep 0.05; done"
    work = Work(project_loom(claim_ttl_seconds=6, idle_limit_seconds=2), script)
    async with work.going() as running:
        await until((tmp_path / "begun").exists)
        await asyncio.sleep(2.5)  # longer than a claim is renewed that nobody asks about
        await until_renewed(loom, await task_now(loom, task))
        (tmp_path / "go").touch()
        async with asyncio.timeout(30):
            await running
    assert work.workers.counts[JobPhase.DONE] == 1
    assert (await task_now(loom, task)).attempt == 1


# --- starting and stopping ------------------------------------------------------------------------------------------


def test_a_command_that_does_not_exist() -> None:
    with pytest.raises(InvalidInputError, match="There is no command `no-such-thing` here"):
        command_line(["no-such-thing", "-x"])


def test_a_file_that_is_not_executable(tmp_path: Path) -> None:
    (tmp_path / "agent").touch()
    with pytest.raises(InvalidInputError, match="is not executable"):
        command_line([str(tmp_path / "agent")])


def test_runners_take_further_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "codex").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    words = command_line(["--model", "m"], "codex")
    assert words == [str(tmp_path / "codex"), "--model", "m"]


async def test_a_command_that_cannot_be_started_gives_its_task_back(
    loom: Loom, project_loom: Project, tmp_path: Path
) -> None:
    task = await loom.create("A")
    (tmp_path / "agent").write_bytes(b"\x7fELF nothing")
    (tmp_path / "agent").chmod(0o755)
    workers = Workers(project_loom(), command_line([str(tmp_path / "agent")]))
    with pytest.raises(LoomError, match="could not be started"):
        await workers.run()
    found = await task_now(loom, task)
    assert (found.status, found.attempt) == ("pending", 0)


async def test_stopping_gives_claims_back(loom: Loom, project_loom: Project, tmp_path: Path) -> None:
    tasks = [await loom.create(name) for name in "ABC"]
    script = f"trap '' TERM; echo $$ >> {tmp_path}/pids; sleep 300; sleep 300"
    work = Work(project_loom(), script, agents=3)
    async with work.going() as running:
        await until(lambda: len(pids(tmp_path / "pids")) == 3)
        work.workers.stop()
        async with asyncio.timeout(30):
            assert await running is None
    for task in tasks:
        found = await task_now(loom, task)
        assert (found.status, found.attempt) == ("pending", 0)
    assert not any(map(alive, pids(tmp_path / "pids")))


async def test_workers_whose_caller_is_cancelled_leave_nothing_going_on(
    loom: Loom, project_loom: Project, tmp_path: Path
) -> None:
    for name in "AB":
        await loom.create(name)
    before = asyncio.all_tasks()
    work = Work(project_loom(), f"trap '' TERM; echo $$ >> {tmp_path}/pids; sleep 300; sleep 300", agents=2)
    running = asyncio.create_task(work.workers.run())
    await until(lambda: len(pids(tmp_path / "pids")) == 2)
    await end([running])  # which asks again and again
    assert running.cancelled()
    assert not any(map(alive, pids(tmp_path / "pids")))
    await work.workers._loom.close()
    assert not asyncio.all_tasks() - before


async def test_each_task_has_its_worktree(loom: Loom, project_loom: Project, tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True, text=True
        )
        return done.stdout

    work = Work(project_loom(), "true", worktrees=True)
    with pytest.raises(LoomError, match="is not in a git repository"):
        await work.workers.run()
    git("init")
    with pytest.raises(LoomError, match="has no commit"):
        await Work(project_loom(), "true", worktrees=True).workers.run()
    (tmp_path / "file").write_text("one\n")
    git("add", "file")
    git("commit", "-m", "one")
    tasks = {name: await loom.create(name) for name in ("commits", "leaves", "nothing")}
    script = f"""
        test -f file || exit 1
        case $LOOM_TASK_ID in
            {tasks["commits"].id}) echo x > new; git add new; git -c user.name=t -c user.email=t@e commit -qm new;;
            {tasks["leaves"].id}) echo x > new;;
        esac
        git branch --show-current
    """
    left = await Work(project_loom(), script, agents=3, worktrees=True).finish()
    assert left == []
    branches = git("branch")
    assert {name for name, task in tasks.items() if f"loom/{task.id}" in branches} == {"commits", "leaves"}
    stay = [path.name for path in (state_dir(loom.config) / "worktrees").iterdir() if path.is_dir()]
    assert stay == [tasks["leaves"].id]
    assert (await task_now(loom, tasks["nothing"])).output == {"text": f"loom/{tasks['nothing'].id}"}
    assert "worktrees" not in git("status", "--short", "--untracked-files=all")


# --- the command ----------------------------------------------------------------------------------------------------


async def test_exit_status_tells_whether_all_is_done(loom: Loom, command: Command) -> None:
    task = await loom.create("Good")
    code, out, err = await command.run("--agents", "2", "--", "sh", "-c", "exit 0")
    assert (code, err) == (0, "")
    assert [line.split()[1] for line in out.splitlines() if task.id in line] == ["started", "done"]
    assert "1 done" in out
    bad = await loom.create("Bad")
    code, out, err = await command.run("--json", "--", "sh", "-c", "exit 3")
    answer = json.loads(out)
    assert code == 4
    assert answer["counts"]["failed"] == 2
    assert [(one["id"], one["status"]) for one in answer["left"]] == [(bad.id, "failed")]
    code, out, _ = await command.run("--", "true")
    assert code == 4
    assert "dead letter: The command ended with exit status 3" in out


async def test_a_missing_command_claims_nothing(loom: Loom, command: Command) -> None:
    task = await loom.create("A")
    code, _, err = await command.run("--", "no-such-thing")
    assert code == 2
    assert "There is no command `no-such-thing` here." in err
    code, _, err = await command.run()
    assert code == 2
    assert (await task_now(loom, task)).claim_token == 0


async def test_ctrl_c_gives_back_at_once(loom: Loom, command: Command, tmp_path: Path) -> None:
    task = await loom.create("A")
    running = command.start("--", "sh", "-c", f"sleep 300 & echo $$ $! > {tmp_path}/pids; wait")
    await command.gives_back(task, running, signal.SIGINT, tmp_path / "pids")


async def test_after_kill_9_nothing_lives_on_and_another_finishes(
    loom: Loom, command: Command, clock: Clock, tmp_path: Path
) -> None:
    tasks = [await loom.create(name) for name in "ABC"]
    blocker = f"echo $$ >> {tmp_path}/pids; setsid sleep 300 & echo $! >> {tmp_path}/pids; wait; sleep 300"
    first = command.start("--agents", "2", "--", "sh", "-c", blocker)
    await until(lambda: len(pids(tmp_path / "pids")) == 4)
    first.kill()
    await asyncio.to_thread(first.communicate, timeout=30)
    await until(lambda: not any(map(alive, pids(tmp_path / "pids"))))
    second = command.start("--agents", "2", "--json", "--", "true")
    await clock(90)  # past the leases
    out, _ = await asyncio.to_thread(second.communicate, timeout=30)
    assert second.returncode == 0
    assert json.loads(out)["counts"]["done"] == 3
    assert sorted([(await task_now(loom, task)).attempt for task in tasks]) == [1, 2, 2]
