"""How fast a session of the hub is, against a server whose tools do nothing, by the client of FastMCP."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from loom.graph.front import Loom
from tests.hub.test_processes import here as here
from tests.mcp.stdio import started
from tests.mcp.test_stdio import NO_OP

# Times of an empty tool, of calls that come back to back and of such as come 50 ms apart.
TOGETHER = {"create": 1.8, "ready": 1.6, "claim": 2.1, "status": 1.6, "done": 2.1}
APART = {"create": 1.7, "ready": 1.4, "claim": 1.4, "status": 1.4, "done": 1.4}
BUSY = 1.25  # what the machine's other work may add to a ratio
SETTLED = 5.0  # seconds after which a hub has read ahead, which takes a core meanwhile

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(300)]


async def test_the_first_answer_through_the_bridge_takes_a_tenth_of_an_empty_servers(
    here: dict[str, str], root: Path, loom: Loom
) -> None:
    async def first_answer(*command: str, **environ: str) -> float:
        began = time.perf_counter()
        async with started(*command, **environ) as server:
            await server.initialize()
            return time.perf_counter() - began

    await first_answer(**here)  # which starts the hub
    times = [
        (await first_answer(**here), await first_answer("-c", NO_OP, FASTMCP_ENV_FILE=os.devnull)) for _ in range(7)
    ]
    print(times)  # noqa: T201
    assert statistics.median(ours / empty for ours, empty in times) <= 0.1


@pytest.mark.parametrize(("pause", "aims"), [(0.0, TOGETHER), (0.05, APART)], ids=["together", "apart"])
@pytest.mark.parametrize("ready", [0, 10_000])
async def test_a_call_takes_little_longer_than_one_of_a_tool_that_does_nothing(
    here: dict[str, str], root: Path, loom: Loom, ready: int, pause: float, aims: dict[str, float]
) -> None:
    for start in range(0, ready, 1000):
        await loom.apply_plan({"tasks": [{"title": f"Waits {start + n}", "priority": "p2"} for n in range(1000)]})
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("LOOM_", "CLAUDE_"))}
    alone = environ | {"FASTMCP_ENV_FILE": os.devnull}
    empty = StdioTransport(sys.executable, ["-c", NO_OP], env=alone, keep_alive=False)
    served = StdioTransport(sys.executable, ["-m", "loom", "mcp"], env=environ | here, keep_alive=False)
    times: dict[str, list[float]] = {name: [] for name in ("nothing", *aims)}

    async with Client(empty) as nothing, Client(served) as client:

        async def step(name: str, **arguments: Any) -> Any:
            await asyncio.sleep(pause)
            chosen, tool = (nothing, name) if name == "nothing" else (client, f"loom_{name}")
            began = time.perf_counter()
            result = await chosen.call_tool(tool, arguments)
            times[name].append(time.perf_counter() - began)
            return result.structured_content

        async def turn() -> None:
            await step("nothing")
            await step("create", title="One more", priority="p0")
            await step("ready")
            task_id = (await step("claim"))["id"]
            await step("status", task_id=task_id)
            await step("done", task_id=task_id, output={"path": "x"})
            await step("nothing")

        for _ in range(10):
            await turn()
        await asyncio.sleep(SETTLED)
        for taken in times.values():
            taken.clear()
        for _ in range(80):
            await turn()
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    ratios = {name: round(medians[name] / medians["nothing"], 2) for name in aims}
    print(f"{medians['nothing'] * 1000:.2f} ms", ratios)  # noqa: T201
    assert not {name for name, aim in aims.items() if ratios[name] > aim * BUSY}, ratios
