"""`loom land`, as a person types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from loom.config import load_config
from loom.landing.target import OWN
from loom.landing.worktrees import Worktrees
from tests.cli.conftest import Cli
from tests.landing.place import Place


@pytest.fixture
def shop(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A project in a repository, with a check that everything needs."""
    place = Place(cli.directory)
    place.git("init", "-q", "-b", "main")
    place.commit("one", {".gitignore": ".loom/\n", "a.txt": "1\n"})
    row = {"command": [sys.executable, "-c", "import os, sys; print('looked'); sys.exit(os.path.exists('bad'))"]}
    assert cli.inside("config", "set", "checks.unit", json.dumps(row)).code == 0
    assert cli.inside("config", "set", "landing.checks", "[unit]").code == 0
    for name in ("HOME", "LOOM_DATABASE_URL"):
        monkeypatch.setenv(name, cli.env[name])
    return cli


async def worked(cli: Cli, name: str) -> tuple[str, Place]:
    """A claim whose worktree has a file of that name."""
    task = cli.create(f"Make {name}")
    cli.ok("claim", task)
    trees = await Worktrees.of_project(load_config(cli.directory))
    tree = await trees.make(task)
    trees.leave(tree)
    place = Place(tree.path)
    place.write(name, "1\n")
    return task, place


async def test_the_work_on_a_task_lands_and_the_next_command_is_named(shop: Cli) -> None:
    task, _ = await worked(shop, "b.txt")
    landed = shop.ok("land", task)
    tip = Place(shop.directory).tip(OWN)
    assert (landed["id"], landed["status"], landed["landed"]["commit"]) == (task, "done", tip)
    assert landed["next"] == f"git merge --ff-only {OWN}"
    shown = shop.inside("land", task)
    assert f"{task}  landed on {OWN} as {tip[:12]}" in shown.out
    assert f"Bring it into your branch: git merge --ff-only {OWN}" in shown.out
    Place(shop.directory).git(*landed["next"].split()[1:])
    assert "next" not in shop.ok("land", task)


async def test_the_work_on_several_tasks_lands_and_one_that_cannot_keeps_no_other(shop: Cli) -> None:
    one, _ = await worked(shop, "b.txt")
    red, _ = await worked(shop, "bad")
    other, _ = await worked(shop, "c.txt")
    said = shop.inside("land", one, red, "-", stdin=f"{other}\n{one}\n")
    assert said.code == 1
    tips = [Place(shop.directory).tip(name)[:12] for name in (f"{OWN}^", OWN)]
    assert [line.split("  ") for line in said.out.splitlines() if line.startswith("loom-")] == [
        [one, f"landed on {OWN} as {tips[0]}"],
        [other, f"landed on {OWN} as {tips[1]}"],
        [red, f"not changed: {red} is not proven: unit is red."],
    ]
    assert shop.inside("land", one, other, "--token", "1").code == 2
    again = shop.ok("land", one, other)
    assert [task["status"] for task in again["tasks"]] == ["done", "done"]


async def test_what_is_red_is_told_with_what_the_check_printed(shop: Cli) -> None:
    task, place = await worked(shop, "bad")
    red = shop.inside("land", task, "--json")
    assert (red.code, red.json["error"]["code"]) == (1, "check_failed")
    assert red.json["error"]["checks"][0]["tail"] == "looked\n"
    (place.top / "bad").unlink()
    shown = shop.inside("land", task)
    assert (shown.code, shown.out) == (0, f"{task}  done; it brings nothing to land\n")


async def test_what_waits_for_a_yes_is_exit_status_4(shop: Cli) -> None:
    assert shop.inside("config", "set", "landing.approve", "[all]").code == 0
    task, _ = await worked(shop, "b.txt")
    waits = shop.inside("land", task, "--json")
    assert (waits.code, waits.json["status"], waits.json["waits_for_yes"]) == (4, "landing", True)
    all_of_it = shop.inside("land")
    assert all_of_it.code == 4
    assert f"0 landed on {OWN}." in all_of_it.out
    assert f"waits for your yes: loom landing approve {task}" in all_of_it.out
    shop.ok("landing", "approve", task)
    landed = shop.ok("land")
    assert [one["id"] for one in landed["landed"]] == [task]
    assert shop.ok("land")["target"] == OWN


def test_nothing_is_landed_from_inside_a_run(shop: Cli) -> None:
    refused = shop.inside("land", "--json", LOOM_RUN="x.1.")
    assert (refused.code, refused.json["error"]["code"]) == (1, "task_state")


def test_a_target_that_cannot_be_is_a_sentence(shop: Cli) -> None:
    Place(shop.directory).git("branch", "loom")
    refused = shop.inside("land")
    assert refused.code == 1
    assert "git branch -m loom" in refused.err


def test_without_a_repository_it_is_a_sentence(cli: Cli, tmp_path: Path) -> None:
    refused = cli.inside("land", "--json")
    assert (refused.code, refused.json["error"]["code"]) == (1, "command")
