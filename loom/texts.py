"""What is done to texts before anybody reads them: unseen characters go, and so do the passwords of URLs."""

from __future__ import annotations

import re

# Control characters but line breaks and tabs, and what turns or hides text: marks of direction, zero-width signs.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")


def clean(text: str) -> str:
    """A text written by somebody else, without characters that a reader cannot see."""
    return UNSEEN.sub("", text)


def mask(text: str) -> str:
    """`text` with the passwords of the URLs in it hidden."""
    text = re.sub(r"(://[^:@/\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"(?i)\b((?:ssl)?password|pass|api_?key|token|secret)=[^&\s]+", r"\1=***", text)
