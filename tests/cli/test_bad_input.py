"""Every argument and option of every command, given what it cannot be: a person is told in his own words, options and
commands, never in those of the tools, and nothing goes wrong inside."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from loom.cli import shared
from loom.cli.commands import SECTIONS
from loom.cli.commands import cli as group
from loom.exceptions import InvalidInputError
from tests.cli.conftest import Cli
from tests.cli.test_errors import NOT_FOR_PEOPLE

STRANGE = {
    "TASK": ("loom-zzzzzzzz", ""),
    "FILE": ("/nowhere/at/all",),
    "JSON": ("[1]", "{"),
    "": ("a b\u202e", "x" * 70_000),
}
"""What cannot be meant, by what help says stands there."""

LONG = {
    "backup", "board", "decompose", "demo", "digest", "doctor", "down", "init", "mcp", "migrate", "orchestrate",
    "restore", "serve", "up", "wait", "watch", "work",
}  # fmt: skip
"""What starts something, or goes on until it is ended: only what is refused before that is tried."""


def leaves(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name in command.list_commands(click.Context(command)):
        below = command.get_command(click.Context(command), name)
        assert below is not None
        yield from leaves(below, (*path, name))


def calls(path: tuple[str, ...], command: click.Command, task: str) -> Iterator[list[str]]:
    """Command lines with one thing in them that cannot be meant."""
    params = [one for one in command.params if not (isinstance(one, click.Option) and one.is_flag)]
    needed = {one.name: usual(one, task) for one in params if isinstance(one, click.Argument)}
    for param in params:
        typed = isinstance(param.type, click.Choice | click.types.IntParamType | click.types.FloatParamType)
        for value in ("zzz",) if typed else () if path[0] in LONG else STRANGE[kind(param)]:
            if isinstance(param, click.Argument):
                yield [*path, *(value if name == param.name else given for name, given in needed.items())]
            else:
                yield [*path, *needed.values(), param.opts[0], value]


def kind(param: click.Parameter) -> str:
    shown = (param.metavar or str(param.name).upper()).rstrip(".")
    return shown if shown in STRANGE else ""


def usual(param: click.Argument, task: str) -> str:
    if isinstance(param.type, click.Choice):
        return str(param.type.choices[0])
    return task if kind(param) == "TASK" or param.name == "targets" else "x"


NAMES = [name for section in SECTIONS.values() for name in section]


@pytest.mark.parametrize("begin", range(0, len(NAMES), 6))
def test_whatever_is_wrong_is_told_in_the_words_of_the_command_line(cli: Cli, begin: int) -> None:
    task = cli.create("Something to do")
    for name in NAMES[begin : begin + 6]:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        for path, leaf in leaves(command, (name,)):
            for words in calls(path, leaf, task):
                result = cli.inside(*words)
                shown = [word if len(word) < 100 else f"{word[:20]}…" for word in words]
                assert "inside Loom" not in result.err, (shown, result.err)
                assert not NOT_FOR_PEOPLE.search(result.err), (shown, result.err)
                if result.code in (1, 2) and result.err:
                    assert "\nnext: " in result.err, (shown, result.err)
                told = next((line for line in result.err.splitlines() if line.startswith("error: ")), "")
                options = {name for one in leaf.params for name in (*one.opts, *one.secondary_opts)}
                assert {*re.findall(r"(?<!\S)--[a-z-]+", told)} <= options, (shown, told)


def test_a_file_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_TEXT_BYTES", 2**20)
    with pytest.raises(InvalidInputError, match="/dev/zero is larger than 1 MiB"):
        shared.read_text("/dev/zero")
