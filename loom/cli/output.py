"""How answers look: one JSON object for programs; plain, aligned columns for people, coloured on a terminal.

What agents wrote is data. Characters that a reader cannot see are taken out of it before a person sees it, and escaped
in JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from loom.texts import UNSEEN, clean, one_line, shorten
from loom.wording import worded_reply

SCHEMA = 1
"""The version of the shapes of `--json`."""

_COLOURS = {
    "done": "green",
    "closed": "green",
    "claimed": "cyan",
    "pending": "yellow",
    "failed": "red",
    "red": "red",
    "green": "green",
    "running": "cyan",
    "waiting": "yellow",
    "blocked": "bright_black",
    "cancelled": "bright_black",
    "epic": "magenta",
}
_VALUE = 300  # characters of one thing that a diagnosis says


def emit(value: Mapping[str, Any], *, whole: bool = True) -> None:
    """One JSON object on standard output, with the version of its shape; on a line of its own unless `whole`."""
    from loom.cli.wording import people

    value = worded_reply(value, people())
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    indent = 2 if whole and sys.stdout.isatty() else None
    text = json.dumps({"schema": SCHEMA, **value}, ensure_ascii=plain, indent=indent)
    if not text.isascii():
        text = UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], text)
    click.echo(text)


def status(name: str) -> str:
    """A status in its colour."""
    return click.style(name, fg=_COLOURS.get(name))


def heading(text: str) -> str:
    """A title above lines."""
    return click.style(text, bold=True)


def dim(text: str) -> str:
    """What matters less."""
    return click.style(text, fg="bright_black")


def table(rows: Iterable[Sequence[str]], indent: str = "") -> Iterator[str]:
    """Rows of cells in aligned columns; on a terminal the last column is cut where a line would be broken."""
    cells = [list(row) for row in rows]
    if not cells:
        return
    widths = [max(_width(row[column]) for row in cells) for column in range(len(cells[0]) - 1)]
    room = shutil.get_terminal_size().columns - len(indent) - sum(widths) - 2 * len(widths)
    for row in cells:
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=False))
        last = _cut(row[-1], room) if sys.stdout.isatty() and room >= 20 else row[-1]
        yield (indent + "  ".join([*padded, last])).rstrip()


def block(label: str, text: str, indent: str = "  ") -> Iterator[str]:
    """A text of several lines under its label."""
    yield f"{indent}{heading(label)}"
    for line in clean(text).strip().split("\n"):
        yield f"{indent}  {line}"


def files_and_checks(reply: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a task touches and must pass, where it says so, with the words for it."""
    for key, words in (("files", "touches"), ("checks", "must pass")):
        if key in reply:
            more = f" and {reply[f'{key}_left_out']} more" if f"{key}_left_out" in reply else ""
            yield words, ", ".join(reply[key]) + more


def pretty(value: Any) -> str:
    """A JSON value for a reader; a text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)


def diagnosed(found: Mapping[str, Any]) -> str:
    """What a diagnosis says to who decides, on one line; long texts are cut."""
    sure = f" ({found['confidence']} confidence)" if "confidence" in found else ""
    parts = [f"{shorten(one_line(found['cause']), _VALUE)}{sure}"] if "cause" in found else []
    if found.get("fixes"):
        parts.append(f"waits for {', '.join(found['fixes'])}")
    elif "left" not in found:
        parts.append("requeued")
    else:
        if found.get("proposed"):
            parts.append(f"to repair first: {', '.join(shorten(one_line(one), _VALUE) for one in found['proposed'])}")
        parts += [shorten(one_line(found[name]), _VALUE) for name in ("left", "question") if name in found]
    return " | ".join(parts)


def readable(value: Any) -> str:
    """A JSON value for somebody who is to decide about it."""
    if isinstance(value, str):
        return value
    import yaml

    text: str = yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=110)
    return text


def plural(count: int, noun: str) -> str:
    """A number and what is counted."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _width(text: str) -> int:
    plain = click.unstyle(text)
    if plain.isascii():
        return len(plain)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in plain)


def _cut(text: str, room: int) -> str:
    """As `texts.shorten`, measured in columns of a terminal."""
    if _width(text) <= room or "\x1b" in text:
        return text
    while _width(text) >= room:
        text = text[:-1]
    return f"{text}…"
