"""What the commands that work on a task have printed, as it lies on the machine that ran them."""

from __future__ import annotations

import codecs
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from loom import files, ids
from loom.config import LoomConfig, logs_dir
from loom.exceptions import FileError
from loom.texts import clean, colourless, mask

_TAIL_BYTES = 64 * 1024  # of a log that are shown at first
_OF_TASKS = re.compile(r"loom-[0-9a-f]{8}-(\d+|setup)\.log")


class Log:
    """The log of an attempt at a task, from near its end on. `path`: where it lies."""

    def __init__(self, task_id: str, config: LoomConfig, token: int | None = None) -> None:
        """
        Args:
            token: that of the attempt's claim; None for the newest that has a log.

        Raises:
            FileError: there is none here, or it cannot be read.
        """
        directory = logs_dir(config)
        path = newest_log(task_id, directory) if token is None else logged(task_id, directory).get(token)
        if path is None:
            which = task_id if token is None else f"that attempt at {task_id}"
            raise FileError(
                f"No command for {which} has printed anything into {directory}.",
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


def logged(task_id: str, directory: Path) -> dict[int, Path]:
    """The logs of the attempts at a task that are here, by the token of each claim."""
    found = {
        ids.claim_token(path.stem.removeprefix(f"{task_id}-")): path for path in directory.glob(f"{task_id}-[0-9]*.log")
    }
    return {token: path for token, path in found.items() if token is not None}


def newest_log(task_id: str, directory: Path) -> Path | None:
    """The log of the newest attempt at a task; None where there is none here."""
    return max(logged(task_id, directory).items(), default=(0, None))[1]


def prune(config: LoomConfig) -> None:
    """Takes the logs in a project's directory away that were last written longer ago than `retention.runs_days`, which
    keeps them for ever where it is 0."""
    days = config.retention.runs_days
    if days and config.loom_dir is not None:
        with suppress(OSError):  # there are none, or whoever writes one is told what is wrong
            files.remove_old(logs_dir(config), _OF_TASKS, time.time() - days * 86_400, config.loom_dir)
