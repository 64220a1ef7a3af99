"""Task Master's `tasks.json`: `{"<tag>": {"tasks": [...]}}`, or `{"tasks": [...]}` from before there were tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loom import texts
from loom.graph.importing.items import Item, moment, origin, put_done_when
from loom.graph.importing.report import AdjustmentKind, Report
from loom.graph.model.task import Priority, TaskStatus

_TRUNK = "master"  # the tag Task Master begins with, and the one it moved tasks without tags to
_STATUS = {
    "pending": TaskStatus.PENDING,
    "done": TaskStatus.DONE,
    "completed": TaskStatus.DONE,
    "cancelled": TaskStatus.CANCELLED,
}
_PRIORITY = {"critical": Priority.P0, "high": Priority.P0, "medium": Priority.P1, "low": Priority.P2}
_PLACED = frozenset(
    [
        *("id", "title", "description", "status", "dependencies", "priority", "details", "testStrategy"),
        *("acceptanceCriteria", "subtasks", "parentId", "parentTaskId", "isSubtask"),
    ]
)


def recognises(data: object) -> bool:
    """Whether parsed JSON is Task Master's. Its tasks have ids, which those of a plan have not."""
    if not isinstance(data, dict):
        return False
    tasks = data.get("tasks")
    if isinstance(tasks, list):
        return any(isinstance(task, dict) and "id" in task for task in tasks)
    return any(isinstance(tag, dict) and isinstance(tag.get("tasks"), list) for tag in data.values())


def read(data: Mapping[str, Any], report: Report) -> tuple[list[Item], dict[str, int]]:
    """The items of a file, and what it held.

    A task with subtasks is an epic. Tags are separate lists with ids of their own, most often one for each branch or
    feature, so a tag becomes an epic of that name: its tasks stay together, and it closes with the last of them. The
    trunk, `master` or the only tag there is, needs none.
    """
    tags = {_TRUNK: data} if isinstance(data.get("tasks"), list) else data
    tags = {name: tag for name, tag in tags.items() if isinstance(tag, dict) and isinstance(tag.get("tasks"), list)}
    items: list[Item] = []
    source = {"tags": len(tags), "tasks": 0, "subtasks": 0, "dependencies": 0}
    for name, tag in tags.items():
        epic: Item | None = None
        if name != _TRUNK and len(tags) > 1 and tag["tasks"]:
            metadata = tag.get("metadata") or {}
            epic = Item(origin(f"taskmaster:{name}"), name, TaskStatus.EPIC, epic=True, context=_origin(name, metadata))
            items.append(epic)
        _Tag(name, None if epic is None else epic.key, items, source, report).read(tag["tasks"])
    return items, source


class _Tag:
    """Reads the tasks of one tag into `items`."""

    def __init__(self, name: str, epic: str | None, items: list[Item], source: dict[str, int], report: Report) -> None:
        self._name, self._epic, self._items, self._source, self._report = name, epic, items, source, report
        self._ids: set[str] = set()

    def read(self, tasks: list[Any]) -> None:
        rows: list[tuple[str, str | None, Mapping[str, Any], Mapping[str, Any]]] = []
        for number, task in enumerate(tasks, 1):
            if not self._is_task(task, str(number)):
                continue
            id = self._distinct(_id(task.get("id")) or f"#{number}", task)
            rows.append((id, None, task, task))
            for place, subtask in enumerate(_list(task.get("subtasks")), 1):
                if self._is_task(subtask, f"{id}.{place}"):
                    inner = (_id(subtask.get("id")) or f"#{place}").rsplit(".", 1)[-1]
                    rows.append((self._distinct(f"{id}.{inner}", subtask), id, subtask, task))
        for id, parent, task, top in rows:
            self._items.append(self._item(id, parent, task, top))

    def _distinct(self, id: str, task: Mapping[str, Any]) -> str:
        """The id, or one made of it where another task of the tag has it: references go to the first."""
        times = 1
        given = id
        while id in self._ids:
            times += 1
            id = f"{given}#{times}"
        if id != given:
            example = f"{self._key(given)} {texts.quote(str(task.get('title')))}"
            self._report.add(AdjustmentKind.SAME_ID, self._key(id), example)
        self._ids.add(id)
        return id

    def _is_task(self, task: object, place: str) -> bool:
        if not isinstance(task, dict):
            self._report.add(AdjustmentKind.NOT_WORK, self._key(place), f"entry {place} of tag {self._name}")
        return isinstance(task, dict)

    def _item(self, id: str, parent: str | None, task: Mapping[str, Any], top: Mapping[str, Any]) -> Item:
        dependencies = _list(task.get("dependencies"))
        self._source["tasks" if parent is None else "subtasks"] += 1
        self._source["dependencies"] += len(dependencies)
        former = str(task.get("status") or "pending").strip().lower().replace("_", "-")
        over = self._epic if parent is None else self._key(parent)
        item = Item(
            key=self._key(id),
            title=str(task.get("title") or task.get("description") or ""),
            status=_STATUS.get(former, TaskStatus.PENDING),
            was=None if former in _STATUS else former,
            parents=[] if over is None else [over],
            depends_on=[self._key(self._target(name, id, parent)) for name in dependencies],
            priority=_PRIORITY.get(str(task.get("priority") or top.get("priority")).lower(), Priority.P1),
            context={name: task[name] for name in ("description", "details") if task.get(name)},
            done_at=moment(task.get("updatedAt")),
        )
        put_done_when(
            item, ("acceptance_criteria", task.get("acceptanceCriteria")), ("test_strategy", task.get("testStrategy"))
        )
        extra = {name: value for name, value in task.items() if name not in _PLACED and value not in (None, "", [])}
        if parent is not None and task.get("subtasks"):
            extra["subtasks"] = task["subtasks"]  # a third level, which Task Master does not have
        item.context |= _origin(self._name, {"id": id, **extra})
        return item

    def _target(self, name: object, id: str, parent: str | None) -> str:
        """What a dependency names: in a subtask a lone number is a sibling if there is one, else a task."""
        target = _id(name) or str(name)
        if parent is not None and "." not in target:
            sibling = f"{parent}.{target}"
            if sibling in self._ids and sibling != id:
                return sibling
        return target

    def _key(self, id: str) -> str:
        return origin(f"taskmaster:{self._name}:{id}")


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
