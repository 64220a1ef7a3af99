"""What must hold of a plan before it is shown, each with a sentence that a model can act on.

That a plan can be written at all, `graph/plan.py` says. Here is what makes it a good one: order between its tasks, ends
that can be tested, files that are there, and nothing that the project has already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loom import texts
from loom.exceptions import DependencyCycleError, InvalidInputError, PlanError
from loom.graph.model import limits, plan
from loom.graph.model.bulk import uncollected
from loom.graph.model.plan import Draft

FEW = 4  # tasks; more than these have an order among them
PROBLEMS_TOLD = 50
_WORD = re.compile(r"[^\W_]+")
# Words that say that something is done, but not how anybody could tell.
_VAGUE = frozenset(
    [
        "a",
        "all",
        "and",
        "any",
        "are",
        "as",
        "be",
        "been",
        "build",
        "built",
        "code",
        "complete",
        "completed",
        "completely",
        "correct",
        "correctly",
        "create",
        "created",
        "do",
        "does",
        "done",
        "every",
        "everything",
        "expected",
        "finish",
        "finished",
        "fine",
        "fully",
        "good",
        "has",
        "have",
        "implement",
        "implemented",
        "in",
        "is",
        "it",
        "its",
        "made",
        "make",
        "nicely",
        "of",
        "ok",
        "okay",
        "on",
        "properly",
        "ready",
        "should",
        "success",
        "successful",
        "successfully",
        "task",
        "that",
        "the",
        "them",
        "there",
        "this",
        "to",
        "up",
        "well",
        "with",
        "work",
        "working",
        "works",
    ]
)


@dataclass(frozen=True, slots=True)
class ProjectFacts:
    """What a plan is held against: the directory that paths are relative to, the files that git tracks, the open tasks
    that bear one of the plan's titles (id by title as `same` has it), ids in the plan that no task of the project has
    or whose task was cancelled, and the names of the checks that are in force."""

    directory: Path | None = None
    files: Collection[str] = frozenset()
    titles: Mapping[str, str] = field(default_factory=dict)
    missing: Collection[str] = frozenset()
    cancelled: Collection[str] = frozenset()
    checks: Collection[str] = frozenset()


def read(given: object) -> tuple[list[Draft], list[str]]:
    """The drafts of a plan, or what keeps it from being read."""
    try:
        drafts = plan.read(given)
        text(given)
    except PlanError as error:
        return [], [texts.clean(one) for one in error.problems]
    return drafts, []


def text(given: Any) -> str:
    """A plan that could be read as JSON text, its tasks and nothing else. Raises PlanError if it is too large."""
    tasks = given["tasks"] if isinstance(given, Mapping) else given
    found = json.dumps({"tasks": tasks}, ensure_ascii=False, separators=(",", ":"))
    if (size := len(found.encode())) > plan.PLAN_BYTES:
        raise PlanError(
            f"The plan is {size:,} bytes of JSON; the limit is {plan.PLAN_BYTES:,}.", "Split it into several plans."
        )
    return found


@uncollected()
def problems(drafts: Sequence[Draft], known: ProjectFacts) -> list[str]:
    """Everything that is wrong with a plan that could be read, a sentence or two each, up to a limit."""
    found = [
        *_cycle(drafts),
        *_missing(drafts, known),
        *_edges(drafts),
        *_epics(drafts),
        *_orphans(drafts),
        *_duplicates(drafts, known),
        *_ends(drafts),
        *_files(drafts, known),
        *_checks(drafts, known),
    ]
    if len(found) > PROBLEMS_TOLD:
        more = len(found) - PROBLEMS_TOLD
        found = [*found[:PROBLEMS_TOLD], f"And {more:,} problem{'s' * (more != 1)} more."]
    return [texts.clean(one) for one in found]


def few(drafts: Sequence[Draft]) -> list[str]:
    """As `problems`, for a handful of tasks that go together: nothing is asked of the order among them, and the files
    that they name need not be there yet."""
    return [texts.clean(one) for one in (*_cycle(drafts), *_ends(drafts), *_files(drafts, ProjectFacts()))]


def outside(drafts: Sequence[Draft]) -> list[str]:
    """The ids of tasks that a plan names beside its own."""
    own = {draft.key for draft in drafts}
    named = (name for draft in drafts for name in (*draft.depends_on, draft.parent) if name is not None)
    return [name for name in dict.fromkeys(named) if name not in own]


def same(title: str) -> str:
    """A title as it is compared with others: as it is seen, in lower case, with single spaces."""
    return texts.one_line(title).lower()


def _cycle(drafts: Sequence[Draft]) -> list[str]:
    try:
        plan.order(drafts)
    except DependencyCycleError as error:
        return [str(error)]
    return []


def _missing(drafts: Sequence[Draft], known: ProjectFacts) -> list[str]:
    found = []
    for draft in drafts:
        found += [
            f"{_named(draft)} names {name} in depends_on, a task that this project does not have. Name a key of the"
            " plan or the id of an open task, or leave it out."
            for name in draft.depends_on
            if name in known.missing
        ]
        found += [
            f"{_named(draft)} names {name} in depends_on, which was cancelled and will never be done. Leave it out."
            for name in draft.depends_on
            if name in known.cancelled
        ]
        if draft.parent in known.missing:
            found.append(
                f"{_named(draft)} names {draft.parent} as its parent, a task that this project does not have. Name an"
                " epic of the plan or the id of an open one, or leave it out."
            )
    return found


def _edges(drafts: Sequence[Draft]) -> list[str]:
    tasks = [draft for draft in drafts if not draft.epic]
    if len(tasks) > FEW and not any(draft.depends_on for draft in drafts):
        return [
            f"The plan has {len(tasks):,} tasks and no dependency, so all would begin at once. Go through them: where a"
            " task uses what another one makes (a file, a table, an interface, a decision), name that one in its"
            " depends_on."
        ]
    return []


def _epics(drafts: Sequence[Draft]) -> list[str]:
    parents = {draft.parent for draft in drafts}
    return [
        f"{_named(draft)} is an epic without children. Name it as the parent of its tasks, or make it a task."
        for draft in drafts
        if draft.epic and draft.key not in parents
    ]


def _orphans(drafts: Sequence[Draft]) -> list[str]:
    if sum(not draft.epic for draft in drafts) <= FEW:
        return []
    tied = {name for draft in drafts for name in draft.depends_on}
    return [
        f"{_named(draft)} is tied to nothing. Put it into an epic with parent, say in depends_on what it waits for, or"
        " name it where it is waited for."
        for draft in drafts
        if not draft.epic and not draft.parent and not draft.depends_on and draft.key not in tied
    ]


def _duplicates(drafts: Sequence[Draft], known: ProjectFacts) -> list[str]:
    return [
        f"{_named(draft)} has the title of the open task {twin}. Leave it out and name {twin} in depends_on where it"
        " is needed, or give it a title that says what is different."
        for draft in drafts
        if (twin := known.titles.get(same(draft.title)))
    ]


def _ends(drafts: Sequence[Draft]) -> list[str]:
    found = []
    for draft in drafts:
        if draft.epic:
            continue
        if not draft.done_when:
            found.append(
                f"{_named(draft)} has no done_when. Say what can be observed when it is done: a command and its result,"
                " a test that passes, what a page or a file then has."
            )
        elif not _testable(draft.title, draft.done_when):
            found.append(
                f"{_named(draft)} has the done_when {texts.quote(draft.done_when)}, which nobody can test. Name a"
                " command and its result, a test that passes, or what a page or a file then has."
            )
    return found


def _testable(title: str, done_when: str) -> bool:
    """Whether the words of a done_when say more than that its title is done."""
    named = {word[:4] for word in _words(title)}
    return any(word not in _VAGUE and word[:4] not in named for word in _words(done_when))


def _files(drafts: Sequence[Draft], known: ProjectFacts) -> list[str]:
    found: list[str] = []
    new = {path for draft in drafts for path in draft.made}
    for draft in drafts:
        found += [f"{_named(draft)} cannot have these files: {_why_unfit(given)}" for given in draft.unfit]
        found += [
            f"{_named(draft)} names the file {texts.quote(path)}, which does not exist. Name one that does, or"
            f" write {texts.quote(f'{plan.NEW} {path}', 120)} if the plan makes it."
            for path in draft.files
            if path not in new and not _exists(path, known)
        ]
    return found


def _checks(drafts: Sequence[Draft], known: ProjectFacts) -> list[str]:
    there = ", ".join(sorted(known.checks)[:20])
    what_else = f"Name one of {there}, or leave it out." if there else "There are none, so leave it out."
    return [
        f"{_named(draft)} names the check {texts.quote(name)}, which is not in force. {what_else}"
        for draft in drafts
        for name in draft.checks
        if name not in known.checks
    ]


def _why_unfit(given: str) -> str:
    try:
        limits.path(given)
    except InvalidInputError as error:
        return str(error)
    raise AssertionError(f"{given!r} is a path of the repository")


def _exists(path: str, known: ProjectFacts) -> bool:
    if path in known.files or known.directory is None:
        return True
    try:
        return (known.directory / path).resolve(strict=True).is_relative_to(known.directory.resolve())
    except (OSError, ValueError, RuntimeError):
        return False


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _named(draft: Draft) -> str:
    title = texts.quote(draft.title)
    return f"Task {title}" if draft.key.startswith("#") else f"Task {texts.quote(draft.key, 40)}, {title},"
