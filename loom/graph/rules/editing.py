"""Changing tasks: what they say, what they wait for, where they belong, and what they are held to.

`update` runs inside a `Transaction`. What may change an edge or a parent takes the project's graph lock first, then
holds new targets, and only then looks at the task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loom import texts
from loom.bus.events import EventType
from loom.exceptions import DependencyCycleError, InvalidInputError, TaskStateError
from loom.graph import deps, store
from loom.graph.model import limits
from loom.graph.model.dependencies import epic_start
from loom.graph.model.task import Priority, Task, TaskStatus
from loom.graph.rules import creating
from loom.graph.rules.claims import Outcome
from loom.graph.rules.holding import Holder, holds, not_found, refusal
from loom.graph.store.transaction import Transaction
from loom.wording import Argument, Words, call

_EDITED = frozenset(
    ("title", "context", "priority", "depends_on", "done_when", "files", "checks", "labels", "parent_id")
)
_TOLD = 20  # members of a list, in an event
_SHOWN = 200  # characters of a text there


@dataclass(frozen=True, slots=True)
class Edit:
    """What to change on a task; None leaves a field as it is. `context` is JSON text; `done_when` "" removes it.

    `files` and `checks` are added to those that it has, once these are taken away where `no_files` and `no_checks` say
    so."""

    title: str | None = None
    context: str | None = None
    priority: Priority | None = None
    depends_on: tuple[str, ...] | None = None
    done_when: str | None = None
    files: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    no_files: bool = False
    no_checks: bool = False
    labels: tuple[str, ...] = ()
    """Added to those that it has, once those in `unlabel` are taken away."""
    unlabel: tuple[str, ...] = ()
    add_deps: tuple[str, ...] = ()
    """Dependencies beside those that it has, or that `depends_on` gives it, once those in `drop_deps` are gone."""
    drop_deps: tuple[str, ...] = ()
    parent_id: str | None = None
    """The epic that it is moved into; "" takes it out of the one that it is in."""
    seen: Mapping[str, Any] | None = None
    """Fields as they were when the edit was made: it is refused where one is another by now."""

    def moves(self, task: Task) -> bool:
        """Whether it gives a task another place."""
        return self.parent_id is not None and (self.parent_id or None) != task.parent_id

    def waits_for(self, before: tuple[str, ...]) -> tuple[str, ...] | None:
        """What the task depends on after this; None where that stays as it was."""
        if self.depends_on is None and not (self.add_deps or self.drop_deps):
            return None
        kept = before if self.depends_on is None else self.depends_on
        if strange := [one for one in self.drop_deps if one not in kept]:
            raise InvalidInputError(f"It does not depend on {', '.join(strange)}.", "Name what it depends on.")
        return limits.depends_on([*(one for one in kept if one not in self.drop_deps), *self.add_deps])

    @property
    def reshapes(self) -> bool:
        """Whether it may change an edge or a parent."""
        return self.depends_on is not None or bool(self.add_deps or self.drop_deps) or self.parent_id is not None

    @property
    def only_adds(self) -> bool:
        """Whether all that it does is to add files and checks."""
        return self == Edit(files=self.files, checks=self.checks)

    @property
    def binds(self) -> bool:
        """Whether it changes what the task is held to."""
        return bool(self.files or self.checks or self.no_files or self.no_checks)


async def update(tx: Transaction, task_id: str, edit: Edit, holder: Holder) -> Outcome:
    """Applies an edit. Dependencies are replaced as a whole; removing the last open one readies the task. A holder with
    a token has to hold that claim."""
    if edit.reshapes:
        await store.lock_graph(tx)
        await _hold_targets(tx, task_id, (*(edit.depends_on or ()), *edit.add_deps))
    found = await store.lock(tx, [task_id])
    if task_id not in found:
        raise not_found(task_id)
    task = found[task_id]
    if task.status.finished:
        raise TaskStateError(
            f"{task.id} is already {task.status} and cannot be changed.", "Create a new task for what is left."
        )
    _may_change(tx, task, edit, holder)
    changed = replace(
        task,
        title=task.title if edit.title is None else edit.title,
        priority=edit.priority or task.priority,
        done_when=task.done_when if edit.done_when is None else edit.done_when or None,
    )
    event = EventType.TASK_UPDATED
    if (wanted := edit.waits_for(task.depends_on)) is not None:
        await _replace_dependencies(tx, task, wanted)
    files, checks = _held_to(task, edit)
    if edit.moves(task):
        parent = await _move(tx, task, edit.parent_id or None, holder.agent)
        changed = replace(changed, parent_id=edit.parent_id or None)
        if parent is not None and parent.checks:
            checks = _together(parent.checks, task.checks if checks is None else checks)
            await _hand_down(tx, task, parent.checks, holder.agent)
    if edit.reshapes:
        changed = replace(changed, waiting=await store.waiting(tx, task_id))
        changed, event = await _follow_waiting(tx, changed)
    labels = _labelled(task, edit)
    saved = await store.update_task(tx, changed, context=edit.context, files=files, checks=checks, labels=labels)
    tx.changed(saved, event, agent=holder.agent, data=_told_of(task, saved))
    freed: tuple[str, ...] = (saved.id,) if event is EventType.TASK_UNBLOCKED else ()
    if saved.status is TaskStatus.EPIC:
        freed = await deps.follow_epic(tx, saved, task.waiting, holder.agent)
    left = [task.parent_id] if saved.parent_id != task.parent_id else []
    follows = await deps.check_and_unblock(tx, parents=left, agent=holder.agent)
    return Outcome(saved, unblocked=(*freed, *follows.unblocked), closed=follows.closed)


def fields_seen(seen: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What an edit was made on. Raises InvalidInputError for what is no field that an edit changes."""
    if strange := (seen or {}).keys() - _EDITED:
        raise InvalidInputError(
            f"What an edit was made on has {texts.quote(min(strange))}, which no edit changes.", "Leave it out."
        )
    return seen


