"""`loom_done` where checks have to prove the work."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fastmcp import Client

from loom.config import CheckConfig, LandingConfig
from loom.graph.front import Loom
from loom.mcp import tools
from loom.mcp.server import build
from tests.conftest import Opener
from tests.mcp.test_tools import Agent, spoken


@pytest.fixture
async def proven(open_loom: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loom:
    """A project whose every task needs that `good` is there, half a second after it is asked for."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    script = "import os, sys, time; time.sleep(0.5); print('looked'); sys.exit(not os.path.exists('good'))"
    row = CheckConfig((sys.executable, "-c", script))
    (tmp_path / "shop").mkdir()
    loom = await open_loom()
    config = replace(
        loom.config, project_dir=tmp_path / "shop", checks={"unit": row}, landing=LandingConfig(checks=("unit",))
    )
    return Loom(config, agent="ada")


async def test_a_report_runs_what_is_missing_within_the_call(proven: Loom, tmp_path: Path) -> None:
    async with Client(build(proven)) as client:
        agent = Agent(client)
        task = (await agent("create", title="one"))["id"]
        await agent("claim", task_id=task)
        failed = await agent.result("done", task_id=task)
        text = spoken(failed)
        assert failed.is_error
        assert text.startswith(f"check_failed: {task} is not proven: unit is red.")
        (told,) = json.loads(text[text.index(" {") :])["checks"]
        assert (told["name"], told["exit_status"], told["tail"]) == ("unit", 1, "looked\n")
        assert (await agent("status", task_id=task))["status"] == "claimed"
        (tmp_path / "shop" / "good").touch()
        assert (await agent("done", task_id=task, output={"a": 1}))["status"] == "done"


async def test_what_takes_longer_goes_on_and_the_same_call_gives_the_result(
    proven: Loom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "_LONGEST_CHECKS", 0.1)
    (tmp_path / "shop" / "good").touch()
    async with Client(build(proven)) as client:
        agent = Agent(client)
        task = (await agent("create", title="one"))["id"]
        await agent("claim", task_id=task)
        answer = await agent("done", task_id=task)
        assert (answer["id"], answer["status"], answer["checks"]) == (task, "checking", ["unit"])
        assert f"loom_done(task_id={task})" in answer["next"]
        async with asyncio.timeout(30):
            while (answer := await agent("done", task_id=task))["status"] == "checking":
                pass
        assert answer["status"] == "done"


async def test_checks_end_with_the_session(proven: Loom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_LONGEST_CHECKS", 0.1)
    script = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid())); import time; time.sleep(300)"
    proven.config = replace(proven.config, checks={"unit": CheckConfig((sys.executable, "-c", script))})
    async with Client(build(proven)) as client:
        agent = Agent(client)
        task = (await agent("create", title="one"))["id"]
        await agent("claim", task_id=task)
        async with asyncio.timeout(30):
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                assert (await agent("done", task_id=task))["status"] == "checking"
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()
