"""Beads' issues, as in `.beads/issues.jsonl`: one JSON object a line."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from loom import texts
from loom.graph.importing.items import Item, moment, origin, put_done_when, relate, scalars
from loom.graph.importing.report import AdjustmentKind, Report
from loom.graph.model.task import Priority, TaskStatus

_PARENT = frozenset(("parent-child", "parent"))
_BLOCKING = frozenset(("", "blocks", "blocked-by", "depends-on", "conditional-blocks", "waits-for"))
_TARGET = ("depends_on_id", "depends_on", "target_id", "id")
_NOT_WORK = frozenset(("event", "agent", "role", "message", "rig", "slot", "config"))
_HELD = frozenset(("deferred", "blocked", "pinned"))
_PRIORITY = {0: Priority.P0, 1: Priority.P1, 2: Priority.P1, 3: Priority.P2, 4: Priority.P2}
_TEXTS = ("description", "design", "notes")
_NOT_IN_LABELS = re.compile(r"[^a-z0-9._:/-]+")
_PLACED = frozenset(
    [
        *("_type", "id", "title", "status", "parent", "parent_id", "dependencies", "depends_on", "blocked_by"),
        *("comments", "labels", "acceptance_criteria", "created_at", "closed_at", "close_reason", *_TEXTS),
    ]
)


def recognises(rows: object) -> bool:
    """Whether parsed lines, or a JSON array, are Beads' issues."""
    return isinstance(rows, list) and any(
        isinstance(row, dict) and "id" in row and "title" in row and ("issue_type" in row or "status" in row)
        for row in rows
    )


def read(rows: Sequence[object], report: Report) -> tuple[list[Item], dict[str, int]]:
    """The items of a file, and what it held. Tombstones and what is not work are left out and reported."""
    work: list[Mapping[str, Any]] = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not row.get("id"):
            report.add(AdjustmentKind.NOT_WORK, f"beads:#{number}", f"entry {number}")
        elif why := _not_work(row):
            report.add(AdjustmentKind.NOT_WORK, _key(row["id"]), f"{_key(row['id'])} ({why})")
        else:
            work.append(row)
    newest: dict[str, Mapping[str, Any]] = {}
    for row in work:  # a merge can leave an issue's older lines in the file
        id = str(row["id"])
        if id in newest:
            report.add(AdjustmentKind.DUPLICATE, _key(id), _key(id))
        if id not in newest or _changed(newest[id]) <= _changed(row):
            newest[id] = row
    items = [_item(row, newest, report) for row in newest.values()]
    _tell_priorities(newest.values(), items, report)
    source = {"issues": len(rows), "dependencies": sum(len(_links(row)) for row in rows if isinstance(row, dict))}
    return items, source


def _not_work(row: Mapping[str, Any]) -> str:
    if row.get("status") == "tombstone" or row.get("deleted_at"):
        return "tombstone"
    if (record := row.get("_type") or "issue") != "issue":
        return str(record)
    if row.get("ephemeral") is True:
        return "ephemeral"
    if row.get("is_template") is True:
        return "template"
    return str(row["issue_type"]) if str(row.get("issue_type")) in _NOT_WORK else ""


def _item(row: Mapping[str, Any], ids: Collection[str], report: Report) -> Item:
    former = str(row.get("status") or "open").strip().lower()
    closed = former == "closed"
    item = Item(
        key=_key(row["id"]),
        title=str(row.get("title") or ""),
        status=TaskStatus.DONE if closed else TaskStatus.PENDING,
        was=None if former in ("open", "closed") else former,
        deferred=_why_deferred(row, former),
        epic=row.get("issue_type") in ("epic", "molecule"),
        priority=_priority(row.get("priority")),
        context={name: row[name] for name in _TEXTS if row.get(name)},
        output={"close_reason": row["close_reason"]} if closed and row.get("close_reason") else None,
        created_at=moment(row.get("created_at")),
        done_at=moment(row.get("closed_at")),
    )
    for kind, target in _links(row):
        _put_link(item, kind, target, report)
    _put_parent(item, row, ids)
    _put_labels(item, scalars(row.get("labels")))
    put_done_when(item, ("acceptance_criteria", row.get("acceptance_criteria")))
    if comments := row.get("comments"):
        item.context["comments"] = list(map(_comment, comments)) if isinstance(comments, list) else comments
    extra = {name: value for name, value in row.items() if name not in _PLACED and value not in (None, "", [])}
    item.context["origin"] = {"format": "beads", "id": str(row["id"]), **extra}
    return item


