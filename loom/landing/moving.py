"""What has begun to move the files of somebody's checkout, and what becomes of these where git was killed on the way.

Git writes the files of a checkout first, then its index, and moves the branch last. Killed in between it leaves some
files new, one cut off, some missing, and its locks, with which nobody can go on there. So it is written down before
which checkout is moved, from where to where: beside the worktree of a task, and of a target's for all projects that may
be in the repository. Whoever finds that with nobody at it puts back the files that are as git leaves them on its way:
missing, or the beginning of what it was to write. What a person has made of a file since then stays as it is.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from loom import files
from loom.exceptions import CommandError, FileError
from loom.git import FILES_SECONDS, GITLINK, Repository
from loom.landing import places
from loom.landing.places import Lock
from loom.process import guard

_RECORD_BYTES = 100_000
_LIST_BYTES = 1_000_000_000  # of what git tells of all files
_FILE_BYTES = 100_000_000  # of one
_NONE = "000000"  # the mode of a file that is not there
_LINK = "120000"


@asynccontextmanager
async def moving(checkout: Repository, record: Path, old: str, new: str, ref: str = "") -> AsyncIterator[int]:
    """While a checkout is moved from a commit to another one. Yields a descriptor that the git which does it inherits,
    so that nobody takes it for dead while it lives. Where git fails, the checkout is made whole at once.

    Args:
        record: the file that says so meanwhile.
        ref: a branch that moves with it, and that others may move too.

    Raises:
        CommandError: somebody else moves one all the time, or works in one that must be made whole first.
        FileError: it cannot be written down.
    """
    places.own_directory(record.parent)
    try:
        lock = await Lock.wait(record, FILES_SECONDS)  # that somebody else may move it
    except OSError as error:
        raise _unwritable(error, record) from None
    if lock is None:
        raise CommandError("Another process moves a checkout of this repository.", "Wait until it has ended.")
    try:
        if not await _made_whole(checkout, lock):
            raise CommandError(
                f"A git works in {checkout.work_tree}, where one was killed before.", "Let it end first."
            )
        _write(lock, _Move(str(checkout.work_tree), str(checkout.git_dir), ref, old, new))
        try:
            yield lock.fd
        except CommandError:
            await _made_whole(checkout, lock)
            raise
        _write(lock, None)
    finally:
        lock.let_go()


async def mend(repository: Repository, record: Path) -> None:
    """Makes the checkout whole that was being moved when git was killed, if there is one. Raises CommandError."""
    if _says_something(record) and (lock := Lock.take(record)) is not None:
        try:
            await _made_whole(repository, lock)
        finally:
            lock.let_go()


def of_targets(repository: Repository, state: Path) -> Path:
    """The file that is held while a checkout of a target is moved, and says which; empty while none is. It lies beside
    what a project has, since more than one may be in the repository."""
    digest = hashlib.sha256(os.fsencode(repository.common_dir or repository.work_tree)).hexdigest()
    return state.parent / "moving" / digest[:16]


def beside(top: Path) -> Path:
    """The file that says so of the worktree of a task."""
    return top.with_name(f"{top.name}.moving")


def unmerge(git_dir: Path) -> None:
    """Forgets what was to be merged, picked or reverted: what came of it is committed."""
    for name in (
        "MERGE_HEAD",
        "MERGE_MODE",
        "MERGE_MSG",
        "AUTO_MERGE",
        "CHERRY_PICK_HEAD",
        "REVERT_HEAD",
        "SQUASH_MSG",
    ):
        (git_dir / name).unlink(missing_ok=True)


# --- what is written down ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Move:
    """A checkout with its own git directory, the branch that moves with it, and from which commit to which."""

    work_tree: str
    git_dir: str
    ref: str
    old: str
    new: str

    @classmethod
    def read(cls, lock: Lock) -> Self | None:
        """What the file says, None if nothing is under way."""
        try:
            told = json.loads(os.pread(lock.fd, _RECORD_BYTES, 0))
            return cls(*(str(told[name]) for name in ("work_tree", "git_dir", "ref", "old", "new")))
        except (ValueError, KeyError, TypeError):
            return None


def _write(lock: Lock, move: _Move | None) -> None:
    try:
        os.ftruncate(lock.fd, 0)
        if move is not None:
            os.pwrite(lock.fd, json.dumps(asdict(move)).encode(), 0)
    except OSError as error:
        raise _unwritable(error, lock.path) from None


def _says_something(record: Path) -> bool:
    try:
        return record.stat().st_size > 0
    except FileNotFoundError:
        return False


def _unwritable(error: OSError, path: Path) -> FileError:
    return FileError(f"{error.filename or path} cannot be written: {error.strerror}.", "Mend that, then run it again.")


# --- making it whole --------------------------------------------------------------------------------------------------


async def _made_whole(repository: Repository, lock: Lock) -> bool:
    """Puts back what a git that was killed has left half done, and forgets it. False while somebody works there, whom
    that might disturb."""
    move = _Move.read(lock)
    if move is None:
        return True
    checkout = Repository(
        Path(move.work_tree),
        Path(move.git_dir),
        repository.common_dir,
        trusted=repository.trusted,
        safe=repository.safe,
    )
    since = os.fstat(lock.fd).st_mtime_ns
    if not await asyncio.to_thread(_unlocked, checkout, move.ref, since):
        return False
    if await _stands(checkout, move.old):
        await _put_back(checkout, move, lock.fd)
        if not move.ref:  # else a merge that is under way would be its user's
            unmerge(Path(move.git_dir))
    _write(lock, None)
    return True


async def _stands(checkout: Repository, commit: str) -> bool:
    """Whether a checkout is there, and still at a commit; if not, git had done its work, or somebody has gone on."""
    if not checkout.work_tree.is_dir():
        return False
    found = await checkout.run("rev-parse", "--verify", "--quiet", "HEAD", accepted=(0, 1, 128))
    return found.out.decode().strip() == commit


def _unlocked(checkout: Repository, ref: str, since: int) -> bool:
    """Removes the locks that have been left there since then. False while a git works in the checkout, whose they may
    be."""
    assert checkout.git_dir is not None
    assert checkout.common_dir is not None
    names = [checkout.git_dir / name for name in ("index.lock", "HEAD.lock", "ORIG_HEAD.lock")]
    names += [checkout.common_dir / f"{ref}.lock"] if ref else []
    left = []
    for path in names:
        with suppress(FileNotFoundError):
            if path.lstat().st_mtime_ns >= since:
                left.append(path)
    if left and any(_is_git_in(pid, checkout.work_tree) for pid in guard.processes()):
        return False
    for path in left:
        places.remove(path)
    return True


def _is_git_in(pid: int, top: Path) -> bool:
    with suppress(OSError):  # it has ended meanwhile, or is another user's
        if Path(f"/proc/{pid}/comm").read_text().startswith("git"):
            return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(top)
    return False


# --- the files --------------------------------------------------------------------------------------------------------

_Entry = tuple[str, str]
"""The mode and the object of a file."""
_IN_CONFLICT: _Entry = ("", "")  # in the index


@dataclass(frozen=True, slots=True)
class _Change:
    """A file that a move changes, and what it is on both sides; None where it is not there."""

    path: str
    before: _Entry | None
    after: _Entry | None


async def _put_back(checkout: Repository, move: _Move, fd: int) -> None:
    """Has the index and the files be again what they were, where they are as git leaves them on its way."""
    await checkout.run("update-index", "-q", "--refresh", accepted=(0, 1), pass_fds=(fd,), timeout=FILES_SECONDS)
    words = ("diff-tree", "-r", "-z", "--no-renames", "--raw", "--full-index", move.old, move.new)
    changes = [*_changes(await _told(checkout, *words))]
    staged = dict(_staged(await _told(checkout, "ls-files", "-s", "-z")))
    differ = {*(await _told(checkout, "diff-files", "--name-only", "-z")).split("\0")}
    known = set() if move.ref else {_IN_CONFLICT}
    ours = []
    for one in changes:
        now = staged.get(one.path)
        if now is not None and one.path not in differ:  # the file is as the index says
            left = now == one.after
        else:
            left = now in known | {one.before, one.after} and await _is_gits(checkout, move, one)
        if left:
            ours.append(one)
    nothing = f"0 {'0' * len(move.old)}"
    again = [one for one in ours if staged.get(one.path) != one.before]
    lines = "".join(f"{' '.join(one.before) if one.before else nothing}\t{one.path}\0" for one in again)
    await _given(checkout, lines, fd, "update-index", "-z", "--index-info")
    for one in ours:
        if one.before is None:
            await asyncio.to_thread(_remove, checkout.work_tree, one.path)
    paths = [one.path for one in ours if one.before is not None and _has_room(checkout.work_tree, one.path)]
    lines = "".join(f"{path}\0" for path in paths)
    await _given(checkout, lines, fd, "checkout-index", "--force", "--index", "--quiet", "-z", "--stdin")


def _changes(listed: str) -> Iterator[_Change]:
    fields = listed.split("\0")
    for facts, path in zip(fields[::2], fields[1::2], strict=False):
        mode, mode_after, object_, object_after, _ = facts.removeprefix(":").split(" ")
        if GITLINK not in (mode, mode_after):
            before = None if mode == _NONE else (mode, object_)
            yield _Change(path, before, None if mode_after == _NONE else (mode_after, object_after))


def _staged(listed: str) -> Iterator[tuple[str, _Entry]]:
    for facts, _, path in (line.partition("\t") for line in listed.split("\0") if line):
        mode, object_, stage = facts.split(" ")
        yield path, (mode, object_) if stage == "0" else _IN_CONFLICT


async def _is_gits(checkout: Repository, move: _Move, change: _Change) -> bool:
    """Whether a file is as git leaves it on its way from one side to the other: missing, or the beginning of what it is
    on one of them."""
    path = checkout.work_tree / change.path
    try:
        facts = path.lstat()
        is_link = stat.S_ISLNK(facts.st_mode)
        if stat.S_ISDIR(facts.st_mode):
            return True  # which stays, unless it is empty by then
        if is_link:
            there = os.fsencode(path.readlink())
        else:
            there = await asyncio.to_thread(files.read, path, _FILE_BYTES, checkout.work_tree)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    for commit, entry in ((move.old, change.before), (move.new, change.after)):
        if entry is not None and is_link == (entry[0] == _LINK):
            words = ("cat-file", "blob", entry[1]) if is_link else ("cat-file", "--filters", f"{commit}:{change.path}")
            if (await checkout.run(*words, out_bytes=_FILE_BYTES, timeout=FILES_SECONDS)).out.startswith(there):
                return True
    return False


def _remove(top: Path, name: str) -> None:
    """Removes a file, and the directories that are empty then."""
    with suppress(OSError):  # the first that is not empty
        (top / name).unlink(missing_ok=True)
        for one in Path(name).parents[:-1]:
            (top / one).rmdir()


def _has_room(top: Path, name: str) -> bool:
    """Whether a file can be written there without anything else going away for it."""

    def is_directory(path: Path) -> bool:
        return path.is_dir() and not path.is_symlink()

    above = [top / one for one in Path(name).parents[:-1]]
    return not is_directory(top / name) and all(is_directory(one) for one in above if os.path.lexists(one))


async def _told(checkout: Repository, *words: str) -> str:
    ended = await checkout.run(*words, out_bytes=_LIST_BYTES, timeout=FILES_SECONDS)
    return ended.out.decode(errors="surrogateescape")


async def _given(checkout: Repository, lines: str, fd: int, *words: str) -> None:
    """Has git do something with these lines, if there are any; of single files it may fail."""
    if lines:
        text = lines.encode(errors="surrogateescape")
        await checkout.run(*words, text=text, accepted=(0, 1, 128), pass_fds=(fd,), timeout=FILES_SECONDS)
