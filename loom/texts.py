"""What is done to texts before anybody reads them: unseen characters and the passwords of URLs go, and what is too
long ends early and says so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

# What cannot be seen: control characters but line breaks and tabs; all that Unicode 17.0 lists as
# Default_Ignorable_Code_Point (DerivedCoreProperties.txt), among it marks of direction, tags and fillers; and the marks
# of interlinear annotation.
_UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
UNSEEN = re.compile(f"[{_UNSEEN}]")
# Of these an emoji may need two: U+FE0F behind its base, and U+200D between the parts that make up one picture. The
# bases are taken by blocks, which is roomier than Unicode's list of them.
_BASE = (
    "[\xa9\xae\u203c\u2049\u2122\u2139\u2194-\u21aa\u231a-\u23fa\u24c2\u25aa-\u27bf\u2934\u2935\u2b05-\u2b55\u3030\u303d"
    "\u3297\u3299\U0001f004-\U0001faff]"
)
_PART = f"{_BASE}(?:[\U0001f3fb-\U0001f3ff]|\ufe0f)?"
# And the joiners belong between letters of the scripts from Arabic to Sinhala, of Myanmar, Khmer and Mongolian.
_JOINERS = "\u200c\u200d"
_JOINING = "[\u0600-\u0dff\u1000-\u109f\u1780-\u18af\u1cd0-\u1cff\ua8e0-\ua8ff\ufb50-\ufdff\ufe70-\ufefc]"


_ALIKE = 0.75  # of 1: a long word and what was perhaps meant
_LONG = 8  # characters; short words are like many others
_WORD = re.compile(r"\S+")
_PASSWORD = re.compile(r"(?<=://)([^:@/]*):.*")  # in what stands before the last @ of a word
_COLOUR = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def colourless(text: str) -> str:
    """The text without the signs by which programs colour what they print."""
    return _COLOUR.sub("", text)


def clean(text: str) -> str:
    """A text written by somebody else, without characters that a reader cannot see; what emoji and the scripts that
    join their letters need of these stays."""
    if text.isascii() and text.isprintable():  # most are, and this is by far quicker to see
        return text
    return _seen().sub(_kept, text) if UNSEEN.search(text) else text


def one_line(text: str) -> str:
    """As `clean`, on one line."""
    return " ".join(clean(text).split())


def said(text: str) -> str:
    """What a program says of why it fails, to be shown: on one line, passwords of URLs hidden."""
    return mask(one_line(text))


def plural(count: int, noun: str) -> str:
    """A number and what is counted."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def shorten(text: str, most: int, rest: str = "") -> str:
    """At most `most` characters of a text. One that is longer ends with an ellipsis, which counts, and behind that, in
    brackets that do not count, `rest`: how much more there is, or where."""
    if len(text) <= most:
        return text
    return f"{text[: most - 1]}…" + (f" ({rest})" if rest else "")


def quote(text: str, most: int = 60) -> str:
    """A text to be quoted in an error message: on one line, shortened, only with characters that can be shown."""
    shown = shorten(text, most)
    return "“" + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown) + "”"


def near(word: str, known: Iterable[str]) -> str | None:
    """What was perhaps meant, if it is near: one slip away, or of long words more or less the same."""
    from difflib import get_close_matches

    names = list(known)
    if slip := next((name for name in names if _is_a_slip(word, name)), None):
        return slip
    return next(iter(get_close_matches(word, names, 1, _ALIKE)), None) if len(word) >= _LONG else None


def logged(text: str) -> str:
    """As one line of a log: passwords of URLs hidden, line breaks and all that cannot be seen written as escapes."""
    text = mask(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def mask(text: str) -> str:
    """`text` with the passwords of the URLs in it hidden."""
    if "://" in text:
        text = _WORD.sub(_without_password, text)
    return re.sub(r"(?i)\b((?:ssl)?password|pass|api_?key|token|secret)=[^&\s]+", r"\1=***", text)


# No part of it goes on to the end of a text without fitting, which would be done anew for each place that it begins at.
_KEY = re.compile(
    r"\b(?:sk-[\w-]{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[a-z]-[\w-]{10,}|AKIA[0-9A-Z]{16}|"
    r"loom_[0-9a-f]{12}_[\w-]{43}|whsec_[\w+/=]{16,}|eyJ[\w-]{8,500}\.[\w-]{8,}\.[\w-]{8,})|"
    r"(?<=[Bb]earer )[\w.~+/=-]{16,}|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.ASCII | re.DOTALL,
)


def outward(text: str) -> str:
    """A text written by somebody else that leaves this machine: as `clean`, passwords of URLs hidden, and keys that are
    known by how they begin."""
    return _KEY.sub("***", mask(clean(text)))


def _without_password(found: re.Match[str]) -> str:
    """A word that may be a URL. It is looked at once, not from each `://` in it."""
    before, at, after = found[0].rpartition("@")
    return _PASSWORD.sub(r"\1:***", before, count=1) + at + after


def _is_a_slip(word: str, name: str) -> bool:
    """Whether two letters beside each other were exchanged, or one is wrong, missing or too much."""
    start = _common(word, name)
    end = _common(word[start:][::-1], name[start:][::-1])
    typed, meant = word[start : len(word) - end], name[start : len(name) - end]
    return max(len(typed), len(meant)) <= 1 or (len(typed) == 2 and typed == meant[::-1])


def _common(one: str, other: str) -> int:
    """With how many of the same letters two words begin."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@cache
def _seen() -> re.Pattern[str]:
    """An emoji as its group, or one character that cannot be seen."""
    return re.compile(f"({_PART}(?:\u200d{_PART})*|[0-9#*]\ufe0f\u20e3)|[{_UNSEEN}]")


def _kept(found: re.Match[str]) -> str:
    if found[1]:
        return found[1]
    around = found.string[max(found.start() - 1, 0) : found.end() + 1]
    return found[0] if found[0] in _JOINERS and len(around) == 3 and _joins(around[0]) and _joins(around[2]) else ""


def _joins(character: str) -> bool:
    """Whether it is a letter, or a sign on one, of a script that joins them."""
    import unicodedata

    if UNSEEN.match(character) or not re.match(_JOINING, character):
        return False
    return unicodedata.category(character)[0] in "LM"
