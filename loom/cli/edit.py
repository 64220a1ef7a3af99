"""Changing one task in an editor: a person's own, in a terminal. What was written is checked as a whole; where it does
not hold, or somebody else was first, nothing is changed and the text stays where it is."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from loom import documents
from loom.cli.several import outcome_lines
from loom.cli.shared import Command, agent_option, can_ask, confirmed, open_project, read_text
from loom.cli.wording import people
from loom.config.inside import inside_run
from loom.exceptions import CommandError, ConfigError, InvalidInputError, LoomError, TaskStateError
from loom.graph.model.limits import JSON_DEPTH
from loom.graph.model.task import Task
from loom.texts import one_line
from loom.wording import worded, worded_reply

_FIELDS = ("title", "priority", "parent_id", "labels", "depends_on", "files", "checks", "done_when", "context")
_LISTS = ("labels", "depends_on", "files", "checks")


@click.command(cls=Command)
@click.argument("task")
@agent_option
def edit(task: str, agent: str | None) -> None:
    """Change TASK in your editor ($VISUAL or $EDITOR): title, criteria, context and what else it is made of. One at a
    time, since no two are alike there; `loom update` changes several in the same way."""
    if inside_run():
        raise ConfigError(
            "Nothing is edited from inside a run that Loom started.", "Change single things with `loom update`."
        )
    if not can_ask():
        raise click.UsageError("edit needs a terminal; `loom update` changes single things without one.")
    before = asyncio.run(_get(task))
    shown = _values(before)
    handle, name = tempfile.mkstemp(prefix=f"{before.id}-", suffix=".yaml")
    path = Path(name)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(_written(before, shown))
    try:
        while not _edited(before, shown, path, agent):
            if not confirmed("Edit it again?", default=True):
                click.get_current_context().exit(1)
    except BaseException:
        click.echo(f"What you wrote is in {path}", err=True)
        raise
    path.unlink()


def _edited(before: Task, shown: Mapping[str, Any], path: Path, agent: str | None) -> bool:
    """Whether the person is through with it; where not, he was told why."""
    try:
        click.edit(filename=str(path))
    except (ValueError, click.ClickException) as error:  # ValueError: of a quote without its end
        raise CommandError(
            f"The editor of $VISUAL or $EDITOR, as it is, has not done it: {error}.",
            "Set one that works here, or change single things with `loom update`.",
        ) from None
    try:
        changed = _read(read_text(str(path)), shown)
        if not changed:
            click.echo("Nothing was changed.")
            return True
        asyncio.run(_update(before, shown, changed, agent))
    except LoomError as error:
        click.echo(f"{one_line(worded(error.said, people('update')))}", err=True)
        return False
    return True


async def _get(task: str) -> Task:
    async with open_project() as loom:
        found = (await loom.get(task)).task
    if found.status.finished:  # which is told before somebody writes, not afterwards
        raise TaskStateError(
            f"{found.id} is already {found.status} and cannot be changed.",
            f"`loom reopen {found.id}` has it done again.",
        )
    return found


async def _update(before: Task, shown: Mapping[str, Any], changed: Mapping[str, Any], agent: str | None) -> None:
    from loom import replies
    from loom.orchestration.housekeeping import once

    async with open_project(agent) as loom:
        seen = {name: getattr(before, name) for name in changed}
        outcome = await loom.update(before.id, seen=seen, **_arguments(shown, changed))
        for line in outcome_lines(worded_reply(replies.outcome(outcome), people())):
            click.echo(line)
        await once(loom)


def _arguments(shown: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """What `Loom.update` takes for fields that are another now; it adds to lists, and takes away from them."""
    given = dict(changed)
    given |= {f"no_{name}": True for name in ("files", "checks") if name in changed}
    given |= {name: changed[name] or "" for name in ("done_when", "parent_id") if name in changed}
    if "labels" in changed:
        given["unlabel"] = [one for one in shown["labels"] if one not in changed["labels"]]
    return given


# --- the file ---------------------------------------------------------------------------------------------------------


def _values(task: Task) -> dict[str, Any]:
    values = {name: getattr(task, name) for name in _FIELDS}
    values |= {name: list(values[name]) for name in _LISTS}
    return values | {"priority": str(task.priority)}


def _written(task: Task, shown: Mapping[str, Any]) -> str:
    """The text that is edited: YAML, or JSON where YAML would come back as something else."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    body = yaml.dump(dict(shown), Dumper=Dumper, allow_unicode=True, sort_keys=False, width=100)
    try:
        same = documents.load(body, depth=JSON_DEPTH + 4) == shown
    except documents.DocumentError:
        same = False
    if not same:
        body = json.dumps(shown, indent=2, ensure_ascii=False) + "\n"
    return f"# {task.id}, {task.state}. What is as it was stays; close without saving to change nothing.\n{body}"


def _read(text: str, shown: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are another now. Raises InvalidInputError."""
    try:
        found = documents.load(text, depth=JSON_DEPTH + 4)
    except documents.DocumentError as error:
        raise InvalidInputError(f"The text {error.told()}.", error.advice) from None
    if not isinstance(found, dict):
        raise InvalidInputError("The text is no task any more.", f"Keep its fields: {', '.join(_FIELDS)}.")
    if strange := [str(name) for name in found if name not in _FIELDS]:
        raise InvalidInputError(f"A task has no field {one_line(strange[0])}.", f"It has {', '.join(_FIELDS)}.")
    if missing := [name for name in _FIELDS if name not in found]:
        raise InvalidInputError(f"The field {missing[0]} is missing.", "Put it back, with nothing behind it for none.")
    found |= {name: found[name] or [] for name in _LISTS} | {"context": found["context"] or {}}
    found |= {name: "" for name in ("title", "priority") if found[name] is None}  # which is refused, as None is not
    return {name: value for name, value in found.items() if value != shown[name]}
