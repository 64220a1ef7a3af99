"""Landing without a worker: the rest of the way for one task, or all that waits in the queue.

async with ByHand.of(loom, say) as hand:
    landing = await hand.task("loom-1a2b3c4d", seconds=600)
    report = await hand.queue(seconds=600)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

from loom.exceptions import LandingError, LoomError, TaskStateError
from loom.graph.model.task import Task, TaskStatus
from loom.graph.rules import landings as rules
from loom.graph.rules.holding import Holder
from loom.graph.store import events, landings
from loom.graph.store.landings import Landing, LandingState
from loom.landing.bringing import Back, Ready, bring, enter
from loom.landing.keeping import kept
from loom.landing.lander import Lander, Report
from loom.landing.proving import Prover
from loom.landing.report import failed
from loom.landing.worktrees import Worktrees, branch_of
from loom.texts import one_line
from loom.wording import Shell, Words, call

if TYPE_CHECKING:
    from loom.graph.front import Loom

_LOOKS = 0.5  # seconds between two looks at what somebody else lands


class ByHand:
    """Somebody who lands from a process of his own."""

    def __init__(
        self, loom: Loom, worktrees: Worktrees, prover: Prover, lander: Lander, say: Callable[[str], None]
    ) -> None:
        self._loom, self._worktrees, self._prover, self._say = loom, worktrees, prover, say
        self.lander = lander

    @classmethod
    @asynccontextmanager
    async def of(cls, loom: Loom, say: Callable[[str], None]) -> AsyncIterator[Self]:
        """For a project.

        Args:
            say: is called with what happens, a line each.

        Raises:
            TargetError, CommandError, FileError: there is nothing to land on, or no place to work in.
        """
        worktrees = await Worktrees.of_project(loom.config)
        async with Prover.of(loom, worktrees.repository) as prover:
            yield cls(loom, worktrees, prover, await Lander.of(loom, worktrees, prover), say)

    async def queue(self, seconds: float) -> Report:
        """Lands what waits, until nothing does that could, or the time is over. Raises as `Lander.once`."""
        until, whole = time.monotonic() + seconds, Report()
        while True:
            report = await self.lander.once()
            self._tell(report, whole)
            if report.busy and await self._something_waits():
                await asyncio.sleep(_LOOKS)
            elif not (report.landed or report.sent_back):
                return whole
            if time.monotonic() >= until:
                return whole

    async def task(
        self, task_id: str, seconds: float, *, agent_id: str | None = None, token: int | None = None
    ) -> Landing | None:
        """Lands the work on one task: what its worktree holds is committed, proven and queued, unless it is, and what
        waits before it lands too.

        Args:
            agent_id, token: who holds the claim. What was reported already needs none.

        Returns:
            How it stands: landed, or still queued after that time, or because it waits for a yes; None: it brings the
            target nothing, and is done.

        Raises:
            CheckFailedError, LandingError: it cannot land as it is; the claim stays.
            TaskStateError, ClaimConflictError: it is nobody's claim, or somebody else's.
            LoomError: as `bring` and `Lander.once`.
        """
        until = time.monotonic() + seconds
        task_id = await self._loom.id_of(task_id)
        task = (await self._loom.get(task_id)).task
        landing = await self._newest(task)
        if landing is None or landing.state not in (LandingState.QUEUED, LandingState.LANDED):
            landing = await self._brought(task, landing, Holder(self._loom.caller(agent_id), token))
        while landing is not None and landing.state is LandingState.QUEUED and not landing.waits_for_yes:
            report = await self.lander.once()
            self._tell(report, Report())
            landing = await self._newest(task)
            if time.monotonic() >= until:
                break
            if not report.landed:
                await asyncio.sleep(_LOOKS)
        if landing is not None and landing.state in (LandingState.SENT_BACK, LandingState.DROPPED):
            raise LandingError(
                f"The work on {task_id} did not land: {one_line(landing.reason or 'it left the queue')}",
                one_line(landing.note or "Mend it where it lies, then land it again."),
            )
        return landing

    # --- the way to the queue -----------------------------------------------------------------------------------------

    async def _brought(self, task: Task, landing: Landing | None, holder: Holder) -> Landing | None:
        """Brings the work on a claim into the queue; None where there is nothing to land."""
        task_id = task.id
        if task.status is not TaskStatus.CLAIMED:
            raise TaskStateError(
                f"{task_id} is {task.status.called}, and no work on it waits to land.",
                Words("Claim it first with {}.", call("claim", task_id=task_id)),
            )
        await self._has_place(task_id)
        if landing is None or landing.state is not LandingState.REPORTED:
            branch = branch_of(task_id)
            await self._loom.transact(
                lambda tx: rules.begin(tx, task_id, holder, target=self.lander.target, branch=branch)
            )
        tip = await self.lander.tip()
        tree = await self._worktrees.make(task_id, tip)
        try:
            self._say(f"proving {task_id} on {self.lander.target}")
            async with kept(self._loom, task, task.assignee, task.claim_token):
                found = await bring(self._loom, self._prover, tree, task, task.assignee or holder.agent, tip)
        finally:
            self._worktrees.leave(tree)
        if isinstance(found, Back):
            raise self._refused(task, found)
        return await self._entered(task, found)

    async def _has_place(self, task_id: str) -> None:
        """Raises LandingError where no work on a task lies here that could land."""
        if self._worktrees.find(task_id) is None:
            raise LandingError(
                f"{task_id} has no worktree here, from which its work could land.",
                "Land it on the machine on which it was done.",
            )
        reopened = await self._loom.look(
            lambda connection: events.reopened_at(connection, self._loom.project_id, task_id)
        )
        if reopened is not None and self._worktrees.made_before(task_id, reopened.timestamp()):
            raise LandingError(
                f"{task_id} was reopened, and what lies in its worktree is from before.",
                Words("Give it back, and have a worker begin anew: {}.", Shell("loom work --land")),
            )

    async def _entered(self, task: Task, ready: Ready) -> Landing | None:
        if ready.nothing:
            known = await self._newest(task)
            output = known.output if known is not None else None
            await self._loom.transact(lambda tx: rules.forgo(tx, task.id, task.claim_token, output=output or {}))
            return None
        await enter(self._loom, task, ready, None)
        return await self._newest(task)

    def _refused(self, task: Task, back: Back) -> LoomError:
        if back.red:
            return failed(task.id, back.red)
        where = self._worktrees.find(task.id)
        return LandingError(
            f"The work on {task.id} cannot land: {one_line(back.why)} {one_line(back.note)}".strip(),
            f"Mend it{f' in {where.path}' if where else ''}, then land it again.",
        )

    # --- looking ------------------------------------------------------------------------------------------------------

    async def _newest(self, task: Task) -> Landing | None:
        """How the work of a task's newest claim stands, None where it does not land."""
        project, token = self._loom.project_id, task.claim_token
        return await self._loom.look(lambda connection: landings.of_claim(connection, project, task.id, token))

    async def _something_waits(self) -> bool:
        return bool(
            await self._loom.look(
                lambda connection: landings.waiting(connection, self._loom.project_id, self.lander.target, 1)
            )
        )

    def _tell(self, report: Report, whole: Report) -> None:
        """Says what came of a look, and adds it to the rest."""
        for one in report.landed:
            self._say(f"landed     {one.task_id}  {one.commit[:12]} on {one.target}")
        for back in report.sent_back:
            self._say(f"sent back  {back.task_id}  {one_line(back.reason)}")
        for note in report.notes:
            if note not in whole.notes:
                self._say(f"note: {one_line(note)}")
                whole.notes.append(note)
        whole.landed += report.landed
        whole.sent_back += report.sent_back
