"""What a project's files say of how it is set up and checked, proposed to its user.

Nothing is run to find it, and nothing that is there is read as more than text: what is proposed counts once he agrees.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loom import files
from loom.exceptions import CommandError
from loom.git import Repository

_BYTES = 4 * 1024 * 1024  # of a file that is looked at
_NO_TEST = "no test specified"  # in what npm writes by itself


@dataclass(slots=True)
class Proposal:
    """Keys and rows of the configuration with their values, and the files that speak for them."""

    values: dict[str, Any] = field(default_factory=dict)
    because: list[str] = field(default_factory=list)

    def without(self, there: Mapping[str, Any]) -> Proposal:
        """What is left where these keys are in the file already: of the setup, and of the checks, all or nothing."""
        kinds = {key.partition(".")[0] for key in there} & {"checks", "work"}
        taken = kinds | ({"checks"} if "landing.checks" in there else set())
        kept = {key: value for key, value in self.values.items() if _kind(key) not in taken}
        return Proposal(kept, self.because if kept else [])


async def propose(root: Path) -> Proposal:
    """What the project in a directory seems to need. Nothing is changed."""
    found = Proposal()
    for look in (_uv, _pip, _npm, _go, _cargo, _make):
        look(root, found)
    if found.values:
        checks = [key.removeprefix("checks.") for key in found.values if key.startswith("checks.")]
        if checks:
            found.values["landing.checks"] = checks
        await _seen_from_the_repository(root, found)
    return found


# --- kinds of projects ------------------------------------------------------------------------------------------------


def _uv(root: Path, found: Proposal) -> None:
    if (root / "uv.lock").is_file():
        found.because.append("uv.lock")
        _set_up(found, ["uv", "sync", "--locked"], ["uv.lock", "pyproject.toml"], [".venv"])
        _pytest(root, found)


def _pip(root: Path, found: Proposal) -> None:
    """A Python project without a lock file."""
    project = _text(root, "pyproject.toml")
    if found.because or not project or not _tests_with_pytest(root):
        return
    found.because.append("pyproject.toml")
    if re.search(r"^\[project\]", project, re.MULTILINE):
        script = "python3 -m venv .venv && .venv/bin/pip install -q -e . pytest"
        _set_up(found, ["sh", "-c", script], ["pyproject.toml"], [".venv"])
        _pytest(root, found)
    else:
        found.values["checks.unit"] = {"command": ["python3", "-m", "pytest", "-q"]}


def _pytest(root: Path, found: Proposal) -> None:
    if _tests_with_pytest(root):
        found.because.append("pytest")
        found.values["checks.unit"] = {"command": [".venv/bin/python", "-m", "pytest", "-q"]}


def _tests_with_pytest(root: Path) -> bool:
    told = _text(root, "pyproject.toml") + _text(root, "uv.lock")
    return "pytest" in told or any(
        (root / name).is_file() for name in ("pytest.ini", "conftest.py", "tests/conftest.py")
    )


def _npm(root: Path, found: Proposal) -> None:
    if not (root / "package-lock.json").is_file():
        return
    found.because.append("package-lock.json")
    _set_up(found, ["npm", "ci"], ["package-lock.json", "package.json"], ["node_modules"])
    try:
        script = json.loads(_text(root, "package.json"))["scripts"]["test"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    if isinstance(script, str) and _NO_TEST not in script:
        found.values["checks.test"] = {"command": ["npm", "test"]}


def _go(root: Path, found: Proposal) -> None:
    if (root / "go.mod").is_file():
        found.because.append("go.mod")
        variables = ["GOPATH", "GOMODCACHE", "GOCACHE", "GOPROXY", "GOFLAGS"]
        found.values["checks.go"] = {"command": ["go", "test", "./..."], "env": variables}


def _cargo(root: Path, found: Proposal) -> None:
    if (root / "Cargo.toml").is_file():
        found.because.append("Cargo.toml")
        rest = {"keep": ["target"], "env": ["CARGO_HOME", "RUSTUP_HOME"]}
        found.values["checks.cargo"] = {"command": ["cargo", "test", "--quiet"], **rest}


def _make(root: Path, found: Proposal) -> None:
    """What a Makefile calls a test, where nothing else says how to test."""
    checked = any(key.startswith("checks.") for key in found.values)
    if not checked and re.search(r"^test\s*:(?!=)", _text(root, "Makefile"), re.MULTILINE):
        found.because.append("Makefile")
        found.values["checks.test"] = {"command": ["make", "test"]}


def _set_up(found: Proposal, command: list[str], inputs: list[str], keep: list[str]) -> None:
    """Adds a setup, after the one that another kind of project has."""
    before = found.values.get("work.setup.command")
    if before is None:
        found.values |= {"work.setup.command": command, "work.setup.inputs": inputs, "work.keep": keep}
        return
    found.values["work.setup.command"] = ["sh", "-c", f"{' '.join(before)} && {' '.join(command)}"]
    found.values["work.setup.inputs"] += inputs
    found.values["work.keep"] += keep


# --- where it is ------------------------------------------------------------------------------------------------------


async def _seen_from_the_repository(root: Path, found: Proposal) -> None:
    """Names paths as the repository does, and copies an .env that git ignores."""
    below = Path()
    try:
        repository = await Repository.around(root)
        below = root.relative_to(repository.work_tree)
        ignored = await repository.run("check-ignore", "-q", "--", str(below / ".env"), accepted=(0, 1))
        if (root / ".env").is_file() and not ignored.status:
            found.values["work.copy"] = [".env"]
    except CommandError:  # in none, or git is not there: then nothing is worked on in worktrees
        return
    for key in ("work.setup.inputs", "work.keep", "work.copy"):
        if key in found.values:
            found.values[key] = [str(below / one) for one in found.values[key]]
    for row in found.values.values():
        if isinstance(row, dict) and "keep" in row:
            row["keep"] = [str(below / one) for one in row["keep"]]


def _kind(key: str) -> str:
    return "checks" if key == "landing.checks" else key.partition(".")[0]


def _text(root: Path, name: str) -> str:
    try:
        return files.read(root / name, _BYTES, root).decode(errors="replace")
    except OSError:
        return ""
