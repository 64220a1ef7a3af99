"""The agents' real commands, where they are installed, and how they are pointed at models on loopback.

They are looked for in the directory that LOOM_TEST_AGENTS names (`npm install @anthropic-ai/claude-code
@openai/codex` was run in it), then on PATH. Nobody is logged in, and each test has an empty home.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGES = {"claude": "@anthropic-ai/claude-code", "codex": "@openai/codex"}
_PROBES = {"claude": ["--version"], "codex": ["sandbox", "--", "true"]}  # its sandbox needs something of the kernel
_NOT_INHERITED = ("CLAUDE", "ANTHROPIC_", "CODEX_", "OPENAI_")
_CODEX_SETTINGS = """\
model = "{model}"
model_provider = "scripted"
[model_providers.scripted]
name = "scripted"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "SCRIPTED_KEY"
request_max_retries = 1
stream_max_retries = 1
"""
NEW_MODEL, OLD_MODEL = "gpt-6.1-sol", "gpt-5.5"  # Codex has the new one call tools by JavaScript


@dataclass(frozen=True)
class Agent:
    """An agent's command. `name`: as `loom work --runner` has it."""

    name: str
    path: Path

    def asking(
        self, url: str, env: Mapping[str, str], *, login: bool = False, model: str = NEW_MODEL
    ) -> dict[str, str]:
        """An environment in which it asks the models at a URL, made from another one, with its own command first in
        PATH. What has to stand in a file is written to HOME. `login`: as if somebody were logged in with a
        subscription, who has a usage limit; else by an API key. `model`: Codex'."""
        env = {name: value for name, value in env.items() if not name.startswith(_NOT_INHERITED)}
        env["PATH"] = f"{self.path.parent}{os.pathsep}{env['PATH']}"
        if self.name == "codex":
            settings = Path(env["HOME"]) / ".codex" / "config.toml"
            settings.parent.mkdir(exist_ok=True)
            settings.write_text(_CODEX_SETTINGS.format(url=url, model=model))
            return env | {"SCRIPTED_KEY": "a key"}
        who = {"CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-test"} if login else {"ANTHROPIC_API_KEY": "sk-ant-test"}
        less = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "CLAUDE_CODE_MAX_RETRIES": "1"}
        return env | who | less | {"ANTHROPIC_BASE_URL": url}


def agent(name: str) -> Agent:
    """An agent of PACKAGES; the test is skipped where it is not installed or does not run."""
    found = _found(name)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@cache
def _found(name: str) -> Agent | str:
    """The agent, or why there is none."""
    place = os.environ.get("LOOM_TEST_AGENTS")
    inside = Path(place, "node_modules", ".bin", name) if place else None
    path = str(inside) if inside and inside.exists() else shutil.which(name)
    if path is None:
        return f"needs {name}: `npm install {PACKAGES[name]}`, for PATH or in the directory LOOM_TEST_AGENTS"
    said = subprocess.run([path, *_PROBES[name]], capture_output=True, text=True, timeout=60)
    if said.returncode:
        return f"`{shlex.join([path, *_PROBES[name]])}` does not run: {(said.stderr or said.stdout).strip()[-200:]}"
    return Agent(name, Path(path).absolute())
