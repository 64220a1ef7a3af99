"""Where it is judged whether a principal may do something: before each operation of the front, whichever face calls."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar

T = TypeVar("T", bound=type)

INNER = frozenset(
    {
        "admitted",
        "close",
        "connect",
        "end_session",
        "enter",
        "entry_code",
        "join_trace",
        "look",
        "mirror_position",
        "next_name",
        "permit",
        "prune",
        "relay",
        "renew",
        "still_admitted",
        "subscriber",
        "sweep",
        "take_up",
        "transact",
        "until_renewal",
        "visitor",
    }
)
"""What no principal calls: what a process does for itself, and what the layers above do once they were permitted to."""


def operations(front: type) -> list[str]:
    """What a front offers to whoever calls: its public methods that are awaited, but for the inner ones."""
    return [
        name
        for name, method in inspect.getmembers(front, inspect.iscoroutinefunction)
        if not name.startswith("_") and name not in INNER
    ]


def guarded(front: T) -> T:
    """Has each operation of a front ask for permission first. Whoever is no principal is asked nothing."""
    for operation in operations(front):
        setattr(front, operation, _guarded(operation, getattr(front, operation)))
    return front


def _guarded(operation: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(method)
    async def permitted(loom: Any, *arguments: Any, **named: Any) -> Any:
        if loom.principal is not None:
            await loom.permit(operation, named.get("agent_id"))
        return await method(loom, *arguments, **named)

    return permitted
