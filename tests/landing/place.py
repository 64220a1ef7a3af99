"""Work trees for tests, as a person or an agent works in one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from loom.git import Repository
from loom.process import guard

ENV = {
    "PATH": "/usr/bin:/bin:/usr/local/bin",
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ann",
    "GIT_AUTHOR_EMAIL": "ann@example.org",
    "GIT_COMMITTER_NAME": "Ann",
    "GIT_COMMITTER_EMAIL": "ann@example.org",
}


class Place:
    """A work tree, as a person or an agent works in it."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def git(self, *words: str, check: bool = True) -> str:
        """What git prints."""
        git = ["git", "-C", str(self.top), "-c", "protocol.file.allow=always", *words]
        ended = subprocess.run(git, capture_output=True, text=True, env=ENV, check=False)
        assert not check or ended.returncode == 0, f"{words}: {ended.stderr}"
        return ended.stdout.strip()

    def write(self, name: str, text: str = "") -> Path:
        """A file with this text."""
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def read(self, name: str) -> str:
        return (self.top / name).read_text()

    def commit(self, message: str = "more", files: dict[str, str] | None = None) -> str:
        """Commits these files, all that lies there, and says which commit it is."""
        for name, text in (files or {}).items():
            self.write(name, text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.tip()

    def tip(self, name: str = "HEAD") -> str:
        return self.git("rev-parse", name)

    def files(self, commit: str) -> list[str]:
        return self.git("ls-tree", "-r", "--name-only", commit).splitlines()

    def status(self) -> str:
        return self.git("status", "--porcelain", "--untracked-files=all")

    def worktree(self, path: Path, branch: str, at: str = "HEAD") -> Place:
        """Another work tree, on a new branch."""
        self.git("worktree", "add", "-q", "-b", branch, str(path), at)
        return Place(path)

    async def repository(self) -> Repository:
        """It, entered by its own directory."""
        git_dir = Path(self.git("rev-parse", "--absolute-git-dir"))
        common = Path(self.git("rev-parse", "--path-format=absolute", "--git-common-dir"))
        return Repository(self.top, git_dir, common)


SLOW = {".gitattributes": "m*.txt filter=slow\n"}
"""What has git write files through the filter of `stays`, once that is trusted: `filter.slow`."""


def stays(place: Place, at: Path, after: int) -> None:
    """From now on a git that writes the files of SLOW stays where it is after so many of them, until it is killed."""
    (at / "stops").write_text(str(after))
    stop = f"test -e {at}/stops && test $(wc -l < {at}/seen) -gt $(cat {at}/stops)"
    place.git("config", "filter.slow.smudge", f"cat; echo >> {at}/seen; if {stop}; then sleep 60; fi")
    place.git("config", "filter.slow.clean", "cat")


async def where_it_stays(word: str, at: Path) -> list[int]:
    """Waits until a git stays; returns the processes of git with this word in their command line."""
    await asyncio.to_thread(_until_lines, at / "seen", int((at / "stops").read_text()) + 1)
    return [pid for pid in guard.processes() if _words(pid)[:1] == ["git"] and word in _words(pid)]


async def kill_git(word: str, at: Path) -> None:
    """Kills the git with this word in its command line where it stays; the next one goes on."""
    for pid in await where_it_stays(word, at):
        os.kill(pid, signal.SIGKILL)
    (at / "stops").unlink()


def _until_lines(path: Path, count: int) -> None:
    end = time.monotonic() + 60
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < end
        time.sleep(0.02)


def _words(pid: int) -> list[str]:
    with suppress(OSError):  # it has ended meanwhile
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return []
