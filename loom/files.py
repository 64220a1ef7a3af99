"""Files that a stranger may have prepared: a repository that was cloned or unpacked, or an agent at work in it.

One is read and replaced only where it really lies in the directory that it belongs to. A link that stays inside is
followed, one that leads out is refused by name. What is read is a regular file, and has no more bytes than its kind may
have. Where the file is looked up, its directory is held open: what is swapped meanwhile is not what is read or written.

All errors are OSErrors whose `strerror` goes on after "cannot be read: ".
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_PIECE = 1024 * 1024  # bytes that are copied at a time
_FOLLOW_NOTHING = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def exists(path: Path) -> bool:
    """Whether a path leads to something; False too where nobody may look, of which `Path.exists` makes an error."""
    return _mode(path) != 0


def is_file(path: Path) -> bool:
    """Whether a path leads to a regular file; False too where nobody may look, of which `Path.is_file` makes an
    error."""
    return stat.S_ISREG(_mode(path))


def read(path: Path, most: int, within: Path | None = None) -> bytes:
    """The bytes of a regular file.

    Args:
        most: bytes that it may have.
        within: the directory that it must lie in; None for a file of the user's own, which may lie anywhere.
    """
    data = read_beginning(path, most + 1, within)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most // 1024:,} kB", str(path))
    return data


def opened(path: Path) -> BinaryIO:
    """Opens a regular file of the user's own, of any size, to be read."""
    with _opened(path, None) as file:
        return os.fdopen(os.dup(file), "rb")


def read_beginning(path: Path, most: int, within: Path | None = None) -> bytes:
    """The first bytes of a regular file, at most so many; `within`: as in `read`."""
    with _opened(path, within) as file:
        data = b""
        while len(data) < most and (more := os.read(file, most - len(data))):
            data += more
    return data


def copy(path: Path, to: Path, most: int, within: Path) -> None:
    """Copies a regular file, its times too, to where Loom alone writes. `most`, `within`: as in `read`."""
    with _opened(path, within) as file:
        facts = os.fstat(file)
        if facts.st_size > most:
            raise OSError(errno.EFBIG, f"it is larger than {most // 1024:,} kB", str(path))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FOLLOW_NOTHING
        with os.fdopen(os.open(to, flags, 0o600), "wb") as copied:
            left = facts.st_size
            while left > 0 and (data := os.read(file, min(left, _PIECE))):
                left -= copied.write(data)
            copied.flush()
            os.utime(copied.fileno(), ns=(facts.st_atime_ns, facts.st_mtime_ns))


