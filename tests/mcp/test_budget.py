"""What the tools cost an agent, and what each of them must declare."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from fastmcp import Client
from mcp_types import Tool

import loom.mcp
from loom.exceptions import ProjectNotFoundError
from loom.graph.front import Loom
from loom.mcp import skill_tools, tools
from loom.mcp.server import INSTRUCTIONS, build

READING = {"loom_ready", "loom_status", "loom_graph", "loom_wait"}
AT_ONCE = {"loom_ready", "loom_claim", "loom_done"}
ENDING = {"loom_update", "loom_resolve", "loom_workflow"}  # may replace or end what others have made


def no_project() -> Loom:
    raise ProjectNotFoundError("There is no Loom project here.", "Run `loom init`.")


@pytest.fixture
async def listed() -> list[Tool]:
    async with Client(build(no_project)) as client:
        return list(await client.list_tools())


async def test_the_tools_cost_less_than_four_thousand_tokens(listed: list[Tool]) -> None:
    costs = {
        tool.name: len(tool.name) + len(tool.description or "") + len(json.dumps(tool.input_schema)) for tool in listed
    }
    assert sum(costs.values()) / 4 < 4000, costs
    mine = [cost for name, cost in costs.items() if name in vars(tools.Tools)]
    assert len(mine) == 15
    assert sum(mine) / 4 < 3000, costs


async def test_the_list_is_under_twenty_kilobytes(listed: list[Tool]) -> None:
    assert sum(len(tool.model_dump_json(by_alias=True, exclude_none=True)) for tool in listed) < 20_000
    assert all(len(tool.description or "") < 2048 for tool in listed)
    assert len(INSTRUCTIONS) < 2048


async def test_each_tool_declares_what_it_does(listed: list[Tool]) -> None:
    for tool in listed:
        assert tool.title
        assert tool.description
        assert tool.output_schema is None
        assert tool.annotations is not None
        hints = tool.annotations
        assert None not in (hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint), tool.name
    by_name = {tool.name: tool for tool in listed}
    assert {name for name, tool in by_name.items() if tool.annotations and tool.annotations.read_only_hint} >= READING
    for name in by_name:
        told = by_name[name].annotations
        assert told is not None
        assert told.read_only_hint == (name in READING), name
        assert told.destructive_hint == (name in ENDING), name
        assert told.open_world_hint == (name in vars(skill_tools.SkillTools)), name
    assert {name for name, tool in by_name.items() if (tool.meta or {}).get("anthropic/alwaysLoad")} == AT_ONCE


async def test_schemas_carry_no_noise(listed: list[Tool]) -> None:
    for tool in listed:
        for name, schema in tool.input_schema["properties"].items():
            assert not schema.keys() & {"title", "anyOf"}, (tool.name, name)
            assert schema.get("default", ...) is not None, (tool.name, name)


@pytest.mark.parametrize("module", sorted(Path(loom.mcp.__file__).parent.rglob("*.py")), ids=lambda file: file.stem)
def test_a_tool_is_at_most_fifteen_lines(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
            lines = (node.body[-1].end_lineno or 0) - node.body[0].lineno + 1
            assert lines <= 15, f"{node.name} has {lines} lines"
