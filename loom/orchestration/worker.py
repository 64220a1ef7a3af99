"""Workers: each claims the next task, runs a command for it, and reports how the command ended.

One process holds as many as were asked for; any number of processes, on any number of machines, may work on a project.
A claim is kept while its command runs. When the claim is lost or its deadline has come, the command is killed with all
that it started. A claim that the command ended itself is left as it is.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from loom.bus.background import end
from loom.exceptions import (
    ClaimConflictError,
    DatabaseUnavailableError,
    InvalidInputError,
    LoomError,
    ServersError,
    TaskStateError,
)
from loom.graph import limits
from loom.graph.task import Task, TaskStatus
from loom.orchestration import result
from loom.orchestration.left import Left, left_over
from loom.orchestration.process import Commands, Ended, Tree
from loom.orchestration.prompt import prompt
from loom.orchestration.sweeper import Housekeeper
from loom.orchestration.worktrees import Worktrees, branch_of

if TYPE_CHECKING:
    from loom.graph.claims import Outcome
    from loom.graph.front import Loom
    from loom.graph.store import Claim

T = TypeVar("T")

RUNNERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "claude": (("claude", "-p", "--permission-mode", "acceptEdits", "--allowedTools", "mcp__loom,Bash(loom:*)"), ()),
    "codex": (("codex", "exec", "--sandbox", "workspace-write"), ("-",)),
}
"""Commands of well-known agents that take a prompt on standard input: the words before and after the user's own."""

KILL_GRACE = 5.0  # seconds from SIGTERM to SIGKILL, at the deadline or when the claim was lost
_STOP_GRACE = 0.8  # the same when the workers are stopped
_STOP_REPORT = 1.0  # seconds for giving a claim back then
_FIRST_WATCH = 1.0  # seconds that a command runs before its claim is watched: short ones need no watching
_LONGEST_WATCH = 60.0
_SPREAD = 0.05  # seconds over which waiting processes spread when work becomes ready
_PAUSES = (0.25, 10.0)  # seconds between tries while the servers are away: at first, at most
_PREFIX = 32  # characters of a name before host, process and number
_NOT_INHERITED = {"CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SESSION_ID"}  # each command is a new session


class What(StrEnum):
    """What a worker did with a task."""

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"
    REPORTED = "reported"  # by the command itself
    LOST = "lost"  # the claim; the report was refused
    GIVEN_BACK = "given back"


@dataclass(frozen=True, slots=True)
class Step:
    """Something a worker did. `seconds`: how long the command ran; `note`: what more there is to say."""

    what: What
    agent: str
    task_id: str
    title: str
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """A command that runs now, since `began` on the monotonic clock."""

    agent: str
    task_id: str
    title: str
    began: float


class _Standing(StrEnum):
    """What has become of a claim."""

    HELD = "held"
    LAPSED = "lapsed"  # and nobody has claimed the task since
    TAKEN = "taken"  # the task was claimed again, or cancelled
    DONE = "done"  # the command said so
    LEFT = "left"  # the command ended it in another way


