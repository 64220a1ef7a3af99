"""What the games that are played by hand have in common: a place of their own, and what they say at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def place(name: str, *, keep: bool = False) -> Iterator[Path]:
    """A new directory with a short name, which servers need for their sockets; it goes at the end unless it is kept."""
    made = Path(f"/tmp/loom-{name}-{os.getpid()}")
    made.mkdir(mode=0o755)
    try:
        yield made
    finally:
        if keep:
            print(f"everything is in {made}")
        else:
            shutil.rmtree(made, ignore_errors=True)


def conclude(problems: Sequence[str]) -> int:
    """Says what was wrong. Returns the exit status, 1 if anything was."""
    for problem in problems:
        print(f"WRONG: {problem}")
    print("wrong" if problems else "all is well")
    return 1 if problems else 0
