"""When a failed task is tried again."""

from __future__ import annotations

from dataclasses import dataclass

from loom.background import Backoff
from loom.config import OrchestrationConfig


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how late: `max_attempts` claims in all, and seconds between them that double up to a cap."""

    max_attempts: int
    base_seconds: float
    cap_seconds: float

    @classmethod
    def of(cls, config: OrchestrationConfig) -> RetryPolicy:
        """The policy that a configuration describes."""
        return cls(config.max_retries + 1, config.backoff_base_seconds, config.backoff_cap_seconds)

    def backoff(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1): exponential, capped, and spread by ±20 % so
        that tasks that failed together do not come back together."""
        return Backoff(self.base_seconds, self.cap_seconds, jitter=0.2).after(attempt)
