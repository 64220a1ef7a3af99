"""What must always hold in a project, checked on one snapshot of a live one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.graph.model.dependencies import detect_cycle, tasks_of_cycle, waits_for
from loom.graph.model.verdict import Verdict, verdict
from loom.graph.store import counting, events
from loom.graph.store import invariants as rows
from loom.wording import Shell, Words, call

if TYPE_CHECKING:
    from loom.db.connection import Connection

_HELD_UP = 60.0  # seconds; a transaction of Loom's own is over long before


async def check(connection: Connection, project_id: str) -> list[Verdict]:
    """Every invariant of the graph, on the snapshot that the connection has open."""
    advice = Words("Please report this with the output of {}; no data was lost.", Shell("loom export"))
    found = [verdict(rule, await rows.broken(connection, project_id, rule), advice) for rule in rows.RULES]
    counted = verdict(
        "it is known how many tasks are in each status",
        await counting.wrong(connection, project_id),
        Words("Have them counted anew with {}.", Shell("loom doctor --deep")),
    )
    allowed = verdict(
        "the role may do what Loom does",
        await rows.forbidden(connection),
        "Have the owner of the tables grant it the rest; the manual has the statements, under servers of your own.",
    )
    return [
        allowed,
        *found,
        counted,
        await _acyclic(connection, project_id),
        await _stream_goes_on(connection, project_id),
    ]


async def _acyclic(connection: Connection, project_id: str) -> Verdict:
    depends_on, parents = await rows.shape(connection, project_id)
    cycle = detect_cycle(waits_for(depends_on, parents, {parent for parent in parents.values() if parent}))
    return verdict(
        "the graph has no cycle",
        tasks_of_cycle(cycle) if cycle else [],
        Words("Remove one of these dependencies with {}.", call("update", task_id=..., depends_on=...)),
    )


async def _stream_goes_on(connection: Connection, project_id: str) -> Verdict:
    held = await events.held_up(connection, project_id, _HELD_UP)
    return verdict(
        "the stream of events is not held up",
        [held] if held else [],
        "Have whoever opened that transaction end it; claims, reports and waits go on meanwhile.",
    )
