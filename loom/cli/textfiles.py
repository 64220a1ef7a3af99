"""Files of a project that Loom adds to, beside what people and other tools have in them."""

from __future__ import annotations

from pathlib import Path

from loom import files
from loom.config.files import read_text

_BYTES = 4 * 1024 * 1024


def read(path: Path, root: Path) -> str:
    """A file of the project, "" where there is none. Raises ConfigError, also where it leads out of the project."""
    return read_text(path, root, _BYTES)


def write(path: Path, text: str | None, root: Path) -> str:
    """Writes a file if that changes it, and says which: unchanged, updated or written. None leaves it as it is. Raises
    OSError, also where it leads out of the project."""
    there = path.exists()
    if text is None or (there and read(path, root) == text):
        return "unchanged"
    files.write(path, text, None if there else 0o644, within=root)
    return "updated" if there else "written"