def _may_change(tx: Transaction, task: Task, edit: Edit, holder: Holder) -> None:
    """Whoever holds a task, and who only works, adds to what it is held to and takes nothing of it away."""
    holding = holds(task, holder)
    if holder.token is not None and not holding:
        raise refusal(task, holder)
    _refuse_overwriting(task, edit.seen or {})
    if not edit.binds or not (holding or tx.bounds.at_work):
        return
    if not holding:
        raise refusal(task, holder)
    if edit.no_files or edit.no_checks:
        raise TaskStateError(
            f"Nothing that {task.id} is held to is taken away by whoever works on it.",
            Words("Say what is wrong with it with {}.", call("escalate", task_id=task.id, message=...)),
        )
    creating.refuse_protected(tx, (path for path in edit.files if path not in task.files))


def _refuse_overwriting(task: Task, seen: Mapping[str, Any]) -> None:
    changed = [name for name, value in seen.items() if getattr(task, name) != value]
    if changed:
        raise TaskStateError(
            f"Somebody else has changed {', '.join(changed)} of {task.id} meanwhile.",
            Words("See {} for how it stands now.", call("status", task_id=task.id)),
        )


def _held_to(task: Task, edit: Edit) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """The files and checks that a task has after an edit; None where they stay."""
    if not edit.binds:
        return None, None
    files = tuple(dict.fromkeys((*(() if edit.no_files else task.files), *edit.files)))
    checks = tuple(dict.fromkeys((*(() if edit.no_checks else task.checks), *edit.checks)))
    limits.count_paths(len(files))
    limits.count_checks(len(checks))
    return files if files != task.files else None, checks if checks != task.checks else None


def _labelled(task: Task, edit: Edit) -> tuple[str, ...] | None:
    """The labels that a task has after an edit, in their order; None where they stay."""
    labels = tuple(sorted({one for one in task.labels if one not in edit.unlabel} | set(edit.labels)))
    limits.count_labels(len(labels))
    return labels if labels != task.labels else None


def _told_of(before: Task, after: Task) -> dict[str, Any]:
    """What an event says of an edit."""
    said: dict[str, Any] = {}
    for field in ("title", "priority", "parent_id", "done_when"):
        was, now = getattr(before, field), getattr(after, field)
        if was != now:
            sides = (("from", was), ("to", now))
            said[field] = {side: texts.shorten(text, _SHOWN) for side, text in sides if text is not None}
    for field in ("files", "checks", "labels", "depends_on"):
        said |= _told(field, getattr(before, field), getattr(after, field))
    return said


