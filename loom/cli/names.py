"""The names that a shell completes: files in the state directory of the project, for this user alone, which commands at
a terminal bring up to date. See `cli.completion`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from loom import files
from loom.config import LoomConfig, user_config_path
from loom.exceptions import LoomError
from loom.landing import places
from loom.texts import one_line, shorten

if TYPE_CHECKING:
    from loom.graph.front import Loom

TASKS = 5_000  # that are kept
_FRESH = 10.0  # seconds for which the names of tasks are good enough
_SELDOM = 600.0  # seconds after which skills and workflows are read again in any case: Loom's own may be newer
_TITLE = 60  # characters
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_ID = re.compile(r"\bloom-[0-9a-f]{8}\b")


async def keep(loom: Loom, shown: str, *, changed: bool = False) -> None:
    """Brings the names up to date where they are old, or `changed`; ids that are `shown` to a person are among them,
    whoever made these tasks. What cannot be written is left: nobody asked for it."""
    with suppress(LoomError, OSError):
        place = _place(loom.config)
        old = changed or _age(place / "tasks") > _FRESH
        tasks = await loom.titles(limit=TASKS) if old else _read(place / "tasks")
        unknown = [one for one in dict.fromkeys(_ID.findall(shown)) if one not in tasks]
        more = await loom.titles(unknown) if unknown else {}
        if old or more:
            _write(place / "tasks", more | tasks)
    keep_described(loom.config)


def keep_described(config: LoomConfig) -> None:
    """The same for skills and workflows alone, which are read again once a file of theirs was changed."""
    with suppress(LoomError, OSError):
        place = _place(config)
        kept = place / "skills"
        if _age(kept) > _SELDOM or _changed(kept) <= max(map(_changed, _sources(config))):
            from loom.skills import loader as skills
            from loom.workflows import loader as workflows

            _write(place / "workflows", {one.name: one.description for one in workflows.load(config).all.values()})
            _write(place / "skills", {one.name: one.description for one in skills.load(config).all.values()})


def _sources(config: LoomConfig) -> Iterator[Path]:
    """All that says which skills and workflows count: the directories that they are in, each file there, or the one in
    a directory of its own, and what is trusted."""
    yield user_config_path().with_name("trust.json")
    for above in (user_config_path().parent, config.loom_dir):
        for directory in () if above is None else (above / "skills", above / "workflows"):
            yield directory
            for one in directory.iterdir() if directory.is_dir() else ():
                yield one
                yield one / "SKILL.md"


def _place(config: LoomConfig) -> Path:
    return files.own_directory(places.state_dir(config) / "completion")


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


def _changed(path: Path) -> float:
    """When a file or a directory was changed last, by the clock that no program sets; 0.0 where there is none."""
    try:
        return path.stat().st_ctime
    except (FileNotFoundError, NotADirectoryError):
        return 0.0
