"""A project as a file: `loom backup` and `loom restore`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loom import services
from loom.cli.output import emit, plural
from loom.cli.shared import Command, note, progress, settings_here, wants_json
from loom.cli.times import when
from loom.config.inside import refuse_inside
from loom.texts import one_line

if TYPE_CHECKING:
    from loom.graph.backup import Backup


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
def backup(file: Path) -> None:
    """Write the whole project, as it is now, into a new FILE that `loom restore` reads. Others go on meanwhile.

    Everything is in it, history and settings of the project in the database, save tokens for access. What an agent may
    not read should not lie where it works: the file is for you alone (0600)."""
    from loom.graph.backup import write

    made = asyncio.run(write(settings_here(), file, progress=progress))
    _tell(made, f"{file}, {_size(file.stat().st_size)}, holds", {"file": str(file), "bytes": file.stat().st_size})


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--replace", "replacing", metavar="NAME", help="Let the project of this name go, with all that it has, for FILE."
)
def restore(file: Path, replacing: str | None) -> None:
    """Put the project back that FILE holds, as it was, on the servers that are configured here: all of it, or nothing.

    It comes with its own id and name, into the directory of that project or into one that is none. A project that has
    anything on these servers is left as it is, unless you name it with --replace; make a backup of that first. Nobody
    may be at work on it. Claims that were made since the backup are over; their late reports are refused."""
    from loom.graph.backup import restore as put_back

    refuse_inside("What a project holds")
    config = settings_here()
    if config.servers.backend != "external":  # of which PostgreSQL alone is needed
        services.up(config, progress)
    done = asyncio.run(put_back(config, file, replacing=replacing, progress=progress))
    _tell(done, f"From {file}:", {})
    if config.project_id is None and not wants_json():
        note(
            f"To work on it in a directory, run `loom init` there, then `loom config set project_id {done.project_id}`."
        )


def _tell(done: Backup, lead: str, more: dict[str, Any]) -> None:
    if wants_json():
        facts = {"project_id": done.project_id, "project": done.project, "version": done.version}
        emit(facts | {"made_at": done.made_at.isoformat(timespec="seconds"), "rows": dict(done.rows)} | more)
    else:
        for line in _lines(done, lead):
            click.echo(line)


def _lines(done: Backup, lead: str) -> Iterator[str]:
    tasks, events = done.rows.get("tasks", 0), done.rows.get("events", 0)
    held = f"{plural(tasks, 'task')} and {plural(events, 'event')}"
    yield f"{lead} {one_line(done.project)} as of {when(done.made_at.isoformat())}, with {held}."


def _size(number: int) -> str:
    return f"{number / 1_000_000:,.1f} MB" if number >= 100_000 else f"{number / 1000:,.1f} kB"
