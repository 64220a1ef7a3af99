"""What a reviewer is shown of a worktree when git does not play along."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from loom.exceptions import LoomError
from loom.orchestration.workers import worktrees
from loom.orchestration.workers.worktrees import Worktrees
from tests.orchestration.conftest import alive, pids


@pytest.fixture
async def trees(tmp_path: Path) -> Worktrees:
    """Those of a repository with one commit; `task` has one, with a new file."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        await asyncio.to_thread(subprocess.run, [*git, *words], check=True)
    trees = await Worktrees.of(tmp_path, tmp_path / "trees")
    place = await trees.make("task")
    (place / "new.txt").write_text("hello\n")
    await asyncio.to_thread(subprocess.run, ["git", "-C", str(place), "add", "new.txt"], check=True)
    return trees


def put_before(git: str, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a script do what `git` is asked, a pattern; the rest is left to the real one."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "git").write_text(f"""#!/bin/sh
case "$*" in
*" {git}"*) {script} ;;
*) exec {shutil.which("git")} "$@" ;;
esac
""")
    (place / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(place), prepend=":")


async def test_what_has_failed_is_not_shown_as_nothing(trees: Worktrees, tmp_path: Path) -> None:
    assert "+hello" in await trees.changes("task")
    (index,) = (tmp_path / ".git" / "worktrees").glob("*/index")
    index.write_bytes(b"garbage")
    with pytest.raises(LoomError, match=r"^`git status --short` failed: fatal: .*index file"):
        await trees.changes("task")


async def test_what_git_says_of_a_failure_does_not_stop_it(
    trees: Worktrees, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_before("log", "yes warning | head -n 100000 >&2; echo broken >&2; exit 3", tmp_path, monkeypatch)
    with pytest.raises(LoomError, match=r"^`git log --oneline` failed: broken$"):
        await trees.changes("task")


@pytest.mark.parametrize("git", ["merge-base", "diff"])
async def test_a_git_that_hangs_is_stopped(
    git: str, trees: Worktrees, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worktrees, "_SHOW_SECONDS", 3)
    put_before(git, f"sleep 60 & echo $! > {tmp_path}/started; echo begun; wait", tmp_path, monkeypatch)
    async with asyncio.timeout(30):
        with pytest.raises(LoomError, match=f"^`git {git}` did not end within 3 seconds, and was stopped"):
            await trees.changes("task")
    assert [alive(pid) for pid in pids(tmp_path / "started")] == [False]


async def test_worktrees_are_not_made_where_a_link_leads(trees: Worktrees, tmp_path: Path) -> None:
    away, place = tmp_path / "away", tmp_path / "project" / "trees"
    away.mkdir()
    (away / ".gitignore").write_text("mine\n")
    place.parent.mkdir()
    place.symlink_to(away)
    linked = await Worktrees.of(tmp_path, place)
    with pytest.raises(LoomError, match="it leads out of"):
        await linked.make("other")
    assert (away / ".gitignore").read_text() == "mine\n"
    assert [one.name for one in away.iterdir()] == [".gitignore"]
