"""Two projects as people have them, one of uv and one of npm: each needs its locked dependency before a check is green.

`loom init` proposes how it gets them; what is proposed works, for the baseline and in the worktrees of tasks.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from io import BytesIO
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, bare, cli
from tests.repositories import git

__all__ = ["bare", "cli"]

pytestmark = pytest.mark.timeout(300)  # what installs, three times, beside other tests

UV = Path(sys.executable).parent / "uv"
WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def wheel(name: str, place: Path) -> None:
    """Makes a wheel of a package of this environment, so that it can be installed without an index."""
    found = metadata.distribution(name)
    label = f"{found.metadata['Name'].replace('-', '_')}-{found.version}"
    with zipfile.ZipFile(place / f"{label}-py3-none-any.whl", "w") as archive:
        own = f"{label}.dist-info"
        record = []
        for file in found.files or []:
            if ".." not in file.parts and file.suffix != ".pyc" and file.name not in ("RECORD", "INSTALLER", "WHEEL"):
                archive.write(
                    str(file.locate()),
                    f"{own}/{'/'.join(file.parts[1:])}" if ".dist-info" in file.parts[0] else str(file),
                )
        archive.writestr(f"{own}/WHEEL", WHEEL)
        record = [f"{one},," for one in archive.namelist()]
        archive.writestr(f"{own}/RECORD", "\n".join([*record, f"{own}/RECORD,,", ""]))


def made(name: str, version: str, place: Path) -> None:
    """Makes a wheel with one module."""
    own = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(place / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "def greet():\n    return 'hello'\n")
        archive.writestr(f"{own}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{own}/WHEEL", WHEEL)
        archive.writestr(f"{own}/RECORD", f"{name}.py,,\n{own}/METADATA,,\n{own}/WHEEL,,\n{own}/RECORD,,\n")


@pytest.fixture
def shop_of_uv(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A program that says what a locked dependency says, and its test."""
    if not UV.exists():
        pytest.skip("uv is not installed beside this Python")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    made("greetings", "1.0", wheels)
    for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments"):
        wheel(name, wheels)
    top = cli.directory
    (top / "pyproject.toml").write_text(f"""
[project]
name = "shop"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["greetings==1.0"]

[dependency-groups]
dev = ["pytest"]

[tool.uv]
environments = ["sys_platform != 'win32'"]
no-index = true
find-links = ["{wheels}"]
""")
    (top / "shop.py").write_text("from greetings import greet\n\n\ndef hello():\n    return greet()\n")
    (top / "tests").mkdir()
    (top / "tests" / "test_shop.py").write_text(
        "import sys\nimport shop\n\n\ndef test_hello():\n    assert shop.hello() == 'hello'\n"
        "    assert sys.prefix.startswith(str(__import__('pathlib').Path(__file__).parents[1]))\n"
    )
    (top / ".gitignore").write_text(".venv/\n__pycache__/\n")
    cli.env.update({"PATH": f"{tmp_path}/bin:{cli.env['PATH']}", "UV_OFFLINE": "1", "UV_PYTHON_DOWNLOADS": "never"})
    cli.env["UV_CACHE_DIR"] = str(tmp_path / "cache")
    cli.env.pop("PYTEST_ADDOPTS", None)  # of this run of pytest, not of the program's own
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "uv").symlink_to(UV)
    cli.env["UV_PYTHON"] = sys._base_executable  # type: ignore[attr-defined]
    subprocess.run(["uv", "lock", "-q"], cwd=top, env=cli.env, check=True)
    return cli


@pytest.fixture
def shop_of_npm(cli: Cli, tmp_path: Path) -> Cli:
    """The same in JavaScript, its dependency an archive in the repository."""
    if shutil.which("npm", path=cli.env["PATH"]) is None:
        pytest.skip("npm is not installed")
    top = cli.directory
    (top / "vendor").mkdir()
    with tarfile.open(top / "vendor" / "greetings-1.0.0.tgz", "w:gz") as archive:
        for name, text in (
            ("package.json", json.dumps({"name": "greetings", "version": "1.0.0", "main": "index.js"})),
            ("index.js", "exports.greet = () => 'hello'\n"),
        ):
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text)
            archive.addfile(entry, BytesIO(text.encode()))
    (top / "package.json").write_text(
        json.dumps(
            {
                "name": "shop",
                "version": "1.0.0",
                "dependencies": {"greetings": "file:vendor/greetings-1.0.0.tgz"},
                "scripts": {"test": "node test.js"},
            }
        )
    )
    (top / "shop.js").write_text("exports.hello = () => require('greetings').greet()\n")
    (top / "test.js").write_text("require('assert').equal(require('./shop').hello(), 'hello')\n")
    cli.env.update(
        {"npm_config_cache": str(tmp_path / "cache"), "npm_config_offline": "true", "npm_config_audit": "false"}
    )
    subprocess.run(
        ["npm", "install", "--package-lock-only", "--silent"], cwd=top, env=cli.env, check=True, capture_output=True
    )
    return cli


def works(shop: Cli, check: str) -> None:
    """What is proposed makes the baseline green, and each task's worktree one in which the check passes; the setup runs
    once, whoever needs it."""
    top = shop.directory
    git(top, "init", "-q", "-b", "main")
    agreed = shop.ok("init", "--yes")
    assert agreed["agreed"] is True
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "one")
    command = " ".join(agreed["proposed"]["work.setup.command"])
    assert shop("check", "--baseline").code == 0
    script = f'{check} && test -z "$(git status --porcelain)" && {sys.executable} -m loom done $LOOM_TASK_ID'
    tasks = [shop.create(f"task {number}") for number in range(2)]
    worked = shop("work", "--agents", "2", "--worktree", "--", "sh", "-c", script)
    assert worked.code == 0, worked.out
    assert [shop.ok("status", task)["status"] for task in tasks] == ["done"] * 2, (
        "green, and nothing is there to commit"
    )
    state = Path(shop.env["HOME"]) / ".local" / "state" / "loom"
    (kept,) = state.glob("*/kept/*/mark.json")
    assert kept.exists()
    assert len([*state.rglob("setup.log")]) == 1
    assert [*(top / ".loom" / "logs").glob("*-setup.log")] == [], f"{command} ran for the baseline alone"


def test_a_project_of_uv(shop_of_uv: Cli) -> None:
    works(shop_of_uv, ".venv/bin/python -m pytest -q -p no:cacheprovider >/dev/null")


def test_a_project_of_npm(shop_of_npm: Cli) -> None:
    works(shop_of_npm, "npm test --silent")
