"""Work that lands, by workers that run real commands in a real repository: committed, proven, queued and merged, sent
back and mended, and the same whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loom.config import CheckConfig, LandingConfig, SetupConfig, WorkConfig, logs_dir
from loom.exceptions import CheckFailedError, CommandError, ConfigError, InvalidInputError, TargetError
from loom.graph.front import Loom
from loom.graph.model.task import Task
from loom.orchestration.workers.bench import JobPhase, JobProgress
from loom.orchestration.workers.worker import Workers, command_line
from tests.orchestration.conftest import Project, in_environment, task_now
from tests.waiting import until

# A check that wants each number in `numbers.txt` on its line only once, and none that is odd in another file.
CHECK = """
import pathlib, sys
lines = pathlib.Path("numbers.txt").read_text().split()
bad = [one for one in lines if lines.count(one) > 1] + [p.name for p in pathlib.Path().glob("*.bug")]
print("found", bad)
sys.exit(bool(bad))
"""


class Shop:
    """A repository with a project, whose check is a program of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "-q", "-b", "main")
        (root / "numbers.txt").write_text("0\n")
        (root / "check.py").write_text(CHECK)
        (root / ".gitignore").write_text(".loom/\nagents/\nhome/\nseen/\n")
        self.git("add", "-A")
        self.git("commit", "-qm", "one")

    def git(self, *words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", "-C", str(self.root), *identity, *words], check=True, capture_output=True, text=True
        )
        return done.stdout

    def landed(self) -> list[str]:
        """The tasks that the target's own commits name, oldest first."""
        told = self.git(
            "log", "--first-parent", "--reverse", "--format=%(trailers:key=Loom-Task,valueonly)", "loom/landed"
        )
        return told.split()

    def show(self, name: str) -> str:
        return self.git("show", f"loom/landed:{name}")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home" / "state"))
    monkeypatch.chdir(tmp_path)
    return Shop(tmp_path)


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    place = tmp_path / "seen"
    place.mkdir()
    return place


def landing(loom: Loom, **landing: Any) -> Loom:
    """The same project, whose tasks all need its check."""
    command = (sys.executable, "check.py")
    chosen = LandingConfig(**({"checks": ("numbers",)} | landing))
    loom.config = replace(
        loom.config, checks={"numbers": CheckConfig(command=command, protect=("check.py",))}, landing=chosen
    )
    return loom


@pytest.fixture
async def loom(project_loom: Project) -> Loom:
    return landing(project_loom("tester"))


@pytest.fixture
def worker(project_loom: Project) -> Callable[..., Loom]:
    return lambda **options: landing(project_loom(**options))


class Landing:
    """Workers whose work lands, and what they told."""

    def __init__(self, loom: Loom, script: str, **options: Any) -> None:
        self.told: list[JobProgress] = []
        self.said: list[str] = []
        words = command_line(["sh", "-c", textwrap.dedent(script)])
        chosen = {"land": True} | options
        self.workers = Workers(loom, words, tell=self.told.append, say=self.said.append, **chosen)

    async def finish(self) -> list[Any]:
        async with asyncio.timeout(60):
            left = await self.workers.run()
        assert left is not None
        return left

    def notes(self, phase: JobPhase) -> list[str]:
        return [one.note for one in self.told if one.phase is phase]

    def steps(self, task: Task) -> list[JobPhase]:
        return [one.phase for one in self.told if one.task_id == task.id]


async def test_what_is_done_lands_and_dependents_begin_from_it(shop: Shop, loom: Loom, worker: Any) -> None:
    first = await loom.create("First")
    second = await loom.create("Second", depends_on=[first.id])
    work = Landing(worker(), 'cat numbers.txt > $LOOM_TASK_ID.txt; echo "{\\"slot\\": $LOOM_SLOT}"', agents=2)
    assert await work.finish() == []
    assert shop.landed() == [first.id, second.id]
    done = await task_now(loom, first)
    assert (done.status, done.output) == ("done", {"slot": 1})
    assert work.steps(first) == ["started", "proving", "queued", "landed"]
    assert shop.show(f"{second.id}.txt") == "0\n"
    assert work.said == ["Proving what work begins from, in a fresh worktree."]
    assert work.workers.target == "loom/landed"
    assert list(work.workers.landed) == [first.id, second.id]
    assert shop.git("status", "--porcelain") == "", "the user's own branch and files are left alone"
    assert "loom/loom-" not in shop.git("branch", "--list")
    author = shop.git("log", "--first-parent", "-1", "--format=%an|%cn", "loom/landed")
    assert author == f"{(await task_now(loom, second)).assignee}|Loom\n"


