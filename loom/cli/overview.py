"""The project at a glance, as `loom status` shows it to a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loom.cli.output import diagnosed, dim, fitted, heading, plural, prose, table
from loom.cli.output import status as coloured
from loom.cli.shared import Reply
from loom.cli.times import span, when
from loom.texts import one_line, shorten

_BLOCKED = 5  # tasks that wait
_TEXT = 60  # characters of a title above a question
_WHY = {
    "cancelled": "is cancelled",
    "childless": "is an epic without children",
    "confirm": "wants a yes",
    "dead_letter": "is dead",
    "deferred": "is put off",
    "landing": "wants a yes to land",
    "plan": "is a plan that wants a yes",
    "question": "asks",
}


def overview_lines(reply: Reply) -> Iterator[str]:
    """What waits for the reader first, then what goes on, what comes next, and what waits for that."""
    counts = reply["counts"]
    tasks = sum(counts.values()) - counts["cancelled"]
    yield f"{heading(one_line(reply['project']))}  {counts['done']:,} of {plural(tasks, 'task')} done"
    states = {"ready": reply["ready"], "claimed": counts["claimed"], "blocked": counts["blocked"]}
    states |= {"retry": reply["retries_due"], "dead": reply["dead_letters"]}
    states |= {name: counts[name] for name in ("done", "cancelled", "epic")}
    yield "  " + "  ".join(
        f"{coloured(name)} {number:,}" for name, number in states.items() if number or name == "ready"
    )
    yield from _counted_lines(reply)
    yield from _needs_lines(reply)
    yield from _progress_lines(reply)
    if "next" in reply:
        yield from _first_rows("next", reply["next"], reply["ready"], "loom ready")
    yield from _epic_lines(reply)
    if "blocked" in reply:
        yield from _first_rows("blocked", reply["blocked"][:_BLOCKED], counts["blocked"], "loom list status:blocked")
    if not sum(counts.values()):
        yield "No tasks yet: `loom create TITLE`, `loom import FILE`, or ask your agent to plan with Loom."


def _counted_lines(reply: Reply) -> Iterator[str]:
    """How much is dead, deferred, and under way, and when it may end."""
    if reply["dead_letters"]:
        yield f"  {plural(reply['dead_letters'], 'dead letter')} (`loom dead-letter list`)"
    if "landing" in reply:
        yield from _landing_lines(reply["landing"])
    if "deferred" in reply:
        yield f"  {reply['deferred']:,} deferred (`loom status --view escalations`)"
    for one in reply.get("resting", ()):
        what = f"{plural(one['agents'], 'worker')} of {one_line(one['runner'])}"
        yield f"  {what} resting until {when(one['until'])}: {one_line(one['why'])}"
    if "open_workflows" in reply:
        yield f"  {plural(reply['open_workflows'], 'workflow')} under way (`loom workflow status`)"
    if "may_end" in reply:
        yield f"  {ending(reply['may_end'])}"


def ending(one: Mapping[str, Any]) -> str:
    """When it may end, and why that is thought."""
    pace = f"{plural(one['done'], 'task')} in the last {span(one['seconds'])}"
    return f"may end {when(one['at'])}: {one['left']:,} left, {pace}"


def _landing_lines(one: Mapping[str, Any]) -> Iterator[str]:
    """How far the landings are, and what was said once of where they go."""
    queued = f", {one['queued']:,} queued" if "queued" in one else ""
    asks = f", {one['waits_for_yes']:,} of them for a yes" if "waits_for_yes" in one else ""
    yield f"  {one['landed']:,} of {one['of']:,} landed{queued}{asks} (`loom landing`)"
    if "target" in one:
        yield f"  landing on {one['target']}: {one_line(one['target_because'])}"


def _needs_lines(reply: Reply) -> Iterator[str]:
    """What waits for the reader, each with the command that answers it."""
    asks = reply.get("needs_you", ())
    if not asks:
        return
    yield _head("needs you", reply["needs_you_count"] - len(asks), "loom status --view escalations")
    for one in asks:
        named = one.get("task_id", one["id"])
        yield from _standing(one | {"id": named}, _WHY[one["need"]], one["answer"])


def stuck_lines(reply: Reply) -> Iterator[str]:
    """What does not go on by itself."""
    if "note" in reply:
        yield reply["note"]
    for one in reply["stuck"]:
        yield from _standing(one, _WHY[one["cause"]], one["way_out"], "")


def _standing(one: Mapping[str, Any], why: str, command: str, indent: str = "  ") -> Iterator[str]:
    """Something that stands still: what it is, what is said of it, and the command that lets it go on."""
    held = f", holds up {one['held_up']:,}" if "held_up" in one else ""
    about = f"{why}, {one['age']} ago{held}"
    title = shorten(one_line(one["title"]), _TEXT)
    whole = f"{indent}{one['id']}  {title}  {dim(about)}"
    if fitted(whole) == whole:
        yield whole
    else:  # why it stands still is not what is cut
        yield fitted(f"{indent}{one['id']}  {title}")
        yield fitted(f"{indent}  {dim(about)}")
    if "text" in one:
        yield from prose(one_line(one["text"]), f"{indent}  ")
    if "diagnosis" in one:
        yield from prose(f"diagnosed: {diagnosed(one['diagnosis'])}", f"{indent}  ")
    yield f"{indent}  {command}"


def _progress_lines(reply: Reply) -> Iterator[str]:
    tasks = reply.get("in_progress", ())
    if not tasks:
        return
    yield _head("in progress", reply["counts"]["claimed"] - len(tasks), "loom list status:claimed,landing")
    rows = [[one["id"], one["phase"], one["agent"], one["age"], _sign(one), one_line(one["title"])] for one in tasks]
    yield from table(rows, "  ")


def _sign(one: Mapping[str, Any]) -> str:
    """When something was heard of it; what the queue holds needs nobody to be heard of."""
    if one["phase"] == "landing":
        return "until it has landed"
    return f"last sign {one['silent']} ago{' (not renewed)' if 'stale' in one else ''}"


def _epic_lines(reply: Reply) -> Iterator[str]:
    epics = reply.get("epics", ())
    if not epics:
        return
    yield heading("epics") + (f" {dim('and more: `loom list status:epic`')}" if "more_epics" in reply else "")
    rows = [[one["id"], f"{one['done']:,} of {one['of']:,}", one_line(one["title"])] for one in epics]
    yield from _with_reasons(rows, epics)


def _first_rows(name: str, tasks: Sequence[Mapping[str, Any]], count: int, command: str) -> Iterator[str]:
    """The first of so many tasks, and the command that shows them all."""
    yield _head(name, count - len(tasks), command)
    rows = [[one["id"], one["priority"], one["age"], one_line(one["title"])] for one in tasks]
    yield from _with_reasons(rows, tasks)


def _with_reasons(rows: Sequence[Sequence[str]], tasks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A row for each, and below it what it waits for."""
    for row, one in zip(table(rows, "  "), tasks, strict=True):
        yield row
        if "waits_for" in one:
            yield fitted(dim(f"    waits for {one_line('; '.join(one['waits_for']))}"))


def _head(name: str, more: int, command: str) -> str:
    return heading(name) + (f" {dim(f'and {more:,} more: `{command}`')}" if more > 0 else "")
