"""Writes the parts of the pages that come from the code: `uv run python docs/tables.py`.

A part stands between two comments that name it. What only a person can say, the meaning of a configuration key, is
taken over from the table that is there.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from fastmcp import Client
from mcp_types import Tool

from loom import CheckConfig, LoomConfig, LoomError, ReceiverConfig, exceptions
from loom.cli.commands import SECTIONS, cli
from loom.config import KEYS
from loom.mcp.server import build

DOCS = Path(__file__).parent
_SHARED = ("--json", "--help")  # every command's, told once above the table


def written(text: str) -> str:
    """A page with its parts written anew."""
    return _PART.sub(lambda found: f"{found[1]}\n{_PARTS[found[2]](found[3])}\n{found[4]}", text)


def commands(_: str) -> str:
    """Every command with its arguments and options, by section."""
    lines: list[str] = []
    root = click.Context(cli, info_name="loom")
    for section, entries in SECTIONS.items():
        lines += [f"## {section}", ""]
        for name in entries:
            command = cli.get_command(root, name)
            assert command is not None
            for context in _leaves(click.Context(command, info_name=name, parent=root)):
                lines += [*_command(context), ""]
    return "\n".join(lines).strip()


def tools(_: str) -> str:
    """Every MCP tool with its arguments, as a client sees them."""
    return "\n\n".join(_tool(one) for one in asyncio.run(_listed()))


def keys(before: str) -> str:
    """Every key with its variable and default; what it means stands in the last column, and is kept."""
    meanings = dict(re.findall(r"^\| `([\w.*]+)`.*\| ([^|]*) \|$", before, re.MULTILINE))
    values = LoomConfig(checks={"*": CheckConfig(())}, notify={"*": ReceiverConfig()}).shown()
    rows = [
        [
            f"`{key}`{' *' if rule.guarded else ''}",
            f"`{rule.variable}`" if rule.variable else "",
            "" if values.get(key) in (None, "", ()) else f"`{_in_a_file(values[key])}`",
            _cell(f"{rule.wanted[0].upper()}{rule.wanted[1:]}"),
            meanings.get(key, ""),
        ]
        for key, rule in KEYS.items()
    ]
    return _table(["key", "variable", "default", "accepts", "meaning"], rows)


def _in_a_file(value: object) -> str:
    """A value as it stands in a file."""
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else str(value)


def errors(_: str) -> str:
    """Every error: its code, its class in Python and what that is a kind of, the exit status of a command, and what it
    says."""
    kinds = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, LoomError)]
    rows = [
        [
            f"`{kind.code}`",
            f"`{kind.__name__}`",
            f"`{kind.__mro__[1].__name__}`",
            str(kind.exit_code),
            _cell((kind.__doc__ or "").partition("\n\n")[0]),
        ]
        for kind in kinds
    ]
    return _table(["code", "in Python", "is a", "exit status", "meaning"], rows)


_PARTS = {part.__name__: part for part in (commands, tools, keys, errors)}
_PART = re.compile(r"(<!-- from the code: (\w+) -->)\n(.*?)(<!-- until here -->)", re.DOTALL)


def _leaves(context: click.Context) -> Iterator[click.Context]:
    """The commands of a group, or the command itself."""
    if not isinstance(context.command, click.Group):
        yield context
        return
    for name in context.command.list_commands(context):
        found = context.command.get_command(context, name)
        assert found is not None
        yield from _leaves(click.Context(found, info_name=name, parent=context))


def _command(context: click.Context) -> Iterator[str]:
    command = context.command
    yield f"### {context.command_path}"
    yield ""
    if usage := [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]:
        yield f"`{' '.join([context.command_path, *usage])}`"
        yield ""
    yield from _prose(command.help or "")
    records = [
        record
        for param in command.get_params(context)
        if isinstance(param, click.Option) and not {*param.opts} & {*_SHARED}
        if (record := param.get_help_record(context)) is not None
    ]
    if records:
        yield ""
        yield _table(["option", "effect"], [[f"`{_cell(name)}`", _cell(told)] for name, told in records])


def _prose(text: str) -> Iterator[str]:
    """A docstring as Markdown: paragraphs on a line each, what must not be rewrapped as it is."""
    for number, part in enumerate(text.replace("\x08", "\b").split("\n\n")):
        if number:
            yield ""
        if "\b" in part:
            yield from ["```text", *(line.strip() for line in part.splitlines() if line.strip(" \b")), "```"]
        else:
            yield " ".join(part.split())


async def _listed() -> Sequence[Tool]:
    def none() -> Any:
        raise exceptions.ProjectNotFoundError("There is no project here.")

    async with Client(build(none)) as client:
        return list(await client.list_tools())


def _tool(one: Tool) -> str:
    hints = one.annotations
    assert hints is not None
    facts = ["reads" if hints.read_only_hint else "writes"]
    facts += ["may replace or end what others made"] if hints.destructive_hint else []
    facts += ["may be called twice"] if hints.idempotent_hint and not hints.read_only_hint else []
    facts += ["may reach beyond the project"] if hints.open_world_hint else []
    needed = one.input_schema.get("required", [])
    rows = [
        [f"`{name}`{' (needed)' if name in needed else ''}", _cell(_type(schema)), _cell(schema.get("description", ""))]
        for name, schema in one.input_schema["properties"].items()
    ]
    parts = [f"## {one.name}", f"{one.title}; {', '.join(facts)}.", one.description or ""]
    return "\n\n".join([*parts, *([_table(["argument", "value", "meaning"], rows)] if rows else [])])


def _type(schema: dict[str, Any]) -> str:
    """What an argument takes, in words."""
    if "enum" in schema:
        words = ", ".join(f"`{value}`" for value in schema["enum"])
    elif "anyOf" in schema:
        words = " or ".join(_type(one) for one in schema["anyOf"])
    elif schema.get("type") == "array":
        words = f"list of {_type(schema['items'])}s"
    else:
        words = str(schema.get("type", "anything"))
    low, high = schema.get("minimum"), schema.get("maximum")
    words += f", {low:g} to {high:,}" if low is not None and high is not None else ""
    return f"{words}; default `{json.dumps(schema['default'])}`" if schema.get("default") not in (None, "") else words


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    for page in sorted(DOCS.glob("*.md")):
        before = page.read_text()
        if (after := written(before)) != before:
            page.write_text(after)
            click.echo(f"{page.name} was brought up to date.")
