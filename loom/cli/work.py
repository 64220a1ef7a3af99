"""`loom work`: workers that run a command for each task until nothing is left to do."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import click

from loom import replies
from loom.cli.output import dim, emit, heading, plural, state, table
from loom.cli.shared import Command, on_signals, open_project, wants_json
from loom.orchestration.workers.bench import JobPhase, JobProgress
from loom.orchestration.workers.left import Left
from loom.orchestration.workers.runners import RUNNERS
from loom.orchestration.workers.runners import Command as OwnCommand
from loom.orchestration.workers.worker import Running, Workers, command_line
from loom.texts import one_line, shorten

if TYPE_CHECKING:
    from loom.graph.front import Loom

_LISTED = 500  # tasks left over, in JSON
_SHOWN = 20  # tasks left over, to a person
_TICK = 1.0  # seconds between two looks of the live line
_UNCOUNTED = (JobPhase.STARTED, JobPhase.PROVING, JobPhase.QUEUED)  # on the way to something else
_COLOURS = {
    JobPhase.LANDED: "green",
    JobPhase.DONE: "green",
    JobPhase.FAILED: "red",
    JobPhase.SENT_BACK: "yellow",
    JobPhase.LOST: "red",
    JobPhase.STARTED: "cyan",
}


@click.command(cls=Command, context_settings={"allow_interspersed_args": False})
@click.option(
    "--agents", type=click.IntRange(1, 256), default=1, show_default=True, metavar="N", help="How many workers."
)
@click.option("--runner", type=click.Choice(list(RUNNERS)), help="Run this agent; COMMAND adds to its arguments.")
@click.option(
    "--report",
    type=click.Choice(["status", "required"]),
    help="Whether exit status 0 finishes a task (default for COMMAND) or only a report does (always with --runner).",
)
@click.option("--worktree", is_flag=True, help="Give each task a git worktree and a branch loom/TASK of its own.")
@click.option(
    "--land",
    is_flag=False,
    flag_value="",
    metavar="[BRANCH]",
    help="Have the work land on BRANCH, proven; default: landing.target, else loom/landed. Implies --worktree.",
)
@click.option("--no-baseline", is_flag=True, help="With --land: claim tasks whatever the checks say of BRANCH before.")
@click.option(
    "--review",
    is_flag=True,
    help="Have the skill review_output accept what COMMAND hands in before a task is done; needs a provider.",
)
@click.option("--agent", metavar="NAME", help="What the workers' names begin with; default: worker.")
@click.option(
    "--dry-run", is_flag=True, help="Show the command line and the prompt of the next task, and claim nothing."
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] COMMAND...")
def work(
    agents: int,
    runner: str | None,
    report: str | None,
    worktree: bool,
    land: str | None,
    no_baseline: bool,
    review: bool,
    agent: str | None,
    dry_run: bool,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND for each task until nothing is left to do, N at a time.

    COMMAND gets the task on its standard input and LOOM_TASK_ID, LOOM_CLAIM_TOKEN, LOOM_AGENT_ID, LOOM_PROJECT_DIR and
    LOOM_OUTPUT_FILE in its environment. Exit status 0 finishes the task; a JSON object in that file, or on the last
    line that is printed, is its output. Any other status fails it, and it is tried again later. What a command prints
    is in .loom/logs. Ctrl-C gives the claims back. Exit status 4: something is left unfinished.

    An agent of --runner must report, with Loom's tools or with one JSON object at the end of its answer. Who ends
    without is asked once, in the same session; then the task has failed. When its account has met a limit, or its
    provider is away, tasks are given back and the workers rest. It edits in its own directory, runs the project's
    checks, `git add`, `git commit` and what `work.allow` says; more only with arguments of yours.

    With --land (or `landing.target`) what a task came to is committed, merged with the branch that it lands on, and
    proven by the checks; then it waits in a queue while the worker goes on, and lands. What is red or conflicts goes
    back to COMMAND, in the same place and session. The task is done when it has landed; nobody merges by hand.

    With --review the output is reviewed while the claim is held. What is not accepted goes back to COMMAND once, with
    what the review said, and fails the task the second time. A COMMAND that calls `loom done` itself is not reviewed:
    have it hand in its output."""
    if not command and not runner:
        raise click.UsageError("Give a command after --, or --runner.")
    if runner and report == "status":
        raise click.UsageError(f"--report status: the exit status of {runner} says nothing about a task.")
    words = command_line(command, runner)
    row = RUNNERS[runner] if runner else OwnCommand(must_report=report == "required")
    view = _LiveView(live=sys.stdout.isatty() and not wants_json(), to_stderr=wants_json())

    def workers(loom: Loom) -> Workers:
        return Workers(
            loom,
            words,
            runner=row,
            agents=agents,
            prefix=agent,
            worktrees=worktree,
            land=land is not None or (loom.config.landing.target is not None and loom.keeps_order),
            target=land or None,
            baseline=not no_baseline,
            review=review,
            tell=view.tell,
            say=view.say,
        )

    if dry_run:
        asyncio.run(_show(workers))
        return
    left, done, signalled = asyncio.run(_work(workers, view))
    _conclude(done, left)
    if signalled:
        click.get_current_context().exit(128 + signalled)
    if left:
        click.get_current_context().exit(4)


async def _show(make: Callable[[Loom], Workers]) -> None:
    """Shows what would be run for the next task."""
    async with open_project() as loom:
        launch, text = await make(loom).preview()
    if wants_json():
        emit({"command": launch.words, "environment": dict(launch.env), "prompt": text})
        return
    variables = [f"{name}={shlex.quote(value)}" for name, value in launch.env.items()]
    click.echo(heading("command line"))
    click.echo(" ".join([*variables, shlex.join(launch.words)]))
    click.echo(heading("prompt, on its standard input"))
    click.echo(text)


