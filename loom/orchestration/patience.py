"""Patience with work that is tried again for ever."""

from __future__ import annotations

import logging

from loom.background import Backoff
from loom.exceptions import LoomError

_LOG = logging.getLogger(__name__)


class Patience:
    """How long work rests after an error, longer each time. Each kind of error is logged once until the work
    succeeds."""

    def __init__(self, what: str, shortest: float, longest: float) -> None:
        """
        Args:
            what: the work, as a sentence about it begins.
            shortest: seconds to rest at first; longest: at most.
        """
        self._what, self._backoff = what, Backoff(shortest, longest)
        self._told: set[str] = set()

    def renew(self) -> None:
        """The work has succeeded."""
        self._told.clear()
        self._backoff.renew()

    def after(self, error: Exception) -> float:
        """The work has failed; returns how many seconds to rest."""
        kind = type(error).__name__
        if kind not in self._told:
            self._told.add(kind)
            if isinstance(error, LoomError):
                _LOG.warning("%s has to wait: %s", self._what, error)
            else:
                _LOG.error("%s failed and is tried again", self._what, exc_info=error)
        return self._backoff.rest()
