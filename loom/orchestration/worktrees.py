"""A git worktree and a branch for each task, so that workers do not get in each other's way."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import suppress
from pathlib import Path

from loom.exceptions import LoomError

_LISTED_BYTES = 5_000  # of commits, and of what is not committed
_DIFF_BYTES = 50_000


class Worktrees:
    """The worktrees of one repository, below `place`, each on the branch `loom/<task id>`."""

    def __init__(self, top: Path, place: Path) -> None:
        self._top, self._place = top, place
        self._one_at_a_time = asyncio.Lock()  # git locks its files too, but gives up instead of waiting

    @classmethod
    async def of(cls, directory: Path, place: Path) -> Worktrees:
        """Those of the repository that `directory` is in.

        Raises:
            LoomError: there is none, it has no commit yet, or git is not installed.
        """
        try:
            top = await _git(directory, "rev-parse", "--show-toplevel")
        except LoomError as error:
            raise LoomError(
                f"{directory} is not in a git repository, which --worktree needs.", "Run `git init` and commit first."
            ) from error
        except FileNotFoundError:
            raise LoomError("git is not installed, and --worktree needs it.", "Install git.") from None
        try:
            await _git(directory, "rev-parse", "--verify", "HEAD")
        except LoomError:
            raise LoomError(
                f"The git repository {top} has no commit to begin from.", "Commit first, then run it again."
            ) from None
        return cls(Path(top), place)

    async def make(self, task_id: str) -> Path:
        """The worktree of a task: the one that an earlier attempt left, else a new one, from HEAD where the task has no
        branch yet. Raises LoomError with what git says."""
        path, branch = self._place / task_id, branch_of(task_id)
        async with self._one_at_a_time:
            if (path / ".git").is_file():
                return path
            self._place.mkdir(parents=True, exist_ok=True)
            (self._place / ".gitignore").write_text("*\n")
            known = await _git(self._top, "branch", "--list", branch)
            await _git(
                self._top, "worktree", "add", "-f", *([str(path), branch] if known else ["-b", branch, str(path)])
            )
        return path

    async def changes(self, task_id: str) -> str:
        """What was changed in a task's worktree since its branch left that of the repository, as git shows it: the
        commits, what is not committed, and the diff of all that git knows; of each the beginning. Raises LoomError with
        what git says."""
        path = self._place / task_id
        base = await _git(path, "merge-base", "HEAD", await _git(self._top, "rev-parse", "HEAD"))
        commits = await _beginning(_LISTED_BYTES, path, "log", "--oneline", f"{base}..HEAD")
        loose = await _beginning(_LISTED_BYTES, path, "status", "--short")
        how = ("--no-ext-diff", "--no-textconv", "--patch-with-stat")
        diff = await _beginning(_DIFF_BYTES, path, "diff", *how, base)
        return (
            f"The commits on {branch_of(task_id)}, newest first:\n{commits or 'none'}\n\n"
            f"What is not committed:\n{loose or 'nothing'}\n\n"
            f"The diff of both, without files that git does not know:\n{diff or 'nothing'}"
        )

    async def drop(self, task_id: str) -> None:
        """Removes a task's worktree if nothing in it is uncommitted, and its branch if nothing was committed to it."""
        async with self._one_at_a_time:
            with suppress(LoomError):  # git refuses where something would be lost
                await _git(self._top, "worktree", "remove", str(self._place / task_id))
                await _git(self._top, "branch", "-d", branch_of(task_id))


def branch_of(task_id: str) -> str:
    """The branch that a task's work is on."""
    return f"loom/{task_id}"


async def _git(directory: Path, *words: str) -> str:
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", "-C", str(directory), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is ours
        )

    done = await asyncio.to_thread(run)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise LoomError(f"`git {words[0]} {words[1]}` failed: {said[-1]}")
    return done.stdout.strip()


async def _beginning(limit: int, directory: Path, *words: str) -> str:
    """The first bytes that git prints, and whether there is more."""

    def run() -> str:
        with subprocess.Popen(
            ["git", "-C", str(directory), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as git:
            assert git.stdout is not None, "it is a pipe"
            text = git.stdout.read(limit + 1)
            if len(text) > limit:
                git.kill()
                text = text[:limit] + b"\n... and more"
        return text.decode(errors="replace").rstrip()

    return await asyncio.to_thread(run)
