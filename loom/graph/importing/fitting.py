"""What a file holds beside what the project has: only the new comes in, made to agree with the project as it is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from loom import texts
from loom.graph.importing.items import Batch, exported, relate
from loom.graph.importing.report import AdjustmentKind, Report
from loom.graph.importing.settling import Graph
from loom.graph.importing.values import cut_to_limit
from loom.graph.model import limits
from loom.graph.model.plan import Draft
from loom.graph.model.task import TaskStatus
from loom.graph.store import TaskOutline

NOT_BEGUN = (TaskStatus.PENDING, TaskStatus.BLOCKED)
"""The statuses of tasks that may still gain dependencies."""


def fit(batch: Batch, tasks: Iterable[TaskOutline], project_id: str | None = None) -> Batch:
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
    there = _recognised(batch.drafts, known.values(), project_id)
    new = {draft.key: draft for draft in _without_emptied(batch.drafts, there)}
    report = Report(one for one in batch.report if one.key not in there and one.kind is not AdjustmentKind.STUCK)
    graph = _united(known.values(), new, there, report)
    graph.derive_epics()
    for key in _orphans(graph, known):
        new[key] = _orphaned(new[key], graph)
    links = _links(batch.drafts, new, there, graph)
    graph.break_cycles()
    graph.waive()
    return replace(
        batch,
        drafts=[_settled(draft, graph) for draft in new.values()],
        report=report,
        known=len(there),
        links=[(id, key) for id, key in links if key in graph.depends_on[id]],
    )


def _recognised(drafts: Iterable[Draft], tasks: Collection[TaskOutline], project_id: str | None) -> dict[str, str]:
    """The drafts that the project has, by key, each with the id of its task."""
    by_origin = {task.origin_id: task.id for task in tasks if task.origin_id is not None}
    if project_id is not None:
        by_origin |= {exported(project_id, task.id): task.id for task in tasks}
    return {draft.key: by_origin[draft.origin_id] for draft in drafts if draft.origin_id in by_origin}


def _without_emptied(drafts: Sequence[Draft], there: Mapping[str, str]) -> list[Draft]:
    """The drafts that the project does not have. A new epic goes too when all its children are there, where they keep
    their places, and nothing new waits for it: it would stay open for ever."""
    new = [draft for draft in drafts if draft.key not in there]
    needed = {draft.parent for draft in new}.union(*(draft.depends_on for draft in new))
    had_children = {draft.parent for draft in drafts}
    return [draft for draft in new if draft.key in needed or draft.key not in had_children]


def _united(known: Iterable[TaskOutline], new: Mapping[str, Draft], there: Mapping[str, str], report: Report) -> Graph:
    """The project and what is new in one graph, where tasks that exist go by their ids. Of the parents that the file
    names only those are in it that exist or come; the others are the store's to refuse."""
    graph = Graph(report)
    for task in known:
        graph.add_existing(task)
    for key, draft in new.items():
        parent = None if draft.parent is None else there.get(draft.parent, draft.parent)
        graph.add(
            key,
            f"{key} {texts.quote(draft.title)}",
            draft.status,
            epic=draft.epic,
            parent=parent if parent in new or parent in graph.fixed else None,
            depends_on=list(dict.fromkeys(there.get(name, name) for name in draft.depends_on)),
            waived=(there.get(name, name) for name in draft.waived),
        )
    return graph


def _orphans(graph: Graph, known: Mapping[str, TaskOutline]) -> list[str]:
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

    foreign = {key: parent for key in graph.names if (parent := graph.parents.get(key)) in known and parent}
    fitting = {
        key: parent
        for key, parent in foreign.items()
        if known[parent].status in (TaskStatus.EPIC, *NOT_BEGUN) and (key not in graph.with_done or free(parent))
    }
    stays_open = {task.parent_id for task in known.values() if not task.status.finished}
    stays_open |= {parent for key, parent in fitting.items() if not graph.status[key].finished}
    return [key for key, parent in foreign.items() if key not in fitting or parent not in stays_open]


def _orphaned(draft: Draft, graph: Graph) -> Draft:
    """A draft taken out from under a parent, whose id it keeps as a related note."""
    graph.report.add(AdjustmentKind.ORPHANED, draft.key, graph.names[draft.key])
    context = dict(draft.context)
    relate(context, {"type": "parent", "id": graph.parents.pop(draft.key)})
    return replace(draft, parent=None, context=cut_to_limit(context)[0])


def _links(
    drafts: Iterable[Draft], new: Mapping[str, Draft], there: Mapping[str, str], graph: Graph
) -> list[tuple[str, str]]:
    """What the file newly puts before tasks of the project that nobody has begun, put before them in the graph too."""
    links: list[tuple[str, str]] = []
    for draft in drafts:
        id = there.get(draft.key)
        if id is None or graph.status[id] not in NOT_BEGUN:
            continue
        before = frozenset(graph.depends_on[id])
        room = max(limits.DEPENDENCIES - len(before), 0)
        added = [name for name in draft.depends_on if name in new and name not in before][:room]
        graph.depends_on[id] += added
        links += [(id, name) for name in added]
    return links


def _settled(draft: Draft, graph: Graph) -> Draft:
    """The draft with the place and the status that the graph gives it."""
    key = draft.key
    return replace(
        draft,
        epic=key in graph.epics,
        parent=graph.parents.get(key, draft.parent),
        depends_on=tuple(graph.depends_on[key]),
        waived=frozenset(graph.waived[key]),
        status=graph.status[key],
        deferred=None if graph.status[key].finished else draft.deferred,
        done_at=draft.done_at if graph.status[key].finished else None,
    )
