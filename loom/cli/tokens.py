"""Access tokens: who may come in over HTTP, as whom, and until when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from loom import replies
from loom.cli.output import dim, table
from loom.cli.shared import Group, Reply, answer, note, wants_json
from loom.cli.times import given_span, when
from loom.exceptions import ProjectNotFoundError
from loom.graph.model.principals import ROLES
from loom.texts import one_line, quote

if TYPE_CHECKING:
    from loom.graph.front import Loom

F = TypeVar("F", bound=Callable[..., Any])


def _project_option(function: F) -> F:
    text = "Of this project of the database, by its name or id, instead of the one here."
    return click.option("--project", metavar="PROJECT", help=text)(function)


@click.group(cls=Group)
def token() -> None:
    """Who may come in over HTTP: make, list and revoke access tokens."""


@token.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What it may do; each includes those before it.")
@click.option(
    "--expires", callback=given_span, metavar="SPAN", help="It is over after 12h, 30d, ...; default: when revoked."
)
@_project_option
def add(name: str, role: str, expires: float | None, project: str | None) -> None:
    """Make a token, and print it this once. Whoever has it is NAME, and his agents are NAME/anything.

    \b
    reader    looks and waits
    worker    claims, reports, talks, makes tasks below those that it holds
    planner   makes and changes tasks, answers questions, puts off
    admin     decides about dead work, cancels, approves landings, gives out tokens
    """

    async def work(loom: Loom) -> Reply:
        made = await loom.add_token(name, role, seconds=expires)
        return {**replies.token(made.token), "token": made.secret}

    def lines(reply: Reply) -> Iterator[str]:
        yield reply["token"]

    _of_project(project, work, lines)
    if not wants_json():
        note("It is shown this once. Its owner puts it into LOOM_TOKEN, or runs `loom init --remote URL --with-token`.")


@token.command("list")
@_project_option
def list_tokens(project: str | None) -> None:
    """List the tokens that were made, oldest first, with their last use."""

    async def work(loom: Loom) -> Reply:
        rows = [replies.token(one) for one in await loom.tokens()]
        return {"tokens": rows, "count": len(rows)}

    def lines(reply: Reply) -> Iterator[str]:
        if not reply["tokens"]:
            yield "There is no token; `loom token add NAME --role ROLE` makes one."
        rows = [[row["id"], row["name"], row["role"], _state(row), dim(_used(row))] for row in reply["tokens"]]
        yield from table(rows)

    _of_project(project, work, lines)


@token.command()
@click.argument("which", metavar="NAME|ID")
@_project_option
def revoke(which: str, project: str | None) -> None:
    """End the tokens of this name, or the one with this id. They are refused everywhere from now on."""

    async def work(loom: Loom) -> Reply:
        rows = [replies.token(one) for one in await loom.revoke_tokens(which)]
        return {"tokens": rows, "count": len(rows)}

    def lines(reply: Reply) -> Iterator[str]:
        if not reply["tokens"]:
            yield f"No token that holds is called {quote(which)}; it was revoked before."
        yield from (f"{row['id']}  {row['name']}  revoked" for row in reply["tokens"])

    _of_project(project, work, lines)


def _of_project(
    named: str | None, work: Callable[[Loom], Awaitable[Reply]], lines: Callable[[Reply], Iterator[str]]
) -> None:
    """Asks the project of this name or id, by default the one here."""

    async def asked(loom: Loom) -> Reply:
        if named is None:
            return await work(loom)
        found = [one for one in await loom.projects() if named in (one.id, one.name)]
        if len(found) != 1:
            raise ProjectNotFoundError(
                f"This database has {'no' if not found else 'several'} projects called {quote(named)}.",
                "See `loom project list --all`, and give the id.",
            )
        config = replace(loom.config, project_id=found[0].id, project_name=found[0].name, project_dir=None)
        async with type(loom)(config) as other:
            return await work(other)

    answer(asked, lines)


def _state(row: Reply) -> str:
    if "revoked_at" in row:
        return f"revoked {when(row['revoked_at'])}"
    return f"until {when(row['expires_at'])}" if "expires_at" in row else "until it is revoked"


def _used(row: Reply) -> str:
    if "last_used_at" not in row:
        return "never used"
    client = f" by {one_line(row['last_client'])}" if row.get("last_client") else ""
    return f"used {when(row['last_used_at'])}{client}"
