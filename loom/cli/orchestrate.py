"""The supervisor on the command line."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from loom import replies
from loom.cli.output import diagnosed, dim, emit, heading, plural
from loom.cli.shared import Command, on_signals, open_project, wants_json
from loom.texts import one_line, shorten

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.orchestration.supervisor.brain import Brain
    from loom.orchestration.supervisor.loop import Turn
    from loom.replies import Reply


@click.command(cls=Command)
@click.option("--once", is_flag=True, help="Look once and end.")
@click.option("--until-complete", is_flag=True, help="End when every task is done or cancelled.")
@click.option("--diagnose", is_flag=True, help="Have a model find out why tasks fail, and mend what it is sure of.")
def orchestrate(once: bool, until_complete: bool, diagnose: bool) -> None:
    """Supervise the project: give lapsed claims back, put due retries into play, carry workflows on, announce the end,
    and say what waits for a person or does not land. Any number may run. With --json each look at which something is
    new is an object on a line.

    With --diagnose the configured provider is asked about each open escalation. Fix tasks are made, and the failed task
    requeued behind them, only if it is sure; the rest is left to a person with what was found out. The limits are
    orchestration.diagnoses_per_hour and orchestration.fix_depth."""
    as_json, caught = wants_json(), 0

    def show(turn: Turn) -> None:
        lines = list(_lines(turn))
        if as_json:
            if once or lines:
                emit(_reply(turn), whole=False)
            return
        for line in lines or ([_standing(turn)] if once else []):
            click.echo(line)

    async def supervise() -> None:
        from loom.orchestration.supervisor.loop import Supervisor

        async with open_project() as loom:
            supervisor = Supervisor(loom, _brain(loom) if diagnose else None)
            if once:
                show(await supervisor.turn(whole=True))
                return
            me = asyncio.current_task()
            assert me is not None, "this is a coroutine"

            def stop(number: int) -> None:
                nonlocal caught
                caught = number
                me.cancel()

            on_signals((signal.SIGTERM, signal.SIGHUP), stop)
            turns = supervisor.run(until_complete=until_complete)
            try:
                async for turn in turns:
                    show(turn)
            finally:
                await turns.aclose()

    try:
        asyncio.run(supervise())
    except asyncio.CancelledError:  # by such a signal; what was begun has been given back
        click.get_current_context().exit(128 + caught)


def _brain(loom: Loom) -> Brain:
    from loom.orchestration.supervisor.brain import Brain

    return Brain.of(loom)


def _reply(turn: Turn) -> Reply:
    return replies.full(
        expired=[task.id for task in turn.swept.expired],
        retried=[task.id for task in turn.swept.retried],
        workflows=[
            replies.full(run_id=one.run.id, workflow=one.run.workflow, status=one.run.status, step=one.step)
            for one in turn.carried
        ],
        unattended=_unattended(turn),
        diagnosed=[{"escalation": one.escalation, "task_id": one.task_id, **one.reply} for one in turn.diagnosed],
        escalations=replies.escalations(turn.escalations).get("escalations"),
        landing=[
            {"id": one.landing.task_id, "trouble": one.trouble}
            | replies.full(target=one.landing.target, sent_back=one.times_sent or None, reason=one.landing.reason)
            for one in turn.stuck
        ],
        stale_agents=[agent.agent for agent in turn.stale],
        complete=turn.complete,
        counts=turn.status.counts,
    )


def _lines(turn: Turn) -> Iterator[str]:
    for task in turn.swept.expired:
        yield f"lapsed     {task.id}  {one_line(task.title)}  {dim(f'last held by {task.assignee}')}"
    for task in turn.swept.retried:
        yield f"retry      {task.id}  {one_line(task.title)}  {dim(f'after attempt {task.attempt}')}"
    for agent in turn.stale:
        held = ", ".join(task.id for task in agent.tasks[:3])
        yield f"stale      {agent.agent}  {dim(f'does not renew its lease on {held}')}"
    yield from _stuck_lines(turn)
    for one in turn.carried:
        if any(one.run.id == run.id for run in turn.unattended):
            continue  # see below
        where = f" at {one.step}" if one.step else ""
        yield f"workflow   {one.run.id}  {one.run.workflow}  {one.run.status}{where}"
    for row in _unattended(turn):
        where = f" at {row['step']}" if "step" in row else ""  # it is not known where another Loom began it
        why = f"failed  {shorten(one_line(row['error']), 100)}" if "error" in row else f"waits for somebody{where}"
        yield f"{heading('workflow')}   {row['run_id']}  {row['workflow']}  {why}"
        yield dim(f"           loom workflow status {row['run_id']} shows it; resume goes on with it, cancel ends it")
    for mended in turn.diagnosed:
        what = "left" if "left" in mended.reply else "mended"
        yield f"{what:<9}  {mended.escalation} on {mended.task_id}  {diagnosed(mended.reply)}"
    for raised in turn.escalations:
        yield f"{heading(raised.kind)}  {raised.id} on {raised.task_id}  {shorten(one_line(raised.message), 100)}"
        ways = "retry, waive or cancel" if raised.kind == "failure" else "answer, retry, reassign, waive or cancel"
        yield dim(f"           loom resolve {raised.id} ACTION --note TEXT, where ACTION is {ways}")
    if turn.swept.completed:
        yield f"complete   every task is finished: {plural(turn.status.counts['done'], 'task')} done"


def _stuck_lines(turn: Turn) -> Iterator[str]:
    """What does not land by itself, and what to do about it."""
    for one in turn.stuck:
        task_id, target = one.landing.task_id, one.landing.target
        told, advice = {
            "asks": ("waits for your yes", f"loom landing approve {task_id}, or refuse it with --note TEXT"),
            "nobody_lands": (f"waits, and nobody lands on {target}", "loom land merges what waits"),
            "comes_back": (f"was sent back {one.times_sent} times: {one.landing.reason}", f"loom status {task_id}"),
        }[one.trouble]
        yield f"{heading('landing')}    {task_id}  {one_line(one.title)}  {shorten(one_line(told), 100)}"
        yield dim(f"           {advice}")


def _unattended(turn: Turn) -> list[Reply]:
    from loom.workflows import tools

    rows = tools.listed_runs(turn.unattended)["runs"]
    return [replies.full(**row, error=run.error) for row, run in zip(rows, turn.unattended, strict=True)]


def _standing(turn: Turn) -> str:
    """Where the project stands, in a line."""
    counts = ", ".join(f"{number:,} {name}" for name, number in turn.status.counts.items() if number)
    return f"nothing new  {counts or 'no tasks yet'}"
