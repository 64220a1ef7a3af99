"""Commands around what lands: the queue, and a person's yes or no."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from loom import replies
from loom.cli.output import dim, heading, table
from loom.cli.several import change_each
from loom.cli.shared import Group, Reply, agent_option, answer, from_option, given_text, limit_option
from loom.cli.times import when
from loom.config.inside import inside_run
from loom.exceptions import TaskStateError
from loom.graph.front import Loom
from loom.replies.fitting import full
from loom.texts import one_line, shorten


class _Landing(Group):
    """A group that shows the queue where no command of it is named."""

    default = "show"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Landing)
def landing() -> None:
    """What waits to land, and your yes or no to it. Without a command: what `show` shows."""


@landing.command()
@click.option("--target", metavar="BRANCH", help="Land on this branch from now on, what is on its way too.")
@limit_option(20)
def show(target: str | None, limit: int) -> None:
    """What waits to be merged, who merges, what was sent back and why, and what has landed."""
    if target is not None:
        _refuse_inside("Where work lands")

    async def work(loom: Loom) -> Reply:
        if target is not None:
            from loom.landing.turning import turn

            await turn(loom, target, by=loom.agent)
        return replies.landings(await loom.landings(limit=limit))

    answer(work, _lines, changes=target is not None)


@landing.command()
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@agent_option
def approve(tasks: tuple[str, ...], agent: str | None) -> None:
    """Let the work on tasks land, which waits for your yes. `-` reads ids from standard input."""
    _refuse_inside()

    async def change(loom: Loom, task: str) -> Reply:
        made = await loom.approve(task)
        return full(id=made.task_id, status="landing", target=made.target, approved_by=made.approved_by)

    def lines(reply: Reply) -> Iterator[str]:
        yield f"{reply['id']}  may land on {reply['target']}, says {reply['approved_by']}"

    change_each(tasks, change, lines, agent=agent)


@landing.command()
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("--note", metavar="TEXT", help="What is wrong with it, for its worker.")
@from_option("note")
@agent_option
def refuse(tasks: tuple[str, ...], note: str | None, file: str | None, agent: str | None) -> None:
    """Send the work on tasks back to their workers. `-` reads ids from standard input."""
    _refuse_inside()
    said = given_text(note, file, "--note")

    async def change(loom: Loom, task: str) -> Reply:
        one = await loom.refuse(task, note=said)
        return full(id=one.id, status=one.status, title=one.title, assignee=one.assignee, token=one.claim_token)

    def lines(reply: Reply) -> Iterator[str]:
        yield f"{reply['id']}  sent back to {reply['assignee']}"

    change_each(tasks, change, lines, agent=agent)


def _refuse_inside(what: str = "Whether work may land") -> None:
    if inside_run():
        raise TaskStateError(
            f"{what} is not decided from inside a run that Loom started.",
            "Leave it to the user, in a terminal.",
        )


def _lines(reply: Reply) -> Iterator[str]:
    if "target" in reply:
        yield f"Landing on {reply['target']} since {when(reply['target_since'])}: {one_line(reply['target_because'])}"
    for one in reply.get("landers", ()):
        yield f"{one['holder']} lands on {one['target']} until {when(one['until'])}"
    if reply["queue"]:
        yield heading("queued") + dim(f"  {reply['count']:,}")
        yield from table([_queued(one) for one in reply["queue"]], "  ")
    if "working" in reply:
        yield heading("on the way")
        keys = ("id", "state", "agent", "branch", "title")
        yield from table([[one_line(one[key]) for key in keys] for one in reply["working"]], "  ")
    if "sent_back" in reply:
        yield heading("sent back")
        for one in reply["sent_back"]:
            why = f"{one_line(one['title'])}: {one_line(one['reason'])}"
            yield f"  {when(one['at'])}  {one['id']}  {one['agent']}  {why}"
            if "note" in one:
                yield dim(f"    {shorten(one_line(one['note']), 100)}")
    if "landed" in reply:
        yield heading("landed") + dim(f"  {reply['landed_count']:,}")
        yield from table([_landed(one) for one in reply["landed"]], "  ")
    if "note" in reply:
        yield reply["note"]


def _queued(one: Mapping[str, Any]) -> list[str]:
    state = "being landed" if "being_landed" in one else f"for {one['age']}"
    if "waits_for_yes" in one:
        state += f", for your yes: `loom landing approve {one['id']}`"
    return [one["id"], one["agent"], one["target"], one_line(one["title"]), dim(state)]


def _landed(one: Mapping[str, Any]) -> list[str]:
    took = f"after {one['seconds']:.1f} s" if "seconds" in one else ""
    return [when(one["at"]), one["id"], one["commit"][:12], one["target"], took, one_line(one["title"])]