async def _work(make: Callable[[Loom], Workers], view: _LiveView) -> tuple[list[Left] | None, Workers, int]:
    """What is left, None when a signal came before; who did what; which signal."""
    caught = 0
    async with open_project() as loom:
        workers = make(loom)

        def stop(number: int) -> None:
            nonlocal caught
            caught = caught or number
            workers.stop()

        on_signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), stop)
        async with view.watching(workers):
            left = await workers.run()
    return left, workers, caught if left is None else 0


class _LiveView:
    """What a person sees meanwhile: a line for each step of a task, and on a terminal one that says what runs now."""

    def __init__(self, *, live: bool, to_stderr: bool) -> None:
        self._live, self._to_stderr = live, to_stderr
        self._workers: Workers | None = None
        self._begin = time.monotonic()

    def tell(self, progress: JobProgress) -> None:
        """Says how far a worker is."""
        words = [
            dim(f"{datetime.now():%H:%M:%S}"),
            click.style(f"{progress.phase:<10}", fg=_COLOURS.get(progress.phase)),
            progress.task_id,
            progress.agent,
            shorten(one_line(progress.title), 60),
            f"{progress.seconds:.1f} s" if progress.phase is not JobPhase.STARTED else "",
            dim(shorten(one_line(progress.note), 160)),
        ]
        self._clear()
        click.echo("  ".join(word for word in words if click.unstyle(word)), err=self._to_stderr)
        self._draw()

    def say(self, text: str) -> None:
        """Says what concerns no task alone."""
        self._clear()
        click.echo(f"{dim(f'{datetime.now():%H:%M:%S}')}  {one_line(text)}", err=self._to_stderr)
        self._draw()

    @asynccontextmanager
    async def watching(self, workers: Workers) -> AsyncIterator[None]:
        """Keeps the live line up to date."""
        self._workers = workers
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticking.cancel()
            self._clear()
            self._live = False

    async def _tick(self) -> None:
        while True:
            self._draw()
            await asyncio.sleep(_TICK)

    def _draw(self) -> None:
        if self._live and self._workers is not None:
            now = time.monotonic()
            running = self._workers.running
            longest = ", ".join(_at_work(one, now) for one in running[:3])
            more = f" and {len(running) - 3} more" if len(running) > 3 else ""
            what = f"{len(running)} running: {longest}{more}" if running else "waiting for work"
            what += f", {queued} waiting to land" if (queued := self._workers.queued) else ""
            line = f"{_span(now - self._begin)}  {_counted(self._workers.counts)}  {what}"
            self._clear()
            click.echo(dim(line[: shutil.get_terminal_size().columns - 1]), nl=False)

    def _clear(self) -> None:
        if self._live:
            click.echo("\r\x1b[K", nl=False)


def _at_work(one: Running, now: float) -> str:
    what = " being proven" if one.phase is JobPhase.PROVING else ""
    return f"{one.task_id}{what} {_span(now - one.began)}"


def _conclude(done: Workers, left: Sequence[Left] | None) -> None:
    """Says what was done and what is left, which is not known (None) after an interruption."""
    counts = done.counts
    rows = [
        replies.full(id=one.task_id, status=one.status, state=replies.state(one), title=one.title, why=one.why)
        for one in left or ()
    ]
    if wants_json():
        numbers = {what.value.replace(" ", "_"): count for what, count in counts.items()}
        more = {"more": len(rows) - _LISTED} if len(rows) > _LISTED else {}
        landed = {"target": done.target, "landed": done.landed} if done.target else {}
        landed |= {"next": done.taken_by} if done.taken_by else {}
        emit(
            {"counts": numbers} | landed | ({"interrupted": True} if left is None else {"left": rows[:_LISTED]}) | more
        )
        return
    click.echo(heading(_counted(counts)))
    _tell_what_landed(done)
    if left is None:
        return
    if not rows:
        click.echo("Nothing is left to do.")
        return
    click.echo(f"{plural(len(rows), 'task')} left, which nobody can go on with now:")
    for line in table(
        [
            [row["id"], state(row), shorten(one_line(row["title"]), 60), shorten(one_line(row["why"]), 160)]
            for row in rows[:_SHOWN]
        ],
        "  ",
    ):
        click.echo(line)
    if len(rows) > _SHOWN:
        click.echo(dim(f"  and {len(rows) - _SHOWN:,} more: loom status, loom dead-letter list"))


def _tell_what_landed(done: Workers) -> None:
    """Says what the target has by now, and how it comes into the user's own branch."""
    if done.target is None or not done.landed:
        return
    click.echo(f"{plural(len(done.landed), 'task')} landed on {done.target}:")
    for line in table([[task_id, commit[:12]] for task_id, commit in list(done.landed.items())[:_SHOWN]], "  "):
        click.echo(line)
    if len(done.landed) > _SHOWN:
        click.echo(dim(f"  and {len(done.landed) - _SHOWN:,} more: loom landing"))
    if done.taken_by:
        click.echo(f"Bring it into your branch: {done.taken_by}")


def _counted(counts: Mapping[JobPhase, int]) -> str:
    """How often each thing was done, where it was."""
    parts = [f"{count:,} {what}" for what, count in counts.items() if count and what not in _UNCOUNTED]
    return ", ".join(parts) or "0 done"


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
