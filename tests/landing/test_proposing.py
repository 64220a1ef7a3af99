"""What a project's files say of how it is set up and checked."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loom.config import KEYS
from loom.config.files import nested
from loom.landing.proposing import propose

VENV = {"work.keep": [".venv"]}
UV = {
    "work.setup.command": ["uv", "sync", "--locked"],
    "work.setup.inputs": ["uv.lock", "pyproject.toml"],
    **VENV,
}
PYTEST = {"checks.unit": {"command": [".venv/bin/python", "-m", "pytest", "-q"]}, "landing.checks": ["unit"]}
NPM = {
    "work.setup.command": ["npm", "ci"],
    "work.setup.inputs": ["package-lock.json", "package.json"],
    "work.keep": ["node_modules"],
}
TESTED = json.dumps({"scripts": {"test": "vitest run"}})
BY_ITSELF = json.dumps({"scripts": {"test": 'echo "Error: no test specified" && exit 1'}})
PIP = {
    "work.setup.command": ["sh", "-c", "python3 -m venv .venv && .venv/bin/pip install -q -e . pytest"],
    "work.setup.inputs": ["pyproject.toml"],
    **VENV,
}


def both(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    script = " && ".join(" ".join(one["work.setup.command"]) for one in (first, second))
    lists = {key: first[key] + second[key] for key in ("work.setup.inputs", "work.keep")}
    return {"work.setup.command": ["sh", "-c", script], **lists}


@pytest.mark.parametrize(
    ("there", "proposed"),
    [
        ({}, {}),
        ({"README.md": ""}, {}),
        ({"uv.lock": ""}, UV),
        ({"uv.lock": 'name = "pytest"'}, UV | PYTEST),
        ({"uv.lock": "", "tests/conftest.py": ""}, UV | PYTEST),
        ({"pyproject.toml": "[project]\n"}, {}),
        ({"pyproject.toml": '[project]\n[tool.pytest.ini_options]\n"'}, PIP | PYTEST),
        (
            {"pyproject.toml": "[tool.pytest.ini_options]\n"},
            {"checks.unit": {"command": ["python3", "-m", "pytest", "-q"]}, "landing.checks": ["unit"]},
        ),
        (
            {"package-lock.json": "{}", "package.json": TESTED},
            NPM | {"checks.test": {"command": ["npm", "test"]}, "landing.checks": ["test"]},
        ),
        ({"package-lock.json": "{}", "package.json": BY_ITSELF}, NPM),
        ({"package-lock.json": "{}", "package.json": "[" * 100_000}, NPM),
        (
            {"uv.lock": "pytest", "package-lock.json": "{}", "package.json": TESTED},
            both(UV, NPM)
            | {"checks.unit": PYTEST["checks.unit"], "checks.test": {"command": ["npm", "test"]}}
            | {"landing.checks": ["unit", "test"]},
        ),
        (
            {"Makefile": "all:\n\ntest: all\n\tprove\n"},
            {"checks.test": {"command": ["make", "test"]}, "landing.checks": ["test"]},
        ),
        ({"Makefile": "test := 1\ncheck:\n"}, {}),
        ({"Makefile": "test:\n", "uv.lock": "pytest"}, UV | PYTEST),
    ],
)
async def test_a_projects_files_say_what_it_needs(
    tmp_path: Path, there: dict[str, str], proposed: dict[str, Any]
) -> None:
    for name, text in there.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = await propose(tmp_path)
    assert found.values == proposed
    for key, value in found.values.items():
        for one, item in KEYS.flat(nested(key, value)):
            KEYS[one].accept(item)


@pytest.mark.parametrize("name", ["go.mod", "Cargo.toml"])
async def test_what_has_a_test_of_its_own_is_tested_by_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    found = await propose(tmp_path)
    (check,) = [value for key, value in found.values.items() if key.startswith("checks.")]
    assert check["command"][:2] == {"go.mod": ["go", "test"], "Cargo.toml": ["cargo", "test"]}[name]
    assert found.because == [name]


async def test_paths_are_those_of_the_repository(tmp_path: Path) -> None:
    await asyncio.to_thread(subprocess.run, ["git", "init", "-q", str(tmp_path)], check=True)
    below = tmp_path / "below"
    below.mkdir()
    for name in ("uv.lock", "Cargo.toml", ".env"):
        (below / name).touch()
    assert "work.copy" not in (await propose(below)).values, "git would take it"
    (tmp_path / ".gitignore").write_text(".env\n")
    found = (await propose(below)).values
    assert found["work.setup.inputs"] == ["below/uv.lock", "below/pyproject.toml"]
    assert found["work.keep"] == ["below/.venv"]
    assert found["work.copy"] == ["below/.env"]
    assert found["checks.cargo"]["keep"] == ["below/target"]


async def test_what_leads_out_of_the_project_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "away").write_text("test:\n")
    root = tmp_path / "root"
    root.mkdir()
    (root / "Makefile").symlink_to(tmp_path / "away")
    assert (await propose(root)).values == {}
