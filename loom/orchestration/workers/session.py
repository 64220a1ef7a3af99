"""A session: the runs of a runner's command over one claim, each in the same place, and what is learnt from them.

session = Session(bench, errand, watch, log)
turn = await session.begin(prompt)
turn = await session.ask("You ended without a report.")     # the same conversation goes on

Nothing that an earlier attempt at the task has left running is there when it begins, and nothing that a run has started
when that has ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from loom import files, ids, process
from loom.background import through
from loom.exceptions import CommandError, FileError
from loom.orchestration.workers.runners import End, EndKind, Errand, Launch, Reader, Runner, Usage
from loom.orchestration.workers.watch import Cut, Standing, Watch
from loom.process import Ended, ProcessTrees, Tree

KILL_GRACE = 5.0  # seconds from SIGTERM to SIGKILL, at the deadline or when the claim was lost
STOP_GRACE = 0.8  # the same when the shift is over
_STOP_REPORT = 1.0  # seconds for its end then
_STALL_SECONDS = 120.0  # that a command may wait for its provider
_LINE_BYTES = 16_000_000  # of one event; what is longer is not read


@dataclass(frozen=True, slots=True)
class Turn:
    """How one run has gone: what its command and its events say of its end. `cut`: why it was ended before it had
    ended by itself."""

    ended: Ended
    end: End
    cut: Cut | None = None


class Session:
    """One conversation about one claim. `usage`: of all its runs, as far as they tell; `watch`: the one over the claim,
    which begins anew where the claim was the landing queue's meanwhile."""

    def __init__(
        self,
        runner: Runner,
        errand: Errand,
        trees: ProcessTrees,
        watch: Watch,
        *,
        env: Mapping[str, str],
        log: Path,
        silence_seconds: float,
    ) -> None:
        """
        Args:
            env: what its commands find in their environment.
            log: the file that what they print is added to.
            silence_seconds: for how long a runner that speaks may say nothing.
        """
        self.usage = Usage()
        self.runs = 0
        self.watch = watch
        self._runner, self._errand, self._trees = runner, errand, trees
        self._env, self._log, self._silence = env, log, silence_seconds
        self._text = ""
        self._name: str | None = None

    async def begin(self, text: str) -> Turn:
        """Starts it with the text of the task.

        Raises:
            CommandError: the command cannot be started.
            FileError: something that it needs cannot be written.
        """
        await process.end_others(self._is_earlier)
        self._text = text
        return await self._run(self._runner.start(self._errand), text)

    async def ask(self, text: str) -> Turn:
        """Goes on with it. Who remembers nothing is told the whole again. Raises as `begin`."""
        if not self._runner.remembers:
            return await self._run(self._runner.resume(self._errand, ""), f"{self._text}\n{text}")
        if self._name is None:  # it has ended before it had said how it is called
            return await self._run(self._runner.start(self._errand), f"{self._text}\n{text}")
        return await self._run(self._runner.resume(self._errand, self._name), text)

    async def _run(self, launch: Launch, text: str) -> Turn:
        speaks = self._runner.speaks
        hearing = _Hearing(self._runner.reader(), self._silence)
        tree = await self._start(launch, text, hearing.hear if speaks else lambda data: None)
        self.runs += 1
        ending = asyncio.create_task(tree.wait())
        try:
            cut = await self.watch.over(ending, (Standing.LAPSED, Standing.TAKEN), hearing.left if speaks else None)
            if cut is not None:
                await tree.kill(STOP_GRACE if cut is Cut.STOPPED else KILL_GRACE)
            if cut is Cut.STOPPED:
                await asyncio.wait([ending], timeout=_STOP_REPORT)
                if not ending.done():
                    return Turn(Ended(-9, b"", b""), End(EndKind.BROKEN), cut)
            ended = await asyncio.shield(ending)
        except BaseException:
            tree.stop()
            await through(ending)
            raise
        hearing.finish()
        reader = hearing.reader
        self._name = reader.session or self._name
        if reader.usage is not None:
            self.usage = self.usage.plus(reader.usage, self._runner.totals)
        end = reader.end(ended)
        if cut is Cut.SILENCE and end.kind is EndKind.BROKEN:
            end = replace(end, said=f"The command said nothing for {self._silence:g} s, and was ended.")
        return Turn(ended, end, cut)

    async def _start(self, launch: Launch, text: str, hear: Callable[[bytes], None]) -> Tree:
        path, name = self._log, launch.words[0]
        try:
            for path, content in launch.files.items():
                files.write(path, content, 0o600)
            for path in launch.directories:
                path.mkdir(parents=True, exist_ok=True)
            path = self._log
            log = files.log(path, path.parent.parent)
        except OSError as error:
            raise FileError(f"{path} cannot be written: {error.strerror}.", "Mend that, then run it again.") from None
        try:
            return await self._trees.start(
                launch.words,
                text=text,
                env={**self._env, **launch.env},
                cwd=self._errand.place,
                log=log,
                hear=hear,
            )
        except OSError as error:
            raise CommandError(
                f"`{name}` could not be started: {error.strerror}.", "Give a command that runs here."
            ) from None

    def _is_earlier(self, env: Mapping[str, str]) -> bool:
        """Whether a process is of an earlier attempt at the same task, whose claim is lost by now."""
        mine, token = self._errand.environment(), ids.claim_token(env.get("LOOM_CLAIM_TOKEN", ""))
        same = all(env.get(name) == mine.get(name) for name in ("LOOM_TASK_ID", "LOOM_PROJECT_DIR"))
        return same and token is not None and token < self._errand.token


class _Hearing:
    """What is heard of a run while it goes on, line by line."""

    def __init__(self, reader: Reader, silence_seconds: float) -> None:
        self.reader = reader
        self._limit = silence_seconds
        self._rest = bytearray()
        self._last = self._well = time.monotonic()

    def hear(self, data: bytes) -> None:
        """Takes what the command prints, in pieces."""
        self._last = time.monotonic()
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._rest += line
            self.reader.line(bytes(self._rest))
            self._rest.clear()
        if len(self._rest) + len(rest) <= _LINE_BYTES:
            self._rest += rest
        if not self.reader.stalled:
            self._well = self._last

    def finish(self) -> None:
        """Takes what came last, should it be no whole line."""
        self.reader.line(bytes(self._rest))

    def left(self) -> float:
        """The seconds until it has been silent, or waiting for its provider, for too long."""
        now = time.monotonic()
        if self.reader.busy:
            return self._limit
        if self.reader.stalled:
            return self._well + min(_STALL_SECONDS, self._limit) - now
        return self._last + self._limit - now
