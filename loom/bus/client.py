"""The client of Redis that Loom needs: a few commands on one connection that many callers share, and what is announced.

The whole client takes longer to import than a command to run, and costs each call more than Redis does; so commands are
written and answers read here, by hiredis, which it uses too. What is rare is done by the whole one, imported then.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from loom.bus.connection import TIMEOUT, open_redis

if TYPE_CHECKING:
    from redis.asyncio import Redis

Word = str | int | float
_packed: Callable[[tuple[Word, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # takes any number


class RefusedError(OSError):
    """Redis has answered a command with an error."""


class Client:
    """Redis at one address. Connects with the first command, and again with the first one after a failure; a call that
    fails is not tried again. Whatever is not defined here is the whole client's: `client.scan_iter(...)`.

    Every call raises OSError (`RefusedError` for an error of Redis' own) or TimeoutError, or what the whole client
    raises.
    """

    def __init__(self, url: str) -> None:
        """
        Args:
            url: `redis://`, `rediss://` or `unix://`; all of the second kind is left to the whole client.
        """
        self._url = url
        self._plain = _is_plain(url)
        self._wire: _Wire | None = None
        self._connecting = asyncio.Lock()
        self._full: Redis | None = None
        self._closed = False
        self._known: dict[str, str] = {}  # the digests of scripts that this server has

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole(), name)

    async def call(self, *words: Word) -> Any:
        """The answer to one command, as Redis gives it: texts, numbers, None, lists."""
        (answer,) = await self._ask([words])
        return answer

    async def together(self, *commands: Sequence[Word]) -> list[Any]:
        """The answers to commands that are run with nothing between them (MULTI)."""
        if not self._plain:
            async with self._whole().pipeline(transaction=True) as pipe:
                for words in commands:
                    pipe.execute_command(*words)
                return list(await pipe.execute())
        *_, answers = await self._ask([("MULTI",), *commands, ("EXEC",)])
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise RefusedError(str(answer))
        return list(answers)

    async def evaluate(self, script: str, keys: Sequence[str], arguments: Sequence[Word]) -> Any:
        """What a Lua script returns. Its text is sent where Redis does not have it yet."""
        if (digest := self._known.get(script)) is not None:
            try:
                return await self.call("EVALSHA", digest, len(keys), *keys, *arguments)
            except _UnknownScriptError:
                pass
        answer = await self.call("EVAL", script, len(keys), *keys, *arguments)
        if self._plain:
            self._known[script] = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        return answer

    async def aclose(self) -> None:
        """Gives the connections back, for good."""
        self._closed = True
        wire, full, self._wire, self._full = self._wire, self._full, None, None
        try:
            if wire is not None:
                await wire.close()
        finally:
            if full is not None:
                await full.aclose()

    async def _ask(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        if not self._plain:
            whole: Any = self._whole()
            return [await whole.execute_command(*words) for words in commands]
        wire = self._wire
        if wire is None or wire.failed:
            async with asyncio.timeout(TIMEOUT):
                wire = await self._connected()
        return await wire.ask(commands)

    async def _connected(self) -> _Wire:
        async with self._connecting:
            if self._wire is None or self._wire.failed:
                self._must_be_open()
                self._known.clear()  # it may be another server by now
                wire = await _Wire.open(self._url)
                if self._closed:  # meanwhile
                    await wire.close()
                self._wire = wire
            return self._wire

    def _must_be_open(self) -> None:
        if self._closed:
            raise ConnectionResetError("The connections to Redis were given back")

    def _whole(self) -> Redis:
        self._must_be_open()
        if self._full is None:
            self._full = open_redis(self._url)
        return self._full


async def announced(url: str, pattern: str) -> AsyncGenerator[tuple[str, str] | None, None]:
    """What is announced on the channels of a pattern, on a connection of its own: first None, when the subscription
    stands, then each channel with its text. Raises as `Client` does when the connection ends; close it in any case."""
    if not _is_plain(url):
        async with open_redis(url, timeout=None) as redis, redis.pubsub() as pubsub:
            await pubsub.psubscribe(pattern)
            async for message in pubsub.listen():
                if message["type"] == "psubscribe":
                    yield None
                elif message["type"] == "pmessage":
                    yield message["channel"], message["data"]
        return
    async with asyncio.timeout(TIMEOUT):
        wire = await _Wire.open(url)
    try:
        wire.unasked = asyncio.Queue()
        async with asyncio.timeout(TIMEOUT):
            await wire.ask([("PSUBSCRIBE", pattern)])
        yield None
        while not isinstance(told := await wire.unasked.get(), Exception):
            _, _, channel, text = told
            yield channel, text
        raise told
    finally:
        await wire.close()


def _is_plain(url: str) -> bool:
    return urlsplit(url).scheme in ("redis", "unix")


class _UnknownScriptError(RefusedError):
    """Redis has not got a script, or not any more."""


@dataclass(slots=True)
class _Asked:
    """So many commands that were sent at once, and their answers, together once the last one has come."""

    commands: int
    answered: asyncio.Future[list[Any]]
    answers: list[Any] = field(default_factory=list)


class _Wire(asyncio.Protocol):
    """One connection. Answers come in the order of the commands, so that any number may be under way."""

    def __init__(self) -> None:
        self.failed = False
        self.lost = asyncio.Event()
        """Is set once the connection is closed."""
        self.unasked: asyncio.Queue[Any] | None = None
        """Where what comes without having been asked for goes, and at last why nothing more does."""
        self._transport: asyncio.WriteTransport
        self._answers = hiredis.Reader(encoding="utf-8", errors="replace")
        self._waiting: deque[_Asked] = deque()

    @classmethod
    async def open(cls, url: str) -> _Wire:
        """Connects, names itself, and chooses the database."""
        loop, parts = asyncio.get_running_loop(), urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.scheme == "unix":
            _, wire = await loop.create_unix_connection(cls, unquote(parts.path))
            database = query.get("db", "0")
        else:
            _, wire = await loop.create_connection(cls, parts.hostname or "localhost", parts.port or 6379)
            database = query.get("db") or parts.path.strip("/") or "0"
        user = unquote(parts.username or query.get("username", ""))
        password = unquote(parts.password or "") or query.get("password", "")
        greeting: list[Sequence[Word]] = []
        name = query.get("client_name", "")
        if password:
            greeting.append(("AUTH", *([user] if user else []), password))
        if name:
            greeting.append(("CLIENT", "SETNAME", name))
        if database != "0":
            greeting.append(("SELECT", database))
        try:
            await wire.ask(greeting)
        except BaseException:
            wire.fail(ConnectionResetError())
            raise
        return wire

    async def ask(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """The answers to commands that are sent at once. Raises RefusedError for the first that is an error, and
        TimeoutError when they do not come in time: the connection is closed then, lest another one takes them for its
        own."""
        if self.failed:
            raise ConnectionResetError("The connection to Redis is closed")
        if not commands:
            return []
        loop = asyncio.get_running_loop()
        asked = _Asked(len(commands), loop.create_future())
        self._waiting.append(asked)
        self._transport.write(b"".join([_packed((*words,)) for words in commands]))
        late = loop.call_later(TIMEOUT, self.fail, TimeoutError("Redis did not answer in time"))
        try:
            found = await asked.answered
        finally:
            late.cancel()
        for answer in found:
            if isinstance(answer, hiredis.ReplyError):
                text = str(answer)
                raise _UnknownScriptError(text) if text.startswith("NOSCRIPT") else RefusedError(text)
        return found

    def fail(self, error: Exception) -> None:
        """Ends the connection; who waits for an answer gets the error."""
        self.failed = True
        self._transport.abort()
        if self.unasked is not None:
            self.unasked.put_nowait(error)
        while self._waiting:
            asked = self._waiting.popleft()
            if not asked.answered.done():
                asked.answered.set_exception(error)

    async def close(self) -> None:
        """Ends the connection, and returns when it is closed."""
        self.fail(ConnectionResetError("The connection to Redis is closed"))
        await self.lost.wait()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._answers.feed(data)
            while (answer := self._answers.gets()) is not False:
                self._take(answer)
        except Exception as error:  # what is no answer of Redis', or nobody's
            self.fail(ConnectionResetError(str(error)))

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(error if isinstance(error, OSError) else ConnectionResetError("Redis has closed the connection"))
        self.lost.set()

    def _take(self, answer: Any) -> None:
        if not self._waiting and self.unasked is not None:
            self.unasked.put_nowait(answer)
            return
        asked = self._waiting[0]
        asked.answers.append(answer)
        if len(asked.answers) == asked.commands:
            self._waiting.popleft()
            if not asked.answered.done():  # who asked may have gone
                asked.answered.set_result(asked.answers)
