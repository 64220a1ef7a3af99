"""Commands that look back at one task: what happened to it, and what its commands printed."""

from __future__ import annotations

import asyncio
import codecs
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from loom import files, replies
from loom.cli.output import dim, emit
from loom.cli.shared import Command, Reply, answer, limit_option, note, open_project, wants_json
from loom.cli.talk import event_line
from loom.config import LoomConfig, logs_dir
from loom.exceptions import FileError
from loom.graph.front import Loom
from loom.texts import clean, colourless, mask, one_line

_TAIL_BYTES = 64 * 1024  # of a log that are shown at first
_PAUSE = 0.2  # seconds between two looks at a log that is followed


@click.command(cls=Command)
@click.argument("task")
@limit_option(100)
def history(task: str, limit: int) -> None:
    """What happened to TASK, newest last: who claimed it, what was changed, what failed and why."""

    async def work(loom: Loom) -> Reply:
        events = await loom.history(task, limit=limit)
        return {"events": [replies.event(one) for one in events], "count": len(events)}

    def lines(reply: Reply) -> Iterator[str]:
        for one in reply["events"]:
            yield event_line(one)
            for name, change in (one.get("data") or {}).items():
                if isinstance(change, dict) and (told := _change(change)):
                    yield dim(f"    {name}: {told}")

    answer(work, lines)


@click.command(cls=Command)
@click.argument("task")
@click.option("-f", "--follow", is_flag=True, help="Go on as more is printed, until interrupted.")
def logs(task: str, follow: bool) -> None:
    """The end of what the newest command that `loom work` ran for TASK has printed, on this machine."""
    if follow and wants_json():
        raise click.UsageError("Give --follow or --json, not both.")

    async def found() -> tuple[str, LoomConfig]:
        async with open_project() as loom:
            return await loom.id_of(task), loom.config

    task_id, config = asyncio.run(found())
    path = _newest(task_id, logs_dir(config))
    note(str(path))
    try:
        opened = files.read_log(path, _TAIL_BYTES, path.parent.parent)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}.", "Mend that, then run it again.") from None
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with opened as file:
        if wants_json():
            emit({"id": task_id, "file": str(path), "text": _more(file, decoder)})
            return
        click.echo(_more(file, decoder), nl=False)
        while follow:
            time.sleep(_PAUSE)
            click.echo(_more(file, decoder), nl=False)


def _newest(task_id: str, directory: Path) -> Path:
    """The log of the newest attempt at a task. Raises FileError: there is none here."""
    found = sorted(directory.glob(f"{task_id}-[0-9]*.log"), key=lambda path: path.lstat().st_mtime)
    if not found:
        raise FileError(
            f"No command for {task_id} has printed anything into {directory}.",
            "Logs lie on the machine that ran `loom work`.",
        )
    return found[-1]


def _more(file: BinaryIO, decoder: codecs.IncrementalDecoder) -> str:
    """What was printed since, fit to be shown; a character that is half written comes with its end."""
    return clean(colourless(mask(decoder.decode(file.read()))))


def _change(change: dict[str, object]) -> str:
    """What an event says of a field that was changed."""
    parts = []
    for what in ("added", "removed"):
        values = change.get(what)
        if isinstance(values, list):
            parts.append(f"{what} {', '.join(map(str, values))}")
    if "from" in change or "to" in change:
        parts.append(" → ".join(one_line(str(change.get(side) or "nothing")) for side in ("from", "to")))
    return "; ".join(parts)
