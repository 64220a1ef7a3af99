"""Running a command once: what is taken of it, and that nothing of it outlives its end, its time or its caller."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from loom import process
from loom.background import end
from loom.process import Ended
from tests.waiting import alive, until, until_there

# Leaves a process in a session of its own, which notes its id and does not listen to SIGTERM.
AWAY = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("pid.new", "w").write(str(os.getpid()))
os.rename("pid.new", "pid")
time.sleep(300)
"""
LEAVES = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {AWAY!r}], start_new_session=True, stdout=subprocess.DEVNULL)
while not os.path.exists("pid"): time.sleep(0.01)
"""


async def run(script: str, place: Path, *, text: str = "", timeout: float = 20, out_bytes: int = 1_000_000) -> Ended:
    words = [sys.executable, "-c", script]
    return await process.run(words, text=text, env=dict(os.environ), cwd=place, timeout=timeout, out_bytes=out_bytes)


def start(script: str, place: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script], cwd=place)


async def test_what_a_command_says_is_taken(tmp_path: Path) -> None:
    said = "import os, sys; print(sys.stdin.read(), os.getcwd()); print('bad', file=sys.stderr); sys.exit(3)"
    ended = await run(said, tmp_path, text="h\u00e9 \ud800")
    assert ended == Ended(3, f"h\u00e9 ? {tmp_path}\n".encode(), b"bad\n")
    assert (await run("import os; os.kill(os.getpid(), 9)", tmp_path)).status == -9


async def test_too_much_output_stops_a_command(tmp_path: Path) -> None:
    exactly = await run("print('x' * 99)", tmp_path, out_bytes=100)
    assert (exactly.cut, len(exactly.out)) == (False, 100)
    ended = await run("n = 0\nwhile True: print(n); n += 1", tmp_path, out_bytes=5_000)
    assert (ended.cut, ended.out) == (True, "\n".join(map(str, range(2000))).encode()[:5_000])


async def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await process.run(["/no/such/command"], env={}, cwd=tmp_path, timeout=5, out_bytes=100)


@pytest.mark.skipif(sys.platform != "linux", reason="without /proc only the group is known")
async def test_nothing_outlives_a_command(tmp_path: Path) -> None:
    ended = await run(f"{LEAVES}\nprint('bye')", tmp_path)
    assert (ended.status, ended.out) == (0, b"bye\n")
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="without /proc only the group is known")
async def test_nothing_outlives_its_time(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        await run(f"{LEAVES}\ntime.sleep(300)", tmp_path, timeout=4)
    assert not alive(await until_there(tmp_path / "pid"))


@pytest.mark.skipif(sys.platform != "linux", reason="without /proc only the group is known")
async def test_nothing_outlives_who_waits_for_it(tmp_path: Path) -> None:
    waiting = asyncio.create_task(run(f"{LEAVES}\ntime.sleep(300)", tmp_path))
    pid = await until_there(tmp_path / "pid")
    await end([waiting])  # which asks again and again
    assert waiting.cancelled()
    assert not alive(pid)


async def test_a_watchdog_that_takes_its_time_is_asked_about_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_WATCHDOG", 0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        await run("", tmp_path)
        gc.collect()
    assert not [one for one in told if "subprocess" in str(one.message)], "as of a child that is left behind"
    late = [*process._leaving]
    assert late
    await until(lambda: all(one.poll() is not None for one in late))
    monkeypatch.setattr(process, "_WATCHDOG", 30)
    await run("", tmp_path)
    assert not process._leaving


@pytest.mark.skipif(sys.platform != "linux", reason="without /proc only the group is known")
async def test_nothing_outlives_who_is_cancelled_while_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    connect = loop.connect_read_pipe

    async def late(*given: Any) -> Any:  # so that the loop has the command, and its caller does not have it yet
        await until((tmp_path / "pid").exists)
        cancel.set()
        await asyncio.sleep(0.05)
        return await connect(*given)

    cancel = asyncio.Event()
    monkeypatch.setattr(loop, "connect_read_pipe", late)
    waiting = asyncio.create_task(run(LEAVES, tmp_path))
    await cancel.wait()
    pid = await until_there(tmp_path / "pid")
    await end([waiting])
    assert not alive(pid)
    assert not caplog.messages  # as of a child whose status somebody else has taken


@pytest.mark.skipif(sys.platform != "linux", reason="without /proc only the group is known")
async def test_nothing_outlives_a_caller_that_is_killed(tmp_path: Path) -> None:
    caller = f"""
import asyncio, os, sys
from loom import process
words = [sys.executable, "-c", {LEAVES + "time.sleep(300)"!r}]
asyncio.run(process.run(words, env=dict(os.environ), cwd=None, timeout=60, out_bytes=100))
"""
    running = start(caller, tmp_path)
    try:
        pid = await until_there(tmp_path / "pid")
    finally:
        running.kill()
        await asyncio.to_thread(running.wait)
    await until(lambda: not alive(pid))


async def test_what_a_command_that_is_shown_leaves_running_goes_on(tmp_path: Path) -> None:
    words = ["sh", "-c", "sleep 60 > /dev/null 2>&1 & echo $! > pid; exit 3"]
    assert process.shown(words, env=process.environment(), cwd=tmp_path) == 3
    pid = await until_there(tmp_path / "pid")
    await asyncio.sleep(0.5)
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)
