"""Rests: how long all workers of a process leave their runner alone that has met a limit, or whose provider is away.

`rest.take(end)` begins or prolongs one; `resting(config)` says to others on this machine who rests now, and why.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom import files, texts
from loom.background import Backoff
from loom.config import LoomConfig, logs_dir
from loom.process import identity

if TYPE_CHECKING:
    from loom.orchestration.workers.runners import End

_AGAIN = (15.0, 900.0)  # seconds, where nobody says until when: at first, at most
_AFTER = 2.0  # seconds after the moment that was told
_ANSWERED = 2  # times that a provider answers others between two times that it is away for one task
_AWAY = 12  # times that it is away for one task, which takes hours
_FILE, _FILE_BYTES = "resting-{}.json", 4096
_WHY_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Resting:
    """Who rests: a runner's name, how many workers, until when, and why."""

    runner: str
    agents: int
    until: datetime
    why: str


class Rest:
    """The rests of one process's workers. `tried`: whether its last one is over and nothing has succeeded since, so
    that one worker at a time is enough to find out."""

    def __init__(self, config: LoomConfig, runner: str, agents: int) -> None:
        self.tried = False
        self._runner, self._agents = runner, agents
        self._backoff = Backoff(*_AGAIN, jitter=0.1)
        self._over = 0.0  # on the monotonic clock
        self._until = datetime.now(UTC)
        self._file = logs_dir(config) / _FILE.format(os.getpid())
        self._answered = 0  # how often a run has ended in another way
        # By task: how often its provider was away, how often after it had answered others, and `_answered` then.
        self._away: dict[str, tuple[int, int, int]] = {}

    @property
    def left(self) -> float:
        """The seconds that are left of it; 0 where nobody rests."""
        return max(self._over - time.monotonic(), 0.0)

    def take(self, end: End) -> Resting:
        """A run has ended that way."""
        now = datetime.now(UTC)
        seconds = (end.until - now).total_seconds() + _AFTER if end.until else 0.0
        if seconds <= 0 or (self.tried and not self.left):  # who was told wrong does not ask again and again
            seconds = max(seconds, self.left or self._backoff.rest())
        if seconds > self.left:
            self._over, self._until = time.monotonic() + seconds, now + timedelta(seconds=seconds)
        why = texts.shorten(texts.one_line(end.said), _WHY_CHARACTERS)
        found = Resting(self._runner, self._agents, self._until, why)
        self.tried = True
        self._publish(found)
        return found

    def blames(self, task_id: str) -> bool:
        """Whether it must be the task: its provider was away for it again, and had answered others each time before, or
        nobody else was asked for long, as where its priority is the best."""
        times, between, answered = self._away.pop(task_id, (0, 0, self._answered))
        times, between = times + 1, between + (answered != self._answered)
        if between >= _ANSWERED or times >= _AWAY:
            return True
        self._away[task_id] = times, between, self._answered
        return False

    def succeeded(self) -> None:
        """A run has ended in another way: the next rest is a first one."""
        self._answered += 1
        if not self.left:
            self.tried = False
            self._backoff.renew()
            self.forget()

    def forget(self) -> None:
        """Tells nobody any more."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)

    def _publish(self, found: Resting) -> None:
        facts = {
            "process": identity.own(),
            "runner": found.runner,
            "agents": found.agents,
            "until": found.until.isoformat(timespec="seconds"),
            "why": found.why,
        }
        with suppress(OSError):  # it rests all the same
            files.write(self._file, json.dumps(facts), 0o600, within=self._file.parent.parent)


def resting(config: LoomConfig) -> list[Resting]:
    """The workers on this machine that rest now."""
    directory = logs_dir(config)
    found = [_read(path) for path in sorted(directory.glob(_FILE.format("*")))]
    return [one for one in found if one is not None]


def _read(path: Path) -> Resting | None:
    try:
        facts: dict[str, Any] = json.loads(files.read(path, _FILE_BYTES, path.parent.parent))
        until = datetime.fromisoformat(facts["until"])
        found = Resting(str(facts["runner"]), int(facts["agents"]), until, str(facts["why"]))
        gone = until < datetime.now(UTC) or identity.is_gone(facts["process"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # it has just ended, or is none of Loom's
        return None
    return None if gone else found
