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


async def kill_git(word: str, after: float) -> None:
    """Kills the git with this word in its command line, so many seconds after it has begun."""

    def found() -> list[int]:
        return [pid for pid in guard.processes() if _words(pid)[:1] == ["git"] and word in _words(pid)]

    until = time.monotonic() + 30
    while not (gits := found()):
        assert time.monotonic() < until
        await asyncio.sleep(0.002)
    await asyncio.sleep(after)
    for pid in gits:
        with suppress(ProcessLookupError):  # it was quicker
            os.kill(pid, signal.SIGKILL)


def _words(pid: int) -> list[str]:
    with suppress(OSError):  # it has ended meanwhile
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return []
