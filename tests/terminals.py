"""What people typed in terminals, `loom work` with scripted agents, while somebody kills terminals and servers."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from loom.graph.front import Loom
from tests.chaos import kill_server


class Terminals:
    """Some terminals on one repository, each a session of its own, whose output is kept below `place`."""

    def __init__(
        self, root: Path, place: Path, *, count: int, agents: int, script: Path, more: Mapping[str, str]
    ) -> None:
        """`script`: what the agents are, in Python; `more`: what they find in their environment."""
        self._root, self._place, self._count, self.killed = root, place, count, 0
        self._environment = {**os.environ, **more}
        self._command = [sys.executable, "-m", "loom", "work", "--agents", str(agents), "--land"]
        self._command += ["--report", "required", "--", sys.executable, "-I", str(script)]
        self._running: list[asyncio.subprocess.Process] = []

    async def keep_up(self) -> None:
        """Opens so many at first, and again those that were killed; who has ended in order stays away."""
        while len(self._running) < self._count + self.killed:
            with (self._place / f"terminal-{len(self._running) + 1}.log").open("wb") as log:
                self._running.append(
                    await asyncio.create_subprocess_exec(
                        *self._command, cwd=self._root, env=self._environment, start_new_session=True,
                        stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                    )
                )  # fmt: skip

    def alive(self) -> list[asyncio.subprocess.Process]:
        """Those that run."""
        return [one for one in self._running if one.returncode is None]

    def kill(self, one: asyncio.subprocess.Process) -> None:
        """Kills one as a crash does."""
        one.send_signal(signal.SIGKILL)
        self.killed += 1

    async def end(self) -> None:
        """Closes them all."""
        for one in self.alive():
            one.terminate()
        await asyncio.gather(*(one.wait() for one in self._running))


async def disturb(
    loom: Loom, terminals: Terminals, rng: random.Random, *, tasks: int, kill_every: float, limit: float,
    servers: Sequence[tuple[float, str]], data: Path,
) -> float:  # fmt: skip
    """Lets the terminals work while it kills, until they end by themselves.

    Args:
        kill_every: seconds between the ends of two terminals; 0: nobody is killed.
        limit: seconds after which it gives up.
        servers: which server below `data` is killed when such a part of the tasks is done.

    Returns:
        How many seconds that took.
    """
    due = list(servers)
    began = time.monotonic()
    next_kill = began + kill_every
    before: Mapping[str, int] = {}
    await terminals.keep_up()
    while terminals.alive() and (now := time.monotonic() - began) < limit:
        counts = (await loom.status()).counts
        if counts != before:
            print(f"{now:6.1f} s  {', '.join(f'{n} {name}' for name, n in counts.items() if n)}", flush=True)
            before = dict(counts)
        if due and counts["done"] >= due[0][0] * tasks:
            _, name = due.pop(0)
            print(f"          {name} is killed", flush=True)
            kill_server(data, name)
        if kill_every and began + now >= next_kill and counts["pending"] + counts["blocked"]:
            terminals.kill(rng.choice(terminals.alive()))
            next_kill += kill_every
            await terminals.keep_up()
        await asyncio.sleep(0.5)
    return time.monotonic() - began
