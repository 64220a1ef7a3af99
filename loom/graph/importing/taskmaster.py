"""Task Master's `tasks.json`: `{"<tag>": {"tasks": [...]}}`, or `{"tasks": [...]}` from before there were tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from loom import texts
from loom.graph.importing.items import Batch, Item, moment, origin, put_done_when, scalars
from loom.graph.importing.report import AdjustmentKind, Report
from loom.graph.model.task import Priority, TaskStatus

_TRUNK = "master"  # the tag Task Master begins with, and the one it moved tasks without tags to
_STATUS = {
    "pending": TaskStatus.PENDING,
    "done": TaskStatus.DONE,
    "completed": TaskStatus.DONE,
    "cancelled": TaskStatus.CANCELLED,
}
_HELD = frozenset(("deferred", "blocked"))
_PRIORITY = {"high": Priority.P0, "medium": Priority.P1, "low": Priority.P2, "critical": Priority.P0}
_ONE_TO_ONE = frozenset(("high", "medium", "low"))
_PARENT = ("parentId", "parentTaskId")
_NOTHING = frozenset(("undefined", "null"))  # what Task Master writes there for want of a parent
_PLACED = frozenset(
    [
        *("id", "title", "description", "status", "dependencies", "priority", "details", "testStrategy"),
        *("acceptanceCriteria", "subtasks", "isSubtask", *_PARENT),
    ]
)


def recognises(data: object) -> bool:
    """Whether parsed JSON is Task Master's. Its tasks have ids, which those of a plan have not."""
    if not isinstance(data, dict):
        return False
    tasks = data.get("tasks")
    if isinstance(tasks, list):
        return any(isinstance(task, dict) and "id" in task for task in tasks)
    return any(_is_tag(tag) for tag in data.values())


def name_origins(batch: Batch, named: str) -> Batch:
    """A batch of Task Master's, whose ids are unique in one file only, with origin ids that are so in all files."""
    drafts = [replace(draft, origin_id=_named(draft.key, named)) for draft in batch.drafts]
    return replace(batch, drafts=drafts, former={draft.key: draft.key for draft in batch.drafts})


def read(data: Mapping[str, Any], report: Report) -> tuple[list[Item], dict[str, int]]:
    """The items of a file, and what it held.

    A task with subtasks, to any depth, is an epic. Tags are separate lists with ids of their own, most often one for
    each branch or feature, so a tag becomes an epic of that name: its tasks stay together, and it closes with the last
    of them. The trunk, `master` or the only tag there is, needs none.
    """
    tags: dict[str, list[Any]] = {_TRUNK: [*data["tasks"]]} if isinstance(data.get("tasks"), list) else {}
    for name, tag in data.items():
        if _is_tag(tag):
            tags[name] = [*tags.get(name, ()), *tag["tasks"]]
        elif isinstance(tag, dict) and "tasks" in tag:
            report.add(AdjustmentKind.NOT_WORK, origin(f"taskmaster:{name}"), f"tag {texts.quote(name)}")
    items: list[Item] = []
    source = {"tags": len(tags), "tasks": 0, "subtasks": 0, "dependencies": 0}
    for name, tasks in tags.items():
        epic: Item | None = None
        if name != _TRUNK and len(tags) > 1 and tasks:
            epic = Item(origin(f"taskmaster:{name}"), name, TaskStatus.EPIC, epic=True, context=_about(name, data))
            items.append(epic)
        _Tag(name, None if epic is None else epic.key, source, report).read(tasks, items)
    return items, source


class _Entry(NamedTuple):
    """A task or subtask, with the id it has in its tag and its parent's."""

    id: str
    parent: str | None
    task: Mapping[str, Any]
    priority: object
    """Its own, or else its parent's."""


