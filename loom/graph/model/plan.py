"""Plans: many tasks written as one object, and drafts, what plans and imports become before the store writes them.

A plan is `{"tasks": [...]}` in YAML or JSON, the same from a file, over MCP and from a model. `load` reads the text,
`parse` checks the object and resolves its names. Nothing here knows the project: ids of tasks that exist are passed
on, and the store looks whether they do.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from loom import documents, texts
from loom.exceptions import DependencyCycleError, InvalidInputError, PlanError
from loom.graph.model import dependencies, limits
from loom.graph.model.bulk import uncollected
from loom.graph.model.task import Priority, TaskStatus
from loom.ids import TASK_ID

PLAN_BYTES = 5_000_000
PLAN_TASKS = 10_000
PROBLEMS_TOLD = 50
PLAN_DEPTH = limits.JSON_DEPTH + 8  # a context may be as deep as ever, and stands a few levels down in the plan

_T = TypeVar("_T")

FIELDS = (
    "key", "title", "type", "parent", "depends_on", "priority", "context", "done_when", "files", "checks",
    "labels", "size",
)  # fmt: skip
NEW = "new:"
"""What a path begins with that the task makes."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A task to be created, from a plan or an import. `parent` and `depends_on` name a key of the same batch, which
    goes before, or the id of a task that exists."""

    key: str
    title: str
    epic: bool = False
    parent: str | None = None
    depends_on: tuple[str, ...] = ()
    priority: Priority = Priority.P1
    context: dict[str, Any] = field(default_factory=dict)
    done_when: str | None = None
    files: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    # What follows only a plan sets.
    made: frozenset[str] = frozenset()
    """Those of `files` that the task makes, so that they need not be there."""
    unfit: tuple[str, ...] = ()
    """What stands among its files and is no path of the repository; whoever writes the draft has it corrected first."""
    # What follows only an import sets.
    status: TaskStatus = TaskStatus.PENDING
    """pending, done or cancelled; an epic's is derived from its children, pending meaning open."""
    output: dict[str, Any] | None = None
    waived: frozenset[str] = frozenset()
    """Those of `depends_on` whose edges are to be marked waived."""
    deferred: str | None = None
    """Why it is held until somebody resolves that; only of pending ones."""
    origin_id: str | None = None
    created_at: datetime | None = None
    done_at: datetime | None = None


def load(text: str) -> object:
    """Reads a plan's text, JSON or YAML, into Python values; `parse` takes it from there.

    YAML is read by the rules of its JSON schema: `no` is a text and a date stays the text it is. What makes a short
    text into large values is refused, and so is what builds anything but plain values.

    Raises:
        PlanError: larger than 5 MB, neither JSON nor YAML, too deep, or with YAML's aliases or tags.
    """
    if len(text) > PLAN_BYTES or len(text.encode(errors="replace")) > PLAN_BYTES:
        raise PlanError(f"The plan is larger than {PLAN_BYTES // 1_000_000} MB.", "Split it into several plans.")
    text = text.removeprefix("\ufeff")
    if text.lstrip()[:1] not in ("{", "["):
        return _load_yaml(text)
    try:
        return json.loads(text)
    except RecursionError:
        raise PlanError("The plan is nested too deep.", "Flatten it.") from None
    except ValueError as json_error:
        try:
            return _load_yaml(text)  # which may begin with a bracket too
        except PlanError:
            raise PlanError(f"The plan is not valid JSON: {json_error}.", "Correct it there.") from None


def parse(plan: object) -> list[Draft]:
    """Checks a plan and turns it into drafts, in the plan's order.

    Args:
        plan: a mapping `{"tasks": [...]}`, or the list alone, as `load` or a JSON parser gives it; other keys beside
            `tasks` are ignored.

    Raises:
        PlanError: the plan cannot be written; names the first task at fault and counts the others.
        DependencyCycleError: tasks of the plan would wait for themselves; spells the cycle out.
    """
    drafts = read(plan)
    _each(_entries(plan), lambda number: [limits.path(unfit) for unfit in drafts[number].unfit])
    order(drafts)
    return drafts


@uncollected()
def read(plan: object) -> list[Draft]:
    """As `parse`, but for cycles, which `order` finds, and paths that are `unfit`. Raises PlanError."""
    entries = _entries(plan)
    rows = _each(entries, lambda number: _row(entries[number]))
    names = _Names(entries, rows)
    drafts = _each(entries, lambda number: names.draft(number, rows[number]))
    parents = {draft.parent for draft in drafts}
    return [replace(draft, epic=True) if draft.key in parents else draft for draft in drafts]


