"""What was added to a task on the way: by whom, when, and what is said. Notes are messages whose recipient is the task;
earlier versions of Loom kept them in the context, from where they are read on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

NOTES = 20
"""How many of a task's notes are shown, the newest."""

_KEYS = frozenset(("at", "by", "text"))


@dataclass(frozen=True, slots=True)
class Note:
    """One note."""

    by: str
    text: str
    at: datetime | None = None
    """None where nobody knows."""


def noted(context: Mapping[str, Any], written: Iterable[Note]) -> list[Note]:
    """The newest notes of a task, newest last: those in its context, then those that were written to it."""
    return [*_kept(context), *written][-NOTES:]


def without_notes(context: Mapping[str, Any]) -> dict[str, Any]:
    """A context without the notes that `noted` finds there."""
    return {name: value for name, value in context.items() if name != "notes" or not _kept(context)}


def read_note(by: object, text: object, at: object) -> Note:
    """A note from JSON values."""
    try:
        moment = datetime.fromisoformat(str(at))
    except ValueError:
        moment = None
    return Note(str(by), str(text), moment)


def _kept(context: Mapping[str, Any]) -> list[Note]:
    """The notes in a context; none where something else stands under that name."""
    kept = context.get("notes")
    if not isinstance(kept, list) or not all(isinstance(one, dict) and one.keys() == _KEYS for one in kept):
        return []
    return [read_note(one["by"], one["text"], one["at"]) for one in kept]
