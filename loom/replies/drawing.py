"""The shape of the graph for who looks at it: as rows and edges, in waves of what can be done at once, as Mermaid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from loom import texts
from loom.graph.model.dependencies import epic_start, task_of, topological
from loom.graph.model.dependencies import waits_for as waiting_graph
from loom.graph.model.task import Task, TaskStatus
from loom.replies.fitting import Reply, full
from loom.replies.parts import state
from loom.replies.tasks import waits_for
from loom.texts import clean

if TYPE_CHECKING:
    from loom.graph.store.graphs import GraphView

_WAVE_SHOWN = 10
_NAMED = 3  # things that a task waits for
_BLOCKED = TaskStatus.BLOCKED
_NESTED = 20  # deeper epics are drawn beside the others
_LABEL = 60
# What Mermaid reads in a text between quotes, and what stands for it there.
_SIGNS = str.maketrans(
    {"&": "&amp;", '"': "&quot;", "<": "&lt;", ">": "&gt;"}
    | {sign: f"#{ord(sign)};" for sign in "%{}#`\\@:"}  # directives, comments, entities, Markdown
)
# It looks again when it has put those back: for icons, formulas, line breaks and its own marks around entities. These
# are parted by a word joiner.
_AGAIN = re.compile(r"#58;(?=fa-)|\$(?=\$)|#92;(?=n)|ﬂ(?=°)|¶(?=ß)")

_STYLES = {
    TaskStatus.DONE: "fill:#d3f9d8,stroke:#2b8a3e",
    TaskStatus.CLAIMED: "fill:#d0ebff,stroke:#1971c2",
    TaskStatus.PENDING: "fill:#fff9db,stroke:#e67700",
    TaskStatus.BLOCKED: "fill:#f1f3f5,stroke:#868e96",
    TaskStatus.FAILED: "fill:#ffe3e3,stroke:#c92a2a",
    TaskStatus.CANCELLED: "fill:#ffffff,stroke:#adb5bd,stroke-dasharray:4",
}


def rows(found: GraphView) -> Reply:
    """Tasks and edges."""
    if not found.tasks:
        return {"tasks": [], "edges": [], "count": 0, "note": "The project has no tasks yet."}
    return full(
        tasks=[
            full(
                id=one.id,
                title=one.title,
                status=one.status,
                state=state(one),
                priority=one.priority,
                parent_id=one.parent_id,
                waits_for=waits_for(found.blockers.get(one.id, ())),
            )
            for one in found.tasks
        ],
        edges=[full(task=one, depends_on=target, waived=waived or None) for one, target, waived in found.edges],
        count=len(found.tasks),
        more=found.more or None,
    )


def summary(found: GraphView) -> Reply:
    """The waves in which the unfinished tasks can be done, the next one first."""
    if not found.tasks:
        return {"waves": [], "count": 0, "note": "The project has no tasks yet."}
    unfinished = sum(not one.status.finished for one in found.tasks)
    reasons = _reasons(found)
    shown = [
        {
            "wave": number,
            "count": len(wave),
            "tasks": [_line(one, reasons.get(one.id, ())) for one in wave[:_WAVE_SHOWN]],
        }
        for number, wave in enumerate(waves(found), 1)
    ]
    note = None if unfinished else "Every task is finished."
    return full(
        waves=shown,
        held_up_by_dead_work=held_up(found),
        count=len(found.tasks),
        unfinished=unfinished,
        more=found.more or None,
        note=note,
    )


def _line(one: Task, why: Sequence[str]) -> str:
    more = f"; and {len(why) - _NAMED} more" if len(why) > _NAMED else ""
    told = f" (waits for {'; '.join(why[:_NAMED])}{more})" if why else ""
    return f"{one.id} {one.state}: {one.title}{told}"


def _reasons(found: GraphView) -> dict[str, list[str]]:
    """What each blocked task waits for: what is not in view, and what the edges in view say."""
    shown = {one.id: one for one in found.tasks}
    reasons = {one.id: waits_for(found.blockers.get(one.id, ())) for one in found.tasks if one.status is _BLOCKED}
    for task_id, target, waived in found.edges:
        if task_id in reasons and target in shown and not waived and shown[target].status is not TaskStatus.DONE:
            reasons[task_id].append(f"{target} ({shown[target].state})")
    return {task_id: list(dict.fromkeys(why)) for task_id, why in reasons.items()}


def held_up(found: GraphView) -> dict[str, list[str]]:
    """The unfinished tasks that wait, directly or not, for a dead or cancelled one: ids by what holds them."""
    unfinished = {one.id for one in found.tasks if not one.status.finished}
    waiting: dict[str, list[str]] = {}
    for task_id, target, waived in found.edges:
        if not waived and task_id in unfinished:
            waiting.setdefault(target, []).append(task_id)
    for one in found.tasks:
        if one.id in unfinished and one.parent_id:
            waiting.setdefault(one.id, []).append(one.parent_id)  # an epic cannot close before its child
    held: dict[str, list[str]] = {}
    for one in found.tasks:
        if one.dead or one.status is TaskStatus.CANCELLED:
            reach, ahead = dict[str, None](), [*waiting.get(one.id, ())]
            while ahead:
                task_id = ahead.pop()
                if task_id not in reach:
                    reach[task_id] = None
                    ahead += waiting.get(task_id, ())
            if reach:
                held[one.id] = sorted(reach)[:_WAVE_SHOWN]
    return held


def waves(found: GraphView) -> list[list[Task]]:
    """The unfinished tasks by how many steps of unfinished work they are away."""
    unfinished = {one.id: one for one in found.tasks if not one.status.finished}
    targets: dict[str, list[str]] = {one: [] for one in unfinished}
    for one, target, waived in found.edges:
        if not waived and one in unfinished and target in unfinished:
            targets[one].append(target)
    parents = {one.id: one.parent_id for one in unfinished.values() if one.parent_id in unfinished}
    edges = waiting_graph(targets, parents, set(parents.values()))
    order, _ = topological(edges)
    step: dict[str, int] = {}
    for node in order:
        one = task_of(node)
        ends = node == one and epic_start(one) in edges  # an epic ends with its last child, not a step after it
        steps = (step.get(to, 0) + (not ends and to == task_of(to)) for to in edges.get(node, ()))
        step[node] = max(steps, default=0)
    by_step: dict[int, list[Task]] = {}
    for one_id, one_task in unfinished.items():
        if one_task.status is not TaskStatus.EPIC:
            by_step.setdefault(step.get(one_id, 0), []).append(one_task)
    return [by_step[number] for number in sorted(by_step)]


def mermaid(found: GraphView) -> str:
    """The graph as a Mermaid flowchart, epics as subgraphs."""
    shown = {one.id for one in found.tasks}
    inside: dict[str | None, list[Task]] = {}
    for one in found.tasks:
        inside.setdefault(one.parent_id if one.parent_id in shown else None, []).append(one)
    lines = ["flowchart LR"]

    def place(parent: str | None, depth: int) -> None:
        for one in inside.get(parent, ()):
            label = f'{_node(one.id)}["{_label(one)}"]'
            if one.id in inside and depth <= _NESTED:
                lines.append(f"{'  ' * depth}subgraph {label}")
                place(one.id, depth + 1)
                lines.append(f"{'  ' * depth}end")
            else:
                lines.append(f"{'  ' * depth}{label}:::{one.status}")

    place(None, 1)
    for task_id, target, waived in found.edges:
        if target in shown:
            lines.append(f"  {_node(target)} {'-.->' if waived else '-->'} {_node(task_id)}")
    lines += [f"  classDef {status} {style}" for status, style in _STYLES.items()]
    if found.more:
        lines.append(f"  %% {found.more} tasks more are not shown")
    return "\n".join(lines)


def _node(task_id: str) -> str:
    return task_id.replace("-", "_")


def _label(one: Task) -> str:
    """What stands in a task's box: its title as text, whatever Mermaid would make of it."""
    title = texts.shorten(clean(one.title), _LABEL).translate(_SIGNS)
    return f"{one.id}<br/>" + _AGAIN.sub(r"\g<0>#8288;", title)
