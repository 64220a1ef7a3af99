"""PostgreSQL and Redis for Loom: where they are, starting them, stopping them.

Three backends answer the same five calls: `embedded` (servers of Loom's own, the default), `docker` (Compose) and
`external` (addresses of the user's own). All calls are blocking. A caller that wants to be quick takes `endpoints`,
connects, and asks for `ensure` only when that fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

from loom.config import LoomConfig


@dataclass(frozen=True)
class Endpoints:
    """Addresses to connect to, passwords included: mask them before they are shown."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)


@dataclass(frozen=True)
class ServerHealth:
    """One server as a person wants to see it."""

    name: str  # "PostgreSQL" or "Redis"
    running: bool
    version: str | None
    where: str  # an address without its password
    hint: str  # what to do, empty when nothing


class _Backend(Protocol):
    def endpoints(self, config: LoomConfig) -> Endpoints: ...
    def up(self, config: LoomConfig, progress: Callable[[str], None]) -> Endpoints: ...
    def ensure(self, config: LoomConfig) -> Endpoints: ...
    def down(self, config: LoomConfig) -> None: ...
    def check(self, config: LoomConfig) -> list[ServerHealth]: ...


def silent(sentence: str) -> None:
    """A `progress` that shows nothing."""


def endpoints(config: LoomConfig) -> Endpoints:
    """Where the servers are, or would be. Asks nobody and starts nothing.

    Raises:
        ServersError: they were never made.
    """
    return _backend(config).endpoints(config)


def up(config: LoomConfig, progress: Callable[[str], None] = silent) -> Endpoints:
    """Start what does not run, and return when both answer. Calling it again changes nothing.

    Args:
        progress: receives a sentence before each step that takes time.

    Raises:
        ServersError: a server cannot be found, started or reached.
    """
    return _backend(config).up(config, progress)


def ensure(config: LoomConfig) -> Endpoints:
    """As `up`, for callers that nobody asked to start anything.

    Raises:
        ServersStoppedError: they were stopped with `down`.
        ServersError: as `up`.
    """
    return _backend(config).ensure(config)


def down(config: LoomConfig) -> None:
    """Stop both servers, keep every byte, and remember that it was on purpose. Calling it again changes nothing.

    Raises:
        ServersError: a server does not stop, or is not Loom's to stop.
    """
    _backend(config).down(config)


def check(config: LoomConfig) -> list[ServerHealth]:
    """How PostgreSQL and Redis are, in this order. Starts nothing and raises nothing about them."""
    return _backend(config).check(config)


def _backend(config: LoomConfig) -> _Backend:
    from importlib import import_module

    return cast(_Backend, import_module(f"loom.services.{config.servers.backend}"))
