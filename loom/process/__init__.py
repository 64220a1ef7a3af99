"""Running commands, each as a tree of processes that is ended as a whole, whatever it prints and however it ends.

env = process.environment({"LC_ALL": "C"})
ended = await process.run(["make", "test"], env=env, cwd=place, timeout=600, out_bytes=1_000_000)   # once

with process.ProcessTrees() as trees:                                                       # many at a time
    tree = await trees.start(words, text=prompt, env=env, cwd=place, log=file)
    ended = await tree.wait()

status = process.shown(["loom", "work"], env=env, cwd=place)                                # whose output is ours
"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, cast

from loom import caller
from loom.background import through
from loom.process import guard

LOG_BYTES = 10_000_000  # of one run's output in its log
TAIL_BYTES = 300_000  # of standard output in memory: room for the longest output that a task may have
_ERROR_BYTES = 16_000  # of standard error in memory
_LEFT_BEHIND = 1.0  # seconds from SIGTERM to SIGKILL for what a command leaves behind
_WITHHELD = (
    "LOOM_SKILLS_API_KEY",
    "LOOM_SKILLS_API_KEY_FILE",
)  # what Loom itself uses, and nothing that it starts needs
_INTERRUPTED = 5.0  # the same for a command that this process ran for somebody to see, so that it can clear up
_DRAIN = 1.0  # seconds for the end of the output, should a process have escaped with the pipe

_WATCHDOG = 1.0  # seconds for the watchdog to find that nothing is left
_leaving: list[subprocess.Popen[bytes]] = []  # watchdogs that took longer


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit status, negative for the signal that killed it, and the last of its output. `cut`:
    it printed more than it may, and was stopped over that; then `out` is the first of it."""

    status: int
    out: bytes
    err: bytes
    cut: bool = False


def environment(
    more: Mapping[str, str] | None = None, *, only: Collection[str] | None = None, without: Collection[str] = ()
) -> dict[str, str]:
    """The environment of everything that Loom starts: that of whoever calls without Loom's own secrets, and `more`.

    Args:
        only: the names that are passed on at all; None: all but those of `without`.
    """
    passed = {
        name: value
        for name, value in caller.environ().items()
        if name not in _WITHHELD and name not in without and (only is None or name in only)
    }
    return passed | dict(more or {})


async def run(
    words: Sequence[str],
    *,
    text: str = "",
    env: Mapping[str, str],
    cwd: Path | None,
    timeout: float,
    out_bytes: int,
) -> Ended:
    """Runs a command once with `text` on its standard input and takes what it says. Whatever it started has ended when
    this returns or raises, and soon after this process has died.

    Args:
        env: from `environment`.
        cwd: where it runs; None: where this process does.
        timeout: seconds.
        out_bytes: how much it may print on standard output; with more it is stopped and the result is `cut`.

    Raises:
        OSError: it cannot be started; TimeoutError, which is an OSError too: it did not end in time.
    """
    with ProcessTrees() as trees:
        return await trees.run(words, text=text, env=env, cwd=cwd, timeout=timeout, out_bytes=out_bytes)


def shown(words: Sequence[str], *, env: Mapping[str, str], cwd: Path, quiet: bool = False) -> int:
    """Runs a command to its end that prints where this process does, and returns its exit status, negative for the
    signal that killed it. Should this process be interrupted or die, kill -9 included, the command is ended: with
    SIGTERM, and soon with SIGKILL. What it has started in sessions of its own is its own to end.

    Args:
        quiet: what it prints on standard output is thrown away.

    Raises:
        OSError: it cannot be started.
    """
    watchdog = _watchdog("")
    try:
        command = subprocess.Popen(
            words, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL if quiet else None,
            start_new_session=True,
        )  # fmt: skip
        _tell(watchdog, f"+{command.pid}")
        try:
            status = command.wait()
            _tell(watchdog, f"-{command.pid}")  # what it has left running on purpose goes on
            return status
        except BaseException:
            for pause in guard.ending(lambda: guard.members("", [command.pid]), _INTERRUPTED):
                command.poll()  # which takes leave of it, so that its group is seen to be gone
                time.sleep(pause)
            raise
    finally:
        _dismiss(watchdog)


