"""Changing the shape of the graph: new tasks, whole plans, edits, and cancelling.

Each function runs inside a `Transaction`. Whatever adds an edge holds its targets before it looks at them; whatever
could close a cycle takes the project's graph lock first, which is every case but a lone new task that has not both a
parent and dependencies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loom import texts
from loom.bus.events import EventType
from loom.exceptions import DependencyCycleError, ForbiddenError, InvalidInputError, TaskNotFoundError, TaskStateError
from loom.graph import deps, store
from loom.graph.model import limits
from loom.graph.model.dependencies import detect_cycle, epic_start, tasks_of_cycle
from loom.graph.model.paths import meet
from loom.graph.model.principals import Principal
from loom.graph.model.task import Priority, Task, TaskStatus
from loom.graph.rules.claims import Outcome
from loom.graph.rules.holding import Holder, holds, not_found, refusal
from loom.graph.rules.leaving import leave_queue
from loom.graph.store import NewTask, escalations
from loom.graph.store.transaction import Transaction
from loom.wording import Argument, Words, call


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


async def create(tx: Transaction, task: NewTask, agent: str) -> Task:
    """Inserts one task, its status computed from its dependencies and its parent as they are now. Where its origin id,
    an idempotency key, has one already, it is that as it is now."""
    if task.origin_id is not None:
        await store.lock_key(tx, task.origin_id)
        if known := await store.by_origin(tx, [task.origin_id]):
            return known[task.origin_id]
    targets = task.depends_on
    refuse_protected(tx, task.files)
    if targets and task.parent_id:
        await store.lock_graph(tx)
    waiting = sum(status is not TaskStatus.DONE for status in (await _targets(tx, targets)).values())
    if task.parent_id is not None:
        parent = await adopt(tx, task.parent_id, agent)
        waiting += parent.waiting > 0
        task = replace(task, checks=handed_down(parent.checks, task.checks))
        if targets:
            edges = await store.upstream(tx, targets)
            edges.setdefault(parent.id, []).append("the new task")
            refuse_cycle({"the new task": [*targets], **edges})
    status = deps.compute_initial_status(waiting, epic=_is_epic(task))
    return await _create(tx, replace(task, status=status, waiting=waiting), agent)


async def must_be_below(tx: Transaction, task: NewTask, principal: Principal) -> None:
    """Raises ForbiddenError unless a new task is below what a principal's agents hold: it stands in the epic of one of
    their tasks, or in none and waits for one."""
    if not await store.holds_beside(tx.connection, tx.project_id, principal.name, task.depends_on, task.parent_id):
        raise ForbiddenError(
            f"{principal.name} is a {principal.role}, who makes tasks only below those that he holds.",
            Words(
                "Have it wait for one of them with {}, or name their epic with {}.",
                Argument("depends_on"),
                Argument("parent_id"),
            ),
        )


async def create_alone(tx: Transaction, task: NewTask, agent: str) -> Task:
    """Inserts one task that has neither dependencies nor a parent: a single statement, outside of a transaction block
    too."""
    refuse_protected(tx, task.files)
    return await _create(tx, replace(task, status=deps.compute_initial_status(0, epic=_is_epic(task))), agent)


async def update(tx: Transaction, task_id: str, edit: Edit, holder: Holder) -> Outcome:
    """Applies an edit. Dependencies are replaced as a whole; removing the last open one readies the task. A holder with
    a token has to hold that claim."""
    if edit.reshapes:
        await store.lock_graph(tx)
        await _targets(tx, (*(edit.depends_on or ()), *edit.add_deps), known_to=task_id)
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


async def cancel(tx: Transaction, task_id: str, reason: str | None, agent: str, *, downstream: bool) -> Outcome:
    """Cancels an unfinished task, for an epic all that is unfinished below it, and with `downstream` whatever waits
    for any of them. Without it dependents stay blocked and are named."""
    await store.lock_graph(tx)
    locked = await deps.lock_reach(tx, [task_id], downstream=downstream)
    if task_id not in locked:
        raise not_found(task_id)
    if locked[task_id].finished:
        raise TaskStateError(f"{task_id} is already {locked[task_id]}.", "There is nothing left to cancel.")
    unfinished = [one for one, status in locked.items() if not status.finished]
    await leave_queue(tx, unfinished, reason or "It was cancelled.")
    closed = await escalations.close(tx, unfinished, "cancel", by=agent, note=reason)
    gone = await store.cancel_tasks(tx, unfinished)
    for task in gone:
        tx.changed(
            task,
            EventType.TASK_CANCELLED,
            agent=agent,
            token=task.claim_token,
            data={"reason": reason} if reason else None,
        )
    for epic_id in {one.task_id for one in closed if locked[one.task_id] is TaskStatus.EPIC}:
        await deps.release_epic(tx, epic_id, agent)
    follows = await deps.check_and_unblock(tx, parents=[task.parent_id for task in gone], agent=agent)
    now = (await store.get_tasks(tx.connection, tx.project_id, [task_id]))[task_id]
    held = await store.get_dependents(tx.connection, tx.project_id, task_id)
    return Outcome(now, follows.unblocked, follows.closed, held_up=held, cancelled=tuple(task.id for task in gone))


async def waive(tx: Transaction, task: Task, reason: str | None, agent: str) -> Outcome:
    """Cancels a locked task and lets its dependents go on without it: its outgoing edges are marked waived."""
    if task.status in (TaskStatus.CLAIMED, TaskStatus.DONE, TaskStatus.EPIC) and not task.queued:
        raise TaskStateError(
            f"{task.id} is {task.status} and cannot be waived.", "Only work that nobody does can be waived."
        )
    await leave_queue(tx, [task.id], reason or "It was waived.")
    await escalations.close(tx, [task.id], "waive", by=agent, note=reason)
    data = {"reason": reason} if reason else None
    for gone in await store.cancel_tasks(tx, [task.id]):
        task = gone
        tx.changed(gone, EventType.TASK_CANCELLED, agent=agent, token=gone.claim_token, data=data)
    follows = await deps.check_and_unblock(tx, released=[task.id], parents=[task.parent_id], agent=agent)
    dependents = await store.waive_edges(tx, task.id, agent, reason)
    tx.record_event(EventType.TASK_WAIVED, task.id, agent=agent, data={"dependents": dependents, **(data or {})})
    return Outcome(task, follows.unblocked, follows.closed)


async def adopt(tx: Transaction, parent_id: str, agent: str) -> Task:
    """Locks a parent-to-be; a pending or blocked task becomes an epic by its first child."""
    found = await store.lock(tx, [parent_id])
    if parent_id not in found:
        raise TaskNotFoundError(f"There is no task {parent_id} to be the parent.", "Name an epic of this project.")
    parent = found[parent_id]
    if parent.status is TaskStatus.EPIC:
        return parent
    if parent.status not in (TaskStatus.PENDING, TaskStatus.BLOCKED):
        raise TaskStateError(
            f"The parent {parent_id} is {parent.status} and takes no children.",
            "Name an open epic, or a task that nobody has begun.",
        )
    if parent.status is TaskStatus.BLOCKED and await escalations.has_question(tx, parent_id):
        raise TaskStateError(
            f"The parent {parent_id} has an open question and takes no children.",
            Words("Resolve it first with {}.", call("resolve", id=parent_id, action=...)),
        )
    epic = await store.update_task_status(tx, parent, TaskStatus.EPIC)
    tx.changed(epic, EventType.TASK_UPDATED, agent=agent, data={"became": "epic"})
    return epic


def handed_down(above: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """The checks of a child: those of its epic too, which itself closes unchecked."""
    return tuple(dict.fromkeys((*above, *own)))


def refuse_protected(tx: Transaction, files: Iterable[str]) -> None:
    """Refuses paths that a check protects, where they come from whoever works on tasks."""
    if tx.bounds.at_work:
        _refuse_protected(tx, files)


def unprotected(tx: Transaction, files: Iterable[str]) -> tuple[str, ...]:
    """Those of some paths that no check protects."""
    return tuple(path for path in files if not any(meet(path, one) for one in tx.bounds.protected))


def refuse_cycle(edges: Mapping[str, Iterable[str]]) -> None:
    """Raises DependencyCycleError with the way around if a waiting graph (see `deps`) has a cycle."""
    cycle = detect_cycle(edges)
    if cycle is not None:
        way = tasks_of_cycle(cycle)
        shown = [*way[:8], "…", way[-1]] if len(way) > 10 else way
        raise DependencyCycleError(
            f"That would make a task wait for itself: {' → '.join(shown)}.",
            "Leave out one of these dependencies; a child already waits for what its epic waits for.",
        )


async def hold_existing(tx: Transaction, targets: Sequence[str]) -> dict[str, TaskStatus]:
    """Holds tasks as targets of new edges and refuses those that do not exist."""
    statuses = await store.lock_targets(tx, targets) if targets else {}
    missing = [target for target in targets if target not in statuses]
    if missing:
        names = f"{', '.join(missing[:5])}{' and others' if len(missing) > 5 else ''}"
        advice = Words("Look for what was meant with {}.", call("status", filter=...))
        raise TaskNotFoundError(f"This project has no {names} to depend on.", advice)
    return statuses


def refuse_cancelled(targets: Mapping[str, TaskStatus]) -> None:
    """Refuses new edges to tasks that will never be done."""
    dropped = [target for target, status in targets.items() if status is TaskStatus.CANCELLED]
    if dropped:
        raise TaskStateError(
            Words(
                "{} names {}, which was cancelled and will never be done.",
                Argument("depends_on"),
                ", ".join(dropped[:5]),
            ),
            "Leave it out.",
        )


async def _create(tx: Transaction, task: NewTask, agent: str) -> Task:
    created = await store.create_task(tx, task, agent)
    while created is None:  # the id was taken
        (fresh,) = await store.draw_ids(tx, 1)
        created = await store.create_task(tx, replace(task, id=fresh), agent)
    return created


def _is_epic(task: NewTask) -> bool:
    return task.status is TaskStatus.EPIC


async def _targets(tx: Transaction, targets: tuple[str, ...], known_to: str | None = None) -> dict[str, TaskStatus]:
    """Holds the targets of new edges; refuses the task itself, what does not exist, and what was cancelled."""
    if known_to in targets:
        raise DependencyCycleError(f"{known_to} cannot depend on itself.", "Leave it out of what it is to wait for.")
    statuses = await hold_existing(tx, targets)
    if known_to is None:
        refuse_cancelled(statuses)
    return statuses


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
    _refuse_protected(tx, (path for path in edit.files if path not in task.files))


def fields_seen(seen: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What an edit was made on. Raises InvalidInputError for what is no field that an edit changes."""
    if strange := (seen or {}).keys() - _EDITED:
        raise InvalidInputError(
            f"What an edit was made on has {texts.quote(min(strange))}, which no edit changes.", "Leave it out."
        )
    return seen


