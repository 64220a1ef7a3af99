"""How a method becomes a tool: its facts, its schema, its replies and its errors.

`@tool` marks a method and its docstring is what agents read; `add_tools` gives the marked methods of an object to a
server. Replies are fitted to what an agent can afford; errors are one line, "code: cause next step".
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeVar

from fastmcp import FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.tools import FunctionTool, ToolResult
from fastmcp.utilities.types import get_cached_typeadapter
from mcp_types import TextContent, ToolAnnotations
from pydantic import ValidationError as Invalid
from pydantic_core import to_json

from loom import calls, replies, texts
from loom.background import apart
from loom.exceptions import LoomError
from loom.mcp.wording import agents
from loom.wording import worded, worded_reply

M = TypeVar("M", bound=Callable[..., Any])

_LOG = logging.getLogger(__name__)
_FACTS = "loom_tool"
_MEANT = {"object": dict, "array": list}


@dataclass(frozen=True)
class tool:  # noqa: N801 - it is used as a decorator
    """Marks a method as a tool."""

    title: str
    """For people."""
    _: KW_ONLY
    reads: bool = False
    """It changes nothing."""
    destroys: bool = False
    """It may replace or end what others have made."""
    repeatable: bool = False
    """A second call with the same arguments changes nothing more."""
    outside: bool = False
    """It may reach beyond the project, such as a model that is asked."""
    always: bool = False
    """Clients that load tools on demand load this one at once."""

    def __call__(self, method: M) -> M:
        facts = {
            "name": method.__name__,
            "title": self.title,
            "description": " ".join((method.__doc__ or "").split()),
            "annotations": self._annotations(),
            "meta": {"anthropic/alwaysLoad": True} if self.always else None,
        }
        setattr(method, _FACTS, facts)
        method.__doc__ = None  # else FastMCP imports a parser for it, a tenth of a second before the first answer
        return method

    def _annotations(self) -> ToolAnnotations:
        return ToolAnnotations(
            read_only_hint=self.reads,
            destructive_hint=self.destroys,
            idempotent_hint=self.reads or self.repeatable,
            open_world_hint=self.outside,
        )


def add_tools(server: FastMCP, tools: object) -> None:
    """Gives the methods of `tools` that `tool` marked to a server."""
    for name, method in vars(type(tools)).items():
        if facts := getattr(method, _FACTS, None):
            made = LoomTool.from_function(getattr(tools, name), output_schema=None, **facts)
            made.parameters = _slim(made.parameters)
            server.add_tool(made)


class _UnfitError(Exception):
    """Arguments are not what a tool takes."""


class LoomTool(FunctionTool):
    """A tool that answers and fails in Loom's way."""

    async def run(self, arguments: dict[str, Any]) -> ToolResult:
        """As `answer`, for FastMCP."""
        text, reply = await self.answer(arguments)
        return ToolResult(content=[TextContent(type="text", text=text)], structured_content=reply)

    async def answer(self, arguments: dict[str, Any]) -> tuple[str, replies.Reply]:
        """Runs the method. Returns its reply, within an agent's means, as text and as it is. Raises only ToolError,
        whose text reaches the agent as it is."""
        began, outcome = time.perf_counter(), "cancelled"
        try:
            reply = replies.fit(worded_reply(await apart(self._call(arguments)), agents))
            outcome = "ok"
            return to_json(reply, fallback=str).decode(), reply
        except (LoomError, _UnfitError) as error:
            text, outcome = _refused(error)
        except Exception as error:
            _LOG.exception("%s failed", self.name)
            text, outcome = _unexpected(self.name, error), "internal_error"
        finally:
            calls.count(self.name, outcome, time.perf_counter() - began)
        raise ToolError(text, log_level=logging.DEBUG)

    def _call(self, arguments: dict[str, Any]) -> Coroutine[Any, Any, replies.Reply]:
        """The call of the method, which is still to be run. Raises _UnfitError."""
        try:
            call: Coroutine[Any, Any, replies.Reply] = get_cached_typeadapter(self.fn).validate_python(
                self._taken(arguments)
            )
        except Invalid as error:
            raise _UnfitError(self._wanted(error)) from None
        return call

    def _taken(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments as they are meant: one that may be left out and is null was left out, and an object or a list
        that came as JSON text is what the text says."""
        required = self.parameters.get("required", ())
        given = {name: value for name, value in arguments.items() if value is not None or name in required}
        for name, value in given.items():
            meant = _MEANT.get(self.parameters["properties"].get(name, {}).get("type"))
            if meant is not None and isinstance(value, str):
                with suppress(ValueError, RecursionError):
                    read = json.loads(value)
                    given[name] = read if isinstance(read, meant) else value
        return given

    def _wanted(self, error: Invalid) -> str:
        """What was wrong with the arguments, in one sentence."""
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = "".join(f"[{part}]" if isinstance(part, int) else str(part) for part in first["loc"][:3])
        name = texts.shorten(name, 80)
        if first["type"] == "missing_argument":
            return f"{name} is missing."
        if first["type"] == "unexpected_keyword_argument":
            return f"There is no argument {name}; {self.name} takes {', '.join(self.parameters['properties'])}."
        _, _, rule = first["msg"].partition(" should ")
        return f"{name} should {rule}." if rule else f"{name}: {first['msg']}."


def _refused(error: LoomError | _UnfitError) -> tuple[str, str]:
    """What is said of a call that was refused, and the code of the refusal."""
    if isinstance(error, LoomError):
        return _told(error), error.code
    return f"invalid_input: {error}", "invalid_input"


def _unexpected(name: str, error: Exception) -> str:
    return (
        f"internal_error: {name} met an unexpected {type(error).__name__}. "
        "Try again; `loom doctor` checks the project, and .loom/logs/mcp.log has the details."
    )


def _told(error: LoomError) -> str:
    """An error in an agent's words, and after them what it knows beside."""
    text = texts.clean(f"{error.code}: {worded(error.said, agents)}")
    facts = error.facts
    return f"{text} {json.dumps(replies.fit(facts), ensure_ascii=False)}" if facts else text


def _slim(schema: dict[str, Any]) -> dict[str, Any]:
    """An input schema without what every agent would pay for and none needs: that optional means it may be null, that
    objects are open, and that arguments not named are refused."""
    properties = {}
    for name, one in schema["properties"].items():
        if "anyOf" in one:
            given = [choice for choice in one["anyOf"] if choice != {"type": "null"}]
            if len(given) == 1:
                one = {key: value for key, value in one.items() if key != "anyOf"} | given[0]
        if one.get("default", ...) is None:
            del one["default"]
        if one.get("additionalProperties") is True:
            del one["additionalProperties"]
        properties[name] = one
    slim = {"type": "object", "properties": properties}
    return slim | {"required": schema["required"]} if schema.get("required") else slim