def _why_deferred(row: Mapping[str, Any], former: str) -> str | None:
    """Why an issue is not to be done yet, or None."""
    if until := row.get("defer_until"):
        return f"Beads had it deferred until {until}."
    if former in _HELD:
        return f"Beads had it as {former}."
    return "Beads had it pinned." if row.get("pinned") is True else None


def _put_link(item: Item, kind: str, target: str | None, report: Report) -> None:
    """One of an issue's dependencies as what it is for Loom: a parent, a dependency, or a related note."""
    if target is None:
        report.add(AdjustmentKind.UNREADABLE, item.key, f"{item}: {texts.quote(kind)}")
        return
    if kind in _PARENT:
        item.parents.append(_key(target))
        return
    if kind in _BLOCKING:
        item.depends_on.append(_key(target))
    if kind == "conditional-blocks":  # to run only if the other fails: Loom has no such edge, a reader decides
        report.add(AdjustmentKind.CONDITIONAL, item.key, f"{item} on {target}")
    if kind == "conditional-blocks" or kind not in _BLOCKING:
        relate(item.context, {"type": kind, "id": target})


def _put_parent(item: Item, row: Mapping[str, Any], ids: Collection[str]) -> None:
    """The parent that an issue names as such, or else shows by its id: bd-1.2 is a child of bd-1."""
    item.parents += [_key(name) for field in ("parent", "parent_id") for name in scalars(row.get(field))]
    above, _, last = str(row["id"]).rpartition(".")
    if not item.parents and last.isdigit() and above in ids:
        item.parents.append(_key(above))


def _put_labels(item: Item, given: Sequence[str]) -> None:
    """An issue's labels, with - for what no label of Loom's has; as they were, they stay in the context then."""
    item.labels = [_NOT_IN_LABELS.sub("-", one.lower()).strip("-") for one in given]
    if item.labels != [one.lower() for one in given]:
        item.context["labels"] = [*given]


def _links(row: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Kind and target of each of an issue's dependencies, in the several spellings that tools write; in place of a
    target that cannot be read None, and then the kind is what was found."""
    found: list[tuple[str, str | None]] = []
    links = row.get("dependencies")
    for link in links if isinstance(links, list) else scalars(links) if not isinstance(links, dict) else [links]:
        found += _link(link)
    found += [("", name) for field in ("depends_on", "blocked_by") for name in scalars(row.get(field))]
    return found


def _link(link: object) -> list[tuple[str, str | None]]:
    """What one of them says: an object with kind and target, objects of kinds by target, or a target alone."""
    if isinstance(link, str | int | float) and not isinstance(link, bool):
        return [("", name) for name in scalars(link)]
    if not isinstance(link, dict):
        return [(str(link), None)]
    if any(name in link for name in _TARGET):
        targets = next((names for name in _TARGET if (names := scalars(link.get(name)))), [])
        kind = _kind(link.get("type") or link.get("dependency_type"))
        return [(kind, target) for target in targets] or [(str(link), None)]
    pairs: list[tuple[str, str | None]] = [
        (_kind(kind.get("type") if isinstance(kind, dict) else kind), str(target)) for target, kind in link.items()
    ]
    return pairs or [("{}", None)]


def _kind(value: object) -> str:
    return str(value or "").strip().lower().replace("_", "-")


def _changed(row: Mapping[str, Any]) -> float:
    at = moment(row.get("updated_at"))
    return 0 if at is None else at.timestamp()


def _comment(comment: object) -> object:
    if not isinstance(comment, dict):
        return comment
    return {name: comment[name] for name in ("author", "created_at", "text") if comment.get(name)}


def _tell_priorities(rows: Iterable[Mapping[str, Any]], items: Iterable[Item], report: Report) -> None:
    """Reports priorities that were different ones and are no more."""
    merged: dict[Priority, dict[str, list[Item]]] = {}
    for row, item in zip(rows, items, strict=True):
        if (given := row.get("priority")) is not None:
            merged.setdefault(item.priority, {}).setdefault(str(given), []).append(item)
    for priority, by_given in merged.items():
        for given, those in by_given.items() if len(by_given) > 1 else ():
            for item in those:
                report.add(AdjustmentKind.PRIORITY, item.key, f"{item}, {texts.quote(given)[1:-1]} as {priority}")


def _priority(value: object) -> Priority:
    if isinstance(value, str) and value.lower().removeprefix("p").isdecimal():
        value = int(value.lower().removeprefix("p")[:3])
    return _PRIORITY.get(value, Priority.P1) if isinstance(value, int) else Priority.P1


def _key(id: object) -> str:
    return origin(f"beads:{id}")
