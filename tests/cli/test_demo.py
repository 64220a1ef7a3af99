"""`loom demo`: scripted agents whose work lands, and a plan of one's own that real processes pretend to do over MCP."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from loom.cli import board
from loom.cli.demo.played import place
from loom.config import LoomConfig, McpConfig
from loom.db.connection import Pool
from loom.process import guard
from tests.cli.conftest import Cli


@pytest.fixture
def empty(bare: Cli, cli: Cli) -> Cli:
    """A directory without a project, with servers that run."""
    directory = cli.directory.parent / "fresh"
    directory.mkdir()
    env = {name: value for name, value in cli.env.items() if name != "LOOM_AGENT_ID"}
    return Cli(directory, env)


@pytest.mark.timeout(300)
def test_from_nothing_to_a_program_that_agents_have_changed(empty: Cli) -> None:
    done = empty("demo")
    assert done.code == 0, done
    assert "8 of 8 landed, none by a person; checked again from a clean clone: every commit green" in done.out
    for told in ("landed", "sent back", "unit is red", "It conflicts in shop/catalog.py", "killed by signal SIGKILL"):
        assert told in done.out, told
    root = empty.directory
    assert "git merge --ff-only loom/landed" in done.out
    merged = subprocess.run(
        ["git", "merge", "--ff-only", "-q", "loom/landed"], cwd=root, capture_output=True, text=True
    )
    assert merged.returncode == 0, merged.stderr
    assert '"tea"' in (root / "shop/catalog.py").read_text()
    assert empty("doctor").code == 0
    again = empty("demo")
    assert again.code == 0, "in a directory of its own, as this one has files"
    assert (root / "loom-demo" / "shop").is_dir()
    third = empty("demo")
    assert third.code == 1
    assert "was played in" in third.err


PLAN = """
tasks:
  - {key: a, title: First}
  - {key: b, title: Second, depends_on: [a]}
  - {title: Third, depends_on: [a]}
  - {title: Last, depends_on: [b]}
"""


async def test_agents_pretend_to_do_a_plan_of_ones_own(empty: Cli, pool: Pool) -> None:
    (empty.directory / "plan.yaml").write_text(PLAN)
    done = empty("demo", "plan.yaml", "--agents", "2")
    assert done.code == 0, done
    assert "4 tasks done by 2 agents" in done.out
    counts = empty.ok("status")["counts"]
    assert counts == counts | {"done": 4, "pending": 0, "claimed": 0}
    twice = "select count(*) from events where type = 'task.done' group by task_id having count(*) > 1"
    assert await pool.fetchval(twice) is None
    early = """select count(*) from task_deps e join tasks t on t.id = e.task_id join tasks d on d.id = e.depends_on
                where t.claimed_at < d.done_at"""
    assert await pool.fetchval(early) == 0
    again = empty("demo", "plan.yaml")
    assert again.code == 0
    assert "nothing to do: all 4 tasks are finished" in again.out


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by /proc")
def test_no_agent_outlives_a_demo_that_is_killed(empty: Cli) -> None:
    plan = "tasks:\n" + "".join(f"  - {{title: Task {number}}}\n" for number in range(200))
    (empty.directory / "plan.yaml").write_text(plan)
    place = str(empty.directory)

    def agents() -> list[int]:
        return guard.whose(lambda env: env.get("LOOM_PROJECT_DIR") == place and "LOOM_AGENT_ID" in env)

    words = [sys.executable, "-m", "loom", "demo", "plan.yaml", "--agents", "2"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    with subprocess.Popen(words, cwd=empty.directory, env=empty.env, **quiet) as demo:  # type: ignore[call-overload]
        until(lambda: len(agents()) >= 2)
        demo.kill()
    until(lambda: not agents())


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=str)
@pytest.mark.timeout(200)
def test_nothing_that_works_outlives_the_story_when_it_is_ended(empty: Cli, number: signal.Signals) -> None:
    def at_work(what: str) -> list[int]:
        return guard.whose(lambda env: env.get("LOOM_PROJECT_DIR") == str(empty.directory) and what in env)

    words = [sys.executable, "-m", "loom", "demo"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    with subprocess.Popen(words, cwd=empty.directory, env=empty.env, **quiet) as demo:  # type: ignore[call-overload]
        until(lambda: len(at_work("LOOM_TASK_ID")) >= 2, seconds=120)
        demo.send_signal(number)
    until(lambda: not at_work("DEMO_MEMORY"))


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_it_does_not_pretend_to_do_real_work(cli: Cli) -> None:
    task = cli.create("real work")
    (cli.directory / "plan.yaml").write_text(PLAN)
    refused = cli("demo", "plan.yaml")
    assert refused.code == 1
    assert "1 unfinished task" in refused.err
    assert cli.ok("status", task)["status"] == "pending"


def test_a_file_without_anything_to_do(empty: Cli) -> None:
    (empty.directory / "tasks.json").write_text(
        '{"loom_export": 1, "project": {"id": "x", "name": "y"}, "tasks":'
        ' [{"id": "loom-00000001", "title": "old", "status": "done"}]}'
    )
    done = empty("demo", "tasks.json")
    assert done.code == 0
    assert "nothing to do" in done.out


def test_a_repository_with_files_of_its_own_is_left_alone(bare: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", bare.env["HOME"])
    monkeypatch.chdir(bare.directory)
    assert place() == bare.directory
    (bare.directory / ".git").mkdir()
    assert place() == bare.directory
    (bare.directory / "main.py").touch()
    assert place() == bare.directory / "loom-demo"
    monkeypatch.chdir(bare.env["HOME"])
    assert place() == Path(bare.env["HOME"]) / "loom-demo"


def test_whoever_sees_the_demo_is_told_where_its_board_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(board, "link", lambda config, agent: "http://127.0.0.1:1/enter?code=x")

    def show(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr("webbrowser.open", show)
    board.offer(LoomConfig(project_name="Shop", mcp=McpConfig(hub="never")), "ada")
    assert capsys.readouterr().out == ""
    for sees in (False, True):
        monkeypatch.setattr(board, "can_open", lambda sees=sees: sees)
        board.offer(LoomConfig(project_name="Shop", project_id=str(uuid.uuid4()), mcp=McpConfig(hub="auto")), "ada")
        said = capsys.readouterr().out
        assert "http://127.0.0.1:1/enter?code=x" in said
        assert ("is open in your browser" in said) == sees == bool(opened)
