"""The programs that work on tasks, each a row: `claude`, `codex`, and any command of one's own.

runner = RUNNERS["claude"]
launch = runner.start(errand)
"""

from __future__ import annotations

from collections.abc import Mapping

from loom.orchestration.workers.runners.claude import Claude
from loom.orchestration.workers.runners.codex import Codex
from loom.orchestration.workers.runners.command import Command
from loom.orchestration.workers.runners.row import (
    COMMITTING,
    REPORTING,
    End,
    EndKind,
    Errand,
    Launch,
    Reader,
    Runner,
    Usage,
)

__all__ = [
    "COMMITTING",
    "REPORTING",
    "RUNNERS",
    "Command",
    "End",
    "EndKind",
    "Errand",
    "Launch",
    "Reader",
    "Runner",
    "Usage",
]

RUNNERS: Mapping[str, Runner] = {row.name: row for row in (Claude(), Codex())}
"""The programs that Loom knows by name."""