async def end_others(fits: Callable[[Mapping[str, str]], bool]) -> None:
    """Ends the processes of this machine whose environment fits, wherever they came from, and returns when none of them
    lives; without /proc none is found."""
    for pause in guard.ending(lambda: guard.whose(fits), _LEFT_BEHIND):
        await asyncio.sleep(pause)


class ProcessTrees:
    """The trees of commands that one process has started, and the watchdog that ends them should this process die."""

    def __init__(self, *, together: bool = False) -> None:
        """
        Args:
            together: what they start stays in the group of the command, as with a git that starts nothing of others. To
                find the rest, all processes of the machine are looked at when one ends, which costs more than git does.
        """
        self._mark, self._together = secrets.token_hex(8), together
        self._started = 0
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._watchdog = _watchdog(f"{self._mark}.")
        return self

    def __exit__(self, *_: object) -> None:
        if self._watchdog is not None:
            _dismiss(self._watchdog)

    async def start(
        self,
        words: Sequence[str],
        *,
        text: str | bytes,
        env: Mapping[str, str],
        cwd: Path | None,
        log: BinaryIO | None,
        out_bytes: int | None = None,
        pass_fds: Collection[int] = (),
        hear: Callable[[bytes], None] = lambda data: None,
    ) -> Tree:
        """Starts a command with `text` on its standard input. What it prints is written to `log`, which is closed in
        the end.

        Args:
            hear: gets what it prints on standard output, as it comes.
            out_bytes: it is stopped when it prints more than this on standard output; None: it may print on, and the
                last of it is kept.
            pass_fds: descriptors that it inherits.

        Raises:
            OSError: it cannot be started.
        """
        self._started += 1
        mark = f"{self._mark}.{self._started}."
        starting = asyncio.create_task(
            asyncio.get_running_loop().subprocess_exec(
                lambda: Tree("" if self._together else mark, log, self._tell, out_bytes, hear),
                *words,
                env={**env, guard.MARK: mark},
                cwd=cwd,
                start_new_session=True,
                pass_fds=tuple(pass_fds),
            )
        )
        try:
            await through(starting)
        except BaseException:
            if starting.done() and not starting.cancelled() and starting.exception() is None:
                # Who waits was cancelled; the loop's own way out would end the command alone, and lose its status.
                transport, tree = starting.result()
                tree.begin(transport, b"")
                tree.stop()
                await through(asyncio.create_task(tree.wait()))
            elif log is not None:
                log.close()
            raise
        transport, tree = starting.result()
        tree.begin(transport, text)
        return tree

    async def run(
        self,
        words: Sequence[str],
        *,
        text: str | bytes = "",
        env: Mapping[str, str],
        cwd: Path | None,
        timeout: float,
        out_bytes: int,
        pass_fds: Collection[int] = (),
    ) -> Ended:
        """Runs a command to its end, as the function `run` does. `pass_fds`: descriptors that it inherits."""
        tree = await self.start(words, text=text, env=env, cwd=cwd, log=None, out_bytes=out_bytes, pass_fds=pass_fds)
        ended = asyncio.create_task(tree.wait())
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(ended)
        finally:
            tree.stop()
            await through(ended)

    def _tell(self, line: str) -> None:
        if self._watchdog is not None:
            _tell(self._watchdog, line)


