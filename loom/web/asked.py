"""What somebody is asked to say yes to, beside what the graph's glance has of it: what a workflow shows, and plans."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from loom.exceptions import LoomError
from loom.graph.front import Loom
from loom.graph.model import plan
from loom.graph.store.glance import Ask, Need
from loom.graph.store.plans import Proposal
from loom.skills import decomposer
from loom.skills.preview import preview
from loom.workflows import runs

_PLANS = 5  # that are shown
_KEPT = 50  # previews; each is the same as long as its plan is there


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that waits for a yes, and what it would do."""

    stored: Proposal
    preview: Mapping[str, Any]


async def confirms(loom: Loom, asks: Sequence[Ask]) -> dict[str, Mapping[str, Any]]:
    """By the id of its run, what each workflow shows that wants a yes, and in `step` which of its steps asks."""
    shown: dict[str, Mapping[str, Any]] = {}
    for one in asks:
        if one.need is Need.CONFIRM:
            run, rows = await runs.look(loom, one.id)
            row = next((row for row in rows if row.position == run.position), None)
            if row is not None:
                shown[one.id] = {"step": row.step, "show": row.inputs.get("show") or {}, "until": row.deadline_at}
    return shown


async def plans(request: Request, loom: Loom) -> list[Plan]:
    """The plans that wait for a yes, for whoever may say it; the newest first."""
    if not loom.may("decompose"):
        return []
    kept: dict[tuple[str, str], Mapping[str, Any]] = request.app.state.previews
    found = []
    for one in await decomposer.proposed(loom, _PLANS):
        key = loom.project_id, one.id
        if key not in kept:
            while len(kept) >= _KEPT:
                del kept[next(iter(kept))]
            try:
                stored = await decomposer.get(loom, one.id)
                kept[key] = await asyncio.to_thread(lambda: preview(plan.read(stored.plan)))  # noqa: B023
            except LoomError:  # a plan of another version, which nobody can write any more
                continue
        found.append(Plan(one, kept[key]))
    return found
