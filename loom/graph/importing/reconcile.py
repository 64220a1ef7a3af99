"""From what other tools wrote to what Loom's invariants allow, with a report of each thing that had to give way.

A reader of a format turns its file into items, as they are; `reconcile` makes drafts of them that the store can write
as they stand; `fit` takes out what the project has already and makes the rest agree with what Loom has done meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from loom.graph.model import dependencies, limits
from loom.graph.model.plan import Draft
from loom.graph.model.task import Priority, TaskStatus

ORIGIN_CHARACTERS = 200


class Kind(StrEnum):
    """What an import had to change, in the order of the report."""

    NOT_WORK = "not_work"
    DUPLICATE = "duplicate"
    SAME_ID = "same_id"
    DANGLING = "dangling_reference"
    SECOND_PARENT = "second_parent"
    PARENT_CYCLE = "parent_cycle"
    CYCLE = "cycle"
    TOO_MANY = "too_many_dependencies"
    OPENED = "parent_opened"
    CLOSED = "epic_closed"
    CHILDLESS = "childless_epic"
    WAIVED = "dependency_waived"
    PENDING = "came_in_pending"
    STUCK = "waits_for_cancelled"
    CONDITIONAL = "conditional_dependency"
    TITLE = "title_shortened"
    SHORTENED = "text_shortened"
    CLEANED = "characters_removed"
    ORPHANED = "parent_out_of_reach"


_WORDS = {
    Kind.NOT_WORK: "left out, not work",
    Kind.DUPLICATE: "older copy of the same task left out",
    Kind.SAME_ID: "other task with an id that is taken came in under an id of its own",
    Kind.DANGLING: "reference to what is not in the file dropped",
    Kind.SECOND_PARENT: "second parent kept as a related note",
    Kind.PARENT_CYCLE: "parent that was its own descendant dropped",
    Kind.CYCLE: "dependency that closed a cycle dropped",
    Kind.TOO_MANY: f"dependency beyond {limits.DEPENDENCIES:,} of one task dropped",
    Kind.OPENED: "closed parent with open children opened",
    Kind.CLOSED: "epic whose children are all finished closed",
    Kind.CHILDLESS: "finished epic without children came in as a task",
    Kind.WAIVED: "unfinished dependency of finished work waived",
    Kind.PENDING: "came in as pending, its former status noted",
    Kind.STUCK: "waits for a cancelled task until that is waived",
    Kind.CONDITIONAL: "condition on another's failure came in as a plain dependency",
    Kind.TITLE: "title shortened, the full one kept in the context",
    Kind.SHORTENED: "text beyond the limit shortened",
    Kind.CLEANED: "control characters removed",
    Kind.ORPHANED: "new child of what Loom has claimed or finished came in without its parent",
}


class Note(NamedTuple):
    """One thing that an import changed: what kind, on which key, and the case in words."""

    kind: Kind
    key: str
    example: str


@dataclass(frozen=True, slots=True)
class Adjustment:
    """One kind of change an import made, how often, and the first case. `str()` is the line of a report."""

    kind: Kind
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.count:,} × {_WORDS[self.kind]}, such as {self.example}"


@dataclass(frozen=True, slots=True)
class Batch:
    """What one file holds, ready for the store.

    `format` is taskmaster, beads, loom or plan. `source` counts what the file held, by name. `known` is how many
    drafts `fit` took out because the project has them. `links` are dependencies of tasks that exist on keys of the
    batch, as (task id, key); only `fit` finds them.
    """

    format: str
    drafts: list[Draft]
    notes: list[Note] = field(default_factory=list)
    source: dict[str, int] = field(default_factory=dict)
    known: int = 0
    links: list[tuple[str, str]] = field(default_factory=list)

    @property
    def adjustments(self) -> list[Adjustment]:
        """The notes counted, each kind with its first case, in the order of `Kind`."""
        by_kind: dict[Kind, list[Note]] = {}
        for note in self.notes:
            by_kind.setdefault(note.kind, []).append(note)
        return [Adjustment(kind, len(by_kind[kind]), by_kind[kind][0].example) for kind in Kind if kind in by_kind]


@dataclass(slots=True)
class Item:
    """A task as another tool had it. References may dangle, statuses contradict, texts hold anything.

    `key` is the origin id too unless `origin_id` is given. Of `parents` the first that will do is taken. `status` is
    pending, done or cancelled, or epic where the file gives none; `was` is the former one where Loom has none like it.
    """

    key: str
    title: str
    status: TaskStatus = TaskStatus.PENDING
    was: str | None = None
    epic: bool = False
    parents: list[str] = field(default_factory=list)
    depends_on: list[str] = field(default_factory=list)
    waived: Collection[str] = ()
    priority: Priority = Priority.P1
    context: dict[str, Any] = field(default_factory=dict)
    done_when: str | None = None
    output: dict[str, Any] | None = None
    origin_id: str | None = None
    created_at: datetime | None = None
    done_at: datetime | None = None

    def __str__(self) -> str:
        return f"{limits.quote(self.key)[1:-1]} {limits.quote(self.title)}"


class Known(NamedTuple):
    """What `fit` must know of a task that the project has."""

    id: str
    origin_id: str | None
    status: TaskStatus
    parent_id: str | None = None
    depends_on: Collection[str] = ()
    waived: Collection[str] = ()


def reconcile(items: Iterable[Item], notes: list[Note]) -> list[Draft]:
    """Makes drafts that satisfy every invariant, in the order of the items, and adds to `notes` what gave way."""
    by_key: dict[str, Item] = {}
    for item in items:
        if item.key in by_key:
            notes.append(Note(Kind.DUPLICATE, item.key, str(item)))
        else:
            by_key[item.key] = replace(item, context=dict(item.context))
    parents = _parents(by_key, notes)
    graph = _Graph(
        parents=parents,
        depends_on={key: _dependencies(item, by_key, notes) for key, item in by_key.items()},
        epics={key for key, item in by_key.items() if item.epic} | set(parents.values()),
        status={key: item.status for key, item in by_key.items()},
        waived={key: set(item.waived) for key, item in by_key.items()},
        names={key: str(item) for key, item in by_key.items()},
        notes=notes,
    )
    graph.derive_epics()
    graph.break_cycles()
    graph.waive()
    return [_draft(item, graph, notes) for item in by_key.values()]


def fit(batch: Batch, tasks: Iterable[Known], project_id: str | None = None) -> Batch:
    """Leaves of a batch what the project does not have, made to agree with the project as it is.

    Args:
        batch: as `read` returned it.
        tasks: all tasks of the project.
        project_id: its id; with it, Loom's own export of this very project is recognised by the tasks' ids.

    Returns:
        A batch whose drafts name tasks that exist by their ids. No task that exists is changed, but for `links`: those
        still pending or blocked also wait for what the file newly puts before them.
    """
    known = {task.id: task for task in tasks}
    by_origin = {task.origin_id: task.id for task in known.values() if task.origin_id is not None}
    if project_id is not None:
        by_origin |= {exported(project_id, id): id for id in known}
    there = {draft.key: by_origin[draft.origin_id] for draft in batch.drafts if draft.origin_id in by_origin}
    new = {draft.key: draft for draft in _without_emptied(batch.drafts, there)}
    notes = [note for note in batch.notes if note.key not in there and note.kind is not Kind.STUCK]

    graph = _Graph(
        parents={key: draft.parent for key, draft in new.items() if draft.parent is not None and draft.parent in new},
        depends_on={id: [*task.depends_on] for id, task in known.items()},
        epics={key for key, draft in new.items() if draft.epic},
        status={id: task.status for id, task in known.items()} | {key: draft.status for key, draft in new.items()},
        waived={key: {there.get(name, name) for name in draft.waived} for key, draft in new.items()},
        names={key: f"{key} {limits.quote(draft.title)}" for key, draft in new.items()},
        notes=notes,
        fixed={id: frozenset(task.depends_on) for id, task in known.items()},
    )
    graph.derive_epics()
    foreign = {key: there.get(draft.parent, draft.parent) for key, draft in new.items() if draft.parent is not None}
    foreign = {key: parent for key, parent in foreign.items() if parent not in new}
    for key in _orphans(graph, foreign, known):
        notes.append(Note(Kind.ORPHANED, key, graph.names[key]))
        context = dict(new[key].context)
        relate(context, {"type": "parent", "id": foreign.pop(key)})
        new[key] = replace(new[key], context=_fitting(context)[0])

    graph.parents |= {key: parent for key, parent in foreign.items() if parent in known}
    graph.parents |= {id: task.parent_id for id, task in known.items() if task.parent_id in known and task.parent_id}
    graph.epics |= {id for id, task in known.items() if task.status is TaskStatus.EPIC} | set(graph.parents.values())
    for key, draft in new.items():
        graph.depends_on[key] = list(dict.fromkeys(there.get(name, name) for name in draft.depends_on))
    for draft in batch.drafts:
        if (id := there.get(draft.key)) and known[id].status in (TaskStatus.PENDING, TaskStatus.BLOCKED):
            room = limits.DEPENDENCIES - len(graph.depends_on[id])
            graph.depends_on[id] += [name for name in draft.depends_on if name in new][: max(room, 0)]
    graph.break_cycles()
    graph.waive()
    return replace(
        batch,
        drafts=[
            replace(
                draft,
                epic=key in graph.epics,
                parent=foreign.get(key, graph.parents.get(key)),
                depends_on=tuple(graph.depends_on[key]),
                waived=frozenset(graph.waived[key]),
                status=graph.status[key],
                done_at=draft.done_at if graph.status[key].finished else None,
            )
            for key, draft in new.items()
        ],
        notes=notes,
        known=len(there),
        links=[(id, name) for id in known for name in graph.depends_on[id] if name in new],
    )


def exported(project_id: str, name: str) -> str:
    """The origin id of a task that came out of a Loom project."""
    return ":".join(("loom", project_id, name))


def origin(text: str) -> str:
    """A key or origin id that Postgres can index, whatever a file calls its tasks: short, printable, distinct."""
    if len(text) <= ORIGIN_CHARACTERS and text.isprintable():
        return text
    head = "".join(c if c.isprintable() else "?" for c in text[: ORIGIN_CHARACTERS - 33])
    return f"{head}#{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}"


def relate(context: dict[str, Any], entry: dict[str, Any]) -> None:
    """Adds a related note to a context."""
    before = context.get("related", [])
    context["related"] = [*(before if isinstance(before, list) else [before]), entry]


def put_done_when(item: Item, *criteria: tuple[str, object]) -> None:
    """Takes the first of `criteria`, named texts, that is short enough as `done_when`; the others go into the context
    under their names."""
    for name, value in criteria:
        text = value
        if isinstance(value, list) and all(isinstance(line, str) for line in value):
            text = "\n".join(f"- {line}" for line in value)
        if not text:
            continue
        fits = isinstance(text, str) and len(text.encode(errors="replace")) <= limits.DONE_WHEN_BYTES
        if item.done_when is None and fits:
            item.done_when = str(text)
        else:
            item.context[name] = value


def moment(value: object) -> datetime | None:
    """A point in time from ISO 8601 text, in UTC where it names no zone; None from anything else."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if found is None or not 1970 < found.year < 9999:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


