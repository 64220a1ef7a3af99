"""`loom check`, and `loom done` where checks have to prove the work."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def checked(cli: Cli) -> Cli:
    """A project in a repository, whose every task needs that `good` is there."""
    subprocess.run(["git", "init", "-q"], cwd=cli.directory, check=True)
    script = "import os, sys; print('looked'); sys.exit(not os.path.exists('good'))"
    row = {"command": [sys.executable, "-c", script]}
    assert cli.inside("config", "set", "checks.unit", json.dumps(row)).code == 0
    assert cli.inside("config", "set", "landing.checks", "[unit]").code == 0
    return cli


def test_checks_are_run_on_what_lies_there(checked: Cli) -> None:
    red = checked.inside("check", "--json")
    assert (red.code, red.json["green"], red.json["count"]) == (1, False, 1)
    (one,) = red.json["checks"]
    assert (one["name"], one["exit_status"], one["tail"]) == ("unit", 1, "looked\n")
    shown = checked.inside("check")
    assert shown.code == 1
    assert "unit  red" in shown.out
    assert "exit status 1" in shown.out
    assert "    looked" in shown.out
    assert "running unit" in shown.err
    (checked.directory / "good").touch()
    assert "unit  green" in checked.inside("check").out
    assert "running" not in checked.inside("check", "--only", "unit").err  # it is proven
    green = checked.ok("check")
    assert green["checks"][0].keys() == {"name", "exit_status", "seconds"}


def test_a_report_runs_them_and_a_red_one_keeps_the_claim(checked: Cli) -> None:
    task = checked.create()
    checked.ok("claim", task)
    red = checked.inside("done", task, "--json")
    assert (red.code, red.json["error"]["code"]) == (1, "check_failed")
    assert red.json["error"]["checks"][0]["exit_status"] == 1
    shown = checked.inside("done", task)
    assert "is not proven: unit is red" in shown.err
    assert "    looked" in shown.err
    assert checked.ok("status", task)["status"] == "claimed"
    (checked.directory / "good").touch()
    assert checked.ok("done", task)["status"] == "done"
    *before, last = [one["state"] for one in checked.ok("status", task)["proofs"]]
    assert (set(before), last) == ({"red"}, "green"), "the newest last"


def test_what_an_agent_does_to_the_file_of_the_project_lifts_nothing(checked: Cli) -> None:
    task = checked.create()
    checked.ok("claim", task)
    path = checked.directory / ".loom" / "config.yaml"
    text = path.read_text()
    for changed in (
        text.replace("sys.exit(", "sys.exit(0 * "),
        text.replace("[unit]", "[]"),
        text.partition("checks:")[0],
    ):
        path.write_text(changed)
        refused = checked.inside("done", task, "--json")
        assert (refused.code, refused.json["error"]["code"]) == (1, "proof_missing")
        assert "not in force" in refused.json["error"]["cause"]
    path.write_text(text)
    assert checked.inside("done", task, "--json").json["error"]["code"] == "check_failed"


def test_an_agents_own_file_in_its_worktree_does_not_count(checked: Cli, tmp_path: Path) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", "add", "-A"], cwd=checked.directory, check=True)
    subprocess.run(["git", *identity, "commit", "-q", "-m", "x"], cwd=checked.directory, check=True)
    subprocess.run(["git", "worktree", "add", "-q", str(tmp_path / "beside")], cwd=checked.directory, check=True)
    beside = replace(checked, directory=tmp_path / "beside")
    (beside.directory / ".loom" / "config.yaml").write_text("landing: {checks: []}\n")
    task = checked.create()
    beside.ok("claim", task)
    assert beside.inside("done", task, "--json").json["error"]["code"] == "check_failed"
    (beside.directory / "good").touch()
    assert checked.inside("done", task, "--json").json["error"]["code"] == "check_failed"  # it is not there
    assert beside.ok("done", task)["status"] == "done"


def test_a_person_lifts_what_was_demanded(checked: Cli) -> None:
    path = checked.directory / ".loom" / "config.yaml"
    path.write_text(path.read_text().partition("checks:")[0])
    refused = checked.inside("config", "trust")
    assert refused.code == 2
    assert "checks.unit, which is gone, landing.checks, which is gone" in refused.err
    assert checked.ok("config", "trust", "--yes")["new"] == [
        "checks.unit, which is gone",
        "landing.checks, which is gone",
    ]
    assert checked.ok("done", checked.create())["status"] == "done"


def test_what_is_not_there_to_be_run_is_told_in_one_sentence(checked: Cli, bare: Cli) -> None:
    assert "has no commit" in checked.inside("check", "--baseline").err
    assert checked.inside("check", "--baseline", "loom-12345678").code == 2
    assert "not in force: none" in checked.inside("check", "--only", "none").err
    assert checked.inside("config", "set", "landing.checks", "[]").code == 0
    assert "Not every task needs a check" in checked.inside("check").err
    assert "No check is needed by every task" in checked.inside("check", "--baseline").err


def test_the_baseline_is_proven_apart_from_what_lies_there(checked: Cli) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"], cwd=checked.directory, check=True)
    (checked.directory / "good").touch()
    red = checked.inside("check", "--baseline", "--json")
    assert (red.code, red.json["error"]["code"]) == (1, "check_failed")
    subprocess.run(["git", "add", "good"], cwd=checked.directory, check=True)
    subprocess.run(["git", *identity, "commit", "-q", "-m", "good"], cwd=checked.directory, check=True)
    assert checked.ok("check", "--baseline")["green"]