_Report = tuple[What, str]
"""What came of a claim, and what more there is to say."""


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
        tell: Callable[[Step], None] = lambda step: None,
    ) -> None:
        """
        Args:
            command: the words to run, as `command_line` made them.
            agents: how many workers.
            prefix: what their names begin with; host, process and number follow, so that no two have the same.
            worktrees: whether each task gets a git worktree and branch of its own.
            tell: is called with each step, in the event loop.

        Raises:
            InvalidInputError: the prefix is no name, or too long.
        """
        self._loom, self._command, self._tell = loom, list(command), tell
        self._in_worktrees = worktrees
        self._free = [f"{_prefix(prefix)}-{number}" for number in range(1, agents + 1)]
        self._jobs: dict[str, asyncio.Task[None]] = {}  # by agent
        self._newest: dict[str, asyncio.Task[None]] = {}  # by task id
        self._running: dict[str, Running] = {}
        self._counts = dict.fromkeys(What, 0)
        self._stop = asyncio.Event()
        self._broken: BaseException | None = None
        self._commands = Commands()
        self._worktrees: Worktrees | None = None
        self._scratch = self._logs = Path()

    @property
    def running(self) -> list[Running]:
        """The commands that run now, longest first."""
        return sorted(self._running.values(), key=lambda one: one.began)

    @property
    def counts(self) -> dict[What, int]:
        """How often each thing was done so far."""
        return self._counts

    def stop(self) -> None:
        """Ends the commands and gives their claims back; `run` returns soon after."""
        self._stop.set()

    async def run(self) -> list[Left] | None:
        """Works until nothing can be done or waited for any more, and returns what is left unfinished; None when
        stopped before.

        Raises:
            LoomError: the project cannot be reached, the command cannot be started, or there is no git repository.
        """
        config = self._loom.config
        if self._in_worktrees:
            root = config.project_dir or Path.cwd()
            self._worktrees = await Worktrees.of(root, root / ".loom" / "worktrees")
        await self._loom.connect()
        housekeeper = Housekeeper(self._loom)
        housekeeper.start()
        with self._commands, tempfile.TemporaryDirectory(prefix="loom-work-", ignore_cleanup_errors=True) as scratch:
            self._scratch = Path(scratch)
            self._logs = config.loom_dir / "logs" if config.loom_dir else Path(tempfile.gettempdir()) / "loom-logs"
            self._logs.mkdir(parents=True, exist_ok=True)
            try:
                left = await self._until_nothing_is_left()
            finally:
                self.stop()
                await asyncio.gather(*self._jobs.values(), return_exceptions=True)
                with suppress(LoomError, TimeoutError):
                    await asyncio.wait_for(self._loom.end_session(), _STOP_REPORT)
                await housekeeper.stop()
        if self._broken:
            raise self._broken
        return left

    # --- all workers together -----------------------------------------------------------------------------------------

    async def _until_nothing_is_left(self) -> list[Left] | None:
        """Claims for whoever is free, one at a time. Returns what is left, None when stopped."""
        while not self._stop.is_set():
            if not self._free:
                await self._until(*self._jobs.values())
                continue
            claim = await self._claim(self._free[0])
            if claim is not None:
                self._begin(self._free.pop(0), claim)
            elif self._jobs:
                await self._rest()
            else:
                left = await self._asked(lambda: left_over(self._loom))
                if left is not None:
                    return left
                await self._rest()
        return None

    def _begin(self, agent: str, claim: Claim) -> None:
        job = asyncio.create_task(self._work(agent, claim, self._newest.get(claim.task.id)), name=agent)
        self._jobs[agent] = self._newest[claim.task.id] = job
        job.add_done_callback(lambda job: self._finished(agent, claim.task.id, job))

    def _finished(self, agent: str, task_id: str, job: asyncio.Task[None]) -> None:
        del self._jobs[agent]
        self._free.append(agent)
        if not job.cancelled() and (error := job.exception()):
            self._broken = error
            self.stop()
        if self._newest.get(task_id) is job:
            del self._newest[task_id]

    async def _claim(self, agent: str) -> Claim | None:
        """The best ready task for a worker. Should the servers go away over it, a claim that was made all the same is
        given back first."""
        unsure = False

        async def claim() -> Claim | None:
            nonlocal unsure
            if unsure:
                for task in await self._loom.heartbeat(agent_id=agent):
                    with suppress(ClaimConflictError, TaskStateError):  # it has lapsed
                        await self._loom.release(task.id, agent_id=agent, token=task.claim_token)
            unsure = True
            return await self._loom.claim(agent_id=agent)

        return await self._asked(claim)

    async def _rest(self) -> None:
        """Until there may be something to claim, or to conclude: work became ready, a command ended, a while passed."""
        span = min(self._loom.config.orchestration.sweep_seconds, _LONGEST_WATCH)

        async def work_is_ready() -> None:
            await self._asked(lambda: self._loom.wait("ready", timeout=span))

        ready = asyncio.create_task(work_is_ready())
        await self._until(ready, *self._jobs.values())
        if ready.done():
            ready.result()
            await asyncio.sleep(random.uniform(0, _SPREAD))
        await end([ready])

    async def _until(self, *tasks: asyncio.Task[Any], timeout: float | None = None) -> bool:
        """Until one of these is done or the workers are stopped, at most so many seconds. False when stopped."""
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait([stop, *tasks], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        return not self._stop.is_set()

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """An answer of the servers, however long they are away; None when the workers are stopped over it."""
        pause, longest = _PAUSES
        while True:
            try:
                return await ask()
            except (DatabaseUnavailableError, ServersError):  # the housekeeper says so
                if not await self._until(timeout=pause):
                    return None
                pause = min(pause * 2, longest)

    # --- one claim ----------------------------------------------------------------------------------------------------

    async def _work(self, agent: str, claim: Claim, before: asyncio.Task[None] | None) -> None:
        """One claim, from the start of its command to its report. `before`: an earlier run of the same task here, whose
        claim was lost and whose command is being ended."""
        task, begin = claim.task, time.monotonic()
        if before is not None:
            await asyncio.wait([before])
        self._note(What.STARTED, agent, task)
        output = self._scratch / f"{task.id}-{task.claim_token}.json"
        what, note = await self._carry_out(agent, claim, output)
        output.unlink(missing_ok=True)
        self._note(what, agent, task, time.monotonic() - begin, note)

    async def _carry_out(self, agent: str, claim: Claim, output: Path) -> _Report:
        """Starts the command and sees it through."""
        task = claim.task
        try:
            place = await self._worktrees.make(task.id) if self._worktrees else Path.cwd()
        except (LoomError, OSError) as error:
            return await self._fail(task, f"Its git worktree could not be made. {error}")
        if self._stop.is_set():
            return await self._give_back(task)
        branch = branch_of(task.id) if self._worktrees else None
        try:
            tree = await self._commands.start(
                self._command,
                text=prompt(claim, agent, self._loom.config.project_name, branch),
                env=self._environment(agent, task, output),
                cwd=place,
                log=self._logs / f"{task.id}-{task.attempt}.log",
            )
        except OSError as error:
            self._broken = LoomError(
                f"`{self._command[0]}` could not be started: {error.strerror}.", "Give a command that runs here."
            )
            self.stop()
            return await self._give_back(task)
        self._running[agent] = Running(agent, task.id, task.title, time.monotonic())
        try:
            return await self._see_through(task, tree, output)
        finally:
            del self._running[agent]

    async def _see_through(self, task: Task, tree: Tree, output: Path) -> _Report:
        """Waits for the end of a command, or brings it about, and reports it."""
        assert task.deadline_at is not None, "it is claimed"
        assert task.claimed_at is not None, "it is claimed"
        span = (task.deadline_at - task.claimed_at).total_seconds()
        ended, lost = asyncio.create_task(tree.wait()), asyncio.create_task(self._until_lost(task))
        await self._until(ended, lost, timeout=span)
        await end([lost])
        if ended.done():
            return await self._report(task, ended.result(), output)
        if self._stop.is_set():
            await tree.kill(_STOP_GRACE)
            await asyncio.wait([ended], timeout=_STOP_REPORT)
            return await self._give_back(task)
        await tree.kill(KILL_GRACE)
        if not lost.cancelled():
            lost.result()
            return await self._report(task, await ended, output, killed=True)
        await ended
        await self._tidy(task)
        return await self._fail(task, f"The command ran until its deadline, for {span:g} s, and was killed.")

    async def _report(self, task: Task, ended: Ended, output: Path, *, killed: bool = False) -> _Report:
        """Says how a command ended, unless it has said so itself. `killed`: because its claim was lost."""
        standing = await self._asked(lambda: self._standing(task))
        if standing not in (_Standing.TAKEN, _Standing.LEFT):  # else somebody may be in the worktree already
            await self._tidy(task)
        if standing in (_Standing.DONE, _Standing.LEFT):
            return What.REPORTED, "by the command itself"
        if standing is _Standing.TAKEN or not (killed or ended.status):
            # A task that was taken is not done by this any more: the refusal keeps the output with its event.
            brought = await asyncio.to_thread(result.output, ended, output)
            if killed:
                brought["killed"] = True
            return await self._told(What.DONE, lambda: self._loom.done(task.id, brought, token=task.claim_token))
        why = "The command was killed because its claim was lost." if killed else result.reason(ended)
        return await self._fail(task, why)

    async def _tidy(self, task: Task) -> None:
        """Drops the worktree, before the report that lets somebody else go on with the task, in the same place."""
        if self._worktrees:
            await self._worktrees.drop(task.id)

    async def _fail(self, task: Task, why: str) -> _Report:
        return await self._told(What.FAILED, lambda: self._loom.fail(task.id, why, token=task.claim_token), why)

    async def _give_back(self, task: Task) -> _Report:
        """Releases a claim, its attempt refunded, unless the servers are away: then it lapses."""
        try:
            await asyncio.wait_for(self._loom.release(task.id, token=task.claim_token), _STOP_REPORT)
        except (DatabaseUnavailableError, ServersError, TimeoutError):
            return What.LOST, "the servers are away; its lease runs out"
        except LoomError as refusal:
            return What.LOST, refusal.cause
        return What.GIVEN_BACK, ""

    async def _told(self, what: What, report: Callable[[], Awaitable[Outcome]], note: str = "") -> _Report:
        """What became of a report."""
        try:
            outcome = await self._asked(report)
        except LoomError as refusal:
            return What.LOST, refusal.cause
        if outcome is None:
            return What.LOST, "the workers were stopped while the servers were away"
        if outcome.task.status is TaskStatus.FAILED:
            again = outcome.task.retry_at
            then = "a dead letter now" if again is None else f"tried again at {again.astimezone():%H:%M:%S}"
            note = f"{then}; {note}"
        return what, note

    async def _until_lost(self, task: Task) -> None:
        """Returns when the claim was lost, never while it stands or when the command ended it. To ask about a task is
        what keeps its claim from being idle, so the time between two questions stays within that limit."""
        longest = min(_LONGEST_WATCH, self._loom.config.orchestration.idle_limit_seconds / 2)
        await asyncio.sleep(min(_FIRST_WATCH, longest))
        since, span = None, 0.0
        while True:
            seen = await self._asked(lambda: self._loom.wait("task", task_id=task.id, since=since, timeout=span))  # noqa: B023
            standing = await self._asked(lambda: self._standing(task))
            if seen is None or standing in (_Standing.LAPSED, _Standing.TAKEN):
                return
            since, span = seen.since, longest

    async def _standing(self, task: Task) -> _Standing:
        now = (await self._loom.get(task.id)).task
        if now.claim_token != task.claim_token or now.status is TaskStatus.CANCELLED:
            return _Standing.TAKEN
        if now.status is TaskStatus.CLAIMED:
            return _Standing.HELD
        if now.status is TaskStatus.DONE:
            return _Standing.DONE
        return _Standing.LAPSED if now.lapsed else _Standing.LEFT

    def _environment(self, agent: str, task: Task, output: Path) -> dict[str, str]:
        """What the command finds in its environment, with a `loom` in its PATH to report with."""
        env = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        env |= {
            "LOOM_TASK_ID": task.id,
            "LOOM_CLAIM_TOKEN": str(task.claim_token),
            "LOOM_AGENT_ID": agent,
            "LOOM_OUTPUT_FILE": str(output),
        }
        if self._loom.config.project_dir:
            env["LOOM_PROJECT_DIR"] = str(self._loom.config.project_dir)
        if shutil.which("loom") is None:
            env["PATH"] = os.pathsep.join([env.get("PATH", os.defpath), str(Path(sys.executable).parent)])
        return env

    def _note(self, what: What, agent: str, task: Task, seconds: float = 0.0, note: str = "") -> None:
        self._counts[what] += 1
        self._tell(Step(what, agent, task.id, task.title, seconds, note))


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
