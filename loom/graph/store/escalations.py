"""Escalations: the record that a task failed, that its worker has a question, or that it is deferred. Postgres holds
them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from loom.bus.events import EventType
from loom.bus.publisher import publish_escalation
from loom.graph.store.edges import HOLDS
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row


class EscalationKind(StrEnum):
    """`failure`: the task failed. `question`: its worker asks, and the task waits for the answer. `deferred`: it is not
    to be done yet, and waits until somebody resolves that; nobody is asked, so it is announced to nobody."""

    FAILURE = "failure"
    QUESTION = "question"
    DEFERRED = "deferred"


HOLDING = "q.kind in ('question', 'deferred') and q.resolved_at is null"
"""Whether an escalation `q` holds its task."""


@dataclass(frozen=True, slots=True)
class Escalation:
    """One escalation: that a task failed, or that its worker asks something."""

    id: str
    """`esc-` and 8 hex digits."""
    task_id: str
    kind: EscalationKind
    message: str
    """Why it failed, or the question."""
    raised_by: str | None
    """The agent; None where a sweep found a claim that had ended by itself."""
    raised_at: datetime
    attempt: int
    """The attempt of the task in which it was raised, from 1; 0 where there was none."""
    resolution: str | None = None
    """What was decided, such as `retry`, `answer` or `retry at …`; None while it is open."""
    note: str | None = None
    """What was said with the decision; for `answer` the answer."""
    resolved_by: str | None = None
    """None while it is open, and where it was resolved on the spot."""
    resolved_at: datetime | None = None
    handler: str | None = None
    """Who looks at it until `handling_until`; None: nobody."""
    handling_until: datetime | None = None
    diagnosed_at: datetime | None = None
    diagnosis: dict[str, Any] | None = None
    """What was found out about it; see `store.diagnoses`. None: nothing yet."""
    held_up: int = 0
    """How many tasks wait for the task; counted for open escalations only."""

    @classmethod
    def from_record(cls, record: Row) -> Escalation:
        """Builds an escalation from a row."""
        values = {field: record[field] for field in cls.__slots__}
        found = None if record["diagnosis"] is None else json.loads(record["diagnosis"])
        return cls(**values | {"kind": EscalationKind(record["kind"]), "diagnosis": found})


_FIELDS = (
    "id, task_id, kind, message, raised_by, raised_at, attempt, resolution, note, resolved_by, resolved_at, handler,"
    " handling_until, diagnosed_at, diagnosis"
)
COLUMNS = f"{_FIELDS}, 0 as held_up"
"""An escalation's row as `Escalation.from_record` wants it."""
_OPEN = f"""{_FIELDS}, (
    select count(*) from task_deps e join tasks t on t.project_id = e.project_id and t.id = e.task_id
     where e.project_id = q.project_id and e.depends_on = q.task_id and {HOLDS}
) as held_up"""


async def create_escalation(
    tx: Transaction,
    task_id: str,
    kind: EscalationKind,
    message: str,
    *,
    raised_by: str | None,
    attempt: int,
    resolution: str | None = None,
) -> Escalation:
    """Records an escalation; open ones are announced, one with a `resolution` is resolved on the spot."""
    record = await tx.connection.fetchrow(
        f"""
        insert into escalations (project_id, id, task_id, kind, message, raised_by, attempt, resolution, resolved_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, case when $8::text is not null then loom_now() end)
        returning {COLUMNS}
        """,
        tx.project_id,
        f"esc-{secrets.token_hex(4)}",
        task_id,
        kind,
        message,
        raised_by,
        attempt,
        resolution,
    )
    assert record is not None
    raised = Escalation.from_record(record)
    if resolution is None:
        data = {"escalation": raised.id, "kind": raised.kind, "message": message}
        tx.record_event(EventType.ESCALATION_RAISED, task_id, agent=raised_by, data=data)
        tx.announce(publish_escalation(tx.project_id, raised.id, task_id, raised=True))
    return raised


async def is_deferred(tx: Transaction, task_id: str) -> bool:
    """Whether a locked task is deferred."""
    return await _has_open(tx, task_id, EscalationKind.DEFERRED)


async def defer(tx: Transaction, reasons: Mapping[str, str], *, by: str | None) -> None:
    """Defers locked tasks, each with its reason. Each waits for one thing more now, which is the caller's business."""
    left = dict(reasons)
    while left:  # an id that is taken is drawn anew
        records = await tx.connection.fetch(
            """
            insert into escalations (project_id, id, task_id, kind, message, raised_by, attempt)
            select $1, id, task_id, 'deferred', message, $5, 0
              from unnest($2::text[], $3::text[], $4::text[]) d(id, task_id, message)
            on conflict (project_id, id) do nothing returning task_id
            """,
            tx.project_id,
            [f"esc-{secrets.token_hex(4)}" for _ in left],
            list(left),
            list(left.values()),
            by,
        )
        for record in records:
            del left[record["task_id"]]


