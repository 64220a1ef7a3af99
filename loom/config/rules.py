"""What one key of the configuration accepts, and the fields of dataclasses that are keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from loom import documents, texts

ROW_NAME = "[A-Za-z0-9_][A-Za-z0-9_-]{0,63}"
"""What a row of a table may be called."""

_LINE = r"[^\x00-\x1f\x7f]+"
_PATH = r"(?!/)(?!(?:.*/)?\.\.(?:/|$))[^\x00-\x1f\x7f]{1,500}"
_WORDS = 100  # texts in a list
_WORD_LENGTH = 4_096  # of one of them


class UnfitError(ValueError):
    """A value that does not fit. `wanted` completes the sentence "`key` must be ..."; `key` is empty where the caller
    knows it."""

    def __init__(self, wanted: str, key: str = "") -> None:
        super().__init__(wanted)
        self.wanted, self.key = wanted, key


@dataclass(frozen=True)
class Rule:
    """What one key accepts. `wanted` completes the sentence "`key` must be ...".

    `most` above 0 makes it a list of at most so many such values; `alone` may stand in the place of a list of it. Of a
    `secret` URL the password is shown to nobody, of what is `hidden` nothing. `guarded` may name the values that are.
    `binding`: see `trust.hold_back`. `fits`: what a text has to be beside matching `pattern`.
    """

    wanted: str
    type: type[str] | type[int] | type[float]
    low: float = 0
    high: float = 0
    pattern: str = ""
    most: int = 0
    alone: str = ""
    variable: str = ""
    secret: bool = False
    hidden: bool = False
    guarded: bool | Collection[str] = False
    binding: bool = False
    fits: Callable[[str], bool] | None = None

    def shown(self, value: object) -> Any:
        """The value as it may be shown to somebody."""
        if self.hidden and value:
            return "***"
        return texts.mask(str(value)) if self.secret and value else value

    def accept(self, value: object) -> Any:
        """The value as its dataclass wants it, a list as a tuple. Raises UnfitError."""
        if not self.most:
            return self._one(value)
        if self.alone and value == self.alone:
            return (self.alone,)
        if not isinstance(value, list | tuple) or len(value) > self.most:
            raise UnfitError(self.wanted)
        return tuple(self._one(item) for item in value)

    def parse(self, text: str) -> Any:
        """As `accept`, for a value that came as text: a variable, or a word on the command line. A list is written as
        in a file: `[one, two]`."""
        try:
            if self.most:
                return self.accept(documents.load(text, depth=2))
            return self.accept(text if self.type is str else self.type(text))
        except ValueError as error:
            wanted = error.wanted if isinstance(error, UnfitError) else self.wanted
            raise UnfitError(f"{wanted}, written [one, two]" if self.most else wanted) from None

    def guards(self, value: object) -> bool:
        """Whether this value counts in a project's file only once it is trusted."""
        return self.guarded if isinstance(self.guarded, bool) else value in self.guarded

    def _one(self, value: object) -> Any:
        if type(value) is not self.type and not (self.type is float and type(value) is int):
            raise UnfitError(self.wanted)
        if isinstance(value, str):
            fits = re.fullmatch(self.pattern, value) is not None and (self.fits is None or self.fits(value))
        else:
            fits = self.low <= value <= self.high
        if not fits:
            raise UnfitError(self.wanted)
        return self.type(value)


def whole(default: int, low: int, high: int, variable: str = "") -> Any:
    """A field for a whole number from `low` to `high`."""
    return _field(default, Rule(f"a whole number from {low} to {high}", int, low, high, variable=variable))


def number(default: float, low: float, high: float) -> Any:
    """A field for a number from `low` to `high`."""
    return _field(default, Rule(f"a number from {low:g} to {high:g}", float, low, high))


def text(default: str | None, wanted: str = "text", pattern: str = _LINE, **more: Any) -> Any:
    """A field for one line of text that `pattern` matches as a whole; `more` as in `Rule`."""
    return _field(default, Rule(wanted, str, pattern=pattern, **more))


def url(schemes: str, variable: str = "", *, hidden: bool = False) -> Any:
    """A field for a URL with one of these schemes; it tells where data goes, so it is guarded."""
    wanted = "a URL that begins with " + " or ".join(f"{scheme}://" for scheme in schemes.split("|"))
    pattern = rf"(?:{schemes})://[^\s]+"
    rule = Rule(wanted, str, pattern=pattern, fits=is_url, variable=variable, secret=True, hidden=hidden, guarded=True)
    return field(default=None, repr=False, metadata={"rule": rule})


def is_url(value: str) -> bool:
    """Whether a text that begins as a URL is one. Raises UnfitError: it has brackets that are no address of a host, or
    leads over HTTP to no host, or to a port that is none."""
    try:
        parts = urlsplit(value)
    except ValueError:
        raise UnfitError("a URL whose password has %5B for [ and %5D for ]") from None
    if parts.scheme in ("http", "https"):  # the others may name several hosts, or none
        try:
            return bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise UnfitError("a URL whose port is a whole number from 1 to 65535") from None
    return True


def words(
    default: tuple[str, ...] | None = (), *, of: str = "texts", pattern: str = "", alone: str = "", **more: Any
) -> Any:
    """A field for a list of texts; `more` as in `Rule`; without a default (None) a row of a table must have it."""
    wanted = f"{f'`{alone}`, or ' if alone else ''}a list of at most {_WORDS} {of}"
    rule = Rule(wanted, str, pattern=pattern or rf"[^\x00]{{1,{_WORD_LENGTH}}}", most=_WORDS, alone=alone, **more)
    return field(metadata={"rule": rule}) if default is None else _field(default, rule)


def paths(**more: Any) -> Any:
    """A field for a list of paths within a repository."""
    return words(of="paths within the repository, relative to its root", pattern=_PATH, **more)


def zone() -> Any:
    """A field for the name of a time zone."""
    pattern = "[A-Za-z0-9+_-]{1,40}(?:/[A-Za-z0-9+_-]{1,40}){0,2}"
    return text(None, "a time zone that is known here, such as Europe/Zurich", pattern, fits=_is_zone)


def _is_zone(name: str) -> bool:
    from zoneinfo import ZoneInfo  # for who names one

    try:
        return ZoneInfo(name) is not None
    except (KeyError, ValueError, OSError):
        return False


def _field(default: object, rule: Rule) -> Any:
    return field(default=default, repr=not rule.hidden, metadata={"rule": rule})
