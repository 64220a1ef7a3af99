"""A lander in a process of its own that is killed at a step, with no chance to clean up: `python dying.py CONFIG STEP`.

CONFIG is a pickled configuration. STEP is one of `STEPS`, with a number behind a colon: at which time that it gets
there; or `none`. With `alone` it has the lease as everybody has; with `at once` it does not ask for one.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from loom.exceptions import LoomError
from loom.graph.front import Loom
from loom.landing.lander import Lander, Report
from loom.landing.proving import Prover
from loom.landing.worktrees import Worktrees

STEPS = ("led", "settled", "merged", "proven", "intended", "moved", "half finished", "finished")
_ROUNDS = 30


class Dying(Lander):
    """Is killed as this process gets to a step."""

    step, left, at_once = "none", 1, False

    def _get_to(self, step: str) -> None:
        if step == self.step:
            Dying.left -= 1
            if Dying.left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    @asynccontextmanager
    async def _leading(self) -> AsyncIterator[bool]:
        if self.at_once:
            self._get_to("led")
            yield True
            return
        async with super()._leading() as leads:
            self._get_to("led")
            yield leads

    async def _settled(self, report: Report) -> str | None:
        tip = await super()._settled(report)
        self._get_to("settled")
        return tip

    async def _merged(self, *given: Any) -> Any:
        batch = await super()._merged(*given)
        self._get_to("merged")
        return batch

    async def _proven(self, *given: Any) -> Any:
        found = await super()._proven(*given)
        self._get_to("proven")
        return found

    async def _moved(self, *given: Any) -> bool:
        self._get_to("intended")
        return await super()._moved(*given)

    async def _finish(self, ids: Sequence[int], *given: Any) -> None:
        self._get_to("moved")
        await super()._finish(ids[:1], *given)
        self._get_to("half finished")
        await super()._finish(ids[1:], *given)

    async def _tidy(self, *given: Any) -> None:
        self._get_to("finished")
        await super()._tidy(*given)


async def _land(config: Any) -> None:
    async with Loom(config, agent="lander") as loom:
        worktrees = await Worktrees.of_project(config)
        async with Prover.of(loom, worktrees.repository) as prover:
            for _ in range(_ROUNDS):
                with suppress(LoomError):
                    report = await (await Dying.of(loom, worktrees, prover)).once()
                    if not (report.landed or report.sent_back or report.busy):
                        return


if __name__ == "__main__":
    Dying.step, _, often = sys.argv[2].partition(":")
    Dying.left, Dying.at_once = int(often or 1), sys.argv[3] == "at once"
    asyncio.run(_land(pickle.loads(Path(sys.argv[1]).read_bytes())))
