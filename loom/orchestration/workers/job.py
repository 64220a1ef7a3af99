"""A job: one claim, from the start of its command to its report.

    job = Job(bench, agent, claim)
    await job.run()

The claim is kept while the command runs. When it is lost or its deadline has come, the command is killed with all that
it started. A claim that the command ended itself is left as it is. Where it is wanted, what the command hands in is
reviewed while the claim is held; what is not accepted goes back to it once, and then the task has failed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom import files
from loom.background import end
from loom.exceptions import CommandError, DatabaseUnavailableError, FileError, LoomError, ServersError
from loom.graph.model.task import TaskStatus
from loom.orchestration.workers import result
from loom.orchestration.workers.prompt import again, prompt
from loom.orchestration.workers.review import Review, Reviewer, material
from loom.orchestration.workers.shift import Shift
from loom.orchestration.workers.watch import Cut, Standing, Watch
from loom.orchestration.workers.worktrees import Worktrees, branch_of
from loom.process import Ended, ProcessTrees, environment

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.graph.rules.claims import Outcome
    from loom.graph.store import Claim

KILL_GRACE = 5.0  # seconds from SIGTERM to SIGKILL, at the deadline or when the claim was lost
_STOP_GRACE = 0.8  # the same when the shift is over
_STOP_REPORT = 1.0  # seconds for giving the claim back then
_NOT_INHERITED = {"CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SESSION_ID"}  # each command is a new session


class JobPhase(StrEnum):
    """What a worker just did with a task."""

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"
    SENT_BACK = "sent back"  # to the command, by a review
    REPORTED = "reported"  # by the command itself
    LOST = "lost"  # the claim; the report was refused
    GIVEN_BACK = "given back"


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a worker is with a task. `seconds`: since it began with the task; `note`: what more there is to say."""

    phase: JobPhase
    agent: str
    task_id: str
    title: str
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all jobs of a process work with."""

    loom: Loom
    shift: Shift
    command: Sequence[str]
    trees: ProcessTrees  # of the commands that run
    reviewer: Reviewer | None  # None: nothing is reviewed
    worktrees: Worktrees | None  # None: commands run where this process does
    scratch: Path  # the directory for what commands hand in
    logs: Path
    tell: Callable[[JobProgress], None]


class Job:
    """What becomes of one claim."""

    def __init__(self, bench: Bench, agent: str, claim: Claim) -> None:
        """The time until the deadline counts from here."""
        task = claim.task
        self._bench, self._loom, self._shift = bench, bench.loom, bench.shift
        self._agent, self._claim, self._task = agent, claim, task
        self._watch = Watch(bench.loom, bench.shift, claim)
        self._handed_in = bench.scratch / f"{task.id}-{task.claim_token}.json"

    async def run(self) -> None:
        """Sees to it, and tells how far it is: that it has begun, each time it is sent back, and what came of it."""
        self._tell(JobPhase.STARTED)
        phase, note = await self._carry_out()
        self._handed_in.unlink(missing_ok=True)
        self._tell(phase, note)

    def _tell(self, phase: JobPhase, note: str = "") -> None:
        task = self._task
        self._bench.tell(JobProgress(phase, self._agent, task.id, task.title, self._watch.seconds, note))

    # --- the command --------------------------------------------------------------------------------------------------

    async def _carry_out(self) -> _Report:
        """Finds the command its place, and has it work there."""
        task, worktrees = self._task, self._bench.worktrees
        try:
            place = await worktrees.make(task.id) if worktrees else Path.cwd()
        except (LoomError, OSError) as error:
            return await self._fail(f"Its git worktree could not be made. {error}")
        branch = branch_of(task.id) if worktrees else None
        project, reviewed = self._loom.config.project_name, self._bench.reviewer is not None
        return await self._work(place, prompt(self._claim, self._agent, project, branch, reviewed=reviewed))

    async def _work(self, place: Path, text: str, sent_back: str = "") -> _Report:
        """Runs the command and reports. What it hands in is reviewed first, where that is wanted, and goes back to it
        once: `sent_back` is what it is told then."""
        ended = await self._run_command(place, text + sent_back)
        if not isinstance(ended, Ended):
            return ended
        reviewer = self._bench.reviewer
        if reviewer is None or ended.status or await self._watch.standing() not in (Standing.HELD, None):
            return await self._report(ended)
        output = await self._output(ended)
        review = await self._review(reviewer, ended, output)
        if not isinstance(review, Review):
            return review
        if not (review.accepted or sent_back):
            self._tell(JobPhase.SENT_BACK, review.summary)
            return await self._work(place, text, again(review, output))
        await self._tidy()
        if review.accepted:
            return await self._done(review.noted_in(output), f"accepted: {review.summary}")
        return await self._fail(review.reason, output)

    async def _run_command(self, place: Path, text: str) -> Ended | _Report:
        """Runs the command to its end, or brings that about and reports it."""
        bench, task = self._bench, self._task
        if self._shift.over:
            return await self._give_back()
        self._handed_in.unlink(missing_ok=True)
        path = bench.logs / f"{task.id}-{task.attempt}.log"
        try:
            log = files.log(path, bench.logs.parent)
        except OSError as error:
            self._shift.end(FileError(f"{path} cannot be written: {error.strerror}.", "Mend that, then run it again."))
            return await self._give_back()
        try:
            tree = await bench.trees.start(bench.command, text=text, env=self._environment(), cwd=place, log=log)
        except OSError as error:
            why = f"`{bench.command[0]}` could not be started: {error.strerror}."
            self._shift.end(CommandError(why, "Give a command that runs here."))
            return await self._give_back()
        ending = asyncio.create_task(tree.wait())
        cut = await self._watch.over(ending, (Standing.LAPSED, Standing.TAKEN))
        if cut is Cut.STOPPED:
            await tree.kill(_STOP_GRACE)
            await asyncio.wait([ending], timeout=_STOP_REPORT)
            return await self._give_back()
        if cut is not None:
            await tree.kill(KILL_GRACE)
        ended = await ending
        if cut is Cut.LOST:
            return await self._report(ended, killed=True)
        if cut is Cut.DEADLINE:
            await self._tidy()
            return await self._fail(f"The command ran until its deadline, for {self._watch.span:g} s, and was killed.")
        return ended

    def _environment(self) -> dict[str, str]:
        """What the command finds in its environment, with a `loom` in its PATH to report with."""
        env = environment(
            {
                "LOOM_TASK_ID": self._task.id,
                "LOOM_CLAIM_TOKEN": str(self._task.claim_token),
                "LOOM_AGENT_ID": self._agent,
                "LOOM_OUTPUT_FILE": str(self._handed_in),
            },
            without=_NOT_INHERITED,
        )
        if self._loom.config.project_dir:
            env["LOOM_PROJECT_DIR"] = str(self._loom.config.project_dir)
        if shutil.which("loom") is None:
            env["PATH"] = os.pathsep.join([env.get("PATH", os.defpath), str(Path(sys.executable).parent)])
        return env

    async def _output(self, ended: Ended) -> dict[str, Any]:
        """What the command handed in."""
        return await asyncio.to_thread(result.output, ended, self._handed_in)

    async def _review(self, reviewer: Reviewer, ended: Ended, output: dict[str, Any]) -> Review | _Report:
        """Has an output reviewed while its claim is held, or reports why there is no review."""
        shown = material(output, ended)

        async def ask() -> Review:
            return await reviewer.review(self._claim, shown, await self._changes(), self._agent)

        asking = asyncio.create_task(self._shift.asked(ask))
        cut = await self._watch.over(asking, set(Standing) - {Standing.HELD})
        await end([asking])
        error = None if asking.cancelled() else asking.exception()
        if cut is Cut.LOST:
            return await self._report(ended, by="by somebody else")
        if cut is Cut.DEADLINE:
            why = f"Its output was under review until its deadline, {self._watch.span:g} s after the claim."
        elif isinstance(error, LoomError):
            why = f"Its output could not be reviewed. {error}"
        elif cut is None and (review := asking.result()) is not None:
            return review
        if self._shift.over:
            return await self._give_back()
        await self._tidy()
        return await self._fail(why, output)

    async def _changes(self) -> str:
        """What git shows of its work, where it has a worktree."""
        try:
            return await self._bench.worktrees.changes(self._task.id) if self._bench.worktrees else ""
        except LoomError as error:
            return f"What was changed in its git worktree could not be seen. {error}"

    # --- the report ---------------------------------------------------------------------------------------------------

    async def _report(self, ended: Ended, *, killed: bool = False, by: str = "by the command itself") -> _Report:
        """Says how the command ended, unless that was said. `killed`: because its claim was lost; `by`: who has said
        it."""
        standing = await self._watch.standing()
        if standing not in (Standing.TAKEN, Standing.LEFT):  # else somebody may be in the worktree already
            await self._tidy()
        if standing in (Standing.DONE, Standing.LEFT):
            return JobPhase.REPORTED, by
        if standing is Standing.TAKEN or not (killed or ended.status or self._bench.reviewer):
            # A task that was taken is not done by this any more: the refusal keeps the output with its event.
            return await self._done(await self._output(ended) | ({"killed": True} if killed else {}))
        if killed:
            return await self._fail("The command was killed because its claim was lost.")
        return await self._fail(
            result.reason(ended) if ended.status else "Its claim was lost before its output was reviewed."
        )

    async def _tidy(self) -> None:
        """Drops the worktree, before the report that lets somebody else go on with the task, in the same place."""
        if self._bench.worktrees:
            await self._bench.worktrees.drop(self._task.id)

    async def _done(self, output: dict[str, Any], note: str = "") -> _Report:
        task = self._task
        return await self._said(JobPhase.DONE, lambda: self._loom.done(task.id, output, token=task.claim_token), note)

    async def _fail(self, why: str, output: dict[str, Any] | None = None) -> _Report:
        """Says that the task has failed. `output`: what was handed in and does not count."""
        task = self._task
        return await self._said(
            JobPhase.FAILED, lambda: self._loom.fail(task.id, why, output=output, token=task.claim_token), why
        )

    async def _said(self, phase: JobPhase, say: Callable[[], Awaitable[Outcome]], note: str) -> _Report:
        """What became of saying so."""
        try:
            outcome = await self._shift.asked(say)
        except LoomError as refusal:
            return JobPhase.LOST, refusal.cause
        if outcome is None:
            return JobPhase.LOST, "the workers were stopped while the servers were away"
        if outcome.task.status is TaskStatus.FAILED:
            due = outcome.task.retry_at
            then = "a dead letter now" if due is None else f"tried again at {due.astimezone():%H:%M:%S}"
            note = f"{then}; {note}"
        return phase, note

    async def _give_back(self) -> _Report:
        """Releases the claim, its attempt refunded, unless the servers are away: then it lapses."""
        try:
            await asyncio.wait_for(self._loom.release(self._task.id, token=self._task.claim_token), _STOP_REPORT)
        except (DatabaseUnavailableError, ServersError, TimeoutError):
            return JobPhase.LOST, "the servers are away; its lease runs out"
        except LoomError as refusal:
            return JobPhase.LOST, refusal.cause
        return JobPhase.GIVEN_BACK, ""


_Report = tuple[JobPhase, str]
"""What came of a claim, and what more there is to say."""
