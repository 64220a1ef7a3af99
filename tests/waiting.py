"""Waiting for what other processes and tasks do, which announce nothing; and who of them lives."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from loom.graph.front import Loom
from loom.graph.model.task import Task

_PAUSE = 0.02  # seconds between two looks


async def until(holds: Callable[[], object | Awaitable[object]], seconds: float = 30) -> None:
    """Returns once something holds; raises TimeoutError if it does not in time."""
    async with asyncio.timeout(seconds):
        while True:
            found = holds()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(_PAUSE)


async def told(pubsub: Any, redis: Any, channel: str) -> list[str]:
    """The channels of what a subscription was told up to now, in order; `channel`: one that it hears."""
    mark, found = uuid.uuid4().hex, list[str]()
    await redis.publish(channel, mark)
    async with asyncio.timeout(30):
        while True:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=30)
            if message is not None and message["data"] == mark:
                return found
            if message is not None:
                found.append(message["channel"])


async def until_renewed(loom: Loom, task: Task) -> None:
    """Returns once a claim is held for longer than when its task was read, which nobody does after its lease."""

    async def holds_on() -> bool:
        end = (await loom.get(task.id)).task.lease_expires_at
        return end is not None and task.lease_expires_at is not None and end > task.lease_expires_at

    await until(holds_on)


async def until_there(file: Path) -> int:
    """The number in a file, once there is one."""
    await until(lambda: file.exists() and file.read_text())
    return int(file.read_text())


def alive(pid: int) -> bool:
    """Whether a process runs; one that has died and that nobody has asked about does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def pids(file: Path) -> list[int]:
    """The processes that a file names; none where there is no file."""
    return [int(line) for line in file.read_text().split()] if file.exists() else []
