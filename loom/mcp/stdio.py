"""A client over standard input and output."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread

from loom.mcp import wire

if TYPE_CHECKING:
    from fastmcp import FastMCP


_ENDS_WITHIN = 10.0  # seconds from the client's end, or a signal, to the process's


async def serve(server: FastMCP) -> None:
    """Serves one client until it closes standard input. From then on the process has to end, see `end_in_time`."""
    given, taken = _claimed(0, os.open(os.devnull, os.O_RDONLY)), _claimed(1, _beside())
    await wire.serve(server, partial(_read, given), partial(_write, taken))


def end_in_time() -> None:
    """Ends this process soon, unless it has ended by itself: what hangs then would hang for ever. The system does it,
    also where neither the event loop nor any thread of Python's gets on; where it hangs is told before."""
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        return  # it counts from the first time
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # who started this process may have had it ignored
    signal.setitimer(signal.ITIMER_REAL, _ENDS_WITHIN + 1)
    if sys.stderr is not None:
        faulthandler.dump_traceback_later(_ENDS_WITHIN)


def _claimed(descriptor: int, instead: int) -> int:
    """What a standard stream is, for the wire alone: children, and whoever else comes, meet `instead` in its place."""
    claimed = os.dup(descriptor)
    os.dup2(instead, descriptor)
    os.close(instead)
    return claimed


def _beside() -> int:
    """Where else what is printed goes: to standard error, if there is any."""
    try:
        return os.dup(2)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


async def _read(descriptor: int, most: int) -> bytes:
    data = await anyio.to_thread.run_sync(os.read, descriptor, most, abandon_on_cancel=True)
    if not data:
        end_in_time()
    return data


async def _write(descriptor: int, data: bytes) -> None:
    await anyio.to_thread.run_sync(_write_all, descriptor, data, abandon_on_cancel=True)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
