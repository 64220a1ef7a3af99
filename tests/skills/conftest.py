"""A project with files that git tracks, and a command that plays a model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from loom.config import LoomConfig, SkillsConfig
from loom.graph.front import Loom
from tests.cli.conftest import bare, cli

__all__ = ["bare", "cli"]

_MODEL = """
import json, sys, time
from pathlib import Path

place = Path(sys.argv[1])
prompt = sys.stdin.read()
turn = len(list(place.glob("prompt-*.txt")))
(place / f"prompt-{turn}.txt").write_text(prompt)
while (place / "hold").exists():
    time.sleep(0.02)
answers = json.loads((place / "answers.json").read_text())
sys.stdout.write(answers[min(turn, len(answers) - 1)])
"""


@dataclass(frozen=True)
class Model:
    """A command that answers from a list, one answer a call, the last again and again; keeps what it was asked."""

    place: Path

    @property
    def command(self) -> str:
        return f"'{sys.executable}' '{self.place / 'model.py'}' '{self.place}'"

    def answers(self, *texts: str | dict[str, Any]) -> Model:
        said = [text if isinstance(text, str) else json.dumps(text) for text in texts]
        (self.place / "answers.json").write_text(json.dumps(said))
        return self

    def hold(self) -> None:
        """Has it think, once it has been asked, until it is told to `go_on`."""
        (self.place / "hold").touch()

    def go_on(self) -> None:
        (self.place / "hold").unlink(missing_ok=True)

    @property
    def prompts(self) -> list[str]:
        return [file.read_text() for file in sorted(self.place.glob("prompt-*.txt"))]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    place = tmp_path / "model"
    place.mkdir()
    (place / "model.py").write_text(_MODEL)
    return Model(place)


def track(directory: Path, *names: str) -> None:
    """Makes files and has git track them."""
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"{name}\n")
    subprocess.run(["git", "init", "-q"], cwd=directory, check=True)
    subprocess.run(["git", "add", "--", *names], cwd=directory, check=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, so that nobody's skills or trust count."""
    place = tmp_path / "home"
    place.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(place))
    return place


@pytest.fixture
def directory(tmp_path: Path, home: Path) -> Path:
    """A project's directory with two tracked files."""
    place = tmp_path / "shop"
    (place / ".loom").mkdir(parents=True, exist_ok=True)
    track(place, "src/app.py", "README.md")
    return place


@pytest.fixture
async def shop(config: LoomConfig, directory: Path, model: Model) -> AsyncIterator[Loom]:
    """A project there whose provider is the command that plays a model."""
    skills = SkillsConfig(provider="command", command=model.command)
    async with Loom(replace(config, project_dir=directory, skills=skills), agent="planner") as loom:
        await loom.connect()
        yield loom


@pytest.fixture
async def bare_shop(config: LoomConfig, directory: Path) -> AsyncIterator[Loom]:
    """The same project without a provider."""
    async with Loom(replace(config, project_dir=directory), agent="planner") as loom:
        await loom.connect()
        yield loom


def good_plan() -> dict[str, Any]:
    """A plan that nothing is wrong with."""
    return {
        "tasks": [
            {"key": "auth", "title": "Sign-in", "type": "epic"},
            {
                "key": "schema",
                "title": "Add the table users",
                "parent": "auth",
                "priority": "p0",
                "done_when": "the migration runs twice without an error",
                "files": ["new: src/schema.sql"],
                "size": "small",
            },
            {
                "key": "login",
                "title": "Add POST /login to src/app.py",
                "parent": "auth",
                "depends_on": ["schema"],
                "done_when": "a wrong password gets 401 and no cookie",
                "files": ["src/app.py", "src/schema.sql"],
                "size": "medium",
            },
            {
                "key": "logout",
                "title": "Add POST /logout to src/app.py",
                "parent": "auth",
                "depends_on": ["schema"],
                "done_when": "the cookie is gone after POST /logout",
            },
            {
                "key": "docs",
                "title": "Describe sign-in in README.md",
                "depends_on": ["auth"],
                "done_when": "README.md names both endpoints",
                "files": ["README.md"],
            },
        ]
    }