def write(path: Path, text: str, mode: int | None = None, within: Path | None = None) -> None:
    """Replaces a file in one step: a reader sees the old text or the new, also after a crash. A link that leads to it
    stays one.

    Args:
        mode: permission bits; None keeps those of the file that is there, 0600 for a new one.
        within: as in `read`.
    """
    path = _real(path, within)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = f".{path.name}.{os.urandom(4).hex()}"
    with _directory(path.parent, within) as directory:
        if mode is None:
            mode = 0o600
            with suppress(FileNotFoundError):
                mode = stat.S_IMODE(os.stat(path.name, dir_fd=directory, follow_symlinks=False).st_mode)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FOLLOW_NOTHING
        descriptor = os.open(draft, flags, 0o600, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fchmod(descriptor, mode)
                os.fsync(descriptor)
            os.rename(draft, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft, dir_fd=directory)
            raise


@contextmanager
def new(path: Path) -> Iterator[BinaryIO]:
    """A file of the user's own that is not there yet, to be written; it appears at the end, whole, or not at all. Where
    files can be written before they have a name, as on Linux, nothing is left of one whose writer was killed."""
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "it is there already", str(path))
    directory = os.open(path.parent, os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor, draft = _nameless(directory, path.name)
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                yield file
            os.fsync(descriptor)
            # The link fails where somebody has put a file there meanwhile.
            source = draft or f"/proc/self/fd/{descriptor}"
            os.link(source, path.name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=not draft)
            os.fsync(directory)
        finally:
            os.close(descriptor)
            if draft:
                os.unlink(draft, dir_fd=directory)
    finally:
        os.close(directory)


def log(path: Path, within: Path, *, most: int | None = None) -> BinaryIO:
    """Opens a log to add to it, without a buffer; it and its directory are made where they are missing, for the user
    alone. Its directory lies in `within`; the log itself is no link, and has no second name elsewhere.

    Args:
        most: where it has more bytes, what is in it goes.
    """
    _private(path.parent, within)
    with _directory(_real(path.parent, within), within) as directory:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _FOLLOW_NOTHING
        descriptor = os.open(path.name, flags, 0o600, dir_fd=directory)
    try:
        facts = _regular(descriptor, path)
        if facts.st_nlink > 1:
            raise OSError(errno.EMLINK, "it has another name elsewhere", str(path))
        if stat.S_IMODE(facts.st_mode) & 0o077:
            os.fchmod(descriptor, 0o600)
        if most is not None and facts.st_size > most:
            os.ftruncate(descriptor, 0)
        return os.fdopen(descriptor, "ab", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def log_end(path: Path, most: int, within: Path) -> bytes:
    """The last bytes of a log, at most so many; it lies as in `log`."""
    with read_log(path, most, within) as file:
        return file.read(most)


def read_log(path: Path, most: int, within: Path) -> BinaryIO:
    """Opens a log to be read from so many bytes before its end; it lies as in `log`."""
    with _directory(_real(path.parent, within), within) as directory:
        descriptor = os.open(path.name, os.O_RDONLY | _FOLLOW_NOTHING, dir_fd=directory)
    file = os.fdopen(descriptor, "rb")
    try:
        file.seek(max(_regular(descriptor, path).st_size - most, 0))
    except BaseException:
        file.close()
        raise
    return file


def remove_old(directory: Path, names: re.Pattern[str], before: float, within: Path) -> None:
    """Removes the regular files of a directory that are named so and were last written before a time (seconds since
    1970); the directory lies in `within`."""
    with _directory(_real(directory, within), within) as held:
        listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=held)  # `held` cannot be listed
    try:
        with os.scandir(listed) as entries:
            for one in entries:
                if names.fullmatch(one.name) and one.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # another process does the same
                        if one.stat(follow_symlinks=False).st_mtime < before:
                            os.unlink(one.name, dir_fd=listed)
    finally:
        os.close(listed)


def own_directory(path: Path) -> Path:
    """A directory of the user's own, made where it is missing, that nobody else may look into."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = path.stat()
    if stat.S_IMODE(facts.st_mode) & 0o077 and facts.st_uid == os.geteuid():
        path.chmod(0o700)
    return path


def named(text: str) -> Path:
    """The path that a user has written; `~` and `~NAME` are a home directory where there is such a user."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _nameless(directory: int, name: str) -> tuple[int, str]:
    """A new file in a directory, and what it is called until it is done; nothing where it needs no name."""
    with suppress(OSError, AttributeError):  # another system than Linux, or a file system that cannot
        return os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory), ""
    draft = f".{name}.{os.urandom(4).hex()}"
    return os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FOLLOW_NOTHING, 0o600, dir_fd=directory), draft


def _mode(path: Path) -> int:
    """What a path leads to, as `stat` has it; 0 for nothing."""
    with suppress(OSError):
        return path.stat().st_mode
    return 0


@contextmanager
def _opened(path: Path, within: Path | None) -> Iterator[int]:
    real = _real(path, within)
    with _directory(real.parent, within) as directory:
        descriptor = os.open(real.name, os.O_RDONLY | _FOLLOW_NOTHING, dir_fd=directory)
    try:
        _regular(descriptor, path)
        yield descriptor
    finally:
        os.close(descriptor)


def _regular(descriptor: int, path: Path) -> os.stat_result:
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return facts


def _private(path: Path, within: Path) -> None:
    """Makes a directory below one that is there."""
    if not path.is_dir():
        with _directory(_real(path.parent, within), within) as directory, suppress(FileExistsError):
            os.mkdir(path.name, 0o700, dir_fd=directory)


@contextmanager
def _directory(path: Path, within: Path | None) -> Iterator[int]:
    """A directory, held open, that lies in `within`; what was resolved before may have been swapped since."""
    descriptor = os.open(path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.fstat(descriptor), _real(path, within).stat()):
            raise OSError(errno.EAGAIN, "it was moved while it was opened", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def _real(path: Path, within: Path | None) -> Path:
    """Where a path leads, itself without links."""
    real = Path(os.path.realpath(path))
    if within is not None and not real.is_relative_to(os.path.realpath(within)):
        raise OSError(errno.ELOOP, f"it leads out of {within}, to {real}", str(path))
    return real
