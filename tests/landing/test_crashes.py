"""Landing exactly once, whoever is killed at whichever step, also where three land at once and no lease holds them."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import sys
from pathlib import Path

import pytest

from loom.graph.store import landing_intents, landing_tips
from loom.landing.target import OWN
from tests.landing.dying import STEPS
from tests.landing.yard import Yard

ROOT = Path(__file__).parents[2]


async def dying(yard: Yard, step: str, how: str = "alone") -> int:
    """Lands in a process that is killed at a step; its exit status."""
    config = yard.place.top.parent / "config.pickle"
    if not config.exists():
        config.write_bytes(pickle.dumps(yard.loom.config))
    words = [sys.executable, "-m", "tests.landing.dying", str(config), step, how]
    process = await asyncio.create_subprocess_exec(*words, cwd=ROOT, env=dict(os.environ))
    return await process.wait()


async def landed_once(yard: Yard, *tasks: str) -> None:
    """Each is done, by one first-parent commit of the target that its row names, and nothing is left over."""
    loom = yard.loom
    named = [one for some in yard.landed(OWN) for one in some]
    assert sorted(named) == sorted(tasks)
    for task_id in tasks:
        task = (await loom.get(task_id)).task
        assert task.status.value == "done"
        commit = (await yard.landing(task)).landed_commit
        assert commit
        told = yard.place.git("show", "-s", "--format=%(trailers:key=Loom-Task,valueonly)", commit)
        assert task_id in told.split()
    first_parents = yard.place.git("log", "--first-parent", "--format=%H", OWN).split()
    assert await loom.look(lambda connection: landing_tips.seen(connection, loom.project_id, OWN)) == first_parents[0]
    assert not await loom.look(lambda connection: landing_intents.still_open(connection, loom.project_id))
    assert not yard.place.git("for-each-ref", "refs/loom/kept")


@pytest.mark.parametrize("step", STEPS)
async def test_whoever_comes_after_a_lander_that_was_killed_goes_on(yard: Yard, step: str) -> None:
    tasks = [await yard.queued({f"f{n}": "1"}, f"Work {n}") for n in range(3)]
    assert await dying(yard, step) == -9
    lander = await yard.lander()
    while True:
        report = await lander.once()
        if not (report.landed or report.sent_back or report.busy):
            break
    await landed_once(yard, *(task.id for task in tasks))
    assert not yard.held()


@pytest.mark.timeout(300)
async def test_three_at_once_without_a_lease_who_are_killed_at_random_land_everything_once(yard: Yard) -> None:
    chance = random.Random(7)
    tasks = [await yard.queued({f"f{n}": "1"}, f"Work {n}") for n in range(8)]

    async def one() -> list[int]:
        return [await dying(yard, f"{step}:{chance.randint(1, 2)}", "at once") for step in chance.sample(STEPS, 3)]

    ended = [status for some in await asyncio.gather(one(), one(), one()) for status in some]
    assert set(ended) <= {0, -9}, "else one broke of itself"
    assert -9 in ended
    assert await dying(yard, "none") == 0
    await landed_once(yard, *(task.id for task in tasks))
