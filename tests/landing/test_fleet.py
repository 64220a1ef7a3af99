"""A small game of the fleet, and a replay of a history made for it: their long forms are commands of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleet.repository import git

pytestmark = pytest.mark.timeout(600)


def _play(*words: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("LOOM_")}
    env["LOOM_MCP_HUB"] = "never"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=root, env=env, capture_output=True, text=True, timeout=580, check=False
    )
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-2_000:]
    return done.stdout


def test_scripted_agents_honest_and_not_land_what_is_right_while_they_are_killed() -> None:
    said = _play("tests.fleet", "--seed", "7", "--tasks", "32", "--agents", "4", "--kill-every", "12")
    assert "all is well" in said


def test_a_history_is_done_again_to_the_same_tree(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main", "upstream")
    upstream = tmp_path / "upstream"
    for number in range(9):
        (upstream / f"m{number % 4}.py").write_text(f"VALUE = {number}\n")
        (upstream / "notes.txt").write_text("".join(f"line {one}\n" for one in range(number + 1)))
        git(upstream, "add", "-A")
        git(upstream, "commit", "-q", "-m", f"Change {number}")
    words = ["tests.replay", str(upstream), "--last", "8", "--check", "python3 -m compileall -q .", "--kill-every", "0"]
    assert "all is well" in _play(*words)
