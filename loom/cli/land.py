"""`loom land`: lands what waits, or does the rest for one task, without a worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from loom.cli.shared import Command, Reply, agent_option, answer, progress, token_option
from loom.config.inside import inside_run
from loom.exceptions import TaskStateError
from loom.replies import landing as landing_reply
from loom.replies.fitting import full

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.landing.byhand import ByHand


@click.command(cls=Command)
@click.argument("task", required=False)
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
def land(task: str | None, timeout: float, agent: str | None, token: int | None) -> None:
    """Land what waits in the queue, or bring the work on TASK there first: committed, merged, proven.

    The work on TASK is what lies in its worktree. It must have been reported as done, or be your claim. Exit status 1:
    it cannot land as it is; 4: it is still queued after that time, or waits for a yes."""
    if inside_run():
        raise TaskStateError(
            "Nothing is landed from inside a run that Loom started.", "Report the work as done; Loom lands it then."
        )
    waits = False

    async def work(loom: Loom) -> Reply:
        nonlocal waits
        from loom.landing.byhand import ByHand

        async with ByHand.of(loom, progress) as hand:
            reply = await (_queue(loom, hand, timeout) if task is None else _task(hand, task, timeout, agent, token))
        waits = "queued" in reply or reply.get("status") == "landing"
        return reply

    answer(work, _lines, agent=agent, changes=True, here=True)
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
    if "id" in reply:
        yield from _line_of_one(reply)
    else:
        yield f"{len(reply.get('landed', ()))} landed on {reply['target']}."
        for one in reply.get("queued", ()):
            yield f"  {one['id']}  {_waits(one)}"
    if reply.get("landed") and "next" in reply:
        yield f"Bring it into your branch: {reply['next']}"


def _line_of_one(reply: Reply) -> Iterator[str]:
    landed = reply.get("landed")
    if landed:
        yield f"{reply['id']}  landed on {landed['target']} as {landed['commit'][:12]}"
    elif reply["status"] == "done":
        yield f"{reply['id']}  done; it brings nothing to land"
    else:
        yield f"{reply['id']}  {_waits(reply)}"


def _waits(one: Reply) -> str:
    return f"waits for your yes: loom landing approve {one['id']}" if one.get("waits_for_yes") else "still queued"
