"""Commands that start and stop servers: PostgreSQL and Redis, and the one that agents speak to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import click

from loom import services
from loom.cli.output import dim, emit, heading, plural, table
from loom.cli.shared import Command, note, open_project, progress, settings_here, wants_json
from loom.config import LoomConfig
from loom.exceptions import LoomError, ServersError
from loom.hub import running
from loom.services import ServerHealth
from loom.services.instance import instance_dir
from loom.texts import one_line


@click.command(cls=Command)
def up() -> None:
    """Start the servers and bring the database and .mcp.json up to date. Calling it again changes nothing."""
    from loom.cli import wiring

    config = settings_here()
    mcp, health = bring_up(config)
    if wants_json():
        servers = [{"name": one.name, "running": one.running, "where": one.where} for one in health]
        facts = {"project_id": config.project_id, "project": config.project_name, "servers": servers, "mcp_json": mcp}
        emit(facts | {"not_ours": wiring.not_ours(config.project_dir) if config.project_dir else []})
        return
    for line in server_lines(health):
        click.echo(line)
    if config.servers.backend == "embedded":
        click.echo(f"Their data lies in {instance_dir(config)}.")
    if mcp != "unchanged":
        click.echo(f".mcp.json {mcp}")
    if config.project_dir:
        wiring.note_not_ours(config.project_dir)
    click.echo(
        f"{heading(one_line(config.project_name))} is ready. Next: run {heading('claude')} here, or `loom status`."
    )


def bring_up(config: LoomConfig) -> tuple[str, Sequence[ServerHealth]]:
    """Starts what does not run, migrates, and refreshes .mcp.json; says whether that changed, and how servers are."""
    from loom.cli import wiring

    config = replace(config, database=replace(config.database, migrate="always"))
    loom = open_project(config=config)  # without a project nothing is started
    services.up(config, progress)

    async def connect() -> None:
        async with loom:
            await loom.connect()
            if not loom.notice and not any((await loom.status()).counts.values()):
                progress("This project has no tasks on these servers yet.")
            if refused := await loom.mirror_refused():
                note(f"{refused} PostgreSQL goes on alone.")

    progress("Bringing the database up to date.")
    asyncio.run(connect())
    if not running.start(config) and config.mcp.hub != "never":
        log = instance_dir(config) / "hub.log"
        note(f"No hub answers, so each session is served by a process of its own. {log} may say why.")
    mcp = wiring.refresh(config.project_dir) if config.project_dir else "unchanged"
    return mcp, services.check(config)


@click.command(cls=Command)
@click.option("--check", is_flag=True, help="Change nothing; exit status 1 if something is missing.")
def migrate(check: bool) -> None:
    """Bring the database's schema up to this version of Loom, and nothing else.

    For a database that several machines share, where no server and no command does that by itself: a job, or the one
    who installs the new version first. It needs no project; calling it again changes nothing."""
    from loom.graph.connections import bring_forward

    names = asyncio.run(bring_forward(settings_here(), look=check))
    if wants_json():
        emit({"missing" if check else "applied": names})
    elif check:
        click.echo(f"The database lacks {', '.join(names)}." if names else "The database is up to date.")
    else:
        click.echo(f"Applied: {', '.join(names)}." if names else "The database was up to date.")
    if check and names:
        click.get_current_context().exit(1)


@click.command(cls=Command)
@click.option("--yes", is_flag=True, help="Stop them although other projects use them now.")
def down(yes: bool) -> None:
    """Stop the servers. Every byte is kept; `loom up` starts them again."""
    config = settings_here()
    if not yes and (others := _others(config)):
        names = ", ".join(f"{name} ({plural(number, 'connection')})" for name, number in others.items())
        raise ServersError(
            f"Other projects use these servers now: {names}.", "Run `loom down --yes` to stop them anyway."
        )
    progress("Stopping the servers.")
    running.end(config)
    services.down(config)
    if wants_json():
        emit({"stopped": True})
    else:
        click.echo("The servers are stopped; nothing was removed. `loom up` starts them again.")


@click.command()
@click.option("--direct", is_flag=True, help="Serve in this process, without the hub.")
def mcp(direct: bool) -> None:
    """Serve Loom's tools to an agent's client over standard input and output: through the hub, and in this process
    where there is none."""
    from loom.mcp.server import run

    run()


def server_lines(health: Sequence[ServerHealth]) -> list[str]:
    """How the servers are, as a table."""
    rows = []
    for one in health:
        words = click.style("running", fg="green") if one.running else click.style("not running", fg="red")
        rows.append([one.name, one.version or "", words, dim(one.hint or one.where)])
    return list(table(rows))


def _others(config: LoomConfig) -> dict[str, int]:
    """Other projects that are connected; none can be when the database does not run."""
    if config.servers.backend == "external" or not services.check(config)[0].running:
        return {}
    if config.project_id is None:
        raise ServersError(
            "These servers are shared by all your projects, and this directory is none of them.",
            "Run `loom down` in a project to see who uses them, or `loom down --yes`.",
        )

    async def ask() -> dict[str, int]:
        async with open_project(config=config) as loom:
            return await loom.neighbours()

    try:
        return asyncio.run(ask())
    except LoomError:
        return {}
