"""`loom completion`: scripts by which shells complete commands, options and names without starting Loom.

Commands and options stand in the script. The names of tasks, skills and workflows come from files that commands leave
in the project's state directory (`cli.names`), a line each: the name, a tab, and what it is. A shell takes a line for
what it says only where the name has nothing that a shell could mean something by, and runs nothing of it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from importlib import resources
from typing import NamedTuple

import click

from loom.cli.output import emit
from loom.cli.shared import Command, wants_json

_KINDS = {
    "TASK": "tasks",
    "FILE": "files",
    "PATH": "files",
    "DIR": "files",
    "ID": "tasks",
}
"""What kind of names stands where help says so."""

_PLACES = {
    ("skill show", "name"): "skills",
    ("skill run", "name"): "skills",
    ("workflow start", "name"): "workflows",
    ("config set", "key"): "keys",
    ("inbox", "ack"): "",  # the numbers of messages
    ("inbox", "thread"): "",
    ("message", "thread"): "",
    ("decompose", "plan_id"): "",
}
"""Where help does not."""


class _Word(NamedTuple):
    """Where something may be typed (a command, or an option of one), and what: words, and a kind of names."""

    place: str
    offer: tuple[str, ...]
    kind: str


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script by which SHELL completes commands, options, ids of tasks, names of skills and workflows, keys
    and files.

    \b
    bash  loom completion bash > ~/.local/share/bash-completion/completions/loom
    zsh   loom completion zsh > ~/.zfunc/_loom     # with fpath+=~/.zfunc before compinit in ~/.zshrc
    fish  loom completion fish > ~/.config/fish/completions/loom.fish

    Ids and names are those that the newest commands at a terminal have seen."""
    text = script(shell)
    if wants_json():
        emit({"shell": shell, "script": text})
    else:
        click.echo(text, nl=False)


def script(shell: str) -> str:
    """The script for one of bash, zsh and fish."""
    from loom.cli.commands import cli

    commands, values = list[_Word](), list[_Word]()
    _walk(cli, "loom", commands, values)
    case = _fish_case if shell == "fish" else _case
    parts = resources.files("loom.cli").joinpath("shells")
    text = parts.joinpath(f"loom.{shell}").read_text("utf-8")
    text = text.replace("@COMMON@", parts.joinpath("common.sh").read_text("utf-8"))
    return text.replace("@COMMANDS@", _cases(commands, case)).replace("@VALUES@", _cases(values, case))


def _walk(command: click.Command, path: str, commands: list[_Word], values: list[_Word]) -> None:
    """Notes what may follow a command, its options, and the commands below it."""
    context = click.Context(command)
    offer, kind = list[str](), ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None, "it was listed"
            offer.append(name)
            _walk(below, f"{path} {name}", commands, values)
    for param in command.get_params(context):
        choices = tuple(param.type.choices) if isinstance(param.type, click.Choice) else ()
        if isinstance(param, click.Option):
            offer += param.opts
            if not param.is_flag:
                values += [_Word(f"{path} {one}", choices, _kind(path, param)) for one in param.opts]
        else:
            offer += choices
            kind = kind or _kind(path, param)
    commands.append(_Word(path, tuple(dict.fromkeys(offer)), kind))


def _kind(path: str, param: click.Parameter) -> str:
    """What kind of names is typed for a parameter."""
    place = path.removeprefix("loom ")
    if (place, param.name) in _PLACES:
        return _PLACES[place, str(param.name)]
    shown = param.metavar or (str(param.name).upper() if isinstance(param, click.Argument) else "")
    return _KINDS.get(shown.strip("[]."), "")


def _cases(words: list[_Word], case: Callable[[_Word], str]) -> str:
    return "\n".join(case(word) for word in sorted(words))


def _case(word: _Word) -> str:
    offer, kind = _plain(word)
    return f"    {shlex.quote(word.place)}) offer={shlex.quote(' '.join(offer))} kind={kind} ;;"


def _fish_case(word: _Word) -> str:
    offer, kind = _plain(word)
    sets = f"            set offer {' '.join(offer)}\n            set kind {kind}".rstrip()
    return f"        case {shlex.quote(word.place)}\n{sets}"


def _plain(word: _Word) -> tuple[tuple[str, ...], str]:
    """What is offered; the keys of the configuration are known beforehand."""
    from loom.config import KEYS

    keys = tuple(key for key in KEYS if "*" not in key) if word.kind == "keys" else ()
    offer = (*keys, *word.offer)
    assert all(re.fullmatch(r"[\w.-]+", one) for one in offer), "words that mean nothing else to a shell"
    return offer, "" if word.kind == "keys" else word.kind
