"""Where statements of SQL stand: in `graph/store`, the only writer in Postgres, and in `db`, which knows no task."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import loom.graph.store

PACKAGE = Path(loom.__file__).parent
ROOMS = (PACKAGE / "graph" / "store", PACKAGE / "db")
STATEMENT = re.compile(
    r"\s*(select\s.*\bfrom\b|select\s+\w+\(|insert\s+into\s|update\s.*\bset\b|delete\s+from\s|with\s+\w+\s+as\s*\(|"
    r"(create|alter|drop|truncate|lock)\s+(table|index|function|schema|role)\b|(notify|listen)\s+\w+$)",
    re.DOTALL,
)


def statements(source: str) -> list[str]:
    """The texts in a module that are SQL. Docstrings are prose."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    ]
    return [text for text in texts if STATEMENT.match(text)]


def test_statements_stand_in_the_store_alone() -> None:
    elsewhere = {
        str(file.relative_to(PACKAGE)): found
        for file in PACKAGE.rglob("*.py")
        if not any(file.is_relative_to(room) for room in ROOMS) and (found := statements(file.read_text("utf-8")))
    }
    assert elsewhere == {}


def test_statements_are_told_from_prose() -> None:
    assert statements('x = "select id from tasks"\ny = f"update tasks set {z}"\n') != []
    assert len(statements('a = "insert into t values (1)"\nb = """\ndelete from t\n"""\nc = "select f()"\n')) == 3
    assert (
        statements('"""Select from these."""\nx = "Update it, then set it."\ny = "with one"\nz = "create tasks"\n')
        == []
    )


def test_the_table_of_the_store_has_each_of_its_modules() -> None:
    table = [line.split("|")[1] for line in (loom.graph.store.__doc__ or "").splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(table))) == sorted(
        file.stem for file in ROOMS[0].glob("*.py") if file.stem != "__init__"
    )
