"""The wire: one JSON-RPC message a line, on standard input and output.

The SDK passes a line over in silence that it cannot read, and whoever has asked waits for ever. So lines are looked at
before it: one that is no message is answered with an error, under its id where that can be read.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import anyio
import mcp_types as types
from fastmcp.server.context import reset_transport, set_transport
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectSendStream
    from fastmcp import FastMCP

_LONGEST_NUMBER = 18  # digits of an id
# An id before anything nested, for lines that are no JSON.
_FIRST_ID = re.compile(
    r'\s*\{(?:\s*"[^"\\]*"\s*:\s*(?:"[^"\\]*"|-?\d+|true|false|null)\s*,)*?'
    r'\s*"id"\s*:\s*(?P<id>"[^"\\]*"|-?\d{1,18})\s*[,}]'
)


async def serve(server: FastMCP) -> None:
    """Serves one client until it closes standard input."""
    token = set_transport("stdio")
    try:
        wire = Wire(_standard_input())
        async with stdio_server(stdin=cast("anyio.AsyncFile[str]", wire)) as (read, write):
            wire.answers = write
            low = server._mcp_server
            await low.run(read, write, low.create_initialization_options())
    finally:
        reset_transport(token)


class Wire:
    """The lines of a client, without those that are no messages: these are answered here."""

    def __init__(self, lines: anyio.AsyncFile[str]) -> None:
        self.answers: MemoryObjectSendStream[SessionMessage] | Any = None
        self._lines = lines

    async def __aiter__(self) -> AsyncIterator[str]:
        async for line in self._lines:
            error = fault(line)
            if error is None:
                yield line
            elif error.error.message:
                with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                    await self.answers.send(SessionMessage(error))


def fault(line: str) -> types.JSONRPCError | None:
    """The answer to a line that is no message; None for one that is. Its message is empty where nothing is answered, as
    for a notification."""
    try:
        message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValidationError as error:
        kinds = {one["type"] for one in error.errors(include_url=False, include_context=False, include_input=False)}
        return _refusal(line, broken="json_invalid" in kinds)
    except ValueError:  # a number beyond what Python reads
        return _refusal(line, broken=True)
    # An id that is neither a number nor a text makes a request look like a notification.
    strange = isinstance(message, types.JSONRPCNotification) and '"id"' in line and "id" in _members(_read(line))
    return _error(types.INVALID_REQUEST, f"Invalid request: {_SHAPE}", None) if strange else None


def _refusal(line: str, *, broken: bool) -> types.JSONRPCError:
    read = _read(line)
    request_id = _id_of(line, read)
    if not line.strip() or ("id" not in _members(read) and isinstance(_members(read).get("method"), str)):
        return _error(types.INVALID_REQUEST, "", None)
    if broken:
        return _error(types.PARSE_ERROR, f"Parse error: {_JSON}", request_id)
    why = "Batches are not taken; send each message on a line of its own." if isinstance(read, list) else _SHAPE
    return _error(types.INVALID_REQUEST, f"Invalid request: {why}", request_id)


_JSON = "A line is one JSON value: texts of whole characters, numbers of up to 4,300 digits, up to 200 levels."
_SHAPE = 'A request is {"jsonrpc": "2.0", "id": a number or text, "method": a text, "params": an object}.'


def _error(code: int, message: str, request_id: str | int | None) -> types.JSONRPCError:
    return types.JSONRPCError(jsonrpc="2.0", id=request_id, error=types.ErrorData(code=code, message=message))


def _read(line: str) -> object:
    """What Python makes of a line, which reads more than the SDK does; None where it cannot either."""
    with suppress(ValueError, RecursionError):
        return cast(object, json.loads(line, parse_int=_number))
    return None


def _number(text: str) -> int | None:
    return int(text) if len(text) <= _LONGEST_NUMBER else None


def _members(read: object) -> dict[str, Any]:
    return read if isinstance(read, dict) else {}


def _id_of(line: str, read: object) -> str | int | None:
    """The id of a request, if it can be read."""
    found = _members(read).get("id")
    if read is None and (match := _FIRST_ID.match(line)):
        found = json.loads(match["id"])
    if isinstance(found, str):
        return found if found.isprintable() else None
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _standard_input() -> anyio.AsyncFile[str]:
    """Standard input, and nothing to read in its place for children and whoever else comes."""
    wire = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return anyio.wrap_file(io.TextIOWrapper(os.fdopen(wire, "rb"), encoding="utf-8", errors="replace"))
