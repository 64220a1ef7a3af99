"""What only the user may allow is refused inside a run that Loom started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loom import process
from loom.config import load_config, places, set_trusted, set_value, trust, user_config_path
from loom.config.inside import inside_run
from loom.exceptions import ConfigError
from loom.process import guard

PROJECT_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
TEXT = f"project_id: {PROJECT_ID}\nskills: {{command: 'sh evil.sh'}}\n"
LOOK = "from loom.config.inside import inside_run; print(inside_run())"
# Starts a process that has lost the mark, as an agent would.
UNMARKED = f"""
import os, subprocess, sys
env = {{name: value for name, value in os.environ.items() if name != {guard.MARK!r}}}
print(subprocess.run([sys.executable, "-c", {LOOK!r}], env=env, capture_output=True, text=True).stdout)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home, directory = tmp_path / "home", tmp_path / "shop"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (directory / ".loom").mkdir(parents=True)
    (directory / ".loom" / "config.yaml").write_text(TEXT)
    return directory.resolve()


async def test_a_run_is_known_from_within() -> None:
    assert not inside_run()
    for script in (LOOK, UNMARKED) if sys.platform == "linux" else (LOOK,):
        words = [sys.executable, "-c", script]
        ended = await process.run(words, env=dict(os.environ), cwd=None, timeout=30, out_bytes=100)
        assert ended.out.split() == [b"True"], ended.err


def test_nothing_is_trusted_or_guarded_anew_inside_a_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(guard.MARK, "a.1.")
    text, own = (project / ".loom" / "config.yaml").read_text(), user_config_path()
    for change in (
        lambda: trust(project),
        lambda: set_trusted(project, "skills.command", "mine"),
        lambda: set_value(own, "skills.command", "mine"),
        lambda: set_value(own, "servers.backend", "docker"),
        lambda: places.allow(load_config(project)),
    ):
        with pytest.raises(ConfigError, match="from inside a run that Loom started"):
            change()
    assert (project / ".loom" / "config.yaml").read_text() == text
    assert not own.exists()
    assert load_config(project).skills.command is None
    set_value(own, "mcp.port", "9000")
    set_value(own, "servers.backend", "embedded")
    assert load_config(project).mcp.port == 9000


def test_the_commands_refuse_too_whatever_was_agreed_to(project: Path) -> None:
    def loom(*words: str) -> subprocess.CompletedProcess[str]:
        env = dict(os.environ) | {guard.MARK: "a.1."}
        return subprocess.run(
            [sys.executable, "-m", "loom", *words], cwd=project, env=env, capture_output=True, text=True
        )

    for words in (["trust"], ["trust", "--yes"], ["set", "--user", "skills.command", "mine"]):
        refused = loom("config", *words)
        assert refused.returncode == 1, refused
        assert "cannot be changed from inside a run that Loom started." in refused.stderr
        assert "--yes" not in refused.stderr
    assert loom("config", "set", "mcp.port", "9000").returncode == 0
