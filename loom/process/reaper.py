"""Runs one command, and ends whatever it leaves behind, however that tried to get away.

    python -I -S reaper.py COMMAND...

A process that has left its group and its session, and has dropped the mark of `guard.py`, is found by nothing of these.
On Linux it still becomes a child of this script, once its own parent has ended, so that none of them outlives it. What
the command prints to standard output and standard error comes out as one. The exit status is the command's, 128 and
the signal's number for one that a signal ended, and 127 for one that cannot be started.

Asked to end (SIGTERM), the script gives the command a moment, ends all of it and then itself. It needs the standard
library only, so it is there in a moment.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_GRACE = 0.5  # seconds that the command has when this is asked to end; less than whoever asks waits before it kills
_MORE_TASKS = 2048  # processes and threads, beside those that the machine runs already: a bound for what only forks
_NOT_STARTED = 127


class _Asked(BaseException):
    """This script was asked to end."""


def run(words: list[str]) -> int:
    """Runs the command to its end. Returns its exit status, with nothing of it alive."""
    _adopt()
    _bound()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _ask)
    status = 128 + signal.SIGTERM
    try:
        os.dup2(1, 2)
        status = _exit_status(os.posix_spawnp(words[0], words, os.environ))
    except OSError as error:
        print(f"{words[0]} cannot be started: {error.strerror}", flush=True)  # noqa: T201 - a script's
        status = _NOT_STARTED
    except _Asked:
        _give_time(time.monotonic() + _GRACE)
    _end_all()
    return status


def _adopt() -> None:
    """Makes this the parent of what its children leave behind. Without that, elsewhere, groups and marks must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def _bound() -> None:
    """Keeps what only forks from taking all that there is; for root, who has no such bound, nothing does."""
    try:
        running = int(_read("/proc/loadavg").split()[3].partition(b"/")[2])
        soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        most = running + _MORE_TASKS if soft == resource.RLIM_INFINITY else min(soft, running + _MORE_TASKS)
        resource.setrlimit(resource.RLIMIT_NPROC, (most, hard))
    except (OSError, ValueError, IndexError):
        pass  # there is no /proc


def _exit_status(command: int) -> int:
    """Waits for the command, and for what becomes this script's child meanwhile."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == command:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _give_time(until: float) -> None:
    while time.monotonic() < until and _reap():
        time.sleep(0.01)


def _end_all() -> None:
    """Kills the children, and those that become this script's children by that, until there are none: at once and
    without a rest, because there are some that fork again and again."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while _reap():
        children = _children()
        for pid in children:
            _kill(pid)
        if not children:  # they are about to end, or there is no /proc
            if sys.platform != "linux":
                return
            time.sleep(0.001)


def _reap() -> bool:
    """Takes leave of the children that have ended. Returns whether there are others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _children() -> list[int]:
    """The children of this process; where the system has no list of them, whoever names it as his parent."""
    own = os.getpid()
    try:
        return [int(one) for one in _read(f"/proc/{own}/task/{own}/children").split()]
    except FileNotFoundError:
        names = os.listdir("/proc") if sys.platform == "linux" else []  # noqa: PTH208 - the least to import
        return [int(name) for name in names if name.isdigit() and _parent(name) == own]


def _parent(name: str) -> int:
    try:
        state, parent = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()[:2]
    except OSError:
        return 0  # it has ended meanwhile
    return 0 if state in (b"Z", b"X") else int(parent)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - the least to import
        return file.read()


def _kill(pid: int) -> None:
    try:  # noqa: SIM105 - the least to import
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass  # it has ended meanwhile


def _ask(number: int, frame: FrameType | None) -> NoReturn:
    raise _Asked


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
