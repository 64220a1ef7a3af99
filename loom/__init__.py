"""Loom: one durable, dependency-aware task graph for many AI coding agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loom.graph.front import Loom

__all__ = ["Loom"]


def __getattr__(name: str) -> Any:
    # The front brings the database driver with it; `import loom` alone stays light.
    if name == "Loom":
        from loom.graph.front import Loom

        return Loom
    raise AttributeError(f"module 'loom' has no attribute {name!r}")
