"""Ways to PostgreSQL on which something goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit


class Door:
    """A way that can be shut: who is inside is thrown out, and who comes is turned away."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._inside: set[asyncio.StreamWriter] = set()
        self._shut = False

    async def make(self) -> None:
        self._server = await asyncio.start_server(self._come, "127.0.0.1", 0)

    @property
    def url(self) -> str:
        who, port = self._parts.netloc.rpartition("@")[0], self._server.sockets[0].getsockname()[1]
        return f"postgresql://{who}@127.0.0.1:{port}{self._parts.path}?sslmode=disable"

    def shut(self) -> None:
        self._shut = True
        for writer in self._inside:
            writer.transport.abort()

    def open(self) -> None:
        self._shut = False

    def unmake(self) -> None:
        self._server.close()
        self.shut()

    async def _come(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._shut:
            writer.transport.abort()
            return
        self._inside.add(writer)
        query = parse_qs(self._parts.query)
        port = self._parts.port or int(query.get("port", ["5432"])[0])
        if "host" in query:
            answers, server = await asyncio.open_unix_connection(f"{query['host'][0]}/.s.PGSQL.{port}")
        else:
            answers, server = await asyncio.open_connection(self._parts.hostname, port)
        line = self._line()
        await asyncio.gather(
            _carry(reader, server, line.there), _carry(answers, writer, line.back), return_exceptions=True
        )
        self._inside.discard(writer)

    def _line(self) -> Line:
        """What happens to what goes through, on one connection."""
        return Line()


class Line:
    """One connection. Each says whether some bytes go through; if not, the connection ends."""

    def there(self, data: bytes) -> bool:
        return True

    def back(self, data: bytes) -> bool:
        return True


class Lossy(Door):
    """A way that loses the answer to the first COMMIT of a workflow's step that is done."""

    lost = False

    def _line(self) -> Line:
        return _LossyLine(self)


class _LossyLine(Line):
    def __init__(self, way: Lossy) -> None:
        self._way = way
        self._step_done = self._cut = False

    def there(self, data: bytes) -> bool:
        self._step_done = self._step_done or b"workflow.step_completed" in data
        if self._step_done and b"COMMIT" in data and not self._way.lost:
            self._way.lost = self._cut = True
        return True

    def back(self, data: bytes) -> bool:
        return not self._cut


async def _carry(come: asyncio.StreamReader, go: asyncio.StreamWriter, passes: Callable[[bytes], bool]) -> None:
    try:
        while (data := await come.read(65536)) and passes(data):
            go.write(data)
            await go.drain()
    finally:
        go.close()
