"""The table of guards: what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_each_guard_names_its_place_and_tests_that_are_there() -> None:
    table = (ROOT / "tests" / "GUARDS.md").read_text("utf-8")
    rows = re.findall(r"^\| (.+) \| `(\S+)` \| (`test_.+`) \|$", table, re.MULTILINE)
    assert len(rows) == table.count("\n|") - 2, "each row has a guard, a place, and tests"
    texts = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for text in texts for name in re.findall(r"^(?:async )?def (test_\w+)\(", text, re.MULTILINE)}
    for guard, place, tests in rows:
        assert (ROOT / "loom" / place).is_file(), guard
        assert set(re.findall(r"`(test_\w+)`", tests)) <= there, guard
