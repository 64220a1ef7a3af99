"""Commands that look for tasks: by words, by what they are, by who is at them."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from loom import replies
from loom.cli.output import columns, dim, fitted, plural, state, table
from loom.cli.shared import Command, Reply, answer, limit_option, wants_json
from loom.graph.front import Loom
from loom.graph.model.filters import STATE_WORDS
from loom.graph.model.task import Priority
from loom.texts import one_line, shorten

_COLUMNS = ("id", "state", "priority", "title", "holder", "labels", "age", "done_at", "waits_for", "reason")
_WAITS = 3  # things that a row names
_STATE = click.Choice(STATE_WORDS, case_sensitive=False)
_MINUS = {"ignore_unknown_options": True}  # -label:later is the opposite of a part of a filter


@click.command("list", cls=Command, context_settings=_MINUS)
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@click.option(
    "--status", "states", multiple=True, type=_STATE, metavar="STATE", help=f"One of {', '.join(_STATE.choices)}."
)
@click.option("--label", "labels", multiple=True, metavar="NAME", help="With any of these labels.")
@click.option(
    "--priority", multiple=True, type=click.Choice(list(Priority), case_sensitive=False), help="Of any of these."
)
@click.option("--epic", metavar="TASK", help="Below this epic.")
@click.option("--holder", metavar="AGENT", help="Held by this agent, or held last.")
@click.option("--waits-for", metavar="TASK", help="What waits for this task.")
@click.option("--file", metavar="PATH", help="What touches this path.")
@click.option("--age", metavar="<2h|>7d", help="Made within, or before.")
@click.option("--changed", metavar="<2h|>7d", help="Last changed within, or before.")
@click.option("--finished", metavar="<2h|>7d", help="Done or cancelled within, or before.")
@click.option("--failed", metavar="N", help="What has failed so many times, or more.")
@limit_option(50)
@click.option("--ids", is_flag=True, help="Print ids only, one a line, for other commands.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values with a head line.")
def list_(words: tuple[str, ...], limit: int, ids: bool, as_csv: bool, **given: Any) -> None:
    """List tasks: all, or those that FILTER and the options ask for.

    FILTER is words to look for in titles, criteria and context, and `key:value` for each of the options, such as
    `parser status:ready,claimed -label:later age:>7d`. A minus is the opposite, "quotes" keep words together. What is
    in work comes first, then what is ready, has failed, waits, and was finished last."""
    _list(" ".join([*words, *_pairs(given)]), limit, ids=ids, as_csv=as_csv)


@click.command(cls=Command, context_settings=_MINUS)
@click.argument("words", nargs=-1, required=True, metavar="WORDS...")
@limit_option(50)
@click.option("--ids", is_flag=True, help="Print ids only, one a line, for other commands.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values with a head line.")
def search(words: tuple[str, ...], limit: int, ids: bool, as_csv: bool) -> None:
    """Look for WORDS in titles, criteria and context, as `loom list` does."""
    _list(" ".join(words), limit, ids=ids, as_csv=as_csv)


def _list(text: str, limit: int, *, ids: bool, as_csv: bool) -> None:
    if ids + as_csv + wants_json() > 1:
        raise click.UsageError("Give one of --ids, --csv and --json.")
    if strange := next((word for word in text.split() if word.startswith("--")), None):
        options = [name for one in click.get_current_context().command.params for name in one.opts]
        raise click.NoSuchOption(strange, possibilities=options)

    async def work(loom: Loom) -> Reply:
        return replies.found(await loom.find(text, limit=limit))

    def lines(reply: Reply) -> Iterator[str]:
        if ids:
            yield from (one["id"] for one in reply["tasks"])
        elif as_csv:
            _write_csv(reply["tasks"])
        else:
            yield from _rows(reply)

    answer(work, lines)


def _pairs(given: Mapping[str, Any]) -> Iterator[str]:
    """The options as the filter's own words."""
    for name, value in given.items():
        key = {"states": "status", "labels": "label"}.get(name, name.replace("_", "-"))
        values = [value] if isinstance(value, str) else list(value or ())
        if any('"' in one or "," in one or " " in one for one in values):
            raise click.UsageError(f"--{key} takes one value at a time, without quotes and spaces.")
        if values:
            yield f"{key}:{','.join(values)}"


def _rows(reply: Reply) -> Iterator[str]:
    """A row for each; why it waits or has failed stands behind its title, on a terminal below it."""
    tasks, below = reply["tasks"], columns() is not None
    rows = [
        [
            one["id"],
            state(one),
            one["priority"],
            one["age"],
            one_line(one["title"]) + _more(one) + ("" if below else _why(one)),
        ]
        for one in tasks
    ]
    for line, one in zip(table(rows), tasks, strict=True):
        yield line
        if below and (why := _why(one)):
            yield fitted(f"  {why}")
    if "more" in reply:
        yield dim(f"{plural(len(rows), 'task')} shown, and there are more: --limit N, or say more")
    if "note" in reply:
        yield dim(reply["note"])


def _more(one: Mapping[str, Any]) -> str:
    """What stands behind a title: labels, and who is at it."""
    parts = [f"[{', '.join(one['labels'])}]"] if "labels" in one else []
    if "holder" in one:
        parts.append(one["holder"])
    return "".join(dim(f"  {part}") for part in parts)


def _why(one: Mapping[str, Any]) -> str:
    """What it waits for, and why it has failed."""
    parts = []
    if waits := one.get("waits_for"):
        further = f" and {len(waits) - _WAITS} more" if len(waits) > _WAITS else ""
        parts.append(f"waits for {', '.join(waits[:_WAITS])}{further}")
    if "reason" in one:
        parts.append(shorten(one_line(one["reason"]), 80))
    return "".join(dim(f"  {part}") for part in parts)


def _write_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in rows:
        shown = {"state": one["status"], **one}
        writer.writerow(_cell(shown.get(column, "")) for column in _COLUMNS)


def _cell(value: object) -> str:
    """A value as a program for tables shows it: what would be a formula there is a text."""
    text = one_line("; ".join(value) if isinstance(value, list) else str(value))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
