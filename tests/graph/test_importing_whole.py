"""Nothing of a file is lost without a word: each entry and each reference of generated files is a task, an edge, a note
in a context, or a line of the report; in the file by itself, and beside a project that has part of it already."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from loom.graph.importing import Batch, read
from loom.graph.importing.fitting import fit
from loom.graph.importing.report import Adjusted, AdjustmentKind
from loom.graph.model.plan import Draft
from loom.graph.model.task import TaskStatus
from loom.graph.store.origins import KnownTask


class Entry(NamedTuple):
    """An entry of a file: its id there, a title that no other has, and the names of what it refers to."""

    id: str
    title: str
    references: list[str]


class File(NamedTuple):
    """A generated file, what is in it, and how many entries are nothing at all."""

    text: str
    entries: list[Entry]
    rubbish: int = 0


# --- files ------------------------------------------------------------------------------------------------------------

status = st.sampled_from(["pending", "done", "cancelled", "deferred", "blocked", "in-progress", "review", "no such"])
numbers = st.sampled_from(["1", "2", "3", "1.1", "1.2", "2.1", "1.1.1", "2.2.1", "9"])


@st.composite
def task_master(draw: st.DrawFn) -> File:
    entries: list[Entry] = []
    rubbish = 0

    def some(depth: int) -> list[Any]:
        nonlocal rubbish
        tasks: list[Any] = []
        for _ in range(draw(st.integers(0, 3 - depth))):
            if draw(st.integers(0, 9)) == 0:
                rubbish += 1
                tasks.append(draw(st.sampled_from([None, 7, "text", []])))
                continue
            given, references = draw(numbers), draw(st.lists(numbers, max_size=3))
            parent = draw(st.lists(numbers, max_size=1))
            entry = Entry(given, f"T{len(entries)}.", [*references, *parent])
            entries.append(entry)
            as_numbers = [int(one) if one.isdigit() else one for one in references]
            task: dict[str, Any] = {
                "id": int(given) if given.isdigit() else given,
                "title": entry.title,
                "status": draw(status),
                "dependencies": draw(st.sampled_from([references, ", ".join(references), as_numbers])),
                "parentId": parent[0] if parent else None,
            }
            if depth < 3 and (subtasks := some(depth + 1)):
                task["subtasks"] = subtasks
            tasks.append(task)
        return tasks

    master, other = some(0), some(0)
    data = {"master": {"tasks": [*master, {"id": 77, "title": "last."}]}, "other": {"tasks": other}}
    return File(json.dumps(data), [*entries, Entry("77", "last.", [])], rubbish)


names = st.sampled_from(["a", "b", "c", "d", "a.1", "zz"])
link_kinds = st.sampled_from(
    ["blocks", "BLOCKS", "waits_for", "conditional-blocks", "parent-child", "related", "x", "", None]
)


def spelled_links(links: Sequence[tuple[str | None, str]], how: int) -> Any:
    match how:
        case 0:
            return {target: kind for kind, target in links}
        case 1:
            return [{target: kind} for kind, target in links]
        case 2:
            return [{"depends_on": [target], "dependency_type": kind} for kind, target in links]
        case 3:
            return [target for _, target in links]
        case 4:
            return ",".join(target for _, target in links)
        case _:
            return [{"issue_id": "x", "depends_on_id": target, "type": kind} for kind, target in links]


@st.composite
def beads(draw: st.DrawFn) -> File:
    rows: list[Any] = [{"id": "first", "title": "first.", "status": "open"}]
    entries = [Entry("first", "first.", [])]
    rubbish = 0
    for number in range(draw(st.integers(0, 6))):
        if draw(st.integers(0, 9)) == 0:
            rubbish += 1
            rows.append(draw(st.sampled_from([None, 7, {"title": "no id"}, []])))
            continue
        links = draw(st.lists(st.tuples(link_kinds, names), max_size=3, unique_by=lambda link: link[1]))
        row = {
            "id": draw(names),
            "title": f"B{number}.",
            "status": draw(
                st.sampled_from(["open", "closed", "blocked", "pinned", "hooked", "tombstone", "in_progress"])
            ),
            "issue_type": draw(st.sampled_from(["task", "epic", "event"])),
            "updated_at": f"2026-01-0{draw(st.integers(1, 9))}T00:00:00Z",
            "dependencies": spelled_links(links, draw(st.integers(0, 5))),
            draw(st.sampled_from(["depends_on", "blocked_by", "parent", "parent_id"])): (
                more := draw(st.lists(names, max_size=2))
            ),
        }
        rows.append(row)
        entries.append(Entry(row["id"], row["title"], [*(target for _, target in links), *more]))
    return File(json.dumps(rows), entries, rubbish)


@st.composite
def exports(draw: st.DrawFn) -> File:
    tasks: list[Any] = []
    entries: list[Entry] = []
    rubbish = 0
    for number in range(draw(st.integers(0, 6))):
        if draw(st.integers(0, 9)) == 0:
            rubbish += 1
            tasks.append(draw(st.sampled_from([None, {"title": "no id"}])))
            continue
        depends_on, parent = draw(st.lists(names, max_size=3)), draw(st.none() | names)
        one: dict[str, Any] = {
            "id": draw(names),
            "title": f"L{number}.",
            "status": draw(st.sampled_from([*map(str, TaskStatus), "no such"])),
            "depends_on": draw(st.sampled_from([depends_on, ",".join(depends_on)])),
            "parent_id": parent,
        }
        tasks.append(one)
        entries.append(Entry(one["id"], one["title"], [*depends_on, *([parent] if parent else [])]))
    return File(json.dumps({"loom_export": 1, "project": {"id": "p", "name": "p"}, "tasks": tasks}), entries, rubbish)


files = task_master() | beads() | exports()


# --- what became of it ------------------------------------------------------------------------------------------------


@settings(max_examples=500, deadline=None)
@given(files)
def test_every_entry_and_reference_of_a_file_is_accounted_for(file: File) -> None:
    batch = read(file.text, "file")
    drafts = {draft.title: draft for draft in batch.drafts}
    cases = list(batch.report)
    assert sum(one.kind is AdjustmentKind.NOT_WORK and "entry " in one.example for one in cases) == file.rubbish
    for entry in file.entries:
        draft = drafts.get(entry.title)
        if draft is None:
            assert any(one.kind in _LEFT_OUT and names_it(one.example, entry.id) for one in cases), entry
            continue
        for reference in entry.references:
            places = [*draft.depends_on, *([draft.parent] if draft.parent else []), *related(draft)]
            assert any(names_it(place, reference) for place in places) or told(cases, [draft.key], reference), reference


@settings(max_examples=300, deadline=None)
@given(st.one_of(*(st.tuples(kind, kind) for kind in (task_master(), beads(), exports()))), st.data())
def test_beside_a_project_that_has_part_of_it_too(two: tuple[File, File], data: st.DataObject) -> None:
    before, after = (read(file.text, "file") for file in two)
    known = outlines(before, data)
    fitted = fit(after, known.values())
    cases = list(fitted.report)
    new = {draft.key: draft for draft in fitted.drafts}
    for draft in after.drafts:
        here = fitted.there.get(draft.key)
        if here is None and draft.key not in new:
            assert any(one.kind is AdjustmentKind.EMPTIED and one.key == draft.key for one in cases)
            continue
        for name in [*draft.depends_on, *([draft.parent] if draft.parent else [])]:
            target = fitted.there.get(name, name)
            if here is None:
                one = new[draft.key]
                held = target in (*one.depends_on, one.parent, *related(one))
            else:
                held = target in (*known[here].depends_on, known[here].parent_id) or (here, name) in fitted.links
            assert held or told(cases, [draft.key, here], name) or told(cases, [draft.key, here], target), (draft, name)


_LEFT_OUT = (AdjustmentKind.NOT_WORK, AdjustmentKind.DUPLICATE)


def names_it(place: str, name: str) -> bool:
    """Whether a key, or a text about one, is about an entry or target of that name, or the second that has it."""
    words = (re.sub(r"(?<=\w)#\d+$", "", word.strip("“”(),:")) for word in place.split(" "))
    return any(word == name or word.endswith((f":{name}", f".{name}")) for word in words)


def told(cases: Iterable[Adjusted], keys: Sequence[str | None], name: str) -> bool:
    """Whether the report has a line on that reference of one of these entries."""
    return any(
        one.key in keys and (names_it(part, name) or f"{part}".strip("“”") == name)
        for one in cases
        for part in (one.example.rpartition(" on ")[2], one.example.rpartition(" under ")[2])
    )


def related(draft: Draft) -> list[str]:
    notes = draft.context.get("related", [])
    return [str(note["id"]) for note in notes if isinstance(note, Mapping)]


def outlines(batch: Batch, data: st.DataObject) -> dict[str, KnownTask]:
    """A project that part of a file came into, some of which has been begun since."""
    drafts = [draft for draft in batch.drafts if data.draw(st.booleans()) or draft.epic]
    ids = {draft.key: f"loom-{number:08x}" for number, draft in enumerate(drafts)}
    moved = st.sampled_from([TaskStatus.PENDING, TaskStatus.CLAIMED, TaskStatus.FAILED])
    known = {}
    for draft in drafts:
        open_status = TaskStatus.EPIC if draft.epic else data.draw(moved)
        known[ids[draft.key]] = KnownTask(
            id=ids[draft.key],
            origin_id=draft.origin_id,
            status=draft.status if draft.status.finished else open_status,
            parent_id=ids.get(draft.parent or ""),
            depends_on=tuple(ids[name] for name in draft.depends_on if name in ids),
            waived=frozenset(ids[name] for name in draft.waived if name in ids),
            title=draft.title,
        )
    return known
