"""`loom serve`: the hub, in the foreground; with --http for whoever has an access token."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from loom.cli.output import emit
from loom.cli.shared import Command, settings_here, wants_json
from loom.config import KEYS
from loom.config.rules import UnfitError
from loom.exceptions import ServersError
from loom.wording import Shell, Words


def _as(key: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Holds an option to what may be said for a key."""

    def held(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
        try:
            return None if value is None else str(KEYS[key].parse(value))
        except UnfitError as error:
            raise click.BadParameter(f"{value!r} is not {error.wanted}.") from None

    return held


@click.command(cls=Command)
@click.option("--http", is_flag=True, help="Over HTTP, to whoever has an access token.")
@click.option("--host", metavar="HOST", callback=_as("mcp.host"), help="Where to listen; default: `mcp.host`.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="On which port; default: `mcp.port`.")
@click.option(
    "--public-url",
    metavar="URL",
    callback=_as("mcp.public_url"),
    help="Where others reach it; default: `mcp.public_url`.",
)
@click.option("--behind-proxy", is_flag=True, help="What stands before it does TLS.")
@click.option(
    "--cert", type=click.Path(exists=True, path_type=Path), metavar="FILE", help="A certificate, for TLS here."
)
@click.option("--key", type=click.Path(exists=True, path_type=Path), metavar="FILE", help="Its key.")
def serve(
    http: bool,
    host: str | None,
    port: int | None,
    public_url: str | None,
    behind_proxy: bool,
    cert: Path | None,
    key: Path | None,
) -> None:
    """Serve all sessions of this user from one process, in the foreground. `loom up`, and the first session, start it
    in the background by themselves.

    With --http serve the project to a team instead: MCP at /mcp, the board at /, and what `loom` itself asks on other
    machines. Whoever comes needs a token of `loom token add`. Any number of these may serve a project behind one
    address."""
    if not http:
        if any((host, port, public_url, behind_proxy, cert, key)):
            raise click.UsageError("Give --http too; without it nothing is served over HTTP.")
        _serve_sessions()
        return
    if (cert is None) != (key is None):
        raise click.UsageError("Give --cert and --key together.")
    import uvloop

    from loom.hub.listener import Place, listen
    from loom.mcp.logs import in_lines

    config = settings_here()
    logging.getLogger("loom").handlers.clear()
    logging.getLogger().addHandler(in_lines(logging.StreamHandler(sys.stderr)))
    for name in ("fastmcp", "mcp"):
        logging.getLogger(name).setLevel(logging.WARNING)
    place = Place(
        host or config.mcp.host,
        port or config.mcp.port,
        public_url or config.mcp.public_url,
        behind_proxy=behind_proxy,
        certificate=cert,
        key=key,
    )
    uvloop.run(listen(config, place, lambda: _tell("url", place.url)))


def _serve_sessions() -> None:
    from loom import bridge
    from loom.hub import door, running
    from loom.services.instance import instance_dir

    config = settings_here()
    if running.answers(config):
        raise ServersError(
            "The hub serves already.", Words("To have it run here end it first: {}.", Shell("loom down"))
        )
    socket = instance_dir(config) / bridge.SOCKET
    kept = bridge.everybodys()  # as in one that a session has started
    os.environ.clear()
    os.environ.update(kept)
    door.run(config.servers.instance, ready=lambda: _tell("socket", str(socket)), log=False)


def _tell(name: str, where: str) -> None:
    if wants_json():
        emit({name: where})
    else:
        click.echo(f"Serving at {where}; Ctrl-C ends it.")
    sys.stdout.flush()
