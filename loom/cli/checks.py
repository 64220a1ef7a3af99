"""`loom check`: has checks run on the work as it lies here, or on what work begins from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from loom import replies
from loom.cli.output import block, status, table
from loom.cli.shared import Command, Reply, agent_option, answer, progress
from loom.texts import one_line

if TYPE_CHECKING:
    from loom.graph.front import Loom


@click.command(cls=Command)
@click.argument("task", required=False)
@click.option("--only", "names", multiple=True, metavar="NAME", help="Run this check; may be repeated.")
@click.option(
    "--baseline", "base", is_flag=True, help="Run them on the branch that work begins from, in a fresh worktree."
)
@agent_option
def check(task: str | None, names: tuple[str, ...], base: bool, agent: str | None) -> None:
    """Run the checks that TASK needs, or those that every task needs, on the work as it lies here.

    It is the work on one task. Each runs in a checkout apart, and its result is kept: for the same files it is not run
    again, and a task with green checks can be finished. Exit status 1: one is red.
    """
    if base and (task or names):
        raise click.UsageError("--baseline proves all checks that every task needs; give it alone.")
    green = True

    async def work(loom: Loom) -> Reply:
        nonlocal green
        from loom.landing.report import Reports

        reports = Reports(loom, lambda name: progress(f"running {name} …"))
        try:
            found = await reports.baseline() if base else await reports.check(task, names)
        finally:
            await reports.close()
        reply = replies.checked(found)
        green = reply["green"]
        return reply

    answer(work, check_lines, agent=agent, changes=True)
    if not green:
        click.get_current_context().exit(1)


def check_lines(reply: Reply) -> Iterator[str]:
    """Checks and what came of them; of red ones with the end of what they printed."""
    yield from table([_cells(one) for one in reply["checks"]])
    for one in reply["checks"]:
        if one.get("tail", "").strip():
            yield from block(one["name"], one["tail"])


def _cells(one: Reply) -> list[str]:
    how = status("green" if one["exit_status"] == 0 else "red")
    more = "" if one["exit_status"] in (0, None) else f"  exit status {one['exit_status']}"
    return [one_line(one["name"]), how, f"{one['seconds']:.1f} s{more}"]
