"""The way of a claim's work onto its target, as its worker goes it: committed, merged, proven, and put into the queue.

    shore = Shore(loom, lander, prover, shift, ended, say)
    found = await shore.bring(worktree, task, agent)
    if isinstance(found, Back): tell the agent found.why and found.note
    await shore.enter(task, found, output, usage)

From there on the queue holds the claim, and whoever lands says what becomes of it. `run` lands from this process beside
the jobs, and finds out about the work of theirs that waits: what has landed, and what came back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from loom.background import Backoff, beside
from loom.exceptions import LoomError, ProofMissingError, TargetError
from loom.graph.rules import landings as rules
from loom.graph.rules.holding import Holder
from loom.graph.store import landing_intents, landings
from loom.graph.store.landings import LandingState
from loom.landing import bringing, checks
from loom.landing.bringing import Back, Ready

if TYPE_CHECKING:
    from loom.db.connection import Connection
    from loom.graph.front import Loom
    from loom.graph.model.task import Task
    from loom.graph.rules.claims import Outcome
    from loom.graph.store.landings import Landing
    from loom.landing.lander import Lander
    from loom.landing.proving import Prover
    from loom.landing.worktrees import Worktree
    from loom.orchestration.workers.shift import Shift

_LOOKS = 1.0  # seconds between two looks at what waits
_TROUBLE = (5.0, 60.0)  # seconds to rest when landing fails, as on a full disk: at first, at most
_FAILURES = 5  # in a row, after which that is no passing trouble


class Shore:
    """What the jobs of a process that lands have in common."""

    def __init__(
        self,
        loom: Loom,
        lander: Lander,
        prover: Prover,
        shift: Shift,
        ended: Callable[[Landing], None],
        say: Callable[[str], None],
    ) -> None:
        """
        Args:
            ended: is called with what has left the queue of the work that this process has put into it.
            say: is called with what a person should know of the target.
        """
        self.landed: dict[str, str] = {}
        """What has landed while this went on: the commit by task."""
        self._loom, self._lander, self._prover, self._shift, self._tell = loom, lander, prover, shift, ended
        self._say, self._said = say, ""
        self._waiting: dict[str, int] = {}  # tasks whose work this process has put into the queue, and their tokens
        self._entered = asyncio.Event()

    @property
    def target(self) -> str:
        """The branch that it lands on."""
        return self._lander.target

    async def tip(self) -> str:
        """Where the target stands. Raises TargetError, CommandError."""
        return await self._lander.tip()

    async def taken_by(self) -> str | None:
        """The command that brings what has landed into the branch that a person is on, None where it is there. Raises
        CommandError."""
        return await self._lander.taken_by()

    def checks(self, task: Task) -> tuple[str, ...]:
        """The names of the checks that a task's work has to pass."""
        return tuple(dict.fromkeys((*checks.every(self._loom.config), *task.checks)))

    # --- one claim's work ---------------------------------------------------------------------------------------------

    async def begin(self, task: Task, agent: str, worktree: Worktree) -> None:
        """Says that a claim lands, or that its worker is at it again. Raises LoomError: it is not held."""
        holder = Holder(agent, task.claim_token)
        await self._loom.transact(
            lambda tx: rules.begin(tx, task.id, holder, target=self.target, branch=worktree.branch)
        )

    async def reported(self, task: Task) -> dict[str, Any] | None:
        """The output that the agent has reported himself, None before he has."""
        found = await self._loom.look(
            lambda connection: landings.of_claim(connection, self._loom.project_id, task.id, task.claim_token)
        )
        return found.output or {} if found is not None and found.state is LandingState.REPORTED else None

    async def bring(self, worktree: Worktree, task: Task, agent: str) -> Ready | Back:
        """Commits what lies in a worktree, merges the target into it, and proves that.

        Raises:
            TargetError: the target is gone, or was moved.
            ProofMissingError, ConfigError: a check is not in force.
            CommandError, FileError: git, or what makes a place to prove in, refuses.
        """
        tip = await self._lander.tip()
        return await bringing.bring(self._loom, self._prover, worktree, task, agent, tip)

    async def conflict(self, worktree: Worktree, task: Task, agent: str) -> Back | None:
        """Merges the target into work that came back from the queue, where it was merged without its files: what it
        conflicts with lies in them then. Raises as `bring`."""
        merged = await bringing.merge(self._loom, worktree, task, agent, await self._lander.tip())
        return merged if isinstance(merged, Back) and merged.conflict else None

    async def send_back(self, task: Task, agent: str, worktree: Worktree, back: Back) -> None:
        """Notes that work goes back to its agent, who is at it again. Raises LoomError: it is not held."""
        project = self._loom.project_id
        found = await self._loom.look(
            lambda connection: landings.of_claim(connection, project, task.id, task.claim_token)
        )
        if found is not None:
            await self._loom.transact(lambda tx: rules.send_back(tx, found.id, back.why, back.note or None))
        await self.begin(task, agent, worktree)

    async def enter(self, task: Task, ready: Ready, output: Mapping[str, Any], usage: Mapping[str, Any]) -> None:
        """Puts proven work into the queue. Raises LoomError: its claim was lost."""
        await bringing.enter(self._loom, task, ready, output, usage)
        self._waiting[task.id] = task.claim_token
        self._entered.set()

    async def forgo(self, task: Task, output: Mapping[str, Any]) -> Outcome:
        """Finishes a task that brings its target nothing. Raises LoomError: its claim was lost."""
        return await self._loom.transact(lambda tx: rules.forgo(tx, task.id, task.claim_token, output=output))

    # --- landing beside the jobs --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Lands what waits, and looks what became of this process's own, until the shift is over."""
        backoff, failures = Backoff(*_TROUBLE), 0
        while not self._shift.over:
            try:
                await self._shift.asked(self._land)
                backoff.renew()
                failures = 0
            except (TargetError, ProofMissingError) as error:
                self._shift.end(error)
            except LoomError as error:
                failures += 1
                self._say_once(str(error))
                if failures >= _FAILURES:
                    self._shift.end(error)
                await self._shift.until(timeout=backoff.rest())
            await self.look()
            async with beside(self._entered.wait()) as (entered,):
                await self._shift.until(entered, timeout=_LOOKS)

    async def _land(self) -> None:
        """Lands until nothing waits that this process could land."""
        while not self._shift.over and await self._loom.look(self._something_waits):
            self._entered.clear()
            report = await self._lander.once()
            for one in report.landed:
                if one.task_id not in self.landed:
                    self.landed[one.task_id] = one.commit
            for note in report.notes:
                self._say_once(note)
            await self.look()
            if not (report.landed or report.sent_back):
                return

    def _say_once(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._say(text)

    async def _something_waits(self, connection: Connection) -> bool:
        project, target = self._loom.project_id, self._lander.target
        return bool(
            await landings.waiting(connection, project, target, 1)
            or await landing_intents.still_open(connection, project, target)
        )

    async def look(self) -> None:
        """Finds out, and tells, what became of what this process has put into the queue."""
        if not self._waiting:
            return
        waiting, project = dict(self._waiting), self._loom.project_id

        async def look(connection: Connection) -> dict[str, Landing | None]:
            return {
                task_id: await landings.of_claim(connection, project, task_id, token)
                for task_id, token in waiting.items()
            }

        for task_id, found in (await self._shift.asked(lambda: self._loom.look(look)) or {}).items():
            if found is None or found.state is LandingState.QUEUED or self._waiting.get(task_id) != waiting[task_id]:
                continue  # it waits on, or another look, at the same time, was first
            del self._waiting[task_id]
            if found.state is LandingState.LANDED and found.landed_commit:
                self.landed[task_id] = found.landed_commit
            self._tell(found)
