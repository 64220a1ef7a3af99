"""What the commands that work on a task have printed, as it lies on the machine that ran them."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import BinaryIO

from loom import files
from loom.config import LoomConfig, logs_dir
from loom.exceptions import FileError
from loom.texts import clean, colourless, mask

_TAIL_BYTES = 64 * 1024  # of a log that are shown at first


class Log:
    """The newest log of a task, from near its end on. `path`: where it lies."""

    def __init__(self, task_id: str, config: LoomConfig) -> None:
        """Raises FileError: there is none here, or it cannot be read."""
        path = newest_log(task_id, logs_dir(config))
        if path is None:
            raise FileError(
                f"No command for {task_id} has printed anything into {logs_dir(config)}.",
                "A log lies on the machine of the worker who ran the command.",
            )
        self.path = path
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            self._file: BinaryIO = files.read_log(self.path, _TAIL_BYTES, self.path.parent.parent)
        except OSError as error:
            raise FileError(f"{self.path} cannot be read: {error.strerror}.", "Mend that, then run it again.") from None

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def more(self) -> str:
        """What was printed since, fit to be shown; a character that is half written comes with its end."""
        return clean(colourless(mask(self._decoder.decode(self._file.read()))))


def newest_log(task_id: str, directory: Path) -> Path | None:
    """The log of the newest attempt at a task; None where there is none here."""
    found = sorted(directory.glob(f"{task_id}-[0-9]*.log"), key=lambda path: path.lstat().st_mtime)
    return found[-1] if found else None
