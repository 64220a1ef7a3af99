"""Where Loom keeps what belongs to the user and not to a project: the servers' programs, data and secrets.

Never in the work tree, which `git clean` may empty at any time.
"""

from __future__ import annotations

import os
from pathlib import Path

from loom import bridge


def is_root() -> bool:
    return os.geteuid() == 0


def data_dir() -> Path:
    """`LOOM_DATA_DIR`, else the platform's place for a user's data; for root a place that other users can enter."""
    return Path(bridge.data_dir())


def make_dir(path: Path) -> Path:
    """Make `path` and what is missing above it; the mode of what was there already stays as it is."""
    mode = 0o755 if is_root() else 0o700  # under root the servers run as another user, who has to pass through
    for directory in [*reversed(path.parents), path]:
        if not directory.exists():
            directory.mkdir(mode, exist_ok=True)
            directory.chmod(mode)  # whatever the umask
    return path
