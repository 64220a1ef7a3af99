"""Reading ahead what a hub imports only when somebody asks for it.

An upgrade puts another version's files in their place, while the hub goes on with the sessions that it has. What it has
not imported by then would be of the other version.
"""

from __future__ import annotations

import logging
import pkgutil
import time
from importlib import import_module
from threading import Thread

import loom

_AFTER = 2.0  # seconds, which belong to the session that started the hub
_PAUSE = 0.01  # seconds between two modules, for who wants something meanwhile
_NOT_SERVED = ("loom.cli", "loom.__main__")  # the face of other processes
# What imports its own modules. Imported by two threads, from both its ends, it would be refused to one of them.
_WHOLE = (
    "loom.graph.importing",
    "loom.orchestration.notices",
    "loom.orchestration.workers.runners",
    "loom.process",
)

_LOG = logging.getLogger(__name__)


def read_ahead() -> None:
    """Has a thread import, soon and one after the other, all of Loom that a hub may serve, and what that needs. The
    process need not wait for it when it ends."""
    for name in _WHOLE:
        import_module(name)
    Thread(target=_read, name="reading ahead", daemon=True).start()


def _read() -> None:
    time.sleep(_AFTER)
    for name in _modules("loom", loom.__path__):
        try:
            import_module(name)
        except Exception as error:  # an upgrade is under way, or a part of the system is not there
            _LOG.info("%s cannot be read ahead: %s", name, error)
        time.sleep(_PAUSE)


def _modules(package: str, path: list[str]) -> list[str]:
    """The names of all modules below a package that a hub may serve."""
    found = []
    for one in pkgutil.iter_modules(path, f"{package}."):
        if not one.name.startswith(_NOT_SERVED) and not one.name.endswith("__main__"):
            found.append(one.name)
            if one.ispkg:
                found += _modules(one.name, [f"{directory}/{one.name.rpartition('.')[2]}" for directory in path])
    return found
