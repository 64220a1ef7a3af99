"""One agent of `loom demo FILE`, a process of its own: an MCP client of a Loom server that it starts, as a coding
agent has one. It claims, pretends to work, reports, waits when nothing is ready, and ends when nothing will be.

    python -m loom.cli.demo.player    LOOM_PROJECT_DIR and LOOM_AGENT_ID say where, and as whom
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from typing import Any

from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from loom.process import environment

_WORK_SECONDS = (0.3, 0.9)
_WAIT_SECONDS = 20


async def work() -> None:
    """Works until nothing is left."""
    server = StdioTransport(sys.executable, ["-P", "-m", "loom", "mcp"], env=environment(), keep_alive=False)
    async with Client(server) as client:

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            return (await client.call_tool(tool, arguments)).structured_content or {}

        since = (await call("loom_wait", what="any", timeout=0))["since"]
        while True:
            task = await call("loom_claim")
            if task["status"] == "claimed":
                await asyncio.sleep(random.uniform(*_WORK_SECONDS))
                await call("loom_done", task_id=task["id"], token=task["token"], output=_output(task))
                continue
            status = await call("loom_status")
            if not (status["counts"]["pending"] or status["counts"]["claimed"] or status["retries_due"]):
                return
            since = (await call("loom_wait", what="any", since=since, timeout=_WAIT_SECONDS))["since"]


def _output(task: dict[str, Any]) -> dict[str, Any]:
    """What a worker hands on, made up."""
    output: dict[str, Any] = {
        "summary": f"Pretended: {task['title']}",
        "by": os.environ.get("LOOM_AGENT_ID", "an agent"),
    }
    if inputs := [one["id"] for one in task.get("dependencies", ())]:
        output["built_on"] = inputs
    return output


if __name__ == "__main__":
    asyncio.run(work())
