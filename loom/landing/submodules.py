"""What of the submodules of a worktree is nowhere else: it does not land, and would go with the worktree.

Each is looked at by the directory that git has made for it, so that its own configuration starts nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from loom.git import FILES_SECONDS, Repository

_LISTED_BYTES = 5_000  # of what is not committed


async def unsaved(worktree: Repository, base: str, *, untracked: bool) -> list[str]:
    """A line for each submodule in which something lies that is not committed, or committed and on no remote, with its
    path.

    Args:
        worktree: by its own directory.
        base: the commit that names those with which work on it began.
        untracked: whether files count that git does not know, as a build may leave them.

    Raises:
        CommandError: git refuses.
    """
    assert worktree.git_dir is not None, "a worktree is entered by its own directory"
    if not await asyncio.to_thread(_may_have_some, worktree.work_tree, worktree.git_dir):
        return []
    return [line async for line in _within(worktree, base, "", "all" if untracked else "no")]


async def _within(repository: Repository, base: str, above: str, untracked: str) -> AsyncIterator[str]:
    """The lines on the submodules of one repository, and on theirs. `above`: where it lies itself."""
    assert repository.git_dir is not None, "it is entered by its own directory"
    for name, path, began in await _named(repository, base):
        place, git_dir, shown = repository.work_tree / path, repository.git_dir / "modules" / name, f"{above}{path}"
        if not await asyncio.to_thread(_is_fetched, place, git_dir):
            if await asyncio.to_thread(_has_files, place):
                yield f"{shown}: files lie in it, though it was never fetched"
            continue
        inside = Repository(place, git_dir, git_dir)
        words = ("status", "--porcelain", f"--untracked-files={untracked}", "--ignore-submodules=dirty")
        if (await inside.run(*words, out_bytes=_LISTED_BYTES, timeout=FILES_SECONDS)).out:
            yield f"{shown}: not all that lies in it is committed"
        has = (await inside.run("cat-file", "-e", began, accepted=(0, 1, 128))).status == 0
        words = ("HEAD", "--branches", "--not", "--remotes", "--tags", *([began] if has else ()))
        if await inside.text("rev-list", "--max-count=1", *words):
            yield f"{shown}: it has commits that no remote has"
        if has:
            async for line in _within(inside, began, f"{shown}/", untracked):
                yield line


async def _named(repository: Repository, base: str) -> list[tuple[str, str, str]]:
    """The submodules that a commit has: name, path, and the commit of each."""
    words = ("config", f"--blob={base}:.gitmodules", "--null", "--get-regexp", r"^submodule\..*\.path$")
    told = (await repository.run(*words, accepted=(0, 1, 128))).out.decode(errors="surrogateescape")
    entries = [entry.partition("\n") for entry in told.split("\0") if entry]
    names = {path: key.removeprefix("submodule.").removesuffix(".path") for key, _, path in entries}
    if not names:
        return []
    listed = (await repository.run("ls-tree", "-z", base, "--", *names)).out.decode(errors="surrogateescape")
    rows = [(*facts.split(" "), path) for facts, _, path in (row.partition("\t") for row in listed.split("\0") if row)]
    return [(names[path], path, commit) for mode, _, commit, path in rows if mode == "160000"]


def _may_have_some(top: Path, git_dir: Path) -> bool:
    return os.path.lexists(top / ".gitmodules") or (git_dir / "modules").exists()


def _is_fetched(place: Path, git_dir: Path) -> bool:
    return (git_dir / "HEAD").exists() and (place / ".git").exists()


def _has_files(place: Path) -> bool:
    try:
        return bool([*place.iterdir()])
    except OSError:  # it is gone, or no directory
        return False
