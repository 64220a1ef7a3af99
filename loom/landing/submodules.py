"""What of the submodules of a worktree is nowhere else: it does not land, and would go with the worktree. And which of
them are where they were before the target moved them: what has landed meanwhile is not taken back for that, and who
works there is told.

Each is looked at by the directory that git has made for it, so that its own configuration starts nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from loom.git import FILES_SECONDS, GITLINK, Repository

_LISTED_BYTES = 5_000  # of what is not committed
_HISTORY_BYTES = 50_000_000  # of what is told of where submodules were
_INDEX_BYTES = 1_000_000_000  # of what is told of all files


@dataclass(frozen=True, slots=True)
class _Submodule:
    """One that a commit has, and the commit that it is to be at."""

    name: str
    path: str
    commit: str


async def staged(repository: Repository) -> dict[str, str]:
    """The submodules that the index has: the commit of each, by its path. Raises as `unsaved`."""
    listed = await repository.run("ls-files", "-s", "-z", out_bytes=_INDEX_BYTES, timeout=FILES_SECONDS)
    rows = (row for row in listed.out.split(b"\0") if row.startswith(GITLINK.encode()))
    return {path: facts.split(" ")[1] for facts, path in _rows(b"\0".join(rows))}


async def behind(worktree: Repository) -> list[str]:
    """The submodules that lie in a worktree at another commit than its index has, by their paths. Raises as
    `unsaved`."""
    if not await asyncio.to_thread(_may_have_some, worktree.work_tree, _git_dir(worktree)):
        return []
    now = await staged(worktree)
    return [
        one.path for one in await _named(worktree, "HEAD") if await _at(worktree, one) not in (None, now.get(one.path))
    ]


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
    if not await asyncio.to_thread(_may_have_some, worktree.work_tree, _git_dir(worktree)):
        return []
    return [line async for line in _within(worktree, base, "", "all" if untracked else "no")]


async def moved(worktree: Repository, base: str) -> list[str]:
    """The submodules that are at a commit which nothing from `base` to HEAD names: somebody has moved them, and not
    committed that. Raises as `unsaved`."""
    found = []
    for one, named in (await _since(worktree, base, "HEAD")).items():
        at = await _at(worktree, one)
        if at is not None and at not in named:
            found.append(one.path)
    return found


async def keep_up(worktree: Repository, base: str, landed: str) -> list[str]:
    """Has the index name the submodules as a commit of the target does, where it names them as the target did before:
    they lie in the worktree as they were fetched, and nobody has moved them there.

    Args:
        base: the commit of the target that the work began from.
        landed: the commit of the target that it has by now.

    Returns:
        The paths of those that it named so.

    Raises:
        CommandError: git refuses.
    """
    since = await _since(worktree, base, landed)
    if not since:
        return []
    listed = await worktree.run("ls-files", "-s", "-z", "--", *map(_literally, since))
    staged = {path: facts.split(" ")[1] for facts, path in _rows(listed.out)}
    late = [one for one, named in since.items() if staged.get(one.path) in named - {one.commit}]
    if late:
        lines = "".join(f"{GITLINK} {one.commit}\t{one.path}\0" for one in late)
        await worktree.run("update-index", "-z", "--index-info", text=lines.encode(errors="surrogateescape"))
    return [one.path for one in late]


async def _since(worktree: Repository, base: str, tip: str) -> dict[_Submodule, set[str]]:
    """The submodules of a commit, and the commits that each was at from another one to there."""
    if not await asyncio.to_thread(_may_have_some, worktree.work_tree, _git_dir(worktree)):
        return {}
    found = {one.path: (one, {one.commit}) for one in await _named(worktree, tip)}
    if not found:
        return {}
    words = ("log", "--raw", "-z", "--no-abbrev", "--no-renames", "--ignore-submodules=none", "--format=", "-m")
    where = [_literally(one) for one, _ in found.values()]
    told = await worktree.run(*words, f"{base}..{tip}", "--", *where, out_bytes=_HISTORY_BYTES)
    fields = [one for one in told.out.decode(errors="surrogateescape").split("\0") if one]
    for facts, path in zip(fields[::2], fields[1::2], strict=False):
        mode, mode_after, before, after, _ = facts.lstrip("\n:").split(" ")
        found[path][1].update(one for one, kind in ((before, mode), (after, mode_after)) if kind == GITLINK)
    began = {one.path: one.commit for one in await _named(worktree, base)}
    return {one: named | {began.get(path, one.commit)} for path, (one, named) in found.items()}


async def _at(worktree: Repository, one: _Submodule) -> str | None:
    """The commit that a submodule is at in a worktree; None: it is not fetched, or at none."""
    place, git_dir = worktree.work_tree / one.path, _git_dir(worktree) / "modules" / one.name
    if not await asyncio.to_thread(_is_fetched, place, git_dir):
        return None
    words = ("rev-parse", "--verify", "--quiet", "HEAD")
    return (await Repository(place, git_dir, git_dir).run(*words, accepted=(0, 1, 128))).out.decode().strip() or None


async def _within(repository: Repository, base: str, above: str, untracked: str) -> AsyncIterator[str]:
    """The lines on the submodules of one repository, and on theirs. `above`: where it lies itself."""
    for one in await _named(repository, base):
        place, git_dir = repository.work_tree / one.path, _git_dir(repository) / "modules" / one.name
        shown, began = f"{above}{one.path}", one.commit
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


async def _named(repository: Repository, base: str) -> list[_Submodule]:
    """The submodules that a commit has."""
    words = ("config", f"--blob={base}:.gitmodules", "--null", "--get-regexp", r"^submodule\..*\.path$")
    told = (await repository.run(*words, accepted=(0, 1, 128))).out.decode(errors="surrogateescape")
    entries = [entry.partition("\n") for entry in told.split("\0") if entry]
    names = {path: key.removeprefix("submodule.").removesuffix(".path") for key, _, path in entries}
    if not names:
        return []
    rows = _rows((await repository.run("ls-tree", "-z", base, "--", *names)).out)
    entries_of = ((facts.split(" "), path) for facts, path in rows)
    return [_Submodule(names[path], path, commit) for (mode, _, commit), path in entries_of if mode == GITLINK]


def _rows(listed: bytes) -> list[tuple[str, str]]:
    """What git tells of each path, and the path."""
    parts = (row.partition("\t") for row in listed.decode(errors="surrogateescape").split("\0") if row)
    return [(facts, path) for facts, _, path in parts]


def _literally(one: _Submodule) -> str:
    return f":(top,literal){one.path}"


def _git_dir(repository: Repository) -> Path:
    assert repository.git_dir is not None, "it is entered by its own directory"
    return repository.git_dir


def _may_have_some(top: Path, git_dir: Path) -> bool:
    return os.path.lexists(top / ".gitmodules") or (git_dir / "modules").exists()


def _is_fetched(place: Path, git_dir: Path) -> bool:
    return (git_dir / "HEAD").exists() and (place / ".git").exists()


def _has_files(place: Path) -> bool:
    try:
        return bool([*place.iterdir()])
    except OSError:  # it is gone, or no directory
        return False
