"""An MCP client's way to the hub's socket, as the bridge goes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from fastmcp.client.transports.base import ClientTransport, TransportOptions
from mcp import ClientSession
from mcp.shared.message import SessionMessage

from loom import bridge


class HubTransport(ClientTransport):
    """Connects to the hub in an instance's directory, on behalf of a process with these variables."""

    def __init__(self, root: Path, environ: dict[str, str]) -> None:
        self._root, self._environ = root, environ

    @asynccontextmanager
    async def connect_session(
        self, *, transport_options: TransportOptions | None = None, **session: Any
    ) -> AsyncIterator[ClientSession]:
        reader, writer = await asyncio.open_unix_connection(self._root / bridge.SOCKET, limit=2**24)
        hello = {"want": "mcp", "version": bridge.VERSION, "dir": "/", "environ": self._environ, "session": ""}
        writer.write(json.dumps(hello).encode() + b"\n")
        assert json.loads(await reader.readline()) == {"ok": True}
        heard_in, heard = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        said, said_out = anyio.create_memory_object_stream[SessionMessage](0)

        async def hear() -> None:
            async with heard_in:
                async for line in reader:
                    message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                    await heard_in.send(SessionMessage(message))

        async def say() -> None:
            async with said_out:
                async for one in said_out:
                    writer.write(one.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")

        options = transport_options or TransportOptions()
        async with anyio.create_task_group() as group:
            group.start_soon(hear)
            group.start_soon(say)
            try:
                async with options.session_class(read_stream=heard, write_stream=said, **session) as made:
                    yield made
            finally:
                group.cancel_scope.cancel()
                writer.close()
                with anyio.CancelScope(shield=True), suppress(OSError):
                    await writer.wait_closed()
