"""Whether the mirror shows what Postgres holds, looked at while both are in use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from loom.db.connection import snapshot, translated
from loom.graph import store
from loom.graph.cache.mirror import Cache
from loom.graph.cache.relay import Relay
from loom.graph.model.verdict import Verdict, verdict
from loom.wording import Shell, Words

if TYPE_CHECKING:
    from loom.db.connection import Pool


_TRIES, _PAUSE = 100, 0.2  # longer than a rebuild is left alone that a killed process has begun


async def compare(pool: Pool, cache: Cache, relay: Relay, project_id: str) -> Verdict:
    """Compares Redis with Postgres, looking again at what differs, since others write meanwhile."""
    name = "Redis equals Postgres"
    cache.try_again()
    if not await _brought_up(cache, relay):
        if cache.complaint is None and await cache.state() is None:
            return Verdict(name, True, "not compared: Redis is away; every command works without it")
        refused = cache.refused or (cache.complaint and f"not compared: Redis refuses: {cache.complaint}")
        found = refused or "not compared: the mirror could not be brought up to date."
        return Verdict(name, False, found, "Every command works without it; see the log of Redis for why.")
    held = await cache.everything()
    suspects: set[str] | None = None
    for _ in range(3):
        if held is None:
            return Verdict(name, True, "not compared: Redis is away; every command works without it")
        differing, known = set[str](), set[str]()
        with translated():
            async with snapshot(pool) as connection:
                async for tasks in store.list_all_tasks(connection, project_id, 500):
                    known |= {task.id for task in tasks}
                    differing |= {task.id for task in tasks if not held.shows(task)}
        differing |= held.ids - known
        suspects = differing if suspects is None else suspects & differing
        if not suspects:
            break
        await relay.step()
        held = await cache.everything()
    advice = Words("Run {} to build the mirror anew from Postgres.", Shell("loom doctor --deep"))
    return verdict(name, sorted(suspects or ()), advice)


async def _brought_up(cache: Cache, relay: Relay) -> bool:
    """Whether the mirror is up to date, given a moment where another process is filling it."""
    for _ in range(_TRIES):
        if await relay.step():
            return True
        if cache.refused or cache.complaint or await cache.state() is None:
            return False
        await asyncio.sleep(_PAUSE)
    return False
