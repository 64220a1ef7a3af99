"""A git worktree and a branch for each task, so that workers do not get in each other's way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from loom import files
from loom.background import through
from loom.exceptions import CommandError, FileError
from loom.git import Repository

_LISTED_BYTES = 5_000  # of commits, and of what is not committed
_DIFF_BYTES = 50_000
_SHOW_SECONDS = 30.0  # for git to show something
_CHANGE_SECONDS = 600.0  # for git to write, or remove, the files of a worktree
_NOT_INTO = "--ignore-submodules=dirty"  # their own configuration is never met


class Worktrees:
    """The worktrees of one repository, below `place`, each on the branch `loom/<task id>`."""

    def __init__(self, repository: Repository, place: Path) -> None:
        self._repository, self._place = repository, place
        self._one_at_a_time = asyncio.Lock()  # git locks its files too, but gives up instead of waiting

    @classmethod
    async def of(cls, directory: Path, place: Path) -> Worktrees:
        """Those of the repository that `directory` is in.

        Raises:
            CommandError: there is none, it has no commit yet, or git is not installed or refuses.
        """
        try:
            repository = await Repository.around(directory)
        except CommandError as error:
            if "not a git repository" not in error.cause:
                raise
            raise CommandError(
                f"{directory} is not in a git repository, which worktrees need.", "Run `git init` and commit first."
            ) from error
        try:
            await repository.text("rev-parse", "--verify", "HEAD")
        except CommandError:
            raise CommandError(
                f"The git repository {repository.work_tree} has no commit to begin from.",
                "Commit first, then run it again.",
            ) from None
        return cls(repository, place)

    async def make(self, task_id: str) -> Path:
        """The worktree of a task: the one that an earlier attempt left, else a new one, from HEAD where the task has no
        branch yet. Raises CommandError with what git says, FileError where there is no place for it."""
        path = self._place / task_id
        async with self._one_at_a_time:
            if not (path / ".git").is_file():
                # One that is half made looks as if its files had been deleted, so this is not cut short.
                await through(asyncio.create_task(self._add(path, branch_of(task_id))))
        return path

    async def changes(self, task_id: str) -> str:
        """What was changed in a task's worktree since its branch left that of the repository, as git shows it: the
        commits, what is not committed, and the diff of all that git knows; of each the beginning. Raises CommandError
        with what git says, or that it does not end."""
        place = Repository(self._place / task_id)
        top = await _shown(_LISTED_BYTES, self._repository, "rev-parse", "HEAD")
        base = await _shown(_LISTED_BYTES, place, "merge-base", "HEAD", top)
        commits = await _shown(_LISTED_BYTES, place, "log", "--oneline", f"{base}..HEAD")
        loose = await _shown(_LISTED_BYTES, place, "status", "--short", _NOT_INTO)
        diff = await _shown(_DIFF_BYTES, place, "diff", "--patch-with-stat", _NOT_INTO, base)
        return (
            f"The commits on {branch_of(task_id)}, newest first:\n{commits or 'none'}\n\n"
            f"What is not committed:\n{loose or 'nothing'}\n\n"
            f"The diff of both, without files that git does not know:\n{diff or 'nothing'}"
        )

    async def drop(self, task_id: str) -> None:
        """Removes a task's worktree if nothing in it is uncommitted, and its branch if nothing was committed to it."""
        async with self._one_at_a_time:
            with suppress(CommandError):  # git refuses where something would be lost
                await through(asyncio.create_task(self._remove(self._place / task_id, branch_of(task_id))))

    async def _add(self, path: Path, branch: str) -> None:
        try:
            files.write(self._place / ".gitignore", "*\n", 0o644, within=self._place.parent)
        except OSError as error:
            raise FileError(f"{self._place} cannot be written: {error.strerror}.", "Mend that first.") from None
        known = await self._repository.text("branch", "--list", branch)
        how = [str(path), branch] if known else ["-b", branch, str(path)]
        await self._repository.run("worktree", "add", "--no-checkout", "-f", *how)
        try:
            # By a call of its own: the configuration may differ by branch or place, and is looked through there.
            await Repository(path).run("reset", "--hard", "--quiet", timeout=_CHANGE_SECONDS)
        except CommandError:
            with suppress(CommandError):
                await self._repository.run("worktree", "remove", "--force", str(path), timeout=_CHANGE_SECONDS)
            raise

    async def _remove(self, path: Path, branch: str) -> None:
        await Repository(path).run("worktree", "remove", str(path), timeout=_CHANGE_SECONDS)
        await self._repository.run("branch", "-d", branch)


def branch_of(task_id: str) -> str:
    """The branch that a task's work is on."""
    return f"loom/{task_id}"


async def _shown(limit: int, repository: Repository, *words: str) -> str:
    """The first bytes that git prints, and whether there is more."""
    ended = await repository.run(*words, timeout=_SHOW_SECONDS, out_bytes=limit)
    return ended.out.decode(errors="replace").rstrip() + "\n... and more" * ended.cut
