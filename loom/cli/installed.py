"""Which Loom is on this machine.

The package index has had another product under Loom's name, with a command of the same name, in versions below 2.0. A
program is never started to ask it: whose it is shows in the environment that it was installed into.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PACKAGE = "loom-agents"
_FIRST = 2  # the first major version that is this product
_HEAD = 4096  # bytes of a script in which its interpreter is looked for
_INTERPRETER = re.compile(rb"""^(?:\#!|'''exec'\ )["']?(/[^"'\n]*?/python[\w.]*)""", re.MULTILINE | re.VERBOSE)


@dataclass(frozen=True)
class Program:
    """A `loom` that can be called: `version` is that of the package it belongs to, None where that cannot be told."""

    path: Path
    version: str | None

    @property
    def foreign(self) -> bool:
        """It is known to belong to the other product."""
        return self.version is not None and is_foreign(self.version)


def is_foreign(version: str) -> bool:
    """Whether a package of Loom's name in this version is the other product."""
    major = version.partition(".")[0]
    return major.isdecimal() and int(major) < _FIRST


def in_environment() -> list[tuple[str, Path]]:
    """The packages of Loom's name that Python sees here, the one that counts first: version, and the directory."""
    seen = metadata.distributions(name=PACKAGE)
    return list(dict.fromkeys((one.version, Path(str(one.locate_file(""))).resolve()) for one in seen))


def on_path(path: str | None = None) -> list[Program]:
    """The programs `loom` on PATH, or on a `path` like it, the one that is called first."""
    directories = os.get_exec_path() if path is None else path.split(os.pathsep)
    files = [Path(directory) / "loom" for directory in directories if directory]
    return [look(file) for file in dict.fromkeys(files) if file.is_file() and os.access(file, os.X_OK)]


def look(file: Path) -> Program:
    """Whose program a file is."""
    for prefix in dict.fromkeys(_prefixes(file)):
        for place in (*prefix.glob("lib/python3*/site-packages"), *prefix.glob("lib/python3*/dist-packages")):
            for found in sorted(place.glob("loom_agents-*.dist-info")):
                return Program(file, found.name.removeprefix("loom_agents-").removesuffix(".dist-info"))
    return Program(file, None)


def _prefixes(file: Path) -> Iterator[Path]:
    """Where the environment of a script may be: that of its interpreter first."""
    try:
        with file.open("rb") as script:
            head = script.read(_HEAD)
    except OSError:
        head = b""
    if found := _INTERPRETER.search(head):
        yield Path(os.fsdecode(found[1])).parent.parent
    yield file.resolve().parent.parent
    yield file.parent.parent
