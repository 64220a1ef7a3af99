"""Loom's own files: the export of a project, and plans.

An export is `{"loom_export": 1, "project": {"id", "name"}, "tasks": [...]}`, its tasks as `export` writes them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from loom import texts
from loom.exceptions import ImportFormatError
from loom.graph.importing.items import Batch, Item, exported, moment, origin, scalars
from loom.graph.importing.report import AdjustmentKind, Report
from loom.graph.model import plan
from loom.graph.model.notes import Note, noted, without_notes
from loom.graph.model.task import Priority, Task, TaskStatus
from loom.graph.store.escalations import Escalation

VERSION = 1

_STATUS = {
    "done": TaskStatus.DONE,
    "cancelled": TaskStatus.CANCELLED,
    "pending": TaskStatus.PENDING,
    "blocked": TaskStatus.PENDING,  # derived from what it waits for
    "epic": TaskStatus.PENDING,
}


def export(
    project_id: str,
    project_name: str,
    tasks: Iterable[Task],
    waived: Mapping[str, Collection[str]],
    held: Mapping[str, Escalation] = MappingProxyType({}),
    notes: Mapping[str, Sequence[Note]] = MappingProxyType({}),
) -> dict[str, Any]:
    """The export of a project. `waived` has, for tasks that have such, the dependencies whose edges are waived; `held`
    the question or deferral that holds a task; `notes` what was written to it."""
    return {
        "loom_export": VERSION,
        "project": {"id": project_id, "name": project_name},
        "tasks": [_entry(task, waived.get(task.id, ()), held.get(task.id), notes.get(task.id, ())) for task in tasks],
    }


def recognises(data: object) -> bool:
    """Whether parsed JSON is an export of Loom."""
    return isinstance(data, dict) and "loom_export" in data


def read(data: Mapping[str, Any], name: str, report: Report) -> tuple[list[Item], dict[str, int]]:
    """The items of an export, and what it held.

    Raises:
        ImportFormatError: it is of a newer version, or not whole.
    """
    if data["loom_export"] != VERSION:
        raise ImportFormatError(
            f"{name} is an export of version {texts.quote(str(data['loom_export']))}; this Loom reads {VERSION}.",
            "Import it with the Loom that wrote it, or a newer one.",
        )
    project, tasks = data.get("project"), data.get("tasks")
    if not isinstance(project, dict) or not project.get("id") or not isinstance(tasks, list):
        raise ImportFormatError(f"{name} is an export of Loom without its project or tasks.", "Export it again.")
    prefix = exported(str(project["id"]), "")
    items: list[Item] = []
    for number, task in enumerate(tasks, 1):
        if isinstance(task, dict) and isinstance(task.get("id"), str):
            items.append(_item(task, prefix))
        else:
            report.add(AdjustmentKind.NOT_WORK, f"{prefix}#{number}", f"entry {number}")
    return items, {"tasks": len(tasks), "dependencies": sum(len(item.depends_on) for item in items)}


def is_plan(data: object) -> bool:
    """Whether parsed values are meant as a plan: an object with tasks, or a list of them alone."""
    if isinstance(data, list):
        return any(isinstance(entry, dict) and "title" in entry for entry in data)
    return isinstance(data, dict) and "tasks" in data


def plan_batch(data: object, name: str, known_as: str | None) -> Batch:
    """A plan as a batch. A task's origin is the plan's with its key, or its title where it has none, so that the same
    plan again brings nothing new and a task added to it is one.

    Args:
        name: of its file, which earlier versions knew it by.
        known_as: what the plan is known by; None: all its tasks are new, whatever came before.

    Raises:
        PlanError, DependencyCycleError: as `plan.parse`.
    """
    drafts = plan.parse(data)
    count = sum(len(draft.depends_on) for draft in drafts)
    batch = Batch("plan", drafts, source={"tasks": len(drafts), "dependencies": count})
    if known_as is None:
        return batch
    for number, digest in enumerate(plan.identities(drafts)):
        drafts[number] = replace(drafts[number], origin_id=origin(f"plan/{known_as}#{digest}"))
        batch.former[drafts[number].key] = origin(f"plan:{PurePath(name).name}:{digest}")
    return batch


def _entry(task: Task, waived: Collection[str], held: Escalation | None, notes: Sequence[Note]) -> dict[str, Any]:
    entry = {
        "id": task.id,
        "title": task.title,
        "status": task.status.value,
        "priority": task.priority.value,
        "parent_id": task.parent_id,
        "depends_on": list(task.depends_on),
        "waived": sorted(waived),
        "context": _noted(task.context, notes),
        "output": task.output,
        "done_when": task.done_when,
        "files": list(task.files),
        "checks": list(task.checks),
        "labels": list(task.labels),
        "created_at": task.created_at.isoformat(),
        "done_at": None if task.done_at is None else task.done_at.isoformat(),
        "origin_id": task.origin_id,
    }
    return entry if held is None else entry | {"held": {"kind": held.kind, "message": held.message}}


def _noted(context: dict[str, Any], notes: Sequence[Note]) -> dict[str, Any]:
    """A context with the newest notes of its task, as `model.notes` reads them there."""
    if not notes:
        return context
    told = [
        {"at": one.at.isoformat(timespec="seconds") if one.at else "", "by": one.by, "text": one.text}
        for one in noted(context, notes)
    ]
    return {**without_notes(context), "notes": told}


def _item(task: Mapping[str, Any], prefix: str) -> Item:
    former = str(task.get("status") or "pending")
    context, output, done_when = task.get("context"), task.get("output"), task.get("done_when")
    parent, origin_id = task.get("parent_id"), task.get("origin_id")
    priority = str(task.get("priority"))
    return Item(
        key=origin(prefix + task["id"]),
        title=str(task.get("title") or ""),
        status=_STATUS.get(former, TaskStatus.PENDING),
        was=None if former in _STATUS else former,
        deferred=_why_deferred(task.get("held")),
        epic=former == "epic",
        parents=[origin(prefix + str(parent))] if parent else [],
        depends_on=_names(task.get("depends_on"), prefix),
        waived=_names(task.get("waived"), prefix),
        priority=Priority(priority) if priority in tuple(Priority) else Priority.P1,
        context=dict(context) if isinstance(context, dict) else {},
        done_when=done_when if isinstance(done_when, str) else None,
        output=output if isinstance(output, dict) else None,
        files=_texts(task.get("files")),
        checks=_texts(task.get("checks")),
        labels=_texts(task.get("labels")),
        origin_id=origin_id if isinstance(origin_id, str) and origin_id else None,
        created_at=moment(task.get("created_at")),
        done_at=moment(task.get("done_at")),
    )


def _why_deferred(held: object) -> str | None:
    """Why a task comes in deferred that something held: nobody is there any more who could be answered."""
    if not isinstance(held, dict):
        return None
    message = str(held.get("message"))
    return f"It waited for an answer: {message}" if held.get("kind") == "question" else message


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _names(value: object, prefix: str) -> list[str]:
    return [origin(f"{prefix}{name}") for name in scalars(value)]
