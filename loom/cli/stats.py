"""`loom stats`: how the project went lately."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import click

from loom import replies
from loom.cli.output import dim, heading, plural, table
from loom.cli.overview import ending
from loom.cli.shared import Command, Reply, answer, limit_option
from loom.cli.times import given_span, span, when
from loom.graph.front import Loom
from loom.texts import one_line

_TIMES = ("waiting", "working", "proving", "landing")


@click.command(cls=Command)
@click.option(
    "--since",
    default="7d",
    show_default=True,
    metavar="AGO",
    callback=given_span,
    help="Begin 90s, 15m, 2h or 7d ago.",
)
@click.option("--by", type=click.Choice(["epic", "agent", "runner", "day"]), help="Also for each of these.")
@limit_option(20, words="At most this many epics, agents, runners or days.")
def stats(since: float, by: str | None, limit: int) -> None:
    """How the project went lately: how much was done and has failed, how long that waited for a claim, was worked on,
    proven and landed (medians), and when all may be done."""

    async def work(loom: Loom) -> Reply:
        offset = datetime.now().astimezone().utcoffset()
        east = offset.total_seconds() if offset else 0.0
        return replies.stats(await loom.stats(seconds=since, by=by, offset=east, limit=limit), by)

    answer(work, _lines)


def _lines(reply: Reply) -> Iterator[str]:
    newest = dim(" (of the newest; more was finished before)") if "partly" in reply else ""
    yield f"{heading('since')} {when(reply['since'])}{newest}"
    rate = f", {reply['failure_rate']:.0%} of the reports" if "failure_rate" in reply else ""
    yield f"  {plural(reply['done'], 'task')} done, {reply['per_day']:,} a day"
    yield f"  {plural(reply['failed'], 'attempt')} failed{rate}"
    yield from (f"  {name} {span(reply[name])}" for name in _TIMES if name in reply)
    if "may_end" in reply:
        yield f"  {ending(reply['may_end'])}"
    if reply.get("groups"):
        by = reply["by"]
        head = [by, "done", "failed", "a day", *_TIMES, "title" if by == "epic" else ""]
        rows = [[*map(dim, head)], *(_row(by, one) for one in reply["groups"])]
        yield from table(rows)


def _row(by: str, one: Mapping[str, Any]) -> list[str]:
    times = [span(one[name]) if name in one else "" for name in _TIMES]
    return [
        one[by] or "none",
        f"{one['done']:,}",
        f"{one['failed']:,}",
        f"{one['per_day']:,}",
        *times,
        one_line(one.get("title", "")),
    ]
