"""What a plan would do, before it is written: its waves, its critical path, and a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from loom import replies, texts
from loom.graph.model import dependencies
from loom.graph.model.bulk import uncollected
from loom.graph.model.plan import Draft
from loom.graph.model.task import Task, TaskStatus
from loom.graph.store.graphs import GraphView
from loom.replies import drawing

_DRAWN = 60  # tasks in a chart
_WEIGHT = {"small": 1, "medium": 2, "large": 4}  # how long a task is beside others; unknown sizes are medium


@uncollected()
def preview(drafts: Sequence[Draft]) -> dict[str, Any]:
    """What a plan would do: its waves (what can run at once), its critical path, and a chart. Tasks go by t and their
    place in the plan."""
    short = {draft.key: f"t{number}" for number, draft in enumerate(drafts, 1)}
    view = _view(drafts, short)
    titles = {short[draft.key]: draft.title for draft in drafts}
    waves = [[one.id for one in wave] for wave in drawing.waves(view)]
    path = _critical(drafts)
    outside = {name for draft in drafts for name in draft.depends_on if name not in short}
    return replies.full(
        count=sum(not draft.epic for draft in drafts),
        epics=sum(draft.epic for draft in drafts),
        edges=sum(len(draft.depends_on) for draft in drafts),
        waits_for=sorted(outside)[:50],
        waves=[
            {
                "wave": number,
                "count": len(wave),
                "tasks": [f"{one} {texts.shorten(titles[one], 100)}" for one in wave[:10]],
            }
            for number, wave in enumerate(waves[:50], 1)
        ],
        more_waves=max(len(waves) - 50, 0) or None,
        critical_path=[f"{short[key]} {texts.shorten(titles[short[key]], 100)}" for key in path[:50]],
        critical_path_length=len(path),
        mermaid=_chart(view),
    )


def _chart(view: GraphView) -> str:
    """A flowchart of as many tasks as an agent can afford to read."""
    kept = _DRAWN
    while True:
        shown = {one.id for one in view.tasks[:kept]}
        edges = [edge for edge in view.edges if edge[0] in shown]
        chart = drawing.mermaid(GraphView(view.tasks[:kept], edges, max(len(view.tasks) - kept, 0)))
        if len(chart) <= replies.FIELD_CHARACTERS or kept == 1:
            return chart
        kept = kept * 2 // 3


def _view(drafts: Sequence[Draft], short: Mapping[str, str]) -> GraphView:
    """Drafts as the tasks that they would become."""
    moment = datetime.now(UTC)
    tasks = [
        Task(
            id=short[draft.key],
            project_id="",
            title=draft.title,
            status=TaskStatus.EPIC if draft.epic else TaskStatus.BLOCKED if draft.depends_on else TaskStatus.PENDING,
            priority=draft.priority,
            version=1,
            created_at=moment,
            updated_at=moment,
            parent_id=short.get(draft.parent or ""),
        )
        for draft in drafts
    ]
    edges = [(short[draft.key], short[name], False) for draft in drafts for name in draft.depends_on if name in short]
    return GraphView(tasks, edges, 0)


def _critical(drafts: Sequence[Draft]) -> list[str]:
    """The keys of the tasks on the longest way through the plan, by size."""
    by_key = {draft.key: draft for draft in drafts}
    edges = dependencies.waits_for(
        {draft.key: [name for name in draft.depends_on if name in by_key] for draft in drafts},
        {draft.key: draft.parent for draft in drafts if draft.parent in by_key},
        {draft.key for draft in drafts if draft.epic},
    )
    order, _ = dependencies.topological(edges)
    length: dict[str, int] = {}
    before: dict[str, str | None] = {}
    for node in order:
        draft = by_key[dependencies.task_of(node)]
        weight = 0 if draft.epic else _WEIGHT.get(str(draft.context.get("size", "")).lower(), 2)
        last = max(edges.get(node, ()), key=lambda one: length.get(one, 0), default=None)
        length[node], before[node] = weight + (length.get(last, 0) if last else 0), last
    node_now: str | None = max(order, key=lambda one: length[one], default=None)
    way: list[str] = []
    while node_now is not None:
        if not by_key[dependencies.task_of(node_now)].epic:
            way.append(node_now)
        node_now = before[node_now]
    return way[::-1]
