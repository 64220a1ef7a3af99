"""The reaper: a command's own end, and that nothing it leaves behind outlives it, however that tries to get away."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loom.process import reaper
from tests.waiting import alive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere groups and marks must do")

# A process in a session of its own, twice forked and without its environment, which notes its id and goes on for ever.
DAEMON = """
import os, signal, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open("pid.new", "w") as file: file.write(str(os.getpid()))
os.rename("pid.new", "pid")
time.sleep(300)
"""
LEAVES_ONE = f"""
import os, subprocess, sys, time
subprocess.run(["env", "-i", sys.executable, "-c", {DAEMON!r}])
while not os.path.exists("pid"): time.sleep(0.01)
"""


def start(place: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", reaper.__file__, *words]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(
    ("words", "status", "out"),
    [
        (["sh", "-c", "echo one; echo two >&2; exit 3"], 3, b"one\ntwo\n"),
        (["sh", "-c", "kill -9 $$"], 137, b""),
        (["true"], 0, b""),
        (["no-such-command"], 127, b"no-such-command cannot be started: No such file or directory\n"),
    ],
)
def test_a_command_ends_as_it_ends(tmp_path: Path, words: list[str], status: int, out: bytes) -> None:
    running = start(tmp_path, *words)
    assert running.communicate(timeout=30) == (out, b"")
    assert running.returncode == status


def test_a_daemon_that_dropped_all_marks_ends_with_the_command(tmp_path: Path) -> None:
    running = start(tmp_path, sys.executable, "-c", f"{LEAVES_ONE}\nsys.exit(4)")
    running.communicate(timeout=30)  # which waits for whoever holds the pipe
    assert running.returncode == 4
    assert not alive(int((tmp_path / "pid").read_text()))


def test_whoever_is_asked_to_end_ends_the_daemon_first(tmp_path: Path) -> None:
    running = start(tmp_path, sys.executable, "-c", f"{LEAVES_ONE}\ntime.sleep(300)")
    until = time.monotonic() + 30
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=30)
    assert running.returncode == 143
    assert not alive(int((tmp_path / "pid").read_text()))


def test_one_that_hands_on_to_a_child_again_and_again_is_ended(tmp_path: Path) -> None:
    relay = (
        "import os, time\nend = time.monotonic() + 30\nwhile time.monotonic() < end:\n    if os.fork(): os._exit(0)\n"
    )
    left = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {relay!r}]); time.sleep(0.3)"
    running = start(tmp_path, sys.executable, "-c", left)
    running.communicate(timeout=25)
    assert running.returncode == 0


def test_what_only_forks_comes_to_a_bound(tmp_path: Path) -> None:
    """For root there is none, so that it is asked for and not tried out."""
    asked = "import resource; print(resource.getrlimit(resource.RLIMIT_NPROC)[0])"
    tasks = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    said, _ = start(tmp_path, sys.executable, "-c", asked).communicate(timeout=30)
    assert 0 < int(said) < 3 * tasks + 10_000
