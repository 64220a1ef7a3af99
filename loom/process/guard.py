"""All processes of a command, and the watchdog that ends them when the process that started it dies.

A command is started in a session of its own, with a mark in its environment. To it belongs what is in its process group
and, where there is /proc, what carries the mark: also what has left the group, and what has lost its parent.

Run as a script (`python guard.py MARK`) this page is the watchdog of one process. It reads a line `+GROUP` or `-GROUP`
for each command that begins and ends; its standard input closes when that process is gone, kill -9 included, and then
it ends what is left. It needs the standard library only, so it is there in a moment and costs little.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

MARK = "LOOM_RUN"
"""The variable that a command's processes are known by. Its value ends in a dot, so that no mark begins another."""

_PROC = Path("/proc")
_GRACE = 1.0  # seconds from SIGTERM to SIGKILL when that process is gone
_UNKILLABLE = 3.0  # seconds after SIGKILL; who is still there hangs in the kernel


def members(mark: str, groups: Collection[int]) -> list[int]:
    """What to signal to reach every living process of these groups or with a mark that begins so: process ids; without
    /proc, or without a mark, the groups' ids, negative."""
    if not mark or not (_PROC / "self" / "environ").exists():
        return [-group for group in groups if _signal(-group, 0)]
    wanted = f"\0{MARK}={mark}".encode()
    return [pid for pid in processes() if pid != os.getpid() and _belongs(pid, wanted, groups)]


def whose(fits: Callable[[Mapping[str, str]], bool]) -> list[int]:
    """The ids of the processes whose environment fits, this one and its parents left out; none without /proc."""
    spared = {os.getpid(), *parents()}
    return [pid for pid in processes() if pid not in spared and (found := environment_of(pid)) and fits(found)]


def parents(pid: int | None = None) -> list[int]:
    """The ids of a process's parents, of this one's if none is named, the nearest first, as far as they can be seen."""
    found: list[int] = []
    with suppress(OSError):  # no /proc, or a parent that has ended meanwhile
        parent = os.getppid() if pid is None else _parent(pid)
        while parent > 0:
            found.append(parent)
            parent = _parent(parent)
    return found


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty where it cannot be seen."""
    with suppress(OSError):  # no /proc, it has ended meanwhile, or is another user's
        lines = os.fsdecode((_PROC / str(pid) / "environ").read_bytes()).split("\0")
        return dict(line.partition("=")[::2] for line in lines)
    return {}


def ending(find: Callable[[], list[int]], grace: float) -> Iterator[float]:
    """Ends the processes that `find` finds: with SIGTERM, and after `grace` seconds with SIGKILL. Yields the seconds to
    sleep until its next look; exhausted when none of them lives."""
    begin, asked = time.monotonic(), False
    pause = 0.01  # doubled by hand: run as a bare script, this file imports nothing of Loom
    while found := find():
        waited = time.monotonic() - begin
        if waited > grace + _UNKILLABLE:
            return
        if waited >= grace or not asked:
            for one in found:
                _signal(one, signal.SIGKILL if waited >= grace else signal.SIGTERM)
            asked = True
        yield pause
        pause = min(pause * 2, 0.1)


def processes() -> list[int]:
    """The ids of all processes; none without /proc."""
    with suppress(OSError):
        return [int(name) for name in os.listdir(_PROC) if name.isdigit()]  # noqa: PTH208 - a name is all that is needed
    return []


def _parent(pid: int) -> int:
    return int((_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[1])


def _belongs(pid: int, wanted: bytes, groups: Collection[int]) -> bool:
    with suppress(OSError):  # it has ended meanwhile, or is another user's
        if os.getpgid(pid) in groups:
            return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[0] != b"Z"
        return wanted in b"\0" + _read(f"/proc/{pid}/environ")
    return False


def _read(path: str) -> bytes:
    """A file of /proc; all of them are read at each look, and a bare call of the system is the cheapest."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        data = b""
        while more := os.read(descriptor, 1 << 17):
            data += more
        return data
    finally:
        os.close(descriptor)


def _signal(target: int, number: int) -> bool:
    try:
        os.kill(target, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return number == 0
    return True


def _watch(mark: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        groups.add(group) if line[0] == "+" else groups.discard(group)
    for pause in ending(lambda: members(mark, groups), _GRACE):
        time.sleep(pause)


if __name__ == "__main__":
    _watch(sys.argv[1])
