"""The front of the graph: the application object that every face calls, and Loom's Python API.

    async with Loom.here() as loom:
        claim = await loom.claim()
        ...
        await loom.done(claim.task.id, {"result": "..."})

Nothing is connected before it is needed. Every method that changes something runs one transaction through the
rules and store, mirrors its change, and returns the tasks as they are now.
"""

from __future__ import annotations

from loom.graph.access import guarded
from loom.graph.front.admitting import Admitting
from loom.graph.front.deciding import Deciding
from loom.graph.front.looking import Looking
from loom.graph.front.making import Making
from loom.graph.front.talking import Talking
from loom.graph.front.upkeep import Upkeep
from loom.graph.front.working import Working


@guarded
class Loom(Making, Working, Deciding, Looking, Admitting, Talking, Upkeep):
    """One project, as one process sees it."""
