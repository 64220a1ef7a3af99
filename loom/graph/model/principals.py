"""Whoever calls by a token: a name, and what he may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    """What a principal may do; each includes those before it."""

    READER = 1
    WORKER = 2
    PLANNER = 3
    ADMIN = 4


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever is known by a token. `client`: the program that he calls with, as it calls itself."""

    name: str
    role: Role
    client: str = ""

    def owns(self, agent: str) -> bool:
        """Whether an agent's name belongs to this principal: its own, and whatever begins with it and a slash."""
        return agent == self.name or agent.startswith(f"{self.name}/")
