"""What a model must know to make a plan: the goal, a specification, the files that git tracks, the open tasks, and the
checks that are in force."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom import files, texts
from loom.exceptions import CommandError, InvalidInputError
from loom.git import Repository
from loom.graph.model import limits, plan
from loom.graph.store import plans
from loom.landing.checks import in_force
from loom.wording import Argument, Words

if TYPE_CHECKING:
    from loom.config import LoomConfig
    from loom.graph.front import Loom

_SPEC_BYTES = 256 * 1024
_FILES_KNOWN = 200_000
_FILES_BYTES = 20_000_000
_FILES_SHOWN = 40_000  # characters of paths in a provider's prompt
_TASKS_SHOWN = 200
_CHECKS_SHOWN = 50
_COMMAND = 200  # characters of a check's
_REMINDED = 900  # characters of each in the prompt of an agent, who can look for itself
_GIT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Material:
    """What a model must know: the goal, a specification, the files that git tracks, the open tasks, and the checks that
    are in force, each with its name, its command, what it protects, and whether every task needs it."""

    goal: str
    spec: str
    files: tuple[str, ...]
    tasks: tuple[tuple[str, str, str], ...]
    checks: tuple[dict[str, Any], ...] = ()

    def inputs(self) -> dict[str, Any]:
        """As inputs of the skill, for a provider."""
        return self._inputs(self.goal, self.spec, _FILES_SHOWN, _TASKS_SHOWN)

    def reminder(self) -> dict[str, Any]:
        """As inputs of the skill, brief: for an agent that sees the same project."""
        room, rows = _REMINDED, 0
        while rows < len(self.tasks) and (room := room - len(self.tasks[rows][2]) - 60) > 0:
            rows += 1
        return self._inputs(_brief(self.goal), _brief(self.spec), _REMINDED, rows)

    def _inputs(self, goal: str, spec: str, characters: int, rows: int) -> dict[str, Any]:
        tasks = [{"id": one, "status": status, "title": title} for one, status, title in self.tasks[:rows]]
        return {
            "goal": goal,
            "spec": spec,
            "files": _tree(self.files, characters),
            "open_tasks": tasks,
            "more_tasks": max(len(self.tasks) - rows, 0),
            "checks": list(self.checks[:_CHECKS_SHOWN]),
        }


async def gather(loom: Loom, goal: str = "", *, spec_path: str | None = None, spec: str = "") -> Material:
    """Gathers what a model must know.

    Args:
        spec_path: a text file below the project's directory; `spec` is the text itself.

    Raises:
        InvalidInputError: neither goal nor specification, or a path that leads out of the project.
    """
    directory = loom.config.project_dir
    if spec_path is not None:
        spec = await asyncio.to_thread(_read_spec, directory, spec_path)
    if len(spec.encode(errors="replace")) > _SPEC_BYTES:
        raise InvalidInputError(
            f"The specification is larger than {_SPEC_BYTES // 1024} kB.", "Decompose it one part at a time."
        )
    if not goal.strip() and not spec.strip():
        raise InvalidInputError("There is neither a goal nor a specification.", "Say what is to be reached.")
    goal = limits.message(goal, "goal") if goal.strip() else "Carry out the specification."
    tracked = await tracked_files(directory)

    open_tasks = await loom.look(lambda connection: plans.open_tasks(connection, loom.project_id, plan.PLAN_TASKS))
    return Material(goal, spec, tuple(tracked), tuple(open_tasks), _checks(loom.config))


def root(directory: Path | None) -> Path | None:
    """What paths are relative to: the root of the repository that a project is in, the project's directory if none."""
    if directory is None:
        return None
    return next((one for one in (directory, *directory.parents) if files.exists(one / ".git")), directory)


async def tracked_files(directory: Path | None) -> list[str]:
    """The paths that git tracks below a directory, from the root of its repository; none where there is none."""
    if directory is None:
        return []
    try:
        listed = await Repository(directory).run(
            "ls-files", "-z", "--cached", "--full-name", timeout=_GIT_SECONDS, out_bytes=_FILES_BYTES
        )
    except CommandError:
        return []
    found = listed.out.decode(errors="replace").split("\0")[:-1]  # the last is empty, or cut
    return found[:_FILES_KNOWN]


def _checks(config: LoomConfig) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"name": one.name, "command": texts.shorten(" ".join(one.command), _COMMAND)}
        | ({"protects": list(one.protect)} if one.protect else {})
        | ({"needed_by": "every task"} if one.name in config.landing.checks else {})
        for one in in_force(config).values()
    )


def _read_spec(directory: Path | None, given: str) -> str:
    if directory is None:
        raise InvalidInputError(
            Words("{} needs a project directory.", Argument("spec_path")), "Pass the text as the goal."
        )
    try:
        return files.read(directory / given, _SPEC_BYTES, directory).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInputError(f"{texts.quote(given)} is not UTF-8 text.", "Convert it to UTF-8.") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a path"
        raise InvalidInputError(
            Words("{} {} cannot be read: {}.", Argument("spec_path"), texts.quote(given), why),
            "Name a text file below the project.",
        ) from None


def _tree(files: Sequence[str], characters: int) -> str:
    """Paths, one a line; where there are too many, directories with how many files they hold; no path is cut."""
    whole = "\n".join(files)
    if len(whole) <= characters:
        return whole
    for depth in (6, 5, 4, 3, 2, 1):
        counted = Counter("/".join(path.split("/")[:depth]) if path.count("/") >= depth else path for path in files)
        lines = [f"{path}/ ({count:,} files)" if count > 1 else path for path, count in counted.items()]
        if sum(map(len, lines)) + len(lines) <= characters:
            return "\n".join(lines)
    shown = "\n".join(lines)[:characters].rpartition("\n")[0]
    return f"{shown}\n… and more; {len(files):,} files in all"


def _brief(text: str) -> str:
    return texts.shorten(text, _REMINDED, f"{len(text):,} characters; you have the whole")
