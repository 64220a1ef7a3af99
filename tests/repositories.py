"""Git, called as a person would in a repository of a test."""

from __future__ import annotations

import subprocess
from pathlib import Path

_AS = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always")


def git(place: Path, *words: str) -> str:
    """What git says. Raises CalledProcessError."""
    return subprocess.run(["git", *_AS, *words], cwd=place, check=True, capture_output=True, text=True).stdout
