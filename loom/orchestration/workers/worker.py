"""Workers: each claims the next task, sees to it (`job.py`), and goes on until nothing is left to do.

One process holds as many as were asked for; any number of processes, on any number of machines, may work on a project.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.background import beside, end
from loom.config import logs_dir
from loom.exceptions import ClaimConflictError, InvalidInputError, LoomError, NotFromAfarError, TaskStateError
from loom.graph import store
from loom.graph.model import limits
from loom.graph.store import Claim
from loom.graph.store.landings import LandingState
from loom.landing.baseline import baseline, begins_from
from loom.landing.lander import Lander
from loom.landing.places import Scratch
from loom.landing.proving import Prover
from loom.landing.report import Reports
from loom.landing.target import OWN
from loom.landing.worktrees import Worktrees, tidy
from loom.orchestration.housekeeping import Housekeeper
from loom.orchestration.workers.bench import Bench, JobPhase, JobProgress
from loom.orchestration.workers.job import Job
from loom.orchestration.workers.left import Left, left_over
from loom.orchestration.workers.prompt import prompt
from loom.orchestration.workers.resting import Rest
from loom.orchestration.workers.review import Reviewer
from loom.orchestration.workers.runners import Command as OwnCommand
from loom.orchestration.workers.runners import Launch, Runner
from loom.orchestration.workers.shift import Shift
from loom.orchestration.workers.shore import Shore
from loom.process import ProcessTrees
from loom.wording import Words, call

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.graph.store.landings import Landing

_LONGEST_REST = 60.0  # seconds
_SPREAD = 0.05  # seconds over which waiting processes spread when work becomes ready
_TIDYING = 60.0  # seconds for removing what is left of tasks that are over
_FAREWELL = 1.0  # seconds for ending the session
_PREFIX = 32  # characters of a name before host, process and number


@dataclass(frozen=True, slots=True)
class Running:
    """A task that is worked on now: how far it is, since `began` on the monotonic clock."""

    agent: str
    task_id: str
    title: str
    phase: JobPhase
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
        land: bool = False,
        target: str | None = None,
        baseline: bool = True,
        review: bool = False,
        tell: Callable[[JobProgress], None] = lambda progress: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """
        Args:
            command: the words to run, as `command_line` made them.
            runner: whose words they are; None: a command of one's own.
            agents: how many workers.
            prefix: what their names begin with; host, process and number follow, so that no two have the same.
            worktrees: whether each task gets a git worktree and branch of its own.
            land: whether what is done lands on a branch before its task is done; each task has a worktree then.
            target: that branch; None: as configured.
            baseline: whether that branch is proven before anything is claimed.
            review: whether what a command hands in is reviewed before its task is done.
            tell: is called with what happens to a task, in the event loop; `say` with what concerns no task alone.

        Raises:
            InvalidInputError: the prefix is no name, or too long.
            ConfigError, SkillNotFoundError: nobody could review.
            NotFromAfarError: what is to land is proven and noted in the database, and that is behind a server here.
        """
        if land and not loom.keeps_order:
            raise NotFromAfarError(
                "Work lands where the project's database is, and it is behind a server here.",
                "Work without landing, and bring the branches there yourself.",
            )
        self._loom, self._command, self._in_worktrees, self._tell = loom, list(command), worktrees or land, tell
        self._runner = runner or OwnCommand()
        self._lands, self._target, self._proves_first, self._say = land, target, baseline, say
        self._reviewer = Reviewer(loom) if review else None
        self._shift = Shift()
        self._agents = agents
        self._free = [f"{_prefix(prefix, loom.names_begin)}-{number}" for number in range(1, agents + 1)]
        self._jobs: dict[str, asyncio.Task[None]] = {}  # by agent
        self._newest: dict[str, asyncio.Task[None]] = {}  # by task id
        self._running: dict[str, Running] = {}  # by task id
        self._queued: dict[str, Job] = {}  # by task id, whose work waits to land
        self._back: list[tuple[Job, Landing]] = []  # those whose work came back
        self._early: dict[str, Landing] = {}  # what left the queue before its job had ended, by task id
        self._concluding: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()  # something came back
        self._shore: Shore | None = None
        self._taken_by: str | None = None
        self._counts = dict.fromkeys(JobPhase, 0)

    @property
    def running(self) -> list[Running]:
        """The commands that run now, longest first."""
        return sorted(self._running.values(), key=lambda one: one.began)

    @property
    def queued(self) -> int:
        """How many tasks wait to land."""
        return len(self._queued)

    @property
    def landed(self) -> dict[str, str]:
        """What has landed while this went on: the commit by task."""
        return self._shore.landed if self._shore else {}

    @property
    def target(self) -> str | None:
        """The branch that work lands on, if it does."""
        return self._shore.target if self._shore else None

    @property
    def taken_by(self) -> str | None:
        """Once it is over, the command that brings what has landed into the branch that a person is on; None: it is
        there."""
        return self._taken_by

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
            LoomError: as `run` does before it claims.
        """
        worktrees = await self._worktrees()
        if worktrees is not None:
            await self._can_be_run_in(worktrees)
        ready = await self._loom.ready(limit=1)
        if not ready.tasks:
            raise TaskStateError(
                "No task is ready, so there is nothing to show.", Words("See {} for what is there.", call("status"))
            )
        task = (await self._loom.get(ready.tasks[0].id)).task
        claim = await self._loom.look(lambda connection: store.as_claimed(connection, task, self._free[0]))
        with Scratch.make() as scratch:
            bench = self._bench(ProcessTrees(), worktrees, scratch)
            errand = bench.errand(claim, self._free[0], Path.cwd(), None)
            setting = bench.setting(errand)
            if self._lands:
                setting = replace(setting, target=self._target or self._loom.config.landing.target or OWN)
            return self._runner.start(errand), prompt(claim, setting)

    async def run(self) -> list[Left] | None:
        """Works until nothing can be done or waited for any more, and returns what is left unfinished; None when
        stopped before.

        Raises:
            LoomError: the project cannot be reached, the command cannot be started, or there is no git repository.
        """
        loom = self._loom
        worktrees = await self._worktrees()
        await loom.connect()
        if worktrees is not None:
            await self._can_be_run_in(worktrees)
        housekeeper = Housekeeper(loom)
        housekeeper.start()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(housekeeper.stop)
            self._shore = await self._landing(worktrees, stack) if self._lands and worktrees else None
            trees = stack.enter_context(ProcessTrees())
            bench = self._bench(trees, worktrees, stack.enter_context(Scratch.make()))
            stack.push_async_callback(bench.reports.close)
            left = None
            try:
                async with beside(*([self._shore.run()] if self._shore else [])):
                    left = await self._until_all_has_ended(bench)
            finally:
                if self._shore and worktrees:  # also what somebody left who was killed over it
                    with suppress(LoomError, TimeoutError):
                        await asyncio.wait_for(tidy(loom, worktrees), _FAREWELL if left is None else _TIDYING)
                with suppress(LoomError, TimeoutError):
                    await asyncio.wait_for(loom.end_session(), _FAREWELL)
        if self._shift.broken:
            raise self._shift.broken
        return left

    async def _worktrees(self) -> Worktrees | None:
        return await Worktrees.of_project(self._loom.config) if self._in_worktrees else None

    async def _can_be_run_in(self, worktrees: Worktrees) -> None:
        """Raises InvalidInputError where the command names a file here that the worktrees of tasks, where it runs, do
        not have: it would fail there, task after task."""
        config, begins, named = self._loom.config, "HEAD", _files_named(self._command[1:])
        if named and self._lands:
            begins, _ = await begins_from(self._loom, worktrees.repository, self._target)
        for name, path in named.items():
            if not await worktrees.would_have(name, begins, brought=(*config.work.copy, *config.work.keep)):
                raise InvalidInputError(
                    f"`{name}` is a file here, but not in the worktree of a task, where the command runs.",
                    f"Give its whole path: {path}",
                )

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
            reports=Reports(self._loom),
            reviewer=self._reviewer,
            worktrees=worktrees,
            scratch=scratch,
            logs=logs_dir(config),
            shore=self._shore,
            tell=self._note,
        )

    async def _landing(self, worktrees: Worktrees, stack: AsyncExitStack) -> Shore:
        """What work lands by, once it is known that the branch it lands on is green, or the shift is over. Raises
        LoomError."""
        prover = await stack.enter_async_context(Prover.of(self._loom, worktrees.repository))
        if self._proves_first:
            self._say("Proving what work begins from, in a fresh worktree.")
            async with beside(baseline(self._loom, worktrees.repository, prover, self._target)) as (proving,):
                await self._shift.until(proving)
            if not proving.cancelled():
                proving.result()
        lander = await Lander.of(self._loom, worktrees, prover, self._target)
        return Shore(self._loom, lander, prover, self._shift, self._left_the_queue, self._say)

    async def _until_all_has_ended(self, bench: Bench) -> list[Left] | None:
        """Works until nothing is left, or it is stopped, and every job has ended. Returns what is left, None when
        stopped."""
        try:
            return await self._until_nothing_is_left(bench)
        finally:
            try:
                if self._shore is not None and self._shore.landed:
                    with suppress(LoomError, TimeoutError):
                        self._taken_by = await asyncio.wait_for(self._shore.taken_by(), _FAREWELL)
                bench.rest.forget()
                self.stop()
                await asyncio.gather(*self._jobs.values(), *self._concluding, return_exceptions=True)
            finally:
                await end([*self._jobs.values(), *self._concluding])  # where who waits for them is cancelled

    async def _until_nothing_is_left(self, bench: Bench) -> list[Left] | None:
        """Claims for whoever is free, one at a time. Returns what is left, None when stopped."""
        while not self._shift.over:
            rest = bench.rest
            if not self._free or (rest.tried and not rest.left and self._jobs):
                await self._shift.until(*self._jobs.values())
                continue
            if rest.left:
                await self._shift.until(*self._jobs.values(), timeout=min(rest.left, _LONGEST_REST))
                if (left := await self._left()) is not None:
                    return left
                continue
            self._news.clear()
            if self._back:
                self._begin_again(self._free.pop(0), *self._back.pop(0))
                continue
            claim = await self._claim(self._free[0])
            if claim is not None:
                self._begin(bench, self._free.pop(0), claim)
                continue
            if (left := await self._left()) is not None:
                return left
            await self._rest()
        return None

    async def _left(self) -> list[Left] | None:
        """What is left, None while there is something to do or to wait for."""
        if self._jobs or (left := await self._shift.asked(lambda: left_over(self._loom))) is None:
            return None
        if self._shore is not None:  # it tells what has landed last
            await self._shore.look()
        while self._concluding:
            await asyncio.wait(self._concluding)
        return None if self._back else left

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
            self._keep_if_queued(task_id, job)

        self._work(agent, task_id, work())

    def _begin_again(self, agent: str, job: Job, landing: Landing) -> None:
        """Has work go on that came back. `agent`: who is free for it; the claim is still that of the one who had it."""

        async def work() -> None:
            await job.resume(landing)
            self._keep_if_queued(landing.task_id, job)

        self._work(agent, landing.task_id, work())

    def _work(self, agent: str, task_id: str, work: Coroutine[Any, Any, None]) -> None:
        working = asyncio.create_task(work, name=agent)
        self._jobs[agent] = self._newest[task_id] = working
        working.add_done_callback(lambda ended: self._finished(agent, task_id, ended))

    def _keep_if_queued(self, task_id: str, job: Job) -> None:
        if job.queued:
            self._queued[task_id] = job
            if (landing := self._early.pop(task_id, None)) is not None:
                self._left_the_queue(landing)

    def _left_the_queue(self, landing: Landing) -> None:
        """Has a free worker go on with what came back, and takes note of what has landed."""
        job = self._queued.pop(landing.task_id, None)
        if job is None:  # its job is about to end
            self._early[landing.task_id] = landing
        elif landing.state is LandingState.SENT_BACK:
            self._back.append((job, landing))
            self._news.set()
        else:
            concluding = asyncio.create_task(job.conclude(landing))
            self._concluding.add(concluding)
            concluding.add_done_callback(self._concluding.discard)

    def _finished(self, agent: str, task_id: str, ended: asyncio.Task[None]) -> None:
        del self._jobs[agent]
        self._free.append(agent)
        if not ended.cancelled() and (error := ended.exception()):
            self._shift.end(error)
        if self._newest.get(task_id) is ended:
            del self._newest[task_id]
            self._running.pop(task_id, None)

    async def _rest(self) -> None:
        """Until there may be something to claim, or to conclude: work became ready, a command ended, a while passed."""
        span = min(self._loom.config.orchestration.sweep_seconds, _LONGEST_REST)

        async def work_is_ready() -> None:
            await self._shift.asked(lambda: self._loom.wait("ready", timeout=span))

        async with beside(work_is_ready(), self._news.wait()) as (ready, news):
            await self._shift.until(ready, news, *self._jobs.values())
            if ready.done():
                ready.result()
                await asyncio.sleep(random.uniform(0, _SPREAD))

    def _note(self, progress: JobProgress) -> None:
        """Counts what happened, and keeps up what runs."""
        self._counts[progress.phase] += 1
        if progress.phase.last:
            self._running.pop(progress.task_id, None)
        else:
            self._running[progress.task_id] = Running(
                progress.agent, progress.task_id, progress.title, progress.phase, time.monotonic()
            )
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


