"""Starting the hub of an instance, and ending whatever hubs it has."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from loom import bridge
from loom.config import LoomConfig
from loom.services.instance import instance_dir
from loom.services.launcher import every, is_locked

_ENDS_WITHIN = 10.0  # seconds from SIGTERM to SIGKILL: it gives claims back
_GONE_WITHIN = 2.0


def start(config: LoomConfig) -> bool:
    """Has a hub of this version serve, unless the configuration wants none. Returns whether one does. Calling it again
    changes nothing."""
    if config.mcp.hub == "never":
        return False
    root = str(instance_dir(config))
    if (version := answers(config)) == bridge.VERSION:
        return True
    if version and (retired := bridge.ask(root, "retire")) is not None:
        retired[0].close()
    return bridge.start(root) and bool(answers(config))  # where one hangs no other takes its place


def answers(config: LoomConfig) -> str:
    """The version of the hub that takes new sessions; "" where none does."""
    found = bridge.ask(str(instance_dir(config)), "status")
    if found is None:
        return ""
    found[0].close()
    return str(found[1].get("version", ""))


def end(config: LoomConfig) -> int:
    """Ends the hubs of an instance, also those that have retired and still serve somebody; their claims are given back.
    Returns how many there were."""
    hubs = instance_dir(config) / "hubs"
    living = [file for file in hubs.glob("[0-9]*") if is_locked(file)]
    for number, seconds in ((signal.SIGTERM, _ENDS_WITHIN), (signal.SIGKILL, _GONE_WITHIN)):
        _signal(living, number)
        for _ in every(seconds):
            if not any(map(is_locked, living)):
                break
    for file in hubs.glob("[0-9]*"):
        if not is_locked(file):  # of one that was killed
            file.unlink(missing_ok=True)
    if living:
        (instance_dir(config) / bridge.SOCKET).unlink(missing_ok=True)
    return len(living)


def _signal(files: list[Path], number: signal.Signals) -> None:
    for file in files:
        if is_locked(file):  # so that its process lives
            with suppress(OSError, ValueError):
                os.kill(int(file.name), number)
