"""Tasks from a history: each commit's change is one, and waits for those whose lines it stands on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.fleet.repository import git

_AROUND = 3  # lines about a hunk that a merge looks at
_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", re.MULTILINE)


@dataclass
class Step:
    """One task: from one state of the repository to another, by commit, and the numbers of the steps it waits for."""

    old: str
    new: str
    title: str
    waits_for: set[int] = field(default_factory=set)
    files: set[str] = field(default_factory=set)


def steps(repository: Path, last: int, is_good: Callable[[str], bool]) -> list[Step]:
    """The last so many first-parent commits that change a tree, from the first good state on. Changes that leave a
    state bad are one step with those after, up to the next good one."""
    lines = git(repository, "log", "--first-parent", "--format=%H %T %s", f"-n{20 * last}").splitlines()
    commits = [line.split(" ", 2) for line in reversed(lines)]
    changing = [one for before, one in zip([["", "", ""], *commits], commits, strict=False) if one[1] != before[1]]
    changing = changing[-last - 1 :]
    while changing and not is_good(changing[0][0]):
        changing.pop(0)
    made: list[Step] = []
    titles: list[str] = []
    for commit, _, title in changing[1:]:
        titles.append(title)
        if is_good(commit):
            old = made[-1].new if made else changing[0][0]
            made.append(Step(old, commit, "; ".join(titles)))
            titles = []
    _tie(repository, made)
    return made


def _tie(repository: Path, made: list[Step]) -> None:
    """Finds for each step which earlier ones it stands on."""
    authors: dict[str, _Lines] = {}
    touched: dict[str, set[int]] = {}
    for number, step in enumerate(made):
        for path, whole in _changes(repository, step):
            step.files.add(path)
            if whole:
                step.waits_for |= touched.get(path, set())
                authors[path] = _Lines(git(repository, "show", f"{step.new}:{path}").count("\n") + 2
                                       if _exists(repository, step.new, path) else 0)  # fmt: skip
                authors[path].fill(number)
            else:
                lines = authors.setdefault(path, _Lines(_length(repository, step.old, path)))
                step.waits_for |= lines.change(number, _hunks(repository, step, path))
            touched.setdefault(path, set()).add(number)
        step.waits_for.discard(number)


class _Lines:
    """Which steps wrote each line of a file, and deleted something in front of it."""

    def __init__(self, length: int) -> None:
        self._by: list[set[int]] = [set() for _ in range(length + 1)]  # the last one: behind the end

    def fill(self, number: int) -> None:
        """All of it is by one step."""
        self._by = [{number} for _ in self._by]

    def change(self, number: int, hunks: list[tuple[int, int, int]]) -> set[int]:
        """Replaces lines: for each hunk its first line from zero, how many go, and how many come. Returns who wrote
        what stood there and around."""
        found: set[int] = set()
        for first, gone, come in reversed(hunks):
            found.update(*self._by[max(first - _AROUND, 0) : first + gone + _AROUND + 1])
            below = {number} | (self._by[first + gone] if first + gone < len(self._by) else set())
            self._by[first : first + gone + 1] = [{number} for _ in range(come)] + [below]
        return found


def _changes(repository: Path, step: Step) -> Iterator[tuple[str, bool]]:
    """The paths that a step changes, and whether as a whole: added, deleted, in mode or kind, or binary."""
    raw = git(repository, "diff", "--raw", "--no-renames", "-z", step.old, step.new).split("\0")
    counted = git(repository, "diff", "--numstat", "--no-renames", "-z", step.old, step.new).split("\0")
    binary = {line.split("\t")[2] for line in counted if line.startswith("-\t-\t")}
    for described, path in zip(raw[::2], raw[1::2], strict=False):
        before, after, _, _, status = described.lstrip(":").split(" ")
        yield path, status != "M" or before != after or path in binary


def _hunks(repository: Path, step: Step, path: str) -> list[tuple[int, int, int]]:
    shown = git(repository, "diff", "-U0", "--no-color", "--no-ext-diff", step.old, step.new, "--", path)
    found = []
    for match in _HUNK.finditer(shown):
        line, gone, come = (int(match[group] or (1 if match[group] is None else 0)) for group in (1, 2, 4))
        found.append((line if gone == 0 else line - 1, gone, come))
    return found


def _exists(repository: Path, commit: str, path: str) -> bool:
    return bool(git(repository, "ls-tree", commit, "--", path))


def _length(repository: Path, commit: str, path: str) -> int:
    return git(repository, "show", f"{commit}:{path}").count("\n") + 2
