"""What somebody is asked to say yes to, beside what the graph's glance has of it: what workflows and plans show."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from loom.exceptions import LoomError
from loom.graph.front import Loom
from loom.graph.model import plan
from loom.graph.store import workflow_runs, workflow_steps
from loom.graph.store.glance import Ask, Need
from loom.graph.store.workflow_runs import Going
from loom.graph.store.workflow_steps import StepRun
from loom.skills import decomposer
from loom.skills.preview import preview

_FLOWS = 20  # runs that are shown, the newest
_KEPT = 50  # previews; each is the same as long as its plan is there


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that waits for a yes: who proposes it, and what it would do; None where this Loom cannot read it."""

    agent: str
    preview: Mapping[str, Any] | None


async def flows(loom: Loom) -> list[Going]:
    """The workflows that go on or wait for something else than a yes, and those that have failed lately otherwise than
    by a no; the newest first."""
    return await loom.look(lambda connection: workflow_runs.going(connection, loom.project_id, _FLOWS))


async def confirms(loom: Loom, asks: Sequence[Ask]) -> dict[str, StepRun]:
    """By the id of its run, the step at which each workflow wants a yes."""
    ids = [one.id for one in asks if one.need is Need.CONFIRM]
    return await loom.look(lambda connection: workflow_steps.current(connection, loom.project_id, ids)) if ids else {}


async def plans(request: Request, loom: Loom, asks: Sequence[Ask]) -> dict[str, Plan]:
    """By its id, each plan that waits for a yes."""
    kept: dict[tuple[str, str], Plan] = request.app.state.previews
    found: dict[str, Plan] = {}
    for one in asks:
        if one.need is Need.PLAN:
            key = loom.project_id, one.id
            if key not in kept:
                while len(kept) >= _KEPT:
                    del kept[next(iter(kept))]
                kept[key] = await _seen(loom, one.id)
            found[one.id] = kept[key]
    return found


async def _seen(loom: Loom, plan_id: str) -> Plan:
    stored = await decomposer.get(loom, plan_id)
    try:
        return Plan(stored.agent, await asyncio.to_thread(lambda: preview(plan.read(stored.plan))))
    except LoomError:  # a plan of another version, which can only be refused
        return Plan(stored.agent, None)
