"""The pages that people read, and what is in them."""

from __future__ import annotations

import re
from pathlib import Path

from loom.orchestration import metrics

ROOT = Path(__file__).parents[1]
DOCS = {f"docs/{path.name}": path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
FOR_USERS = {"README.md": (ROOT / "README.md").read_text(), **DOCS}
ALL = FOR_USERS | {
    name: (ROOT / name).read_text()
    for name in ("CLAUDE.md", "CHANGELOG.md", "tests/GUARDS.md", ".github/CONTRIBUTING.md", ".github/SECURITY.md")
}
METRICS = {one.name for one in vars(metrics._Found()).values()}
"""The names of all metrics."""


def examples(text: str, language: str) -> list[str]:
    """The blocks of code of a page that are in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
