"""`loom land`: lands what waits, or does the rest for one task, without a worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from loom.cli.several import change_each
from loom.cli.shared import Command, Reply, agent_option, answer, progress, token_option
from loom.config.inside import inside_run
from loom.exceptions import TaskStateError
from loom.replies import landing as landing_reply
from loom.replies.fitting import full

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.landing.byhand import ByHand


@click.command(cls=Command)
@click.argument("tasks", nargs=-1, metavar="[TASK]...")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 7 * 86400),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for what is queued.",
)
@agent_option
@token_option
def land(tasks: tuple[str, ...], timeout: float, agent: str | None, token: int | None) -> None:
    """Land what waits in the queue, or bring the work on tasks there first: committed, merged, proven.

    The work on a task is what lies in its worktree. It must have been reported as done, or be your claim. `-` reads ids
    from standard input. Exit status 1: something cannot land as it is; 4: it is still queued after that time, or waits
    for a yes."""
    if inside_run():
        raise TaskStateError(
            "Nothing is landed from inside a run that Loom started.", "Report the work as done; Loom lands it then."
        )
    waits = False

    async def queue(loom: Loom) -> Reply:
        nonlocal waits
        from loom.landing.byhand import ByHand

        async with ByHand.of(loom, progress) as hand:
            reply = await _queue(loom, hand, timeout)
        waits = "queued" in reply
        return reply

    async def one(loom: Loom, task: str) -> Reply:
        nonlocal waits
        from loom.landing.byhand import ByHand

        async with ByHand.of(loom, progress) as hand:
            reply = await _task(hand, task, timeout, agent, token)
        waits = waits or reply["status"] == "landing"
        return reply

    if tasks:
        change_each(tasks, one, _lines_of_one, agent=agent, token=token, here=True)
    else:
        answer(queue, _lines, agent=agent, changes=True, here=True)
    if waits:
        click.get_current_context().exit(4)


async def _queue(loom: Loom, hand: ByHand, timeout: float) -> Reply:
    report = await hand.queue(timeout)
    view = await loom.landings(limit=500)
    return full(
        landed=[{"id": one.task_id, "target": one.target, "commit": one.commit} for one in report.landed],
        sent_back=[{"id": one.task_id, "reason": one.reason} for one in report.sent_back],
        queued=[full(id=one.landing.task_id, waits_for_yes=one.landing.waits_for_yes or None) for one in view.queue],
        notes=report.notes,
        target=hand.lander.target,
        next=await hand.lander.taken_by() if report.landed else None,
    )


async def _task(hand: ByHand, task: str, timeout: float, agent: str | None, token: int | None) -> Reply:
    found = await hand.task(task, timeout, agent_id=agent, token=token)
    if found is None:
        return {"id": task, "status": "done", "landed": None}
    landed = landing_reply.landed(found)
    return full(
        id=task,
        status="done" if landed else "landing",
        landed=landed,
        waits_for_yes=found.waits_for_yes or None,
        next=await hand.lander.taken_by() if landed else None,
    )


def _lines(reply: Reply) -> Iterator[str]:
    yield f"{len(reply.get('landed', ()))} landed on {reply['target']}."
    for one in reply.get("queued", ()):
        yield f"  {one['id']}  {_waits(one)}"
    yield from _taken(reply)


def _lines_of_one(reply: Reply) -> Iterator[str]:
    landed = reply.get("landed")
    if landed:
        yield f"{reply['id']}  landed on {landed['target']} as {landed['commit'][:12]}"
    elif reply["status"] == "done":
        yield f"{reply['id']}  done; it brings nothing to land"
    else:
        yield f"{reply['id']}  {_waits(reply)}"
    yield from _taken(reply)


def _taken(reply: Reply) -> Iterator[str]:
    if reply.get("landed") and "next" in reply:
        yield f"Bring it into your branch: {reply['next']}"


def _waits(one: Reply) -> str:
    return f"waits for your yes: loom landing approve {one['id']}" if one.get("waits_for_yes") else "still queued"
