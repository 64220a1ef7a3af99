"""The way to Redis: a client that fails fast, and a breaker that keeps callers from waiting for one that is away."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from loom.background import Backoff

if TYPE_CHECKING:
    from redis.asyncio import Redis

TIMEOUT = 0.5  # seconds; what one call may cost a caller when Redis hangs
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_NO_ANSWER = (ValueError, TypeError, LookupError)  # an answer was read that has not the form of its command


def open_redis(url: str, *, timeout: float | None = TIMEOUT) -> Redis:
    """A client that connects on first use, asks for nothing else then, and never tries again by itself.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout: seconds for a connection or an answer; None waits for ever, for subscriptions.
    """
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return Redis.from_url(
        url,
        decode_responses=True,
        protocol=2,
        socket_timeout=timeout,
        socket_connect_timeout=TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        driver_info=None,
    )


def is_away(error: Exception) -> bool:
    """Whether an error, met while Redis is asked and its answer read, means that it cannot be asked, refuses, or gives
    an answer that is none to what it was asked. The whole client's are known where it was imported."""
    return isinstance(error, (OSError, *_NO_ANSWER, _of_the_client("RedisError", OSError)))


def is_no_answer(error: Exception) -> bool:
    """Whether an error, met there, means that Redis gives an answer that is none to what it was asked."""
    return isinstance(error, _NO_ANSWER)


def is_late(error: Exception) -> bool:
    """Whether an error means no more than that an answer did not come in time, as it may not on a busy machine."""
    return isinstance(error, (TimeoutError, _of_the_client("TimeoutError", TimeoutError)))


def _of_the_client(name: str, other: type[Exception]) -> type[Exception]:
    """An error of the whole client's, or another where that is not imported, or is being imported by a thread."""
    found: type[Exception] = getattr(sys.modules.get("redis.exceptions"), name, other)
    return found


class Breaker:
    """Open after a failure, for a pause that doubles up to 30 s; while it is open nobody tries."""

    def __init__(self) -> None:
        self.again = False
        """Whether the next failure is one more in a row."""
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._until = 0.0

    @property
    def closed(self) -> bool:
        """Whether a caller may try now."""
        return time.monotonic() >= self._until

    def failed(self) -> None:
        """A call failed: nobody tries before the pause is over."""
        self._until = time.monotonic() + self._backoff.rest()
        self.again = True

    def succeeded(self) -> None:
        """A call succeeded: the next failure pauses briefly again."""
        self._backoff.renew()
        self._until = 0.0
        self.again = False
