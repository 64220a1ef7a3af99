"""The names of the reference layout are where CLAUDE.md says, and the product calls them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from operator import attrgetter
from pathlib import Path

ROOT = Path(__file__).parent.parent


def named() -> Iterator[tuple[str, str]]:
    """Each name of the table with its place."""
    text = (ROOT / "CLAUDE.md").read_text("utf-8")
    table = text[text.index("| reference name | where it is |") :]
    for row in re.findall(r"^\| (`.*`) \| `(.*)` \|$", table, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", row[0]):
            yield name, row[1]


def test_each_name_is_where_the_table_says() -> None:
    for name, place in named():
        if place.endswith(".lua"):
            assert f"local function {name}(" in (ROOT / place).read_text("utf-8")
        else:
            assert attrgetter(name)(import_module(place)) is not None, name


def test_the_product_calls_each() -> None:
    files = [*(ROOT / "loom").rglob("*.py"), *(ROOT / "loom").rglob("*.lua")]
    lines = [line for path in files for line in path.read_text("utf-8").splitlines() if "import" not in line]
    for name in {name.rpartition(".")[2] for name, _ in named()}:
        calls = re.compile(rf"(?<!def )(?<!class )(?<!function )\b{name}\b(?!\"|,$)")
        assert any(calls.search(line) for line in lines), f"nothing in loom/ uses {name}"


def test_the_table_has_them_all() -> None:
    assert len(list(named())) >= 56
