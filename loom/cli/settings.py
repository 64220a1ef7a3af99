"""Commands for the configuration and for projects as a whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loom.cli.output import dim, emit, table
from loom.cli.shared import Group, Reply, answer, confirmed, settings, wants_json
from loom.cli.times import when
from loom.config import (
    KEYS,
    gone,
    guarded,
    load_config,
    places,
    set_trusted,
    set_value,
    untrusted,
    user_config_path,
)
from loom.config import trust as record_trust
from loom.config.inside import refuse_inside
from loom.exceptions import InvalidInputError, ProjectNotFoundError
from loom.texts import one_line

if TYPE_CHECKING:
    from loom.graph.front import Loom


@click.group(cls=Group)
def config() -> None:
    """Show, set and trust the configuration."""


@config.command()
@click.option("--changed", is_flag=True, help="Only what differs from the defaults.")
def show(changed: bool) -> None:
    """Show every key, its value, and where that comes from. Passwords are masked."""
    merged = settings()
    values = merged.shown(changed=changed)
    if wants_json():
        facts = {key: {"value": value, "source": merged.sources.get(key, "default")} for key, value in values.items()}
        emit({"values": facts, "warnings": list(merged.warnings)})
        return
    rows = []
    for key, value in values.items():
        source = merged.sources.get(key, "default")  # a row's keys beside those that it has
        shown = one_line(_words(value))
        rows.append([key, shown if source != "default" else dim(shown), dim(source)])
    for line in table(rows):
        click.echo(line)


@config.command("set")
@click.argument("key")
@click.argument("value")
@click.option("--user", is_flag=True, help="In your own file, for all projects, instead of the project's.")
def set_key(key: str, value: str, user: bool) -> None:
    """Set KEY to VALUE in the project's configuration file. A list is written [one, two], a row of a table
    {key: value}, which replaces the row."""
    root = None if user else _project_dir("Pass --user to set it for all your projects.")
    path = user_config_path() if root is None else root / ".loom" / "config.yaml"
    written = set_value(path, key, value) if root is None else set_trusted(root, key, value)
    shown = _words(_shown(key, written))
    if wants_json():
        emit({"key": key, "value": shown, "file": str(path)})
    else:
        click.echo(f"{key} = {one_line(shown)}  {dim(f'in {path}')}")


@config.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def trust(yes: bool) -> None:
    """Allow, on this machine, what this project brings along that runs programs or sends data: some settings, the
    Compose file, skills and workflows. A change asks again."""
    root = _project_dir("Go into the project that you want to trust.")
    seen = guarded(root)
    names = sorted(seen)
    # Of what was seen, not of another look: what is asked about is what is recorded.
    new = sorted(untrusted(root, seen)) + [f"{name}, which is gone" for name in gone(root)]
    merged = load_config(root)
    owner = places.owner_elsewhere(merged)
    if owner:
        new.append(f"project_id, which is that of the project in {owner}")
    if new:
        refuse_inside("What this project is trusted with")
    if new and not yes:
        for name in new:
            click.echo(f"  {one_line(name)}", err=True)
        if not sys.stdin.isatty() or wants_json():
            raise InvalidInputError(
                f"{len(new)} of what this project brings along is not trusted yet: {', '.join(new[:10])}.",
                "Read it, then run `loom config trust --yes`.",
            )
        if not confirmed("Have you read it, and do you trust it?"):
            click.echo("Nothing of it is trusted.")
            click.get_current_context().exit(1)
    record_trust(root, seen=seen)
    places.allow(merged)
    if wants_json():
        emit({"trusted": names, "new": new})
    else:
        click.echo(f"Trusted: {', '.join(map(one_line, new))}." if new else "Nothing here needs your trust anew.")


def _shown(key: str, value: Any) -> Any:
    """The value of a key, or of a row of a table, as it may be shown."""
    if key in KEYS:
        return KEYS[key].shown(value)
    return {name: _shown(f"{key}.{name}", inner) for name, inner in value.items()}


def _words(value: object) -> str:
    """A value as a person would write it."""
    if value is None:
        return "-"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | list | tuple | dict) else str(value)


@click.group(cls=Group)
def project() -> None:
    """List and archive projects."""


@project.command("list")
@click.option("--all", "everything", is_flag=True, help="Archived ones too.")
def list_projects(everything: bool) -> None:
    """List the projects of this database, oldest first."""

    async def work(loom: Loom) -> Reply:
        rows = [
            {"id": one.id, "name": one.name, "created_at": one.created_at.isoformat(timespec="seconds")}
            | ({"archived_at": one.archived_at.isoformat(timespec="seconds")} if one.archived_at else {})
            | ({"here": True} if one.id == loom.project_id else {})
            for one in await loom.projects()
            if everything or one.archived_at is None
        ]
        return {"projects": rows, "count": len(rows)}

    def lines(reply: Reply) -> Iterator[str]:
        yield from table(
            [
                [
                    "*" if "here" in one else " ",
                    one_line(one["name"]),
                    one["id"],
                    f"since {when(one['created_at'])}" + (", archived" if "archived_at" in one else ""),
                ]
                for one in reply["projects"]
            ]
        )

    answer(work, lines)


@project.command()
def archive() -> None:
    """Hide this project from lists. Nothing is removed, and it goes on working."""

    async def work(loom: Loom) -> Reply:
        return {"id": loom.project_id, "archived": True, "changed": await loom.archive()}

    def lines(reply: Reply) -> Iterator[str]:
        yield f"{reply['id']} is archived." if reply["changed"] else f"{reply['id']} was archived before."

    answer(work, lines, changes=True)


def _project_dir(otherwise: str) -> Path:
    root = settings().project_dir
    if root is None:
        raise ProjectNotFoundError("There is no Loom project here.", f"Run `loom init`. {otherwise}")
    return root
