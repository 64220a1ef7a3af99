"""What a server logs: a record is one line, whatever is in it, without the passwords of URLs."""

from __future__ import annotations

import logging
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from loom import files, texts
from loom.config import LoomConfig

_LOG = logging.getLogger(__name__)
_BYTES = 1_000_000


def of_project(config: LoomConfig) -> logging.Handler | None:
    """The project's own log; None where there is no project, or it cannot be written to."""
    if config.loom_dir is None:
        return None
    try:
        return in_lines(_LogFile(config.loom_dir / "logs" / "mcp.log", maxBytes=_BYTES, backupCount=1))
    except OSError as error:  # a project that cannot be written to is served all the same
        _LOG.warning("No log is kept in %s: %s", config.loom_dir / "logs", error.strerror)
    return None


def in_lines(handler: logging.Handler) -> logging.Handler:
    """A handler, its records in Loom's form."""
    handler.setFormatter(_OneLine("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    return handler


class _LogFile(RotatingFileHandler):
    """The project's log, opened as a file that a stranger may have prepared."""

    def _open(self) -> TextIOWrapper:
        path = Path(self.baseFilename)
        return TextIOWrapper(files.log(path, path.parent.parent), "utf-8", "backslashreplace", write_through=True)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return texts.logged(super().format(record))
