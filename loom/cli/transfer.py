"""Bringing tasks in from files and writing the project out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from loom.cli.output import dim, emit, plural
from loom.cli.shared import Command, Reply, agent_option, answer, open_project, progress, read_text
from loom.config import path_in_repository
from loom.graph.front import Loom
from loom.graph.model import limits
from loom.texts import one_line

_TAKES_TIME = 500  # tasks


@click.command("import", cls=Command)
@click.argument("file")
@click.option(
    "--as",
    "known_as",
    metavar="NAME",
    help="By what a plan or Task Master's file is known when it comes again; default: its path.",
)
@agent_option
def import_(file: str, known_as: str | None, agent: str | None) -> None:
    """Bring in FILE (- for standard input): Task Master's tasks.json, Beads' issues.jsonl, an export of Loom, or a plan
    in YAML or JSON. The same file again brings only what is new; a plan from standard input is new each time, unless
    --as names it."""
    text = read_text(file)
    if known_as is not None:
        known_as = limits.title(known_as, "--as")

    async def work(loom: Loom) -> Reply:
        from loom.graph.importing import NAMED

        if file == "-":
            reply = await bring_in(loom, text, "standard input", known_as)
        else:
            reply = await bring_in(loom, text, Path(file).name, known_as or _path(loom, Path(file)))
        if known_as is not None and reply["format"] not in NAMED:
            reply["note"] = "--as changed nothing: the ids in this format stand for themselves, whatever file has them."
        return reply

    answer(work, import_lines, agent=agent, changes=True)


async def bring_in(loom: Loom, text: str, name: str, known_as: str | None) -> dict[str, Any]:
    """Imports a text and says what came of it; see `importing.read`."""
    from loom.graph.importing import read

    batch = read(text, name, known_as=known_as)
    if len(batch.drafts) >= _TAKES_TIME:
        progress(f"Writing {plural(len(batch.drafts), 'task')}.")
    done = await loom.import_tasks(batch)
    return {
        "format": batch.format,
        "source": dict(batch.source),
        "created": len(done.tasks),
        "known": done.known,
        "linked": done.linked,
        "retitled": done.retitled,
        "ready": sum(task.status == "pending" for task in done.tasks),
        "ids": done.ids,
        "adjustments": [{**asdict(one), "text": str(one)} for one in done.adjustments],
    }


def _path(loom: Loom, file: Path) -> str:
    root = loom.config.project_dir
    return file.resolve().as_posix() if root is None else path_in_repository(file, root)


def import_lines(reply: Reply) -> Iterator[str]:
    """What an import brought."""
    held = ", ".join(f"{number:,} {name}" for name, number in reply["source"].items())
    yield f"{reply['format']}: {held}" if held else str(reply["format"])
    known = f", {reply['known']:,} were there already" if reply["known"] else ""
    yield f"  {plural(reply['created'], 'new task')}, {reply['ready']:,} of them ready{known}"
    if reply["linked"]:
        yield f"  {plural(reply['linked'], 'task')} of those now wait for new ones"
    for one in reply["adjustments"]:
        yield f"  {dim(one_line(one['text']))}"
    if "note" in reply:
        yield f"  {dim(reply['note'])}"


@click.command(cls=Command)
def export() -> None:
    """Write the whole project to standard output as JSON that `loom import` reads."""
    import asyncio

    async def work() -> None:
        async with open_project() as loom:
            emit(await loom.export())

    asyncio.run(work())