async def test_who_finds_what_an_earlier_attempt_left_is_told_so(
    shop: Shop, loom: Loom, worker: Any, seen: Path
) -> None:
    await loom.create("A")
    script = f"""
        cat > {seen}/$(ls {seen} | wc -l)
        test -e half && echo whole > half && exit 0
        echo half > half; exit 1
        """
    assert await Landing(worker(), script).finish() == []
    assert shop.show("half") == "whole\n"
    assert ["what an earlier attempt left" in (seen / name).read_text() for name in ("0", "1")] == [False, True]


async def test_what_was_reopened_begins_anew_whatever_is_left_of_it(shop: Shop, loom: Loom, worker: Any) -> None:
    task = await loom.create("A")
    assert await Landing(worker(), "echo one > a.txt; exit 1").finish() != []
    await loom.cancel(task.id)
    shop.git("rev-parse", "--verify", "--quiet", f"loom/{task.id}")
    await loom.reopen(task.id)
    anew = worker()
    logs = {path.name for path in logs_dir(anew.config).glob(f"{task.id}-*.log")}
    assert await Landing(anew, "test ! -e a.txt && echo two > b.txt").finish() == []
    assert len({path.name for path in logs_dir(anew.config).glob(f"{task.id}-*.log")} - logs) == 1, "each has its own"
    assert shop.show("b.txt") == "two\n"
    assert shop.git("for-each-ref", f"refs/loom/kept/loom/{task.id}") != ""


async def test_what_is_red_goes_back_with_the_output_and_lands_when_it_is_mended(
    shop: Shop, loom: Loom, worker: Any, seen: Path
) -> None:
    task = await loom.create("A")
    work = Landing(
        worker(),
        f"""
        n=$(($(ls {seen} | wc -l) + 1)); cat > {seen}/told-$n
        if test $n = 1; then echo x > a.bug; else rm a.bug; echo y > a.txt; fi
        echo "{{\\"n\\": $n}}"
        """,
    )
    assert await work.finish() == []
    assert work.steps(task) == ["started", "proving", "sent back", "proving", "queued", "landed"]
    assert work.notes(JobPhase.SENT_BACK) == ["numbers is red."]
    told = (seen / "told-2").read_text()
    assert "found ['a.bug']" in told
    assert "cannot land on loom/landed as it is" in told
    assert f"Your task is {task.id}" in told, "it remembers nothing"
    found = await task_now(loom, task)
    assert (found.output, found.attempt) == ({"n": 2}, 1)
    assert "a.bug" not in shop.git("ls-tree", "--name-only", "loom/landed")


async def test_what_stays_red_has_failed_with_the_output(shop: Shop, worker: Any) -> None:
    loom = worker(max_retries=0)
    task = await loom.create("A")
    work = Landing(loom, "echo x > a.bug; echo '{\"a\": 1}'")
    await work.finish()
    found = await task_now(loom, task)
    assert found.dead_reason is not None
    assert "numbers is red." in found.dead_reason
    assert "found ['a.bug']" in found.dead_reason
    assert len(work.notes(JobPhase.SENT_BACK)) == 2
    assert shop.landed() == []


async def test_a_conflict_goes_back_with_its_markers_and_the_task_that_it_is_with(
    shop: Shop, loom: Loom, worker: Any, seen: Path
) -> None:
    tasks = [await loom.create("A"), await loom.create("B")]
    work = Landing(
        worker(),
        f"""
        cat > {seen}/$LOOM_TASK_ID.$$
        if grep -q '<<<<' numbers.txt; then
            git rev-parse MERGE_HEAD > {seen}/merging
            grep -v '[<>=]' numbers.txt > {seen}/both; cp {seen}/both numbers.txt
        else
            touch {seen}/begun-$LOOM_TASK_ID
            while test $(ls {seen}/begun-* | wc -l) -lt 2; do sleep 0.05; done
            echo $LOOM_TASK_ID >> numbers.txt
        fi
        """,
        agents=2,
    )
    assert await work.finish() == []
    first, second = shop.landed()
    assert sorted([first, second]) == sorted(one.id for one in tasks)
    assert sorted(shop.show("numbers.txt").split()) == sorted(["0", first, second])
    (why,) = work.notes(JobPhase.SENT_BACK)
    assert why == f"It conflicts in numbers.txt, which {first} changed meanwhile."
    assert (seen / "merging").read_text().strip()
    told = max(seen.glob(f"{second}.*"), key=lambda path: path.stat().st_mtime).read_text()
    assert "Bring both together and remove the markers." in told


