"""`loom demo`: real processes that speak MCP work through a plan, each task done once and in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from loom.cli.demo import _place
from loom.db.connection import Pool
from tests.cli.conftest import Cli


@pytest.fixture
def empty(bare: Cli, cli: Cli) -> Cli:
    """A directory without a project, with servers that run."""
    directory = cli.directory.parent / "fresh"
    directory.mkdir()
    env = {name: value for name, value in cli.env.items() if name != "LOOM_AGENT_ID"}
    return Cli(directory, env)


async def test_from_nothing_to_a_finished_project(empty: Cli, pool: Pool) -> None:
    done = empty("demo")
    assert done.code == 0, done
    assert "16 tasks done by 3 agents" in done.out
    assert "agent-3" in done.out
    counts = empty.ok("status")["counts"]
    assert counts == counts | {"done": 20, "pending": 0, "claimed": 0}
    twice = "select count(*) from events where type = 'task.done' group by task_id having count(*) > 1"
    assert await pool.fetchval(twice) is None
    early = """select count(*) from task_deps e join tasks t on t.id = e.task_id join tasks d on d.id = e.depends_on
                where t.claimed_at < d.done_at"""
    assert await pool.fetchval(early) == 0
    assert empty("doctor").code == 0
    again = empty("demo")
    assert again.code == 0
    assert "nothing to do: all 20 tasks are finished" in again.out


def test_it_does_not_pretend_to_do_real_work(cli: Cli) -> None:
    task = cli.create("real work")
    refused = cli("demo")
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
    assert _place() == bare.directory
    (bare.directory / ".git").mkdir()
    assert _place() == bare.directory
    (bare.directory / "main.py").touch()
    assert _place() == bare.directory / "loom-demo"
    monkeypatch.chdir(bare.env["HOME"])
    assert _place() == Path(bare.env["HOME"]) / "loom-demo"
