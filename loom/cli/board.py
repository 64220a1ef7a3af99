"""`loom board`: the project in a browser, served by the hub, or by the server that the project is behind."""

from __future__ import annotations

import asyncio
import os
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import click

from loom import bridge
from loom.cli.output import dim, emit, heading
from loom.cli.shared import Command, open_project, settings, wants_json
from loom.config import LoomConfig
from loom.exceptions import ConfigError, LoomError, ServersError
from loom.hub import running
from loom.services.instance import instance_dir
from loom.texts import one_line
from loom.wording import Shell, Words

_TRIES = 5  # each for as long as the bridge waits for an answer


@click.command(cls=Command)
@click.option("--print", "only_print", is_flag=True, help="Print the link, and open no browser.")
def board(only_print: bool) -> None:
    """Open this project's board in a browser: what agents do, seen and steered.

    The link lets one browser in, once, within a minute; it stays let in. Without a server of a team nobody comes from
    another machine."""
    config = settings()
    if config.server.url is not None:
        url = asyncio.run(link_from_afar(config.server.url))
    else:
        url = link(config, open_project(config=config).agent)
    opened = not only_print and not wants_json() and can_open() and webbrowser.open(url)
    if wants_json():
        emit({"url": url, "project": config.project_name})
        return
    for line in _lines(config, url, opened=opened):
        click.echo(line)


def offer(config: LoomConfig, agent: str) -> None:
    """Says where the board is, for who goes by `agent`, and opens it for whoever sits before a display; says nothing
    where no hub serves one. Any thread may call it, also one of no command."""
    if config.mcp.hub == "never":
        return
    with suppress(LoomError):
        url = link(config, agent)
        for line in _lines(config, url, opened=can_open() and webbrowser.open(url)):
            click.echo(line)


def link(config: LoomConfig, agent: str) -> str:
    """A link to the board, from the hub, which is started if need be.

    Raises:
        ConfigError: the configuration wants no hub.
        ServersError: none can be started, it does not answer, or it refuses.
    """
    if config.mcp.hub == "never":
        raise ConfigError(
            "The board is served by the hub, and mcp.hub says that there is to be none.",
            Words("Let it be with {}.", Shell("loom config set mcp.hub auto")),
        )
    root = str(instance_dir(config))
    asked = None
    for _ in range(_TRIES if running.start(config) else 0):  # at first the hub loads what the board takes
        if (asked := bridge.ask(root, "board", **bridge.myself(), agent=agent)) is not None:
            break
    if asked is None:
        raise ServersError(
            "The hub, which serves the board, could not be started.",
            f"See hub.log in {root}, then try again.",
        )
    asked[0].close()
    return _url(asked[1])


async def link_from_afar(server: str) -> str:
    """A link to the board of a team's server, as whoever has the token for it. Raises TokenError, LoomError."""
    from loom.remote.client import Client
    from loom.remote.credentials import token_for

    client = Client(server, token_for(server))
    try:
        return f"{client.url}/enter?code={await client.code()}"
    finally:
        await client.close()


def can_open() -> bool:
    """Whether somebody sits before a display who would see a browser."""
    displayed = sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return displayed and sys.stdout.isatty() and "SSH_CONNECTION" not in os.environ


def _url(answer: dict[str, Any]) -> str:
    if answer.get("ok"):
        return str(answer["url"])
    told = answer.get("error", {})
    raise ServersError(str(told.get("cause", "The hub refuses.")), str(told.get("next", "")))


def _lines(config: LoomConfig, url: str, *, opened: bool) -> Iterator[str]:
    yield f"The board of {heading(one_line(config.project_name))} {'is open in your browser' if opened else 'is at'}"
    yield f"  {url}" + dim("  (for one use, within a minute)")
