"""How paths of a repository lie to each other. They are as `limits.path` has them, or as git tells them."""

from __future__ import annotations

import unicodedata


def plain(path: str) -> str:
    """A path as somebody wrote it, without what says nothing: `./tests/` is `tests`."""
    return "/".join(part for part in path.split("/") if part not in ("", ".")) or "."


def below(path: str, directory: str) -> bool:
    """Whether a path is this one, or lies below it; everything lies below `.`."""
    path, directory = (unicodedata.normalize("NFC", one) for one in (path, directory))
    return directory == "." or path == directory or path.startswith(f"{directory}/")


def may_be_below(path: str, directory: str) -> bool:
    """As `below`, on whatever file system: where letters are told apart by case, and where they are not."""
    return below(path.casefold(), directory.casefold())


def meet(one: str, other: str) -> bool:
    """Whether one of two paths may be the other, or lie below it."""
    return may_be_below(one, other) or may_be_below(other, one)


def is_own(path: str) -> bool:
    """Whether a path lies in a directory that Loom or git keeps for itself, of this project or of one in a part of the
    repository."""
    return any(part.casefold() in _OWN for part in path.split("/"))


_OWN = (".loom", ".git")
