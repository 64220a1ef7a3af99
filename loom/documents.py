"""YAML that strangers may have written, read as plain values.

The rules are those of its JSON schema: `no` is a text, and a date stays the text it is. What makes a short text large,
or builds anything but plain values, is refused, and so is a key that stands twice, of which a reader may see the first
while the last would count. The values are built from the parser's events, which come without recursion: libyaml itself
dies of some ten thousand brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEAN = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,99})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]{1,3})?")


class DocumentError(ValueError):
    """A text that cannot be read. `advice` says what to do."""

    def __init__(
        self, fault: str, line: int | None = None, advice: str = "Correct it there.", detail: str = ""
    ) -> None:
        super().__init__(fault)
        self.advice = advice
        self._fault, self._line, self._detail = fault, line, detail

    def told(self, first_line: int = 1) -> str:
        """What is wrong, to go on after what the text is called: "is not valid YAML in line 3: ..."; `first_line` is
        that of the file that the text begins in."""
        place = "" if self._line is None else f" in line {self._line + first_line - 1}"
        return f"{self._fault}{place}{f': {self._detail}' if self._detail else ''}"


def load(text: str, *, depth: int) -> object:
    """The value of a YAML text: None, true or false, numbers, texts, lists, and mappings of texts.

    Args:
        depth: how far lists and mappings may be nested.

    Raises:
        DocumentError: it is not valid, too deep, or has what is not read.
    """
    import yaml

    try:
        return _build(yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)), depth)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        detail = error.problem or error.context or ""
        raise DocumentError("is not valid YAML", line, detail=detail) from None
    except (yaml.YAMLError, UnicodeError):
        raise DocumentError("holds characters that YAML does not allow", None, "Remove control characters.") from None


def _build(events: Iterable[Any], depth: int) -> object:
    import yaml

    documents: list[object] = []
    open_ones = [_Open(documents)]  # innermost last
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise DocumentError("uses a YAML alias or tag", line, "Write the value itself there.")
        if isinstance(event, yaml.ScalarEvent):
            value = event.value if event.style else _plain_scalar(event.value)
            open_ones[-1].take(value, event.value, line)
        elif isinstance(event, yaml.CollectionStartEvent):
            inner = _Open([] if isinstance(event, yaml.SequenceStartEvent) else {})
            open_ones[-1].take(inner.value, None, line)
            open_ones.append(inner)
            if len(open_ones) > depth + 1:
                raise DocumentError(f"is nested more than {depth} deep", line, "Flatten it.")
        elif isinstance(event, yaml.CollectionEndEvent):
            open_ones.pop()
    if len(documents) > 1:
        raise DocumentError(f"holds {len(documents)} YAML documents", None, "Write one document.")
    return documents[0] if documents else None


class _Open:
    """A list or mapping that is not at its end."""

    def __init__(self, value: list[object] | dict[str, object]) -> None:
        self.value = value
        self._key: str | None = None  # that waits for its value

    def take(self, value: object, text: str | None, line: int) -> None:
        """Takes what comes next in it. `text`: how a scalar is written, None for a list or mapping."""
        if isinstance(self.value, list):
            self.value.append(value)
        elif self._key is not None:
            self.value[self._key] = value
            self._key = None
        elif text is None:
            raise DocumentError("has a list or mapping as a key", line, "Use texts as keys.")
        elif text in self.value:
            raise DocumentError(f"has the key `{text[:60]}` twice", line, "Keep one of them.")
        else:
            self._key = text


def _plain_scalar(text: str) -> object:
    if text in _NULL:
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
