"""A server over HTTP, spoken to as one over stdio is: each line is a request of its own, its answer a line."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from tests.mcp.stdio import PATIENCE, Server

_ID = re.compile(rb'"id": ?(\d+)(?![\d.])')  # a number with a fraction is no id


class Posting(Server):
    """A process that serves over HTTP. Whoever calls a request off hangs up."""

    def __init__(self, process: asyncio.subprocess.Process, client: httpx2.AsyncClient) -> None:
        super().__init__(process)
        self._client = client
        self._written = asyncio.StreamReader(limit=2**24)
        self._going: dict[int, asyncio.Task[None]] = {}

    @property
    def written(self) -> asyncio.StreamReader:
        return self._written

    async def send(self, line: bytes) -> None:
        found = _ID.search(line)
        number = int(found[1]) if found else -1
        self._going[number] = asking = asyncio.create_task(self._ask(line, number))
        asking.add_done_callback(lambda _: self._going.pop(number, None))

    async def cancel(self, number: int) -> None:
        if number in self._going:
            self._going[number].cancel()

    async def leave(self) -> None:
        self.process.terminate()
        await self.left()
        self._written.feed_eof()

    async def _ask(self, line: bytes, number: int) -> None:
        try:
            answer = await self._client.post("/mcp", content=line)
            told = _read(answer.content)
            if answer.status_code >= 500:
                told = {"error": {"code": 0, "message": f"status {answer.status_code}: {answer.text[:300]}"}}
            elif answer.status_code >= 400 and told.get("id") != number:  # of no line that could be read
                told = {"error": {"code": answer.status_code, "message": answer.text[:300]}}
        except httpx2.HTTPError as error:
            told = {"error": {"code": 0, "message": repr(error)}}
        if number >= 0 and told:
            self._written.feed_data(json.dumps({"jsonrpc": "2.0"} | told | {"id": number}).encode() + b"\n")


def _read(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@asynccontextmanager
async def started(project: Path, token: str) -> AsyncIterator[Posting]:
    """`loom serve --http` for a project, and a client of it with a token."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loom", "serve", "--http", "--port", str(port)),
        stdout=asyncio.subprocess.PIPE,
        cwd=project,
    )
    headers = {"authorization": f"Bearer {token}", "accept": "application/json", "content-type": "application/json"}
    url = f"http://127.0.0.1:{port}"
    try:
        assert process.stdout is not None
        await asyncio.wait_for(process.stdout.readline(), PATIENCE)
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE) as client:
            yield Posting(process, client)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
