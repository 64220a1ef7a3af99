"""Where the tasks of a graph are drawn: in columns from left to right, what is finished first, then what can be done at
once, wave by wave; in each column near what they wait for. Ten thousand take a tenth of a second.

An epic is drawn behind its children, as what ends with them, or, folded, in their place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

from loom.graph.model.bulk import uncollected
from loom.graph.store.graphs import Outline

FOLDED_BEYOND = 2_000
"""So many tasks are drawn one by one; of more, those in epics are folded into these."""

_FINISHED = ("done", "cancelled")
_ROWS = 14  # of a column, at least, before it goes on beside itself
_SHAPE = 1.8  # rows of a column for the root of all tasks: so a picture comes out wider than high
_SWEEPS = 2


class Node(NamedTuple):
    """A task in the picture. `wave`: how many steps of unfinished work it is away, from 0; None once it is finished.
    `done` of `inside`: of the tasks that are folded into it."""

    id: str
    title: str
    state: str
    column: int
    row: int
    wave: int | None
    inside: int = 0
    done: int = 0


@dataclass(frozen=True, slots=True)
class Placed:
    """A picture: nodes, edges as (from, to) by the places of nodes in the list, the nodes on the longest way to the
    end, and the first column of each wave."""

    nodes: list[Node]
    edges: list[tuple[int, int]]
    critical: list[int]
    waves: list[tuple[int, int]]


@uncollected()
def place(found: Outline, unfolded: Collection[str] = ()) -> Placed:
    """Places the tasks of a graph; the epics of one that is too large are folded but for those of `unfolded`."""
    into = _folding(found, unfolded) if len(found.tasks) > FOLDED_BEYOND else {}
    tasks = [one for one in found.tasks if one[0] not in into]
    index = {one[0]: number for number, one in enumerate(tasks)}
    before = _before(found, tasks, index, into)
    states = [one[2] for one in tasks]
    depth, last = _depths(before, [state in _FINISHED for state in states])
    finished_columns = 1 + max((depth[n] for n, state in enumerate(states) if state in _FINISHED), default=-1)
    layers: dict[int, list[int]] = {}
    for number, state in enumerate(states):
        layers.setdefault(depth[number] + (0 if state in _FINISHED else finished_columns), []).append(number)
    _sort(layers, before)
    spots, starts = _spots(layers, max(_ROWS, int(_SHAPE * sqrt(len(tasks)))))
    counts = _counts(found, into)
    nodes = [
        Node(
            *one[:3],
            *spots[number],
            None if one[2] in _FINISHED else depth[number],
            *counts.get(one[0], (0, 0)),
        )
        for number, one in enumerate(tasks)
    ]
    edges = [(source, number) for number, sources in enumerate(before) for source in sources]
    waves = [(starts[layer], layer - finished_columns) for layer in sorted(layers) if layer >= finished_columns]
    return Placed(nodes, edges, _critical(states, depth, last), waves)


# --- how --------------------------------------------------------------------------------------------------------------


def _folding(found: Outline, unfolded: Collection[str]) -> dict[str, str]:
    """The epic that each task is drawn as which lies in a folded one."""
    parents = {one[0]: one[3] for one in found.tasks}
    into: dict[str, str] = {}
    for task_id, parent in parents.items():
        above = parent
        while above is not None and above in parents:
            if above not in unfolded:
                into[task_id] = above
            above = parents[above]
    return into


def _counts(found: Outline, into: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """How many tasks are folded into each epic, and how many of them are done."""
    counts: dict[str, tuple[int, int]] = {}
    for task_id, _, state, _ in found.tasks:
        if (epic := into.get(task_id)) is not None and state != "epic":
            inside, done = counts.get(epic, (0, 0))
            counts[epic] = inside + 1, done + (state == "done")
    return counts


def _before(
    found: Outline, tasks: Sequence[tuple[str, str, str, str | None]], index: Mapping[str, int], into: Mapping[str, str]
) -> list[list[int]]:
    """What each node waits for, or did, as far as it is drawn: its dependencies, and an epic its children."""
    before: list[dict[int, None]] = [{} for _ in tasks]
    for task_id, target, waived in found.edges:
        if waived:
            continue
        later, earlier = index.get(into.get(task_id, task_id)), index.get(into.get(target, target))
        if later is not None and earlier is not None and later != earlier:
            before[later][earlier] = None
    for number, one in enumerate(tasks):
        if one[3] is not None and (epic := index.get(one[3])) is not None:
            before[epic][number] = None
    return [list(sources) for sources in before]


def _depths(before: Sequence[Sequence[int]], finished: Sequence[bool]) -> tuple[list[int], list[int]]:
    """For each node how many steps of its kind, finished or not, lead to it, and the last of them (-1: none). In a
    circle, which folding may make, some edge is passed over."""
    after: list[list[int]] = [[] for _ in before]
    open_before = [len(sources) for sources in before]
    for number, sources in enumerate(before):
        for source in sources:
            after[source].append(number)
    depth, last, seen = [0] * len(before), [-1] * len(before), [False] * len(before)
    ready = [number for number, count in enumerate(open_before) if not count]
    rest = iter(range(len(before)))
    while True:
        while ready:
            node = ready.pop()
            if seen[node]:
                continue
            seen[node] = True
            for later in after[node]:
                if finished[node] == finished[later] and depth[node] + 1 > depth[later] and not seen[later]:
                    depth[later], last[later] = depth[node] + 1, node
                open_before[later] -= 1
                if open_before[later] == 0:
                    ready.append(later)
        stuck = next((number for number in rest if not seen[number]), None)
        if stuck is None:
            return depth, last
        ready.append(stuck)


def _sort(layers: Mapping[int, list[int]], before: Sequence[Sequence[int]]) -> None:
    """Brings the nodes of each layer near to what they wait for, so that few edges cross."""
    height = {node: place / len(layer) for layer in layers.values() for place, node in enumerate(layer)}
    for _ in range(_SWEEPS):
        for number in sorted(layers):
            layer = layers[number]
            wanted = {
                node: sum(height[one] for one in before[node]) / len(before[node]) if before[node] else height[node]
                for node in layer
            }
            layer.sort(key=wanted.__getitem__)
            for place_, node in enumerate(layer):
                height[node] = place_ / len(layer)


def _spots(layers: Mapping[int, list[int]], rows: int) -> tuple[dict[int, tuple[int, int]], dict[int, int]]:
    """The column and row of each node, and the first column of each layer; one that is too high goes on beside."""
    spots: dict[int, tuple[int, int]] = {}
    starts: dict[int, int] = {}
    column = 0
    for number in sorted(layers):
        layer, starts[number] = layers[number], column
        wide = -(-len(layer) // rows)
        high = -(-len(layer) // wide)
        for place_, node in enumerate(layer):
            spots[node] = column + place_ // high, place_ % high
        column += wide
    return spots, starts


def _critical(states: Sequence[str], depth: Sequence[int], last: Sequence[int]) -> list[int]:
    """The longest way of unfinished tasks, from its first to its end."""
    node = max((n for n, state in enumerate(states) if state not in _FINISHED), key=depth.__getitem__, default=-1)
    way: list[int] = []
    while node >= 0:
        way.append(node)
        node = last[node]
    return way[::-1] if len(way) > 1 else []
