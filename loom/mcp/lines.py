"""What a client writes: one JSON-RPC message a line. A line that is none is answered with an error, under its id where
that can be read; the SDK would pass it over in silence, and whoever has asked would wait for ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple, cast

import mcp_types as types
from pydantic import ValidationError

LONGEST = 8 * 2**20
"""Bytes of a line."""

_CHUNK = 65_536  # bytes that are read at a time
_HEAD = 4_096  # bytes that are kept of a line that is too long, for its id
_LONGEST_NUMBER = 18  # digits of an id
# An id before anything nested, for lines that are no JSON.
_FIRST_ID = re.compile(
    r'\s*\{(?:\s*"[^"\\]*"\s*:\s*(?:"[^"\\]*"|-?\d+|true|false|null)\s*,)*?'
    r'\s*"id"\s*:\s*(?P<id>"[^"\\]*"|-?\d{1,18})\s*[,}]'
)


class Fault(NamedTuple):
    """A line that is no message. `answer`: what its writer is told; None where nothing is answered, as for a
    notification."""

    answer: types.JSONRPCError | None


async def messages(read: Callable[[int], Awaitable[bytes]]) -> AsyncIterator[types.JSONRPCMessage | Fault]:
    """What a client writes, until its end.

    Args:
        read: gives the next bytes, at most so many; none at the end.
    """
    line = _Line()
    while data := await read(_CHUNK):
        *ends, rest = data.split(b"\n")
        for end in ends:
            yield line.ended(end)
            line = _Line()
        line.add(rest)
    if line.begun:
        yield line.ended(b"")


class _Line:
    """What has come of a line so far; of one that is too long the beginning is kept."""

    def __init__(self) -> None:
        self._kept, self._length = bytearray(), 0

    @property
    def begun(self) -> bool:
        """Whether there is anything of it."""
        return self._length > 0

    def add(self, data: bytes) -> None:
        """More of it."""
        self._length += len(data)
        self._kept += data if self._length <= LONGEST else b""
        if self._length > LONGEST:
            del self._kept[_HEAD:]

    def ended(self, data: bytes) -> types.JSONRPCMessage | Fault:
        """The end of it; returns what it is."""
        self.add(data)
        return parsed(_text(self._kept)) if self._length <= LONGEST else _too_long(self._kept)


def parsed(line: str) -> types.JSONRPCMessage | Fault:
    """The message of a line, or what is wrong with it."""
    try:
        message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValidationError as error:
        kinds = {one["type"] for one in error.errors(include_url=False, include_context=False, include_input=False)}
        return _refusal(line, broken="json_invalid" in kinds)
    except ValueError:  # a number beyond what Python reads
        return _refusal(line, broken=True)
    # An id that is neither a number nor a text makes a request look like a notification.
    if isinstance(message, types.JSONRPCNotification) and '"id"' in line and "id" in _members(_read(line)):
        return Fault(failure(types.INVALID_REQUEST, f"Invalid request: {_SHAPE}", None))
    return message


def failure(code: int, message: str, request_id: str | int | None) -> types.JSONRPCError:
    """An answer that says what was wrong."""
    return types.JSONRPCError(jsonrpc="2.0", id=request_id, error=types.ErrorData(code=code, message=message))


def _refusal(line: str, *, broken: bool) -> Fault:
    read = _read(line)
    request_id = _id_of(line, read)
    if not line.strip() or ("id" not in _members(read) and isinstance(_members(read).get("method"), str)):
        return Fault(None)
    if broken:
        return Fault(failure(types.PARSE_ERROR, f"Parse error: {_JSON}", request_id))
    why = "Batches are not taken; send each message by itself." if isinstance(read, list) else _SHAPE
    return Fault(failure(types.INVALID_REQUEST, f"Invalid request: {why}", request_id))


def _too_long(head: bytearray) -> Fault:
    why = f"Invalid request: A line has at most {LONGEST // 2**20} MB."
    return Fault(failure(types.INVALID_REQUEST, why, _id_of(_text(head[:_HEAD]), None)))


_JSON = "A message is one JSON value: texts of whole characters, numbers of up to 4,300 digits, up to 200 levels."
_SHAPE = 'A request is {"jsonrpc": "2.0", "id": a number or text, "method": a text, "params": an object}.'


def _text(line: bytearray) -> str:
    return line.decode("utf-8", "replace")


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
