"""Commands that make tasks, change them and decide about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from loom import replies
from loom.cli.output import cut_short, table
from loom.cli.several import change_each, ids_of, lines_of_each, named, outcome, outcome_lines, together, with_reasons
from loom.cli.shared import (
    Command,
    Group,
    Reply,
    agent_option,
    answer,
    from_option,
    given_text,
    json_option,
    limit_option,
    needed_text,
    read_text,
    task_entries,
    token_option,
)
from loom.exceptions import TaskStateError
from loom.graph.front import Loom
from loom.texts import one_line

_PRIORITY = click.Choice(["p0", "p1", "p2"], case_sensitive=False)
_ACTION = click.Choice(["retry", "answer", "reassign", "waive", "cancel", "reopen", "defer"])


@click.command(cls=Command)
@click.argument("title", required=False)
@json_option("context", "What a worker must know")
@click.option("--depends-on", "depends_on", multiple=True, metavar="TASK", help="Wait for this task; may be repeated.")
@click.option("--priority", type=_PRIORITY, default="p1", show_default=True)
@click.option("--parent", metavar="TASK", help="Put it into this epic.")
@click.option("--done-when", metavar="TEXT", help="How to tell that it is done.")
@click.option("--epic", is_flag=True, help="Make an epic: it holds tasks and closes with the last of them.")
@click.option("--files", multiple=True, metavar="PATH", help="A path of the repository that it is about; repeatable.")
@click.option("--checks", multiple=True, metavar="NAME", help="A check that it is done only with; repeatable.")
@click.option("--label", "labels", multiple=True, metavar="NAME", help="A word that it is found by; repeatable.")
@click.option("--key", metavar="TEXT", help="Make it once: the same key again names the task that there is.")
@from_option("title")
@agent_option
def create(
    title: str | None,
    context: dict[str, Any] | None,
    depends_on: tuple[str, ...],
    priority: str,
    parent: str | None,
    done_when: str | None,
    epic: bool,
    files: tuple[str, ...],
    checks: tuple[str, ...],
    labels: tuple[str, ...],
    key: str | None,
    file: str | None,
    agent: str | None,
) -> None:
    """Create a task or an epic. It is ready at once unless it waits for others. For the title `-`, standard input has
    a title on each line, or JSON: tasks as a plan has them, all of which are created or none."""
    text = needed_text(title, file, "TITLE")
    common = {
        "context": context, "depends_on": depends_on, "priority": priority, "parent": parent, "done_when": done_when,
        "files": files, "checks": checks, "labels": labels, "type": "epic" if epic else None,
    }  # fmt: skip
    if text == "-":
        entries = task_entries(read_text("-"))
        answer(lambda loom: _create_all(loom, entries, common, key), lines_of_each, agent=agent, changes=True)
        return

    async def work(loom: Loom) -> Reply:
        made = await loom.create(
            text,
            context=context,
            depends_on=depends_on,
            priority=priority,
            parent_id=parent,
            done_when=done_when,
            epic=epic,
            files=files,
            checks=checks,
            labels=labels,
            key=key,
        )
        return (await with_reasons(loom, [replies.created(made)]))[0]

    answer(work, outcome_lines, agent=agent, changes=True)


async def _create_all(
    loom: Loom, entries: Sequence[Mapping[str, Any]], common: Mapping[str, Any], key: str | None
) -> Reply:
    """Creates tasks as a plan has them; `common` is what those have that do not say otherwise."""
    known = {**common, "depends_on": [await loom.id_of(one, "depends_on") for one in common["depends_on"]]}
    if common["parent"]:
        known["parent"] = await loom.id_of(common["parent"], "parent_id")
    given = {name: value for name, value in known.items() if value}
    made = await loom.apply_plan({"tasks": [{**given, **entry} for entry in entries]}, key=key)
    return together(await with_reasons(loom, [replies.created(one) for one in made]))


@click.command(cls=Command)
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("--title", metavar="TEXT")
@json_option("context", "Replaces the context")
@click.option("--priority", type=_PRIORITY)
@click.option(
    "--depends-on", "depends_on", multiple=True, metavar="TASK", help="Replaces the dependencies; may be repeated."
)
@click.option("--add-dep", "add_deps", multiple=True, metavar="TASK", help="Also wait for this task; may be repeated.")
@click.option("--drop-dep", "drop_deps", multiple=True, metavar="TASK", help="Wait for this task no more; repeatable.")
@click.option("--no-dependencies", is_flag=True, help="Remove all dependencies.")
@click.option("--done-when", metavar="TEXT", help="Replaces the criteria; an empty text removes them.")
@click.option("--files", multiple=True, metavar="PATH", help="Adds a path of the repository; may be repeated.")
@click.option("--no-files", is_flag=True, help="First take away the paths that it has.")
@click.option("--checks", multiple=True, metavar="NAME", help="Adds a check; may be repeated.")
@click.option("--no-checks", is_flag=True, help="First take away the checks that it has.")
@click.option("--label", "labels", multiple=True, metavar="NAME", help="Adds a label; may be repeated.")
@click.option("--unlabel", multiple=True, metavar="NAME", help="Takes a label away; may be repeated.")
@click.option("--parent", metavar="TASK", help="Moves it into this epic.")
@click.option("--no-parent", is_flag=True, help="Takes it out of its epic.")
@token_option
@agent_option
def update(
    tasks: tuple[str, ...],
    title: str | None,
    context: dict[str, Any] | None,
    priority: str | None,
    depends_on: tuple[str, ...],
    add_deps: tuple[str, ...],
    drop_deps: tuple[str, ...],
    no_dependencies: bool,
    done_when: str | None,
    files: tuple[str, ...],
    no_files: bool,
    checks: tuple[str, ...],
    no_checks: bool,
    labels: tuple[str, ...],
    unlabel: tuple[str, ...],
    parent: str | None,
    no_parent: bool,
    token: int | None,
    agent: str | None,
) -> None:
    """Change unfinished tasks; what is not named stays. `-` reads ids from standard input."""
    if depends_on and no_dependencies:
        raise click.UsageError("Give --depends-on or --no-dependencies, not both.")
    if parent is not None and no_parent:
        raise click.UsageError("Give --parent or --no-parent, not both.")
    if parent == "":
        raise click.UsageError("--parent is empty; --no-parent takes a task out of its epic.")

    async def change(loom: Loom, task: str) -> Reply:
        return await outcome(
            loom,
            await loom.update(
                task,
                title=title,
                context=context,
                priority=priority,
                depends_on=depends_on if depends_on or no_dependencies else None,
                done_when=done_when,
                files=files,
                checks=checks,
                no_files=no_files,
                no_checks=no_checks,
                labels=labels,
                unlabel=unlabel,
                parent_id="" if no_parent else parent,
                add_deps=add_deps,
                drop_deps=drop_deps,
                token=token,
            ),
        )

    change_each(tasks, change, agent=agent, token=token)


@click.command(cls=Command)
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("--reason", metavar="TEXT", help="Why.")
@click.option("--downstream", is_flag=True, help="Also cancel all that waits for it.")
@from_option("reason")
@agent_option
def cancel(tasks: tuple[str, ...], reason: str | None, downstream: bool, file: str | None, agent: str | None) -> None:
    """Cancel unfinished tasks; an epic with all that is unfinished in it. `-` reads ids from standard input."""
    why = given_text(reason, file, "--reason")

    async def change(loom: Loom, task: str) -> Reply:
        return await outcome(loom, await loom.cancel(task, reason=why, downstream=downstream))

    change_each(tasks, change, agent=agent)


@click.command(cls=Command)
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("--reason", metavar="TEXT", help="Why, or until when.")
@agent_option
def defer(tasks: tuple[str, ...], reason: str | None, agent: str | None) -> None:
    """Put off tasks that nobody holds, until `loom resolve TASK retry`. `-` reads ids from standard input."""

    async def change(loom: Loom, task: str) -> Reply:
        return await outcome(loom, await loom.defer(task, reason=reason))

    change_each(tasks, change, agent=agent)


@click.command(cls=Command)
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("--reason", metavar="TEXT", help="Why.")
@from_option("reason")
@agent_option
def reopen(tasks: tuple[str, ...], reason: str | None, file: str | None, agent: str | None) -> None:
    """Have finished tasks done again; closed epics above them open. What waits for one and has begun goes on without
    it, the rest waits. `-` reads ids from standard input."""
    why = given_text(reason, file, "--reason")

    async def change(loom: Loom, task: str) -> Reply:
        return await outcome(loom, await loom.reopen(task, reason=why))

    change_each(tasks, change, agent=agent)


@click.command(cls=Command)
@click.argument("targets", nargs=-1, required=True, metavar="ID...")
@click.argument("action", type=_ACTION)
@click.option("--note", metavar="TEXT", help="For the next worker; the answer itself for `answer`.")
@click.option("--to", metavar="NAME", help="Who gets it, for `reassign`.")
@click.option("--downstream", is_flag=True, help="For `cancel`: also cancel all that waits for it.")
@from_option("note")
@agent_option
def resolve(
    targets: tuple[str, ...],
    action: str,
    note: str | None,
    to: str | None,
    downstream: bool,
    file: str | None,
    agent: str | None,
) -> None:
    """Decide about the escalated or dead tasks, or the escalations, that ID names. `-` reads ids from standard input.

    \b
    retry     put it into play again, its attempts counted anew
    answer    answer its question, and put it into play again
    reassign  claim it for another agent
    waive     give it up; what waits for it goes on without it
    cancel    give it up; what waits for it stays blocked
    reopen    have what is finished done again; see `loom reopen`
    defer     put off what is ready or waits; see `loom defer`
    """
    text = given_text(note, file, "--note")
    if action == "reassign" and to is None:
        raise click.UsageError("reassign needs --to NAME.")
    if action == "answer" and text is None:
        raise click.UsageError("answer needs --note TEXT or --from FILE.")
    if to is not None and action != "reassign":
        raise click.UsageError(f"--to goes with reassign; {action} gives it to nobody.")
    if downstream and action != "cancel":
        raise click.UsageError("--downstream goes with cancel.")

    async def change(loom: Loom, target: str) -> Reply:
        made = await loom.resolve(target, action, note=text, agent_id=to, downstream=downstream)
        return await outcome(loom, made)

    change_each(targets, change, agent=agent)


@click.group(name="dead-letter", cls=Group)
def dead_letter() -> None:
    """Tasks that ran out of attempts, and the ways out."""


@dead_letter.command("list")
@limit_option(50)
def list_dead(limit: int) -> None:
    """List dead tasks, oldest first, with what they hold up."""

    async def work(loom: Loom) -> Reply:
        return replies.dead_letters(await loom.dead_letters(limit=limit))

    answer(work, lambda reply: dead_lines(reply, limit))


@dead_letter.command()
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("--note", metavar="TEXT", help="For the next worker.")
@agent_option
def retry(tasks: tuple[str, ...], note: str | None, agent: str | None) -> None:
    """Put dead tasks into play again, their attempts counted anew. `-` reads ids from standard input."""
    given = named(tasks)

    async def work(loom: Loom) -> Reply:
        dead = await ids_of(loom, given)
        await _must_be_dead(loom, dead)
        return together([replies.outcome(await loom.resolve(one, "retry", note=note)) for one in dead])

    answer(work, lines_of_each, agent=agent, changes=True)


@dead_letter.command("cancel")
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("--reason", metavar="TEXT", help="Why.")
@click.option("--downstream", is_flag=True, help="Also cancel all that waits for them.")
@agent_option
def cancel_dead(tasks: tuple[str, ...], reason: str | None, downstream: bool, agent: str | None) -> None:
    """Cancel dead tasks. `-` reads ids from standard input."""
    given = named(tasks)

    async def work(loom: Loom) -> Reply:
        dead = await ids_of(loom, given)
        await _must_be_dead(loom, dead)
        return together([replies.outcome(await loom.cancel(one, reason=reason, downstream=downstream)) for one in dead])

    answer(work, lines_of_each, agent=agent, changes=True)


async def _must_be_dead(loom: Loom, tasks: Sequence[str]) -> None:
    for one in tasks:
        found = (await loom.get(one)).task
        if not found.dead:
            raise TaskStateError(f"{one} is {found.status.called}, not a dead letter.", "See `loom dead-letter list`.")


def dead_lines(reply: Reply, limit: int) -> Iterator[str]:
    """At most so many dead tasks as a table."""
    if not reply["tasks"]:
        yield reply["note"]
    rows = []
    for one in reply["tasks"]:
        held = f"holds up {one['held_up_count']}" if "held_up_count" in one else ""
        rows.append(
            [one["id"], one["priority"], one["age"], held, f"{one_line(one['title'])}: {one_line(one['reason'])}"]
        )
    yield from table(rows)
    yield from cut_short(len(rows), limit)
