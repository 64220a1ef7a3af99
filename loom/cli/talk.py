"""Messages between agents and people, and waiting for what happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import click

from loom import replies
from loom.cli.output import dim, emit, fitted, heading, prose, state
from loom.cli.several import change_each
from loom.cli.shared import (
    Command,
    Reply,
    agent_option,
    answer,
    from_option,
    limit_option,
    needed_text,
    open_project,
    wants_json,
)
from loom.cli.times import given_span, when
from loom.exceptions import ServersError, TaskNotFoundError
from loom.graph.cache.waiting import Waited
from loom.graph.front import Loom
from loom.graph.front.talking import LONGEST_WAIT
from loom.graph.model.since import Since
from loom.ids import TASK_ID
from loom.texts import one_line, shorten

_RECENT = 3600.0  # seconds; what has happened of late


def _beginning(ctx: click.Context, param: click.Parameter, value: str | None) -> str | float | None:
    """For an option that is a position, or a span: that, or its seconds."""
    if value is not None:
        with suppress(ValueError):
            Since.parse(value)
            return value
    return given_span(ctx, param, value)


@click.command(cls=Command)
@click.argument("to")
@click.argument("text", required=False)
@click.option("--thread", metavar="ID", help="Answer in this thread.")
@from_option("text")
@agent_option
def message(to: str, text: str | None, thread: str | None, file: str | None, agent: str | None) -> None:
    """Send TEXT to an agent by its name, to `orchestrator`, or to everyone (`*`); to a task's id it is a note."""
    body = needed_text(text, file, "TEXT")

    async def work(loom: Loom) -> Reply:
        return replies.message(await loom.send(to, body, thread_id=thread))

    def lines(reply: Reply) -> Iterator[str]:
        yield f"message {reply['id']} to {reply['to']}, thread {reply['thread_id']}"

    answer(work, lines, agent=agent, changes=True)


@click.command(cls=Command)
@click.argument("tasks", nargs=-1, metavar="TASK...")
@click.argument("text", required=False)
@from_option("text")
@agent_option
def note(tasks: tuple[str, ...], text: str | None, file: str | None, agent: str | None) -> None:
    """Keep TEXT on tasks: whoever claims one, or looks at it, is shown its newest notes. `-` reads ids from standard
    input."""
    if text is not None and (file is not None or not tasks or TASK_ID.fullmatch(text)):  # it is a task, and no text
        tasks, text = (*tasks, text), None
    body = needed_text(text, file, "TEXT")

    async def change(loom: Loom, task: str) -> Reply:
        return replies.message(await loom.note(task, body))

    def lines(reply: Reply) -> Iterator[str]:
        yield f"note {reply['id']} on {reply['to']}"

    change_each(tasks, change, lines, agent=agent)


@click.command(cls=Command)
@click.option("--ack", type=int, multiple=True, metavar="ID", help="Acknowledge this message; may be repeated.")
@click.option("--thread", metavar="ID", help="Only this thread.")
@click.option("--all", "everything", is_flag=True, help="Also what was acknowledged before, newest last.")
@limit_option(20)
@agent_option
def inbox(ack: tuple[int, ...], thread: str | None, everything: bool, limit: int, agent: str | None) -> None:
    """Read your messages, after acknowledging those of --ack."""

    async def work(loom: Loom) -> Reply:
        return replies.inbox(await loom.inbox(ack=ack, thread_id=thread, unread=not everything, limit=limit))

    def lines(reply: Reply) -> Iterator[str]:
        if "acked" in reply:
            yield f"acknowledged: {', '.join(map(str, reply['acked']))}"
        if not reply["messages"]:
            yield f"{reply['note']} {dim('(you are ' + reply['agent'] + ')')}"
        for one in reply["messages"]:
            about = dim(f"{one['age']} ago, thread {one['thread_id']}")
            yield f"{heading(str(one['id']))}  from {one['from']}  {about}"
            yield from prose(one["text"])
        if "more" in reply:
            yield dim(f"and {reply['more']:,} more: --limit N")

    answer(work, lines, agent=agent)