async def test_what_may_not_land_is_told_to_its_agent(shop: Shop, loom: Loom, worker: Any, seen: Path) -> None:
    await loom.create("A")
    work = Landing(
        worker(),
        f"""
        n=$(($(ls {seen} | wc -l) + 1)); cat > {seen}/told-$n
        if test $n = 1; then echo 'exit(0)' > check.py; else git checkout -q HEAD -- check.py; echo y > a.txt; fi
        """,
    )
    assert await work.finish() == []
    assert "check.py may not be changed by this task" in (seen / "told-2").read_text()
    assert work.notes(JobPhase.SENT_BACK)[0].startswith("It cannot be committed: check.py may not be changed")
    assert shop.show("check.py") == CHECK


async def test_where_nothing_was_changed_the_task_is_done_and_nothing_lands(
    shop: Shop, loom: Loom, worker: Any, seen: Path
) -> None:
    looked = await loom.create("Look")
    work = Landing(worker(), f"cat > {seen}/$LOOM_TASK_ID-$$; echo '{{\"saw\": 1}}'")
    assert await work.finish() == []
    assert (await task_now(loom, looked)).status == "done"
    assert len([*seen.glob(f"{looked.id}-*")]) == 1
    assert shop.landed() == []


async def test_who_changes_nothing_of_what_a_task_names_is_asked_once_and_has_failed(
    shop: Shop, worker: Any, seen: Path
) -> None:
    loom = worker(max_retries=0)
    (declared,) = await loom.apply_plan({"tasks": [{"title": "Change", "files": ["a.txt"]}]})
    work = Landing(loom, f"cat > {seen}/$LOOM_TASK_ID-$$; echo '{{\"saw\": 1}}'")
    await work.finish()
    found = await task_now(loom, declared)
    assert found.dead_reason is not None
    assert "Nothing was changed, though the task is for a.txt" in found.dead_reason
    assert len([*seen.glob(f"{declared.id}-*")]) == 2
    assert shop.landed() == []


async def test_a_report_of_the_agents_own_is_kept_until_its_work_has_landed(
    shop: Shop, loom: Loom, worker: Any
) -> None:
    task = await loom.create("A")
    report = (
        f"""{sys.executable} -P -m loom done $LOOM_TASK_ID --token $LOOM_CLAIM_TOKEN --output '{{"by": "me"}}' --json"""
    )
    with in_environment(loom.config) as env:
        os.environ["PYTHONPATH"] = env["PYTHONPATH"]
        work = Landing(worker(), f"echo x > a.txt; {report} > answer.txt; exit 5")
        assert await work.finish() == []
    assert shop.landed() == [task.id]
    assert (await task_now(loom, task)).output == {"by": "me"}
    assert json.loads(shop.show("answer.txt"))["status"] == "landing"


def moving_on(shop: Shop, other: Path) -> list[str]:
    """Commits that work may land on: the first has a submodule and what its setup is made from, and each further one
    moves both."""
    subprocess.run(["git", "clone", "-q", str(shop.root), str(other)], check=True)
    shop.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "part")
    made = []
    for number in ("1", "2", "3"):
        (other / "numbers.txt").write_text(f"{number}\n")
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", "-C", str(other), *identity, "commit", "-qam", number], check=True)
        subprocess.run(["git", "-C", str(shop.root / "part"), "pull", "-q"], check=True)
        (shop.root / "lock").write_text(number)
        shop.git("add", "-A")
        shop.git("commit", "-qm", number)
        made.append(shop.git("rev-parse", "HEAD").strip())
    shop.git("branch", "base", made[0])
    return made


