"""What Loom says can be done is there for whoever reads it: no agent is told of an option, no person of a tool."""

from __future__ import annotations

import ast
import asyncio
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from fastmcp import Client

import loom
from loom import exceptions
from loom.cli import cli
from loom.cli.wording import people
from loom.exceptions import ProjectNotFoundError
from loom.graph.front import Loom
from loom.mcp.server import build
from loom.mcp.wording import agents
from loom.wording import Argument, Call, Moment, Shell, Words, call, worded, worded_reply

HOUSE = Path(str(loom.__file__)).parent
BASES = ("LoomError", "NotFoundError", "ConflictError", "UnavailableError", "InvalidError")
ERRORS = {name for name, one in vars(exceptions).items() if isinstance(one, type) and issubclass(one, Exception)}
FACES = ("cli", "mcp")
FOR_A_PERSON = "loom workflow resume"  # with --yes, --no or --step: what no tool does
TASK = "loom-0123abcd"


def trees(*, below_the_faces: bool = False) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(HOUSE.rglob("*.py")):
        name = path.relative_to(HOUSE).as_posix()
        if not (below_the_faces and name.split("/")[0] in FACES):
            yield name, ast.parse(path.read_text("utf-8"))


def made(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    """The calls of these functions and classes in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in names:
            yield node


def texts_in(node: ast.AST) -> Iterator[str]:
    """The literal texts of an expression, without those that are named as commands."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for inner in ast.iter_child_nodes(node):
        if not (isinstance(inner, ast.Call) and getattr(inner.func, "id", "") == "Shell"):
            yield from texts_in(inner)


def literal(node: ast.AST) -> str:
    assert isinstance(node, ast.Constant)
    assert isinstance(node.value, str)
    return node.value


def calls() -> list[Call]:
    """Every call that a sentence of Loom names, with a value for each argument that is known when it is said."""
    found = []
    for _, tree in trees(below_the_faces=True):
        for node in made(tree, "call"):
            if isinstance(node.func, ast.Attribute):
                continue  # somebody's method, such as a command of Redis
            arguments = {}
            for keyword in node.keywords:
                try:
                    arguments[keyword.arg or ""] = ast.literal_eval(keyword.value)
                except ValueError:
                    arguments[keyword.arg or ""] = TASK
            found.append(call(literal(node.args[0]), **arguments))
    return list({repr(one): one for one in found}.values())


@pytest.fixture(scope="module")
def tools() -> dict[str, Any]:
    """The input schema of each tool."""

    def none() -> Loom:
        raise ProjectNotFoundError("There is no Loom project here.")

    async def listed() -> dict[str, Any]:
        async with Client(build(none)) as client:
            return {tool.name: tool.input_schema for tool in await client.list_tools()}

    return asyncio.run(listed())


def command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command of a command line, and the words that it is given."""
    found: click.Command = cli
    assert words.pop(0) == "loom"
    while isinstance(found, click.Group):
        inner = found.get_command(click.Context(found), words.pop(0))
        assert inner is not None
        found = inner
    return found, words


def options(one: click.Command) -> dict[str, click.Option]:
    return {name: p for p in one.params if isinstance(p, click.Option) for name in (*p.opts, *p.secondary_opts)}


def test_only_kinds_of_errors_are_raised() -> None:
    bare = [(name, node.lineno) for name, tree in trees() for node in made(tree, *BASES)]
    assert bare == []
    for name in ERRORS - set(BASES):
        assert getattr(exceptions, name).__mro__[-5].__name__ in BASES[1:], f"{name} says what a caller can do"


def test_what_is_said_to_everybody_names_no_tool_and_no_option() -> None:
    wrong = [
        (name, node.lineno, text)
        for name, tree in trees(below_the_faces=True)
        for node in made(tree, "Words", "_refuse", "refuse", *ERRORS)
        for text in texts_in(node)
        if re.search(r"\bloom_(?!export\b)[a-z]|(^|[\s`])--[a-z]|`loom [a-z]", text)
    ]
    assert wrong == []


def test_what_is_said_is_a_literal_with_a_slot_for_each_part() -> None:
    for name, tree in trees():
        for node in made(tree, "Words"):
            if not any(isinstance(one, ast.Starred) for one in node.args):
                assert literal(node.args[0]).count("{}") == len(node.args) - 1, (name, node.lineno)


@pytest.mark.parametrize("named", calls(), ids=str)
def test_a_call_is_there_in_both_faces(named: Call, tools: dict[str, Any]) -> None:
    schema = tools[f"loom_{named.verb}"]["properties"]
    assert {name for name, _ in named.arguments} <= set(schema)
    line = people()(named)
    assert re.fullmatch("`loom [^`]+`", line), line
    found, words = command(shlex.split(line[1:-1]))
    places = [p for p in found.params if isinstance(p, click.Argument)]
    known, given = options(found), 0
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            assert word in known, line
            if not known[word].is_flag:
                words.pop(0)
        else:
            given += 1
    assert given <= len(places) or any(p.nargs == -1 for p in places), line
    assert given >= sum(p.required for p in places), line


def test_an_argument_has_a_name_in_both_faces() -> None:
    named = {
        literal(node.args[0])
        for _, tree in trees()
        for node in made(tree, "Argument")
        if isinstance(node.args[0], ast.Constant)
    }
    assert "depends_on" in named
    for name in named | {"task_id", "agent_id", "lease_seconds", "parent_id", "thread_id"}:
        assert agents(Argument(name)) == name
        assert re.fullmatch(r"[A-Z]+|--[a-z-]+", people()(Argument(name))), name


def test_a_command_for_everybody_is_there_and_has_no_tool(
    tools: dict[str, Any],
) -> None:
    lines = {
        text for _, tree in trees() for node in made(tree, "Shell") if node.args for text in texts_in(node.args[0])
    }
    lines = {line for line in lines if line.startswith("loom ")}
    assert lines >= {"loom up", "loom init", "loom doctor", "loom config trust"}
    for line in lines:
        found, words = command(shlex.split(line))
        assert {word for word in words if word.startswith("-")} <= set(options(found)), line
        assert f"loom_{line.split()[1]}" not in tools or line.startswith(FOR_A_PERSON), line


def test_each_reader_gets_the_words_of_his_face() -> None:
    said = Words(
        "{} is wrong; {}, {} or {}, at {}.",
        Argument("agent_id"),
        call("resolve", id=TASK, action="retry", note=...),
        call("claim"),
        Shell("loom up"),
        Moment(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    )
    assert worded(said, agents) == (
        f"agent_id is wrong; loom_resolve(id={TASK}, action=retry, note=…), loom_claim or `loom up`,"
        " at 2026-01-02T03:04:05Z."
    )
    assert worded(said, people("claim")).startswith(
        f"--agent is wrong; `loom resolve {TASK} retry --note TEXT`, `loom claim` or `loom up`, at 2026-01-02 "
    )
    assert worded(said, people("resolve")).startswith("--to is wrong;"), "which option it is depends on the command"
    assert said == (
        f"agent_id is wrong; “resolve” (id {TASK}, action retry, note), “claim” or `loom up`,"
        " at 2026-01-02T03:04:05+00:00."
    )
    assert [one.verb for one in said.calls] == ["resolve", "claim"]
    yes = call("workflow", action="resume", run_id="wf-1", inputs={"yes": True})
    assert agents(yes) == 'loom_workflow(action=resume, run_id=wf-1, inputs={"yes": true})'
    assert people()(yes) == "`loom workflow resume wf-1 --yes`"


def test_a_text_of_others_is_never_read_as_a_template() -> None:
    said = Words("{} is {}.", "{} {0} %s", Words("not {}", call("ready")))
    assert worded(said, agents) == "{} {0} %s is not loom_ready."
    assert worded("a {} text", agents) == "a {} text"
    with pytest.raises(ValueError, match="zip"):
        Words("no slot", call("ready"))


def test_a_reply_is_worded_where_it_speaks() -> None:
    reply = {
        "next": Words("Do {}.", call("claim")),
        "problems": [Words("{} is.", Argument("note"))],
        "tasks": [{"a": 1}],
        "n": 1,
    }
    assert worded_reply(reply, agents) == {
        "next": "Do loom_claim.",
        "problems": ["note is."],
        "tasks": [{"a": 1}],
        "n": 1,
    }
    assert worded_reply(reply, people())["next"] == "Do `loom claim`."
