"""The limits: what is taken, and what refusals say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loom.exceptions import InvalidInputError
from loom.graph.model import limits, paths
from loom.graph.model.task import Priority


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def refusal(check: Callable[[Any], object], value: object) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        check(value)
    assert caught.value.next_step
    return caught.value


def test_the_longest_of_each_is_taken() -> None:
    assert limits.title("é" * 500) == "é" * 500
    assert limits.done_when("x" * 8192) == "x" * 8192
    assert limits.reason("x" * 8192)
    assert limits.message("x" * 32768)
    assert limits.context({"a": "é" * ((262_144 - 8) // 2)})
    assert limits.agent_name("A-z_0.9:@/" + "a" * 54)
    assert len(limits.depends_on([f"loom-{n:08x}" for n in range(1000)])) == 1000


@pytest.mark.parametrize(
    ("check", "value", "cause"),
    [
        (limits.title, "x" * 1_048_576, "title is 1,048,576 characters long; the limit is 500."),
        (limits.done_when, "é" * 4097, "done_when is 8,194 bytes long; the limit is 8,192."),
        (limits.message, "x" * 32_769, "message is 32,769 bytes long; the limit is 32,768."),
        (limits.context, {"a": "x" * 262_137}, "context is 262,145 bytes of JSON; the limit is 262,144."),
        (
            limits.depends_on,
            [f"loom-{n:08x}" for n in range(1001)],
            "depends_on names 1,001 tasks; the limit is 1,000.",
        ),
    ],
)
def test_beyond_a_limit_field_limit_and_size_are_named(
    check: Callable[[Any], object], value: object, cause: str
) -> None:
    assert refusal(check, value).cause == cause


@pytest.mark.parametrize("text", ["a\nb", "a\r", "a\tb", "a\x85b", "a\u2028b", "a\u2029", "\x1b[31m", "a\0b", "\ud800"])
def test_a_title_is_one_line_of_whole_characters(text: str) -> None:
    assert "position" in refusal(limits.title, text).cause


@pytest.mark.parametrize("value", [None, 1, b"x", [], {}, "", "   "])
def test_a_title_is_some_text(value: object) -> None:
    assert refusal(limits.title, value).cause.startswith("title ")


@pytest.mark.parametrize("text", ["\u200b", " \u3164 ", "\u200d\ufe0f", "\U000e0041\U000e007f"])
def test_a_title_shows_something(text: str) -> None:
    assert refusal(limits.title, text).cause == "title is empty."


@pytest.mark.parametrize("text", ["a\xadb", "می\u200cخواهم", "\u26a0\ufe0f mind \U0001f469\u200d\U0001f467"])
def test_a_title_is_kept_as_it_was_written(text: str) -> None:
    assert limits.title(text) == text


def test_space_around_a_title_goes() -> None:
    assert limits.title("  a  b ") == "a  b"


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": {"b": ["x\0"]}}, "context.a.b[0] has a NUL"),
        ({"a": {"b\0": 1}}, "a key in context.a has a NUL"),
        ({"a": ["\udfff"]}, "context.a[0] has half a character"),
        ({"a\ud800": 1}, "a key in context has half a character"),
        ({"a": float("nan")}, "context.a is a number"),
        ({"a": [float("-inf")]}, "context.a[0] is a number"),
        ({"a": 10**309}, "context.a is a number"),
        ({"a": -(10**5000)}, "context.a is a number"),
        ({"a": {1}}, "context.a is a value of type set"),
        ({"a": b"x"}, "context.a is a value of type bytes"),
        ({(1, 2): 3}, "context has a key that is a list"),
        (nested(65), "context is nested more than 64 levels"),
        (nested(100_000), "context is nested more than 64 levels"),
        ([], "context must be a JSON object, not a list"),
        ('{"a": 1}', "context must be a JSON object, not text"),
    ],
)
def test_json_that_postgres_cannot_hold_is_refused_by_its_place(value: object, where: str) -> None:
    assert refusal(limits.context, value).cause.startswith(where)


def test_a_circle_is_refused() -> None:
    circle: dict[str, Any] = {}
    circle["a"] = [circle]
    assert "nested" in refusal(limits.output, circle).cause


def test_json_comes_back_as_text() -> None:
    value: dict[str, Any] = {
        "a": [1, 1.5, True, None, "é\n\\u0000"],
        "big": 10**308,
        "digits": "1" * 400,
        "many": [[] for _ in range(99)],
    }
    assert json.loads(limits.context(value)) == value
    assert limits.output(None) == "{}"
    assert limits.context(nested(64))


@given(
    st.dictionaries(
        st.text(max_size=4),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters(), max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        ),
        max_size=4,
    )
)
def test_what_is_taken_can_be_stored(value: dict[str, Any]) -> None:
    try:
        text = limits.context(value)
    except InvalidInputError:
        return
    assert json.loads(text) == value
    assert "\0" not in str(value)
    text.encode()


def test_optional_values() -> None:
    assert limits.done_when(None) is None
    assert limits.done_when(" ") is None
    assert limits.context(None) == "{}"
    assert limits.depends_on(None) == ()


@pytest.mark.parametrize("check", [limits.reason, limits.message])
def test_a_reason_and_a_message_say_something(check: Callable[[Any], object]) -> None:
    assert "is empty" in refusal(check, " \n").cause
    assert "NUL" in refusal(check, "a\0").cause


def test_depends_on_keeps_order_and_each_once() -> None:
    assert limits.depends_on(["loom-0000000b", "loom-0000000a", "loom-0000000b"]) == ("loom-0000000b", "loom-0000000a")
    assert "must be a list" in refusal(limits.depends_on, "loom-0000000a").cause
    assert "is not a task id" in refusal(limits.depends_on, ["LOOM-0000000A"]).cause
    assert "must be text" in refusal(limits.depends_on, [["loom-0000000a"]]).cause


def test_priorities() -> None:
    assert limits.priority("P0") is Priority.P0
    assert limits.priority(Priority.P2) is Priority.P2
    values: tuple[object, ...] = ("high", "", 1, None, [])
    for value in values:
        assert "priority" in refusal(limits.priority, value).cause


@pytest.mark.parametrize("value", ["", "a b", "a" * 65, "ä", "a\n", 5, None])
def test_agent_names(value: object) -> None:
    assert refusal(limits.agent_name, value).cause.startswith("agent_id ")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("src/app.py", "src/app.py"),
        (" ./src//./app.py ", "src/app.py"),
        ("tests/", "tests"),
        (".", "."),
        ("./", "."),
        ("*", "."),
        ("**/*.py", "."),
        ("src/**/test_?.py", "src"),
        ("src/a*.py", "src"),
        ("app/[id]/page.tsx", "app"),
        (".github/workflows/ci.yml", ".github/workflows/ci.yml"),
        (".gitignore", ".gitignore"),
        ("a..b/c...", "a..b/c..."),
        ("cafe\u0301/x", "caf\xe9/x"),
        ("src/{{ name }}.py", "src/{{ name }}.py"),
        ("-rf", "-rf"),
        ("x" * 500, "x" * 500),
    ],
)
def test_a_path_is_told_as_git_does(given: str, path: str) -> None:
    assert limits.path(given) == path
    assert limits.path(path) == path


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ("", "files names an empty path."),
        (" ", "files names an empty path."),
        ("/etc/passwd", "files names “/etc/passwd”, which is not below the project's repository."),
        ("//etc", "which is not below"),
        ("~/.ssh/config", "which is not below"),
        ("..", "which is not below"),
        ("../other", "which is not below"),
        ("src/../../other", "which is not below"),
        ("src/..", "which is not below"),
        ("*/../x", "which is not below"),
        ("src\\app.py", "which has a backslash"),
        ("..\\other", "which has a backslash"),
        ("a\nb", "which has a line break or control character (U+000A)"),
        ("a\x1b[31m", "(U+001B)"),
        ("a\u2028b", "(U+2028)"),
        ("a\0b", "files has a NUL character"),
        ("a\ud800b", "files has half a character"),
        (".loom", "which no task changes"),
        ("./.loom/config.yaml", "which no task changes"),
        (".LOOM/config.yaml", "which no task changes"),
        ("part/.loom/skills", "which no task changes"),
        ("*/.loom", "which no task changes"),
        (".git/hooks", "which no task changes"),
        ("vendor/.Git", "which no task changes"),
        ("x" * 501, "files names a path of 501 characters; the limit is 500."),
        (1, "files must be text, not a number."),
        (None, "files must be text, not null."),
        (["a"], "files must be text, not a list."),
    ],
)
def test_a_path_that_leads_out_or_is_not_work_is_refused(given: object, cause: str) -> None:
    assert cause in refusal(limits.path, given).cause


@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "", "a", "*", ".loom", "~", " a"])).map("/".join))
@example("./~a")
@example("x /*")
@example("./ a")
def test_whatever_is_taken_as_a_path_lies_in_the_repository(text: str) -> None:
    try:
        path = limits.path(text)
    except InvalidInputError:
        return
    assert path == "." or all(part not in ("", ".", "..") for part in path.split("/"))
    assert not path.startswith(("/", "~"))
    assert ".loom" not in path.split("/")
    assert limits.path(path) == path


def test_files_and_checks_are_lists_of_each_once() -> None:
    assert limits.files(["a", "./a", "b/", "a"]) == ("a", "b")
    assert limits.files(None) == ()
    assert len(limits.files([f"{n}{'x' * 490}" for n in range(100)])) == 100
    assert "names 101 paths; the limit is 100" in refusal(limits.files, [str(n) for n in range(101)]).cause
    assert refusal(limits.files, "a.py").cause == "files must be a list, not text."
    assert limits.checks(("unit", "lint", "unit")) == ("unit", "lint")
    assert "names 51 checks; the limit is 50" in refusal(limits.checks, [str(n) for n in range(51)]).cause
    for name in ("", "-unit", "unit test", "unit.lint", "é", "x" * 65, "unit\n"):
        assert "no name of a check" in refusal(limits.checks, [name]).cause


def test_how_paths_lie_to_each_other() -> None:
    assert paths.below("src/app.py", "src")
    assert paths.below("src", "src")
    assert paths.below("src", ".")
    assert not paths.below("src-2/app.py", "src")
    assert not paths.below("src", "src/app.py")
    assert not paths.below(".", "src")
    assert paths.below("cafe\u0301/x", "caf\xe9")
    assert not paths.below("Tests/a.py", "tests")
    assert paths.may_be_below("Tests/a.py", "tests")
    assert paths.meet("src", "src/app.py")
    assert paths.meet("Tests/a.py", "tests")
    assert paths.meet("cafe\u0301", "caf\xe9/x")
    assert not paths.meet("test", "tests")
    assert paths.plain("./tests//") == "tests"
    assert paths.plain("./") == "."
