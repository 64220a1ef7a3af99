"""`loom help`: pages and commands, on a terminal and in a pipe."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from loom.cli import cli as group
from loom.cli.help import pages
from tests.cli.conftest import Cli


def test_without_a_topic_it_lists_what_there_is(bare: Cli) -> None:
    shown = bare("help")
    assert shown.code == 0
    for name in ("concepts", "commands", "tools", "configuration", "recipes", "troubleshooting", "python", "faq"):
        assert f"\n{name}  " in f"\n{shown.out}"
    listed = bare.ok("help")["topics"]
    assert [one["topic"] for one in listed] == [*pages()]
    assert all(one["summary"].endswith(".") and len(one["summary"]) < 100 for one in listed)


@pytest.mark.parametrize("name", pages())
def test_a_page_in_a_pipe_is_its_markdown(bare: Cli, name: str) -> None:
    shown = bare.inside("help", name)
    assert shown.code == 0
    assert shown.out.startswith("# ")
    assert "<!--" not in shown.out
    assert "\x1b" not in shown.out
    assert bare.ok("help", name)["text"].strip() == shown.out.strip()


def test_a_page_on_a_terminal_is_set(bare: Cli) -> None:
    seen = on_a_terminal(bare, "help", "concepts")
    assert "\x1b[1m" in seen, "headings stand out"
    assert "| status |" not in seen
    assert "**" not in seen


def test_rich_is_imported_for_a_terminal_only(bare: Cli) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "loom", "help", "concepts"]
    done = subprocess.run(command, cwd=bare.directory, env=bare.env, capture_output=True, text=True, check=True)
    assert not [line for line in done.stderr.splitlines() if line.split("|")[-1].strip().partition(".")[0] == "rich"]


def test_a_page_is_shown_without_its_pictures(bare: Cli) -> None:
    assert "<picture>" in pages()["browser"].read_text()
    assert "<" not in bare.ok("help", "browser")["text"]


@pytest.mark.parametrize("words", [("status",), ("dead-letter",), ("dead-letter", "retry"), ("help",)])
def test_a_command_is_helped_as_it_helps_itself(bare: Cli, words: tuple[str, ...]) -> None:
    own = bare.inside(*words, "--help")
    assert bare.inside("help", *words).out == own.out
    assert own.out.startswith(f"Usage: loom {' '.join(words)} [OPTIONS]")


def test_a_group_of_commands_by_itself_says_what_it_has(bare: Cli) -> None:
    alone = bare.inside("worktree")
    assert (alone.code, alone.out) == (2, "")
    assert alone.err == bare.inside("worktree", "--help").out


def test_a_topic_that_is_not_there_is_told_with_the_nearest(bare: Cli) -> None:
    missed = bare.inside("help", "confguration")
    assert missed.code == 2
    assert "Did you mean `loom help configuration`?" in missed.err
    assert "`loom help` lists the topics." in bare.inside("help", "zebra").err
    assert bare.inside("help", "dead-letter", "zebra").code == 2


def test_no_topic_hides_behind_a_command() -> None:
    import click

    assert set(pages()) & set(group.list_commands(click.Context(group))) == set()


def on_a_terminal(cli: Cli, *words: str, code: int = 0, **given: str) -> str:
    """What a command prints at a terminal, with what is `given` in its environment; it ends with this status."""
    ours, theirs = os.openpty()
    env = {name: value for name, value in cli.env.items() if name != "NO_COLOR"}
    env |= {"TERM": "xterm-256color", "COLUMNS": "100"} | given
    command = subprocess.Popen(
        [sys.executable, "-m", "loom", *words], cwd=cli.directory, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while more := os.read(ours, 65536):
            shown += more
    except OSError:  # how Linux says that nobody has the other end open
        pass
    os.close(ours)
    assert command.wait(10) == code
    return shown.decode()
