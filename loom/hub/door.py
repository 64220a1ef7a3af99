"""The hub's socket: who comes in, what he asks for in his first line, and how the hub begins and ends.

    {"want": "mcp", "version": "2.0.0", "dir": ..., "environ": {...}, "session": ...}
    {"ok": true, ...}   or   {"error": {"code": ..., "cause": ..., "next": ...}}

After `mcp` follow the bytes of MCP, both ways. In an instance's directory lie `hub.sock`, where one hub listens;
`hub.lock`, which that one holds; and in `hubs/` a file for each that lives, also for one that has retired: named by its
process, and locked by it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import uvloop

from loom import bridge, tracing
from loom.ahead import read_ahead
from loom.background import beside, end
from loom.caller import Caller, calling
from loom.config import LoomConfig, load_config
from loom.exceptions import LoomError
from loom.hub import logs
from loom.hub.projects import IDLE, Projects
from loom.hub.sessions import GRACE, Sessions
from loom.mcp import wire
from loom.mcp.server import shared
from loom.services.launcher import try_lock
from loom.services.places import make_dir

if TYPE_CHECKING:
    from loom.hub.boards import Boards

_FIRST_LINE_WITHIN = 10.0  # seconds
_LINE_BYTES = 2**22  # of the first line, which holds an environment
_LOOK_EVERY = 5.0  # seconds between two looks whether the socket is still there
_BEGINS_WITHIN = 20.0  # seconds, for another that begins at the same time
_ENDS_WITHIN = 5.0  # seconds, for claims to be given back
_LOG_BYTES = 1_000_000
_FILES = 65_536  # descriptors; each connection takes one

Answer = Callable[[dict[str, Any], Caller], Awaitable[Mapping[str, Any]]]

_LOG = logging.getLogger(__name__)


def run(instance: str, *, ready: Callable[[], None] = lambda: None, log: bool = True) -> NoReturn:
    """Serves as the hub of an instance of servers until it is told to end, and ends the process.

    Args:
        ready: is called once clients can come, to this hub or to another that was first.
        log: whether what it prints goes to a file.
    """
    root = make_dir(Path(bridge.instance_dir(instance)))
    if log:
        _log_to(root / "hub.log")
    logs.begin(logging.StreamHandler(sys.stderr))
    os.chdir(root)
    uvloop.run(_run(root, ready))
    logging.shutdown()
    os._exit(0)  # whatever threads still do


def _log_to(path: Path) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    if os.fstat(log).st_size > _LOG_BYTES:
        os.ftruncate(log, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


async def _run(root: Path, ready: Callable[[], None]) -> None:
    hub = Hub(root)
    loop = asyncio.get_running_loop()

    def leave() -> None:
        hub.end()
        loop.call_later(_ENDS_WITHIN, os._exit, 1)  # what hangs then would hang for ever

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, leave)
    is_first = await hub.begin()
    ready()
    if is_first:
        read_ahead()
        await hub.ended()


class _RefusedError(Exception):
    """Whoever came is not served here. `code`: what the bridge does then."""

    def __init__(self, code: str, cause: str) -> None:
        super().__init__(cause)
        self.code, self.cause = code, cause


class Hub:
    """The hub of an instance of servers."""

    def __init__(self, root: Path, *, grace: float = GRACE, idle: float = IDLE) -> None:
        """
        Args:
            root: the directory of the instance.
            grace: see `Sessions`; idle: see `Projects`.
        """
        self.root = root
        self.projects = Projects(idle=idle)
        self._mcp = shared()
        self.sessions = Sessions(self._mcp, self.projects, grace=grace)
        self.answers: dict[str, Answer] = {"status": self._status, "retire": self._retire, "board": self._board}
        """What a first line may want, beside `mcp`, and who answers it."""
        self._boards: Boards | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._locks: list[int] = []
        self._listening: asyncio.Server | None = None
        self._inode = 0
        self._told = asyncio.Event()

    async def begin(self) -> bool:
        """Begins to listen. Returns False where another hub does already.

        Raises OSError: the instance's directory cannot be written to.
        """
        lock = await self._wait_for_the_name()
        if lock is None:
            return False
        self._locks = [lock, self._sign()]
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _FILES) if hard > 0 else _FILES, hard))
        listener = socket.socket(socket.AF_UNIX)
        draft = f"{bridge.SOCKET}.new"
        (self.root / draft).unlink(missing_ok=True)  # of one that was killed here
        _bind(listener, self.root, draft)
        (self.root / draft).rename(self.root / bridge.SOCKET)  # whoever listened here before has died or retired
        self._inode = (self.root / bridge.SOCKET).stat().st_ino
        self._listening = await asyncio.start_unix_server(self._come_in, sock=listener, limit=_LINE_BYTES)
        return True

    async def ended(self) -> None:
        """Serves until it is told to end, or has retired and nobody is left."""
        async with wire.open_for_many(self._mcp), AsyncExitStack() as ending:  # the last is first, and each is done
            ending.callback(self._sign_off)
            ending.push_async_callback(self.projects.close)
            ending.push_async_callback(self._close_boards)
            ending.push_async_callback(self.sessions.close)
            async with beside(self._watch()):
                await self._told.wait()
            self.retire()
            await end(self._connections)

    def end(self) -> None:
        """Tells it to end now: claims are given back, connections closed."""
        self._told.set()

    def retire(self) -> None:
        """Takes no new connection, and leaves the socket's name to another. It ends when those that it has do."""
        if self._listening is None:
            return
        if self._is_ours():
            (self.root / bridge.SOCKET).unlink()
        self._listening.close()
        self._listening = None
        os.close(self._locks.pop(0))

    # --- who comes in -------------------------------------------------------------------------------------------------

    async def _come_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            _LOG.info("A connection ended before it began: %s", error)
        except asyncio.CancelledError:
            if not self._told.is_set():
                raise
        except Exception:
            _LOG.exception("A connection failed")
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = bridge.peer_of(writer.get_extra_info("socket"))
        if peer is not None and peer[1] != os.geteuid():
            return
        async with asyncio.timeout(_FIRST_LINE_WITHIN):
            hello = _object(await reader.readuntil(b"\n"))
        want, caller = hello.get("want"), _caller(hello, None if peer is None else peer[0])
        config: LoomConfig | None = None
        try:
            if want == "mcp":
                config = await self._admit(hello, caller)
                answer: Mapping[str, Any] = {}
            elif want in self.answers:
                answer = await self.answers[want](hello, caller)
            else:
                raise _RefusedError("unknown", f"There is nothing of the name {str(want)[:40]!r} to be had here.")
        except _RefusedError as error:
            writer.write(_line({"error": {"code": error.code, "cause": error.cause, "next": ""}}))
            await writer.drain()
            return
        except LoomError as error:
            told = {"code": error.code, "cause": str(error.cause), "next": str(error.next_step)}
            writer.write(_line({"error": told}))
            await writer.drain()
            return
        writer.write(_line({"ok": True, **answer}))
        await writer.drain()
        if want == "mcp":
            await self.sessions.serve(caller, config, reader.read, _writing(writer))

    async def _admit(self, hello: dict[str, Any], caller: Caller) -> LoomConfig | None:
        """Whether a client is served here, and its configuration, where it can be read. Raises _RefusedError."""
        if self._listening is None:
            raise _RefusedError("older", "This hub has retired.")
        if (theirs := _version(hello.get("version"))) != (ours := _version(bridge.VERSION)):
            code = "older" if theirs > ours else "newer"
            raise _RefusedError(code, f"This hub is of Loom {bridge.VERSION}.")
        if caller.environ.get("HOME") != os.environ.get("HOME"):  # settings and trust lie there
            raise _RefusedError("direct", "This hub is of another home directory.")
        with calling(caller):
            try:
                config = await asyncio.to_thread(load_config)
            except LoomError:
                return None
        if config.mcp.hub == "never":
            raise _RefusedError("direct", "The configuration says that each session is to be a process of its own.")
        if config.servers.instance != self.root.name:
            raise _RefusedError("direct", f"This hub is of the instance {self.root.name}.")
        if config.servers.backend == "external" and any(map(bridge.says_how_to_connect, caller.environ)):
            raise _RefusedError("direct", "This hub has none of the variables by which PostgreSQL is reached here.")
        if hello.get("want") == "mcp" and tracing.asked(caller.environ) != tracing.asked(os.environ):
            raise _RefusedError("direct", "This hub has other variables that say where traces go.")
        return config

    async def _status(self, hello: dict[str, Any], caller: Caller) -> Mapping[str, Any]:
        return {
            "version": bridge.VERSION,
            "pid": os.getpid(),
            "sessions": len(self.sessions),
            "projects": len(self.projects),
        }

    async def _retire(self, hello: dict[str, Any], caller: Caller) -> Mapping[str, Any]:
        self.retire()
        return {}

    async def _board(self, hello: dict[str, Any], caller: Caller) -> Mapping[str, Any]:
        """A link to the board of the caller's project; `agent` in the first line is what he is called there."""
        from loom.hub.boards import Boards  # which brings a web server, for who asks

        await self._admit(hello, caller)
        with calling(caller):
            config = await asyncio.to_thread(load_config)
            if self._boards is None:
                self._boards = Boards(self.root, self.projects)
            return {"url": await self._boards.link(config, str(hello.get("agent", "board")))}

    # --- beginning and ending -----------------------------------------------------------------------------------------

    async def _wait_for_the_name(self) -> int | None:
        """The lock of whoever listens; None where another hub does."""
        until = asyncio.get_running_loop().time() + _BEGINS_WITHIN
        while (lock := try_lock(self.root / "hub.lock")) is None:
            if bridge.listens(str(self.root)) or asyncio.get_running_loop().time() > until:
                return None
            await asyncio.sleep(0.05)
        return lock

    async def _close_boards(self) -> None:
        if self._boards is not None:
            await self._boards.close()

    def _sign_off(self) -> None:
        for lock in self._locks:
            os.close(lock)
        with suppress(OSError):
            (self.root / "hubs" / str(os.getpid())).unlink()

    def _sign(self) -> int:
        """This process's file in `hubs/`, locked."""
        directory = self.root / "hubs"
        directory.mkdir(mode=0o700, exist_ok=True)
        lock = try_lock(directory / str(os.getpid()))
        assert lock is not None, "nobody else has this process's id"
        return lock

    async def _watch(self) -> None:
        """Retires when the socket's name is gone or another's, and ends once it has retired and nobody is left."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            if self._listening is not None and not self._is_ours():
                self.retire()
            if self._listening is None and not self._connections:
                await self.sessions.settled()
                self.end()

    def _is_ours(self) -> bool:
        with suppress(OSError):
            return (self.root / bridge.SOCKET).stat().st_ino == self._inode
        return False


def _object(line: bytes) -> dict[str, Any]:
    """What a first line says. Raises ValueError."""
    hello = json.loads(line)
    if not isinstance(hello, dict):
        raise ValueError("the first line is no object")
    return hello


def _caller(hello: dict[str, Any], pid: int | None) -> Caller:
    """Who calls, by a first line. Raises ValueError."""
    variables, where, session = hello.get("environ", {}), hello.get("dir", "/"), hello.get("session", "")
    if not isinstance(variables, dict) or not isinstance(where, str) or not isinstance(session, str):
        raise ValueError("the first line is not as it should be")
    return Caller({str(name): str(value) for name, value in variables.items()}, pid, session, Path(where))


def _writing(writer: asyncio.StreamWriter) -> wire.Write:
    async def write(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    return write


def _bind(listener: socket.socket, root: Path, name: str) -> None:
    """Binds to a name in a directory whose path may be too long for a socket's, for this user alone."""
    here, mask = os.open(".", os.O_RDONLY), os.umask(0o177)
    try:
        os.chdir(root)
        listener.bind(name)
        listener.listen(512)
        listener.setblocking(False)
    finally:
        os.umask(mask)
        os.fchdir(here)
        os.close(here)


def _version(given: object) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d{1,9}", str(given))[:4])


def _line(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"
