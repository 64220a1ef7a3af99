"""The graph of an import while it is settled: what it says of epics, cycles and finished work is brought to agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from loom import texts
from loom.graph.importing.report import AdjustmentKind, Report
from loom.graph.model import dependencies
from loom.graph.model.dependencies import holds
from loom.graph.model.task import TaskStatus
from loom.graph.store.origins import KnownTask


@dataclass(slots=True)
class Graph:
    """Nodes with their parents, dependencies and statuses. `names` holds what may be changed, by its name in the
    report; other nodes are tasks that exist, and their edges `fixed`."""

    report: Report
    parents: dict[str, str] = field(default_factory=dict)
    depends_on: dict[str, list[str]] = field(default_factory=dict)
    epics: set[str] = field(default_factory=set)
    status: dict[str, TaskStatus] = field(default_factory=dict)
    waived: dict[str, set[str]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    fixed: dict[str, frozenset[str]] = field(default_factory=dict)
    with_done: set[str] = field(default_factory=set)
    """What is done, and epics with anything done below them."""

    def add(
        self,
        key: str,
        name: str,
        status: TaskStatus,
        *,
        epic: bool,
        parent: str | None,
        depends_on: list[str],
        waived: Iterable[str],
    ) -> None:
        """Adds a task that is on its way in."""
        self.names[key], self.status[key] = name, status
        self.depends_on[key], self.waived[key] = depends_on, set(waived)
        if epic:
            self.epics.add(key)
        if parent is not None:
            self.parents[key] = parent

    def add_existing(self, task: KnownTask) -> None:
        """Adds a task of the project, which keeps its place, its status and its edges, those that still hold."""
        waits = [name for name in task.depends_on if holds(task.status, waived=name in task.waived)]
        self.status[task.id] = task.status
        self.depends_on[task.id], self.fixed[task.id] = waits, frozenset(waits)
        if task.status is TaskStatus.EPIC:
            self.epics.add(task.id)
        if task.parent_id is not None and not task.status.finished:
            self.parents[task.id] = task.parent_id

    def derive_epics(self) -> None:
        """Gives each epic the status its children give it; a finished one without children becomes a task."""
        children: dict[str, list[str]] = {}
        for key in self.names:
            if (parent := self.parents.get(key)) is not None:
                children.setdefault(parent, []).append(key)
        for key in _deepest_first(self.names, self.parents):
            before = self.status[key]
            if key in children:
                self._follow_children(key, children[key])
                if before not in (self.status[key], TaskStatus.EPIC):
                    finished = self.status[key].finished
                    self._tell(AdjustmentKind.CLOSED if finished else AdjustmentKind.OPENED, key)
            elif before is TaskStatus.EPIC:
                self.status[key] = TaskStatus.PENDING
            elif key in self.epics and before.finished:
                self.epics.discard(key)
                self._tell(AdjustmentKind.CHILDLESS, key)
            if self.status[key] is TaskStatus.DONE:
                self.with_done.add(key)

    def break_cycles(self) -> None:
        """Drops dependencies until nothing waits for itself: of each cycle met, the last one that may be dropped.

        Parent links alone make no cycle, and what exists has none, so that each has an edge to drop.
        """
        self.epics.update(self.parents.values())
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
                    self._tell(AdjustmentKind.WAIVED, key, name)
                elif found is TaskStatus.CANCELLED and self.status[key] is TaskStatus.PENDING:
                    self._tell(AdjustmentKind.STUCK, key, name)

    def _follow_children(self, epic: str, children: Iterable[str]) -> None:
        below = {self.status[child] for child in children}
        if not all(status.finished for status in below):
            self.status[epic] = TaskStatus.PENDING
        else:
            self.status[epic] = TaskStatus.DONE if TaskStatus.DONE in below else TaskStatus.CANCELLED
        if not self.with_done.isdisjoint(children):
            self.with_done.add(epic)

    def _droppable(self, node: str, target: str) -> bool:
        task = dependencies.task_of(node)
        places_task = node != task or task not in self.epics  # an epic's end has children, no dependencies
        return places_task and target == dependencies.task_of(target) and target not in self.fixed.get(task, ())

    def _drop(self, key: str, name: str) -> None:
        self.depends_on[key] = [other for other in self.depends_on[key] if other != name]
        self._tell(AdjustmentKind.CYCLE, key, name)

    def _tell(self, kind: AdjustmentKind, key: str, name: str | None = None) -> None:
        on = f" on {texts.quote(name)[1:-1]}" if name is not None else ""
        self.report.add(kind, key, self.names.get(key, key) + on)


def _deepest_first(keys: Mapping[str, str], parents: Mapping[str, str]) -> list[str]:
    """The keys, each before its parent."""
    order = dependencies.topological({key: [parents[key]] if key in parents else [] for key in keys})[0]
    return [key for key in reversed(order) if key in keys]
