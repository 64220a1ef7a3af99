"""Work as it lies there, as a commit that nothing names and that the repository does not have.

Nobody has committed it yet, and nothing of the user's is touched: the index is a copy, and what git writes goes into a
directory that is thrown away with the snapshot. Work in a worktree of Loom's is taken merged with the branch that it
lands on, because there it has to hold.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from loom import files
from loom.background import taken
from loom.exceptions import CommandError, ProofMissingError
from loom.git import FILES_SECONDS, Repository
from loom.landing import merging
from loom.landing.merging import Conflict
from loom.landing.places import Scratch

_INDEX_BYTES = 2_000_000_000  # of the list that git keeps of all files
_NO_TIME = {"GIT_AUTHOR_DATE": "@0 +0000", "GIT_COMMITTER_DATE": "@0 +0000"}  # the same work is the same commit


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was found. `scratch`: the place for what the repository has not."""

    commit: str
    tree: str
    scratch: Scratch

    @property
    def objects(self) -> Path:
        """Where those objects lie that the repository has not."""
        return self.scratch.path

    @classmethod
    async def of(cls, repository: Repository, target: str | None = None) -> Self:
        """What lies in a work tree as it would be committed. To be thrown away with `drop`.

        Args:
            target: a commit to merge it with.

        Raises:
            CommandError: git refuses; ProofMissingError: it does not merge; FileError: there is no place for it.
        """
        scratch = await taken(Scratch.make, Scratch.drop)
        taking = _Taking(repository, scratch.path)
        try:
            commit = await taking.commit()
            if target is not None:
                commit = await taking.merged(commit, target)
            tree = await taking.git("rev-parse", f"{commit}^{{tree}}")
        except BaseException:
            scratch.drop()
            raise
        return cls(commit, tree, scratch)

    def drop(self) -> None:
        """Throws its objects away."""
        self.scratch.drop()


def lending(objects: Path) -> dict[str, str]:
    """The variable by which git sees the objects in a directory too, whatever signs are in its name."""
    escaped = str(objects).replace("\\", "\\\\").replace('"', '\\"')
    return {"GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{escaped}"'}


class _Taking:
    def __init__(self, repository: Repository, place: Path) -> None:
        self._repository, self._place = repository, place
        common = repository.common_dir or repository.git_dir
        assert common is not None, "a repository that was found has its directories"
        self._env = {
            "GIT_OBJECT_DIRECTORY": str(place),
            **lending(common / "objects"),
            **_NO_TIME,
        }

    async def commit(self) -> str:
        """The commit of what lies there; HEAD itself where that is the same."""
        git_dir, index = self._repository.git_dir, self._place / "index"
        assert git_dir is not None
        try:  # with its time, by which git knows what was changed right after it
            await asyncio.to_thread(files.copy, git_dir / "index", index, _INDEX_BYTES, git_dir)
        except FileNotFoundError:  # a repository without a commit
            pass
        except OSError as error:
            raise CommandError(
                f"{git_dir / 'index'} cannot be copied: {error.strerror}.", "Look at what it is, and mend that."
            ) from None
        await self.git("add", "--all", "--", ":/", index=index)
        tree = await self.git("write-tree", index=index)
        try:
            head = await self.git("rev-parse", "--verify", "HEAD")
        except CommandError:
            return await self.git("commit-tree", "-m", "As it lies there", tree)
        if await self.git("rev-parse", "HEAD^{tree}") == tree:
            return head
        return await self.git("commit-tree", "-m", "As it lies there", "-p", head, tree)

    async def merged(self, commit: str, target: str) -> str:
        """That commit merged with the target, or the one of both that has the other."""
        base = await self.git("merge-base", commit, target)
        if base in (commit, target):
            return target if base == commit else commit
        tree = await merging.merge(self._repository, target, commit, self._env)
        if isinstance(tree, Conflict):
            raise ProofMissingError(
                f"The work does not go together with what has landed meanwhile. {tree}",
                f"Merge {target[:12]} where the work is, settle that, then report again.",
            )
        return await self.git("commit-tree", "-m", "As it lands", "-p", target, "-p", commit, tree)

    async def git(self, *words: str, index: Path | None = None) -> str:
        ended = await self._repository.run(*words, env=self._env, index=index, timeout=FILES_SECONDS)
        return ended.out.decode(errors="replace").strip()
