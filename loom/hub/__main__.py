"""`python -m loom.hub INSTANCE` starts the hub in the background, and ends when it serves: with 0, or with 1 where it
could not begin."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


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

    def tell() -> None:
        with suppress(OSError):  # whoever started it has not waited so long
            os.write(said, b"1")
        os.close(said)

    from loom.hub.door import run

    run(sys.argv[1], ready=tell)


main()
