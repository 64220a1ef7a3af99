"""What follows from a change along dependencies and epics: who is let go, how far it reaches, and what would wait for
itself."""

from loom.graph.deps.cascade import Consequences, check_and_unblock, follow_epic, hold_up, release_epic
from loom.graph.deps.reach import lock_reach
from loom.graph.model.dependencies import compute_initial_status, detect_cycle

__all__ = [
    "Consequences",
    "check_and_unblock",
    "compute_initial_status",
    "detect_cycle",
    "follow_epic",
    "hold_up",
    "lock_reach",
    "release_epic",
]
