"""Commands that make tasks, change them and decide about them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from loom import replies
from loom.cli.output import cut_short, status, table
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
    several,
    task_entries,
    token_option,
)
from loom.cli.times import when
from loom.exceptions import ConflictError, InvalidError, TaskStateError
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
        answer(lambda loom: _create_all(loom, entries, common, key), _lines_together, agent=agent, changes=True)
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
        return await _with_reason(loom, replies.created(made))

    answer(work, outcome_lines, agent=agent, changes=True)


async def _create_all(
    loom: Loom, entries: Sequence[Mapping[str, Any]], common: Mapping[str, Any], key: str | None
) -> Reply:
    """Creates tasks as a plan has them; `common` is what those have that do not say otherwise."""
    named = {**common, "depends_on": [await loom.id_of(one, "depends_on") for one in common["depends_on"]]}
    if common["parent"]:
        named["parent"] = await loom.id_of(common["parent"], "parent_id")
    given = {name: value for name, value in named.items() if value}
    made = await loom.apply_plan({"tasks": [{**given, **entry} for entry in entries]}, key=key)
    return _together(await _with_reasons(loom, [replies.created(one) for one in made]))


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
        return replies.outcome(
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
            )
        )

    _change_each(tasks, change, agent)


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
        return replies.outcome(await loom.cancel(task, reason=why, downstream=downstream))

    _change_each(tasks, change, agent)


@click.command(cls=Command)
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("--reason", metavar="TEXT", help="Why, or until when.")
@agent_option
def defer(tasks: tuple[str, ...], reason: str | None, agent: str | None) -> None:
    """Put off tasks that nobody holds, until `loom resolve TASK retry`. `-` reads ids from standard input."""

    async def change(loom: Loom, task: str) -> Reply:
        return replies.outcome(await loom.defer(task, reason=reason))

    _change_each(tasks, change, agent)


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
        return replies.outcome(await loom.reopen(task, reason=why))

    _change_each(tasks, change, agent)


@click.command(cls=Command)
@click.argument("target", metavar="ID")
@click.argument("action", type=_ACTION)
@click.option("--note", metavar="TEXT", help="For the next worker; the answer itself for `answer`.")
@click.option("--to", metavar="NAME", help="Who gets it, for `reassign`.")
@click.option("--downstream", is_flag=True, help="For `cancel`: also cancel all that waits for it.")
@from_option("note")
@agent_option
def resolve(
    target: str, action: str, note: str | None, to: str | None, downstream: bool, file: str | None, agent: str | None
) -> None:
    """Decide about the escalated or dead task, or the escalation, that ID names.

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

    async def work(loom: Loom) -> Reply:
        made = await loom.resolve(target, action, note=text, agent_id=to, downstream=downstream)
        return await _with_reason(loom, replies.outcome(made))

    answer(work, outcome_lines, agent=agent, changes=True)


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

    async def work(loom: Loom) -> Reply:
        named = await _ids(loom, tasks)
        await _must_be_dead(loom, named)
        return _together([replies.outcome(await loom.resolve(one, "retry", note=note)) for one in named])

    answer(work, _lines_together, agent=agent, changes=True)


@dead_letter.command("cancel")
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("--reason", metavar="TEXT", help="Why.")
@click.option("--downstream", is_flag=True, help="Also cancel all that waits for them.")
@agent_option
def cancel_dead(tasks: tuple[str, ...], reason: str | None, downstream: bool, agent: str | None) -> None:
    """Cancel dead tasks. `-` reads ids from standard input."""

    async def work(loom: Loom) -> Reply:
        named = await _ids(loom, tasks)
        await _must_be_dead(loom, named)
        return _together(
            [replies.outcome(await loom.cancel(one, reason=reason, downstream=downstream)) for one in named]
        )

    answer(work, _lines_together, agent=agent, changes=True)


def _change_each(names: tuple[str, ...], change: Callable[[Loom, str], Awaitable[Reply]], agent: str | None) -> None:
    """Changes the tasks that were named, once it is known that all of them are there, and tells what became of each.
    Of several, one that refuses keeps nobody else from being changed; the exit status is 1 then."""
    refused: list[dict[str, str]] = []

    async def work(loom: Loom) -> Reply:
        tasks = await _ids(loom, names)
        if len(tasks) == 1:
            return await _with_reason(loom, await change(loom, tasks[0]))
        for task in tasks:
            await loom.must_exist(task)
        changed = []
        for task in tasks:
            try:
                changed.append(await _with_reason(loom, await change(loom, task)))
            except (ConflictError, InvalidError) as error:
                refused.append({"id": task, "why": str(error.cause)})
        return {**_together(changed), **({"refused": refused} if refused else {})}

    def lines(reply: Reply) -> Iterator[str]:
        if "tasks" not in reply:
            yield from outcome_lines(reply)
            return
        yield from _lines_together(reply)
        yield from (f"{one['id']}  not changed: {one_line(one['why'])}" for one in reply.get("refused", ()))

    answer(work, lines, agent=agent, changes=True)
    if refused:
        click.get_current_context().exit(1)


async def _with_reason(loom: Loom, reply: Reply) -> Reply:
    """A reply about one task, with what it waits for where it is blocked."""
    return (await _with_reasons(loom, [reply]))[0]


async def _with_reasons(loom: Loom, rows: Sequence[Reply]) -> list[Reply]:
    blocked = [one["id"] for one in rows if one["status"] == "blocked" or "waiting" in one]
    found = await loom.blockers(blocked) if blocked else {}
    waits = {task_id: replies.waits_for(blockers) for task_id, blockers in found.items() if blockers}
    return [{**one, "waits_for": waits[one["id"]]} if one["id"] in waits else one for one in rows]


async def _ids(loom: Loom, names: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys([await loom.id_of(name) for name in several(names)]))


async def _must_be_dead(loom: Loom, tasks: Sequence[str]) -> None:
    for one in tasks:
        found = (await loom.get(one)).task
        if not found.dead:
            raise TaskStateError(f"{one} is {found.status}, not a dead letter.", "See `loom dead-letter list`.")


def _together(rows: Sequence[Reply]) -> Reply:
    return {"tasks": list(rows), "count": len(rows)}


def _lines_together(reply: Reply) -> Iterator[str]:
    for one in reply["tasks"]:
        yield from outcome_lines(one)


def outcome_lines(reply: Reply) -> Iterator[str]:
    """A task after a change, and what followed from it."""
    if reply["status"] == "landing":
        yield f"{reply['id']}  {status('landing')}"
        yield f"  {reply['next']}"
        return
    yield f"{reply['id']}  {status(reply['status'])}  {one_line(reply['title'])}"
    if "assignee" in reply:
        yield f"  held by {reply['assignee']}, token {reply['token']}"
    if "waits_for" in reply:
        yield f"  waits for {'; '.join(reply['waits_for'])}"
    if "retry_at" in reply:
        yield f"  will be tried again at {when(reply['retry_at'])}"
    if "dead_reason" in reply:
        yield f"  a dead letter: {one_line(reply['dead_reason'])}"
        yield f"  next: `loom resolve {reply['id']} retry`, or waive or cancel"
    for key, words in (
        ("unblocked", "ready now"),
        ("closed_epics", "closed"),
        ("cancelled", "cancelled too"),
        ("opened_epics", "open again"),
        ("waived", "goes on without it"),
        ("held_up", "still waiting for it"),
    ):
        if ids := [one for one in reply.get(key, ()) if one != reply["id"]]:
            more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
            yield f"  {words}: {', '.join(ids[:10])}{more}"


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
