"""Who has an escalation diagnosed, and how often a model may be asked for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from loom.bus.events import EventType
from loom.graph import store
from loom.graph.store import diagnoses as rows
from loom.graph.store.escalations import Escalation
from loom.graph.store.transaction import Transaction

ASKED_AT_MOST = 3  # times that a model is asked about one escalation: those before the last have failed or were killed
CARRIED_OUT_AT_MOST = 2  # diagnoses of one task; what fails then too is for a person


@dataclass(frozen=True, slots=True)
class Case:
    """An escalation that a handler has taken to have it diagnosed. `left`: why it was left to a person instead, which
    is recorded then."""

    escalation: Escalation
    left: str | None = None


async def take(
    tx: Transaction, handler: str, seconds: float, *, per_hour: int, fix_depth: int
) -> Case | datetime | None:
    """Gives the oldest escalation that was not diagnosed to a handler, for so many seconds, and counts that a model is
    asked about it, before it is asked.

    None: there is none. A time: models were asked `per_hour` times within the last hour, in the whole project, and may
    be asked again then.

    Args:
        fix_depth: a task of this depth is left to a person.
    """
    found = await rows.lock_pending(tx)
    if found is None:
        return None
    if left := await _beyond(tx, found, fix_depth):
        await leave(tx, found, left, by=handler)
        return Case(found, left)
    again = await rows.asked_again_at(tx, per_hour)
    if again is not None:
        return again
    await rows.count_ask(tx, found.id, handler, seconds)
    return Case(found)


async def still_open(tx: Transaction, taken: Escalation) -> bool:
    """Locks the graph, the task and the row of an escalation that was taken. False: it was resolved or diagnosed
    meanwhile."""
    await store.lock_graph(tx)
    await store.lock(tx, [taken.task_id])
    now = await rows.lock(tx, taken.id)
    return now is not None and now.resolution is None and now.diagnosed_at is None


async def record(tx: Transaction, escalation: Escalation, diagnosis: Mapping[str, Any], *, by: str) -> None:
    """Keeps a diagnosis with its escalation, which nobody handles any more then; an event tells it."""
    await rows.keep(tx, escalation.id, json.dumps(diagnosis))
    names = ("action", "confidence", "left", "fixes", "run_id")
    data = {name: diagnosis[name] for name in names if diagnosis.get(name)}
    tx.record_event(EventType.TASK_UPDATED, escalation.task_id, agent=by, data={"diagnosed": escalation.id, **data})


async def leave(tx: Transaction, escalation: Escalation, why: str, *, by: str) -> None:
    """Records that an escalation is left to a person without a diagnosis, and why."""
    depth = await rows.depth_of(tx.connection, tx.project_id, escalation.task_id)
    await record(tx, escalation, {"action": "ask_person", "left": why, "fixes": [], "depth": depth}, by=by)


async def _beyond(tx: Transaction, found: Escalation, fix_depth: int) -> str | None:
    """Why no model is to be asked about an escalation, or None."""
    depth = await rows.depth_of(tx.connection, tx.project_id, found.task_id)
    if depth >= fix_depth:
        fix = " of a fix" * (depth - 1)
        return f"It is a fix{fix}, and orchestration.fix_depth is {fix_depth}."
    carried_out = await rows.carried_out(tx, found.task_id)
    if carried_out >= CARRIED_OUT_AT_MOST:
        return f"{carried_out} diagnoses of it were carried out, and it did not get done."
    asked = await rows.times_asked(tx, found.id)
    if asked >= ASKED_AT_MOST:
        return f"A model was asked about it {asked} times and did not answer."
    return None
