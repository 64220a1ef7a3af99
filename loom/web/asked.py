"""What somebody is asked to say yes to, beside what the graph's glance has of it: what workflows and plans show."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request

from loom.exceptions import LoomError
from loom.graph.front import Loom
from loom.graph.model import plan
from loom.graph.store.glance import Ask, Need
from loom.graph.store.workflow_runs import WorkflowRun, WorkflowRunStatus
from loom.skills import decomposer
from loom.skills.preview import preview
from loom.workflows import runs
from loom.workflows.steps import Step, StepType

_FLOWS = 20  # runs that are looked at, the newest
_LATELY = timedelta(days=1)
_KEPT = 50  # previews; each is the same as long as its plan is there


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that waits for a yes: who proposes it, and what it would do; None where this Loom cannot read it."""

    agent: str
    preview: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Flow:
    """A workflow under way, or that has failed, and the id of the step that it is at; "" where that cannot be told."""

    run: WorkflowRun
    step: str

    @property
    def failed(self) -> bool:
        return self.run.status is WorkflowRunStatus.FAILED


async def flows(loom: Loom) -> list[Flow]:
    """The workflows that go on or wait for something else than a yes, and those that have failed lately otherwise than
    by a no; the newest first."""
    since, found = datetime.now(UTC) - _LATELY, []
    for run in await runs.newest(loom, _FLOWS):
        going = run.status in (WorkflowRunStatus.RUNNING, WorkflowRunStatus.WAITING)
        if going or (run.status is WorkflowRunStatus.FAILED and run.updated_at > since):
            step = _step(run)
            if step is None or step.type is not StepType.CONFIRM or run.status is WorkflowRunStatus.RUNNING:
                found.append(Flow(run, "" if step is None else step.id))
    return found


def _step(run: WorkflowRun) -> Step | None:
    try:
        return runs.step_at(run)
    except LoomError:  # a workflow of another version
        return None


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
