"""The record of what nobody expected: the details of an error, for who mends it."""

from __future__ import annotations

import sys
import tempfile
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from loom import texts
from loom.config import load_config
from loom.exceptions import LoomError


def record(error: BaseException) -> str:
    """Appends an error with all its details, secrets masked, to the project's log and says where that is."""
    details = texts.mask("".join(traceback.format_exception(error)))
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    for directory in _places():
        path = directory / "cli.log"
        with suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"--- {moment} {Path(sys.argv[0]).name} {' '.join(sys.argv[1:2])}\n{details}")
            return str(path)
    return "the standard error of a run with LOOM_LOG_LEVEL=DEBUG"


def _places() -> list[Path]:
    places = [Path(tempfile.gettempdir()) / "loom-logs"]
    with suppress(LoomError, OSError):
        if (loom_dir := load_config().loom_dir) is not None:
            places.insert(0, loom_dir / "logs")
    return places
