"""The record of what nobody expected: the details of an error, for who mends it."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from loom import files, texts
from loom.config import LoomConfig, load_config, logs_dir
from loom.exceptions import LoomError

_BYTES = 1_000_000  # of a log that is added to; a larger one is begun anew


def record(error: BaseException) -> str:
    """Appends an error with all its details, secrets masked, to the project's log and says where that is."""
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
    line = texts.logged(f"{moment} {command}: {''.join(traceback.format_exception(error))}")
    for config in _configurations():
        with suppress(LoomError, OSError):
            path = logs_dir(config) / "cli.log"
            with files.log(path, path.parent.parent, most=_BYTES) as file:
                file.write(f"{line}\n".encode(errors="backslashreplace"))
            return str(path)
    return "the standard error of a run with LOOM_LOG_LEVEL=DEBUG"


def _configurations() -> list[LoomConfig]:
    """The project's, and one that belongs to none."""
    with suppress(LoomError, OSError):
        return [load_config(), LoomConfig()]
    return [LoomConfig()]