@dataclass(slots=True)
class _Graph:
    """The graph while it is being settled. `names` holds what may be changed, by its name in the report; other nodes
    are tasks that exist, and their edges `fixed`."""

    parents: dict[str, str]
    depends_on: dict[str, list[str]]
    epics: set[str]
    status: dict[str, TaskStatus]
    waived: dict[str, set[str]]
    names: dict[str, str]
    notes: list[Note]
    fixed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    with_done: set[str] = field(default_factory=set)
    """What is done, and epics with anything done below them."""

    def derive_epics(self) -> None:
        """Gives each epic the status its children give it; a finished one without children becomes a task."""
        children: dict[str, list[str]] = {}
        for key, parent in self.parents.items():
            children.setdefault(parent, []).append(key)
        for key in _deepest_first(self.names, self.parents):
            status = self.status[key]
            if key in children:
                below = {self.status[child] for child in children[key]}
                if not all(one.finished for one in below):
                    self.status[key] = TaskStatus.PENDING
                else:
                    self.status[key] = TaskStatus.DONE if TaskStatus.DONE in below else TaskStatus.CANCELLED
                if not self.with_done.isdisjoint(children[key]):
                    self.with_done.add(key)
                if status not in (self.status[key], TaskStatus.EPIC):
                    self._note(Kind.CLOSED if self.status[key].finished else Kind.OPENED, key)
            elif status is TaskStatus.EPIC:
                self.status[key] = TaskStatus.PENDING
            elif key in self.epics and status.finished:
                self.epics.discard(key)
                self._note(Kind.CHILDLESS, key)
            if self.status[key] is TaskStatus.DONE:
                self.with_done.add(key)

    def break_cycles(self) -> None:
        """Drops dependencies until nothing waits for itself: of each cycle met, the last one that may be dropped.

        Parent links alone make no cycle, and what exists has none, so that each has an edge to drop.
        """
        edges = dependencies.waits_for(self.depends_on, self.parents, self.epics)
        dropped: set[tuple[str, str]] = set()
        finished: set[str] = set()
        for root in edges:
            path: dict[str, Iterator[str]] = {} if root in finished else {root: iter(edges[root])}
            while path:
                node, targets = next(reversed(path.items()))
                for target in targets:
                    if target in finished or (node, target) in dropped:
                        continue
                    if target not in path:
                        path[target] = iter(edges.get(target, ()))
                        break
                    while not self._droppable(node, target):  # back along the cycle; what is left is looked at again
                        path.popitem()
                        node, target = next(reversed(path)), node
                    dropped.add((node, target))
                    self._drop(dependencies.task_of(node), target)
                    break
                else:
                    path.popitem()
                    finished.add(node)

    def waive(self) -> None:
        """Waives the unfinished dependencies of what is done, and of epics with anything done below them."""
        for key in self.names:
            self.waived[key].intersection_update(self.depends_on[key])
            for name in self.depends_on[key]:
                found = self.status.get(name)
                if name in self.waived[key] or found is TaskStatus.DONE:
                    continue
                if key in self.with_done:
                    self.waived[key].add(name)
                    self._note(Kind.WAIVED, key, name)
                elif found is TaskStatus.CANCELLED and self.status[key] is TaskStatus.PENDING:
                    self._note(Kind.STUCK, key, name)

    def _droppable(self, node: str, target: str) -> bool:
        task = dependencies.task_of(node)
        places_task = node != task or task not in self.epics  # an epic's end has children, no dependencies
        return places_task and target == dependencies.task_of(target) and target not in self.fixed.get(task, ())

    def _drop(self, key: str, name: str) -> None:
        self.depends_on[key] = [other for other in self.depends_on[key] if other != name]
        self._note(Kind.CYCLE, key, name)

    def _note(self, kind: Kind, key: str, name: str | None = None) -> None:
        on = f" on {limits.quote(name)[1:-1]}" if name is not None else ""
        self.notes.append(Note(kind, key, self.names.get(key, key) + on))