def _refuse_overwriting(task: Task, seen: Mapping[str, Any]) -> None:
    changed = [name for name, value in seen.items() if getattr(task, name) != value]
    if changed:
        raise TaskStateError(
            f"Somebody else has changed {', '.join(changed)} of {task.id} meanwhile.",
            Words("See {} for how it stands now.", call("status", task_id=task.id)),
        )


def _refuse_protected(tx: Transaction, files: Iterable[str]) -> None:
    for path in files:
        if not unprotected(tx, [path]):
            raise InvalidInputError(
                Words("{} names {}, which a check protects.", Argument("files"), texts.quote(path)),
                "A plan, or a person outside of a run, can give such paths to a task.",
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
    parent = None if parent_id is None else await adopt(tx, parent_id, agent)
    if parent is not None and parent.waiting:
        await _may_gain(tx, task)
    await store.place(tx, task.id, parent_id)
    if parent is not None:
        refuse_cycle(await store.upstream(tx, [parent.id]))
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
    checks = handed_down(above, own)
    limits.count_checks(len(checks))
    return checks


async def _replace_dependencies(tx: Transaction, task: Task, wanted: tuple[str, ...]) -> None:
    added = [target for target in wanted if target not in task.depends_on]
    removed = [target for target in task.depends_on if target not in wanted]
    if added:
        await _may_gain(tx, task)
        refuse_cancelled(await store.lock_targets(tx, added))
        edges = await store.upstream(tx, added)
        edges[epic_start(task.id)] = [*edges.get(epic_start(task.id), []), *added]
        refuse_cycle(edges)
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
    started = [f"{child} ({status})" for child, status in below.items() if status in BEGUN]
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


_TOLD = 20
_SHOWN = 200  # characters of a text
_EDITED = frozenset(
    ("title", "context", "priority", "depends_on", "done_when", "files", "checks", "labels", "parent_id")
)
BEGUN = frozenset((TaskStatus.CLAIMED, TaskStatus.DONE))
