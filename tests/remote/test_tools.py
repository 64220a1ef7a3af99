"""MCP over HTTP: the tools with a token, in both eras, and what each role sees of them."""

from __future__ import annotations

import pytest
from fastmcp.exceptions import ToolError

from tests.remote.conftest import Served


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_work_over_http(served: Served, mode: str) -> None:
    boss, ann = await served.token("boss", "admin"), await served.token("ann", "worker")
    async with served.mcp(boss, mode) as client:
        made = (await client.call_tool("loom_create", {"title": "a task"})).structured_content
        assert made is not None
    async with served.mcp(ann, mode) as client:
        claim = (await client.call_tool("loom_claim", {"agent_id": "ann/one"})).structured_content
        assert claim is not None
        assert claim["id"] == made["id"]
        done = await client.call_tool("loom_done", {"task_id": made["id"], "agent_id": "ann/one", "output": {"a": 1}})
        assert done.structured_content is not None
        assert done.structured_content["status"] == "done"
    events = await served.loom.history(made["id"])
    assert [(one.data or {}).get("principal") for one in events] == ["boss", "ann", "ann"]
    assert all((one.data or {}).get("client") for one in events)


async def test_a_role_sees_only_the_tools_it_may_use(served: Served) -> None:
    seen = {}
    for role in ("reader", "worker", "planner", "admin"):
        async with served.mcp(await served.token(role, role)) as client:
            seen[role] = {one.name for one in await client.list_tools()}
    assert len(seen["admin"]) == 18
    assert seen["reader"] < seen["worker"] <= seen["planner"] <= seen["admin"]
    assert "loom_claim" in seen["worker"] - seen["reader"]
    async with served.mcp(await served.token("reader", "reader")) as client:
        with pytest.raises(ToolError, match="Unknown tool"):
            await client.call_tool("loom_claim", {})
