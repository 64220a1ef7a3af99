"""The task: its statuses, its priorities, and one row of the graph as a value."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loom.db.connection import Row


class TaskStatus(StrEnum):
    """Where a task is. `failed` with a retry time waits for it; `failed` without one is a dead letter."""

    PENDING = "pending"
    BLOCKED = "blocked"
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EPIC = "epic"

    @property
    def finished(self) -> bool:
        """Nothing but `reopen` leads out of this status."""
        return self in (TaskStatus.DONE, TaskStatus.CANCELLED)

    @property
    def begun(self) -> bool:
        """Somebody works on it, or has done it."""
        return self in (TaskStatus.CLAIMED, TaskStatus.DONE)

    @property
    def called(self) -> str:
        """What people call it: who is pending is ready."""
        return "ready" if self is TaskStatus.PENDING else self.value


class Priority(StrEnum):
    """How urgent a task is; `p0` comes first."""

    P0 = "p0"
    P1 = "p1"
    P2 = "p2"

    @property
    def rank(self) -> int:
        """As a row has it: 0 comes first."""
        return int(self.value[1])


PRIORITY_SCORES: dict[Priority, int] = {Priority.P0: 300, Priority.P1: 200, Priority.P2: 100}

FOREVER = datetime.max
"""The end of a lease that does not end, as the driver reads and writes it: without a zone, so that it compares with no
other time."""

_SCORE_EPOCH = 2.0**43  # milliseconds; some 278 years, so that the fraction stays below one


@dataclass(frozen=True, slots=True)
class Listed:
    """A task in a list: what names it, without what it is made of."""

    id: str
    title: str
    status: TaskStatus
    priority: Priority
    parent_id: str | None
    created_at: datetime

    @classmethod
    def from_record(cls, record: Row) -> Listed:
        """Builds it from a row of `tasks` with those columns."""
        return cls(
            record["id"],
            record["title"],
            TaskStatus(record["status"]),
            Priority(f"p{record['priority']}"),
            record["parent_id"],
            record["created_at"],
        )


@dataclass(frozen=True, slots=True)
class Task:
    """One task as it was when read. Times are those of the database's clock, with their zone."""

    id: str
    """`loom-` and 8 hex digits."""
    project_id: str
    title: str
    status: TaskStatus
    priority: Priority
    version: int
    """Grows with each change of what is shown here, the lease's end and `waiting` aside."""
    created_at: datetime
    updated_at: datetime
    assignee: str | None = None
    """Who holds it, or did last; None: nobody has yet."""
    parent_id: str | None = None
    """The epic that it belongs to."""
    context: dict[str, Any] = field(default_factory=dict)
    """What its worker must know, as its makers gave it; `notes` is a list of what was added on the way."""
    output: dict[str, Any] | None = None
    """What it came to; None until it is done."""
    done_when: str | None = None
    """Its acceptance criteria."""
    files: tuple[str, ...] = ()
    """The paths that it is about, relative to the repository's root; a directory stands for all below it."""
    labels: tuple[str, ...] = ()
    """Words that it is found by, such as `area:parser`."""
    checks: tuple[str, ...] = ()
    """The names of the checks that it is done only with, beside those that every task needs."""
    depends_on: tuple[str, ...] = ()
    """All edges, waived ones too, by id."""
    ready_at: datetime | None = None
    """Since when it can be claimed, or could when it was; None while it waits, and for epics."""
    claimed_at: datetime | None = None
    """When the newest claim was made; None: never."""
    done_at: datetime | None = None
    """When it was finished, done or cancelled."""
    attempt: int = 0
    """How many claims were counted since it was made or requeued; a claim given back on purpose is not."""
    max_attempts: int = 1
    claim_token: int = 0
    """The token of the newest claim; it only grows, and 0 is none."""
    lease_expires_at: datetime | None = None
    """When the claim ends unless it is renewed; None unless claimed, and while it is queued. Not mirrored."""
    queued: bool = False
    """Whether the landing queue holds the claim, which then ends neither by itself nor by a deadline."""
    landing_token: int = 0
    """The token of the newest claim whose work lands on a branch before the task is done; 0 is none. Not mirrored."""
    deadline_at: datetime | None = None
    """Until when the newest claim may be renewed."""
    retry_at: datetime | None = None
    """When a failed task is tried again; None for a dead letter, and unless failed."""
    dead_reason: str | None = None
    """Why it is a dead letter."""
    lapsed: bool = False
    """Whether its newest claim ended by itself, so that a late report is still taken."""
    origin_id: str | None = None
    """Where an import has it from, unique in the project."""
    waiting: int = 0
    """How many things it waits for: dependencies that are neither done nor waived, its epic while that waits, an open
    question, and a deferral. Not mirrored."""

    @classmethod
    def from_record(cls, record: Row) -> Task:
        """Builds a task from a row of `tasks` that has `depends_on` beside its columns (see `store.COLUMNS`)."""
        output, queued = record["output"], record["lease_expires_at"] == FOREVER
        return cls(
            id=record["id"],
            project_id=str(record["project_id"]),
            title=record["title"],
            status=TaskStatus(record["status"]),
            priority=Priority(f"p{record['priority']}"),
            version=record["version"],
            created_at=record["created_at"],
            updated_at=record["updated_at"],
            assignee=record["assignee"],
            parent_id=record["parent_id"],
            context=json.loads(record["context"]),
            output=None if output is None else json.loads(output),
            done_when=record["done_when"],
            files=tuple(record["files"]),
            labels=tuple(record["labels"]),
            checks=tuple(record["checks"]),
            depends_on=tuple(record["depends_on"]),
            ready_at=record["ready_at"],
            claimed_at=record["claimed_at"],
            done_at=record["done_at"],
            attempt=record["attempt"],
            max_attempts=record["max_attempts"],
            claim_token=record["claim_token"],
            lease_expires_at=None if queued else record["lease_expires_at"],
            queued=queued,
            landing_token=record["landing_token"],
            deadline_at=record["deadline_at"],
            retry_at=record["retry_at"],
            dead_reason=record["dead_reason"],
            lapsed=record["lapsed"],
            origin_id=record["origin_id"],
            waiting=record["waiting"],
        )

    @property
    def lands(self) -> bool:
        """Whether the newest claim's work lands on a branch before the task is done."""
        return 0 < self.landing_token == self.claim_token

    @property
    def dead(self) -> bool:
        """A dead letter: failed, and nothing will try it again by itself."""
        return self.status is TaskStatus.FAILED and self.retry_at is None

    @property
    def state(self) -> str:
        """What it is looked for by and what people see: one of `filters.STATES`. `store.states` says it in SQL."""
        if self.status is TaskStatus.FAILED:
            return "dead" if self.dead else "retry"
        return "landing" if self.queued else self.status.called


def ready_score(priority: Priority, ready_at: datetime) -> float:
    """The place of a ready task in the sorted set: its floor is the priority's score, higher comes first, and among
    equals the one that became ready first. Exact to the millisecond in a double."""
    milliseconds = round(ready_at.timestamp() * 1000)
    return PRIORITY_SCORES[priority] + 1 - milliseconds / _SCORE_EPOCH
