"""What a user gets: the built wheel in a fresh environment, and Claude Code finding the server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loom import services
from loom.config import load_config
from tests.conftest import USERS_HOME

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, env: dict[str, str], cwd: Path, timeout: float = 120) -> str:
    """Runs a command that must succeed and returns what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        env=env,
        cwd=cwd,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def home(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A user who has nothing yet: an empty home, servers of its own, nothing of Loom in the environment."""
    place = Path(f"/tmp/loom-install-{os.getpid()}")
    place.mkdir(mode=0o755)
    (tmp_path / "project").mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LOOM_", "VIRTUAL_ENV", "CLAUDE"))}
    env |= {"HOME": str(tmp_path), "LOOM_DATA_DIR": str(place)}
    yield env
    before = dict(os.environ)
    os.environ["LOOM_DATA_DIR"] = str(place)
    try:
        services.down(load_config(tmp_path / "project"))
    finally:
        os.environ.clear()
        os.environ.update(before)
    shutil.rmtree(place)


def test_the_wheel_in_a_fresh_environment(home: dict[str, str], tmp_path: Path) -> None:
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    as_user = os.environ | {"HOME": USERS_HOME}
    cache = subprocess.run([uv, "cache", "dir"], env=as_user, capture_output=True, text=True, check=True).stdout.strip()
    home["UV_CACHE_DIR"] = cache
    run(uv, "build", "-q", "--wheel", "--out-dir", tmp_path, ROOT, env=home, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    run(uv, "venv", "-q", "--python", sys.executable, tmp_path / "env", env=home, cwd=tmp_path)
    run(uv, "pip", "install", "-q", "--python", tmp_path / "env", wheel, env=home, cwd=tmp_path)
    loom, project = tmp_path / "env" / "bin" / "loom", tmp_path / "project"
    home["PATH"] = f"{loom.parent}:{home['PATH']}"
    run(loom, "init", "--name", "fresh", env=home, cwd=project)
    run(loom, "up", env=home, cwd=project)
    (project / "plan.yaml").write_text("tasks: [{title: A}, {title: B, depends_on: [A]}]")
    run(loom, "import", "plan.yaml", env=home, cwd=project)
    status = json.loads(run(loom, "status", "--json", env=home, cwd=project))
    assert (status["counts"]["pending"], status["counts"]["blocked"]) == (1, 1)
    claimed = json.loads(run(loom, "claim", "--json", env=home, cwd=project))
    assert json.loads(run(loom, "done", claimed["id"], "--json", env=home, cwd=project))["unblocked"]
    run(loom, "doctor", env=home, cwd=project)
    assert run(loom, "help", "concepts", env=home, cwd=project).startswith("# Concepts")


def test_claude_code_connects_after_init(home: dict[str, str], tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not on this machine")
    installed = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--prefix", str(tmp_path / "npm"), "@anthropic-ai/claude-code"],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, env=os.environ | {"HOME": USERS_HOME},
    )  # fmt: skip
    if installed.returncode:
        pytest.skip(f"npm cannot install Claude Code here: {installed.stderr.strip()[-200:]}")
    home["PATH"] = f"{Path(sys.executable).parent}:{home['PATH']}"
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude" / "settings.json").write_text('{"enableAllProjectMcpServers": true}')
    project = tmp_path / "project"
    run("loom", "init", env=home, cwd=project)
    said = run(tmp_path / "npm/node_modules/.bin/claude", "mcp", "get", "loom", env=home, cwd=project)
    assert "Connected" in said, said
