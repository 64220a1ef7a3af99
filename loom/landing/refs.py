"""Refs of a repository that Loom moves: several at once or none, each only from the value that it is known to have.

Beside the branches, Loom has refs of its own below `refs/loom/`: `held/PROJECT/COMMIT` keeps a commit from being
collected that is about to land, `tips/PROJECT/BRANCH` is where a project has brought a branch of Loom's own or is
about to, `kept/BRANCH/COMMIT` is what stood on a branch that was put back or begun anew, and `offered/TASK/COMMIT`
notes that a branch was offered where its target cannot be pushed to.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from pathlib import Path

from loom import texts
from loom.exceptions import CommandError
from loom.git import Repository

TIPS = "refs/loom/tips/"
"""Before the name of a project, and that of a branch."""

_LOCKED_SECONDS = 5.0  # that another process may hold a ref
_KEPT = 100  # commits that stood on a branch which was put back
_STALE_SECONDS = 60.0  # after which a lock was left by a git that died: to move a ref takes milliseconds
_OTHERWISE = re.compile(r"but expected|unable to resolve reference|reference is missing|reference already exists")
_LOCK = re.compile(r"Unable to create '(.+\.lock)': File exists")


def branch(name: str) -> str:
    """The ref of a branch."""
    return f"refs/heads/{name}"


def target(name: str, remote: str | None) -> str:
    """The ref by which a repository knows what lands: a branch of its own, or of a remote."""
    return f"refs/remotes/{remote}/{name}" if remote else branch(name)


def held(project_id: str, commit: str) -> str:
    """The ref that keeps a commit of a project; of "": where all of them are."""
    return f"refs/loom/held/{project_id}/{commit}"


def tip(project_id: str, name: str) -> str:
    """The ref by which other projects of the repository know where a project has brought a branch of Loom's own."""
    return f"{TIPS}{project_id}/{name}"


def kept(name: str, commit: str) -> str:
    """The ref that keeps what stood on a branch."""
    return f"refs/loom/kept/{name}/{commit}"


def offered(task_id: str, commit: str) -> str:
    """The ref that notes that a branch was offered."""
    return f"refs/loom/offered/{task_id}/{commit}"


async def forget_oldest(repository: Repository, name: str, but: str) -> None:
    """Keeps of what stood on a branch the newest hundred commits, and the ref `but`. Raises CommandError."""
    listed = await repository.text("for-each-ref", "--sort=-committerdate", "--format=%(refname)", kept(name, ""))
    if over := [ref for ref in listed.splitlines()[_KEPT:] if ref != but]:
        await change(repository, *(f"delete {ref}" for ref in over))


async def commit_at(repository: Repository, name: str) -> str | None:
    """The commit that a name stands for, None if there is none. Raises CommandError."""
    words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    found = await repository.run(*words, accepted=(0, 1, 128))
    return found.out.decode().strip() if found.status == 0 else None


async def change(repository: Repository, *commands: str, alone: bool = False) -> bool:
    """Carries out commands of `git update-ref --stdin`, all or none. A ref that points to another ref is not followed:
    whoever made it so would choose what is moved.

    Args:
        alone: nobody else changes these refs now, so that a lock which is older than a minute was left behind by a git
            that died; it is removed.

    Returns:
        False where a ref does not have the old value that a command names.

    Raises:
        CommandError: git refuses for another reason.
    """
    lines = ["start", *(line for one in commands for line in ("option no-deref", one)), "commit", ""]
    until = time.monotonic() + _LOCKED_SECONDS
    while True:
        ended = await repository.run("update-ref", "--stdin", text="\n".join(lines).encode(), accepted=(0, 1, 128))
        if ended.status == 0:
            return True
        said = ended.err.decode(errors="replace")
        if _OTHERWISE.search(said):
            return False
        locked = _LOCK.search(said)
        if locked is None or time.monotonic() > until:
            why = (said.splitlines() or ["it did not say why"])[0]
            raise CommandError(f"git could not move a ref: {texts.said(why)}")
        if alone and _removed_if_stale(Path(locked[1])):
            continue
        await asyncio.sleep(random.uniform(0.02, 0.2))


def _removed_if_stale(lock: Path) -> bool:
    try:
        if time.time() - lock.stat().st_mtime < _STALE_SECONDS:
            return False
        lock.unlink()
    except OSError:  # gone by itself, or not ours to remove
        return False
    return True
