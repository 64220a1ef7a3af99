"""Who lands: on a machine the process that holds a lock, and of several machines the one that has a lease.

    async with leading(loom, lambda: target, own_name()) as leads:
        if leads: ...

Both only save others the work; what is safe is so without them. Whoever lands renews the lease meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from loom.background import beside, taken
from loom.exceptions import LoomError
from loom.graph.store import landing_targets
from loom.landing import places

if TYPE_CHECKING:
    from loom.graph.front import Loom

_LEASE = 30.0  # seconds


def own_name() -> str:
    """The name of this process as one that lands."""
    return f"{_host()}-{os.getpid()}"


@asynccontextmanager
async def leading(loom: Loom, target: Callable[[], str], holder: str) -> AsyncIterator[bool]:
    """Whether a process is to land now, which others then leave to it.

    Args:
        target: the branch that it lands on by now.
        holder: its name.
    """
    path = places.state_dir(loom.config) / "landing.lock"
    lock = await taken(lambda: places.Lock.take(path), _let_go)
    try:
        first = target()
        if lock is None or not await _has_lease(loom, first, holder):
            yield False
            return
        try:
            async with beside(_renew(loom, target, holder)):
                yield True
        finally:
            with suppress(LoomError):
                for name in {first, target()}:  # it may have turned to another one meanwhile
                    await loom.transact(lambda tx, name=name: landing_targets.give_lease(tx, name, holder))  # type: ignore[misc]
    finally:
        _let_go(lock)


def _let_go(lock: places.Lock | None) -> None:
    if lock is not None:
        lock.let_go()


async def _has_lease(loom: Loom, target: str, holder: str) -> bool:
    if await _take_lease(loom, target, holder):
        return True
    before = await loom.look(lambda connection: landing_targets.holder_of_lease(connection, loom.project_id, target))
    if before is None or re.sub(r"-\d+$", "", before) != _host():
        return False
    # Whoever of this machine has it holds the lock, too, as long as he lives.
    await loom.transact(lambda tx: landing_targets.give_lease(tx, target, before))
    return await _take_lease(loom, target, holder)


async def _take_lease(loom: Loom, target: str, holder: str) -> bool:
    return await loom.transact(lambda tx: landing_targets.take_lease(tx, target, holder, _LEASE))


async def _renew(loom: Loom, target: Callable[[], str], holder: str) -> None:
    while True:
        await asyncio.sleep(_LEASE / 3)
        with suppress(LoomError):
            await _take_lease(loom, target(), holder)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", os.uname().nodename.partition(".")[0])[:20]
