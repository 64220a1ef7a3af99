"""What people describe in files, skills and workflows alike: found in three places, later wins.

The places are Loom's own, the user's below `~/.loom`, and the project's below `.loom`. A file of the project that takes
the place of another, or that could run or send something, counts only once it is trusted (`loom config trust`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from loom import files, texts
from loom.config import LoomConfig, is_trusted, user_config_path
from loom.exceptions import LoomError
from loom.wording import Shell, Words

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
class FileType(Generic[D]):
    """One type of file, and what such files describe.

    Args:
        noun: what one is called, as in "skill".
        builtin: the files of Loom's own, by name.
        folder: where the others are, below `.loom`.
        suffixes: how their files' names end.
        within: the name of a file that may also stand in a directory of its own, as Agent Skills do.
        parse: reads the text of a file; gets also its place, for errors, and its source. Raises `error`.
        needs: why one of a project needs trust even where it replaces nothing; None if it does not.
        error: for a file that is not in order.
        missing: for a name that nothing has.
    """

    noun: str
    builtin: Mapping[str, bytes]
    folder: str
    suffixes: tuple[str, ...]
    parse: Callable[[str, str, str], D]
    needs: Callable[[D], str | None]
    error: type[LoomError]
    missing: type[LoomError]
    within: str | None = None


@dataclass(frozen=True)
class Library(Generic[D]):
    """All of one type that count here, by name. `notes`: sentences about files that do not, and why."""

    file_type: FileType[D]
    all: Mapping[str, D]
    notes: tuple[str, ...] = ()

    def get(self, name: str) -> D:
        """The one of that name. Raises the type's `missing`."""
        if name in self.all:
            return self.all[name]
        near = difflib.get_close_matches(name, self.all, 1)
        ignored = [one for one in self.notes if Path(one.partition(": ")[0]).stem == name]
        there = f"Did you mean {near[0]}?" if near else f"There are {', '.join(self.all)}."
        more = f" `loom {self.file_type.noun} list` says which files were left out, and why." if self.notes else ""
        raise self.file_type.missing(
            f"There is no {self.file_type.noun} {texts.quote(name)}.", ignored[0] if ignored else there + more
        )


def collect(file_type: FileType[D], config: LoomConfig) -> Library[D]:
    """Reads the files of all three places. One that is not in order is left out and has a note, so that it takes
    nothing with it."""
    found: dict[str, D] = {}
    notes: list[str] = []
    project = config.project_dir
    for name, text in file_type.builtin.items():
        one = file_type.parse(text.decode(), f"built-in {name}", "built-in")
        found[one.name] = one
    places: list[tuple[str, Path, Path | None]] = [("user", user_config_path().parent / file_type.folder, None)]
    if project is not None:
        places.append(("project", project / ".loom" / file_type.folder, project))
    for source, directory, root in places:
        for file in _files(directory, file_type, notes):
            try:
                data = _read(file, root, file_type.error)
                one = file_type.parse(data.decode(), str(file), source)
                if root is not None:
                    _must_be_trusted(file_type, one, found, root, file, data)
            except UnicodeDecodeError:
                notes.append(texts.clean(f"{file}: it is not UTF-8 text. Correct the file."))
            except file_type.error as error:
                notes.append(texts.clean(str(error)))
            else:
                found[one.name] = one
    return Library(file_type, dict(sorted(found.items())), tuple(notes))


def _must_be_trusted(
    file_type: FileType[D], one: D, others: Mapping[str, D], root: Path, file: Path, data: bytes
) -> None:
    """`data`: what was read of the file, which is what is going to count."""
    replaced = others.get(one.name)
    why = f"it replaces the {replaced.source} {file_type.noun} {one.name}" if replaced else file_type.needs(one)
    if why is not None and not is_trusted(root, str(file.relative_to(root / ".loom")), data):
        raise file_type.error(
            f"{file}: {why} and is ignored until you allow it on this machine.",
            Words("Read it, then run {}.", Shell("loom config trust")),
        )


def _files(directory: Path, file_type: FileType[D], notes: list[str]) -> list[Path]:
    """The files that a place has, and a note where there may be more."""
    try:
        found = sorted(directory.iterdir(), key=lambda one: one.name)
    except FileNotFoundError:
        return []
    except OSError as fault:
        notes.append(texts.clean(f"{directory}: it cannot be read: {fault.strerror}. Correct the directory."))
        return []
    if len(found) > _FILES:
        notes.append(texts.clean(f"{directory}: it has more than {_FILES} entries, and those after them are left out."))
    wanted = []
    for one in found[:_FILES]:
        if one.name.endswith(file_type.suffixes):
            wanted.append(one)
        elif file_type.within is not None and files.is_file(one / file_type.within):
            wanted.append(one / file_type.within)
    return wanted


def _read(file: Path, root: Path | None, error: type[LoomError]) -> bytes:
    try:
        return files.read(file, FILE_BYTES, root)
    except OSError as fault:
        raise error(f"{file}: it cannot be read: {fault.strerror}.", "Correct the file.") from None
