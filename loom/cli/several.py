"""What is done to one task, or to several at once, and what is told of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from loom import replies
from loom.cli.output import state, status
from loom.cli.shared import Reply, answer, read_text
from loom.cli.times import when
from loom.exceptions import LoomError, UnavailableError
from loom.graph.front import Loom
from loom.texts import one_line

if TYPE_CHECKING:
    from loom.graph.rules.claims import Outcome

_IDS = 10  # that a line names


def named(names: Iterable[str]) -> list[str]:
    """The tasks that were named, each once; for `-` the first word of each line of standard input. Not for an event
    loop: a read there is not ended by Ctrl-C."""
    found = list[str]()
    for name in names:
        found += (line.split()[0] for line in read_text("-").splitlines() if line.strip()) if name == "-" else [name]
    if not found:
        raise click.UsageError("No task was named.")
    return list(dict.fromkeys(found))


async def ids_of(loom: Loom, names: Iterable[str]) -> list[str]:
    """The ids of tasks, each once; that of an escalation is left as it is. Raises LoomError where a name is none; of
    several, where a task is not there."""
    found = list(dict.fromkeys([one if _is_escalation(one) else await loom.id_of(one) for one in names]))
    for one in found if len(found) > 1 else ():
        if not _is_escalation(one):
            await loom.must_exist(one)
    return found


def change_each(
    names: Sequence[str],
    change: Callable[[Loom, str], Awaitable[Reply]],
    show: Callable[[Reply], Iterable[str]] | None = None,
    *,
    agent: str | None,
    token: int | None = None,
    here: bool = False,
) -> None:
    """Changes the tasks that were named, once it is known that all of them are there, and tells with `show` what became
    of each. Of several, one that refuses keeps nobody else from being changed, and the exit status is 1 then; once what
    all of them need is gone, the rest is told and not tried.

    Args:
        token: of one claim, so that several tasks are refused with it.
        here: as `answer` has it.
    """
    given, refused = named(names), list[Reply]()

    async def work(loom: Loom) -> Reply:
        tasks = await ids_of(loom, given)
        if len(tasks) == 1:
            return await change(loom, tasks[0])
        if token is not None:
            raise click.UsageError("--token is that of one claim; give it with one task.")
        changed = []
        for at, task in enumerate(tasks):
            try:
                changed.append(await change(loom, task))
            except LoomError as error:
                away = isinstance(error, UnavailableError)  # the same for all that come after it
                if away and not at:
                    raise
                left = tasks[at:] if away else [task]
                refused.extend({"id": one, "code": error.code, "why": error.cause} for one in left)
                if away:
                    break
        return {**together(changed), **({"refused": refused} if refused else {})}

    answer(work, lambda reply: lines_of_each(reply, show), agent=agent, changes=True, here=here)
    if refused:
        click.get_current_context().exit(1)


def together(rows: Sequence[Reply]) -> Reply:
    """The answer about several."""
    return {"tasks": list(rows), "count": len(rows)}


def lines_of_each(reply: Reply, show: Callable[[Reply], Iterable[str]] | None = None) -> Iterator[str]:
    """What is shown of one task, or of each of several, with `show` or as of a change."""
    show = show or outcome_lines
    for one in reply.get("tasks", [reply]):
        yield from show(one)
    for one in reply.get("refused", ()):
        yield f"{one['id']}  not changed: {one_line(one['why'])}"


async def with_reasons(loom: Loom, rows: Sequence[Reply]) -> list[Reply]:
    """Replies about tasks, each with what it waits for where it is blocked."""
    blocked = [one["id"] for one in rows if one["status"] == "blocked" or "waiting" in one]
    found = await loom.blockers(blocked) if blocked else {}
    waits = {task_id: replies.waits_for(blockers) for task_id, blockers in found.items() if blockers}
    return [{**one, "waits_for": waits[one["id"]]} if one["id"] in waits else one for one in rows]


async def outcome(loom: Loom, made: Outcome) -> Reply:
    """The reply about a task after a change, with what it waits for."""
    return (await with_reasons(loom, [replies.outcome(made)]))[0]


def outcome_lines(reply: Reply) -> Iterator[str]:
    """A task after a change, and what followed from it."""
    if reply["status"] == "landing":
        yield f"{reply['id']}  {status('landing')}"
        yield f"  {reply['next']}"
        return
    yield f"{reply['id']}  {state(reply)}  {one_line(reply['title'])}"
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
            more = f" and {len(ids) - _IDS} more" if len(ids) > _IDS else ""
            yield f"  {words}: {', '.join(ids[:_IDS])}{more}"


def _is_escalation(name: str) -> bool:
    return name.startswith("esc-")
