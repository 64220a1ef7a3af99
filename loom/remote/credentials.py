"""The access token for a server: LOOM_TOKEN, else the one that `~/.loom/credentials` has for it.

The file has a line for each server, its URL and the token, and is readable by its owner alone; `loom init --remote`
writes it. No file of a project is looked at.
"""

from __future__ import annotations

import os
from pathlib import Path

from loom import caller, files
from loom.config import user_config_path
from loom.config.loading import secret
from loom.exceptions import ConfigError, TokenError
from loom.wording import Shell, Words

_BYTES = 64 * 1024


def path() -> Path:
    """Where the file is, or would be."""
    return user_config_path().parent / "credentials"


def token_for(url: str) -> str:
    """The token to show the server at this URL.

    Raises:
        TokenError: there is none, or what there is cannot be one.
        ConfigError: the file cannot be read, or others can read it too.
    """
    given, name = secret(caller.environ(), "LOOM_TOKEN")
    if given.strip():
        return _sendable(given.strip(), name)
    for line in _lines():
        words = line.split()
        if len(words) == 2 and words[0].rstrip("/") == url.rstrip("/"):
            return _sendable(words[1], str(path()))
    raise TokenError(
        f"There is no access token for {url}.",
        Words("Put yours into LOOM_TOKEN, or have it kept with {}.", Shell(f"loom init --remote {url} --with-token")),
    )


def keep(url: str, token: str) -> None:
    """Has the file know this token, and no other, for the server at this URL.

    Raises:
        TokenError: it cannot be one.
        ConfigError: the file cannot be read or written, or others can read it too.
    """
    _sendable(token, "standard input")
    others = [line for line in _lines() if not line.strip() or line.split()[0].rstrip("/") != url.rstrip("/")]
    try:
        files.write(path(), "".join(f"{line}\n" for line in [*others, f"{url} {token}"]), 0o600)
    except OSError as error:
        raise ConfigError(f"{path()} cannot be written: {error.strerror}.", "Correct that first.") from None


def _sendable(token: str, where: str) -> str:
    """A token that a header can carry. Raises TokenError."""
    if not (token and token.isascii() and token.isprintable()) or " " in token:
        raise TokenError(f"What {where} has is no access token.", "Copy the token anew, as it was shown.")
    return token


def _lines() -> list[str]:
    where = path()
    try:
        if (mode := where.stat().st_mode & 0o077) and os.name == "posix":
            raise ConfigError(
                f"{where} can be read or written by others (mode {mode:03o} for them).",
                Words("Run {}.", Shell(f"chmod 600 {where}")),
            )
        return files.read(where, _BYTES).decode().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{where} cannot be read: {reason}.", "Correct that first.") from None
