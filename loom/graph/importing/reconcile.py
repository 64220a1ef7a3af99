"""One file by itself: from items, as another tool had them, to drafts that satisfy every invariant of Loom's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from loom import texts
from loom.graph.importing.items import Item, origin, relate
from loom.graph.importing.report import AdjustmentKind, Report
from loom.graph.importing.settling import Graph
from loom.graph.importing.values import Cleaner, cut_to_limit, only_fit
from loom.graph.model import limits
from loom.graph.model.plan import Draft
from loom.graph.model.task import TaskStatus

_REASON_CHARACTERS = limits.MESSAGE_BYTES // 4  # of at most four bytes each


def reconcile(items: Iterable[Item], report: Report) -> list[Draft]:
    """Makes drafts that satisfy every invariant, in the order of the items, and reports what gave way."""
    by_key = _distinct(items, report)
    parents = _parents(by_key, report)
    epics = {key for key, item in by_key.items() if item.epic} | set(parents.values())
    graph = Graph(report)
    for key, item in by_key.items():
        graph.add(
            key,
            str(item),
            item.status,
            epic=key in epics,
            parent=parents.get(key),
            depends_on=_dependencies(item, by_key, report),
            waived=item.waived,
        )
    graph.derive_epics()
    graph.break_cycles()
    graph.waive()
    return [_draft(item, graph) for item in by_key.values()]


def _distinct(items: Iterable[Item], report: Report) -> dict[str, Item]:
    by_key: dict[str, Item] = {}
    for item in items:
        if item.key in by_key:
            report.add(AdjustmentKind.DUPLICATE, item.key, str(item))
        else:
            by_key[item.key] = replace(item, context=dict(item.context))
    return by_key


def _parents(by_key: Mapping[str, Item], report: Report) -> dict[str, str]:
    """The parent of each item that has one: the first it names that exists, without cycles."""
    parents: dict[str, str] = {}
    for key, item in by_key.items():
        for name in dict.fromkeys(item.parents):
            if name == key:
                report.add(AdjustmentKind.PARENT_CYCLE, key, str(item))
            elif name not in by_key:
                report.add(AdjustmentKind.DANGLING, key, f"{item} under {texts.quote(name)}")
            elif key not in parents:
                parents[key] = name
            else:
                relate(item.context, {"type": "parent", "id": name, "title": by_key[name].title})
                report.add(AdjustmentKind.SECOND_PARENT, key, f"{item} under {by_key[name]}")
    for key in _closing_cycles(parents):
        above = parents.pop(key)
        report.add(AdjustmentKind.PARENT_CYCLE, key, f"{by_key[key]} under {by_key[above]}")
    return parents


def _closing_cycles(parents: Mapping[str, str]) -> list[str]:
    """Whose parent is to be dropped so that nothing is its own ancestor: in each cycle the last that a walk meets."""
    closing: list[str] = []
    checked: set[str] = set()
    for key in parents:
        walked: dict[str, None] = {}
        at: str | None = key
        while at is not None and at not in checked and at not in walked:
            walked[at] = None
            at = parents.get(at)
        if at is not None and at in walked:  # the walk came back to itself: cut where it began to repeat
            closing.append(next(reversed(walked)))
        checked.update(walked)
    return closing


def _dependencies(item: Item, by_key: Mapping[str, Item], report: Report) -> list[str]:
    found: list[str] = []
    for name in dict.fromkeys(item.depends_on):
        if name not in by_key:
            report.add(AdjustmentKind.DANGLING, item.key, f"{item} on {texts.quote(name)}")
        elif len(found) == limits.DEPENDENCIES:
            report.add(AdjustmentKind.TOO_MANY, item.key, f"{item} on {by_key[name]}")
        else:
            found.append(name)
    return found


def _draft(item: Item, graph: Graph) -> Draft:
    """The item with its place in the graph and its texts made fit."""
    key, status = item.key, graph.status[item.key]
    cleaner = Cleaner()
    context = cleaner.value(item.context)
    title, title_cut = _title(cleaner.value(item.title), item.title, context)
    if title_cut:
        graph.report.add(AdjustmentKind.TITLE, key, graph.names[key])
    if item.was is not None and status is TaskStatus.PENDING:
        context["imported_status"] = cleaner.value(item.was)
        if item.deferred is None and key not in graph.epics:
            graph.report.add(AdjustmentKind.PENDING, key, f"{item}, {texts.quote(item.was)[1:-1]}")
    deferred = None
    if item.deferred is not None and status is TaskStatus.PENDING:
        deferred = texts.shorten(cleaner.value(item.deferred), _REASON_CHARACTERS)
        graph.report.add(AdjustmentKind.DEFERRED, key, f"{item}: {texts.shorten(texts.one_line(deferred), 80)}")
    done_when = _done_when(cleaner.value(item.done_when), context)
    files = only_fit(item.files, limits.path, limits.PATHS, cleaner)
    checks = only_fit(item.checks, limits.check, limits.CHECKS, cleaner)
    labels = only_fit(item.labels, limits.label, limits.LABELS, cleaner)
    context, context_cut = cut_to_limit(context)
    output, output_cut = cut_to_limit(cleaner.value(item.output or {}))
    if context_cut or output_cut:
        graph.report.add(AdjustmentKind.SHORTENED, key, graph.names[key])
    if cleaner.changed:
        graph.report.add(AdjustmentKind.CLEANED, key, graph.names[key])
    return Draft(
        key=key,
        title=title or "Untitled",
        epic=key in graph.epics,
        parent=graph.parents.get(key),
        depends_on=tuple(graph.depends_on[key]),
        priority=item.priority,
        context=context,
        done_when=done_when,
        files=files,
        checks=checks,
        labels=labels,
        status=status,
        output=output if status is TaskStatus.DONE and item.output is not None else None,
        waived=frozenset(graph.waived[key]),
        deferred=deferred,
        origin_id=origin(item.origin_id or key),
        created_at=item.created_at,
        done_at=item.done_at if status.finished else None,
    )


def _title(clean: str, given: str, context: dict[str, Any]) -> tuple[str, bool]:
    """A title on one line and within the limit, and whether it had to be cut. One that had to change is kept whole in
    the context."""
    title = texts.one_line(limits.NOT_ONE_LINE.sub(" ", clean))
    if title != given.strip() and title:
        context["full_title"] = clean
    if len(title) <= limits.TITLE_CHARACTERS:
        return title, False
    return title[: limits.TITLE_CHARACTERS - 1].rstrip() + "…", True


def _done_when(clean: str | None, context: dict[str, Any]) -> str | None:
    """Criteria within the limit; longer ones go into the context."""
    text = (clean or "").strip() or None
    if text is None or len(text.encode()) <= limits.DONE_WHEN_BYTES:
        return text
    context["done_when"] = text
    return None
