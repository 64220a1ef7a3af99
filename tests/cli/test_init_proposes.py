"""`loom init` proposes a setup and checks, and writes them once somebody has agreed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def shop(bare: Cli) -> Cli:
    """A project of npm, with `claude` on PATH."""
    (bare.directory / "package-lock.json").write_text("{}")
    (bare.directory / "package.json").write_text(json.dumps({"scripts": {"test": "node test.js"}}))
    programs = bare.directory.parent / "bin"
    programs.mkdir()
    (programs / "claude").write_text("#!/bin/sh\n")
    (programs / "claude").chmod(0o755)
    bare.env["PATH"] = f"{programs}:{bare.env['PATH']}"
    return bare


def in_force(cli: Cli) -> dict[str, object]:
    """The values of the project's own file that count."""
    shown = cli.ok("config", "show", "--changed")["values"]
    mine = str(cli.directory / ".loom" / "config.yaml")
    return {
        key: facts["value"]
        for key, facts in shown.items()
        if key.startswith(("work", "checks", "landing")) and facts["source"] == mine
    }


AGREED = {
    "checks.test.command": ["npm", "test"],
    "landing.checks": ["test"],
    "work.setup.command": ["npm", "ci"],
    "work.setup.inputs": ["package-lock.json", "package.json"],
    "work.keep": ["node_modules"],
}


def test_without_a_yes_nothing_of_it_is_written(shop: Cli) -> None:
    made = shop.ok("init")
    assert made["proposed"]["checks.test"] == {"command": ["npm", "test"]}
    assert (made["agreed"], made["runners"][0]) == (False, "claude")
    shown = shop("init").out
    assert "Because of package-lock.json, .loom/config.yaml may say:" in shown
    assert '["npm", "ci"]' in shown
    assert "`loom init --yes` writes it" in shown
    assert "loom work --runner claude" in shown
    assert in_force(shop) == {}


def test_a_yes_writes_it_and_trusts_it(shop: Cli) -> None:
    shop.ok("init")
    made = shop.ok("init", "--yes")
    assert (made["agreed"], made["files"][".loom/config.yaml"]) == (True, "updated")
    assert in_force(shop) == AGREED
    assert shop.ok("config", "trust")["new"] == []
    again = shop.ok("init", "--yes")
    assert (again["proposed"], again["agreed"], again["files"][".loom/config.yaml"]) == ({}, False, "unchanged")


@pytest.mark.parametrize(("typed", "written"), [("y\n", AGREED), ("n\n", {}), ("\n", {})])
def test_a_person_is_asked_once(shop: Cli, typed: str, written: dict[str, object]) -> None:
    shown = shop.asked("init", answer=typed).out
    assert shown.count("[y/N]") == 1
    assert ("It was not written" in shown) == (not written)
    assert in_force(shop) == written


def test_what_the_file_says_already_stays(shop: Cli) -> None:
    shop.ok("init")
    path: Path = shop.directory / ".loom" / "config.yaml"
    path.write_text(path.read_text() + "checks: {mine: {command: [make]}}\n")
    made = shop.ok("init", "--yes")
    assert "work.setup.command" in made["proposed"]
    assert not [key for key in made["proposed"] if key.startswith(("checks", "landing"))]
    assert "checks: {mine: {command: [make]}}" in path.read_text()
    refused = shop("config", "trust", "--json").json["error"]["cause"]
    assert refused.endswith("not trusted yet: checks.mine."), "a yes is to what was shown"


def test_nobody_agrees_from_inside_a_run(shop: Cli) -> None:
    shop.ok("init")
    shop.env["LOOM_RUN"] = "abc.1."
    refused = shop("init", "--yes")
    assert (refused.code, "from inside a run" in refused.err) == (1, True)
    del shop.env["LOOM_RUN"]
    assert in_force(shop) == {}
