"""Commands around who is told what waits for a person."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from loom import replies
from loom.cli.output import dim, emit, table
from loom.cli.shared import Group, Reply, answer, settings, wants_json
from loom.cli.times import when
from loom.exceptions import InvalidInputError
from loom.texts import shorten

if TYPE_CHECKING:
    from loom.config import LoomConfig
    from loom.graph.front import Loom
    from loom.graph.store.notices import Cursor
    from loom.orchestration.notices.receivers import Receiver


@click.group(cls=Group)
def notify() -> None:
    """Who is told what waits for a person, as `notify` in the configuration says, and whether that works."""


@notify.command("list")
def list_() -> None:
    """List the receivers of this project, when each was told last, and what keeps one from being told."""

    async def work(loom: Loom) -> Reply:
        from loom.graph.store import notices

        known = _receivers(loom.config)
        keys = [one.key for one in known]
        cursors = await loom.look(lambda connection: notices.cursors(connection, loom.project_id, keys))
        return {"receivers": [_row(one, cursors.get(one.key)) for one in known], "count": len(known)}

    def lines(reply: Reply) -> Iterator[str]:
        if not reply["receivers"]:
            yield "Nobody is told anything: `loom help monitoring` says how to name who is."
        yield from table([[one["name"], one["kind"], dim(_state(one))] for one in reply["receivers"]])

    answer(work, lines)


@notify.command("test")
@click.argument("receiver", required=False)
def try_out(receiver: str | None) -> None:
    """Tell RECEIVER, or each of this project's, something to see whether it arrives."""
    config = settings()
    known = [one for one in _receivers(config) if one.row.kind != "obsidian"]
    chosen = [one for one in known if receiver in (None, one.name)]
    if not chosen:
        wanted = "no receiver" if receiver is None else f"no receiver {receiver!r}"
        names = ", ".join(one.name for one in known)
        raise InvalidInputError(
            f"There is {shorten(wanted, 80)} for this project.",
            f"There are: {names}." if names else "Add a row to `notify` in ~/.loom/config.yaml.",
        )
    rows = [replies.full(name=one.name, kind=one.row.kind, error=_tried(config, one)) for one in chosen]
    if wants_json():
        emit({"receivers": rows, "count": len(rows)})
    else:
        for line in table([[one["name"], one["kind"], one.get("error", "told")] for one in rows]):
            click.echo(line)
    if any("error" in one for one in rows):
        click.get_current_context().exit(1)


def _tried(config: LoomConfig, receiver: Receiver) -> str | None:
    from loom.orchestration.notices import teller

    return asyncio.run(teller.try_out(config, receiver))


def _receivers(config: LoomConfig) -> list[Receiver]:
    from loom.orchestration.notices.receivers import of_project

    return of_project(config)


def _row(receiver: Receiver, cursor: Cursor | None) -> dict[str, Any]:
    row = receiver.row
    shown: dict[str, Any] = {"name": receiver.name, "kind": row.kind, "events": list(row.events)}
    shown |= replies.full(quiet=row.quiet, zone=row.zone)
    if cursor is not None:
        shown |= replies.full(
            told_at=cursor.told_at and cursor.told_at.isoformat(),
            failures=cursor.failures or None,
            error=cursor.error,
            retry_at=cursor.retry_at and cursor.retry_at.isoformat(),
        )
    return shown


def _state(one: Mapping[str, Any]) -> str:
    told = f"told {when(one['told_at'])}" if "told_at" in one else "told nothing yet"
    if "error" in one:
        return f"{told}; tried {one['failures']} times since, again {when(one['retry_at'])}: {one['error']}"
    return told
