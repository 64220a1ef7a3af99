"""The names that a shell completes: files in the state directory of the project, for this user alone, which commands at
a terminal bring up to date. See `cli.completion`."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from loom import files
from loom.exceptions import LoomError
from loom.landing import places
from loom.texts import one_line, shorten

if TYPE_CHECKING:
    from loom.graph.front import Loom

TASKS = 5_000  # that are kept
_FRESH = 10.0  # seconds for which the names of tasks are good enough
_SELDOM = 600.0  # seconds; the same of skills and workflows
_TITLE = 60  # characters
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_ID = re.compile(r"\bloom-[0-9a-f]{8}\b")


async def keep(loom: Loom, shown: str, *, changed: bool = False) -> None:
    """Brings the names up to date where they are old, or `changed`; ids that are `shown` to a person are among them,
    whoever made these tasks. What cannot be written is left: nobody asked for it."""
    with suppress(LoomError, OSError):
        place = files.own_directory(places.state_dir(loom.config) / "completion")
        old = changed or _age(place / "tasks") > _FRESH
        tasks = await loom.titles(limit=TASKS) if old else _read(place / "tasks")
        unknown = [one for one in dict.fromkeys(_ID.findall(shown)) if one not in tasks]
        more = await loom.titles(unknown) if unknown else {}
        if old or more:
            _write(place / "tasks", more | tasks)
        if _age(place / "skills") > _SELDOM:
            from loom.skills import loader as skills
            from loom.workflows import loader as workflows

            _write(place / "workflows", {one.name: one.description for one in workflows.load(loom.config).all.values()})
            _write(place / "skills", {one.name: one.description for one in skills.load(loom.config).all.values()})


def _write(path: Path, names: Mapping[str, str]) -> None:
    lines = (f"{name}\t{shorten(one_line(text), _TITLE)}\n" for name, text in names.items() if _NAME.fullmatch(name))
    files.write(path, "".join(lines), 0o600)


def _read(path: Path) -> dict[str, str]:
    lines = (line.partition("\t") for line in path.read_text("utf-8").split("\n"))
    return {name: text for name, _, text in lines}


def _age(path: Path) -> float:
    """Seconds since a file was written; for ever where there is none."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
