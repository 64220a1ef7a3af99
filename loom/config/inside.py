"""Whether this process, or whoever it serves, belongs to a run that Loom started: an agent at work, a check, a step of
a workflow.

What a run may do was decided before it began. Whoever works in it would otherwise allow himself his own programs, so
what the user alone may do is refused there.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from loom import caller
from loom.exceptions import ConfigError

MARK = "LOOM_RUN"
"""The variable that everything in a run carries; `process/guard.py` sets it."""

_PROC = Path("/proc")
_MOST = 1000  # parents: there is no such chain


def inside_run() -> bool:
    """Whether the mark of a run is in the environment of this process or, where there is /proc, of a parent's. Of
    whoever is served, what it says of itself does not clear it: its process is looked at too."""
    served = caller.served()
    if served is None:
        return MARK in os.environ or any(map(_is_marked, _with_parents(os.getppid())))
    return MARK in served.environ or (served.pid is not None and any(map(_is_marked, _with_parents(served.pid))))


def refuse_inside(what: str) -> None:
    """Raises ConfigError if this is inside a run. `what`: the beginning of a sentence that goes on with "cannot be"."""
    if inside_run():
        raise ConfigError(
            f"{what} cannot be changed from inside a run that Loom started.", "Leave it to the user, in a terminal."
        )


def _with_parents(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):  # no /proc, or a parent that has ended meanwhile
        while pid > 0 and len(found) < _MOST:
            found.append(pid)
            pid = int((_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[1])
    return found


def _is_marked(pid: int) -> bool:
    with suppress(OSError):  # another user's, who has not started this run
        return f"\0{MARK}=".encode() in b"\0" + (_PROC / str(pid) / "environ").read_bytes()
    return False