def _deepest_first(keys: Iterable[str], parents: Mapping[str, str]) -> list[str]:
    """The keys, each before its parent."""
    order = dependencies.topological({key: [parents[key]] if key in parents else [] for key in keys})[0]
    return order[::-1]


def _parents(by_key: Mapping[str, Item], notes: list[Note]) -> dict[str, str]:
    """The parent of each item that has one: the first it names that exists, without cycles."""
    parents: dict[str, str] = {}
    for key, item in by_key.items():
        for name in dict.fromkeys(item.parents):
            if name == key:
                notes.append(Note(Kind.PARENT_CYCLE, key, str(item)))
            elif name not in by_key:
                notes.append(Note(Kind.DANGLING, key, f"{item} under {limits.quote(name)}"))
            elif key not in parents:
                parents[key] = name
            else:
                relate(item.context, {"type": "parent", "id": name, "title": by_key[name].title})
                notes.append(Note(Kind.SECOND_PARENT, key, f"{item} under {by_key[name]}"))
    checked: set[str] = set()
    for key in by_key:
        walked: dict[str, None] = {}
        at: str | None = key
        while at is not None and at not in checked and at not in walked:
            walked[at] = None
            at = parents.get(at)
        if at is not None and at in walked:  # the walk came back to itself: cut where it began to repeat
            last = next(reversed(walked))
            del parents[last]
            notes.append(Note(Kind.PARENT_CYCLE, last, f"{by_key[last]} under {by_key[at]}"))
        checked.update(walked)
    return parents


