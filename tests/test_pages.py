"""README and the pages in docs/, held against the code: what they name is there, and what is there they name."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import loom
from loom.cli import cli as group
from loom.cli.help import pages as topics
from loom.config import KEYS
from loom.graph.front import Loom
from loom.graph.model import plan
from loom.workflows import loader
from tests.cli.conftest import Cli, bare, cli
from tests.pages import ALL, DOCS, FOR_USERS, METRICS, ROOT, examples, prose

__all__ = ["bare", "cli"]

_OF_THE_HOUSE = {"LOOM_RUN", "LOOM_POSTGRES_PORT", "LOOM_REDIS_PORT", "LOOM_SERVERS_SECRET"}  # for itself
_BRANCHES = {"loom/landed"}  # which look like paths
_SOURCES = {
    path: path.read_text() for path in sorted((ROOT / "loom").rglob("*")) if path.suffix in (".py", ".md", ".yaml")
}


# --- what the code says by itself -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCS)
def test_the_parts_that_come_from_the_code_are_as_the_code_is(name: str) -> None:
    written = runpy.run_path(str(ROOT / "docs" / "tables.py"))["written"]
    assert written(DOCS[name]) == DOCS[name], "uv run python docs/tables.py brings it up to date"


def test_every_key_has_a_meaning() -> None:
    rows = re.findall(r"^\| `([\w.*]+)`(?: \*)? \|.*\| ([^|]*) \|$", DOCS["docs/configuration.md"], re.MULTILINE)
    meanings = dict(rows)
    assert [key for key in KEYS if not meanings.get(key, "").strip()] == [], "say in the last column what it is for"


def test_every_variable_has_a_row_and_no_other() -> None:
    told = DOCS["docs/configuration.md"]
    in_code = {name for text in _SOURCES.values() for name in re.findall(r"[\"']?\b(LOOM_[A-Z_]+[A-Z])\b", text)}
    assert sorted(name for name in in_code - _OF_THE_HOUSE if f"`{name}`" not in told) == []
    for page, text in FOR_USERS.items():
        assert set(re.findall(r"\bLOOM_[A-Z_]+[A-Z]\b", text)) - in_code - {"_LOOM_COMPLETE"} == set(), page


# --- what the pages say of the code ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_the_commands_are_there_with_their_options(name: str) -> None:
    for line in _lines_of_loom(ALL[name]):
        words = shlex.split(line, comments=True)[1:]
        command: click.Command = group
        context = click.Context(group, info_name="loom")
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.get_command(context, words.pop(0))
            assert found is not None, f"there is no such command: {line}"
            command, context = found, click.Context(found, parent=context)
        if isinstance(command, click.Group) and (default := getattr(command, "default", None)):
            command = command.commands[default]  # which the group runs where none is named
        command.make_parser(context).parse_args(words)  # refuses what it does not know


def _lines_of_loom(text: str) -> Iterator[str]:
    """Calls of `loom` on a page, in blocks and between words, without what goes before them in a pipe."""
    lines = [line for block in examples(text, "sh") for line in block.splitlines()]
    lines += [code for code in re.findall(r"`(loom [a-z][^`]*)`", prose(text)) if "[" not in code and "<" not in code]
    for line in lines:
        for call in re.split(r" \| | && ", line):
            call = re.sub(r"^(\S+/)?uv run (--no-dev )?(?=loom)", "", call)
            if call.startswith("loom "):
                yield call


@pytest.mark.parametrize("name", FOR_USERS)
def test_python_imports_from_loom_alone(name: str) -> None:
    for block in examples(FOR_USERS[name], "python"):
        tree = compile(block, name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        assert isinstance(tree, ast.Module)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not [one.name for one in node.names if one.name.startswith("loom")]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("loom"):
                assert node.module == "loom"
                assert {one.name for one in node.names} <= set(loom.__all__)


@pytest.mark.parametrize("name", ALL)
def test_the_files_that_it_names_are_there(name: str) -> None:
    place = (ROOT / name).parent
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", prose(ALL[name]))
    assert [link for link in links if not (place / link).exists()] == []
    named = re.findall(r"`((?:loom|tests|docs|\.ci|\.github)/[a-z_][\w./-]*|pyproject\.toml)`", ALL[name])
    assert [path for path in named if path not in _BRANCHES and not (ROOT / path).exists()] == []
    users = re.findall(r"`(?:~/)?(?:\.loom/)([\w./-]+?)/?`|`([\w.-]+\.(?:log|yml|json))`", ALL[name])
    known = "\n".join([*_SOURCES.values(), *examples(ALL[name], "markdown"), *examples(ALL[name], "yaml")])
    names = {Path(one or other) for one, other in users}
    assert [path for path in names if path.name not in known and path.stem not in known] == []


def test_each_picture_is_shown_and_small() -> None:
    shown = {path for text in DOCS.values() for path in re.findall(r'src(?:set)?="(pictures/[\w.-]+)"', text)}
    there = {f"pictures/{path.name}": path.stat().st_size for path in (ROOT / "docs" / "pictures").iterdir()}
    assert shown == set(there)
    assert max(there.values()) <= 60_000, "bytes, each"


@pytest.mark.parametrize("name", FOR_USERS)
def test_the_tools_and_topics_that_it_names_are_there(name: str) -> None:
    tools = set(re.findall(r"^## (loom_\w+)$", DOCS["docs/tools.md"], re.MULTILINE))
    assert set(re.findall(r"\bloom_[a-z]+\b", FOR_USERS[name])) - tools - {"loom_local", "loom_now", *METRICS} == set()
    called = {words[0] for words in re.findall(r"\bloom help ([a-z-]+)", FOR_USERS[name])}
    assert called - set(topics()) - set(group.list_commands(click.Context(group))) == set()


def test_the_plans_and_workflows_are_what_they_seem() -> None:
    (first,) = examples(FOR_USERS["README.md"], "yaml")
    second, third = examples(DOCS["docs/recipes.md"], "yaml")
    assert plan.parse(plan.load(first)) == plan.parse(plan.load(second))
    assert loader.parse(third, "recipes.md").commands


# --- README ---------------------------------------------------------------------------------------------------------


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    readme = FOR_USERS["README.md"]
    assert len(readme.split()) < 1000
    linked = set(re.findall(r"\(docs/([\w-]+)\.md\)", readme))
    assert linked == set(topics()), "what `loom help` lists"


def test_ci_runs_the_tests_as_the_readme_says() -> None:
    *_, command = (line for block in examples(FOR_USERS["README.md"], "sh") for line in block.splitlines())
    assert command == ("python3 -m venv .venv && .venv/bin/pip install -q uv && .venv/bin/uv run pytest tests/ -v")
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == command


def test_the_demo_installs_no_tools_of_developers() -> None:
    (line,) = (line for line in examples(FOR_USERS["README.md"], "sh") if "loom demo" in line)
    assert line.strip() == (
        "python3 -m venv .venv && .venv/bin/pip install -q uv && .venv/bin/uv run --no-dev loom demo"
    )


# --- the examples run -----------------------------------------------------------------------------------------------


def test_the_worker_of_the_page_works(cli: Cli) -> None:
    first = cli.create("one")
    cli.create("two", "--depends-on", first)
    worker = examples(DOCS["docs/python.md"], "python")[1]
    done = subprocess.run(
        [sys.executable, "-c", worker], cwd=cli.directory, env=cli.env, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert cli.ok("status")["counts"]["done"] == 2


async def test_the_graph_of_the_page_is_made_and_followed(loom: Loom, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, graph, errors = examples(DOCS["docs/python.md"], "python")
    made: dict[str, object] = {}
    exec(compile(graph, "python.md", "exec"), made)
    exec(compile(errors, "python.md", "exec"), made)
    await made["plan"](loom)  # type: ignore[operator]
    assert "would make" in (told := capsys.readouterr().out) or "wait" in told
    for _ in range(4):
        claim = await loom.claim()
        assert claim is not None
        await made["claim"](loom, claim.task.id)  # type: ignore[operator]
        assert "('done', {'task_id': " in capsys.readouterr().out, "it is claimed already"
        await loom.done(claim.task.id)
    await made["follow"](loom)  # type: ignore[operator]


# --- the reference ---------------------------------------------------------------------------------------------------


def test_the_reference_has_each_name_once() -> None:
    named = re.findall(r"^::: loom\.(\w+)$", DOCS["docs/reference.md"], re.MULTILINE)
    assert sorted(named) == sorted(set(named))


# --- the site -------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)  # a tool that takes its time where others run too
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", "docs/mkdocs.yml", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = (tmp_path / "reference.html").read_text()
    assert [name for name in loom.__all__ if not re.search(rf'id="loom\.(exceptions\.)?{name}"', shown)] == []
