"""A git worktree and a branch for each task, so that workers do not get in each other's way."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import suppress
from pathlib import Path

from loom import process
from loom.exceptions import CommandError

_LISTED_BYTES = 5_000  # of commits, and of what is not committed
_DIFF_BYTES = 50_000
_SHOW_SECONDS = 30.0  # for git to show something


class Worktrees:
    """The worktrees of one repository, below `place`, each on the branch `loom/<task id>`."""

    def __init__(self, top: Path, place: Path) -> None:
        self._top, self._place = top, place
        self._one_at_a_time = asyncio.Lock()  # git locks its files too, but gives up instead of waiting

    @classmethod
    async def of(cls, directory: Path, place: Path) -> Worktrees:
        """Those of the repository that `directory` is in.

        Raises:
            CommandError: there is none, it has no commit yet, or git is not installed.
        """
        try:
            top = await _git(directory, "rev-parse", "--show-toplevel")
        except CommandError as error:
            raise CommandError(
                f"{directory} is not in a git repository, which worktrees need.", "Run `git init` and commit first."
            ) from error
        except FileNotFoundError:
            raise CommandError("git is not installed, and worktrees need it.", "Install git.") from None
        try:
            await _git(directory, "rev-parse", "--verify", "HEAD")
        except CommandError:
            raise CommandError(
                f"The git repository {top} has no commit to begin from.", "Commit first, then run it again."
            ) from None
        return cls(Path(top), place)

    async def make(self, task_id: str) -> Path:
        """The worktree of a task: the one that an earlier attempt left, else a new one, from HEAD where the task has no
        branch yet. Raises CommandError with what git says."""
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
        commits, what is not committed, and the diff of all that git knows; of each the beginning. Raises CommandError
        with what git says, or that it does not end."""
        path = self._place / task_id
        top = await _shown(_LISTED_BYTES, self._top, "rev-parse", "HEAD")
        base = await _shown(_LISTED_BYTES, path, "merge-base", "HEAD", top)
        commits = await _shown(_LISTED_BYTES, path, "log", "--oneline", f"{base}..HEAD")
        loose = await _shown(_LISTED_BYTES, path, "status", "--short")
        how = ("--no-ext-diff", "--no-textconv", "--patch-with-stat")
        diff = await _shown(_DIFF_BYTES, path, "diff", *how, base)
        return (
            f"The commits on {branch_of(task_id)}, newest first:\n{commits or 'none'}\n\n"
            f"What is not committed:\n{loose or 'nothing'}\n\n"
            f"The diff of both, without files that git does not know:\n{diff or 'nothing'}"
        )

    async def drop(self, task_id: str) -> None:
        """Removes a task's worktree if nothing in it is uncommitted, and its branch if nothing was committed to it."""
        async with self._one_at_a_time:
            with suppress(CommandError):  # git refuses where something would be lost
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
        raise _failed(words, done.returncode, done.stderr)
    return done.stdout.strip()


async def _shown(limit: int, directory: Path, *words: str) -> str:
    """The first bytes that git prints, and whether there is more."""
    try:
        ended = await process.run(
            ["git", "-C", str(directory), *words], env=os.environ, cwd=None, timeout=_SHOW_SECONDS, out_bytes=limit
        )
    except TimeoutError:  # which is an OSError too
        raise CommandError(f"`git {words[0]}` did not end within {_SHOW_SECONDS:g} seconds, and was stopped.") from None
    except OSError as error:
        raise CommandError(f"git cannot be started: {error.strerror}.") from None
    if ended.status and not ended.cut:
        raise _failed(words, ended.status, ended.err.decode(errors="replace"))
    return ended.out.decode(errors="replace").rstrip() + "\n... and more" * ended.cut


def _failed(words: tuple[str, ...], status: int, said: str) -> CommandError:
    """What git says last of why it has failed."""
    why = said.strip().splitlines() or [f"exit status {status}"]
    return CommandError(f"`git {words[0]} {words[1]}` failed: {why[-1]}")
