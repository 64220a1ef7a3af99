"""What came out of a command: the output of its task, or why it failed."""

from __future__ import annotations

import json
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from loom import files, texts
from loom.exceptions import InvalidInputError
from loom.graph.model import limits
from loom.process import Ended

_TEXT_BYTES = 8_000  # of what a command printed, where it left no JSON object
_REASON_BYTES = 2_000
_COLOUR = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def output(ended: Ended, file: Path) -> dict[str, Any]:
    """The output of a task: the JSON object in `file`, else the one on the last line that is not empty, else the last
    of the text. Where a file is there and is no output, the text is kept and a note says why."""
    try:
        if (found := _from_file(file)) is not None:
            return found
    except (OSError, ValueError, RecursionError, InvalidInputError) as error:
        why = error.cause if isinstance(error, InvalidInputError) else str(error) or type(error).__name__
        return {"text": tail(ended.out, _TEXT_BYTES), "note": f"$LOOM_OUTPUT_FILE was not taken: {texts.clean(why)}"}
    found = _from_last_line(ended.out)
    return {"text": tail(ended.out, _TEXT_BYTES)} if found is None else found


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
    text = data[-size:].decode(errors="replace").lstrip("\N{REPLACEMENT CHARACTER}")
    return texts.clean(_COLOUR.sub("", text)).strip()


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
