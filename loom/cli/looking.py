"""Commands that only look: the project, a task, what is ready, the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from loom import replies
from loom.cli.output import (
    block,
    cut_short,
    diagnosed,
    dim,
    fields,
    files_and_checks,
    fitted,
    heading,
    note_lines,
    plural,
    prose,
    state,
    table,
    titled,
)
from loom.cli.overview import overview_lines, stuck_lines
from loom.cli.several import lines_of_each, named, together
from loom.cli.shared import Command, Reply, answer, limit_option
from loom.cli.tasks import dead_lines
from loom.cli.times import until, when
from loom.config import logs_dir
from loom.graph.front import Loom
from loom.texts import clean, one_line


@click.command(cls=Command)
@click.option("--priority", type=click.Choice(["p0", "p1", "p2"], case_sensitive=False), help="Only this one.")
@limit_option(10)
def ready(priority: str | None, limit: int) -> None:
    """List what can be claimed now, in the order in which it will be."""

    async def work(loom: Loom) -> Reply:
        return replies.ready(await loom.ready(priority=priority, limit=limit))

    def lines(reply: Reply) -> Iterator[str]:
        if not reply["tasks"]:
            yield reply["note"]
        yield from table(_row(one) for one in reply["tasks"])
        if "more" in reply:
            yield dim("and more: --limit N")

    answer(work, lines)


@click.command(cls=Command)
@limit_option(20)
def stuck(limit: int) -> None:
    """What does not go on by itself, however many work: why, what it holds up, and the command that lets it go on. What
    holds up most stands first."""

    async def work(loom: Loom) -> Reply:
        return replies.stuck(await loom.stuck(limit=limit))

    answer(work, lambda reply: [*stuck_lines(reply), *cut_short(len(reply["stuck"]), limit)])


@click.command(cls=Command)
@click.argument("task", required=False)
@click.option(
    "--view",
    type=click.Choice(["overview", "agents", "escalations", "dead_letters"]),
    help="What to show of the project. [default: overview]",
)
@limit_option(None, words="At most this many of each; default 5, and 50 in the other views.")
def status(task: str | None, view: str | None, limit: int | None) -> None:
    """The project at a glance: what needs you, who is at what, what is next, how far the epics are, when it may end. Or
    TASK with all around it."""
    if task is not None:
        if view or limit:
            raise click.UsageError("--view and --limit go with the project; TASK is shown with all around it.")
        answer(lambda loom: _detail(loom, task), _detail_lines)
        return
    most = limit or (5 if view in (None, "overview") else 50)

    async def work(loom: Loom) -> Reply:
        if view == "agents":
            held = await loom.agents()
            return replies.agents(held[:most]) | ({"more": len(held) - most} if len(held) > most else {})
        if view == "escalations":
            return replies.escalations(await loom.escalations(limit=most), await loom.deferrals(limit=most))
        if view == "dead_letters":
            return replies.dead_letters(await loom.dead_letters(limit=most))
        return replies.glance(await loom.glance(limit=most)) | _resting(loom)

    lines = {
        "agents": _agent_lines,
        "escalations": lambda reply: _escalation_lines(reply, most),
        "dead_letters": lambda reply: dead_lines(reply, most),
    }
    answer(work, lines.get(view or "", overview_lines))


@click.command(cls=Command)
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
def show(tasks: tuple[str, ...]) -> None:
    """Tasks with all around them, as `loom status TASK` shows one. `-` reads ids from standard input."""

    wanted = named(tasks)

    async def work(loom: Loom) -> Reply:
        found = [await _detail(loom, one) for one in wanted]
        return together(found) if len(found) > 1 else found[0]

    answer(work, lambda reply: lines_of_each(reply, _detail_lines))


@click.command(cls=Command)
@click.option(
    "--format", "shape", type=click.Choice(["summary", "mermaid", "json"]), default="summary", show_default=True
)
@click.option("--root", metavar="TASK", help="Only what this task is made of and waits for.")
@click.option("--filter", "wanted", metavar="FILTER", help="Only what this asks for, as `loom list` has it.")
@limit_option(200, 10_000)
def graph(shape: str, root: str | None, wanted: str | None, limit: int) -> None:
    """The graph: waves of what can be done at once, a Mermaid flowchart, or tasks and edges as JSON."""
    from loom.cli.output import emit
    from loom.replies import drawing

    async def work(loom: Loom) -> Reply:
        found = await loom.graph(root=root, wanted=wanted, limit=limit)
        if shape == "summary":
            return drawing.summary(found)
        return drawing.rows(found) if shape == "json" else {"format": "mermaid", "mermaid": drawing.mermaid(found)}

    def lines(reply: Reply) -> Iterator[str]:
        if shape == "json":
            emit(reply)
        elif shape == "mermaid":
            yield reply["mermaid"]
        else:
            yield from _wave_lines(reply)

    answer(work, lines)


async def _detail(loom: Loom, task: str) -> Reply:
    """A task with all around it, and where it has failed what its command has printed, if that was on this machine."""
    from loom.orchestration.printed import newest_log

    reply = replies.detail(await loom.get(task))
    if reply["status"] == "failed" and (log := newest_log(reply["id"], logs_dir(loom.config))) is not None:
        reply["log"] = str(log)
    return reply


def _resting(loom: Loom) -> dict[str, Any]:
    """The workers on this machine that wait for their runner's limit, or for its provider."""
    from loom.orchestration.workers.resting import resting

    rows = [
        {
            "runner": one.runner,
            "agents": one.agents,
            "until": one.until.isoformat(timespec="seconds"),
            "why": one.why,
        }
        for one in resting(loom.config)
    ]
    return {"resting": rows} if rows else {}