class _Tag:
    """Reads the tasks of one tag."""

    def __init__(self, name: str, epic: str | None, source: dict[str, int], report: Report) -> None:
        self._name, self._epic, self._source, self._report = name, epic, source, report
        self._entries: dict[str, _Entry] = {}
        self._given: dict[str, str] = {}
        """Ids that the file spells with dots, to those of the first that has them."""

    def read(self, tasks: list[Any], items: list[Item]) -> None:
        left = [(task, str(number), None) for number, task in enumerate(tasks, 1)][::-1]
        nested: list[tuple[Any, str, _Entry | None]] = [*left]
        while nested:
            task, place, above = nested.pop()
            if not isinstance(task, dict):
                self._report.add(AdjustmentKind.NOT_WORK, self._key(place), f"entry {place} of tag {self._name}")
                continue
            entry = self._enter(task, place.rpartition(".")[2], above)
            inner = [*enumerate(_list(task.get("subtasks")), 1)]
            nested += [(subtask, f"{entry.id}.{number}", entry) for number, subtask in reversed(inner)]
        items += [self._item(entry) for entry in self._entries.values()]

    def _enter(self, task: Mapping[str, Any], place: str, above: _Entry | None) -> _Entry:
        """Takes down an entry under an id that no other of the tag has: references go to the first that had it."""
        given = _id(task.get("id")) or f"#{place}"
        id = given if above is None or given.startswith(f"{above.id}.") else f"{above.id}.{given}"
        if "." in given:
            self._given.setdefault(given, id)
        times, wanted = 1, id
        while id in self._entries:
            times += 1
            id = f"{wanted}#{times}"
        if id != wanted:
            example = f"{self._key(wanted)} {texts.quote(str(task.get('title')))}"
            self._report.add(AdjustmentKind.SAME_ID, self._key(id), example)
        priority = task.get("priority") or (None if above is None else above.priority)
        entry = self._entries[id] = _Entry(id, None if above is None else above.id, task, priority)
        return entry

    def _item(self, entry: _Entry) -> Item:
        task, dependencies = entry.task, scalars(entry.task.get("dependencies"))
        self._source["tasks" if entry.parent is None else "subtasks"] += 1
        self._source["dependencies"] += len(dependencies)
        former = str(task.get("status") or "pending").strip().lower().replace("_", "-")
        priority = str(entry.priority).strip().lower()
        item = Item(
            key=self._key(entry.id),
            title=str(task.get("title") or task.get("description") or ""),
            status=_STATUS.get(former, TaskStatus.PENDING),
            was=None if former in _STATUS else former,
            deferred=f"Task Master had it as {former}." if former in _HELD else None,
            parents=list(self._parents(entry)),
            depends_on=[self._key(self._target(name, entry)) for name in dependencies],
            priority=_PRIORITY.get(priority, Priority.P1),
            context={name: task[name] for name in ("description", "details") if task.get(name)},
            done_at=moment(task.get("updatedAt")),
        )
        put_done_when(
            item, ("acceptance_criteria", task.get("acceptanceCriteria")), ("test_strategy", task.get("testStrategy"))
        )
        extra = {name: value for name, value in task.items() if name not in _PLACED and value not in (None, "", [])}
        if entry.priority and priority not in _ONE_TO_ONE:
            extra["priority"] = entry.priority
        item.context |= _origin(self._name, {"id": entry.id, **extra})
        return item

    def _parents(self, entry: _Entry) -> Iterator[str]:
        """What an entry stands under: where it is nested, and what else it names; at the top its tag's epic."""
        if entry.parent is not None:
            yield self._key(entry.parent)
        names = dict.fromkeys(name for field in _PARENT for name in scalars(entry.task.get(field)))
        named = [self._known(name) for name in names if name not in _NOTHING and not self._is_parent(name, entry)]
        yield from map(self._key, named)
        if entry.parent is None and self._epic is not None and self._entries.keys().isdisjoint(named):
            yield self._epic

    def _is_parent(self, name: str, entry: _Entry) -> bool:
        parent = None if entry.parent is None else self._entries[entry.parent]
        return parent is not None and name in (parent.id, str(parent.task.get("id")))

    def _target(self, name: str, entry: _Entry) -> str:
        """What a dependency names: within a parent a sibling if there is one, else what stands further out."""
        scope = entry.parent
        while scope is not None:
            if (within := f"{scope}.{name}") in self._entries and within != entry.id:
                return within
            scope = self._entries[scope].parent
        return self._known(name)

    def _known(self, name: str) -> str:
        return name if name in self._entries else self._given.get(name, name)

    def _key(self, id: str) -> str:
        return origin(f"taskmaster:{self._name}:{id}")


def _named(key: str, named: str) -> str:
    return origin(f"taskmaster/{named}#{key.removeprefix('taskmaster:')}")


def _is_tag(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("tasks"), list)


def _about(tag: str, data: Mapping[str, Any]) -> dict[str, Any]:
    metadata = data[tag].get("metadata") or {}
    return _origin(tag, metadata if isinstance(metadata, dict) else {"metadata": metadata})


def _origin(tag: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    return {"origin": {"format": "taskmaster", "tag": tag, **extra}}


def _id(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    return str(value).strip() or None


def _list(value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if value is None else [value]
