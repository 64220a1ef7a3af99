"""`loom worktree`: what lies there, and what may go."""

from __future__ import annotations

from pathlib import Path

import pytest

from loom.landing.places import Lock
from tests.cli.conftest import Cli
from tests.repositories import git


@pytest.fixture
def repository(cli: Cli) -> Path:
    """The project is in a repository with one commit."""
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        git(cli.directory, *words)
    return cli.directory


def test_what_is_over_goes_and_what_would_be_lost_is_named(cli: Cli, repository: Path) -> None:
    assert cli.ok("worktree", "list") == {"schema": 1, "worktrees": [], "count": 0, "earlier": []}
    assert cli("worktree", "list").out == "There are none.\n"
    tasks = [cli.create(title) for title in ("saved", "unsaved")]
    script = 'test "$(git branch --show-current)" = "loom/$LOOM_TASK_ID" && touch new'
    assert cli("work", "--worktree", "--", "sh", "-c", script).code == 0
    rows = cli.ok("worktree", "list")["worktrees"]
    assert {row["task_id"]: (row["in_use"], row["whole"], row["over"]) for row in rows} == dict.fromkeys(
        tasks, (False, True, True)
    )
    places = {row["task_id"]: Path(row["path"]) for row in rows}
    (places[tasks[0]] / "new").unlink()
    assert "over" in cli("worktree", "list").out
    pruned = cli.ok("worktree", "prune")
    assert pruned["removed"] == [tasks[0]]
    assert pruned["kept"] == [{"task_id": tasks[1], "why": f"{places[tasks[1]]}: not all that lies in it is committed"}]
    assert [places[task].exists() for task in tasks] == [False, True]
    shown = cli("worktree", "prune").out
    assert shown.startswith("0 worktrees removed.\n")
    assert f"{tasks[1]}  stays: " in shown


def test_what_is_in_use_or_half_made_is_said(cli: Cli, repository: Path) -> None:
    state = Path(cli.env["HOME"]) / ".local" / "state" / "loom" / cli.ok("status")["project_id"] / "worktrees"
    for name in ("loom-0000000a", "loom-0000000b"):
        (state / name).mkdir(parents=True)
    lock = Lock.take(state / "loom-0000000a.lock")
    assert lock is not None
    lines = cli("worktree", "list").out.splitlines()
    assert [line.split("  ")[1].strip() for line in lines] == ["in use", "half made"]
    pruned = cli.ok("worktree", "prune")
    assert pruned["removed"] == ["loom-0000000b"]
    assert pruned["kept"][0]["why"].endswith("somebody works in it")
    lock.let_go()


def test_worktrees_of_earlier_versions_are_named_and_left_alone(cli: Cli, repository: Path) -> None:
    place = repository / ".loom" / "worktrees" / "loom-0000000a"
    git(repository, "worktree", "add", "-q", "-b", "loom/loom-0000000a", str(place))
    assert cli.ok("worktree", "list")["earlier"] == [str(place)]
    assert cli.ok("worktree", "prune")["earlier"] == [str(place)]
    for words in (("worktree", "list"), ("worktree", "prune"), ("doctor",)):
        assert f"git worktree remove {place}" in cli(*words).out
    assert (place / ".git").exists()


def test_outside_of_a_repository_there_are_none(cli: Cli) -> None:
    refused = cli("worktree", "list")
    assert refused.out == ""
    assert "is not in a git repository" in refused.err
