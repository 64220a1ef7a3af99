"""The watch over one claim while something goes on under it: until when it may, and what has become of the claim."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from loom.background import beside
from loom.graph.model.task import TaskStatus
from loom.orchestration.workers.shift import Shift

if TYPE_CHECKING:
    from datetime import datetime

    from loom.graph.front import Loom
    from loom.graph.model.task import Task

_FIRST_WATCH = 1.0  # seconds that something goes on before its claim is watched: what is short needs no watching
_LONGEST_WATCH = 60.0
_LISTENING = 1.0  # seconds between two looks for how long it may still be silent


class Standing(StrEnum):
    """What has become of a claim."""

    HELD = "held"
    LAPSED = "lapsed"  # and nobody has claimed the task since
    TAKEN = "taken"  # the task was claimed again, or cancelled
    DONE = "done"  # the command said so
    LEFT = "left"  # the command ended it in another way


class Cut(StrEnum):
    """Why something that goes on under a claim must not go on."""

    STOPPED = "stopped"  # the shift is over
    LOST = "lost"  # the claim
    DEADLINE = "deadline"
    SILENCE = "silence"  # nothing has been heard of it for too long


class Watch:
    """The watch over one claim. The time until its deadline counts from here."""

    def __init__(self, loom: Loom, shift: Shift, task: Task, since: datetime | None = None) -> None:
        """`since`: when a claimed task came back to whoever has its claim; None: it was claimed just now."""
        began = since or task.claimed_at
        assert task.deadline_at is not None, "it is claimed"
        assert began is not None, "it is claimed"
        self.span = (task.deadline_at - began).total_seconds()
        self._loom, self._shift, self._task = loom, shift, task
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it lasts already."""
        return time.monotonic() - self._began

    async def standing(self) -> Standing | None:
        """What has become of the claim; None when the shift is over while the servers are away."""
        found = await self._shift.asked(lambda: self._loom.get(self._task.id))
        if found is None:
            return None
        now = found.task
        if now.claim_token != self._task.claim_token or now.status is TaskStatus.CANCELLED:
            return Standing.TAKEN
        if now.status is TaskStatus.CLAIMED:
            return Standing.HELD
        if now.status is TaskStatus.DONE:
            return Standing.DONE
        return Standing.LAPSED if now.lapsed else Standing.LEFT

    async def over(
        self, work: asyncio.Task[Any], gone: Collection[Standing], silence: Callable[[], float] | None = None
    ) -> Cut | None:
        """Waits for some work. Returns None when it is done, else why it must not go on.

        Args:
            gone: what the claim must not have become.
            silence: the seconds that are left at the least until nothing has been heard of it for too long.
        """
        watching = beside(self._until_gone(gone), self._until_lapsed(), _until_silent(silence))
        async with watching as (lost, lapsed, silent):
            await self._shift.until(work, lost, lapsed, silent, timeout=max(self.span - self.seconds, 0))
        if work.done():
            return None
        if self._shift.over:
            return Cut.STOPPED
        if not lost.cancelled():
            lost.result()
        if not (lost.cancelled() and lapsed.cancelled()):
            return Cut.LOST
        return Cut.DEADLINE if silent.cancelled() else Cut.SILENCE

    async def _until_lapsed(self) -> None:
        """Returns when the lease must have ended by this process's own clock, as where the servers cannot be reached to
        renew it: from then on somebody else may be at the task."""
        while (left := self._loom.lease_left(self._task.id, self._task.claim_token)) is not None:
            if left <= 0:
                return
            await asyncio.sleep(left)
        await asyncio.Event().wait()  # it has ended, or was lost, which the servers tell

    async def _until_gone(self, gone: Collection[Standing]) -> None:
        """Returns when one of these has become of the claim. To ask about a task is what keeps its claim from being
        idle, so the time between two questions stays within that limit."""
        longest = min(_LONGEST_WATCH, self._loom.config.orchestration.idle_limit_seconds / 2)
        await asyncio.sleep(min(_FIRST_WATCH, longest))
        changes = partial(self._loom.wait, "task", task_id=self._task.id)
        seen = await self._shift.asked(partial(changes, timeout=0))
        while await self.standing() not in gone and seen is not None:
            seen = await self._shift.asked(partial(changes, since=seen.since, timeout=longest))


async def _until_silent(silence: Callable[[], float] | None) -> None:
    if silence is None:
        await asyncio.Event().wait()
        return
    while (left := silence()) > 0:  # noqa: ASYNC110 - what is heard meanwhile makes it longer, or shorter
        await asyncio.sleep(min(left, _LISTENING))
