"""`python -m loom.hub INSTANCE` starts the hub in the background, and ends when it serves: with 0, or with 1 where it
could not begin."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Leaves the hub in a process that is nobody's child, of a session of its own."""
    heard, said = os.pipe()
    if os.fork():
        os.close(said)
        os._exit(0 if os.read(heard, 1) else 1)
    os.close(heard)
    os.setsid()
    if os.fork():  # who leads no session gains no terminal
        os._exit(0)
    from loom.hub.door import run

    run(sys.argv[1], ready=lambda: os.close(said) if os.write(said, b"1") else None)


main()
