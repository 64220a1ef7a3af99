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
from mcp_types import SERVER_INFO_META_KEY
from mcp_types.methods import serialize_server_result
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from loom import tracing
from loom.mcp import wire
from loom.mcp.tool import LoomTool

if TYPE_CHECKING:
    from fastmcp import FastMCP
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
        self._tools: dict[str, LoomTool] = {}
        self._named: dict[str, Any] = {}

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        _ASKED_BY.set(ctx.session)  # for this request alone, which has a context of its own
        tool = await self._plainly_called(ctx)
        if tool is None:
            return await call_next(ctx)
        assert ctx.params is not None
        try:
            text, reply = await tool.answer(ctx.params.get("arguments") or {})
            answer = {"content": [{"type": "text", "text": text}], "structuredContent": reply, "isError": False}
        except ToolError as error:
            answer = {"content": [{"type": "text", "text": str(error)}], "isError": True}
        return self._in_version(answer, ctx.protocol_version)

    async def _plainly_called(self, ctx: ServerRequestContext[Any, Any]) -> LoomTool | None:
        """The tool that this is a plain call of; None where it goes on to FastMCP."""
        params = ctx.params
        if ctx.method != _CALL or ctx.request_id is None or not params or self._server.middleware or tracing.recorded():
            return None
        name, arguments = params.get("name"), params.get("arguments")
        known = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS or ctx.session.client_params is not None
        if not known or not _PLAIN.issuperset(params) or not isinstance(name, str) or not _is_object(arguments):
            return None
        if name not in self._tools and isinstance(found := await self._server.get_tool(name), LoomTool):
            self._tools[name] = found
        return self._tools.get(name)

    def _in_version(self, answer: dict[str, Any], version: str) -> dict[str, Any]:
        """An answer as a version of the protocol has it."""
        if version not in MODERN_PROTOCOL_VERSIONS:
            return serialize_server_result(_CALL, version, answer)
        if not self._named:  # each time it is asked for, the SDK copies all of it
            self._named = {"resultType": "complete", "_meta": {SERVER_INFO_META_KEY: self._low.server_info_stamp}}
        return serialize_server_result(_CALL, version, answer | self._named)


def _is_object(arguments: object) -> bool:
    return arguments is None or isinstance(arguments, dict)
