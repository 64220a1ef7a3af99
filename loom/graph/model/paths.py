"""How paths of a repository lie to each other. They are as `limits.path` has them, or as git tells them."""

from __future__ import annotations

import unicodedata


def plain(path: str) -> str:
    """A path as somebody wrote it, without what says nothing: `./tests/` is `tests`."""
    return "/".join(part for part in path.split("/") if part not in ("", ".")) or "."


def below(path: str, directory: str) -> bool:
    """Whether a path is this one, or lies below it; everything lies below `.`."""
    return directory == "." or path == directory or path.startswith(f"{directory}/")


def meet(one: str, other: str) -> bool:
    """Whether one of two paths may be the other, or lie below it, on whatever file system: where letters are told apart
    by case, and where they are not."""
    first, second = (unicodedata.normalize("NFC", path).casefold() for path in (one, other))
    return below(first, second) or below(second, first)
