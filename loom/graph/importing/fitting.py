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
from loom.graph.store.origins import KnownTask

NOT_BEGUN = (TaskStatus.PENDING, TaskStatus.BLOCKED)
"""The statuses of tasks that may still gain dependencies."""


_OF_THE_FILE = frozenset(
    [
        *(AdjustmentKind.DUPLICATE, AdjustmentKind.DANGLING, AdjustmentKind.UNREADABLE, AdjustmentKind.SECOND_PARENT),
        *(AdjustmentKind.PARENT_CYCLE, AdjustmentKind.CYCLE, AdjustmentKind.TOO_MANY),
    ]
)
"""What is reported of tasks that the project has, too: it is not there either."""


def fit(batch: Batch, tasks: Iterable[KnownTask], project_id: str | None = None) -> Batch:
    """Leaves of a batch what the project does not have, made to agree with the project as it is.

    Args:
        batch: as `read` returned it.
        tasks: all tasks of the project.
        project_id: its id; with it, Loom's own export of this very project is recognised by the tasks' ids.

    Returns:
        A batch whose drafts name tasks that exist by their ids. Tasks that exist are left as they are, but for `links`:
        those still pending or blocked also wait for what the file newly puts before them; and for the titles of a plan.
    """
    known = {task.id: task for task in tasks}
    there = _recognised(batch, known.values(), project_id)
    report = Report(
        [
            one
            for one in batch.report
            if one.kind in _OF_THE_FILE or (one.key not in there and one.kind is not AdjustmentKind.STUCK)
        ]
    )
    new = _without_emptied(batch.drafts, there, report)
    graph = _united(known.values(), new, there, report)
    graph.derive_epics()
    for key in _orphans(graph, known):
        new[key] = _orphaned(new[key], graph)
    met = [(draft, known[there[draft.key]]) for draft in batch.drafts if draft.key in there]
    links = _links(met, graph)
    _tell_left_alone(met, {*links}, there, report)
    graph.break_cycles()
    graph.waive()
    return replace(
        batch,
        drafts=[_settled(draft, graph) for draft in new.values()],
        report=report,
        there=there,
        links=[(id, key) for id, key in links if key in graph.depends_on[id]],
        retitled=_retitled(met, batch.format == "plan", report),
        renamed={
            task.id: draft.origin_id
            for draft, task in met
            if draft.origin_id is not None and task.origin_id == batch.former.get(draft.key, "")
        },
    )


def _recognised(batch: Batch, tasks: Collection[KnownTask], project_id: str | None) -> dict[str, str]:
    """The drafts that the project has, by key, each with the id of its task."""
    by_origin: dict[str | None, str] = {task.origin_id: task.id for task in tasks if task.origin_id is not None}
    if project_id is not None:
        by_origin |= {exported(project_id, task.id): task.id for task in tasks}
    there: dict[str, str] = {}
    for draft in batch.drafts:
        if id := by_origin.get(draft.origin_id) or by_origin.get(batch.former.get(draft.key)):
            there[draft.key] = id
    return there


def _without_emptied(drafts: Sequence[Draft], there: Mapping[str, str], report: Report) -> dict[str, Draft]:
    """The drafts that the project does not have, by key. A new epic goes too when all its children are there, where
    they keep their places, and nothing new waits for it: it would stay open for ever."""
    new = {draft.key: draft for draft in drafts if draft.key not in there}
    had_children = {draft.parent for draft in drafts}
    while True:
        needed = {draft.parent for draft in new.values()}.union(*(draft.depends_on for draft in new.values()))
        emptied = [draft for key, draft in new.items() if key in had_children and key not in needed]
        if not emptied:
            return new
        for draft in emptied:
            report.add(AdjustmentKind.EMPTIED, draft.key, _named(new.pop(draft.key)))


def _united(known: Iterable[KnownTask], new: Mapping[str, Draft], there: Mapping[str, str], report: Report) -> Graph:
    """The project and what is new in one graph, where tasks that exist go by their ids. Of the parents that the file
    names only those are in it that exist or come; the others are the store's to refuse."""
    graph = Graph(report)
    for task in known:
        graph.add_existing(task)
    for key, draft in new.items():
        parent = None if draft.parent is None else there.get(draft.parent, draft.parent)
        graph.add(
            key,
            _named(draft),
            draft.status,
            epic=draft.epic,
            parent=parent if parent in new or parent in graph.fixed else None,
            depends_on=list(dict.fromkeys(there.get(name, name) for name in draft.depends_on)),
            waived=(there.get(name, name) for name in draft.waived),
        )
    return graph


def _orphans(graph: Graph, known: Mapping[str, KnownTask]) -> list[str]:
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


def _links(met: Iterable[tuple[Draft, KnownTask]], graph: Graph) -> list[tuple[str, str]]:
    """What the file newly puts before tasks of the project that nobody has begun, put before them in the graph too."""
    links: list[tuple[str, str]] = []
    for draft, task in met:
        if task.status not in NOT_BEGUN:
            continue
        before = graph.depends_on[task.id]
        room = max(limits.DEPENDENCIES - len(task.depends_on), 0)
        added = [name for name in draft.depends_on if _may_be_awaited(name, graph) and name not in before][:room]
        before += added
        links += [(task.id, name) for name in added]
    return links


def _may_be_awaited(name: str, graph: Graph) -> bool:
    return name in graph.names and graph.status[name] is not TaskStatus.CANCELLED


def _tell_left_alone(
    met: Iterable[tuple[Draft, KnownTask]],
    links: Collection[tuple[str, str]],
    there: Mapping[str, str],
    report: Report,
) -> None:
    """Reports what the file says of the places of tasks that exist and the project does not."""
    for draft, task in met:
        for name in draft.depends_on:
            if there.get(name, name) not in task.depends_on and (task.id, name) not in links:
                report.add(AdjustmentKind.LEFT_ALONE, draft.key, f"{_named(draft)} on {texts.quote(name)[1:-1]}")
        if draft.parent is not None and there.get(draft.parent, draft.parent) != task.parent_id:
            report.add(AdjustmentKind.LEFT_ALONE, draft.key, f"{_named(draft)} under {texts.quote(draft.parent)[1:-1]}")


def _retitled(met: Iterable[tuple[Draft, KnownTask]], may: bool, report: Report) -> dict[str, str]:
    """The tasks that get the title that the file gives them now, by id, where that may be."""
    retitled: dict[str, str] = {}
    for draft, task in met:
        if task.title in ("", draft.title):
            continue
        updates = may and not task.status.finished
        if updates:
            retitled[task.id] = draft.title
        kind = AdjustmentKind.RETITLED if updates else AdjustmentKind.TITLE_KEPT
        report.add(kind, draft.key, f"{task.id} {texts.quote(task.title)}, in the file {texts.quote(draft.title)}")
    return retitled


def _named(draft: Draft) -> str:
    return f"{draft.key} {texts.quote(draft.title)}"


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