async def close(
    tx: Transaction, task_ids: Sequence[str], resolution: str, *, by: str | None, note: str | None = None
) -> list[Escalation]:
    """Resolves the open escalations of locked tasks and returns them. A task that one of them held waits for one thing
    less now: the caller computes its `waiting` anew."""
    records = await tx.connection.fetch(
        f"""
        update escalations set resolution = $3, note = $4, resolved_by = $5, resolved_at = loom_now()
         where project_id = $1 and task_id = any($2::text[]) and resolved_at is null
        returning {COLUMNS}
        """,
        tx.project_id,
        list(task_ids),
        resolution,
        note,
        by,
    )
    resolved = [Escalation.from_record(record) for record in records]
    for one in resolved:
        if one.kind is EscalationKind.DEFERRED:
            continue
        data = {"escalation": one.id, "resolution": resolution} | ({"note": note} if note else {})
        tx.record_event(EventType.ESCALATION_RESOLVED, one.task_id, agent=by, data=data)
        tx.announce(publish_escalation(tx.project_id, one.id, one.task_id, raised=False))
    return resolved


async def take(tx: Transaction, handler: str, seconds: float) -> Escalation | None:
    """Gives the oldest open escalation that nobody is looking at to a handler, for so many seconds; None if there is
    none. A handler that dies loses it when they are over; whoever resolves it need not have taken it. Deferrals are
    given to nobody."""
    record = await tx.connection.fetchrow(
        f"""
        update escalations set handler = $2, handling_until = loom_now() + make_interval(secs => $3)
         where project_id = $1 and id = (
               select id from escalations
                where project_id = $1 and resolved_at is null and kind <> 'deferred'
                  and (handling_until is null or handling_until <= loom_now())
                order by raised_at, id limit 1 for update skip locked)
        returning {COLUMNS}
        """,
        tx.project_id,
        handler,
        seconds,
    )
    return None if record is None else Escalation.from_record(record)


async def has_question(tx: Transaction, task_id: str) -> bool:
    """Whether an open question holds a task."""
    return await _has_open(tx, task_id, EscalationKind.QUESTION)


async def get(connection: Connection, project_id: str, escalation_id: str) -> Escalation | None:
    """One escalation by its id."""
    record = await connection.fetchrow(
        f"select {COLUMNS} from escalations where project_id = $1 and id = $2", project_id, escalation_id
    )
    return None if record is None else Escalation.from_record(record)


async def open_escalations(connection: Connection, project_id: str, *, limit: int) -> list[Escalation]:
    """The open ones that ask for somebody, failures and questions, oldest first."""
    return await _open(connection, project_id, "kind <> 'deferred'", limit)


async def deferrals(connection: Connection, project_id: str, *, limit: int) -> list[Escalation]:
    """The open deferrals, oldest first."""
    return await _open(connection, project_id, "kind = 'deferred'", limit)


async def open_among(connection: Connection, project_id: str, ids: Sequence[str]) -> list[Escalation]:
    """Those of these escalations that are open, with how many tasks each holds up, oldest first."""
    records = await connection.fetch(
        f"select {_OPEN} from escalations q where project_id = $1 and resolved_at is null and id = any($2::text[])"
        " order by raised_at, id",
        project_id,
        list(ids),
    )
    return [Escalation.from_record(record) for record in records]


async def holding(connection: Connection, project_id: str) -> dict[str, Escalation]:
    """What holds tasks, the newest question or deferral of each, by task."""
    records = await connection.fetch(
        f"select {COLUMNS} from escalations q where project_id = $1 and {HOLDING} order by raised_at, id", project_id
    )
    return {record["task_id"]: Escalation.from_record(record) for record in records}


async def of_tasks(connection: Connection, project_id: str, task_ids: Sequence[str]) -> list[Escalation]:
    """Every escalation of these tasks, newest first."""
    records = await connection.fetch(
        f"select {COLUMNS} from escalations where project_id = $1 and task_id = any($2::text[])"
        " order by raised_at desc, id",
        project_id,
        list(task_ids),
    )
    return [Escalation.from_record(record) for record in records]


async def _open(connection: Connection, project_id: str, kinds: str, limit: int) -> list[Escalation]:
    records = await connection.fetch(
        f"select {_OPEN} from escalations q where project_id = $1 and resolved_at is null and {kinds}"
        " order by raised_at, id limit $2",
        project_id,
        limit,
    )
    return [Escalation.from_record(record) for record in records]


async def _has_open(tx: Transaction, task_id: str, kind: EscalationKind) -> bool:
    return bool(
        await tx.connection.fetchval(
            "select exists(select from escalations where project_id = $1 and task_id = $2"
            f" and kind = '{kind}' and resolved_at is null)",  # written out, so that the index of this kind serves
            tx.project_id,
            task_id,
        )
    )
