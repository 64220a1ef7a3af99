"""The digest of a day on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loom.cli.shared import Command, Reply, answer
from loom.exceptions import FileError, InvalidInputError

if TYPE_CHECKING:
    from loom.config import LoomConfig
    from loom.graph.front import Loom
    from loom.orchestration.notices.digest import Digest

_FIRST = date(1970, 1, 1)


@click.command(cls=Command)
@click.option("--day", metavar="YYYY-MM-DD", help="Of this day; default: today, as far as it is over.")
@click.option("--write", is_flag=True, help="Write it into the directories that notify names for it, too.")
def digest(day: str | None, write: bool) -> None:
    """What was done on a day, by whom and at what cost, and what waits for you, as a page of Markdown."""
    page = ""

    async def work(loom: Loom) -> Reply:
        from loom.graph.store import days
        from loom.orchestration.notices.digest import markdown, of_day

        nonlocal page
        now = await loom.look(days.now)
        found = await of_day(loom, now.astimezone().date() if day is None else _read(day))
        page = markdown(found)
        return found.facts() | ({"files": [str(path) for path in _written(loom.config, found)]} if write else {})

    def lines(reply: Reply) -> Iterator[str]:
        yield from page.splitlines()

    answer(work, lines)


def _read(day: str) -> date:
    with suppress(ValueError):
        if _FIRST <= (found := date.fromisoformat(day)) < date.max:
            return found
    raise InvalidInputError(f"--day is {day[:20]!r}, which is no day.", "Write it as in 2026-01-31, from 1970 on.")


def _written(config: LoomConfig, found: Digest) -> Iterator[Path]:
    from loom.orchestration.notices.digest import write
    from loom.orchestration.notices.receivers import of_project

    named = [one for one in of_project(config) if one.row.obsidian]
    if not named:
        raise InvalidInputError(
            "`notify` names no directory for the digest.", "Add a row with `obsidian` to it in ~/.loom/config.yaml."
        )
    for one in named:
        try:
            yield write(Path(one.row.obsidian or ""), found)
        except OSError as error:
            raise FileError(
                f"The digest cannot be written into {one.row.obsidian}: {error.strerror}.", "Mend that, then try again."
            ) from None
