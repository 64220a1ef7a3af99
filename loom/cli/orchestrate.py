"""The supervisor on the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from loom.cli.output import dim, emit, heading, one_line, plural
from loom.cli.shared import Command, open_project, wants_json
from loom.graph import views

if TYPE_CHECKING:
    from loom.graph.views import Reply
    from loom.orchestration.loop import Turn


@click.command(cls=Command)
@click.option("--once", is_flag=True, help="Look once and end.")
@click.option("--until-complete", is_flag=True, help="End when every task is done or cancelled.")
def orchestrate(once: bool, until_complete: bool) -> None:
    """Supervise the project: give lapsed claims back, put due retries into play, announce the end, and say what waits
    for a person. Any number may run. With --json each look at which something is new is an object on a line."""
    as_json = wants_json()

    async def supervise() -> None:
        from loom.orchestration.loop import Supervisor

        async with open_project() as loom:
            supervisor = Supervisor(loom)
            turns = supervisor.run()
            try:
                async for turn in turns:
                    if as_json and (once or _news(turn)):
                        emit(_reply(turn), whole=False)
                    elif not as_json:
                        for line in _lines(turn):
                            click.echo(line)
                    if once or (until_complete and turn.complete):
                        return
            finally:
                await turns.aclose()

    asyncio.run(supervise())


def _news(turn: Turn) -> bool:
    return bool(turn.swept.expired or turn.swept.retried or turn.swept.completed or turn.escalations or turn.stale)


def _reply(turn: Turn) -> Reply:
    return views.full(
        expired=[task.id for task in turn.swept.expired],
        retried=[task.id for task in turn.swept.retried],
        escalations=views.escalations(turn.escalations).get("escalations"),
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
    for one in turn.escalations:
        yield f"{heading(one.kind)}  {one.id} on {one.task_id}  {one_line(one.message)[:100]}"
        ways = "retry, waive or cancel" if one.kind == "failure" else "answer, retry, reassign, waive or cancel"
        yield dim(f"           loom resolve {one.id} ACTION --note TEXT, where ACTION is {ways}")
    if turn.swept.completed:
        yield f"complete   every task is finished: {plural(turn.status.counts['done'], 'task')} done"
