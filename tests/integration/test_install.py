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
from tests.agents.installed import agent
from tests.agents.models import Script, say, serving
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
    env["LOOM_MCP_HUB"] = "never"
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


@pytest.mark.timeout(300)
def test_claude_code_has_what_it_needs_in_its_first_request_after_up(home: dict[str, str], tmp_path: Path) -> None:
    """Of the tools the three that agents need at once; of the rest the names, and the instructions: in each of three
    sessions that begin while nothing waits for their servers."""
    claude, project = agent("claude"), tmp_path / "project"
    home["PATH"] = f"{Path(sys.executable).parent}:{home['PATH']}"
    home["LOOM_MCP_HUB"] = "auto"
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude" / "settings.json").write_text('{"enableAllProjectMcpServers": true}')
    run("loom", "init", env=home, cwd=project)
    run("loom", "up", env=home, cwd=project)
    try:
        said = run(claude.path, "mcp", "get", "loom", env=home, cwd=project)
        assert "Connected" in said, said
        with serving(Script(say("Hello."), say("Hello."), say("Hello."))) as models:
            env = claude.asking(models.url, home)
            for _ in range(3):
                before = len(models.asked)
                assert "Hello." in run(claude.path, "-p", "Hello?", env=env, cwd=project)
                first = models.asked[before]
                offered = {name.removeprefix("mcp__loom__") for name in first.tools if name.startswith("mcp__loom__")}
                assert offered == {"loom_ready", "loom_claim", "loom_done"}
                assert "Loom holds this project's task graph" in first.said
                assert "mcp__loom__loom_escalate" in first.said
                assert "Work is planned and claimed with Loom" in first.said
    finally:
        run("loom", "down", "--yes", env=home, cwd=project)
