"""Workers over a layered graph while everything that can be killed is killed; then the event log is held to account.

    uv run python -m tests.chaos --seed 1

A random worker is killed with -9 every second and replaced; Redis is flushed and killed, PostgreSQL is killed, on the
way. At the end every task must be done exactly once by the event log, none begun before what it depends on, every
invariant hold, and Redis equal Postgres. The same seed gives the same graph and the same order of faults.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from loom import services
from loom.bus.connection import open_redis
from loom.config import LoomConfig, load_config
from loom.graph.front import Loom
from tests import games


@dataclass
class Settings:
    """What is played, and how roughly."""

    seed: int
    tasks: int
    workers: int
    kill_every: float
    limit: float


@dataclass
class Fleet:
    """The workers, each a process of its own in a session of its own."""

    environment: dict[str, str]
    directory: Path
    rng: random.Random
    killed: int = 0
    running: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def keep_up(self, count: int) -> None:
        """Starts workers until there are `count`; those that ended by themselves are counted out."""
        self.running = [worker for worker in self.running if worker.returncode is None]
        while len(self.running) < count:
            self.running.append(
                await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "loom", "work", "--agents", "1", "--", "true",
                    env=self.environment, cwd=self.directory, start_new_session=True,
                    stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                )
            )  # fmt: skip

    def kill_one(self) -> None:
        """Kills a random worker with -9."""
        alive = [worker for worker in self.running if worker.returncode is None]
        if alive:
            self.rng.choice(alive).send_signal(signal.SIGKILL)
            self.killed += 1

    async def end(self) -> None:
        """Kills them all."""
        for worker in self.running:
            if worker.returncode is None:
                worker.kill()
        await asyncio.gather(*(worker.wait() for worker in self.running))


def layered(settings: Settings, rng: random.Random) -> dict[str, list[dict[str, object]]]:
    """A plan of layers as wide as the square root of its size; each task depends on one to three of the layer above."""
    width = max(int(settings.tasks**0.5), 1)
    tasks: list[dict[str, object]] = []
    for number in range(settings.tasks):
        above = range(max(number // width - 1, 0) * width, number // width * width)
        needs = rng.sample(above, min(rng.randint(1, 3), len(above)))
        tasks.append(
            {
                "key": f"t{number}",
                "title": f"Task {number}",
                "depends_on": [f"t{one}" for one in needs],
                "priority": rng.choice(["p0", "p1", "p2"]),
            }
        )
    return {"tasks": tasks}


def kill_server(place: Path, name: str) -> None:
    """Kills one of the servers that live below `place` with -9."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(place) in command and name in command.split("\0")[0]:
                os.kill(int(process.name), signal.SIGKILL)


async def play(settings: Settings, place: Path) -> list[str]:
    """Plays once and returns what is wrong at the end."""
    rng = random.Random(settings.seed)
    project = place / "project"
    (project / ".loom").mkdir(parents=True)
    (project / ".loom" / "config.yaml").write_text(
        f"project_name: chaos\nproject_id: {uuid.uuid4()}\n"
        "orchestration: {claim_ttl_seconds: 5, sweep_seconds: 0.5, max_retries: 50}\n"
    )
    environment = {**os.environ, "LOOM_PROJECT_DIR": str(project)}
    config = load_config(project)
    await asyncio.to_thread(services.up, config)
    fleet = Fleet(environment, project, rng)
    try:
        async with Loom(config, agent="chaos") as loom:
            await loom.apply_plan(layered(settings, rng))
            took = await disturb(settings, config, loom, fleet, place)
            await fleet.end()
            problems = await judge(config, loom)
            counts = (await loom.status()).counts
    finally:
        await fleet.end()
        await asyncio.to_thread(services.down, config)
    rate = counts["done"] / took
    print(f"{counts['done']} tasks done in {took:.1f} s, {rate:.0f} a second; {fleet.killed} workers killed")
    return problems


async def disturb(settings: Settings, config: LoomConfig, loom: Loom, fleet: Fleet, place: Path) -> float:
    """Lets the fleet work while it kills, until nothing is unfinished. Returns how many seconds that took."""

    async def flush() -> None:
        redis = open_redis(services.endpoints(config).redis_url)
        await redis.flushall()
        await redis.aclose()

    faults: list[tuple[float, str, Callable[[], object]]] = [
        (0.2, "Redis flushed", flush),
        (0.4, "Redis killed", lambda: kill_server(place, "valkey-server")),
        (0.6, "PostgreSQL killed", lambda: kill_server(place, "postgres")),
        (0.8, "Redis flushed again", flush),
    ]
    began = time.monotonic()
    while time.monotonic() - began < settings.limit:
        await fleet.keep_up(settings.workers)
        await asyncio.sleep(settings.kill_every)
        counts = (await loom.status()).counts
        done = counts["done"] / settings.tasks
        print(f"{time.monotonic() - began:6.1f} s  {counts['done']:5} done  {counts['claimed']:3} claimed", flush=True)
        if done == 1:
            break
        if faults and done >= faults[0][0]:
            _, name, fault = faults.pop(0)
            print(f"          {name}", flush=True)
            result = fault()
            if asyncio.iscoroutine(result):
                await result
        fleet.kill_one()
    return time.monotonic() - began


async def judge(config: LoomConfig, loom: Loom) -> list[str]:
    """Holds the event log, the invariants and the mirror to account."""
    problems = []
    connection = await asyncpg.connect(services.endpoints(config).database_url)
    left = await connection.fetchval("select count(*) from tasks where status <> 'done'")
    if left:
        problems.append(f"{left} tasks are not done")
    finished = Counter(row[0] for row in await connection.fetch("select task_id from events where type = 'task.done'"))
    if twice := [task for task, times in finished.items() if times != 1]:
        problems.append(f"done more than once: {twice[:5]}")
    early = await connection.fetch(
        """
        select e.task_id from task_deps e
          join events c on c.task_id = e.task_id and c.type = 'task.claimed'
          left join events d on d.task_id = e.depends_on and d.type = 'task.done' and (d.xid, d.id) < (c.xid, c.id)
         where d.id is null
        """
    )
    if early:
        problems.append(f"begun before what they depend on: {[row[0] for row in early[:5]]}")
    lapsed = await connection.fetchval("select count(*) from events where type = 'claim.expired'")
    print(f"{lapsed} claims lapsed and were taken up again")
    await connection.close()
    problems += [f"{one.rule}: {one.found}" for one in await loom.doctor() if not one.holds]
    return problems


def main() -> int:
    """Reads the command line, plays once, and says what was wrong; exit status 1 if anything was."""
    parser = argparse.ArgumentParser(description="Workers over a layered graph while everything is killed.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--kill-every", type=float, default=1.0, help="seconds")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds after which it gives up")
    chosen = parser.parse_args()
    settings = Settings(chosen.seed, chosen.tasks, chosen.workers, chosen.kill_every, chosen.limit)
    with games.place("chaos") as place:
        os.environ["LOOM_DATA_DIR"] = str(place)
        return games.conclude(asyncio.run(play(settings, place)))


if __name__ == "__main__":
    sys.exit(main())
