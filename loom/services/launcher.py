"""Starting a server that outlives its starter, and knowing whether it lives.

Alive means locked. The starter takes a `flock` on the server's lock file, hands the descriptor down and closes its own
copy, so the lock is held exactly as long as the server or one of its children runs: it is free at once after kill -9,
even while the process is a zombie, and a stale pid file or a pid in use by another program cannot deceive. Lock files
are never deleted. The pid file is read only to send a signal, and only while the lock is held.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loom.background import Backoff
from loom.exceptions import ServersError
from loom.services.places import is_root
from loom.wording import Shell, Words

_UNPRIVILEGED = ("postgres", "nobody")
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_TURNS = (0.02, 0.1)  # seconds between two looks at what is waited for: at first, at most
_NO_ROOM = ("No space left on device", "Check free disk space")  # as PostgreSQL says it
_LOG_LIMIT = 5_000_000  # bytes; a larger log is begun anew at the next start


@dataclass(frozen=True)
class Account:
    """Who the servers run as."""

    name: str  # empty: ourselves, nothing to change
    uid: int
    gid: int

    def own(self, path: Path, mode: int) -> Path:
        """Give a file or directory of ours to this account, with these permission bits."""
        path.chmod(mode)
        if self.name:
            os.chown(path, self.uid, self.gid)
        return path

    def must_have_a_name(self) -> None:
        """PostgreSQL makes no database for a user whom the system does not know.

        Raises:
            ServersError: this one is none.
        """
        try:
            pwd.getpwuid(self.uid)
        except KeyError:
            raise ServersError(
                f"The user id {self.uid} has no entry in /etc/passwd, and PostgreSQL makes no database without one.",
                "Add it there, as `useradd` does when an image is built, or name servers that run elsewhere in"
                " `servers.backend` and `database.url`.",
            ) from None


def account(data: Path) -> Account:
    """Ourselves; under root, whom PostgreSQL refuses, the owner of `data`, or an unprivileged user of the system."""
    if not is_root():
        return Account("", os.geteuid(), os.getegid())
    owner = data.stat().st_uid if data.exists() else 0
    for name in _UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwuid(owner) if owner else pwd.getpwnam(name)
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise ServersError(
        "PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to run it as.",
        "Add a system user `postgres`, or run Loom as an ordinary user.",
    )


def run(command: Sequence[str | Path], who: Account, *, text: str = "", cwd: Path, keep: int = -1) -> None:
    """Run a program of the server's to its end, with `text` as its input and `keep` as a descriptor it inherits.

    Raises:
        ServersError: it cannot be run, or reports an error.
    """
    name = Path(command[0]).name
    try:
        result = subprocess.run(
            [str(word) for word in command],
            input=text,
            capture_output=True,
            text=True,
            cwd=cwd,
            env=_ENVIRONMENT,
            pass_fds=[keep] if keep >= 0 else [],
            start_new_session=True,
            **_identity(who),
        )
    except OSError as error:
        raise _cannot_run(name, who, cwd, error) from None
    # PostgreSQL's single-user mode ends with 0 whatever it met.
    if result.returncode or "ERROR:" in result.stderr or "FATAL:" in result.stderr:
        full = any(sign in result.stderr for sign in _NO_ROOM)
        room = f"Make room on the disk of {cwd}, then run this again."
        look = Words("Run {} for the whole picture.", Shell("loom doctor"))
        raise ServersError(f"`{name}` failed: {decisive_line(result.stderr)}", room if full else look)


def spawn(command: Sequence[str | Path], who: Account, *, lock: int, log: Path, cwd: Path) -> int:
    """Start a server in a session of its own, the descriptor `lock` inherited. Gives back where in the log it begins.

    A shell stands between and ends at once, so the server is nobody's child here: it leaves no zombie in a long-lived
    process, and the terminal's signals do not reach it.
    """
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(output).st_size > _LOG_LIMIT:
            os.ftruncate(output, 0)
        begin = os.fstat(output).st_size
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=_ENVIRONMENT,
            pass_fds=[lock],
            start_new_session=True,
            check=True,
            **_identity(who),
        )
        return begin
    except (OSError, subprocess.CalledProcessError) as error:
        raise _cannot_run(Path(command[0]).name, who, cwd, error) from None
    finally:
        os.close(output)


def send_signal(pid_file: Path, number: signal.Signals, who: Account, mark: str) -> None:
    """Signal the process in `pid_file`, unless its command line lacks `mark`: then the pid has gone to another program.

    Sent as the server's user: what that user may have written there can harm only that user's processes.
    """
    try:
        pid = int(pid_file.read_text().split("\n")[0])
    except (OSError, ValueError):  # not written yet, or removed at the end
        return
    if pid > 1 and mark in _command_line(pid):
        if who.name:
            subprocess.run(
                ["/bin/sh", "-c", f"kill -{number.name[3:]} {pid}"],
                capture_output=True,
                env=_ENVIRONMENT,
                **_identity(who),
            )
        else:
            with contextlib.suppress(OSError):
                os.kill(pid, number)


def _command_line(pid: int) -> str:
    if Path("/proc/self").exists():
        with contextlib.suppress(OSError):
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "))
        return ""
    return subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, env=_ENVIRONMENT
    ).stdout


def try_lock(path: Path) -> int | None:
    """The descriptor of the locked file, None when somebody else holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock; ask only while holding the instance's own lock."""
    descriptor = try_lock(path)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


@contextlib.contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock for the block.

    Raises:
        ServersError: somebody else held it for that long.
    """
    for _ in every(seconds):
        descriptor = try_lock(path)
        if descriptor is not None:
            break
    else:
        raise ServersError(
            f"Another command has been starting or stopping the servers for {seconds:.0f} seconds.",
            "Wait for it to end, then run this again.",
        )
    try:
        yield
    finally:
        os.close(descriptor)


def every(seconds: float) -> Iterator[float]:
    """Turns of a waiting loop, rarer with time: yields the seconds waited so far, ends when `seconds` are over."""
    begin, backoff = time.monotonic(), Backoff(*_TURNS)
    while (waited := time.monotonic() - begin) < seconds:
        yield waited
        time.sleep(backoff.rest())


def _identity(who: Account) -> dict[str, Any]:
    return {"user": who.uid, "group": who.gid, "extra_groups": []} if who.name else {}


def _cannot_run(name: str, who: Account, cwd: Path, error: Exception) -> ServersError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    if who.name and isinstance(error, PermissionError):
        return ServersError(
            f"The user `{who.name}`, whom the servers run as under root, cannot enter {error.filename or cwd}.",
            "Set LOOM_DATA_DIR to a directory that every user may enter.",
        )
    return ServersError(
        f"`{name}` cannot be started: {reason}.", Words("Run {} for the whole picture.", Shell("loom doctor"))
    )


def decisive_line(text: str) -> str:
    """Why a program ended, as far as one line of what it printed tells."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "the database system is" not in line]
    fatal = [line for line in lines if "FATAL" in line or "PANIC" in line][:1]  # those after it follow from it
    return (fatal or lines or ["it said nothing."])[-1]
