"""Task data in Redis, with Postgres behind: a caller never chooses between the two.

`mirror` writes and reads it, `relay` keeps it up to date from the events, `waiting` blocks until something changes.
"""

from loom.graph.cache.mirror import Cache
from loom.graph.cache.relay import Relay

__all__ = ["Cache", "Relay"]
