"""How answers are laid out: on a terminal cut and wrapped to its width, elsewhere whole; colour where it is wanted."""

from __future__ import annotations

import click
import pytest

from loom.cli import output
from loom.cli.times import span
from tests.cli.conftest import Cli
from tests.cli.test_help import on_a_terminal


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 40 columns."""
    monkeypatch.setattr(output, "columns", lambda: 40)


def test_the_last_column_is_cut_first_and_then_the_widest(narrow: None) -> None:
    rows = [["loom-00000001", "ready", "A title that is longer than there is room for"], ["loom-00000002", "dead", "b"]]
    assert list(output.table(rows)) == [
        "loom-00000001  ready  A title that is l…",
        "loom-00000002  dead   b",
    ]
    (line,) = output.table([["an agent with a name that is very long indeed", "another cell that is long", "the last"]])
    assert output._width(line) <= 40
    assert line.endswith("the last")


def test_what_is_coloured_is_cut_as_it_is_seen_and_ends_its_colour(narrow: None) -> None:
    cut = output.fitted(click.style("x" * 60, fg="red"))
    assert click.unstyle(cut) == "x" * 39 + "…"
    assert cut.endswith("\x1b[0m")
    assert output.fitted("数" * 30) == "数" * 19 + "…", "measured in columns"


def test_markdown_is_wrapped_at_words_and_code_is_left_alone(narrow: None) -> None:
    text = (
        "# A heading that is longer than a terminal is wide\n"
        "A paragraph\nof two lines that are one for a reader.\n\n"
        "1. a point that goes on for longer than one line\n"
        "   | a | table | that is | left alone, whatever its width |\n"
        "```\ncode = 'that is left alone, whatever its width'\n```\n"
        "    more of it, indented, that is left alone"
    )
    assert list(output.prose(text, "")) == [
        "# A heading that is longer than a",
        "terminal is wide",
        "A paragraph of two lines that are one",
        "for a reader.",
        "",
        "1. a point that goes on for longer than",
        "   one line",
        "   | a | table | that is | left alone, whatever its width |",
        "```",
        "code = 'that is left alone, whatever its width'",
        "```",
        "    more of it, indented, that is left alone",
    ]


def test_in_a_pipe_everything_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "columns", lambda: None)
    text = "A line that is longer than any terminal is wide. " * 5
    assert list(output.prose(text)) == [f"  {text}".rstrip()]
    assert list(output.table([["a", text]])) == [f"a  {text}".rstrip()]


def test_a_span_is_told_in_its_two_largest_units() -> None:
    assert [span(one) for one in (0, 59, 3600, 3661, 90000, 10.4)] == [
        "0 s",
        "59 s",
        "1 h",
        "1 h 1 m",
        "1 d 1 h",
        "10 s",
    ]


def test_colour_is_left_out_where_it_is_not_wanted(bare: Cli) -> None:
    assert "\x1b[" in on_a_terminal(bare, "stauts", code=2)
    assert "\x1b[" not in on_a_terminal(bare, "stauts", code=2, TERM="dumb")
    assert "\x1b[" not in on_a_terminal(bare, "stauts", code=2, NO_COLOR="1")
