"""The whole product from outside: agents over MCP and stdio, people over the command line, servers that come and go."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.client import CallToolResult
from fastmcp.client.transports import StdioTransport
from mcp_types import TextContent
from redis.asyncio import Redis

from loom import services
from loom.bus import channels
from loom.config import LoomConfig, load_config
from loom.db.connection import Pool
from loom.graph.front import Loom
from tests.chaos import kill_server
from tests.waiting import until

Server = Callable[..., AbstractAsyncContextManager["Agent"]]


class Agent:
    """A client with a server of its own, as an agent's session has."""

    def __init__(self, client: Client[Any]) -> None:
        self._client = client

    async def __call__(self, tool: str, **arguments: Any) -> dict[str, Any]:
        result = await self._client.call_tool(f"loom_{tool}", arguments)
        assert result.structured_content is not None
        reply: dict[str, Any] = result.structured_content
        assert json.loads(_text(result)) == reply  # one truth in both forms
        return reply

    async def refused(self, tool: str, **arguments: Any) -> str:
        result = await self._client.call_tool(f"loom_{tool}", arguments, raise_on_error=False)
        assert result.is_error
        return _text(result)


def _text(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


@pytest.fixture
def directory(tmp_path: Path, config: LoomConfig) -> Path:
    """A directory with the test's project in it."""
    (tmp_path / ".loom").mkdir()
    (tmp_path / ".loom" / "config.yaml").write_text(f"project_id: {config.project_id}\nproject_name: test\n")
    return tmp_path


@pytest.fixture
def environment(directory: Path, config: LoomConfig) -> dict[str, str]:
    """What a process of that project runs with."""
    return {
        **os.environ,
        "HOME": str(directory),
        "LOOM_PROJECT_DIR": str(directory),
        "LOOM_DATABASE_URL": str(config.database.url),
        "LOOM_REDIS_URL": str(config.redis.url),
    }


@pytest.fixture
def serve(environment: dict[str, str]) -> Server:
    """Starts an MCP server over stdio and connects to it."""

    @asynccontextmanager
    async def start(agent: str, mode: str = "auto") -> AsyncIterator[Agent]:
        transport = StdioTransport(
            sys.executable, ["-m", "loom.mcp"], env={**environment, "LOOM_AGENT_ID": agent}, keep_alive=False
        )
        async with Client(transport, mode=mode) as client:
            yield Agent(client)

    return start


async def loom_command(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Runs the command line as a person would."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loom", *arguments, env=environment, cwd=environment["LOOM_PROJECT_DIR"],
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_full_agent_workflow(
    pool: Pool, redis_conn: Redis, project: str, loom: Loom, serve: Server, environment: dict[str, str]
) -> None:
    """A plan is made, worked on by two agents with a flush of Redis and a restart of a server in the middle, one task
    fails and is requeued, one asks and is answered; at the end everything is done, once, and both stores agree."""
    async with serve("alice") as alice, serve("bob", mode="legacy") as bob:
        epic = await alice("create", title="Release", epic=True)
        design = await alice("create", title="Design", parent_id=epic["id"], priority="p0", done_when="reviewed")
        build = await alice("create", title="Build", parent_id=epic["id"], depends_on=[design["id"]])
        test = await alice("create", title="Test", parent_id=epic["id"], depends_on=[build["id"]])
        ship = await bob("create", title="Ship", depends_on=[epic["id"]], context={"target": "production"})
        assert [one["status"] for one in (epic, design, build, test, ship)] == [
            "epic", "pending", "blocked", "blocked", "blocked",
        ]  # fmt: skip

        claim = await alice("claim")
        assert (claim["id"], claim["done_when"]) == (design["id"], "reviewed")
        assert "claim_conflict" in await bob.refused("claim", task_id=design["id"])
        assert (await bob("claim"))["status"] == "nothing_ready"
        waiting = asyncio.create_task(bob("wait", what="ready", timeout=30))
        done = await alice("done", task_id=design["id"], output={"api": "REST"}, token=claim["token"])
        assert done["unblocked"] == [build["id"]]
        assert (await waiting)["ready"] == 1

        claim = await bob("claim")
        assert claim["dependencies"][0]["output"] == {"api": "REST"}
        keys = [key async for key in redis_conn.scan_iter(channels.everything(project))]
        await redis_conn.delete(*keys)  # Redis is flushed while bob works
        failed = await bob("fail", task_id=build["id"], reason="no compiler", retry=False)
        assert failed["dead_reason"] == "no compiler"
        assert [row["id"] for row in (await alice("status", view="dead_letters"))["tasks"]] == [build["id"]]
        await alice("resolve", id=build["id"], action="retry", note="use the other machine")

    # Both servers are gone; new ones go on where they were.
    async with serve("carol") as carol, serve("alice") as alice:
        claim = await carol("claim")
        assert claim["id"] == build["id"]
        assert claim["notes"][0]["text"] == "use the other machine"
        asked = await carol("escalate", task_id=build["id"], message="Which port?")
        assert asked["status"] == "blocked"
        (open_now,) = (await alice("status", view="escalations"))["escalations"]
        await alice("resolve", id=open_now["id"], action="answer", note="8080")
        assert "8080" in (await carol("inbox"))["messages"][0]["text"]
        await carol("done", task_id=build["id"], output={"port": 8080})
        finished = await carol("done", task_id=test["id"], output={"passed": 12})
        assert finished["closed_epics"] == [epic["id"]]
        assert finished["unblocked"] == [ship["id"]]

        # The last one is done by a person, in a shell.
        code, out, _ = await loom_command(
            environment, "done", ship["id"], "--output", '{"url": "https://example.org"}', "--json"
        )
        assert (code, json.loads(out)["status"]) == (0, "done")
        assert (await alice("claim"))["waiting_for"] == "all 5 tasks are finished"

    finished_once = Counter(await pool.fetchval("select array_agg(task_id) from events where type = 'task.done'"))
    assert finished_once == Counter([design["id"], build["id"], test["id"], ship["id"], epic["id"]])
    assert [one for one in await loom.doctor() if not one.holds] == []
    assert await redis_conn.scard(channels.status_set(project, "done")) == 5


async def test_a_killed_session_gives_its_task_back_in_time(
    pool: Pool, loom: Loom, directory: Path, environment: dict[str, str], serve: Server
) -> None:
    """kill -9: nobody gives the claim back, so that its lease has to; a clean exit gives it back at once."""
    task = await loom.create("A")
    environment["LOOM_CLAIM_TTL"] = "1"
    async with serve("alice") as alice:
        await alice("claim")
        (pid,) = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and _environment_of(entry).get("LOOM_AGENT_ID") == "alice"
        ]
        os.kill(pid, signal.SIGKILL)

    async def is_back() -> bool:
        await loom.sweep()
        return (await loom.get(task.id)).task.status == "pending"

    await until(is_back)
    assert (await loom.get(task.id)).history[0].type == "claim.expired"
    async with serve("bob") as bob:
        await bob("claim")
    assert (await loom.get(task.id)).task.status == "pending"


def _environment_of(process: Path) -> dict[str, str]:
    try:
        text = (process / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)


async def test_servers_that_die_are_started_again_and_keep_every_byte(tmp_path: Path) -> None:
    """Embedded servers of their own: killed with -9 under a running MCP server, which goes on; stopped on purpose,
    they stay stopped."""
    place = Path(f"/tmp/loom-e2e-{os.getpid()}")
    place.mkdir(mode=0o755)
    project = tmp_path / "project"
    project.mkdir()
    environment = {**os.environ, "LOOM_DATA_DIR": str(place), "HOME": str(tmp_path), "LOOM_PROJECT_DIR": str(project)}
    for name in ("LOOM_DATABASE_URL", "LOOM_REDIS_URL"):
        environment.pop(name, None)
    before = os.environ.get("LOOM_DATA_DIR")
    try:
        assert (await loom_command(environment, "init", "--name", "mine"))[0] == 0
        transport = StdioTransport(sys.executable, ["-m", "loom.mcp"], env=environment, keep_alive=False)
        async with Client(transport) as client:
            agent = Agent(client)
            task = await agent("create", title="survives")  # nobody said `loom up`: found down, started
            os.environ["LOOM_DATA_DIR"] = str(place)
            config = load_config(project)
            for pid in (place / "instances" / "default" / "pg" / "postmaster.pid", None):
                if pid is not None:
                    os.kill(int(pid.read_text().split()[0]), signal.SIGKILL)
                else:
                    kill_server(place, "valkey")
                assert [row["id"] for row in (await agent("ready"))["tasks"]] == [task["id"]]
            await agent("claim")
            assert (await loom_command(environment, "down", "--yes"))[0] == 0
            assert "servers_stopped" in await agent.refused("ready")
            assert (await loom_command(environment, "up"))[0] == 0
            assert (await agent("done", task_id=task["id"]))["status"] == "done"
            assert not [health for health in services.check(config) if not health.running]
        code, out, err = await loom_command(environment, "doctor")
        assert code == 0, out + err
    finally:
        os.environ["LOOM_DATA_DIR"] = str(place)
        services.down(load_config(project))
        os.environ.pop("LOOM_DATA_DIR") if before is None else os.environ.update(LOOM_DATA_DIR=before)
        shutil.rmtree(place)
