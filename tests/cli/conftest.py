"""The command line as a user has it: a process, in a project of its own, on the test's database."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import signal
import subprocess
import sys
import termios
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loom.services import Endpoints


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The object on standard output, which must be the only thing there."""
        value: dict[str, Any] = json.loads(self.out)
        assert value["schema"] == 1
        return value


@dataclass(frozen=True)
class Cli:
    """Runs `loom` in a directory."""

    directory: Path
    env: dict[str, str]

    def __call__(self, *words: str, stdin: str | bytes = b"", **env: str) -> Result:
        """One command; whatever happens, there is no traceback."""
        done = subprocess.run(
            [sys.executable, "-m", "loom", *words],
            cwd=self.directory,
            env=self.env | env,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=60,
        )
        result = Result(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in result.out + result.err
        return result

    def ok(self, *words: str, stdin: str = "", **env: str) -> dict[str, Any]:
        """The answer of a command that must succeed, with `--json`; see `inside`."""
        result = self.inside(*words, "--json", stdin=stdin, **env)
        assert result.code == 0, result.out + result.err
        return result.json

    def create(self, title: str = "a task", *words: str) -> str:
        """The id of a new task."""
        return str(self.ok("create", title, *words)["id"])

    def inside(self, *words: str, stdin: str | bytes = b"", **env: str) -> Result:
        """One command as a call, some ten times faster than a process, where a process would add nothing."""
        with ThreadPoolExecutor(1) as thread:  # where no event loop runs
            return thread.submit(self._inside, words, stdin.encode() if isinstance(stdin, str) else stdin, env).result()

    def _inside(self, words: Sequence[str], stdin: bytes, env: dict[str, str]) -> Result:
        from loom.cli import cli

        printed = io.BytesIO(), io.BytesIO()
        out, err = (io.TextIOWrapper(buffer, "utf-8") for buffer in printed)
        logger = logging.getLogger("loom")
        before = logger.handlers[:], logger.level
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.directory)
            wanted = self.env | env
            for name in os.environ.keys() - wanted.keys():
                patch.delenv(name)
            for name, value in wanted.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as left:
                cli.main(list(words))
            out.flush()
            err.flush()
        logger.handlers[:], logger.level = before
        return Result(int(left.value.code or 0), printed[0].getvalue().decode(), printed[1].getvalue().decode())

    def asked(
        self, *words: str, answer: str | signal.Signals, meanwhile: Callable[[], object] = lambda: None
    ) -> Result:
        """One command at a terminal, where the answer is typed, or a signal sent, once it asks and `meanwhile` has
        happened; what it prints is all in `out`."""
        ours, theirs = os.openpty()
        command = subprocess.Popen(
            [sys.executable, "-m", "loom", *words],
            cwd=self.directory,
            env=self.env,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C means something
        )
        os.close(theirs)
        shown, typed = b"", False
        with suppress(OSError):  # how Linux says that nobody has the other end open
            while more := os.read(ours, 4096):
                shown += more
                if not typed and shown.rstrip().endswith(b"[y/N]:"):
                    meanwhile()
                    command.send_signal(answer) if isinstance(answer, int) else os.write(ours, answer.encode())
                    typed = True
        os.close(ours)
        assert typed, "it asks"
        assert b"Traceback" not in shown
        return Result(command.wait(30), shown.decode(), "")

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command that goes on."""
        return subprocess.Popen(
            [sys.executable, "-m", "loom", *words],
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def bare(tmp_path: Path) -> Cli:
    """An empty directory, a home of its own, and no servers: what needs them fails."""
    home, directory = tmp_path / "home", tmp_path / "shop"
    home.mkdir()
    directory.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LOOM_", "CLAUDE", "UV_"))}
    env["LOOM_MCP_HUB"] = "never"
    env |= {
        "HOME": str(home),
        "LOOM_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "LOOM_REDIS_URL": "redis://127.0.0.1:1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return Cli(directory, env)


@pytest.fixture
def cli(bare: Cli, database_url: str, servers: Endpoints) -> Cli:
    """A project on the test's database."""
    loom_dir = bare.directory / ".loom"
    loom_dir.mkdir()
    (loom_dir / "config.yaml").write_text(f"project_name: shop\nproject_id: {uuid.uuid4()}\n")
    bare.env.update(LOOM_DATABASE_URL=database_url, LOOM_REDIS_URL=servers.redis_url, LOOM_AGENT_ID="tester")
    return bare
