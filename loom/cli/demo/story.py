"""The whole story: a small program in a repository of its own, a plan, agents that lie, die and meet, and what landed.

It is told by the commands that one would type in a repository of one's own; what they print is what is seen. `agent.py`
is what stands in for a coding agent, `program.txt`, `plan.yaml` and `work.txt` are what it works on.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import click

from loom import files
from loom.cli.board import offer
from loom.cli.output import dim, emit, heading, table
from loom.cli.shared import open_project, wants_json
from loom.config import load_config
from loom.exceptions import CommandError, TaskStateError
from loom.git import Person, Repository
from loom.landing.places import Scratch
from loom.process import environment, run, shown

TARGET = "loom/landed"
_CHECK = [sys.executable, "-m", "unittest", "-q"]
_SETTINGS = {
    "checks.unit.command": json.dumps(_CHECK),
    "landing.checks": "[unit]",
    "orchestration.backoff_base_seconds": "1",  # nobody waits a minute for a demo
}
_PRINTED = 100_000  # bytes of a check's output
_PERSON = Person("The demo", "demo@localhost")


def tell(agents: int) -> int:
    """Plays it to its end. Returns how many tasks have not landed.

    Raises:
        TaskStateError: it was played here before; CommandError: git is not there, or fails.
    """
    begin = time.monotonic()
    root = _place()
    with Scratch.make() as memory:
        _make(root)
        _loom(root, "init", "--name", "demo")
        for key, value in _SETTINGS.items():
            _loom(root, "config", "set", key, value)
        _git(root, "add", "-A")
        _git(root, "commit", "-q", "-m", "Use Loom")
        _loom(root, "up")
        _loom(root, "import", "plan.yaml")
        if not wants_json():
            config = load_config(root)
            offer(config, open_project(config=config).agent)
        agent = [sys.executable, "-I", str(_resource("agent.py"))]
        words = ["work", "--agents", str(agents), "--land", "--report", "required", "--", *agent]
        _loom(root, *words, env={"DEMO_MEMORY": str(memory)}, may_fail=True)
    _conclude(root, begin)
    return _total() - len(_landed(root))


def _place() -> Path:
    """Here, where there is nothing and no repository around; else a new directory."""
    here = Path.cwd()
    in_repository = any((directory / ".git").exists() for directory in (here, *here.parents))
    if not in_repository and not any(here.iterdir()):
        return here
    place = here / "loom-demo"
    if place.exists() and any(place.iterdir()):
        raise TaskStateError(
            f"The demo was played in {place} before.", "See `git log` there, or run it again in an empty directory."
        )
    return place


def _make(root: Path) -> None:
    """Writes the program, and commits it."""
    sections = re.split(r"^=== (\S+)\n", _resource("program.txt").read_text(), flags=re.MULTILINE)
    for path, text in zip(sections[1::2], sections[2::2], strict=True):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        files.write(root / path, text, 0o644, within=root)
    files.write(root / "plan.yaml", _resource("plan.yaml").read_text(), 0o644, within=root)
    _git(root, "init", "-q", "-b", "main")
    _git(root, "add", "-A")
    _git(root, "commit", "-q", "-m", "A small shop")
    _say(f"A program of a dozen modules and forty tests is in {root}.")


# --- the end ----------------------------------------------------------------------------------------------------------


def _conclude(root: Path, begin: float) -> None:
    commits = _git(root, "rev-list", "--first-parent", "--reverse", f"main..{TARGET}").split()
    red = _red(root, commits)
    landed, total = len(_landed(root)), _total()
    seconds = time.monotonic() - begin
    if wants_json():
        emit({"landed": landed, "tasks": total, "commits": len(commits), "red": red, "seconds": round(seconds, 1)})
        return
    proven = "every commit green" if not red else f"not green: {', '.join(red)}"
    click.echo()
    click.echo(
        heading(f"{landed} of {total} landed, none by a person; checked again from a clean clone: {proven}")
        + dim(f"  ({seconds:.0f} s)")
    )
    click.echo(dim(f"$ git log --first-parent --oneline {TARGET}"))
    click.echo(_git(root, "log", "--first-parent", "--oneline", "--no-decorate", f"main..{TARGET}"))
    click.echo(heading("Next"))
    here = [] if root == Path.cwd() else [[f"cd {root.name}", "go there"]]
    typed = [
        [f"git merge --ff-only {TARGET}", "bring what landed into your branch"],
        ["loom landing", "what landed, what was sent back and why"],
        ["loom board", "all of it in a browser"],
        ["loom status", "the project at a glance"],
        ["loom down", "stop the servers; nothing is lost"],
    ]
    for line in table([*here, *typed], "  "):
        click.echo(line)


def _red(root: Path, commits: Sequence[str]) -> list[str]:
    """Which of these commits do not pass the check, each from a clean checkout in a clone."""
    found = []
    with Scratch.make() as clone:
        _git(clone, "init", "-q")
        asyncio.run(Repository(clone).fetch(str(root), f"refs/heads/{TARGET}:refs/heads/{TARGET}"))
        for commit in commits:
            _git(clone, "checkout", "-q", "--detach", commit)
            _git(clone, "clean", "-q", "-ffdx")
            ended = asyncio.run(run(_CHECK, env=environment(), cwd=clone, timeout=60, out_bytes=_PRINTED))
            if ended.status:
                found.append(commit[:12])
    return found


def _landed(root: Path) -> list[str]:
    """The ids of the tasks that the target's own commits name."""
    words = ["log", "--first-parent", "--format=%(trailers:key=Loom-Task,valueonly)", f"main..{TARGET}"]
    return _git(root, *words).split()


def _total() -> int:
    return _resource("plan.yaml").read_text().count("{key:")


# --- how --------------------------------------------------------------------------------------------------------------


def _loom(root: Path, *words: str, env: dict[str, str] | None = None, may_fail: bool = False) -> None:
    """Runs a command of Loom as a person would, who sees what it prints."""
    _say(dim(f"$ {shlex.join(['loom', *words])}"))
    more = {"LOOM_PROJECT_DIR": str(root), **(env or {})}
    command = [sys.executable, "-P", "-m", "loom", *words]
    status = shown(command, env=environment(more), cwd=root, quiet=wants_json())
    if status and not may_fail:
        raise CommandError(f"`loom {words[0]}` ended with exit status {status}.", "See what it said above.")


def _git(root: Path, *words: str) -> str:
    """What git says in a repository that this demo has made, as its own person. Raises CommandError."""
    repository = Repository(root)

    async def ask() -> str:
        return (await repository.run(*words, author=_PERSON, committer=_PERSON)).out.decode(errors="replace").strip()

    return asyncio.run(ask())


def _resource(name: str) -> Path:
    return Path(str(resources.files("loom.cli.demo").joinpath(name)))


def _say(text: str) -> None:
    if not wants_json():
        click.echo(text)