def order(drafts: Sequence[Draft]) -> list[Draft]:
    """Sorts drafts so that each comes after its parent and after all it depends on, an epic's children before what
    depends on the epic; otherwise in the order given.

    Raises:
        DependencyCycleError: that cannot be done; names the tasks of one cycle.
    """
    by_key = {draft.key: draft for draft in drafts}
    epics = {draft.key for draft in drafts if draft.epic} | {draft.parent for draft in drafts if draft.parent in by_key}
    nodes, cycle = dependencies.topological(
        dependencies.waits_for(
            {draft.key: [name for name in draft.depends_on if name in by_key] for draft in drafts},
            {draft.key: draft.parent for draft in drafts if draft.parent in by_key},
            epics,
        )
    )
    if cycle:
        tasks = dependencies.tasks_of_cycle(cycle)
        way = " → ".join(_label(by_key[key]) for key in (tasks if len(tasks) <= 12 else [*tasks[:11], tasks[-1]]))
        longer = f" (and {len(tasks) - 12:,} more on the way)" if len(tasks) > 12 else ""
        raise DependencyCycleError(
            f"These tasks would wait for themselves: {way}{longer}.",
            "Remove one of these dependencies; an epic waits for its children, and they for what the epic depends on.",
        )
    # An epic's place is where it starts: its children come after it, and what depends on it after them.
    return [by_key[task] for node in nodes if (task := dependencies.task_of(node)) not in epics or node != task]


def identities(drafts: Sequence[Draft]) -> list[str]:
    """What tells each draft of a plan from the others, the same when the plan comes again: of its key, or where it has
    none of its title."""
    seen: Counter[str] = Counter()
    found = []
    for number, draft in enumerate(drafts):
        within = f"title {draft.title}" if draft.key.lstrip("#") == str(number + 1) else f"key {draft.key}"
        seen[within] += 1
        found.append(hashlib.sha256(f"{within}\n{seen[within]}".encode()).hexdigest()[:16])
    return found


_SHAPE = 'Write {"tasks": [{"title": "…"}]} in YAML or JSON.'


def _label(draft: Draft) -> str:
    return f"{draft.key} {texts.quote(draft.title, 40)}"


def _entries(plan: object) -> Sequence[Mapping[str, Any]]:
    if isinstance(plan, list | tuple):
        plan = {"tasks": plan}
    if not isinstance(plan, Mapping) or "tasks" not in plan:
        got = "an object without tasks" if isinstance(plan, Mapping) else limits.kind(plan)
        raise PlanError(f"A plan is an object with a list of tasks, but this is {got}.", _SHAPE)
    tasks = plan["tasks"]
    if not isinstance(tasks, list | tuple):
        raise PlanError(f"A plan's tasks must be a list, not {limits.kind(tasks)}.", _SHAPE)
    if not tasks:
        raise PlanError("The plan has no tasks.", _SHAPE)
    if len(tasks) > PLAN_TASKS:
        raise PlanError(
            f"The plan has {len(tasks):,} tasks; the limit is {PLAN_TASKS:,}.", "Split it into several plans."
        )
    for number, entry in enumerate(tasks, 1):
        if not isinstance(entry, Mapping):
            raise PlanError(f"Task {number} of the plan must be an object, not {limits.kind(entry)}.", _SHAPE)
    return tasks


def _each(entries: Sequence[Mapping[str, Any]], read: Callable[[int], _T]) -> list[_T]:
    """Reads something of each entry, by its place. Where some are at fault, tells the first and counts the others;
    the error's `problems` name them all, up to a limit."""
    values: list[_T] = []
    faults: list[tuple[int, InvalidInputError]] = []
    for number in range(len(entries)):
        try:
            values.append(read(number))
        except InvalidInputError as error:
            faults.append((number, error))
    if faults:
        problems = tuple(f"{_place(entries, number)}: {fault}" for number, fault in faults[:PROBLEMS_TOLD])
        number, fault = faults[0]
        more = f" Tasks at fault beside it: {len(faults) - 1:,}." if len(faults) > 1 else ""
        raise PlanError(f"{_place(entries, number)}: {fault.cause}{more}", fault.next_step, problems)
    return values


def _place(entries: Sequence[Mapping[str, Any]], number: int) -> str:
    given = entries[number].get("key") or entries[number].get("title")
    return f"Task {number + 1}{f' {texts.quote(str(given))}' if isinstance(given, str | int) else ''}"


