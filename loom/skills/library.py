"""What people describe in files, skills and workflows alike: found in three places, later wins.

The places are Loom's own, the user's below `~/.loom`, and the project's below `.loom`. A file of the project that takes
the place of another, or that could run or send something, counts only once it is trusted (`loom config trust`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from loom import texts
from loom.config import LoomConfig, is_trusted, user_config_path
from loom.exceptions import LoomError

FILE_BYTES = 256 * 1024
_FILES = 500  # in one place


class Described(Protocol):
    """What a file describes. `source` is built-in, user or project."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str: ...


D = TypeVar("D", bound=Described)


@dataclass(frozen=True)
class Kind(Generic[D]):
    """A kind of thing that files describe.

    Args:
        noun: what one is called, as in "skill".
        package: where Loom's own are, in its directory `builtin`.
        folder: where the others are, below `.loom`.
        suffixes: how their files' names end.
        within: the name of a file that may also stand in a directory of its own, as Agent Skills do.
        parse: reads the text of a file; gets also its place, for errors, and its source. Raises `error`.
        needs: why one of a project needs trust even where it replaces nothing; None if it does not.
        error: for a file that is not in order.
        missing: for a name that nothing has.
    """

    noun: str
    package: str
    folder: str
    suffixes: tuple[str, ...]
    parse: Callable[[str, str, str], D]
    needs: Callable[[D], str | None]
    error: type[LoomError]
    missing: type[LoomError]
    within: str | None = None


@dataclass(frozen=True)
class Library(Generic[D]):
    """All of a kind that count here, by name. `notes`: sentences about files that do not, and why."""

    kind: Kind[D]
    all: Mapping[str, D]
    notes: tuple[str, ...] = ()

    def get(self, name: str) -> D:
        """The one of that name. Raises the kind's `missing`."""
        if name in self.all:
            return self.all[name]
        near = difflib.get_close_matches(name, self.all, 1)
        ignored = [one for one in self.notes if Path(one.partition(": ")[0]).stem == name]
        there = f"Did you mean {near[0]}?" if near else f"There are {', '.join(self.all)}."
        more = f" `loom {self.kind.noun} list` says which files were left out, and why." if self.notes else ""
        raise self.kind.missing(
            f"There is no {self.kind.noun} {texts.quote(name)}.", ignored[0] if ignored else there + more
        )


def collect(kind: Kind[D], config: LoomConfig) -> Library[D]:
    """Reads the files of all three places. One that is not in order is left out and has a note, so that it takes
    nothing with it."""
    found: dict[str, D] = {}
    notes: list[str] = []
    project = config.project_dir
    for file in _files(resources.files(kind.package).joinpath("builtin"), kind):
        one = kind.parse(file.read_text("utf-8"), f"built-in {file.name}", "built-in")
        found[one.name] = one
    places: list[tuple[str, Path, Path | None]] = [("user", user_config_path().parent / kind.folder, None)]
    if project is not None:
        places.append(("project", project / ".loom" / kind.folder, project))
    for source, directory, root in places:
        for file in _files(directory, kind):
            try:
                one = kind.parse(_text(Path(str(file)), directory, kind.error), str(file), source)
                if root is not None:
                    _must_be_trusted(kind, one, found, root, Path(str(file)))
            except kind.error as error:
                notes.append(texts.clean(str(error)))
            else:
                found[one.name] = one
    return Library(kind, dict(sorted(found.items())), tuple(notes))


def _must_be_trusted(kind: Kind[D], one: D, others: Mapping[str, D], root: Path, file: Path) -> None:
    replaced = others.get(one.name)
    why = f"it replaces the {replaced.source} {kind.noun} {one.name}" if replaced else kind.needs(one)
    if why is not None and not is_trusted(root, str(file.relative_to(root / ".loom"))):
        raise kind.error(
            f"{file}: {why} and is ignored until you allow it on this machine.",
            "Read it, then run `loom config trust`.",
        )


def _files(directory: Traversable, kind: Kind[D]) -> list[Traversable]:
    if not directory.is_dir():
        return []
    found = []
    for one in sorted(directory.iterdir(), key=lambda one: one.name)[:_FILES]:
        if one.name.endswith(kind.suffixes):
            found.append(one)
        elif kind.within is not None and one.joinpath(kind.within).is_file():
            found.append(one.joinpath(kind.within))
    return found


def _text(file: Path, directory: Path, error: type[LoomError]) -> str:
    if not file.resolve().is_relative_to(directory.resolve()) or not file.is_file():
        raise error(f"{file}: it is not a file of this directory.", "Put the file itself there.")
    try:
        with file.open("rb") as stream:
            return stream.read(FILE_BYTES + 1).decode()
    except (OSError, ValueError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else "it is not UTF-8 text"
        raise error(f"{file} cannot be read: {why}.", "Correct the file.") from None
