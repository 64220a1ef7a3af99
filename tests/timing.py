"""Times to compare with each other, for benchmarks: a ratio of two of one run says more than seconds do."""

from __future__ import annotations

import time
from collections.abc import Callable


def fastest(work: Callable[[], object]) -> float:
    """The seconds of the best of five calls."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
