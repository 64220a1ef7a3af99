"""What a command that Loom starts finds in its environment."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import loom
from loom.config import API_KEY_VARIABLE
from loom.process import environment

STARTS = re.compile(
    r"(subprocess\.(run|Popen|call|check_\w+))|.*\bsubprocess_(exec|shell)|.*create_subprocess_\w+|StdioTransport"
)
SAYS_WHO_CALLS = "bridge.py"  # to the hub of the same user, all of it; what it starts is held by tests/hub
WHOLE = re.compile(r"environ\.(items|copy)\(|\*\*os\.environ|(dict\(|env=)os\.environ\b(?!\.)")


def test_a_command_does_not_find_what_only_loom_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "sk-1")
    monkeypatch.setenv("A", "a")
    monkeypatch.setenv("B", "b")
    assert "sk-1" not in environment().values()
    assert (environment()["A"], environment({"A": "z"})["A"]) == ("a", "z")
    assert "A" not in environment(without=["A"])
    assert environment({"C": "c"}, only=["A"]) == {"A": "a", "C": "c"}


def test_nothing_is_started_with_an_environment_that_was_not_made_for_it() -> None:
    top = Path(loom.__file__).parent
    inherited, whole = [], []
    for file in sorted(top.rglob("*.py")):
        source = file.read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and STARTS.fullmatch(ast.unparse(node.func)):
                inherited += [f"{file}:{node.lineno}"] if all(one.arg != "env" for one in node.keywords) else []
        makes_its_own = file.parent.name == "process" or file.name == SAYS_WHO_CALLS
        whole += [str(file)] if WHOLE.search(source) and not makes_its_own else []
    assert inherited == []
    assert whole == []