def _files_named(words: Sequence[str]) -> dict[str, Path]:
    """The words, also behind the `=` of an option, that are relative paths of files here, and their whole paths."""
    found = {}
    for word in words:
        name = word.partition("=")[2] if word.startswith("-") else word
        with suppress(OSError, ValueError):  # it is no name of a file
            if not Path(name).is_absolute() and Path(name).is_file():
                found[name] = Path(name).resolve()
    return found


def loom_words() -> list[str]:
    """What starts this Loom, whatever the directory: in a worktree of Loom's own, `-m` alone would start that one."""
    script = Path(sys.executable).with_name("loom")
    return [str(script)] if script.is_file() else [sys.executable, "-P", "-m", "loom"]


def _prefix(given: str | None, names_begin: str) -> str:
    """What the names of this process's workers have in common."""
    prefix = f"{names_begin}worker" if given is None else limits.agent_name(given, "agent")
    if len(prefix) > _PREFIX:
        raise InvalidInputError(
            f"agent has {len(prefix)} characters; the limit is {_PREFIX}, because host, process and number follow.",
            "Choose a shorter name.",
        )
    host = re.sub(r"[^A-Za-z0-9_-]", "-", os.uname().nodename.partition(".")[0])[:20]
    return f"{prefix}-{host}-{os.getpid()}"
