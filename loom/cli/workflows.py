"""`loom workflow`: start workflows, carry them on, answer what they wait for."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from loom.cli import names
from loom.cli.output import block, dim, emit, heading, pretty, readable, status, table
from loom.cli.shared import (
    Group,
    Reply,
    agent_option,
    agreed,
    answer,
    can_ask,
    input_pairs,
    json_option,
    limit_option,
    note,
    on_signals,
    open_project,
    settings,
    settings_here,
    wants_json,
)
from loom.cli.times import when
from loom.cli.wording import people
from loom.graph.front import Loom
from loom.texts import clean, one_line, shorten
from loom.wording import worded_reply

if TYPE_CHECKING:
    from loom.workflows.record import StepProgress

_COLOURS = {"done": "green", "failed": "red", "begun": "cyan", "again": "cyan", "waiting": "yellow"}
_UNFINISHED = 4

Begin = Callable[[Loom], Awaitable[str]]
"""Gives the id of the run to carry on."""


@click.group(cls=Group)
def workflow() -> None:
    """Workflows: steps that lead from a goal to its end, and survive whoever carries them on."""


@workflow.command("list")
def list_workflows() -> None:
    """List the workflows that count here: Loom's own, yours in ~/.loom/workflows, the project's in .loom/workflows."""
    from loom.skills import loader as skills
    from loom.workflows import loader, tools

    config = settings()
    reply = tools.listed(loader.load(config), skills.load(config))
    if sys.stderr.isatty():
        names.keep_described(config)
    if wants_json():
        emit(reply)
        return
    for one in reply["workflows"]:
        click.echo(f"{heading(one['name'])}  {dim(one.get('source', 'built-in'))}  {one_line(one['description'])}")
        rows = [[name, kind] for name, kind in one.get("inputs", {}).items()]
        for line in [*table(rows, "  "), f"  {dim(' → '.join(one['steps']))}"]:
            click.echo(line)
    for text in reply.get("notes", ()):
        note(text)


@workflow.command()
@click.argument("name")
@click.option("--input", "pairs", multiple=True, metavar="NAME=VALUE", help="An input; VALUE may be @file or JSON.")
@json_option("inputs", "All inputs as one object")
@click.option("--yes", is_flag=True, help="Say yes wherever it asks for one.")
@click.option("--no-wait", is_flag=True, help="End where it waits for tasks or time.")
@agent_option
def start(
    name: str, pairs: tuple[str, ...], inputs: dict[str, Any] | None, yes: bool, no_wait: bool, agent: str | None
) -> None:
    """Start the workflow NAME and carry it on to its end, through all that it waits for. Stopped or killed, it can be
    resumed. Exit status 4: it waits for an answer."""

    async def begin(loom: Loom) -> str:
        from loom.skills import fields
        from loom.workflows import loader, runs

        chosen = loader.load(loom.config).get(name)
        values = {**(inputs or {}), **fields.from_texts(chosen.inputs, input_pairs(pairs), name)}
        run = await runs.start(loom, chosen, values)
        show.begin(run.id)
        return run.id

    show = _StepView()
    _carry_on(begin, show, agent=agent, yes=yes, patient=not no_wait)


@workflow.command()
@click.argument("run")
@click.option("--yes/--no", "yes", default=None, help="Answer what it asks, and go on or not.")
@click.option("--note", "text", default="", metavar="TEXT", help="Say more with --yes or --no.")
@json_option("output", "Your answer to its prompt")
@click.option("--step", metavar="STEP", help="Go back to this step; not over one that has changed the graph.")
@click.option("--no-wait", is_flag=True, help="End where it waits for tasks or time.")
@agent_option
def resume(
    run: str,
    yes: bool | None,
    text: str,
    output: dict[str, Any] | None,
    step: str | None,
    no_wait: bool,
    agent: str | None,
) -> None:
    """Go on with RUN: after a crash, after a failed step, or with what it waits for."""
    if sum(one is not None for one in (yes, output, step)) > 1:
        raise click.UsageError("Give one of --yes, --no, --output and --step.")
    if text and yes is None:
        raise click.UsageError("--note belongs to --yes or --no.")

    async def given(loom: Loom) -> str:
        from loom.workflows import runs

        if yes is not None:
            await runs.confirm(loom, run, yes=yes, note=text)
        elif output is not None:
            await runs.answer(loom, run, output)
        return run

    _carry_on(given, _StepView(), agent=agent, patient=not no_wait, step=step, declined=yes is False)


@workflow.command()
@click.argument("run")
@click.option("--note", "text", default="", metavar="TEXT", help="Say why.")
@agent_option
def cancel(run: str, text: str, agent: str | None) -> None:
    """End RUN for good. The tasks that it has made stay; `loom cancel` ends them."""
    from loom.workflows import runs, tools

    async def work(loom: Loom) -> Reply:
        await runs.cancel(loom, run, note=text)
        return await tools.shown(loom, run)

    answer(work, _lines, agent=agent, changes=True, here=True)


@workflow.command("status")
@click.argument("run", required=False)
@limit_option(20)
def show_status(run: str | None, limit: int) -> None:
    """Show where RUN stands and what its steps came to, or list the newest runs."""
    from loom.workflows import runs, tools

    async def work(loom: Loom) -> Reply:
        if run is None:
            return tools.listed_runs(await runs.newest(loom, limit))
        return await tools.shown(loom, run, whole=True)

    answer(work, _list_lines if run is None else _whole_lines, here=True)


def _carry_on(
    begin: Begin,
    show: _StepView,
    *,
    agent: str | None,
    patient: bool,
    yes: bool = False,
    step: str | None = None,
    declined: bool = False,
) -> None:
    """Carries the run that `begin` gives on, and ends with its status."""
    reply = worded_reply(asyncio.run(_carried(begin, show, agent, patient, yes, step, declined)), people())
    if wants_json():
        emit(reply)
    else:
        for line in _lines(reply):
            click.echo(line)
    if reply["status"] != "done":
        click.get_current_context().exit(1 if reply["status"] == "failed" else _UNFINISHED)


async def _carried(
    begin: Begin, show: _StepView, agent: str | None, patient: bool, yes: bool, step: str | None, declined: bool
) -> Reply:
    from loom.orchestration.housekeeping import Housekeeper
    from loom.workflows import runs, tools

    task, caught = asyncio.current_task(), 0
    assert task is not None, "a coroutine runs in one"

    def stop(number: int) -> None:
        nonlocal caught
        caught = number
        task.cancel()

    on_signals((signal.SIGTERM, signal.SIGHUP), stop)
    async with open_project(agent, settings_here()) as loom:
        housekeeper = Housekeeper(loom)
        housekeeper.start()
        try:
            run_id = await begin(loom)
            while not declined:
                run = await runs.advance(loom, run_id, patient=patient, from_step=step, tell=show.tell)
                step = None
                _, rows = await runs.look(loom, run_id)
                reply = await tools.shown(loom, run_id)
                if reply.get("waits_for") != "confirm" or not (yes or await show.agreed(reply)):
                    return reply
                await runs.confirm(loom, run.id, yes=True, question=rows[-1].question)
            return await tools.shown(loom, run_id)
        except asyncio.CancelledError:
            if not caught:
                raise
            raise SystemExit(128 + caught) from None
        finally:
            await housekeeper.stop()


class _StepView:
    """What a person sees meanwhile: a line for each step that goes on."""

    def begin(self, run_id: str) -> None:
        """Names the run."""
        text = f"{heading(run_id)}  {dim(f'goes on after anything with: loom workflow resume {run_id}')}"
        click.echo(text, err=wants_json())

    def tell(self, progress: StepProgress) -> None:
        """Says what happened to a step."""
        words = [
            dim(f"{datetime.now():%H:%M:%S}"),
            click.style(f"{progress.phase:<8}", fg=_COLOURS.get(progress.phase)),
            progress.step,
            dim(str(progress.type)),
            shorten(one_line(progress.note), 160),
        ]
        click.echo("  ".join(word for word in words if click.unstyle(word)), err=wants_json())

    async def agreed(self, reply: Reply) -> bool:
        """Asks where there is somebody to ask."""
        if not can_ask():
            return False
        for line in _asked_lines(reply):
            click.echo(line)
        return await agreed("Yes?")


def _lines(reply: Reply) -> Iterator[str]:
    yield f"{heading(reply['run_id'])}  {status(reply['status'])}  {one_line(reply['workflow'])}"
    if "error" in reply:
        yield f"  {one_line(reply['error'])}"
    if "output" in reply:
        yield from block("output", pretty(reply["output"]))
    yield from _waiting_lines(reply)
    if "held_by" in reply:
        yield f"  carried on by {one_line(reply['held_by'])}"
    if "next" in reply:
        yield f"  next: {one_line(reply['next'])}"


def _waiting_lines(reply: Reply) -> Iterator[str]:
    match reply:
        case {"trouble": trouble}:
            yield f"  {one_line(trouble)}"
        case {"waits_for": "confirm"}:
            yield from _asked_lines(reply)
            yield from _time_lines(reply)
        case {"waits_for": "answer"}:
            yield from _time_lines(reply)
            yield clean(reply["prompt"]).rstrip("\n")
            yield from block("expects", pretty(reply["expects"]))
        case {"waits_for": "tasks"}:
            dead = f", dead: {', '.join(reply['dead'])}" if reply.get("dead") else ""
            yield f"  waits for tasks: {reply['open']:,} open, {reply['finished']:,} finished{dead}"
        case {"waits_for": "time"}:
            yield f"  waits until {when(reply['until'])}"


def _time_lines(reply: Reply) -> Iterator[str]:
    if "until" in reply:
        yield f"  answers count until {when(reply['until'])}"


def _asked_lines(reply: Reply) -> Iterator[str]:
    for label, value in reply.get("show", {}).items():
        yield from block(one_line(label), readable(value))
    yield f"  {heading(one_line(reply['message']))}"


def _whole_lines(reply: Reply) -> Iterator[str]:
    rows = [
        [
            one["id"],
            one["type"],
            status(one["status"]),
            dim(f"attempt {one['attempts']}" if "attempts" in one else ""),
            one_line(one["error"] if "error" in one else _short(one.get("output"))),
        ]
        for one in reply["steps"]
    ]
    yield from _lines({name: value for name, value in reply.items() if name != "output"})
    yield from table(rows, "  ")


def _list_lines(reply: Reply) -> Iterator[str]:
    yield from table(
        [
            [one["run_id"], status(one["status"]), one_line(one["workflow"]), one.get("step", ""), dim(one["age"])]
            for one in reply["runs"]
        ]
    )
    if not reply["runs"]:
        yield dim(reply["note"])


def _short(output: Mapping[str, Any] | None) -> str:
    return "" if output is None else shorten(pretty(output), 300)
