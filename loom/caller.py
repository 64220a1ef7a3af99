"""On whose behalf this process works: on its own, or, where one process serves many, on a caller's.

Whatever means the environment, the directory or the process of whoever called is read here, so that nobody who is
served meets the variables, keys and place of somebody else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who is served from another process."""

    environ: Mapping[str, str] = field(repr=False)  # with its keys
    pid: int | None = None
    """The process at the other end, as the kernel says; None for one of another machine."""
    session: str = ""
    """The client's session, which outlives its connections; "" where the client has none."""
    directory: Path | None = None
    """Where that process is; None for one of another machine."""


_SERVED: ContextVar[Caller | None] = ContextVar("loom_caller", default=None)


def served() -> Caller | None:
    """Whoever is served here; None where this process works on its own behalf."""
    return _SERVED.get()


def environ() -> Mapping[str, str]:
    """The variables of whoever is served, by default those of this process."""
    caller = _SERVED.get()
    return os.environ if caller is None else caller.environ


def directory() -> Path:
    """The current directory of whoever is served, by default that of this process. Raises FileNotFoundError where it is
    gone."""
    caller = _SERVED.get()
    return Path.cwd() if caller is None or caller.directory is None else caller.directory


@contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """What is done in this block, and in the tasks and threads that it starts, is done on behalf of `caller`."""
    token = _SERVED.set(caller)
    try:
        yield
    finally:
        _SERVED.reset(token)
