"""What a principal sees of the tools: those of which his role may do something. The others are not there for him."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastmcp.exceptions import NotFoundError as UnknownTool
from fastmcp.server.middleware import Middleware

if TYPE_CHECKING:
    from fastmcp.tools import Tool

    from loom.graph.front import Loom

_LEAST = {"message": "send", "workflow": "workflow.list"}
"""The operation of a tool that needs least, where it is not the one of its own name."""


class Scopes(Middleware):
    """Leaves out tools, and knows nothing of them when they are called. Whether a call may be made at all, the front
    judges."""

    def __init__(self, loom: Callable[[], Loom]) -> None:
        self._loom = loom

    async def on_list_tools(self, context: Any, call_next: Any) -> Sequence[Tool]:
        tools: Sequence[Tool] = await call_next(context)
        return [one for one in tools if self._sees(one.name)]

    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        name = context.message.name
        if not self._sees(name):
            raise UnknownTool(f"Unknown tool: {name!r}")
        return await call_next(context)

    def _sees(self, name: str) -> bool:
        verb = name.removeprefix("loom_")
        return self._loom().may(_LEAST.get(verb, verb))
