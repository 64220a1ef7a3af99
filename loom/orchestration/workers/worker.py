"""Workers: each claims the next task, sees to it (`job.py`), and goes on until nothing is left to do.

One process holds as many as were asked for; any number of processes, on any number of machines, may work on a project.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from loom.background import end
from loom.config import logs_dir
from loom.exceptions import ClaimConflictError, InvalidInputError, LoomError, TaskStateError
from loom.graph.model import limits
from loom.graph.model.task import TaskStatus
from loom.graph.store import Claim
from loom.landing.worktrees import Worktrees
from loom.orchestration.housekeeping import Housekeeper
from loom.orchestration.workers.job import Bench, Job, JobPhase, JobProgress
from loom.orchestration.workers.left import Left, left_over
from loom.orchestration.workers.prompt import prompt
from loom.orchestration.workers.resting import Rest
from loom.orchestration.workers.review import Reviewer
from loom.orchestration.workers.runners import Command as OwnCommand
from loom.orchestration.workers.runners import Launch, Runner
from loom.orchestration.workers.shift import Shift
from loom.process import ProcessTrees
from loom.wording import Words, call

if TYPE_CHECKING:
    from loom.graph.front import Loom

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
        runner: Runner | None = None,
        agents: int = 1,
        prefix: str | None = None,
        worktrees: bool = False,
        review: bool = False,
        tell: Callable[[JobProgress], None] = lambda progress: None,
    ) -> None:
        """
        Args:
            command: the words to run, as `command_line` made them.
            runner: whose words they are; None: a command of one's own.
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
        self._runner = runner or OwnCommand()
        self._reviewer = Reviewer(loom) if review else None
        self._shift = Shift()
        self._agents = agents
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

    async def preview(self) -> tuple[Launch, str]:
        """What would be run for the best ready task, and what it would be told. Nothing is claimed or made.

        Raises:
            TaskStateError: no task is ready.
        """
        ready = await self._loom.ready(limit=1)
        if not ready.tasks:
            raise TaskStateError(
                "No task is ready, so there is nothing to show.", Words("See {} for what is there.", call("status"))
            )
        claim = await _as_if_claimed(self._loom, ready.tasks[0].id, self._free[0])
        with tempfile.TemporaryDirectory(prefix="loom-work-") as scratch:
            bench = self._bench(ProcessTrees(), await self._worktrees(), Path(scratch))
            errand = bench.errand(claim, self._free[0], Path.cwd(), None)
            return self._runner.start(errand), prompt(claim, bench.setting(errand))

    async def run(self) -> list[Left] | None:
        """Works until nothing can be done or waited for any more, and returns what is left unfinished; None when
        stopped before.

        Raises:
            LoomError: the project cannot be reached, the command cannot be started, or there is no git repository.
        """
        loom = self._loom
        worktrees = await self._worktrees()
        await loom.connect()
        housekeeper = Housekeeper(loom)
        housekeeper.start()
        with (
            ProcessTrees() as trees,
            tempfile.TemporaryDirectory(prefix="loom-work-", ignore_cleanup_errors=True) as scratch,
        ):
            bench = self._bench(trees, worktrees, Path(scratch))
            try:
                left = await self._until_nothing_is_left(bench)
            finally:
                bench.rest.forget()
                self.stop()
                await asyncio.gather(*self._jobs.values(), return_exceptions=True)
                with suppress(LoomError, TimeoutError):
                    await asyncio.wait_for(loom.end_session(), _FAREWELL)
                await housekeeper.stop()
        if self._shift.broken:
            raise self._shift.broken
        return left

    async def _worktrees(self) -> Worktrees | None:
        return await Worktrees.of_project(self._loom.config) if self._in_worktrees else None

    def _bench(self, trees: ProcessTrees, worktrees: Worktrees | None, scratch: Path) -> Bench:
        config = self._loom.config
        return Bench(
            loom=self._loom,
            shift=self._shift,
            rest=Rest(config, self._runner.name, self._agents),
            runner=self._runner,
            words=self._command,
            loom_words=loom_words(),
            trees=trees,
            reviewer=self._reviewer,
            worktrees=worktrees,
            scratch=scratch,
            logs=logs_dir(config),
            tell=self._note,
        )

    async def _until_nothing_is_left(self, bench: Bench) -> list[Left] | None:
        """Claims for whoever is free, one at a time. Returns what is left, None when stopped."""
        while not self._shift.over:
            rest = bench.rest
            if not self._free or (rest.tried and not rest.left and self._jobs):
                await self._shift.until(*self._jobs.values())
                continue
            if rest.left:
                await self._shift.until(*self._jobs.values(), timeout=min(rest.left, _LONGEST_REST))
                if not self._jobs and (left := await self._shift.asked(lambda: left_over(self._loom))) is not None:
                    return left
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
    """The program to run, by its whole path, and what the user adds: of the words given, or of a runner's name and
    these.

    Raises:
        InvalidInputError: there is no such command.
    """
    name, *rest = (runner, *words) if runner else words
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


def loom_words() -> list[str]:
    """What starts this Loom, whatever the directory: in a worktree of Loom's own, `-m` alone would start that one."""
    script = Path(sys.executable).with_name("loom")
    return [str(script)] if script.is_file() else [sys.executable, "-P", "-m", "loom"]


async def _as_if_claimed(loom: Loom, task_id: str, agent: str) -> Claim:
    """A ready task as its next claim would have it."""
    task = (await loom.get(task_id)).task
    claimed = replace(
        task, status=TaskStatus.CLAIMED, assignee=agent, attempt=task.attempt + 1, claim_token=task.claim_token + 1
    )
    needs = [(await loom.get(one)).task for one in task.depends_on]
    inputs = tuple(
        {
            "id": one.id,
            "title": one.title,
            "status": one.status,
            "output": None if one.output is None else json.dumps(one.output),
            "children": None,
        }
        for one in needs
    )
    return Claim(claimed, inputs)


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
