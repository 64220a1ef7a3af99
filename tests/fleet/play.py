"""One game of a fleet: two terminals with workers on one repository, killed at random, until nothing moves any more."""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from dataclasses import dataclass
from pathlib import Path

from loom import services
from loom.config import load_config, trust
from loom.graph.front import Loom
from tests.fleet import agent, orders, repository
from tests.fleet.judge import Scene, judge, lacking, share
from tests.terminals import Terminals, disturb

# Half of all agents are killed every ten seconds, which a task of theirs must survive by chance: so many retries.
_CONFIG = """\
project_name: fleet
project_id: {id}
orchestration:
  {{claim_ttl_seconds: 20, sweep_seconds: 0.5, max_retries: 8, backoff_base_seconds: 1, backoff_cap_seconds: 3}}
checks:
  unit: {{command: [{check}], timeout: 120, protect: [tests/]}}
landing: {{checks: [unit]}}
"""


@dataclass(frozen=True)
class Settings:
    """What is played, and how roughly."""

    seed: int
    tasks: int
    terminals: int
    agents: int
    kill_every: float
    limit: float
    place: Path


async def play(settings: Settings) -> list[str]:
    """Plays once below `settings.place`, and returns what is wrong at the end."""
    rng = random.Random(settings.seed)
    root, given, data = (settings.place / name for name in ("repository", "orders", "data"))
    given.mkdir()
    repository.make(root, rng)
    os.environ |= {"LOOM_DATA_DIR": str(data), "XDG_STATE_HOME": str(settings.place / "state")}
    data.mkdir(mode=0o755)
    (root / ".loom").mkdir()
    check = ", ".join(f"'{word}'" for word in repository.CHECK)
    (root / ".loom" / "config.yaml").write_text(_CONFIG.format(id=uuid.uuid4(), check=check))
    trust(root)
    config = load_config(root)
    given_out = orders.give(settings.tasks, rng)
    await asyncio.to_thread(services.up, config)
    terminals = Terminals(
        root, settings.place, count=settings.terminals, agents=settings.agents, script=Path(agent.__file__),
        more={"FLEET_PLACE": str(given)},
    )  # fmt: skip
    try:
        async with Loom(config, agent="fleet") as loom:
            made = await loom.apply_plan(orders.plan(given_out, rng))
            ids = {order.key: task.id for order, task in zip(given_out, made, strict=True)}
            orders.write(given, given_out, ids)
            took = await disturb(
                loom, terminals, rng, tasks=settings.tasks, kill_every=settings.kill_every, limit=settings.limit,
                servers=[(0.3, "valkey-server"), (0.6, "postgres")] if settings.kill_every else [], data=data,
            )  # fmt: skip
            tasks = {key: (await loom.get(task_id)).task for key, task_id in ids.items()}
            broken = [f"{one.rule}: {one.found}" for one in await loom.doctor() if not one.holds]
    finally:
        await terminals.end()
        await asyncio.to_thread(services.down, config)
    scene = Scene(root, settings.place / "state", given)
    done = sum(task.done_at is not None for task in tasks.values())
    print(f"{done} of {len(tasks)} tasks have landed in {took:.0f} s, {share(given_out, tasks):.0%} of the honest ones;"
          f" {terminals.killed} terminals were killed")  # fmt: skip
    for one in lacking(given_out, tasks):
        print(f"not landed: {one}")
    idle = ["nobody was killed"] if settings.kill_every and not terminals.killed else []
    return [*broken, *idle, *judge(scene, given_out, tasks)]
