"""Where what Loom makes of a project's repository lies on this machine, what holds such a place, and where
things lie for a while.

It is outside of every checkout: inside one, tools would find what they look for upwards.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from loom import caller, files
from loom.config import LoomConfig
from loom.exceptions import CommandError, FileError
from loom.wording import Shell, Words

_LOOKS = 0.1  # seconds between two at a lock that somebody has
_MARK_BYTES = 10_000
_SLOTS = 10_000
_SCRATCH, _LOCK = "loom-scratch-", ".lock"  # what the name of a directory for a while begins with; beside it


def state_dir(config: LoomConfig) -> Path:
    """The directory of a project, `$XDG_STATE_HOME/loom/PROJECT_ID`, for this user alone.

    Raises:
        CommandError: there is no project.
        FileError: it cannot be made, or is somebody else's.
    """
    if config.project_id is None:
        raise CommandError(
            "Work is done in worktrees of a project, and here is none.",
            Words("Run {} first.", Shell("loom init")),
        )
    return own_directory(home() / config.project_id)


def home() -> Path:
    """The directory of all projects, whether it is there or not."""
    named = Path(caller.environ().get("XDG_STATE_HOME") or ".")
    return (named if named.is_absolute() else Path.home() / ".local" / "state") / "loom"


def own_directory(path: Path) -> Path:
    """A directory that nobody else can look into or has made, itself without links. Raises FileError."""
    try:
        files.own_directory(path)
        facts = path.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
            raise FileError(f"{path} is no directory of this user's own.", "Look at what it is, and move it away.")
    except OSError as error:
        raise FileError(
            f"{error.filename or path} cannot be written: {error.strerror}.",
            "Mend that, or name another place in XDG_STATE_HOME.",
        ) from None
    return path.parent.resolve() / path.name


@dataclass(frozen=True, slots=True)
class Mark:
    """What is kept of a worktree that was made whole, beside it: the directories that git is given for it, the commit
    that its branch began from, and its slot."""

    common_dir: str
    git_dir: str
    base: str
    slot: int

    @classmethod
    def read(cls, path: Path, state: Path) -> Self | None:
        """The mark in a file below the project's state, None if there is none."""
        try:
            told = json.loads(files.read(path, _MARK_BYTES, state))
            return cls(str(told["common_dir"]), str(told["git_dir"]), str(told["base"]), int(told["slot"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path, state: Path) -> None:
        """Says that a worktree is whole. Raises OSError."""
        files.write(path, json.dumps(asdict(self)), 0o600, state)


def worktrees(state: Path) -> Path:
    """Where the worktrees of a project's tasks lie, each beside its mark."""
    return state / "worktrees"


def proving(state: Path) -> Path:
    """Where the checkouts of a project lie that checks run in."""
    return state / "proving"


def marked(state: Path) -> dict[Path, Mark]:
    """The worktrees that are whole, and their marks."""
    found = {path.with_suffix(""): Mark.read(path, state) for path in worktrees(state).glob("*.json")}
    return {path: mark for path, mark in found.items() if mark is not None}


class Lock:
    """A file that one process at a time holds, until it lets it go or has died. What it starts with `fd` among the
    descriptors that are passed on holds it too."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self.fd = path, fd

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """Takes it if nobody has it. Raises OSError."""
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), path.lstat()):
                        return cls(path, fd)
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # whoever had it has removed it

    @classmethod
    async def wait(cls, path: Path, seconds: float) -> Self | None:
        """Takes it, if it is let go within so many seconds. Raises OSError."""
        until = time.monotonic() + seconds
        while (lock := cls.take(path)) is None and time.monotonic() < until:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(_LOOKS)
        return lock

    def let_go(self, *, remove: bool = False) -> None:
        """Lets others have it. `remove`: there is nothing more to hold."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self.fd)


def take_slot(first: int = 1) -> tuple[int, Lock]:
    """A number from 1 that no other process on this machine has now: `first`, if it is free, else the smallest one.

    Raises:
        OSError: its file cannot be written; FileError: the directory for them cannot.
    """
    slots = own_directory(home() / "slots")
    for number in (first, *range(1, _SLOTS)):
        if (lock := Lock.take(slots / str(number))) is not None:
            return number, lock
    raise FileError(f"All of {_SLOTS} slots are taken.", "End some of the workers.")


class Scratch:
    """A directory for a while, for this user alone, where the system has those. What starts with `fd` among the
    descriptors that are passed on holds it too; when nobody does any more, whoever makes the next one removes it."""

    def __init__(self, path: Path, lock: Lock) -> None:
        self.path, self.fd, self._lock = path, lock.fd, lock

    @classmethod
    def make(cls) -> Self:
        """A new one. Raises FileError."""
        try:
            clear_scratch()
            lock: Lock | None = None
            while lock is None:  # until nobody has taken it for what was left, before it was held
                path = Path(tempfile.gettempdir(), f"{_SCRATCH}{os.urandom(6).hex()}")
                lock = Lock.take(path.with_suffix(_LOCK))
            try:
                path.mkdir(mode=0o700)
            except BaseException:
                lock.let_go(remove=True)
                raise
            return cls(path, lock)
        except OSError as error:
            raise FileError(
                f"{error.filename or tempfile.gettempdir()} cannot be written: {error.strerror}.",
                "Mend that, or name another place in TMPDIR.",
            ) from None

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.drop()

    def drop(self) -> None:
        """Removes it. What cannot be removed, such as files of another user's, stays."""
        _drop(self.path, self._lock)


def clear_scratch() -> None:
    """Removes what processes have left that were killed. Raises OSError: the place where it lies cannot be read."""
    with os.scandir(tempfile.gettempdir()) as entries:
        left = [Path(one.path) for one in entries if one.name.startswith(_SCRATCH) and one.name.endswith(_LOCK)]
    for path in left:
        with suppress(OSError):
            if path.lstat().st_uid == os.geteuid() and (lock := Lock.take(path)) is not None:
                _drop(path.with_suffix(""), lock)


def _drop(path: Path, lock: Lock) -> None:
    """Removes a directory of ours, and the file beside it by which it was held."""
    with suppress(OSError):
        if path.lstat().st_uid == os.geteuid():
            remove(path)
    lock.let_go(remove=not os.path.lexists(path))


def remove(path: Path) -> None:
    """Removes whatever is there, also what was closed against it; no link is followed. Raises OSError."""
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except PermissionError:  # of a directory that may not be written
        path.chmod(0o700)
        for directory, names, _ in os.walk(path):
            for one in (Path(directory, name) for name in names):
                if not one.is_symlink():
                    one.chmod(0o700)
        shutil.rmtree(path)