class Tree(asyncio.SubprocessProtocol):
    """A command that runs, with all that it starts."""

    def __init__(
        self,
        mark: str,
        log: BinaryIO | None,
        tell: Callable[[str], None],
        out_bytes: int | None,
        hear: Callable[[bytes], None],
    ) -> None:
        self._mark = mark
        self._log = _Log(log)
        self._tell, self._hear = tell, hear
        out = _Tail(TAIL_BYTES) if out_bytes is None else _Head(out_bytes)
        self._kept: dict[int, _Head | _Tail] = {1: out, 2: _Tail(_ERROR_BYTES)}
        self._out, self._most = 0, out_bytes
        self._over, self._exited, self._drained = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def begin(self, transport: asyncio.SubprocessTransport, text: str | bytes) -> None:
        """Names the command's group to the watchdog, and hands the command its text."""
        self._transport, self._group = transport, transport.get_pid()
        self._tell(f"+{self._group}")
        pipe = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))  # of whichever loop it is
        with suppress(RuntimeError):  # what uvloop says of a command that has ended already
            pipe.write(text if isinstance(text, bytes) else text.encode(errors="replace"))
        pipe.close()  # when all is written

    async def wait(self) -> Ended:
        """Returns when the command has ended or was told to stop, and all that it started has been ended too."""
        await self._over.wait()
        await self.kill(_LEFT_BEHIND)
        await self._exited.wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._drained.wait(), _DRAIN)
        self._transport.close()
        self._log.close()
        self._tell(f"-{self._group}")
        status = self._transport.get_returncode()
        assert status is not None, "it has exited"
        return Ended(status, self._kept[1].bytes, self._kept[2].bytes, cut=self._printed_too_much)

    def stop(self) -> None:
        """Has `wait` end the tree, if it has not ended by itself."""
        self._over.set()

    async def kill(self, grace: float) -> None:
        """Ends the whole tree: asked with SIGTERM, after `grace` seconds with SIGKILL. Returns when nothing of it
        lives."""
        for pause in guard.ending(lambda: guard.members(self._mark, [self._group]), grace):
            await asyncio.sleep(pause)

    # --- what the event loop calls ------------------------------------------------------------------------------------

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._kept[fd].add(data)
        self._log.write(data)
        if fd == 1:
            self._hear(data)
            self._out += len(data)
            if self._printed_too_much:
                self.stop()

    def process_exited(self) -> None:
        self._exited.set()
        self._over.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._drained.set()

    @property
    def _printed_too_much(self) -> bool:
        return self._most is not None and self._out > self._most


class _Head:
    """The first bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self._limit, self._data = limit, bytearray()

    def add(self, data: bytes) -> None:
        self._data += data[: self._limit - len(self._data)]

    @property
    def bytes(self) -> bytes:
        return bytes(self._data)


class _Tail:
    """The last bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self._limit, self._data = limit, bytearray()

    def add(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > 2 * self._limit:
            del self._data[: -self._limit]

    @property
    def bytes(self) -> bytes:
        return bytes(self._data[-self._limit :])


class _Log:
    """A file that takes so many bytes and no more, and that a full disk does not stop the work for."""

    def __init__(self, file: BinaryIO | None) -> None:
        self._file, self._room = file, LOG_BYTES

    def write(self, data: bytes) -> None:
        if self._file is not None and self._room > 0:
            kept = data[: self._room]
            self._room -= len(data)
            with suppress(OSError):
                self._file.write(kept)
                if self._room <= 0:
                    self._file.write(f"\n--- the rest, beyond {LOG_BYTES:,} bytes, is not kept\n".encode())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


# --- the watchdog -----------------------------------------------------------------------------------------------------


def _watchdog(mark: str) -> subprocess.Popen[bytes]:
    """Starts it: it ends what has the mark, and the groups that it was told of, once this process is gone."""
    _leaving[:] = [one for one in _leaving if one.poll() is None]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(without=(guard.MARK,)),
        cwd="/",
        start_new_session=True,
    )


def _tell(watchdog: subprocess.Popen[bytes], line: str) -> None:
    assert watchdog.stdin is not None, "it was started with one"
    with suppress(OSError, ValueError):  # somebody has killed it, or it was dismissed before a command had ended
        watchdog.stdin.write(f"{line}\n".encode())
        watchdog.stdin.flush()


def _dismiss(watchdog: subprocess.Popen[bytes]) -> None:
    try:
        watchdog.communicate(timeout=_WATCHDOG)
    except (OSError, subprocess.TimeoutExpired):  # it ends by itself, too, and is asked about later
        _leaving.append(watchdog)