def _told(field: str, before: Sequence[str], after: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """What an event says of a list that was changed, some of each: who reads it wants to know whether, and by whom."""
    added = [one for one in after if one not in before][:_TOLD]
    removed = [one for one in before if one not in after][:_TOLD]
    told = {"added": added} if added else {}
    return {field: told | ({"removed": removed} if removed else {})} if added or removed else {}


async def _move(tx: Transaction, task: Task, parent_id: str | None, agent: str) -> Task | None:
    """Gives a locked task its place in an epic, or in none. Returns the epic."""
    if parent_id == task.id:
        raise DependencyCycleError(
            f"{task.id} cannot be in itself.", Words("Name another epic in {}.", Argument("parent_id"))
        )
    parent = None if parent_id is None else await creating.adopt(tx, parent_id, agent)
    if parent is not None and parent.waiting:
        await _may_gain(tx, task)
    await store.place(tx, task.id, parent_id)
    if parent is not None:
        creating.refuse_cycle(await store.upstream(tx, [parent.id]))
    return parent


async def _hand_down(tx: Transaction, epic: Task, checks: tuple[str, ...], agent: str) -> None:
    """Gives checks to all that is unfinished below a locked task."""
    below = await deps.lock_reach(tx, [epic.id])
    for task in (await store.lock(tx, [one for one in below if one != epic.id])).values():
        wanted = _together(checks, task.checks)
        if wanted != task.checks:
            saved = await store.update_task(tx, task, checks=wanted)
            tx.changed(saved, EventType.TASK_UPDATED, agent=agent, data=_told_of(task, saved))


def _together(above: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    checks = creating.handed_down(above, own)
    limits.count_checks(len(checks))
    return checks


async def _hold_targets(tx: Transaction, task_id: str, targets: Sequence[str]) -> None:
    """Holds the targets of edges of a task; those that it has already may have been cancelled."""
    if task_id in targets:
        raise DependencyCycleError(f"{task_id} cannot depend on itself.", "Leave it out of what it is to wait for.")
    await creating.hold_existing(tx, targets)


async def _replace_dependencies(tx: Transaction, task: Task, wanted: tuple[str, ...]) -> None:
    added = [target for target in wanted if target not in task.depends_on]
    removed = [target for target in task.depends_on if target not in wanted]
    if added:
        await _may_gain(tx, task)
        creating.refuse_cancelled(await store.lock_targets(tx, added))
        edges = await store.upstream(tx, added)
        edges[epic_start(task.id)] = [*edges.get(epic_start(task.id), []), *added]
        creating.refuse_cycle(edges)
    await store.replace_dependencies(tx, task.id, added=added, removed=removed)


async def _may_gain(tx: Transaction, task: Task) -> None:
    if task.status is TaskStatus.CLAIMED:
        raise TaskStateError(
            f"{task.id} is claimed by {task.assignee} and gains no dependency.",
            Words("Whoever holds it releases it first with {}.", call("release", task_id=task.id)),
        )
    if task.status is not TaskStatus.EPIC:
        return
    below = await deps.lock_reach(tx, [task.id], finished=True)
    started = [f"{child} ({status})" for child, status in below.items() if status.begun]
    if started:
        begun = ", ".join(sorted(started)[:3])
        raise TaskStateError(
            f"Work below the epic {task.id} has begun, so it gains no dependency: {begun}.",
            "Add the dependency to the children that have not begun.",
        )


async def _follow_waiting(tx: Transaction, task: Task) -> tuple[Task, EventType]:
    """A task with the status that its `waiting` asks for if it is pending or blocked, and the event that tells it."""
    if task.waiting and task.status is TaskStatus.PENDING:
        return replace(task, status=TaskStatus.BLOCKED, ready_at=None), EventType.TASK_BLOCKED
    if not task.waiting and task.status is TaskStatus.BLOCKED:
        return replace(task, status=TaskStatus.PENDING, ready_at=await store.now(tx)), EventType.TASK_UNBLOCKED
    return task, EventType.TASK_UPDATED
