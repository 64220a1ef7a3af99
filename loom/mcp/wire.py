"""One client of the server, over bytes that come and go, whatever carries them.

All that Loom needs of FastMCP and the SDK and that they do not offer stands on this page: FastMCP's own server below it
(`_mcp_server`), its lifespan (`_lifespan_manager`), where it looks for the state of sessions (`_state_store`), and the
streams that carry the sender's context along, by which a tool knows whom it works for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import mcp_types as types
from fastmcp.server.context import reset_transport, set_transport
from mcp.shared._context_streams import ContextReceiveStream, ContextSendStream, create_context_streams
from mcp.shared.message import SessionMessage

from loom.mcp import lines

if TYPE_CHECKING:
    from fastmcp import FastMCP
    from mcp.server.lowlevel import Server

MOST_CALLS = 256
"""Calls of one client that go on at a time."""

Read = Callable[[int], Awaitable[bytes]]
Write = Callable[[bytes], Awaitable[None]]


async def serve(server: FastMCP, read: Read, write: Write) -> None:
    """Serves one client until it has nothing more to say, or does not listen any more.

    Args:
        read: gives the next bytes, at most so many; none at the end.
        write: returns once the client has taken them, or nearly; raises OSError when it is gone.
    """
    into, incoming = create_context_streams[SessionMessage | Exception](0)
    outgoing, out = create_context_streams[SessionMessage](0)
    going: set[str | int] = set()
    low = low_level(server)
    with _like_stdio():
        async with anyio.create_task_group() as group:
            group.start_soon(_receive, read, into, outgoing, going)
            group.start_soon(_send, out, write, going, group.cancel_scope.cancel)
            await low.run(incoming, outgoing, low.create_initialization_options())


def low_level(server: FastMCP) -> Server[Any]:
    """The SDK's own server below one of FastMCP's."""
    return server._mcp_server


class NoState:
    """What a server keeps of its sessions: nothing. FastMCP asks for it before each list, and would import a store for
    it, which keeps a client waiting for its first list longer than all else."""

    async def get(self, key: str) -> None:
        """Nothing is kept."""


@asynccontextmanager
async def open_for_many(server: FastMCP) -> AsyncIterator[None]:
    """Begins a server that serves several clients at a time, which else the first of them would begin and end."""
    async with server._lifespan_manager():
        yield


@contextmanager
def _like_stdio() -> Iterator[None]:
    """What a tool may ask of how its client is connected; and that it left in the middle of something is no error."""
    token = set_transport("stdio")
    try:
        yield
    except* (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    finally:
        reset_transport(token)


async def _receive(
    read: Read,
    into: ContextSendStream[SessionMessage | Exception],
    answers: ContextSendStream[SessionMessage],
    going: set[str | int],
) -> None:
    async with into:
        with suppress(OSError, anyio.ClosedResourceError, anyio.BrokenResourceError):
            async for message in lines.messages(read):
                answer = message.answer if isinstance(message, lines.Fault) else _too_many(message, going)
                if answer is not None:
                    await answers.send(SessionMessage(answer))
                elif not isinstance(message, lines.Fault):
                    await into.send(SessionMessage(message))


def _too_many(message: types.JSONRPCMessage, going: set[str | int]) -> types.JSONRPCError | None:
    """The answer to a call that is one too many. Notes those that begin, and those that are called off."""
    if isinstance(message, types.JSONRPCNotification) and message.method == "notifications/cancelled":
        called_off = (message.params or {}).get("requestId")
        if isinstance(called_off, str | int):
            going.discard(called_off)
    if not isinstance(message, types.JSONRPCRequest):
        return None
    if len(going) >= MOST_CALLS:
        why = f"Invalid request: {MOST_CALLS} calls go on already; wait until one of them is answered."
        return lines.failure(types.INVALID_REQUEST, why, message.id)
    going.add(message.id)
    return None


async def _send(
    out: ContextReceiveStream[SessionMessage], write: Write, going: set[str | int], gone: Callable[[], None]
) -> None:
    async with out:
        try:
            async for sent in out:
                message = sent.message
                if isinstance(message, types.JSONRPCResponse | types.JSONRPCError) and message.id is not None:
                    going.discard(message.id)
                await write(message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
        except OSError:
            gone()
