"""What can happen, and one thing that did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from loom.db.connection import Row


class EventType(StrEnum):
    """Every kind of event."""

    TASK_CREATED = "task.created"
    TASK_CLAIMED = "task.claimed"
    TASK_DONE = "task.done"
    TASK_FAILED = "task.failed"
    TASK_BLOCKED = "task.blocked"
    TASK_UPDATED = "task.updated"
    TASK_UNBLOCKED = "task.unblocked"
    TASK_RELEASED = "task.released"
    TASK_RETRIED = "task.retried"
    TASK_DEAD_LETTER = "task.dead_letter"
    TASK_CANCELLED = "task.cancelled"
    TASK_WAIVED = "task.waived"
    TASK_REOPENED = "task.reopened"
    TASK_NOTED = "task.noted"
    TASK_LANDING = "task.landing"
    TASK_LANDED = "task.landed"
    LANDING_SENT_BACK = "landing.sent_back"
    CLAIM_EXPIRED = "claim.expired"
    ATTEMPT_ENDED = "attempt.ended"
    ESCALATION_RAISED = "escalation.raised"
    ESCALATION_RESOLVED = "escalation.resolved"
    MESSAGE_SENT = "message.sent"
    PLAN_PROPOSED = "plan.proposed"
    PLAN_REFUSED = "plan.refused"
    PROJECT_DECOMPOSED = "project.decomposed"
    PROJECT_COMPLETE = "project.complete"
    WORKFLOW_STARTED = "workflow.started"
    WORKFLOW_WAITING = "workflow.waiting"
    WORKFLOW_STEP_COMPLETED = "workflow.step_completed"
    WORKFLOW_COMPLETED = "workflow.completed"
    WORKFLOW_FAILED = "workflow.failed"
    WORKFLOW_CANCELLED = "workflow.cancelled"


class Position(NamedTuple):
    """A place in the order of events: the transaction that wrote, and the event's number. Compares like a tuple."""

    xid: int
    id: int

    def __str__(self) -> str:
        return f"{self.xid}-{self.id}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Reads what `str` wrote. Raises ValueError for anything else."""
        xid, _, number = text.partition("-")
        position = cls(int(xid), int(number))
        if not all(0 <= part < 2**63 for part in position):
            raise ValueError(text)
        return position


START = Position(0, 0)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `type` is an `EventType`, or what a newer Loom calls it; `status` and `version` are the
    task's after it, `token` the claim it belongs to."""

    type: str
    task_id: str | None = None
    status: str | None = None
    version: int | None = None
    agent: str | None = None
    token: int | None = None
    data: Mapping[str, Any] | None = None
    position: Position = START
    created_at: datetime | None = None

    @classmethod
    def from_record(cls, record: Row) -> Event:
        """Builds an event from a row of `events`, its `xid` read as a number."""
        return cls(
            type=record["type"],
            task_id=record["task_id"],
            status=record["status"],
            version=record["version"],
            agent=record["agent"],
            token=record["token"],
            data=None if record["data"] is None else json.loads(record["data"]),
            position=Position(int(record["xid"]), record["id"]),
            created_at=record["created_at"],
        )

    def fields(self) -> dict[str, str]:
        """The event as the flat text fields of a stream entry or a notice; what is not there is left out."""
        flat = {
            "type": self.type,
            "task_id": self.task_id,
            "status": self.status,
            "version": self.version,
            "agent": self.agent,
            "token": self.token,
            "data": json.dumps(self.data) if self.data else None,
            "at": self.created_at.isoformat() if self.created_at else None,
        }
        return {key: str(value) for key, value in flat.items() if value is not None}
