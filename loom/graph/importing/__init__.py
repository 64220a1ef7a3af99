"""Importing: from the text of a file to drafts that satisfy Loom's invariants, and a report of what gave way.

| module | holds |
|---|---|
| `taskmaster` `beads` `native` | a reader for each format, which makes items |
| `items` `report` `values` | what readers make, what they report, and values made fit |
| `reconcile` | one file by itself: items to drafts |
| `fitting` | those drafts beside what the project has |
| `settling` | the graph that both settle |
| `writing` | all of it in one transaction |
"""

from __future__ import annotations

import json
from typing import Any

from loom import texts
from loom.exceptions import ImportFormatError, PlanError
from loom.graph.importing import beads, native, taskmaster
from loom.graph.importing.items import Batch
from loom.graph.importing.reconcile import reconcile
from loom.graph.importing.report import Adjustment, AdjustmentKind, Report
from loom.graph.model import limits, plan

__all__ = ["NAMED", "Adjustment", "AdjustmentKind", "Batch", "Report", "read"]

NAMED = frozenset({"plan", "taskmaster"})
"""The formats whose ids are unique in one file only, so that it matters by what the file is known."""

_FORMATS = "Loom reads Task Master's tasks.json, Beads' issues.jsonl, its own export, and plans."


def read(text: str, name: str, *, known_as: str | None = None) -> Batch:
    """Reads a file of any format that Loom knows, recognised by its content.

    Args:
        text: the whole file.
        name: its name, for errors.
        known_as: by what a file of the `NAMED` formats is known when it comes again. None: the tasks of a plan are new
            each time, and Task Master's ids stand for themselves.

    Raises:
        ImportFormatError: the format is none of these, or the file is damaged.
        PlanError, DependencyCycleError: it is a plan that cannot be written.
    """
    text = text.removeprefix("\ufeff")
    data = _values(text, name)
    report = Report()
    if native.recognises(data):
        kind, (items, source) = "loom", native.read(data, name, report)
    elif taskmaster.recognises(data):
        kind, (items, source) = "taskmaster", taskmaster.read(data, report)
    elif beads.recognises(data):
        kind, (items, source) = "beads", beads.read(data, report)
    elif native.is_plan(data):
        return native.plan_batch(data, name, known_as)
    else:
        raise ImportFormatError(f"{name} holds {_seen(data)}, which is no format that Loom knows.", _FORMATS)
    batch = Batch(kind, reconcile(items, report), report, source)
    return taskmaster.name_origins(batch, known_as) if kind == "taskmaster" and known_as is not None else batch


def _values(text: str, name: str) -> Any:
    """The values in a text that is JSON, JSON lines or YAML."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            data = json.loads(text)
        except RecursionError:
            raise ImportFormatError(f"{name} is nested too deep to be read.", _FORMATS) from None
        except ValueError:
            if (rows := _lines(text, name)) is not None:
                return rows
        else:
            return [data] if beads.recognises([data]) and "tasks" not in data else data  # a single line is JSON too
    try:
        return plan.load(text)
    except PlanError as error:
        raise ImportFormatError(f"{name} cannot be read: {error.cause}", _FORMATS) from None


def _lines(text: str, name: str) -> list[object] | None:
    """JSON lines, or None where the first is not a JSON object."""
    rows: list[object] = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON may hold other line separators
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            if not rows:
                return None
            raise ImportFormatError(
                f"{name} is damaged: line {number} is not JSON, but {texts.quote(line.strip(), 40)}.",
                "Mend that line; after a merge, look for conflict markers.",
            ) from None
    return rows


def _seen(data: object) -> str:
    if isinstance(data, dict):
        keys = ", ".join(texts.quote(str(key), 30) for key in list(data)[:5])
        return f"an object with the keys {keys}" if keys else "an empty object"
    return "nothing" if data is None else limits.kind(data)
