"""Passwords for PostgreSQL that do not last, such as the login tokens of a cloud: a command prints one.

It is asked at each new connection, so that none is used after its time, and whoever connects meanwhile shares its
answer. The password goes to the server and nowhere else: it is no argument of a process, and no error names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from loom import process, texts
from loom.exceptions import DatabaseUnavailableError

_PATIENCE = 20.0  # seconds that the command may take
_BYTES = 64 * 1024  # that it may print
_SHOWN = 300  # characters of what it says has gone wrong
_MEND = "Run the command of database.password_command by hand, and see what it says."


class Password:
    """What is called for the password of a new connection."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._asked: asyncio.Task[str] | None = None

    async def __call__(self) -> str:
        """The password. Raises DatabaseUnavailableError."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asked)

    async def _ask(self) -> str:
        try:
            ended = await process.run(
                self._command, env=process.environment(), cwd=Path("/"), timeout=_PATIENCE, out_bytes=_BYTES
            )
        except TimeoutError:
            raise _failed(f"did not end within {_PATIENCE:g} s") from None
        except OSError as error:
            raise _failed(f"cannot be started: {error.strerror}") from None
        if ended.status or ended.cut:
            said = texts.one_line(ended.err.decode(errors="replace").strip().rpartition("\n")[2])
            why = f": {texts.shorten(texts.mask(said), _SHOWN).rstrip('.')}" if said else ""
            raise _failed(f"ended with exit status {ended.status}{why}")
        password = ended.out.decode(errors="replace").strip()
        if not password or len(password.splitlines()) > 1:
            raise _failed("did not print one line")
        return password


def _failed(why: str) -> DatabaseUnavailableError:
    return DatabaseUnavailableError(f"The command of database.password_command {why}.", _MEND)
