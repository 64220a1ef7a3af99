"""The real Claude Code over HTTP with a token, its model on loopback by script."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from loom.graph.model.task import TaskStatus
from tests.agents.installed import agent
from tests.agents.models import Script, mcp, say, serving
from tests.cli.conftest import Cli, bare
from tests.remote.conftest import Served

__all__ = ["bare"]


@pytest.mark.timeout(300)  # it starts in 2 s, on a busy machine in 20
async def test_claude_code_works_over_http_with_a_token(served: Served, bare: Cli) -> None:
    claude, token = agent("claude"), await served.token("ann", "worker")
    task = await served.loom.create("a task")
    home = Path(bare.env["HOME"])
    (home / ".claude").mkdir()
    (home / ".claude" / "settings.json").write_text('{"enableAllProjectMcpServers": true}')
    await asyncio.to_thread(lambda: bare.ok("init", "--remote", served.url))
    script = Script(
        mcp("loom_claim", agent_id="ann/claude"),
        mcp("loom_done", task_id=task.id, output={"made": "it"}, agent_id="ann/claude"),
        say("It is done."),
    )
    with serving(script) as models:
        env = claude.asking(models.url, {**bare.env, "PATH": os.environ["PATH"]})
        words = [str(claude.path), "-p", "Work.", "--allowedTools", "mcp__loom"]
        more = {"LOOM_TOKEN": token, "MCP_CONNECT_TIMEOUT_MS": "30000"}
        done = await asyncio.to_thread(
            subprocess.run, words, cwd=bare.directory, env=env | more, capture_output=True, text=True, timeout=200
        )
    assert "It is done." in done.stdout, done.stdout + done.stderr
    first = models.asked[0]
    assert {"mcp__loom__loom_claim", "mcp__loom__loom_done", "mcp__loom__loom_ready"} <= set(first.tools)
    assert not any("loom_resolve" in one or "loom_decompose" in one for one in first.tools)
    assert any("Loom holds this project's task graph" in one.said for one in models.asked)
    assert token not in first.said
    found = (await served.loom.get(task.id)).task
    assert (found.status, found.assignee, found.output) == (TaskStatus.DONE, "ann/claude", {"made": "it"})
    event = (await served.loom.history(task.id))[-1]
    assert event.data is not None
    assert event.data["principal"] == "ann"
    assert event.data["client"].startswith("claude-code/")