def _dependencies(item: Item, by_key: Mapping[str, Item], notes: list[Note]) -> list[str]:
    found: list[str] = []
    for name in dict.fromkeys(item.depends_on):
        if name not in by_key:
            notes.append(Note(Kind.DANGLING, item.key, f"{item} on {limits.quote(name)}"))
        elif len(found) == limits.DEPENDENCIES:
            notes.append(Note(Kind.TOO_MANY, item.key, f"{item} on {by_key[name]}"))
        else:
            found.append(name)
    return found


def _without_emptied(drafts: Sequence[Draft], there: Mapping[str, str]) -> list[Draft]:
    """The drafts that the project does not have. A new epic goes too when all its children are there, where they keep
    their places, and nothing new waits for it: it would stay open for ever."""
    new = [draft for draft in drafts if draft.key not in there]
    needed = {draft.parent for draft in new}.union(*(draft.depends_on for draft in new))
    had_children = {draft.parent for draft in drafts}
    return [draft for draft in new if draft.key in needed or draft.key not in had_children]


def _orphans(graph: _Graph, foreign: Mapping[str, str], known: Mapping[str, Known]) -> list[str]:
    """Which new tasks cannot come in under the existing parent the file gives them.

    The parent must be open and unclaimed and stay open with them, and where something done comes, all that the parent
    and its own parents wait for must be done or waived.
    """

    def free(id: str | None) -> bool:
        while id is not None and (task := known.get(id)):
            waits_for = (known[name].status for name in task.depends_on if name in known and name not in task.waived)
            if any(status is not TaskStatus.DONE for status in waits_for):
                return False
            id = task.parent_id
        return True

    takes_children = (TaskStatus.EPIC, TaskStatus.PENDING, TaskStatus.BLOCKED)
    fitting = {
        key: parent
        for key, parent in foreign.items()
        if parent in known and known[parent].status in takes_children and (key not in graph.with_done or free(parent))
    }
    stays_open = {task.parent_id for task in known.values() if not task.status.finished}
    stays_open |= {parent for key, parent in fitting.items() if not graph.status[key].finished}
    fitting = {key: parent for key, parent in fitting.items() if parent in stays_open}
    return [key for key, parent in foreign.items() if parent in known and key not in fitting]


