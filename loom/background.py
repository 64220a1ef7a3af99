"""Tasks that run beside others: ending them, and having them end in peace."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

_AGAIN = 0.1  # seconds


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels tasks and returns when none of them runs any more.

    It asks until they listen: before Python 3.12 `asyncio.wait_for`, which the clients of both servers use, loses a
    cancellation that meets the end of what it waits for, and who asks only once may wait for ever.
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=_AGAIN)


async def through(task: asyncio.Task[Any]) -> None:
    """Waits until a task is done, however often who waits is cancelled meanwhile; only then that takes effect. Raises
    what the task did."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError
