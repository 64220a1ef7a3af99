"""Workers: each claims the next task, sees to it (`job.py`), and goes on until nothing is left to do.

One process holds as many as were asked for; any number of processes, on any number of machines, may work on a project.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loom.background import end
from loom.config import logs_dir
from loom.exceptions import ClaimConflictError, InvalidInputError, LoomError, TaskStateError
from loom.graph.model import limits
from loom.orchestration.housekeeping import Housekeeper
from loom.orchestration.workers.job import Bench, Job, JobPhase, JobProgress
from loom.orchestration.workers.left import Left, left_over
from loom.orchestration.workers.review import Reviewer
from loom.orchestration.workers.shift import Shift
from loom.orchestration.workers.worktrees import Worktrees
from loom.process import ProcessTrees

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.graph.store import Claim

RUNNERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "claude": (("claude", "-p", "--permission-mode", "acceptEdits", "--allowedTools", "mcp__loom,Bash(loom:*)"), ()),
    "codex": (("codex", "exec", "--sandbox", "workspace-write"), ("-",)),
}
"""Commands of well-known agents that take a prompt on standard input: the words before and after the user's own."""

_LONGEST_REST = 60.0  # seconds
_SPREAD = 0.05  # seconds over which waiting processes spread when work becomes ready
_FAREWELL = 1.0  # seconds for ending the session
_PREFIX = 32  # characters of a name before host, process and number


@dataclass(frozen=True, slots=True)
class Running:
    """A command that runs now, since `began` on the monotonic clock."""

    agent: str
    task_id: str
    title: str
    began: float


class Workers:
    """Some workers in this process."""

    def __init__(
        self,
        loom: Loom,
        command: Sequence[str],
        *,
        agents: int = 1,
        prefix: str | None = None,
        worktrees: bool = False,
        review: bool = False,
        tell: Callable[[JobProgress], None] = lambda progress: None,
    ) -> None:
        """
        Args:
            command: the words to run, as `command_line` made them.
            agents: how many workers.
            prefix: what their names begin with; host, process and number follow, so that no two have the same.
            worktrees: whether each task gets a git worktree and branch of its own.
            review: whether what a command hands in is reviewed before its task is done.
            tell: is called with what happens to a task, in the event loop.

        Raises:
            InvalidInputError: the prefix is no name, or too long.
            ConfigError, SkillNotFoundError: nobody could review.
        """
        self._loom, self._command, self._in_worktrees, self._tell = loom, list(command), worktrees, tell
        self._reviewer = Reviewer(loom) if review else None
        self._shift = Shift()
        self._free = [f"{_prefix(prefix)}-{number}" for number in range(1, agents + 1)]
        self._jobs: dict[str, asyncio.Task[None]] = {}  # by agent
        self._newest: dict[str, asyncio.Task[None]] = {}  # by task id
        self._running: dict[str, Running] = {}  # by agent
        self._counts = dict.fromkeys(JobPhase, 0)

    @property
    def running(self) -> list[Running]:
        """The commands that run now, longest first."""
        return sorted(self._running.values(), key=lambda one: one.began)

    @property
    def counts(self) -> dict[JobPhase, int]:
        """How often each thing was done so far."""
        return self._counts

    def stop(self) -> None:
        """Ends the commands and gives their claims back; `run` returns soon after."""
        self._shift.end()

    async def run(self) -> list[Left] | None:
        """Works until nothing can be done or waited for any more, and returns what is left unfinished; None when
        stopped before.

        Raises:
            LoomError: the project cannot be reached, the command cannot be started, or there is no git repository.
        """
        loom, config = self._loom, self._loom.config
        root = config.project_dir or Path.cwd()
        worktrees = await Worktrees.of(root, root / ".loom" / "worktrees") if self._in_worktrees else None
        await loom.connect()
        housekeeper = Housekeeper(loom)
        housekeeper.start()
        with (
            ProcessTrees() as trees,
            tempfile.TemporaryDirectory(prefix="loom-work-", ignore_cleanup_errors=True) as scratch,
        ):
            logs = logs_dir(config)
            bench = Bench(
                loom, self._shift, self._command, trees, self._reviewer, worktrees, Path(scratch), logs, self._note
            )
            try:
                left = await self._until_nothing_is_left(bench)
            finally:
                self.stop()
                await asyncio.gather(*self._jobs.values(), return_exceptions=True)
                with suppress(LoomError, TimeoutError):
                    await asyncio.wait_for(loom.end_session(), _FAREWELL)
                await housekeeper.stop()
        if self._shift.broken:
            raise self._shift.broken
        return left

    async def _until_nothing_is_left(self, bench: Bench) -> list[Left] | None:
        """Claims for whoever is free, one at a time. Returns what is left, None when stopped."""
        while not self._shift.over:
            if not self._free:
                await self._shift.until(*self._jobs.values())
                continue
            claim = await self._claim(self._free[0])
            if claim is not None:
                self._begin(bench, self._free.pop(0), claim)
                continue
            if not self._jobs and (left := await self._shift.asked(lambda: left_over(self._loom))) is not None:
                return left
            await self._rest()
        return None

    async def _claim(self, agent: str) -> Claim | None:
        """The best ready task for a worker. Should the servers go away over it, a claim that was made all the same is
        given back first."""
        unsure = False

        async def claim() -> Claim | None:
            nonlocal unsure
            if unsure:
                for task in (await self._loom.heartbeat(agent_id=agent)).tasks:
                    with suppress(ClaimConflictError, TaskStateError):  # it has lapsed
                        await self._loom.release(task.id, agent_id=agent, token=task.claim_token)
            unsure = True
            return await self._loom.claim(agent_id=agent)

        return await self._shift.asked(claim)

    def _begin(self, bench: Bench, agent: str, claim: Claim) -> None:
        job, task_id = Job(bench, agent, claim), claim.task.id
        before = self._newest.get(task_id)  # its claim was lost, and its command is being ended

        async def work() -> None:
            if before is not None:
                await asyncio.wait([before])
            await job.run()

        working = asyncio.create_task(work(), name=agent)
        self._jobs[agent] = self._newest[task_id] = working
        working.add_done_callback(lambda ended: self._finished(agent, task_id, ended))

    def _finished(self, agent: str, task_id: str, ended: asyncio.Task[None]) -> None:
        del self._jobs[agent]
        self._running.pop(agent, None)
        self._free.append(agent)
        if not ended.cancelled() and (error := ended.exception()):
            self._shift.end(error)
        if self._newest.get(task_id) is ended:
            del self._newest[task_id]

    async def _rest(self) -> None:
        """Until there may be something to claim, or to conclude: work became ready, a command ended, a while passed."""
        span = min(self._loom.config.orchestration.sweep_seconds, _LONGEST_REST)

        async def work_is_ready() -> None:
            await self._shift.asked(lambda: self._loom.wait("ready", timeout=span))

        ready = asyncio.create_task(work_is_ready())
        await self._shift.until(ready, *self._jobs.values())
        if ready.done():
            ready.result()
            await asyncio.sleep(random.uniform(0, _SPREAD))
        await end([ready])

    def _note(self, progress: JobProgress) -> None:
        """Counts what happened, and keeps up what runs."""
        self._counts[progress.phase] += 1
        if progress.phase is JobPhase.STARTED:
            self._running[progress.agent] = Running(progress.agent, progress.task_id, progress.title, time.monotonic())
        elif progress.phase is not JobPhase.SENT_BACK:
            del self._running[progress.agent]
        self._tell(progress)


def command_line(words: Sequence[str], runner: str | None = None) -> list[str]:
    """The words to run: those given, or those of a ready-made runner with the given ones added.

    Raises:
        InvalidInputError: there is no such command.
    """
    before, after = RUNNERS[runner] if runner else ((), ())
    name, *rest = (*before, *words, *after)
    found = shutil.which(name)
    if found is None and Path(name).is_file():
        raise InvalidInputError(
            f"`{name}` is not executable.", f"Run `chmod +x {name}`, or name its interpreter first."
        )
    if found is None:
        raise InvalidInputError(
            f"There is no command `{name}` here.", "Install it, or give the path of another one after --."
        )
    return [str(Path(found).absolute()), *rest]


def _prefix(given: str | None) -> str:
    """What the names of this process's workers have in common."""
    prefix = "worker" if given is None else limits.agent_name(given, "agent")
    if len(prefix) > _PREFIX:
        raise InvalidInputError(
            f"agent has {len(prefix)} characters; the limit is {_PREFIX}, because host, process and number follow.",
            "Choose a shorter name.",
        )
    host = re.sub(r"[^A-Za-z0-9_-]", "-", os.uname().nodename.partition(".")[0])[:20]
    return f"{prefix}-{host}-{os.getpid()}"
