"""A file on its way in: its tasks as another tool had them, and the batch that becomes of them.

A reader of a format makes items, as they are; `reconcile` makes drafts of these that the store can write as they
stand. What more than one reader needs is here too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from loom import texts
from loom.exceptions import InvalidInputError
from loom.graph.importing.report import Adjustment, Report
from loom.graph.model import limits
from loom.graph.model.plan import Draft
from loom.graph.model.task import Priority, TaskStatus

ORIGIN_CHARACTERS = 200


@dataclass(slots=True)
class Item:
    """A task as another tool had it. References may dangle, statuses contradict, texts hold anything.

    `key` is the origin id too unless `origin_id` is given. Of `parents` the first that will do is taken. `status` is
    pending, done or cancelled, or epic where the file gives none; `was` is the former one where Loom has none like it,
    and `deferred` says why it is not to be done yet.
    """

    key: str
    title: str
    status: TaskStatus = TaskStatus.PENDING
    was: str | None = None
    deferred: str | None = None
    epic: bool = False
    parents: list[str] = field(default_factory=list)
    depends_on: list[str] = field(default_factory=list)
    waived: Collection[str] = ()
    priority: Priority = Priority.P1
    context: dict[str, Any] = field(default_factory=dict)
    done_when: str | None = None
    output: dict[str, Any] | None = None
    files: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    origin_id: str | None = None
    created_at: datetime | None = None
    done_at: datetime | None = None

    def __str__(self) -> str:
        return f"{texts.quote(self.key)[1:-1]} {texts.quote(self.title)}"


@dataclass(frozen=True, slots=True)
class Batch:
    """What one file holds, ready for the store.

    `format` is taskmaster, beads, loom or plan. `source` counts what the file held, by name. `former` are the origin
    ids that earlier versions gave to some keys.

    What follows only `fit` finds. `there` are the keys that the project has, with the ids of their tasks. `links` are
    dependencies of tasks that exist on keys of the batch, as (task id, key). `retitled` are new titles and `renamed`
    new origin ids of tasks that exist, by id.
    """

    format: str
    drafts: list[Draft]
    report: Report = field(default_factory=Report)
    source: dict[str, int] = field(default_factory=dict)
    former: dict[str, str] = field(default_factory=dict)
    there: dict[str, str] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)
    retitled: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    @property
    def known(self) -> int:
        """How many of the file's tasks the project has had already."""
        return len(self.there)

    @property
    def adjustments(self) -> list[Adjustment]:
        """What had to give way, a line for each kind."""
        return self.report.adjustments


def exported(project_id: str, name: str) -> str:
    """The origin id of a task that came out of a Loom project."""
    return ":".join(("loom", project_id, name))


def origin(text: str) -> str:
    """A key or origin id that Postgres can index, whatever a file calls its tasks: short, printable, distinct."""
    if len(text) <= ORIGIN_CHARACTERS and text.isprintable():
        return text
    head = "".join(c if c.isprintable() else "?" for c in text[: ORIGIN_CHARACTERS - 33])
    return f"{head}#{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}"


def must_fit(drafts: Iterable[Draft]) -> None:
    """Holds what somebody else has read from a file to the limits of what a caller may write. Raises
    InvalidInputError."""
    for draft in drafts:
        limits.title(draft.title)
        limits.done_when(draft.done_when)
        limits.context(draft.context)
        limits.output(draft.output)
        limits.files(draft.files)
        limits.checks(draft.checks)
        limits.labels(draft.labels)
        limits.count_dependencies(len(draft.depends_on))
        if draft.deferred is not None:
            limits.reason(draft.deferred, "deferred")
        keys = (draft.key, *(one for one in (draft.origin_id, draft.parent) if one is not None))
        if any(one != origin(one) for one in keys):
            raise InvalidInputError(
                f"{texts.quote(draft.key)} has a key or an origin that no import gives.", "Bring the file itself."
            )
        if any(one is not None and one.tzinfo is None for one in (draft.created_at, draft.done_at)):
            raise InvalidInputError(f"{texts.quote(draft.key)} has a time without its zone.", "Bring the file itself.")


def relate(context: dict[str, Any], entry: dict[str, Any]) -> None:
    """Adds a related note to a context."""
    before = context.get("related", [])
    context["related"] = [*(before if isinstance(before, list) else [before]), entry]


def scalars(value: object) -> list[str]:
    """The names in a list of them, or in one text with commas, as texts; whatever else stands there is told as it is
    written."""
    if value is None:
        return []
    if isinstance(value, str):
        return [name for part in value.split(",") if (name := part.strip())]
    return [str(one).strip() for one in (value if isinstance(value, list) else [value])]


def put_done_when(item: Item, *criteria: tuple[str, object]) -> None:
    """Takes the first of `criteria`, named texts, that is short enough as `done_when`; the others go into the context
    under their names."""
    for name, value in criteria:
        text = value
        if isinstance(value, list) and all(isinstance(line, str) for line in value):
            text = "\n".join(f"- {line}" for line in value)
        if not text:
            continue
        fits = isinstance(text, str) and len(text.encode(errors="replace")) <= limits.DONE_WHEN_BYTES
        if item.done_when is None and fits:
            item.done_when = str(text)
        else:
            item.context[name] = value


def moment(value: object) -> datetime | None:
    """A point in time from ISO 8601 text, in UTC where it names no zone; None from anything else."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if found is None or not 1970 < found.year < 9999:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