def _row(one: Mapping[str, Any]) -> Sequence[str]:
    return one["id"], one["priority"], one["age"], one_line(one["title"])


def _holder_rows(holders: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from table(
        [
            [
                holder["agent"],
                one["id"],
                until(one) + (" (not renewed)" if holder.get("stale") else ""),
                one_line(one["title"]),
            ]
            for holder in holders
            for one in holder["tasks"]
        ],
        "  ",
    )


def _agent_lines(reply: Reply) -> Iterator[str]:
    if not reply["agents"]:
        yield reply["note"]
    yield from _holder_rows(reply["agents"])
    if "more" in reply:
        yield dim(f"and {plural(reply['more'], 'agent')} more: --limit N")


def _escalation_row(one: Mapping[str, Any]) -> Sequence[str]:
    held = dim(f"  holds up {plural(one['held_up'], 'task')}") if "held_up" in one else ""
    words = f"{one.get('from', '')}: {one_line(one['message'])}{held}"
    return one["id"], one["task_id"], one["kind"], one["age"], words


def _escalation_lines(reply: Reply, limit: int) -> Iterator[str]:
    if not reply["escalations"]:
        yield reply["note"]
    yield from _escalation_table(reply["escalations"])
    yield from cut_short(reply["count"], limit)
    if "deferred" in reply:
        yield heading("deferred") + dim("  `loom resolve ID retry` puts one into play")
        yield from _escalation_table(reply["deferred"], "  ")
        yield from cut_short(len(reply["deferred"]), limit)


def _escalation_table(found: Sequence[Mapping[str, Any]], indent: str = "") -> Iterator[str]:
    """A row for each, and below it what a diagnosis says."""
    for one, line in zip(found, table([_escalation_row(one) for one in found], indent), strict=True):
        yield line
        yield from _diagnosis_line(one, indent)


def _diagnosis_line(one: Mapping[str, Any], indent: str) -> Iterator[str]:
    if "diagnosis" in one:
        yield f"{indent}  {dim('diagnosed: ' + diagnosed(one['diagnosis']))}"


def _detail_lines(reply: Reply) -> Iterator[str]:
    yield from titled(f"{reply['id']}  {state(reply)}  {reply['priority']}  ", one_line(reply["title"]))
    yield from table([[dim(name), one_line(text)] for name, text in _facts(reply) if text is not None], "  ")
    for key in ("done_when", "context", "output"):
        if key in reply:
            show = block if isinstance(reply[key], str) else fields
            yield from show(key.replace("_", " "), reply[key])
    yield from note_lines(reply.get("notes", ()))
    for key, words in (("dependencies", "depends on"), ("dependents", "is waited for by"), ("children", "holds")):
        if key in reply:
            yield f"  {heading(words)}"
            yield from table([_neighbour(one) for one in reply[key]], "    ")
    if "escalations" in reply:
        yield f"  {heading('escalations')}"
        rows = [
            [one["id"], one["kind"], one["age"], one.get("resolution", "open"), one_line(one["message"])]
            for one in reply["escalations"]
        ]
        for one, line in zip(reply["escalations"], table(rows, "    "), strict=True):
            yield line
            yield from _diagnosis_line(one, "    ")
    if "proofs" in reply:
        yield f"  {heading('checks that ran')}"
        yield from table([_proof(one) for one in reply["proofs"]], "    ")
    if "history" in reply:
        yield f"  {heading('history')}"
        yield from table([[when(one["at"]), one["type"], one.get("agent", "")] for one in reply["history"]], "    ")


def _facts(reply: Reply) -> Iterator[tuple[str, Any]]:
    """What one line says, with the word for it; None where there is nothing to say."""
    yield "parent", reply.get("parent_id")
    yield from files_and_checks(reply)
    if reply["status"] == "claimed":
        yield "held by", f"{reply['assignee']} {until(reply)}, token {reply['token']}"
    else:
        yield "last held by", reply.get("assignee")
    yield "waits for", "; ".join(reply["waits_for"]) if "waits_for" in reply else None
    yield "attempt", reply.get("attempt")
    yield "dead because", reply.get("dead_reason")
    yield "log", f"{reply['log']} (`loom logs {reply['id']}`)" if "log" in reply else None
    if "landed" in reply:
        one = reply["landed"]
        yield "landed", f"on {one['target']} as {one['commit'][:12]} at {when(one['at'])}"
    elif "landing" in reply:
        yield "landing", f"{reply['landing']['state'].replace('_', ' ')}, for {reply['landing']['target']}"
        yield "because", reply.get("reason")
    yield from ((words, when(reply[key])) for key, words in _MOMENTS if key in reply)
    origin = str(reply.get("origin_id") or "")
    made_once = origin.startswith("key/")
    yield "made for the key" if made_once else "imported as", origin.removeprefix("key/") or None


_MOMENTS = (("retry_at", "tried again at"), ("created_at", "created"), ("done_at", "finished"))


def _proof(one: Mapping[str, Any]) -> Sequence[str]:
    seconds = f"{one['seconds']:.1f} s" if "seconds" in one else ""
    last = one_line(one.get("tail", "").strip().rpartition("\n")[2])
    return one["name"], one["state"] + (" (2nd run)" if "flaky" in one else ""), seconds, when(one["at"]), last


def _neighbour(one: Mapping[str, Any]) -> Sequence[str]:
    waits = dim(f"  waits for {'; '.join(one['waits_for'])}") if "waits_for" in one else ""
    return one["id"], state(one), one_line(one["title"]) + (" (waived)" if "waived" in one else "") + waits


def _wave_lines(reply: Reply) -> Iterator[str]:
    if "note" in reply:
        yield reply["note"]
    for wave in reply.get("waves", ()):
        yield heading(f"wave {wave['wave']}") + dim(f"  {plural(wave['count'], 'task')}")
        yield from (fitted(f"  {clean(one)}") for one in wave["tasks"])
        if (more := wave["count"] - len(wave["tasks"])) > 0:
            yield dim(f"  and {more:,} more")
    for dead, held in reply.get("held_up_by_dead_work", {}).items():
        yield from prose(
            f"stuck: {', '.join(held)} behind {dead}, until `loom resolve {dead} retry`, waive or cancel", ""
        )
    if "more" in reply:
        yield dim(f"{plural(reply['more'], 'task')} more are not looked at: --limit N")
