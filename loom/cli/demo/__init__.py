"""`loom demo`: from nothing to a program that agents have changed, proven and landed, without a model and a key.

Without FILE it is the whole story (`story.py`); with one, agents only pretend to do the user's own plan (`played.py`).
"""

from __future__ import annotations

import click

from loom.cli.shared import Command


@click.command(cls=Command)
@click.argument("file", required=False)
@click.option(
    "--agents", type=click.IntRange(1, 16), default=4, show_default=True, metavar="N", help="How many agents."
)
def demo(file: str | None, agents: int) -> None:
    """See scripted agents change a small program together until all of their work has landed.

    Makes a git repository in a new directory loom-demo, or here if this directory is empty, and there runs the commands
    that one types in a repository of one's own. One agent lies and is caught, one is killed and another goes on, two
    meet in one file. Nothing is asked of a model.

    With FILE, any file that `loom import` reads, agents work through that plan instead and only pretend to do it, as
    processes that speak MCP. Exit status 4: something is left unfinished."""
    if file is None:
        from loom.cli.demo.story import tell

        left = tell(agents)
    else:
        from loom.cli.demo.played import play

        left = play(file, agents)
    if left:
        click.get_current_context().exit(4)