@click.command(cls=Command)
@click.option(
    "--what",
    type=click.Choice(["ready", "task", "inbox", "escalation", "any"]),
    help="What to wait for; default any, or the task of --task.",
)
@click.option("--task", metavar="TASK", help="Wait for this task; for an epic also for the end of a child.")
@click.option("--since", metavar="POSITION", help="From an earlier wait, so that nothing between is missed.")
@click.option("--timeout", type=click.FloatRange(0, 86400), default=30.0, show_default=True, metavar="SECONDS")
@agent_option
def wait(what: str | None, task: str | None, since: str | None, timeout: float, agent: str | None) -> None:
    """Block until something changes or the timeout is over; both are a success, `changed` in --json tells."""

    async def work(loom: Loom) -> Reply:
        chosen = what or ("task" if task else "any")
        end, position = time.monotonic() + timeout, since
        async with _living(loom):
            while True:
                left = max(end - time.monotonic(), 0.0)
                seen = await loom.wait(chosen, task_id=task, since=position, timeout=min(left, LONGEST_WAIT))
                position = seen.since
                if seen.changed or time.monotonic() >= end:
                    return replies.waited(seen)

    def lines(reply: Reply) -> Iterator[str]:
        if not reply["changed"]:
            yield f"Nothing changed in {timeout:g} s."
        if "task" in reply:
            yield f"{reply['task']['id']}  {state(reply['task'])}  {one_line(reply['task']['title'])}"
        for key, words in (("ready", "ready"), ("unread", "unread"), ("open_escalations", "open escalations")):
            if key in reply:
                yield f"{words}: {reply[key]}"
        yield from (event_line(one) for one in reply.get("events", ()))
        yield dim(f"since {reply['since']}")

    answer(work, lines, agent=agent)


@click.command(cls=Command)
@click.option(
    "--since",
    metavar="WHEN",
    callback=_beginning,
    help="Begin 90s, 15m, 2h or 7d ago, or where an earlier wait ended; default: now, with --no-follow an hour ago.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="End after this many events.")
@click.option("--no-follow", is_flag=True, help="End with what has happened so far.")
def watch(since: str | float | None, limit: int | None, no_follow: bool) -> None:
    """Follow the project's events, a line each, until interrupted. With --json each line is an object."""
    as_json = wants_json()

    async def follow() -> None:
        position, left, titles = since or (_RECENT if no_follow else None), limit, dict[str, str]()
        async with open_project() as loom, _living(loom):
            if isinstance(position, float):
                position = await loom.since(position)
            while left is None or left > 0:
                seen = await _next(loom, position, 0 if no_follow else LONGEST_WAIT)
                position = seen.since
                for event in seen.events[:left]:
                    one = replies.event(event)
                    if as_json:
                        emit(one | {"position": str(event.position)}, whole=False)
                    else:
                        click.echo(event_line(one, await _title(loom, event.task_id, titles)))
                if left is not None:
                    left -= len(seen.events)
                if no_follow and not seen.events:
                    return

    asyncio.run(follow())


async def _next(loom: Loom, position: str | None, timeout: float) -> Waited:
    """What happens next. A server that is away is waited for, however long it takes, by whoever follows it already."""
    from loom.orchestration.patience import Patience

    patience = Patience("Watching", 1.0, 30.0)
    while True:
        try:
            return await loom.wait("any", since=position, timeout=timeout)
        except ServersError as error:
            if loom.keeps_order or position is None or not timeout:
                raise
            await asyncio.sleep(patience.after(error))


@asynccontextmanager
async def _living(loom: Loom) -> AsyncIterator[None]:
    """While a command waits it keeps house as every long-lived process does."""
    from loom.orchestration.housekeeping import Housekeeper

    keeper = Housekeeper(loom)
    keeper.start()
    try:
        yield
    finally:
        await keeper.stop()


async def _title(loom: Loom, task_id: str | None, known: dict[str, str]) -> str:
    if task_id is None:
        return ""
    if task_id not in known:
        try:
            known[task_id] = (await loom.get(task_id)).task.title
        except TaskNotFoundError:
            known[task_id] = ""
    return known[task_id]


def event_line(one: Mapping[str, Any], title: str = "") -> str:
    data = one.get("data") or {}
    said = next((data[name] for name in ("reason", "question", "goal", "note") if data.get(name)), "")
    words = [
        dim(when(one["at"])),
        f"{one['type']:<20}",
        one.get("task_id") or data.get("plan_id", ""),
        one.get("agent", ""),
        one_line(title),
        dim(shorten(one_line(str(said)), 100)) if said else "",
    ]
    return fitted("  ".join(word for word in words if word))
