"""What an import changes of what a file says: each case as it comes up, and all of them as lines of a report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from loom.graph.model import limits


class AdjustmentKind(StrEnum):
    """What an import had to change, in the order of the report."""

    NOT_WORK = "not_work"
    DUPLICATE = "duplicate"
    SAME_ID = "same_id"
    DANGLING = "dangling_reference"
    UNREADABLE = "unreadable_reference"
    SECOND_PARENT = "second_parent"
    PARENT_CYCLE = "parent_cycle"
    CYCLE = "cycle"
    TOO_MANY = "too_many_dependencies"
    OPENED = "parent_opened"
    CLOSED = "epic_closed"
    CHILDLESS = "childless_epic"
    WAIVED = "dependency_waived"
    PENDING = "came_in_pending"
    DEFERRED = "came_in_deferred"
    STUCK = "waits_for_cancelled"
    CONDITIONAL = "conditional_dependency"
    PRIORITY = "priorities_merged"
    TITLE = "title_shortened"
    SHORTENED = "text_shortened"
    CLEANED = "characters_removed"
    ORPHANED = "parent_out_of_reach"
    EMPTIED = "epic_left_out"
    LEFT_ALONE = "reference_left_out"
    TITLE_KEPT = "title_kept"
    RETITLED = "title_updated"


_WORDS = {
    AdjustmentKind.NOT_WORK: "left out, not work",
    AdjustmentKind.DUPLICATE: "older copy of the same task left out",
    AdjustmentKind.SAME_ID: "other task with an id that is taken came in under an id of its own",
    AdjustmentKind.DANGLING: "reference to what is not in the file dropped",
    AdjustmentKind.UNREADABLE: "reference that names nothing dropped",
    AdjustmentKind.SECOND_PARENT: "second parent kept as a related note",
    AdjustmentKind.PARENT_CYCLE: "parent that was its own descendant dropped",
    AdjustmentKind.CYCLE: "dependency that closed a cycle dropped",
    AdjustmentKind.TOO_MANY: f"dependency beyond {limits.DEPENDENCIES:,} of one task dropped",
    AdjustmentKind.OPENED: "closed parent with open children opened",
    AdjustmentKind.CLOSED: "epic whose children are all finished closed",
    AdjustmentKind.CHILDLESS: "finished epic without children came in as a task",
    AdjustmentKind.WAIVED: "unfinished dependency of finished work waived",
    AdjustmentKind.PENDING: "came in as pending, its former status noted",
    AdjustmentKind.DEFERRED: "came in deferred, offered to nobody until that is resolved",
    AdjustmentKind.STUCK: "waits for a cancelled task until that is waived",
    AdjustmentKind.CONDITIONAL: "condition on another's failure came in as a plain dependency",
    AdjustmentKind.PRIORITY: "priority that another had too came in as one, the original noted",
    AdjustmentKind.TITLE: "title shortened, the full one kept in the context",
    AdjustmentKind.SHORTENED: "text beyond the limit shortened",
    AdjustmentKind.CLEANED: "control characters removed",
    AdjustmentKind.ORPHANED: "new child of what Loom has claimed or finished came in without its parent",
    AdjustmentKind.EMPTIED: "epic whose children all have another place in the project left out",
    AdjustmentKind.LEFT_ALONE: "reference that a task of the project does not have, and was not given, left out",
    AdjustmentKind.TITLE_KEPT: "task of the project kept a title that is another in the file",
    AdjustmentKind.RETITLED: "title updated as the file has it now",
}


class Adjusted(NamedTuple):
    """One thing that an import changed: of what kind, on which key, and the case in words."""

    kind: AdjustmentKind
    key: str
    example: str


@dataclass(frozen=True, slots=True)
class Adjustment:
    """One kind of change an import made, how often, and the first case. `str()` is the line of a report."""

    kind: AdjustmentKind
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.count:,} × {_WORDS[self.kind]}, such as {self.example}"


@dataclass(slots=True)
class Report:
    """Everything that an import changed, in the order in which it did."""

    cases: list[Adjusted] = field(default_factory=list)

    def add(self, kind: AdjustmentKind, key: str, example: str) -> None:
        """Takes down one case."""
        self.cases.append(Adjusted(kind, key, example))

    def __iter__(self) -> Iterator[Adjusted]:
        return iter(self.cases)

    @property
    def adjustments(self) -> list[Adjustment]:
        """The cases counted, each kind with its first, in the order of `AdjustmentKind`."""
        by_kind: dict[AdjustmentKind, list[Adjusted]] = {}
        for case in self.cases:
            by_kind.setdefault(case.kind, []).append(case)
        return [
            Adjustment(kind, len(by_kind[kind]), by_kind[kind][0].example) for kind in AdjustmentKind if kind in by_kind
        ]
