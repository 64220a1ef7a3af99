"""`loom help`: the pages of docs/, which the wheel brings along, and the help of each command.

On a terminal a page is set by rich; in a pipe it is the Markdown that it was written in, which programs and agents
read as it stands.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from loom import texts
from loom.cli.output import emit, table
from loom.cli.shared import Command, wants_json

_PACKAGE = Path(__file__).parents[1]
_PLACES = (_PACKAGE / "docs", _PACKAGE.parent / "docs")  # in a wheel; in the source tree
_NO_TOPICS = ("index", "reference")  # the site's front page, and what mkdocstrings makes from the docstrings
_WIDEST = 110  # columns


@click.command("help", cls=Command)
@click.argument("topic", nargs=-1)
def help_(topic: tuple[str, ...]) -> None:
    """Read about TOPIC, or about a command by its name. Without TOPIC: which topics there are."""
    if not topic:
        _list()
        return
    name, found = " ".join(topic), pages()
    if (usage := _usage(topic)) is not None:
        if wants_json():
            emit({"command": name, "text": usage})
        else:
            click.echo(usage)
    elif name in found:
        if wants_json():
            emit({"topic": name, "text": _page(found[name])})
        else:
            _show(_page(found[name]))
    else:
        near = texts.near(name, [*found, *_commands()])
        hint = f" Did you mean `loom help {near}`?" if near else " `loom help` lists the topics."
        raise click.UsageError(f"There is no topic and no command {name[:60]!r}.{hint}")


def pages() -> dict[str, Path]:
    """The topics: name to page, in the order of the alphabet."""
    directory = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
    return {path.stem: path for path in sorted(directory.glob("*.md")) if path.stem not in _NO_TOPICS}


def _list() -> None:
    rows = {name: _first_sentence(_page(path)) for name, path in pages().items()}
    if wants_json():
        topics = [{"topic": name, "summary": summary} for name, summary in rows.items()]
        emit({"topics": topics, "count": len(topics)})
        return
    for line in table([[name, summary] for name, summary in rows.items()]):
        click.echo(line)
    click.echo("\nRead one with `loom help TOPIC`; `loom help COMMAND` says how to call a command.")


def _commands() -> list[str]:
    root = click.get_current_context().find_root().command
    return root.list_commands(click.Context(root)) if isinstance(root, click.Group) else []


def _usage(words: tuple[str, ...]) -> str | None:
    """The help of the command that these words name, None if there is none."""
    context = click.get_current_context().find_root()
    for word in words:
        group = context.command
        found = group.get_command(context, word) if isinstance(group, click.Group) else None
        if found is None:
            return None
        context = click.Context(found, info_name=word, parent=context)
    return context.get_help()


def _page(path: Path) -> str:
    """A page's text without what is meant for those who write it, and without pictures."""
    return re.sub(r"<!--.*?-->\n?|<picture>.*?</picture>\n+", "", path.read_text("utf-8"), flags=re.DOTALL)


def _first_sentence(text: str) -> str:
    """The first sentence of a page's first paragraph."""
    paragraph = next((part for part in text.split("\n\n") if not part.startswith("#")), "")
    return re.split(r"(?<=\.)\s", " ".join(paragraph.split()), maxsplit=1)[0]


def _show(text: str) -> None:
    if not sys.stdout.isatty():
        click.echo(text.strip())
        return
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.theme import Theme

    console = Console(theme=Theme({"markdown.code": "cyan"}))  # rich's own is a black box on a light terminal
    console.print(Markdown(text, hyperlinks=False), width=min(console.width, _WIDEST))
