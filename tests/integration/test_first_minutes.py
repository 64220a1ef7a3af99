"""The first minutes with Loom in a repository of one's own, as they are typed: real servers, the real Claude Code, its
model by script, a home with nothing in it, and nothing edited by hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.agents.installed import agent
from tests.agents.models import Request, Turn, mcp, run, say, serving
from tests.integration.test_install import home
from tests.integration.test_install import run as runs

__all__ = ["home"]

_FILES = {
    "Makefile": "test:\n\t@python3 -m unittest -q\n",
    "sums.py": "def total(numbers):\n    return sum(numbers)\n",
    "test_sums.py": "import unittest\nfrom sums import total\n\n\nclass Sums(unittest.TestCase):\n"
    "    def test_total(self):\n        self.assertEqual(total([1, 2]), 3)\n",
}
_TASKS = [("mean", "Add mean"), ("median", "Add median"), ("report", "Add the report")]
_PLAN = [{"key": key, "title": title, "done_when": f"{key}.py is there", "checks": ["test"]} for key, title in _TASKS]


def script(request: Request) -> Turn:
    """Makes the plan, and adds the file that a title names; who adds the report needs what was added before it."""
    if "Break this down into a plan" in request.said:
        *others, report = _PLAN
        return say(json.dumps({"tasks": [*others, report | {"depends_on": ["mean", "median"]}]}))
    ((task, name),) = set(re.findall(r"Your task is (loom-\w{8}), attempt.*Title: Add (?:the )?(\w+)", request.said))
    name = f"{name}.py"
    needs = "cat mean.py median.py && " if name == "report.py" else ""
    turns = [run(f"{needs}echo 'x = 1' > {name}"), mcp("loom_done", task_id=task, output={"file": name})]
    return [*turns, say("It is done.")][len(request.results)]


README = Path(__file__).parents[2] / "README.md"


def typed_in(page: Path) -> list[str]:
    """The lines from `loom init` to the merge, without what is said of them."""
    block = page.read_text().partition("cd your-project\n")[2].partition("```")[0]
    return [line.partition("  # ")[0].strip() for line in block.splitlines()]


def at_a_terminal(line: str, env: dict[str, str], directory: Path) -> str:
    """What a line comes to that must succeed, typed by somebody who says yes to what it asks."""
    ours, theirs = os.openpty()
    shell = subprocess.Popen(
        ["sh", "-c", line], cwd=directory, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    shown, asked = b"", 0
    with suppress(OSError):  # how Linux says that nobody has the other end open
        while more := os.read(ours, 4096):
            shown += more
            if (times := shown.count(b"[y/N]:")) > asked:
                os.write(ours, b"y\n")
                asked = times
    os.close(ours)
    assert shell.wait(10) == 0, shown.decode()
    return shown.decode()


@pytest.mark.timeout(400)
def test_from_init_to_the_merge(home: dict[str, str], tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    claude, project = agent("claude"), tmp_path / "project"
    for name, text in _FILES.items():
        (project / name).write_text(text)
    home["PATH"] = f"{Path(sys.executable).parent}:{home['PATH']}"
    person = {f"GIT_{who}_{what}": f"me@{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    runs("git", "init", "-q", env=home, cwd=project)
    runs("git", "add", "-A", env=home, cwd=project)
    runs("git", "commit", "-q", "-m", "One", env=home | person, cwd=project)
    with serving(script) as models:
        env = claude.asking(models.url, home)
        typed, printed = typed_in(README), ""
        assert [line.split()[0:2] for line in typed] == [
            ["loom", "init"], ["loom", "up"], ["loom", "decompose"], ["loom", "work"], ["git", "merge"],
        ]  # fmt: skip
        for line in typed:
            shown = at_a_terminal(line, env, project)
            assert not line.startswith("loom init") or "Once there are tasks: loom work --runner claude --land" in shown
            assert not line.startswith("git") or line in printed, "it says so at the end"
            printed = shown
    runs("git", "clone", "-q", ".", tmp_path / "clone", env=home, cwd=project)
    for commit in runs("git", "log", "--first-parent", "--format=%h", env=home, cwd=project).split():
        runs("git", "checkout", "-q", commit, env=home, cwd=tmp_path / "clone")
        runs("make", "test", env=home, cwd=tmp_path / "clone")
    assert {"mean.py", "median.py", "report.py"} <= {path.name for path in project.iterdir()}
    told = runs("git", "log", "--first-parent", "--format=%(trailers:key=Loom-Task)", env=home, cwd=project)
    assert len(set(told.split("Loom-Task:"))) == 1 + 3
    runs("loom", "doctor", env=home, cwd=project)