def set_up_by(loom: Loom, command: str) -> Loom:
    """Its worktrees are made ready by a command of the shell, from `lock`, and `env` is kept of that."""
    setup = SetupConfig(command=("sh", "-c", command), inputs=("lock",))
    loom.config = replace(loom.config, work=WorkConfig(setup=setup, keep=("env",)))
    return loom


FETCH = "git -c protocol.file.allow=always submodule update -q --init"


async def test_what_has_landed_meanwhile_is_set_up_before_the_agent_goes_on(
    shop: Shop, loom: Loom, worker: Any, seen: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _, second, third = moving_on(shop, tmp_path_factory.mktemp("other") / "other")
    task = await loom.create("A", priority="p0")
    await loom.create("B")
    script = f"""
        test $LOOM_TASK_ID = {task.id} || exec sleep 30
        n=$(($(ls {seen} | wc -l) + 1)); echo $(cat part/numbers.txt env/lock) > {seen}/$n
        case $n in
            1) echo x > a.bug; git update-ref refs/heads/base {second};;
            *) rm -f a.bug; echo $n > a.txt
        esac
        """
    chosen = set_up_by(landing_with_a_gate(worker()), f"{FETCH} && mkdir -p env && cp lock env/lock")
    work = Landing(chosen, script, target="base", agents=2)
    running = asyncio.create_task(work.workers.run())
    await until(lambda: work.notes(JobPhase.QUEUED))
    shop.git("update-ref", "refs/heads/base", third)
    await loom.refuse(task.id, note="Once more.")
    await until(lambda: len(work.notes(JobPhase.QUEUED)) == 2)
    assert [(seen / n).read_text() for n in ("1", "2", "3")] == ["1 1\n", "2 2\n", "3 3\n"]
    await loom.approve(task.id)
    await until(lambda: work.notes(JobPhase.LANDED))
    work.workers.stop()
    await running
    assert shop.git("ls-tree", "base", "part", "lock") == shop.git("ls-tree", third, "part", "lock")


async def test_an_agent_is_told_of_a_submodule_that_lies_as_before(
    shop: Shop, loom: Loom, worker: Any, seen: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _, second, _ = moving_on(shop, tmp_path_factory.mktemp("other") / "other")
    await loom.create("A")
    update = "git -c protocol.file.allow=always submodule update -- part"
    script = f"""
        n=$(($(ls {seen} | wc -l) + 1)); cat > {seen}/$n
        case $n in
            1) {FETCH}; echo x > a.bug; git update-ref refs/heads/base {second};;
            2) {update}; echo y > b.bug;;
            *) rm *.bug; echo y > a.txt
        esac
        """
    assert await Landing(worker(), script, target="base").finish() == []
    told = ["git submodule update -- part" in (seen / n).read_text() for n in ("1", "2", "3")]
    assert told == [False, True, False]


async def test_what_an_agent_has_changed_is_set_up_for_him_alone(
    shop: Shop, loom: Loom, worker: Any, seen: Path, tmp_path: Path
) -> None:
    (shop.root / "lock").write_text("ours")
    shop.git("add", "lock")
    shop.git("commit", "-qm", "lock")
    await loom.create("A")
    script = f"""
        n=$(($(ls {seen} | wc -l) + 1)); cat env/lock > {seen}/$n
        case $n in
            1) printf mine > lock; echo x > a.bug;;
            2) printf broken > lock; echo y > b.bug;;
            *) rm *.bug; printf mine > lock
        esac
        """
    command = "test $(cat lock) != broken && mkdir -p env && cp lock env/lock"
    script = f"cat > {tmp_path}/home/told\n{script}"
    work = Landing(set_up_by(worker(), command), script.replace("cat env/lock", "cat env/lock 2>&1"))
    assert await work.finish() == []
    assert (seen / "2").read_text() == "mine"
    assert "could not be set up for what has come in" in (tmp_path / "home" / "told").read_text()
    kept = [path.read_text() for path in (tmp_path / "home").glob("state/loom/*/kept/*/0/lock")]
    assert kept == ["ours"], "nobody else has what he had made"


async def test_work_that_came_back_from_the_queue_is_gone_on_with_by_a_free_worker(
    shop: Shop, loom: Loom, worker: Any, seen: Path
) -> None:
    task = await loom.create("A", priority="p0")
    other = await loom.create("B")
    script = f"test $LOOM_TASK_ID = {task.id} || exec sleep 30\n{again(seen)}"
    work = Landing(landing_with_a_gate(worker()), script, agents=2)
    running = asyncio.create_task(work.workers.run())
    await until(lambda: work.notes(JobPhase.QUEUED))
    assert "for your yes" in work.notes(JobPhase.QUEUED)[0]
    await loom.refuse(task.id, note="Write it in capitals.")
    await until(lambda: len(work.notes(JobPhase.QUEUED)) == 2)
    assert "Write it in capitals." in (seen / "told-2").read_text()
    await loom.approve(task.id)
    await until(lambda: work.notes(JobPhase.LANDED))
    work.workers.stop()
    await running
    found = await task_now(loom, task)
    assert (await task_now(loom, other)).status == "pending"
    assert (found.attempt, found.output) == (1, {"n": 2})
    assert shop.show("a.txt") == "2\n"


def landing_with_a_gate(loom: Loom) -> Loom:
    return landing(loom, approve=("all",))


def again(seen: Path) -> str:
    return f"""
        n=$(($(ls {seen} | wc -l) + 1)); cat > {seen}/told-$n
        echo $n > a.txt; echo "{{\\"n\\": $n}}"
    """


async def test_workers_end_where_everything_waits_for_a_yes(shop: Shop, loom: Loom, worker: Any) -> None:
    task = await loom.create("A")
    work = Landing(landing_with_a_gate(worker()), "echo x > a.txt")
    left = await work.finish()
    assert [(one.task_id, one.why) for one in left] == [
        (task.id, f"waits for your yes: loom landing approve {task.id}")
    ]
    await loom.approve(task.id)
    assert await Landing(worker(), "true").finish() == []
    assert shop.landed() == [task.id]


async def test_what_was_queued_is_landed_by_whoever_comes_next(
    shop: Shop, loom: Loom, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await loom.create("A")
    with monkeypatch.context() as patch:
        patch.setattr("loom.landing.lander.Lander.once", never)
        first = Landing(worker(), 'echo x > a.txt; echo \'{"by": "first"}\'')
        running = asyncio.create_task(first.workers.run())
        await until(lambda: first.notes(JobPhase.QUEUED))
        first.workers.stop()
        await running
    queued = await task_now(loom, task)
    assert (queued.status, queued.queued) == ("claimed", True)
    assert await Landing(worker(), "exit 1").finish() == []
    assert (await task_now(loom, task)).output == {"by": "first"}
    assert shop.landed() == [task.id]


async def never(*_: object) -> None:
    await asyncio.Event().wait()


async def test_a_red_or_unproven_beginning_claims_nothing(shop: Shop, loom: Loom, worker: Any) -> None:
    task = await loom.create("A")
    (shop.root / "a.bug").write_text("x")
    shop.git("add", "a.bug")
    shop.git("commit", "-qm", "two")
    with pytest.raises(CheckFailedError, match="is red as it stands"):
        await Landing(worker(), "true").workers.run()
    with pytest.raises(ConfigError, match="No check is needed by every task"):
        await Landing(landing(worker(), checks=()), "true").workers.run()
    assert (await task_now(loom, task)).claim_token == 0
    assert await Landing(worker(), "rm -f a.bug", baseline=False).finish() == []
    assert shop.landed() == [task.id]


async def test_a_target_that_is_not_there_claims_nothing(shop: Shop, loom: Loom, worker: Any) -> None:
    task = await loom.create("A")
    with pytest.raises(TargetError, match="There is no branch"):
        await Landing(worker(), "true", target="nowhere").workers.run()
    assert (await task_now(loom, task)).claim_token == 0


async def test_a_target_that_is_not_there_has_nothing_proven(shop: Shop, loom: Loom, worker: Any, seen: Path) -> None:
    await loom.create("A")
    at_work = worker()
    at_work.config = replace(at_work.config, checks={"numbers": CheckConfig(command=("touch", str(seen / "ran")))})
    with pytest.raises(TargetError, match="There is no branch nowhere"):
        await Landing(at_work, "true", target="nowhere").workers.run()
    assert not list(seen.iterdir())


@pytest.mark.parametrize("words", [["sh", "../agent.sh"], ["sh", "agents/agent.sh"], ["env", "--file=loose.txt", "sh"]])
async def test_a_command_that_names_a_file_which_no_worktree_has_claims_nothing(
    shop: Shop, loom: Loom, worker: Any, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await loom.create("A")
    for name in ("agent.sh", "sub/agents/agent.sh", "sub/loose.txt"):
        (shop.root / name).parent.mkdir(parents=True, exist_ok=True)
        (shop.root / name).write_text("echo x > a.txt\n")
    monkeypatch.chdir(shop.root / "sub")
    name = words[1].removeprefix("--file=")
    with pytest.raises(InvalidInputError) as refused:
        await Workers(worker(), command_line(words), land=True).run()
    assert str(refused.value) == (
        f"`{name}` is a file here, but not in the worktree of a task, where the command runs."
        f" Give its whole path: {(Path.cwd() / name).resolve()}"
    )
    with pytest.raises(InvalidInputError):
        await Workers(worker(), command_line(words), worktrees=True).preview()
    assert (await task_now(loom, task)).claim_token == 0


async def test_a_command_may_name_what_a_worktree_has_or_is_brought(shop: Shop, loom: Loom, worker: Any) -> None:
    task = await loom.create("A")
    (shop.root / "agents").mkdir()
    (shop.root / "agents" / "key").write_text("brought\n")
    at_work = worker()
    at_work.config = replace(at_work.config, work=replace(at_work.config.work, copy=("agents/key",)))
    (shop.root / "agent.sh").write_text("cat numbers.txt agents/key > a.txt\n")
    shop.git("add", "agent.sh")
    shop.git("commit", "-qm", "two")
    words = command_line(["sh", "agent.sh", "numbers.txt", "agents/key", "no-file", "agents"])
    assert await Workers(at_work, words, land=True).run() == []
    assert shop.landed() == [task.id]
    assert shop.show("a.txt") == "0\nbrought\n"


async def test_a_target_that_goes_meanwhile_ends_the_work_and_gives_back(shop: Shop, loom: Loom, worker: Any) -> None:
    shop.git("branch", "next")
    task = await loom.create("A")
    work = Landing(worker(), f"git -C {shop.root} branch -q -D next; echo x > a.txt", target="next")
    with pytest.raises(TargetError, match="next is gone"):
        await work.finish()
    found = await task_now(loom, task)
    assert (found.status, found.attempt) == ("pending", 0)


async def test_a_repository_that_goes_meanwhile_ends_the_work_and_gives_back(
    shop: Shop, loom: Loom, worker: Any
) -> None:
    tasks = [await loom.create("A"), await loom.create("B")]
    work = Landing(worker(), f"mv {shop.root}/.git {shop.root}/away; echo x > a.txt")
    with pytest.raises(CommandError, match=f"The git repository of {shop.root} does not answer any more"):
        await work.finish()
    for task in tasks:
        found = await task_now(loom, task)
        assert (found.status, found.attempt) == ("pending", 0)


@pytest.mark.parametrize("gone", ["$PWD", "{root}/.git/worktrees", "{state}"])
async def test_a_worktree_that_is_removed_meanwhile_is_told_and_made_anew(
    shop: Shop, loom: Loom, worker: Any, seen: Path, tmp_path: Path, gone: str
) -> None:
    task = await loom.create("A")
    gone = gone.replace("{root}", str(shop.root)).replace("{state}", str(tmp_path / "home" / "state"))
    work = Landing(worker(), f"test -e {seen}/once || {{ touch {seen}/once; rm -rf {gone}; exit 0; }}; echo x > a.txt")
    assert await work.finish() == []
    assert shop.landed() == [task.id]
    assert "was removed while it was worked in" in work.notes(JobPhase.FAILED)[0]


@pytest.mark.parametrize("where", ["worktree add", "write-tree"])
async def test_a_disk_that_is_full_ends_the_work_and_gives_back(
    shop: Shop, loom: Loom, worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    full, git = tmp_path / "full", shutil.which("git")
    full.mkdir()
    said = "echo 'fatal: could not write: No space left on device' >&2; exit 128"
    (full / "git").write_text(f'#!/bin/sh\ncase "$*" in *"{where}"*) {said};; esac\nexec {git} "$@"\n')
    (full / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{full}:{os.environ['PATH']}")
    task = await loom.create("A")
    with pytest.raises(CommandError, match="No space left on device"):
        await Landing(worker(), "echo x > a.txt").finish()
    found = await task_now(loom, task)
    assert (found.status, found.attempt) == ("pending", 0)


async def test_a_target_of_ones_own_that_is_checked_out_moves_with_its_files(
    shop: Shop, loom: Loom, worker: Any
) -> None:
    task = await loom.create("A")
    work = Landing(worker(), "echo x > a.txt", target="main")
    assert await work.finish() == []
    assert (shop.root / "a.txt").read_text() == "x\n"
    assert work.workers.taken_by is None, "it is there"
    assert shop.git("log", "-1", "--format=%(trailers:key=Loom-Task,valueonly)").strip() == task.id
    assert shop.git("status", "--porcelain") == ""


async def test_an_agent_commits_in_its_own_name_and_is_asked_for_no_signature(
    shop: Shop, loom: Loom, worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "home" / "gitconfig"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("[user]\n\tuseConfigOnly = true\n[commit]\n\tgpgSign = true\n[gpg]\n\tprogram = false\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    task = await loom.create("A")
    assert await Landing(worker(), "echo x > a.txt; git add a.txt && git commit -qm Mine").finish() == []
    agent = (await task_now(loom, task)).assignee
    assert f"Mine|{agent}" in shop.git("log", "--format=%s|%an", "loom/landed")


async def test_who_stops_while_what_work_begins_from_is_proven_waits_for_no_check(
    shop: Shop, loom: Loom, worker: Any, seen: Path
) -> None:
    task, mine = await loom.create("A"), worker()
    script = f"import pathlib, time; pathlib.Path({str(seen / 'begun')!r}).touch(); time.sleep(600)"
    mine.config = replace(mine.config, checks={"numbers": CheckConfig(command=(sys.executable, "-c", script))})
    work = Landing(mine, "echo x > a.txt")
    running = asyncio.create_task(work.workers.run())
    await until((seen / "begun").exists)
    work.workers.stop()
    async with asyncio.timeout(30):
        assert await running is None
    assert (await task_now(loom, task)).status == "pending"
    assert work.told == []


async def test_trouble_of_the_lander_is_told_and_ends_the_work_when_it_stays(
    shop: Shop, loom: Loom, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise CommandError("No space left on device.", "Make some.")

    monkeypatch.setattr("loom.landing.lander.Lander.once", full)
    monkeypatch.setattr("loom.orchestration.workers.shore._TROUBLE", (0.05, 0.1))
    task = await loom.create("A")
    work = Landing(worker(), "echo x > a.txt")
    with pytest.raises(CommandError, match="No space left"):
        await work.finish()
    begun = "Proving what work begins from, in a fresh worktree."
    assert work.said == [begun, "No space left on device. Make some."]
    assert (await task_now(loom, task)).queued, "whoever comes next lands it"


async def test_work_that_is_taken_out_of_the_queue_is_told_of(shop: Shop, loom: Loom, worker: Any, seen: Path) -> None:
    task = await loom.create("A", priority="p0")
    await loom.create("B")
    script = f"test $LOOM_TASK_ID = {task.id} || exec sleep 30\n{again(seen)}"
    work = Landing(landing_with_a_gate(worker()), script, agents=2)
    running = asyncio.create_task(work.workers.run())
    await until(lambda: work.notes(JobPhase.QUEUED))
    await loom.cancel(task.id)
    await until(lambda: work.notes(JobPhase.LOST))
    work.workers.stop()
    await running
    assert shop.landed() == []


@pytest.mark.parametrize("worktrees", [True, False])
async def test_what_does_not_land_is_proven_all_the_same(
    shop: Shop, loom: Loom, worker: Any, seen: Path, worktrees: bool
) -> None:
    task = await loom.create("A")
    script = f"""
        n=$(($(ls {seen} | wc -l) + 1)); cat > {seen}/told-$n
        if test $n = 1; then echo x > a.bug; else rm a.bug; fi
    """
    work = Landing(worker(), script, land=False, worktrees=worktrees)
    assert await work.finish() == []
    assert work.steps(task) == ["started", "sent back", "done"]
    assert "found ['a.bug']" in (seen / "told-2").read_text()
    assert f"{task.id} is not proven" in (seen / "told-2").read_text()
    assert (await task_now(loom, task)).attempt == 1


# --- as a command, killed ------------------------------------------------------------------------------------------


@pytest.fixture
async def started(shop: Shop, loom: Loom) -> AsyncIterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `loom work --land` as a process of its own."""
    running: list[subprocess.Popen[str]] = []
    settings = {
        "orchestration": {"sweep_seconds": 0.2, "max_retries": 3, "backoff_base_seconds": 0, "claim_ttl_seconds": 60},
        "checks": {"numbers": {"command": [sys.executable, "check.py"]}},
        "landing": {"checks": ["numbers"]},
    }
    own = shop.root / "home"
    (own / ".loom").mkdir(parents=True)
    (own / ".loom" / "config.yaml").write_text(json.dumps(settings))
    (shop.root / ".loom" / "config.yaml").write_text("project_name: shop\n")

    def start(script: str, *words: str) -> subprocess.Popen[str]:
        with in_environment(loom.config) as env:
            more = {"HOME": str(own), "XDG_STATE_HOME": os.environ["XDG_STATE_HOME"]}
            one = subprocess.Popen(
                [sys.executable, "-m", "loom", "work", "--land", "", *words, "--", "sh", "-c", textwrap.dedent(script)],
                cwd=shop.root,
                env=env | more,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        running.append(one)
        return one

    yield start
    for one in running:
        one.kill()
        await asyncio.to_thread(one.communicate)


async def test_it_says_what_landed_and_how_it_comes_into_ones_branch(
    shop: Shop, loom: Loom, started: Callable[..., subprocess.Popen[str]]
) -> None:
    task = await loom.create("A")
    one = started("echo x > a.txt")
    out, err = await asyncio.to_thread(one.communicate, timeout=60)
    assert (one.returncode, err) == (0, "")
    assert [line.split()[1] for line in out.splitlines() if task.id in line][:4] == [
        "started",
        "proving",
        "queued",
        "landed",
    ]
    assert "Bring it into your branch: git merge --ff-only loom/landed" in out
    shop.git("merge", "-q", "--ff-only", "loom/landed")
    assert (shop.root / "a.txt").exists()


async def test_what_it_says_at_the_end_can_be_typed_where_ones_branch_has_gone_on(
    shop: Shop, loom: Loom, worker: Any
) -> None:
    await loom.create("A")
    his = "git -c user.name=t -c user.email=t@example.org commit -q --allow-empty -m his"
    work = Landing(worker(), f"(cd {shop.root} && {his}); echo x > a.txt")
    assert await work.finish() == []
    assert work.workers.taken_by == "git merge loom/landed"
    shop.git(*work.workers.taken_by.split()[1:])
    assert (shop.root / "a.txt").exists()


@pytest.mark.parametrize("when", ["working", "queued"])
async def test_whatever_is_killed_each_task_lands_once(
    shop: Shop, loom: Loom, started: Callable[..., subprocess.Popen[str]], when: str, seen: Path, clock: Any
) -> None:
    tasks = [await loom.create(name) for name in "ABC"]
    slow = f"echo $$ >> {seen}/pids; echo $LOOM_TASK_ID > $LOOM_TASK_ID.txt; sleep 3"
    first = started(slow if when == "working" else "echo $LOOM_TASK_ID > $LOOM_TASK_ID.txt", "--agents", "2")
    if when == "working":
        await until(lambda: (seen / "pids").exists())
    else:
        assert first.stdout is not None
        while "queued" not in await asyncio.to_thread(first.stdout.readline):
            pass
    first.send_signal(signal.SIGKILL)
    await asyncio.to_thread(first.communicate)
    second = started("echo $LOOM_TASK_ID > $LOOM_TASK_ID.txt", "--agents", "2")
    await clock(90)  # past the leases
    out, err = await asyncio.to_thread(second.communicate, timeout=90)
    assert (second.returncode, err) == (0, ""), out
    assert sorted(shop.landed()) == sorted(one.id for one in tasks)
    for task in tasks:
        assert shop.show(f"{task.id}.txt") == f"{task.id}\n"
        assert (await task_now(loom, task)).status == "done"
