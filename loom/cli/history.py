"""Commands that look back at tasks: what happened to them, and what their commands printed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from loom import replies
from loom.bus.events import Event
from loom.cli.output import cut_short, dim, emit
from loom.cli.several import ids_of, named
from loom.cli.shared import Command, Reply, answer, limit_option, note, open_project, wants_json
from loom.cli.talk import event_line
from loom.cli.times import given_span
from loom.config import LoomConfig, logs_dir
from loom.graph.front import Loom
from loom.orchestration.printed import Log, newest_log
from loom.texts import one_line

_DAY = 86400.0  # seconds
_PAUSE = 0.3  # seconds between two looks at a log that is followed


@click.command(cls=Command)
@click.argument("tasks", nargs=-1, metavar="[TASK]...")
@click.option("--agent", metavar="NAME", help="What this agent did, instead of what happened to tasks.")
@click.option("--since", metavar="AGO", callback=given_span, help="With --agent: begin 90s, 15m, 2h or 7d ago.")
@limit_option(100)
def history(tasks: tuple[str, ...], agent: str | None, since: float | None, limit: int) -> None:
    """What happened to tasks, newest last: who claimed them, what was changed, what failed and why; of several in one
    order. Or what an agent did, within the last day unless told otherwise. `-` reads ids from standard input."""
    if bool(tasks) == (agent is not None):
        raise click.UsageError("Give TASK or --agent.")
    if since is not None and agent is None:
        raise click.UsageError("--since goes with --agent.")
    given = named(tasks) if tasks else []

    async def work(loom: Loom) -> Reply:
        if agent is None:
            ids = await ids_of(loom, given)
            found = [event for one in ids for event in await loom.history(one, limit=limit)]
            newest = sorted(found, key=lambda event: event.position.id)[-limit:]  # as the history of each has them
            return _told(newest, await loom.titles(ids) if len(ids) > 1 else {})
        begin = datetime.now(UTC) - timedelta(seconds=since or _DAY)
        newest = await loom.events(agent=agent, limit=limit)
        events = [one for one in reversed(newest) if one.created_at is not None and one.created_at >= begin]
        titles = await loom.titles([one.task_id for one in events if one.task_id is not None])
        return _told(events, titles) | ({} if events else {"note": f"{agent} did nothing in that time."})

    def lines(reply: Reply) -> Iterator[str]:
        if "note" in reply:
            yield reply["note"]
        yield from cut_short(reply["count"], limit)  # above: what is left out is older
        for one in reply["events"]:
            yield event_line(one, one.get("title", ""))
            for name, change in (one.get("data") or {}).items():
                if isinstance(change, dict) and (told := _change(change)):
                    yield dim(f"    {name}: {told}")

    answer(work, lines)


@click.command(cls=Command)
@click.argument("task")
@click.option(
    "-f", "--follow", is_flag=True, help="Go on as more is printed, by the next attempts too, until interrupted."
)
def logs(task: str, follow: bool) -> None:
    """The end of what the newest command that `loom work` ran for TASK has printed, on this machine. Of one task alone,
    so that it can be followed, and handed on as it is."""
    if follow and wants_json():
        raise click.UsageError("Give --follow or --json, not both.")

    async def found() -> tuple[str, LoomConfig]:
        async with open_project() as loom:
            return await loom.id_of(task), loom.config

    task_id, config = asyncio.run(found())
    while True:
        with Log(task_id, config) as log:
            note(str(log.path))
            if wants_json():
                emit({"id": task_id, "file": str(log.path), "text": log.more()})
                return
            click.echo(log.more(), nl=False)
            while follow and newest_log(task_id, logs_dir(config)) == log.path:
                time.sleep(_PAUSE)
                click.echo(log.more(), nl=False)
            if not follow:
                return
            click.echo(log.more(), nl=False)  # its end; another attempt prints into a log of its own


def _told(events: Sequence[Event], titles: Mapping[str, str]) -> dict[str, Any]:
    rows = [replies.event(one) | replies.full(title=titles.get(one.task_id or "")) for one in events]
    return {"events": rows, "count": len(rows)}


def _change(change: dict[str, object]) -> str:
    """What an event says of a field that was changed."""
    parts = []
    for what in ("added", "removed"):
        values = change.get(what)
        if isinstance(values, list):
            parts.append(f"{what} {', '.join(map(str, values))}")
    if "from" in change or "to" in change:
        parts.append(" → ".join(one_line(str(change.get(side) or "nothing")) for side in ("from", "to")))
    return "; ".join(parts)