def _draft(item: Item, graph: _Graph, notes: list[Note]) -> Draft:
    """The item with its place in the graph and its texts made fit."""
    key, status = item.key, graph.status[item.key]
    cleaner = _Cleaner()
    context = cleaner.value(item.context)
    title = " ".join(limits.NOT_ONE_LINE.sub(" ", cleaner.value(item.title)).split())
    if title != item.title.strip() and title:
        context["full_title"] = cleaner.value(item.title)
    if len(title) > limits.TITLE_CHARACTERS:
        title = title[: limits.TITLE_CHARACTERS - 1].rstrip() + "…"
        notes.append(Note(Kind.TITLE, key, graph.names[key]))
    if item.was is not None and status is TaskStatus.PENDING:
        context["imported_status"] = cleaner.value(item.was)
        if key not in graph.epics:
            notes.append(Note(Kind.PENDING, key, f"{item}, {limits.quote(item.was)[1:-1]}"))
    done_when = None if item.done_when is None else cleaner.value(item.done_when).strip() or None
    if done_when is not None and len(done_when.encode()) > limits.DONE_WHEN_BYTES:
        context["done_when"], done_when = done_when, None
    context, cut = _fitting(context)
    output, output_cut = (None, False) if item.output is None else _fitting(cleaner.value(item.output))
    if cut or output_cut:
        notes.append(Note(Kind.SHORTENED, key, graph.names[key]))
    if cleaner.changed:
        notes.append(Note(Kind.CLEANED, key, graph.names[key]))
    return Draft(
        key=key,
        title=title or "Untitled",
        epic=key in graph.epics,
        parent=graph.parents.get(key),
        depends_on=tuple(graph.depends_on[key]),
        priority=item.priority,
        context=context,
        done_when=done_when,
        status=status,
        output=output if status is TaskStatus.DONE else None,
        waived=frozenset(graph.waived[key]),
        origin_id=origin(item.origin_id or key),
        created_at=item.created_at,
        done_at=item.done_at if status.finished else None,
    )


