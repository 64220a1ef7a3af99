"""Which process this is, so that another on the same machine can find out that it has died."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def own() -> str | None:
    """Names this process by its machine's last start, its namespace, its id and when it began, so that no other is ever
    taken for it; None where there is no /proc."""
    with suppress(OSError):
        return _name(os.getpid())
    return None


def is_gone(name: str | None) -> bool:
    """Whether a process named by `own` lived here and does not live any more; False wherever that cannot be known."""
    here, _, which = (name or "").rpartition(" ")[0].rpartition(" ")
    with suppress(OSError):
        return bool(which.isdecimal()) and here == _here() and _name(int(which)) != name
    return False


def _name(pid: int) -> str | None:
    """The name of a process here; None if it does not live."""
    began = _began(pid)
    return None if began is None else f"{_here()} {pid} {began}"


def _here() -> str:
    """What processes can see each other: the machine since its start, and the namespace of their ids."""
    boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink(_PROC / 'self/ns/pid')}"  # noqa: PTH115 - what it names is no path


def _began(pid: int) -> str | None:
    """When a process began, in ticks since the start of the machine; None if it has ended. Raises OSError if it lives
    and is hidden from this user."""
    try:
        facts = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except FileNotFoundError:
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
            raise  # it began after the look, or /proc does not show it
        return None
    return None if facts[0] in "ZX" else facts[19]