def _row(entry: Mapping[str, Any]) -> Draft:
    """An entry of a plan, each value checked by itself: names not yet resolved, the key empty where it has none."""
    for name in entry:
        if name not in FIELDS:
            close = difflib.get_close_matches(str(name), FIELDS, 1)
            raise InvalidInputError(
                f"{texts.quote(str(name))} is not a field of a plan.",
                f"Did you mean {close[0]}?" if close else f"Use {', '.join(FIELDS)}; other facts belong in context.",
            )
    if entry.get("title") is None:
        raise InvalidInputError("title is missing.", "Give every task a title.")
    if (given_type := entry.get("type")) not in (None, "task", "epic"):
        raise InvalidInputError(f"type {texts.quote(str(given_type))} does not exist.", "Use task or epic.")
    key, parent, depends_on = entry.get("key"), entry.get("parent"), entry.get("depends_on")
    if isinstance(depends_on, str | int):
        depends_on = [depends_on]
    elif depends_on is not None and not isinstance(depends_on, list | tuple):
        raise InvalidInputError(
            f"depends_on must be a list, not {limits.kind(depends_on)}.", "Name keys, titles or task ids in a list."
        )
    context = entry.get("context")
    if not (context is None or isinstance(context, dict)):
        limits.context(context)  # says what is wrong with it
    context = {**(context or {}), **_size(entry)}
    limits.context(context)
    paths, made, unfit = _files(entry.get("files"))
    return Draft(
        key="" if key is None else _name(key, "key"),
        title=limits.title(entry["title"]),
        epic=given_type == "epic",
        parent=None if parent is None else _name(parent, "parent"),
        depends_on=tuple(_name(name, "depends_on") for name in depends_on or ()),
        priority=Priority.P1 if entry.get("priority") is None else limits.priority(entry["priority"]),
        context=context,
        done_when=limits.done_when(entry.get("done_when")),
        files=limits.files(paths),
        checks=limits.checks(_listed(entry.get("checks"))),
        labels=limits.labels(_listed(entry.get("labels"))),
        made=frozenset(made),
        unfit=unfit,
    )


def _size(entry: Mapping[str, Any]) -> dict[str, Any]:
    size = entry.get("size")
    if size is None:
        return {}
    if isinstance(size, bool) or not isinstance(size, str | int | float):
        raise InvalidInputError(f"size must be a text or number, not {limits.kind(size)}.", "Write it like “small”.")
    return {"size": size}


def _files(given: object) -> tuple[list[str], list[str], tuple[str, ...]]:
    """The paths of an entry, those of them that it says are new, `new: a.py` or `a.py (new)`, and what is no path."""
    paths: list[str] = []
    made: list[str] = []
    unfit: list[str] = []
    if given is None:
        return paths, made, ()
    files = _listed(given)
    if not isinstance(files, list | tuple) or not all(isinstance(file, str) for file in files):
        raise InvalidInputError("files must be a list of paths.", 'Write it like ["src/app.py"].')
    for file in files:
        bare = file.strip().removesuffix("(new)").strip().removeprefix(NEW).strip()
        try:
            paths.append(limits.path(bare))
        except InvalidInputError:
            unfit.append(bare)
        else:
            made += [paths[-1]] if bare != file.strip() else []
    return paths, made, tuple(unfit)


def _listed(value: object) -> object:
    """A text alone as a list of it."""
    return [value] if isinstance(value, str) else value


def _name(value: object, field: str) -> str:
    """A key or a name in `parent` or `depends_on`; numbers are taken for their digits, as YAML reads `key: 1`."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 64:
        value = str(value)
    return limits.title(value, field)


class _Names:
    """What the names in a plan stand for."""

    def __init__(self, entries: Sequence[Mapping[str, Any]], rows: Sequence[Draft]) -> None:
        times = Counter(row.key for row in rows if row.key)

        def distinct(number: int) -> str:
            if not (key := rows[number].key):
                key = f"#{number + 1}"
                while key in times:
                    key = f"#{key}"
            elif times[key] > 1:
                raise InvalidInputError("another task has this key too.", "Give every task a key of its own.")
            return key

        self._keys = _each(entries, distinct)
        self._given = dict.fromkeys(times)  # in the plan's order
        self._suggested = False  # looking for what was meant is slow, and only the first fault is told
        self._by_title: dict[str, list[str]] = {}
        for key, row in zip(self._keys, rows, strict=True):
            self._by_title.setdefault(row.title, []).append(key)

    def draft(self, number: int, row: Draft) -> Draft:
        """The entry with its names resolved."""
        depends_on = tuple(dict.fromkeys(self._resolve(name, "depends_on") for name in row.depends_on))
        limits.count_dependencies(len(depends_on))
        parent = None if row.parent is None else self._resolve(row.parent, "parent")
        return replace(row, key=self._keys[number], parent=parent, depends_on=depends_on)

    def _resolve(self, name: str, field: str) -> str:
        if name in self._given:
            return name
        named = self._by_title.get(name, [])
        if len(named) == 1:
            return named[0]
        if named:
            raise InvalidInputError(
                f"{field} names {texts.quote(name)}, the title of {len(named)} tasks.",
                "Give those tasks keys and name the key.",
            )
        if TASK_ID.fullmatch(name):
            return name
        close = [] if self._suggested else difflib.get_close_matches(name, [*self._given, *self._by_title], 3)
        self._suggested = True
        raise InvalidInputError(
            f"{field} names {texts.quote(name)}, which is neither in the plan nor a task's id.",
            f"Did you mean {' or '.join(map(texts.quote, close))}?" if close else "Name a key or title of the plan.",
        )


def _load_yaml(text: str) -> object:
    try:
        return documents.load(text, depth=PLAN_DEPTH)
    except documents.DocumentError as error:
        raise PlanError(f"The plan {error.told()}.", error.advice) from None
