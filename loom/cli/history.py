"""Commands that look back at one task: what happened to it, and what its commands printed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import click

from loom import replies
from loom.cli.output import cut_short, dim, emit
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
@click.argument("task", required=False)
@click.option("--agent", metavar="NAME", help="What this agent did, instead of what happened to one task.")
@click.option("--since", metavar="AGO", callback=given_span, help="With --agent: begin 90s, 15m, 2h or 7d ago.")
@limit_option(100)
def history(task: str | None, agent: str | None, since: float | None, limit: int) -> None:
    """What happened to TASK, newest last: who claimed it, what was changed, what failed and why. Or what an agent did,
    within the last day unless told otherwise."""
    if (task is None) == (agent is None):
        raise click.UsageError("Give TASK or --agent.")
    if since is not None and agent is None:
        raise click.UsageError("--since goes with --agent.")

    async def work(loom: Loom) -> Reply:
        if agent is None:
            assert task is not None, "one of them is given"
            events = await loom.history(task, limit=limit)
            return {"events": [replies.event(one) for one in events], "count": len(events)}
        begin = datetime.now(UTC) - timedelta(seconds=since or _DAY)
        newest = await loom.events(agent=agent, limit=limit)
        events = [one for one in reversed(newest) if one.created_at is not None and one.created_at >= begin]
        titles = await loom.titles([one.task_id for one in events if one.task_id is not None])
        rows = [replies.event(one) | replies.full(title=titles.get(one.task_id or "")) for one in events]
        return {"events": rows, "count": len(rows)} | ({} if rows else {"note": f"{agent} did nothing in that time."})

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
    """The end of what the newest command that `loom work` ran for TASK has printed, on this machine."""
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
