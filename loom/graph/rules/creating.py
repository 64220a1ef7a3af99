"""New tasks, one at a time, and what holds for whoever makes them: their edges, their parents, their files.

Each function runs inside a `Transaction`. Whatever adds an edge holds its targets before it looks at them; whatever
could close a cycle takes the project's graph lock first, which is every case but a lone new task that has not both a
parent and dependencies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from loom import texts
from loom.bus.events import EventType
from loom.exceptions import DependencyCycleError, ForbiddenError, InvalidInputError, TaskNotFoundError, TaskStateError
from loom.graph import deps, store
from loom.graph.model.dependencies import detect_cycle, tasks_of_cycle
from loom.graph.model.paths import meet
from loom.graph.model.principals import Principal
from loom.graph.model.task import Task, TaskStatus
from loom.graph.store import NewTask, escalations, origins
from loom.graph.store.transaction import Transaction
from loom.wording import Argument, Words, call


async def create(tx: Transaction, task: NewTask, agent: str) -> Task:
    """Inserts one task, its status computed from its dependencies and its parent as they are now. Where its origin id,
    an idempotency key, has one already, it is that as it is now."""
    if task.origin_id is not None:
        await store.lock_key(tx, task.origin_id)
        if known := await origins.by_origin(tx, [task.origin_id]):
            return known[task.origin_id]
    targets = task.depends_on
    refuse_protected_at_work(tx, task.files)
    if targets and task.parent_id:
        await store.lock_graph(tx)
    statuses = await hold_existing(tx, targets)
    refuse_cancelled(statuses)
    waiting = sum(status is not TaskStatus.DONE for status in statuses.values())
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


async def create_alone(tx: Transaction, task: NewTask, agent: str) -> Task:
    """Inserts one task that has neither dependencies nor a parent: a single statement, outside of a transaction block
    too."""
    refuse_protected_at_work(tx, task.files)
    return await _create(tx, replace(task, status=deps.compute_initial_status(0, epic=_is_epic(task))), agent)


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


def refuse_protected_at_work(tx: Transaction, files: Iterable[str]) -> None:
    """Refuses paths that a check protects, where they come from whoever works on tasks."""
    if tx.bounds.at_work:
        refuse_protected(tx, files)


def refuse_protected(tx: Transaction, files: Iterable[str]) -> None:
    """Refuses paths that a check protects."""
    for path in files:
        if not unprotected(tx, [path]):
            raise InvalidInputError(
                Words("{} names {}, which a check protects.", Argument("files"), texts.quote(path)),
                "A plan, or a person outside of a run, can give such paths to a task.",
            )


def unprotected(tx: Transaction, files: Iterable[str]) -> tuple[str, ...]:
    """Those of some paths that no check protects."""
    return tuple(path for path in files if not any(meet(path, one) for one in tx.bounds.protected))


async def _create(tx: Transaction, task: NewTask, agent: str) -> Task:
    created = await store.create_task(tx, task, agent)
    while created is None:  # the id was taken
        (fresh,) = await store.draw_ids(tx, 1)
        created = await store.create_task(tx, replace(task, id=fresh), agent)
    return created


def _is_epic(task: NewTask) -> bool:
    return task.status is TaskStatus.EPIC
