"""Commands of whoever works on a task: claim it, and report how it went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from loom import replies
from loom.cli.output import block, files_and_checks, heading, note_lines, pretty, status, table
from loom.cli.several import change_each, named, outcome, outcome_lines
from loom.cli.shared import (
    Command,
    Reply,
    agent_option,
    answer,
    from_option,
    given_text,
    json_option,
    needed_text,
    progress,
    token_option,
)
from loom.cli.times import until, when
from loom.graph.front import Loom
from loom.texts import one_line


@click.command(cls=Command)
@click.argument("tasks", nargs=-1, metavar="[TASK]...")
@click.option("--lease", type=float, metavar="SECONDS", help="How long a claim holds unless renewed.")
@agent_option
def claim(tasks: tuple[str, ...], lease: float | None, agent: str | None) -> None:
    """Claim these tasks, or the best ready one, and show what their worker needs. Exit status 3: somebody else holds
    the one that was named; 1: one of several was not claimed. `-` reads ids from standard input."""

    async def work(loom: Loom, task: str | None = None) -> Reply:
        made = await loom.claim(task, lease_seconds=lease)
        if made is None:
            swept, _ = await loom.sweep()
            if swept.expired or swept.retried:
                made = await loom.claim(task, lease_seconds=lease)
        return replies.nothing_ready(await loom.status()) if made is None else replies.claimed(made)

    if tasks:
        change_each(tasks, work, _claim_lines, agent=agent)
    else:
        answer(work, _claim_lines, agent=agent, changes=True)


@click.command(cls=Command)
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@json_option("output", "What came out")
@token_option
@agent_option
def done(tasks: tuple[str, ...], output: dict[str, Any] | None, token: int | None, agent: str | None) -> None:
    """Finish tasks; what waited for them becomes ready. Checks that one needs are run before, where they are not
    proven; a red one finishes nothing, and the claim stays. `-` reads ids from standard input."""

    async def change(loom: Loom, task: str) -> Reply:
        from loom.landing.report import Reports

        reports = Reports(loom, lambda name: progress(f"running {name} …"))
        try:
            return replies.reported(await reports.done(task, output, token=token))
        finally:
            await reports.close()

    change_each(tasks, change, agent=agent, token=token)


@click.command(cls=Command)
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("--reason", metavar="TEXT", help="Why it failed.")
@click.option("--no-retry", is_flag=True, help="Do not try again: make it a dead letter.")
@from_option("reason")
@token_option
@agent_option
def fail(
    tasks: tuple[str, ...], reason: str | None, no_retry: bool, file: str | None, token: int | None, agent: str | None
) -> None:
    """End the claims on tasks without a result; one is tried again later while it has attempts left. `-` reads ids from
    standard input."""
    why = needed_text(reason, file, "--reason")

    async def change(loom: Loom, task: str) -> Reply:
        return replies.outcome(await loom.fail(task, why, retry=not no_retry, token=token))

    change_each(tasks, change, agent=agent, token=token)


@click.command(cls=Command)
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("--note", metavar="TEXT", help="For the next worker.")
@from_option("note")
@token_option
@agent_option
def release(tasks: tuple[str, ...], note: str | None, file: str | None, token: int | None, agent: str | None) -> None:
    """Give the claims on tasks back; their attempts are refunded. `-` reads ids from standard input."""
    text = given_text(note, file, "--note")

    async def change(loom: Loom, task: str) -> Reply:
        return replies.outcome(await loom.release(task, note=text, token=token))

    change_each(tasks, change, agent=agent, token=token)


@click.command(cls=Command)
@click.argument("task")
@click.argument("text", required=False)
@from_option("question")
@token_option
@agent_option
def escalate(task: str, text: str | None, file: str | None, token: int | None, agent: str | None) -> None:
    """End the claim on TASK with the question TEXT; the task is blocked until somebody resolves it."""
    question = needed_text(text, file, "TEXT")

    async def work(loom: Loom) -> Reply:
        return await outcome(loom, await loom.escalate(task, question, token=token))

    answer(work, outcome_lines, agent=agent, changes=True)


@click.command(cls=Command)
@click.argument("tasks", nargs=-1, metavar="[TASK]...")
@token_option
@agent_option
def heartbeat(tasks: tuple[str, ...], token: int | None, agent: str | None) -> None:
    """Renew the leases of these tasks, or of all that you hold. `-` reads ids from standard input."""

    claims = named(tasks) if tasks else None

    async def work(loom: Loom) -> Reply:
        return replies.leases(await loom.heartbeat(claims, token=token))

    def lines(reply: Reply) -> Iterator[str]:
        if "note" in reply:
            yield reply["note"]
        yield from table([[one["id"], until(one), f"token {one['token']}"] for one in reply["claims"]])
        yield from table([[one["id"], "lost", one_line(one["why"])] for one in reply.get("lost", ())])

    answer(work, lines, agent=agent, changes=True)


def _claim_lines(reply: Reply) -> Iterator[str]:
    if reply["status"] == "nothing_ready":
        yield f"Nothing is ready: {reply['waiting_for']}."
        yield reply["next"]
        return
    yield f"{reply['id']}  {status(reply['status'])}  {reply['priority']}  {heading(one_line(reply['title']))}"
    until = when(reply["lease_expires_at"])
    yield f"  held by {reply['assignee']} until {until}, attempt {reply['attempt']}, token {reply['token']}"
    yield from (f"  {words}: {one_line(text)}" for words, text in files_and_checks(reply))
    if "done_when" in reply:
        yield from block("done when", reply["done_when"])
    if "context" in reply:
        yield from block("context", pretty(reply["context"]))
    yield from note_lines(reply.get("notes", ()))
    for one in reply.get("dependencies", ()):
        label = f"{one['status']}: {one['id']} {one_line(one['title'])}"
        yield from block(label, pretty(one.get("output", one.get("children", {}))))
    if "more_dependencies" in reply:
        yield f"  and {reply['more_dependencies']} dependencies more: `loom status {reply['id']}`"
    yield f"  then: loom done {reply['id']} --output '{{…}}', or fail, release, escalate"
