"""The shape of the task graph: what waits for what, and whether anything waits for itself.

An epic is two nodes. Its start waits for its own dependencies and for its parent's start; its end, which goes by the
epic's own name, waits for its start and for its children. A child waits for its epic's start, a dependent for its end.
A plain task is one node that goes by its own name.

Only an edge that still holds counts. What is finished, done or cancelled, waits for nothing any more, and an edge that
was waived is no wait; `holds` says so here, and `store.edges.HOLDS` in SQL.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping

from loom.graph.model.task import TaskStatus

_START = "\0start"  # no id or key can hold a NUL


def holds(waiter: TaskStatus, *, waived: bool) -> bool:
    """Whether an edge is still a wait: from a task in this status, and waived or not."""
    return not waived and not waiter.finished


def compute_initial_status(waiting: int, *, epic: bool = False) -> TaskStatus:
    """The status of a task that nobody has begun, which waits for so many things."""
    if epic:
        return TaskStatus.EPIC
    return TaskStatus.BLOCKED if waiting else TaskStatus.PENDING


def epic_start(task_id: str) -> str:
    """The name of the node where an epic starts; where it ends is named `task_id`."""
    return task_id + _START


def task_of(node: str) -> str:
    """The task that a node of the waiting graph belongs to."""
    return node.removesuffix(_START)


def waits_for(
    depends_on: Mapping[str, Iterable[str]], parents: Mapping[str, str | None], epics: Container[str]
) -> dict[str, list[str]]:
    """The two-node waiting graph, each node with the nodes it waits for.

    Args:
        depends_on: every task with what it depends on.
        parents: the epic of each task that has one.
        epics: which tasks are epics.

    The nodes come in the order of the tasks, the ends of the epics after all others.
    """
    edges: dict[str, list[str]] = {}
    for task, dependencies in depends_on.items():
        parent = parents.get(task)
        first = [*dependencies] if parent is None else [epic_start(parent), *dependencies]
        edges[epic_start(task) if task in epics else task] = first
    for task in depends_on:
        if task in epics:
            edges[task] = [epic_start(task)]
    for task in depends_on:
        if (parent := parents.get(task)) is not None:
            edges.setdefault(parent, []).append(task)
    return edges


def detect_cycle(edges: Mapping[str, Iterable[str]]) -> list[str] | None:
    """Finds a cycle in a directed graph, in time linear in its nodes and edges and without recursion.

    Args:
        edges: each node with the nodes it points to; a node that is only pointed to has none.

    Returns:
        The nodes of one cycle, each pointing to the next and the first named again at the end; None without a cycle.
        The same edges in the same order give the same cycle.
    """
    return topological(edges)[1]


def topological(edges: Mapping[str, Iterable[str]]) -> tuple[list[str], list[str] | None]:
    """The nodes in an order in which each comes after all that it points to, and a cycle where that cannot be done.

    The order keeps to that of `edges` as far as it can. With a cycle it is incomplete; see `detect_cycle` for its form.
    """
    order: list[str] = []
    finished: set[str] = set()
    for root in edges:
        if root in finished:
            continue
        path: dict[str, Iterator[str]] = {root: iter(edges[root])}  # insertion order is the way from the root
        while path:
            node, targets = next(reversed(path.items()))
            for target in targets:
                if target in path:
                    way = list(path)
                    return order, [*way[way.index(target) :], target]
                if target not in finished:
                    path[target] = iter(edges.get(target, ()))
                    break
            else:
                path.popitem()
                finished.add(node)
                order.append(node)
    return order, None


def tasks_of_cycle(cycle: Iterable[str]) -> list[str]:
    """A cycle of the waiting graph as tasks: the two nodes of an epic become one name, not repeated in a row."""
    tasks: list[str] = []
    for node in cycle:
        if not tasks or tasks[-1] != task_of(node):
            tasks.append(task_of(node))
    return tasks if len(tasks) > 1 else tasks * 2
