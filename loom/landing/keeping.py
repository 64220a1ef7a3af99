"""Keeping a claim while something goes on under it that nobody else renews it for.

async with kept(loom, task, agent_id, token):
    ...
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from loom.background import beside
from loom.exceptions import LoomError

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.graph.model.task import Task

_RENEWED = 3.0  # times that a lease is renewed while it lasts
_SOONEST = 1.0  # seconds between two renewals


@asynccontextmanager
async def kept(loom: Loom, task: Task, agent_id: str | None, token: int | None) -> AsyncIterator[None]:
    """Renews a claim meanwhile, whatever lease it was made with. Whoever has lost it is told when he reports."""

    async def renew() -> None:
        newest = task
        while True:
            with suppress(LoomError):
                newest = (await loom.heartbeat([task.id], agent_id=agent_id, token=token)).tasks[0]
            await asyncio.sleep(max(_lease(loom, newest) / _RENEWED, _SOONEST))

    async with beside(renew()):
        yield


def _lease(loom: Loom, task: Task) -> float:
    """The seconds that a claim lasts at the most until it is renewed: a clock that goes wrong makes it no longer than a
    usual one."""
    usual = float(loom.config.orchestration.claim_ttl_seconds)
    if task.lease_expires_at is None:
        return usual
    return min(usual, (task.lease_expires_at - datetime.now(UTC)).total_seconds())
