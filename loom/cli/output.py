"""How answers look: one JSON object for programs; plain, aligned columns for people, coloured on a terminal.

What agents wrote is data. Characters that a reader cannot see are taken out of it before a person sees it, and escaped
in JSON.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from loom.texts import UNSEEN, clean, one_line, shorten
from loom.texts import plural as plural
from loom.wording import worded_reply

SCHEMA = 1
"""The version of the shapes of `--json`."""

_COLOURS = {
    "done": "green",
    "closed": "green",
    "claimed": "cyan",
    "ready": "yellow",
    "landing": "cyan",
    "retry": "yellow",
    "dead": "red",
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
_LEAST = 13  # columns of a terminal that a column of a table keeps: an id stays whole
_ITEM = re.compile(r"(?:[-*+>]|\d{1,3}[.)])\s+")
_CODE = ("    ", "\t")
_PARTS = re.compile(r"\x1b\[[0-9;]*m|.", re.DOTALL)
_PLAIN = "\x1b[0m"


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


def coloured() -> bool | None:
    """Whether colour is wanted: False where somebody has said no, None where it is for the terminal to say."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def status(name: str) -> str:
    """A status in its colour."""
    return click.style(name, fg=_COLOURS[name]) if name in _COLOURS else name


def state(one: Mapping[str, Any]) -> str:
    """What people call the status of a task in a reply, in its colour."""
    return status(one.get("state", one["status"]))


def heading(text: str) -> str:
    """A title above lines."""
    return click.style(text, bold=True)


def dim(text: str) -> str:
    """What matters less."""
    return click.style(text, fg="bright_black") if text else ""


def columns() -> int | None:
    """How wide the terminal is; None where what is printed goes elsewhere, and nothing is cut or wrapped."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(rows: Iterable[Sequence[str]], indent: str = "") -> Iterator[str]:
    """Rows of cells in aligned columns; on a terminal they fit, the last column being cut first, then the widest."""
    cells = [list(row) for row in rows]
    if not cells:
        return
    widths = [max(_width(row[column]) for row in cells) for column in range(len(cells[0]) - 1)]
    room = columns()
    if room is not None:
        room = max(room - len(indent) - 2 * len(widths), 0)
        last = min(_LEAST, max(_width(row[-1]) for row in cells))
        while sum(widths) + last > room and max(widths, default=0) > _LEAST:
            widths[widths.index(max(widths))] -= 1
        room -= sum(widths)
    for row in cells:
        fitted = [_cut(cell, width) for cell, width in zip(row, widths, strict=False)]
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(fitted, widths, strict=True))
        yield (indent + "  ".join([*padded, row[-1] if room is None else _cut(row[-1], max(room, 1))])).rstrip()


def fitted(line: str) -> str:
    """A line that is cut where a terminal ends."""
    room = columns()
    return line if room is None else _cut(line, room)


def prose(text: str, indent: str = "  ") -> Iterator[str]:
    """A text of several lines as text: on a terminal wrapped at words as Markdown is, code and tables left alone."""
    room, fenced = columns(), False
    begun: list[str] = []  # lines of one paragraph
    for line in clean(text).strip("\n").split("\n"):
        body = line.lstrip()
        fence = body.startswith(("```", "~~~"))
        if room is not None and begun and (fence or begun[0].lstrip().startswith("#") or not _goes_on(line, body)):
            yield from _paragraph(begun, indent, room)
            begun = []
        if room is None or fenced or fence or not body or body.startswith("|") or line.startswith(_CODE):
            yield f"{indent}{line}".rstrip()
        else:
            begun.append(line)
        fenced ^= fence
    if room is not None and begun:
        yield from _paragraph(begun, indent, room)


def titled(head: str, title: str) -> Iterator[str]:
    """A title behind what stands before it; one that a terminal has no room for goes on below, wrapped at words."""
    room = columns()
    if room is None or _width(head) + _width(title) <= room:
        yield f"{head}{heading(title)}"
    else:
        yield head.rstrip()
        yield from (heading(line) for line in _wrapped(title, "  ", "  ", room))


def block(label: str, text: str) -> Iterator[str]:
    """A text of several lines under its label."""
    yield f"  {heading(label)}"
    yield from prose(text, "    ")


def fields(label: str, value: Mapping[str, Any]) -> Iterator[str]:
    """What an object says, under its label: each text as text, everything else as YAML."""
    yield f"  {heading(label)}"
    room = columns()
    for name, one in value.items():
        text, lead = clean(readable(one)).strip(), f"    {dim(one_line(name))}:"
        if "\n" in text:
            yield lead
            yield from prose(text, "      ") if isinstance(one, str) else _indented(text, "      ")
        else:
            yield from [f"{lead} {text}"] if room is None else _wrapped(text, f"{lead} ", "      ", room)


def note_lines(notes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What was written to a task, newest last, each note with its author and time."""
    from loom.cli.times import when

    for one in notes:
        at = f", {when(one['at'])}" if "at" in one else ""
        yield from block(f"note by {one_line(one['by'])}{at}", one["text"])


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


def cut_short(shown: int, limit: int) -> Iterator[str]:
    """Below a list that is as long as was asked for, when it does not know whether that is all."""
    if shown >= limit:
        yield dim(f"{plural(shown, 'row')} shown, there may be more: --limit N")


def _width(text: str) -> int:
    plain = click.unstyle(text)
    if plain.isascii():
        return len(plain)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in plain)


def _cut(text: str, room: int) -> str:
    """As `texts.shorten`, measured in columns of a terminal; what is coloured stays so up to its end."""
    if _width(text) <= room:
        return text
    kept, left, coloured = "", room - 1, False
    for part in _PARTS.findall(text):
        if part.startswith("\x1b"):
            kept, coloured = kept + part, True
        elif (left := left - _width(part)) >= 0:
            kept += part
        else:
            break
    return f"{kept}…" + (_PLAIN if coloured else "")


def _indented(text: str, indent: str) -> Iterator[str]:
    return (f"{indent}{line}" for line in text.split("\n"))


def _goes_on(line: str, body: str) -> bool:
    """Whether a line belongs to the paragraph that the lines before it have begun."""
    return bool(body) and not body.startswith(("|", "#")) and not line.startswith(_CODE) and not _ITEM.match(body)


def _paragraph(lines: Sequence[str], indent: str, room: int) -> Iterator[str]:
    """Some lines as one paragraph; what begins an item of a list stands before the rest of it."""
    first = lines[0].lstrip()
    lead = indent + lines[0][: len(lines[0]) - len(first)]
    item = _ITEM.match(first)
    yield from _wrapped(" ".join(lines), lead, lead + " " * len(item[0] if item else ""), room)


def _wrapped(text: str, lead: str, hanging: str, room: int) -> Iterator[str]:
    """A line as several that fit, broken between words."""
    line, begun = lead, False
    for word in text.split():
        if begun and _width(line) + 1 + _width(word) > room:
            yield line
            line, begun = hanging, False
        line, begun = f"{line} {word}" if begun else line + word, True
    yield line.rstrip()