_UNFIT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_INNER_DEPTH = limits.JSON_DEPTH - 4


class _Cleaner:
    """Makes values of a file fit for Postgres and for readers, and remembers whether anything had to go."""

    def __init__(self) -> None:
        self.changed = False

    def value(self, value: Any, depth: int = 1) -> Any:
        if isinstance(value, str):
            if not _UNFIT.search(value):
                return value
            text = value.replace("\r\n", "\n")
            clean = _UNFIT.sub("", text)
            self.changed |= clean != text
            return clean
        if isinstance(value, dict | list) and depth > _INNER_DEPTH:
            self.changed = True
            return "(nested too deep)"
        if isinstance(value, dict):
            return {self.value(str(name)): self.value(inner, depth + 1) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.value(inner, depth + 1) for inner in value]
        if isinstance(value, int) and value.bit_length() > 1024:
            return str(value)
        if isinstance(value, float) and value - value != 0:
            return None
        return value


def _fitting(value: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A JSON object within the limit, its longest parts cut where needed, and whether any were."""
    total = _json_bytes(value)
    if total <= limits.JSON_BYTES:
        return value, False
    sizes = {name: _json_bytes(part) for name, part in value.items()}
    left = limits.JSON_BYTES - _NOTE_BYTES - (total - sum(sizes.values()))
    longest = 0  # what every part may have when the short ones keep all theirs
    for at, size in enumerate(sorted(sizes.values())):
        longest = left // (len(sizes) - at)
        if size > longest:
            break
        left -= size
    kept, cut = dict(value), []
    for name, part in value.items():
        if sizes[name] > longest:
            kept[name] = _cut(part if isinstance(part, str) else _json(part), longest)
            cut.append(f"{limits.quote(name)[1:-1]}, {sizes[name]:,} bytes")
            if not kept[name]:
                del kept[name]
    kept["shortened"] = cut[:20]
    return kept, True


_NOTE_BYTES = 8192  # enough for the names of twenty parts


def _cut(text: str, size: int) -> str:
    """The beginning of a text that takes at most `size` bytes in JSON; empty where that is not worth keeping."""
    if size < 200:
        return ""
    encoded = _json(text)[1:-1].encode()[: size - 2].decode(errors="ignore")
    for back in range(7):  # an escape is at most six characters long
        try:
            return str(json.loads(f'"{encoded[: len(encoded) - back]}"'))
        except ValueError:
            continue
    return ""


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _json_bytes(value: object) -> int:
    return len(_json(value).encode())
