"""What came out of a command: the output of its task, or why it failed."""

from __future__ import annotations

import json
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from loom import files, texts
from loom.exceptions import InvalidInputError
from loom.graph.model import limits
from loom.process import Ended

TEXT_BYTES = 8_000  # of what a command printed, where it left no JSON object
_REASON_BYTES = 2_000


def handed_in(said: bytes, file: Path) -> dict[str, Any] | None:
    """The output that was handed in for a task: the JSON object in `file`, else the one on the last line of what was
    said that is not empty; None where there is neither. Raises InvalidInputError for a file that is no output."""
    try:
        found = _from_file(file)
    except (OSError, ValueError, RecursionError, InvalidInputError) as error:
        why = error.cause if isinstance(error, InvalidInputError) else str(error) or type(error).__name__
        raise InvalidInputError(
            f"$LOOM_OUTPUT_FILE was not taken: {texts.clean(why)}", "Write one JSON object to it."
        ) from None
    return _from_last_line(said) if found is None else found


def output(said: bytes, file: Path) -> dict[str, Any]:
    """The same, and the last of the text where nothing was handed in. Where a file is there and is no output, a note
    says why."""
    try:
        found = handed_in(said, file)
    except InvalidInputError as error:
        return {"text": tail(said, TEXT_BYTES), "note": error.cause}
    return {"text": tail(said, TEXT_BYTES)} if found is None else found


def reason(ended: Ended) -> str:
    """Why a command failed: its exit status or signal, and the last that it said."""
    if ended.status >= 0:
        how = f"The command ended with exit status {ended.status}"
    else:
        name = str(-ended.status)
        with suppress(ValueError):
            name = signal.Signals(-ended.status).name
        how = f"The command was killed by signal {name}"
    said = tail(ended.err, _REASON_BYTES) or tail(ended.out, _REASON_BYTES)
    return f"{how}: {said}" if said else f"{how} and said nothing."


def tail(data: bytes, size: int) -> str:
    """The last of what a command printed, as text without colours and characters that cannot be seen."""
    return clean(data[-size:].decode(errors="replace").lstrip("\N{REPLACEMENT CHARACTER}"))


def clean(text: str) -> str:
    """What a program said, without colours and characters that cannot be seen."""
    return texts.clean(texts.colourless(text)).strip()


def _from_file(file: Path) -> dict[str, Any] | None:
    try:
        data = files.read(file, 4 * limits.JSON_BYTES, file.parent)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidInputError(f"{error.strerror}.") from None
    return _checked(json.loads(data)) if data else None


def _from_last_line(out: bytes) -> dict[str, Any] | None:
    line = out.rstrip().rpartition(b"\n")[2].strip()
    if line.startswith(b"{") and line.endswith(b"}"):
        with suppress(ValueError, RecursionError, InvalidInputError):
            return _checked(json.loads(line))
    return None


def _checked(value: Any) -> dict[str, Any]:
    limits.output(value)
    assert isinstance(value, dict)
    return value
