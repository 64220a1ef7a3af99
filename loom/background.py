"""Tasks that run beside others: ending them, having them end in peace, keeping what ends them to themselves, and how
long they rest when they fail."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")

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


@asynccontextmanager
async def beside(*work: Coroutine[Any, Any, Any]) -> AsyncIterator[tuple[asyncio.Task[Any], ...]]:
    """Has something go on in tasks of its own while the body does, and ends it with that, however that ends."""
    tasks = tuple(asyncio.create_task(one) for one in work)
    try:
        yield tasks
    finally:
        await end(tasks)


async def taken(take: Callable[[], T], give_back: Callable[[T], object]) -> T:
    """Takes something in a thread, such as a lock or a place. Who is cancelled over it has it given back, which else
    nobody would hold and nobody could take."""
    taking = asyncio.create_task(asyncio.to_thread(take))
    try:
        await through(taking)
    except asyncio.CancelledError:
        if not taking.cancelled() and taking.exception() is None:
            give_back(taking.result())
        raise
    return taking.result()


async def apart(work: Coroutine[Any, Any, T]) -> T:
    """Runs something in a task of its own and returns what it returns.

    Who waits for it and is cancelled leaves at once, and it is cancelled too. A cancellation that arises within it
    stays there and is a RuntimeError to who waits: a loop that tells its own cancellation from others' would end over a
    foreign one.
    """
    loop = asyncio.get_running_loop()
    task, ended = loop.create_task(work), loop.create_future()  # `asyncio.wait` does more than is needed for one
    task.add_done_callback(lambda _: None if ended.done() else ended.set_result(None))
    try:
        await ended
    except asyncio.CancelledError:
        task.cancel()
        task.add_done_callback(lambda _: task.cancelled() or task.exception())  # nobody asks for it any more
        raise
    if task.cancelled():
        raise RuntimeError("It was cancelled from within.")
    return task.result()


class Backoff:
    """How long to rest before something that has failed is tried again: each time twice as long, up to a bound."""

    def __init__(self, first: float, longest: float, *, jitter: float = 0.0) -> None:
        """
        Args:
            first: seconds after the first failure; longest: at most.
            jitter: the share, up to 1, by which a rest may be shorter or longer than that, so that what failed together
                does not come back together.
        """
        self._first, self._longest, self._jitter = first, longest, jitter
        self._failures = 0

    def rest(self) -> float:
        """It has failed once more: the seconds to rest."""
        self._failures += 1
        return self.after(self._failures)

    def renew(self) -> None:
        """It has succeeded: the next rest is a first one."""
        self._failures = 0

    def after(self, failures: int) -> float:
        """The seconds to rest after so many failures in a row, from 1."""
        doublings = min(max(failures - 1, 0), 62)  # beyond that the power would overflow, and any bound is reached
        rest = min(self._first * 2.0**doublings, self._longest)
        return rest * random.uniform(1 - self._jitter, 1 + self._jitter)
