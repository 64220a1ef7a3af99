"""When a failed task is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass

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
        exponent = min(max(attempt - 1, 0), 62)  # beyond that the power alone would overflow, and any cap is reached
        return min(self.base_seconds * 2.0**exponent, self.cap_seconds) * random.uniform(0.8, 1.2)
