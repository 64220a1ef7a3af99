"""One mutation on its way through the house.

A front method opens a `Transaction`, what is below writes through it and tells it what changed, and when it has
committed its `Change` goes to the mirror. Nobody collects, mirrors or publishes by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loom.bus.events import START, Event, EventType, Position
from loom.bus.publisher import Notice
from loom.graph.model.task import Task

if TYPE_CHECKING:
    from loom.db.connection import Connection


@dataclass(frozen=True, slots=True)
class Change:
    """What a committed transaction did: tasks as they are now, what to announce, where its last event stands."""

    tasks: tuple[Task, ...] = ()
    notices: tuple[Notice, ...] = ()
    position: Position = START


@dataclass(frozen=True, slots=True)
class Bounds:
    """What whoever works on tasks may not do to them. `protected`: the paths that he gives to none; `at_work`: whether
    the change comes from whoever works on tasks and does nothing else: from inside of a run that Loom started, or from
    a principal who may do no more."""

    protected: tuple[str, ...] = ()
    at_work: bool = False


@dataclass(slots=True)
class Transaction:
    """An open transaction on one project, and what it has changed so far. `position`: where the last event stands that
    a statement has written itself, together with the change that it explains. `origin`: what each event says of the
    principal who calls, if one does."""

    connection: Connection
    project_id: str
    bounds: Bounds = Bounds()
    origin: Mapping[str, str] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    position: Position = START

    def changed(
        self,
        task: Task,
        event: EventType,
        *,
        agent: str | None = None,
        token: int | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Notes a task's new state and the one event that explains it."""
        self.tasks[task.id] = task
        self.events.append(Event(event, task.id, task.status, task.version, agent, token, data))

    def record_event(
        self,
        event: EventType,
        task_id: str | None = None,
        *,
        agent: str | None = None,
        token: int | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Notes an event that leaves the task's row as it is."""
        self.events.append(Event(event, task_id, agent=agent, token=token, data=data))

    def announce(self, notice: Notice) -> None:
        """Notes something to publish after the commit."""
        self.notices.append(notice)

    def stored(self, data: Mapping[str, Any] | None) -> str | None:
        """What an event says beside, as it is stored: JSON text."""
        whole = {**(data or {}), **self.origin}
        return json.dumps(whole) if whole else None

    def logged(self, task: Task, position: Position) -> None:
        """Notes a task's new state whose event was written by the statement that changed it."""
        self.tasks[task.id] = task
        self.position = position

    def change(self) -> Change:
        """The outcome, for the mirror."""
        return Change(tuple(self.tasks.values()), tuple(self.notices), self.position)
