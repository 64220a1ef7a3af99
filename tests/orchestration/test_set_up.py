"""Worktrees in which commands find what they need."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from loom.config.keys import SetupConfig, WorkConfig
from loom.exceptions import CommandError
from loom.graph.front import Loom
from tests.orchestration.conftest import Project, Work, task_now
from tests.waiting import alive, pids, until

pytestmark = pytest.mark.usefixtures("repository")


@pytest.fixture
def repository(tmp_path: Path) -> None:
    """The project is in a repository with one commit."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run([*git, *words], check=True)


async def test_a_worktree_is_set_up_before_the_command_runs(loom: Loom, project_loom: Project, tmp_path: Path) -> None:
    await loom.create("A")
    work = WorkConfig(setup=SetupConfig(command=("sh", "-c", "echo $LOOM_SLOT > made")))
    left = await Work(project_loom(work=work), 'test "$LOOM_SLOT" = "$(cat made)"', worktrees=True).finish()
    assert left == []


async def test_a_setup_that_fails_costs_no_task(loom: Loom, project_loom: Project, tmp_path: Path) -> None:
    task = await loom.create("A")
    work = WorkConfig(setup=SetupConfig(command=("sh", "-c", "echo no network; exit 3")))
    with pytest.raises(CommandError, match="failed with exit status 3: no network"):
        await Work(project_loom(work=work), "true", worktrees=True).finish()
    now = await task_now(loom, task)
    assert (now.status, now.attempt) == ("pending", 0)


async def test_workers_that_are_stopped_end_a_setup(loom: Loom, project_loom: Project, tmp_path: Path) -> None:
    task = await loom.create("A")
    work = WorkConfig(setup=SetupConfig(command=("sh", "-c", f"echo $$ > {tmp_path}/began; sleep 60")))
    running = Work(project_loom(work=work), "true", worktrees=True)
    finishing = asyncio.create_task(running.workers.run())
    await until(lambda: bool(pids(tmp_path / "began")))
    running.workers.stop()
    assert await finishing is None
    assert [alive(pid) for pid in pids(tmp_path / "began")] == [False]
    assert (await task_now(loom, task)).status == "pending"
