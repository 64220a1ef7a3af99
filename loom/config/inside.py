"""Whether this process, or whoever it serves, belongs to a run that Loom started: an agent at work, a check, a step of
a workflow.

What a run may do was decided before it began. Whoever works in it would otherwise allow himself his own programs, so
what the user alone may do is refused there.
"""

from __future__ import annotations

import os

from loom import caller
from loom.exceptions import ConfigError


def inside_run() -> bool:
    """Whether the mark of a run is in the environment of this process or, where there is /proc, of a parent's. Of
    whoever is served, what it says of itself does not clear it: its process is looked at too."""
    from loom.process import guard  # which brings asyncio, and who only reads a configuration does not pay for

    def marked(pid: int) -> bool:
        return guard.MARK in guard.environment_of(pid)

    served = caller.served()
    if served is None:
        return guard.MARK in os.environ or any(map(marked, guard.parents()))
    if served.pid is None:
        return guard.MARK in served.environ
    return guard.MARK in served.environ or any(map(marked, (served.pid, *guard.parents(served.pid))))


def refuse_inside(what: str) -> None:
    """Raises ConfigError if this is inside a run. `what`: the beginning of a sentence that goes on with "cannot be"."""
    if inside_run():
        raise ConfigError(
            f"{what} cannot be changed from inside a run that Loom started.", "Leave it to the user, in a terminal."
        )
