"""A repository from a seed: some hundred small modules, each with its test, that import one another."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

CHECK = ["python3", "-m", "unittest", "discover", "-q", "-s", "tests", "-t", "."]
"""The command that says whether a state of the repository is good: some tenths of a second."""

MODULES = 120
PAIRS = 4  # of modules that two tasks will change, each right by itself and both wrong together
SHARED = "app/shared.py"


def module(number: int) -> str:
    """The path of one of the modules."""
    return f"app/p{number % 8}/m{number:03}.py"


def make(place: Path, rng: random.Random) -> None:
    """Makes the repository at `place`, with one commit on the branch `main`."""
    for number in range(MODULES):
        source = [f'"""Module {number}."""', ""]
        if number and rng.random() < 0.5:
            other = rng.randrange(number)
            source[1:1] = ["", f"from app.p{other % 8}.m{other:03} import value as base"]
            source += [f"def value():\n    return base() * 0 + {number}", ""]
        else:
            source += [f"def value():\n    return {number}", ""]
        _write(place / module(number), "\n".join(source))
        test = f"from app.p{number % 8}.m{number:03} import value"
        _write(place / f"tests/test_m{number:03}.py", _test(f"M{number}", test, f"value() == {number}"))
    for number in range(PAIRS):
        _write(place / f"app/pair{number}.py", f"def old{number}():\n    return {number}\n")
    _write(place / SHARED, "NAMES = [\n    'first',\n]\n")
    test = "from app.shared import NAMES"
    _write(place / "tests/test_shared.py", _test("Shared", test, "len(set(NAMES)) == len(NAMES)"))
    for directory in ("app", *(f"app/p{number}" for number in range(8)), "tests"):
        _write(place / directory / "__init__.py", "")
    _write(place / ".gitignore", "__pycache__/\n*.pyc\nbuild/\n")
    git(place, "init", "-q", "-b", "main")
    git(place, "add", "-A")
    git(place, "commit", "-q", "-m", "Begin")


def git(place: Path, *words: str) -> str:
    """What git says in a repository of the tests, run as a person would."""
    who = {"FLEET_AGENT": "1"} | {
        f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in _PERSON.items()
    }
    done = subprocess.run(
        ["git", *words], cwd=place, env={**os.environ, **who}, capture_output=True, text=True, errors="replace",
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"git {' '.join(words)}: {done.stderr}"
    return done.stdout.strip()


def is_good(place: Path) -> bool:
    """Whether the tests of a checked out state pass."""
    env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(CHECK, cwd=place, env=env, capture_output=True, check=False, timeout=300).returncode == 0


_PERSON = {"NAME": "A Person", "EMAIL": "person@example.org"}


def _test(name: str, imports: str, holds: str) -> str:
    return (
        f"import unittest\n\n{imports}\n\n\nclass Test{name}(unittest.TestCase):\n"
        f"    def test_it(self):\n        self.assertTrue({holds})\n"
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
