"""What is done to texts before anybody reads them: unseen characters and the passwords of URLs go, and what is too
long ends early and says so."""

from __future__ import annotations

import re

# Control characters but line breaks and tabs, and what turns or hides text: marks of direction, zero-width signs.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")


def clean(text: str) -> str:
    """A text written by somebody else, without characters that a reader cannot see."""
    if text.isascii() and text.isprintable():  # most are, and this is by far quicker to see
        return text
    return UNSEEN.sub("", text)


def one_line(text: str) -> str:
    """As `clean`, on one line."""
    return " ".join(clean(text).split())


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


def logged(text: str) -> str:
    """As one line of a log: passwords of URLs hidden, line breaks and all that cannot be seen written as escapes."""
    text = mask(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def mask(text: str) -> str:
    """`text` with the passwords of the URLs in it hidden."""
    text = re.sub(r"(://[^:@/\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"(?i)\b((?:ssl)?password|pass|api_?key|token|secret)=[^&\s]+", r"\1=***", text)
