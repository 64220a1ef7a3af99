"""Where the hub logs: what is done for a session goes to the log of its project, all else to the hub's own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from loom.mcp.logs import in_lines


class HasLog(Protocol):
    """Whoever is worked for."""

    @property
    def log(self) -> logging.Handler | None:
        """The log of its project; None while there is none."""


_WORKED_FOR: ContextVar[HasLog | None] = ContextVar("loom_worked_for", default=None)


@contextmanager
def of(whom: HasLog) -> Iterator[None]:
    """What is logged in this block, and in the tasks that it starts, is about work for `whom`."""
    token = _WORKED_FOR.set(whom)
    try:
        yield
    finally:
        _WORKED_FOR.reset(token)


class Logs(logging.Handler):
    """The one handler of the hub."""

    def __init__(self, own: logging.Handler) -> None:
        super().__init__()
        self._own = in_lines(own)

    def emit(self, record: logging.LogRecord) -> None:
        whom = _WORKED_FOR.get()
        log = None if whom is None else whom.log
        (log or self._own).handle(record)


def begin(own: logging.Handler) -> None:
    """Has everything that this process logs go where it belongs."""
    logging.raiseExceptions = False  # a full disk is no reason to say so for each line
    logging.getLogger().addHandler(Logs(own))
    logging.getLogger("fastmcp").setLevel(logging.WARNING)
