"""A checkout apart: a commit's files in a place of Loom's own, for checks to run on.

A check runs what an agent has written, outside of the agent's sandbox. So nothing that happens in the checkout is
believed. What Loom does there goes by a git directory and an index of Loom's own, beside the checkout. The `.git` in it
is made anew for each run: for git it is a repository with this commit, whose objects are those of the project's, and
whose references, configuration and hooks lead nowhere: what a check commits, moves or plants ends with it.

A place is held by a lock that everything started in it inherits: the next one to come takes another place while
anything of the last one lives.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from loom import files
from loom.exceptions import CommandError, FileError
from loom.git import FILES_SECONDS, Repository
from loom.landing import submodules
from loom.landing.places import Lock, own_directory, remove, take_slot
from loom.wording import Shell, Words

_MOST = 1_000  # places
_UNUSED_SECONDS = 7 * 86400.0
_MADE = ("tree", "git", "tree.setup")  # in a place
_TOLD = 5  # files that a sentence names
_SHALLOW_BYTES = 10_000_000  # of the list of commits at which a history is cut off
_SHA256 = 64  # digits of an object's name


class Checkout:
    """One place, held by this process until it is given back."""

    def __init__(self, place: Path, lock: Lock, slot: tuple[int, Lock], source: Repository) -> None:
        self.tree = place / "tree"
        self.lock = lock.fd
        """The descriptor that whatever is started here inherits."""
        self.slot = slot[0]
        """A number that no other worktree or checkout in use on this machine has."""
        self.submodules: dict[str, str] = {}
        """Those of the commit that is shown, each empty, and the commit that it is to be at."""
        self._locks = (slot[1], lock)
        self._place, self._source = place, source
        self._own = Repository(self.tree, place / "git", place / "git", trusted=source.trusted)
        self._commit = self._alternates = self._untouched = ""
        self._common, self._settled = place, False

    @classmethod
    def take(cls, places: Path, source: Repository) -> Self:
        """The first place below `places` that nobody holds, made where there is none.

        Args:
            source: the repository that the commits are of.

        Raises:
            FileError: it cannot be made.
        """
        try:
            place, lock = _held(places)
            try:
                os.utime(lock.fd)  # by which it is known when it was used last
                return cls(place, lock, take_slot(), source)
            except BaseException:
                lock.let_go()
                raise
        except OSError as error:
            raise FileError(f"{error.filename or places} cannot be written: {error.strerror}.", "Mend that.") from None

    def give_back(self) -> None:
        """Lets the next one have it. What still lives in it holds it on."""
        for lock in self._locks:
            lock.let_go()

    async def show(self, commit: str, keep: Sequence[str], objects: Path | None = None, refs: str = "") -> None:
        """Puts the files of a commit there, and nothing else but what is kept.

        Args:
            keep: paths that are left as they are, if git does not know them.
            objects: a directory with objects that the repository has not.
            refs: the references that git sees there, one a line, each after its object.

        Raises:
            CommandError: git cannot do it; FileError: the place cannot be written.
        """
        common = self._source.common_dir or self._source.git_dir
        assert common is not None, "a repository that was found has its directories"
        self._commit, self._common = commit, common
        self._alternates = "".join(f"{one}\n" for one in (common / "objects", objects) if one)
        try:
            await self._shown(keep)
        except (CommandError, OSError):  # whatever was done to it
            try:
                await self._anew()
                await self._shown(keep)
            except OSError as error:
                raise FileError(f"{error.filename or self._place}: {error.strerror}.", "Mend that.") from None
        self._lay_git_dir(refs)

    async def changed(self) -> str:
        """What a run has changed that it must not; "" if nothing."""
        try:
            head = files.read(self.tree / ".git" / "HEAD", 1_000, self._place)
        except OSError:
            return "it removed .git"
        if head.decode(errors="replace").strip() != self._commit:
            return "it moved HEAD"
        try:
            listed = await self._git("status", "--porcelain", "-z", "-uno", "--no-renames", "--ignore-submodules=all")
        except CommandError:
            return "it removed the checkout"
        names = [line[3:] for line in listed.split("\0") if line]
        more = f" and {len(names) - _TOLD} more" if names[_TOLD:] else ""
        if names:
            return f"it changed files that git knows: {', '.join(names[:_TOLD])}{more}"
        self._untouched = self._commit
        return ""

    # --- how ----------------------------------------------------------------------------------------------------------

    async def _shown(self, keep: Sequence[str]) -> None:
        if not stat.S_ISDIR(self.tree.lstat().st_mode):
            raise NotADirectoryError
        remove(self.tree / ".git")
        for lock in (self._place / "git").glob("*.lock"):  # of a git that was killed: none lives here
            lock.unlink()
        self._lend(self._place / "git")
        if not self._settled:
            await self._settle()
        before, self._untouched = self._untouched, ""
        await self._empty_submodules()
        if self._commit != before:
            await self._git("checkout", "--quiet", "--force", "--detach", self._commit, "--")
            await self._empty_submodules()
        spared = (word for path in keep for word in ("-e", f"/{_literally(path)}"))
        await self._git("clean", "-ffdxq", *spared)

    async def _empty_submodules(self) -> None:
        """Leaves nothing in the directories of submodules, which the cleaning passes by. What an earlier setup has
        fetched there belongs to a `.git` that is gone, and what a check has left there is for nobody to see."""
        self.submodules = await submodules.staged(self._own)
        for path in self.submodules:
            there = self.tree / path
            if there.parent.resolve() != self.tree.resolve() / Path(path).parent:  # through a link, anywhere
                raise NotADirectoryError
            await asyncio.to_thread(remove, there)
            there.mkdir(parents=True)

    async def _settle(self) -> None:
        """Has what counts here of the repository's own settings count: filters that are trusted, and where Git LFS has
        its files."""
        config, index = self._place / "git" / "config", self._place / "git" / "index"
        before = config.read_bytes()
        config.write_text(_config(len(self._commit)))
        settings: list[tuple[str, str]] = []
        for name in (one for one in self._source.trusted if one.startswith("filter.")):
            looked = ("config", "--null", "--get-regexp", f"^{re.escape(name)}\\.")
            found = (await self._source.run(*looked, accepted=(0, 1))).out.decode(errors="surrogateescape")
            settings += [(key, value) for key, _, value in (one.partition("\n") for one in found.split("\0")) if key]
        if (self._common / "lfs").is_dir():
            settings.append(("lfs.storage", str(self._common / "lfs")))
        for key, value in settings:
            await self._git("config", key, value)
        if config.read_bytes() != before:
            remove(index)  # so that all files are written anew
        self._settled = True

    async def _anew(self) -> None:
        """Makes the place from nothing."""
        for name in _MADE:
            await asyncio.to_thread(remove, self._place / name)
        self._settled = False
        self.tree.mkdir(mode=0o700)
        _make_git_dir(self._place / "git", len(self._commit))

    def _lay_git_dir(self, refs: str) -> None:
        """Makes the `.git` of the checkout."""
        git_dir = self.tree / ".git"
        _make_git_dir(git_dir, len(self._commit))
        self._lend(git_dir)
        (git_dir / "HEAD").write_text(f"{self._commit}\n")
        (git_dir / "packed-refs").write_text(refs)
        shutil.copy2(self._place / "git" / "index", git_dir / "index")

    def _lend(self, git_dir: Path) -> None:
        """Lets a git directory see the objects, and where the history ends."""
        (git_dir / "objects" / "info" / "alternates").write_text(self._alternates)
        shallow = self._common / "shallow"
        try:
            files.copy(shallow, git_dir / "shallow", _SHALLOW_BYTES, self._common)
        except FileNotFoundError:  # the history is whole
            pass
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            raise CommandError(
                f"The history is cut off at more commits than Loom looks at: {shallow} is larger than"
                f" {_SHALLOW_BYTES // 1_000_000} MB.",
                Words("Fetch the rest of it with {}.", Shell("git fetch --unshallow")),
            ) from None

    async def _git(self, *words: str) -> str:
        ended = await self._own.run(*words, timeout=FILES_SECONDS, pass_fds=(self.lock,))
        return ended.out.decode(errors="replace")


def prune(places: Path) -> None:
    """Removes what lies in the places below `places` that nobody has used for a week. Raises OSError."""
    for place in places.glob("[0-9]*"):
        lock = Lock.take(place / "lock")
        if lock is None:
            continue
        try:
            if time.time() - lock.path.stat().st_mtime > _UNUSED_SECONDS:
                for name in _MADE:
                    remove(place / name)
        finally:
            lock.let_go()


def _held(places: Path) -> tuple[Path, Lock]:
    for number in range(1, _MOST):
        place = own_directory(places / str(number))
        if (lock := Lock.take(place / "lock")) is not None:
            return place, lock
    raise BlockingIOError(errno.EAGAIN, f"all of its {_MOST} places are in use", str(places))


def _make_git_dir(path: Path, digits: int) -> None:
    """An empty repository, for objects whose names have so many digits. Nothing of any configuration is in it."""
    (path / "objects" / "info").mkdir(parents=True)
    (path / "refs").mkdir()
    (path / "HEAD").write_text("ref: refs/heads/none\n")
    (path / "config").write_text(_config(digits))


def _config(digits: int) -> str:
    if digits == _SHA256:
        return "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tobjectformat = sha256\n"
    return "[core]\n\trepositoryformatversion = 0\n"


def _literally(path: str) -> str:
    """A path as a pattern of git that fits nothing else."""
    return re.sub(r"([\\*?\[ ])", r"\\\1", path.strip("/"))
