"""Mending: carrying out the diagnosis of failed or escalated work.

The fix tasks are a plan like any other, and go through the same rules. The failed task waits for them and is back in
play, its attempts counted anew; or, where a person has to decide, nothing but the diagnosis is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from loom import texts
from loom.bus.events import EventType
from loom.exceptions import TaskStateError
from loom.graph import store
from loom.graph.model import limits, plan
from loom.graph.model.task import Task, TaskStatus
from loom.graph.rules import creating, diagnoses, plans
from loom.graph.rules.claims import into_play
from loom.graph.rules.holding import not_found
from loom.graph.store import diagnoses as rows
from loom.graph.store import escalations, messages
from loom.graph.store.transaction import Transaction

_EVIDENCE = 200  # characters kept of each line


class Remedy(StrEnum):
    """What a diagnosis says is to be done; the last two are a person's business."""

    RETRY = "retry"
    FIX_FIRST = "fix_first"
    CHANGE_TASK = "change_task"
    ASK_PERSON = "ask_person"
    GIVE_UP = "give_up"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A diagnosis that was checked. `fix_tasks` have title, done_when, files, and depends_on as places among them;
    `run_id`: the run of the skill that made it."""

    cause: str
    confidence: str
    action: Remedy
    note: str
    evidence: tuple[str, ...] = ()
    question: str | None = None
    fix_tasks: tuple[Mapping[str, Any], ...] = ()
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Mended:
    """What a diagnosis led to: the task as it is now, the id of the escalation that it is recorded with, the ids of the
    fix tasks, and, where it was left to a person, why."""

    task: Task
    escalation: str
    fixes: tuple[str, ...] = ()
    left: str | None = None


async def mend(
    tx: Transaction, task_id: str, diagnosis: Diagnosis, *, agent: str, max_attempts: int, left: str | None = None
) -> Mended:
    """Records a diagnosis with the newest escalation of a task, and carries it out.

    Args:
        agent: whose diagnosis it is.
        max_attempts: of each fix task.
        left: why it is only recorded, and left to a person.

    Raises:
        TaskNotFoundError; TaskStateError: the task has neither failed nor an open question; InvalidInputError.
    """
    await store.lock_graph(tx)
    found = await store.lock(tx, [task_id])
    if task_id not in found:
        raise not_found(task_id)
    task = found[task_id]
    escalation = await rows.newest(tx.connection, tx.project_id, task_id)
    asks = await escalations.has_question(tx, task_id)
    if escalation is None or not (asks or task.status is TaskStatus.FAILED):
        raise TaskStateError(
            f"{task.id} is {task.status.called} and has no open question.",
            "Only failed or escalated work can be mended.",
        )
    left = left or _LEFT.get(diagnosis.action)
    fixes: tuple[str, ...] = ()
    if left is None and diagnosis.fix_tasks:
        fixes = await _make_fixes(tx, task, diagnosis, agent, max_attempts)
    await diagnoses.record(tx, escalation, await _kept(tx, task, diagnosis, fixes, left), by=agent)
    if left is not None:
        return Mended(task, escalation.id, left=left)
    await escalations.close(tx, [task.id], diagnosis.action, by=agent, note=diagnosis.note)
    again = await into_play(tx, task, fresh=True)
    data = {"action": diagnosis.action, "by": agent, "note": diagnosis.note} | ({"fixes": fixes} if fixes else {})
    tx.changed(again, EventType.TASK_RETRIED, agent=agent, data=data)
    if diagnosis.note:
        await messages.note(tx, task.id, agent, diagnosis.note)
    return Mended(again, escalation.id, fixes)


def planned(
    fix_tasks: Sequence[Mapping[str, Any]], *, task: Task | None = None, context: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Fix tasks as a plan; for a task with its priority and in its epic. Their depends_on must be places among them."""
    return {
        "tasks": [
            {
                "key": _key(place),
                "title": one["title"],
                "done_when": one["done_when"],
                "files": one.get("files"),
                "depends_on": [_key(before) for before in one.get("depends_on", ())],
                "context": dict(context or {}),
                "priority": task.priority if task else None,
                "parent": task.parent_id if task else None,
            }
            for place, one in enumerate(fix_tasks)
        ]
    }


_LEFT: Mapping[Remedy, str] = {
    Remedy.ASK_PERSON: "It takes a person to decide.",
    Remedy.GIVE_UP: "Giving a task up is for a person to decide.",
}


def _key(place: float) -> str:
    return f"fix_tasks[{int(place)}]"  # JSON's integers may come as 1.0


async def _make_fixes(
    tx: Transaction, task: Task, diagnosis: Diagnosis, agent: str, max_attempts: int
) -> tuple[str, ...]:
    """Creates the fix tasks and has the locked task depend on them. None gets a path that a check protects: what a
    model makes of a failure that an agent told is no plan that a person has seen.

    That cannot close a cycle: they wait for each other and for the start of the epic, for which the task waits already.
    """
    limits.count_dependencies(len(task.depends_on) + len(diagnosis.fix_tasks))
    about = {"fixes": {"task": task.id, "title": task.title, "cause": diagnosis.cause}}
    drafts = [
        replace(draft, files=creating.unprotected(tx, draft.files))
        for draft in plan.parse(planned(diagnosis.fix_tasks, task=task, context=about))
    ]
    planted = await plans.plant(tx, drafts, agent=agent, max_attempts=max_attempts)
    fixes = tuple(planted.ids[draft.key] for draft in drafts)
    await store.add_edges(tx, task.id, fixes)
    return fixes


async def _kept(
    tx: Transaction, task: Task, diagnosis: Diagnosis, fixes: tuple[str, ...], left: str | None
) -> dict[str, Any]:
    """The diagnosis as it is kept; see `diagnoses`."""
    kept = {
        "cause": diagnosis.cause,
        "confidence": diagnosis.confidence,
        "action": diagnosis.action,
        "note": diagnosis.note,
        "question": diagnosis.question,
        "evidence": [texts.shorten(line, _EVIDENCE) for line in diagnosis.evidence],
        "proposed": [one["title"] for one in diagnosis.fix_tasks],
        "run_id": diagnosis.run_id,
        "left": left,
    }
    depth = await rows.depth_of(tx.connection, tx.project_id, task.id)
    return {name: value for name, value in kept.items() if value} | {"fixes": fixes, "depth": depth}
