"""A server process over stdio, spoken to line by line."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

PATIENCE = 60.0  # seconds for an answer, however busy the machine is


class Server:
    """A server process, spoken to line by line, so that anything else on its stdout fails the test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._last = 0

    @property
    def written(self) -> asyncio.StreamReader:
        """What it writes, line by line."""
        assert self.process.stdout is not None
        return self.process.stdout

    async def send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        await self.process.stdin.drain()

    async def answer(self, number: int) -> dict[str, Any]:
        """The answer to a request; notifications before it are passed by."""
        while True:
            line = await asyncio.wait_for(self.written.readline(), PATIENCE)
            message: dict[str, Any] = json.loads(line)
            assert message["jsonrpc"] == "2.0"
            if message.get("id") == number:
                return message

    async def answers_until(self, number: int) -> dict[int, dict[str, Any]]:
        """All answers up to that of a request, by the ids of what they answer."""
        found: dict[int, dict[str, Any]] = {}
        while number not in found:
            message = json.loads(await asyncio.wait_for(self.written.readline(), PATIENCE))
            if "method" not in message:
                found[message["id"]] = message
        return found

    async def request(self, method: str, **params: Any) -> int:
        """Sends a request without waiting for its answer; returns its id."""
        self._last += 1
        await self.send(json.dumps({"jsonrpc": "2.0", "id": self._last, "method": method, "params": params}).encode())
        return self._last

    async def cancel(self, number: int) -> None:
        await self.send(
            json.dumps(
                {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}
            ).encode()
        )

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return await self.answer(await self.request(method, **params))

    async def initialize(self) -> dict[str, Any]:
        client = {"name": "test", "version": "1"}
        reply = await self.ask("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=client)
        await self.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        result: dict[str, Any] = reply["result"]
        return result

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """What a tool replies, or `{"error": text}`."""
        result = (await self.ask("tools/call", name=tool, arguments=arguments))["result"]
        if result.get("isError"):
            return {"error": result["content"][0]["text"]}
        reply: dict[str, Any] = result["structuredContent"]
        return reply

    async def leave(self) -> None:
        """Has the process end as its client does it, and waits for that."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.left()

    async def left(self) -> None:
        """Waits for the process to end."""
        await asyncio.wait_for(self.process.wait(), 30)


@asynccontextmanager
async def started(*command: str, **environment: str) -> AsyncIterator[Server]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LOOM_", "CLAUDE_"))}
    env["LOOM_MCP_HUB"] = "never"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(command or ("-m", "loom.mcp")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env | environment,
        cwd=environment.get("LOOM_PROJECT_DIR"),
        limit=2**24,
    )
    try:
        yield Server(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
