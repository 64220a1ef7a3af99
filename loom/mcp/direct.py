"""The direct way of a call from the SDK's server to a tool.

What FastMCP does with a call in between is for components that Loom has none of, and takes longer than many a tool's
own work. So a plain call of a tool is answered before it comes there, as the SDK allows its middleware to do. All else
goes on to FastMCP: what is no call, or is not as it should be, which it refuses; and every call that somebody is to see
there, because spans are recorded or the server has been given middleware.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from fastmcp.exceptions import ToolError
from mcp_types import SERVER_INFO_META_KEY, TextContent
from mcp_types.methods import serialize_server_result
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from loom import tracing
from loom.mcp import wire

if TYPE_CHECKING:
    from fastmcp import FastMCP
    from fastmcp.tools import Tool, ToolResult
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
    from mcp.server.session import ServerSession

_CALL = "tools/call"
_PLAIN = {"name", "arguments", "_meta"}
_ASKED_BY: ContextVar[ServerSession | None] = ContextVar("loom_asked_by", default=None)


async def report_progress(done: float, of: float) -> None:
    """Tells who has made the call that this is part of how far it is, if he wants to know."""
    if (session := _ASKED_BY.get()) is not None:
        await session.report_progress(done, of)


class Direct:
    """Middleware of the SDK's server that answers plain calls of tools."""

    def __init__(self, server: FastMCP) -> None:
        """
        Args:
            server: whose tools they are. All of them are its own, and none changes after the first call of it.
        """
        self._server, self._low = server, wire.low_level(server)
        self._tools: dict[str, Tool] = {}

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        _ASKED_BY.set(ctx.session)  # for this request alone, which has a context of its own
        tool = await self._plainly_called(ctx)
        if tool is None:
            return await call_next(ctx)
        assert ctx.params is not None
        try:
            answer = _told(await tool.run(ctx.params.get("arguments") or {}))
        except ToolError as error:
            answer = {"content": [_shown(TextContent(type="text", text=str(error)))], "isError": True}
        return self._in_version(answer, ctx.protocol_version)

    async def _plainly_called(self, ctx: ServerRequestContext[Any, Any]) -> Tool | None:
        """The tool that this is a plain call of; None where it goes on to FastMCP."""
        params = ctx.params
        if ctx.method != _CALL or ctx.request_id is None or not params or self._server.middleware or tracing.recorded():
            return None
        name, arguments = params.get("name"), params.get("arguments")
        known = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS or ctx.session.client_params is not None
        if not known or not _PLAIN.issuperset(params) or not isinstance(name, str) or not _is_object(arguments):
            return None
        if name not in self._tools and (found := await self._server.get_tool(name)) is not None:
            self._tools[name] = found
        return self._tools.get(name)

    def _in_version(self, answer: dict[str, Any], version: str) -> dict[str, Any]:
        """An answer as a version of the protocol has it."""
        if version not in MODERN_PROTOCOL_VERSIONS:
            return serialize_server_result(_CALL, version, answer)
        named = {"resultType": "complete", "_meta": {SERVER_INFO_META_KEY: self._low.server_info_stamp}}
        return serialize_server_result(_CALL, version, answer | named)


def _is_object(arguments: object) -> bool:
    return arguments is None or isinstance(arguments, dict)


def _told(result: ToolResult) -> dict[str, Any]:
    told: dict[str, Any] = {"content": [_shown(block) for block in result.content], "isError": False}
    if result.structured_content is not None:
        told["structuredContent"] = result.structured_content
    return told


def _shown(block: Any) -> dict[str, Any]:
    shown: dict[str, Any] = block.model_dump(by_alias=True, mode="json", exclude_none=True)
    return shown
