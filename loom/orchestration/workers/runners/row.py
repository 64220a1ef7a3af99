"""What one runner is: how a session of its command is started and gone on with, and how what it says is read.

A session is one conversation about one claim. It may take several runs of the command: who is asked something goes on
where he was. `claude.py`, `codex.py` and `command.py` are rows of this kind; the table is `__init__.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from loom.process import Ended

REPORTING = (
    "status", "show", "list", "ready", "claim", "done", "fail", "escalate", "release", "heartbeat", "check", "create",
    "update", "message", "inbox", "note",
)  # fmt: skip
"""What of `loom` an agent may run: the commands that report and read, each by name."""

COMMITTING = ("git add", "git commit")
"""What of git."""


class EndKind(StrEnum):
    """How a run has ended, as far as its command tells."""

    DONE = "done"  # a command of one's own says so with its exit status
    SILENT = "silent"  # in order, and it has said nothing of the task that could be relied on
    REFUSED = "refused"  # by the provider
    LIMIT = "limit"  # of what the account may use
    AWAY = "away"  # the provider
    LOGIN = "login"  # nothing will run here before somebody has seen to it
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class End:
    """How a run has ended. `said`: its last words, or why it is no good end; `until`: when a limit is over, where that
    is told; `advice`: what to run against LOGIN; `output`: what was handed in as structured output."""

    kind: EndKind
    said: str = ""
    until: datetime | None = None
    advice: str = ""
    output: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used, as far as it is told. `input_tokens` counts cached ones too; the cost is in US dollars."""

    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    model: str | None = None

    def plus(self, run: Usage, totals: frozenset[str]) -> Usage:
        """With that of one more run of the same session. `totals`: what a run tells of the whole session, so that the
        last number counts."""
        kept = {item.name: getattr(self, item.name) for item in fields(self)}
        for name, more in ((item.name, getattr(run, item.name)) for item in fields(run)):
            if more is not None:
                summed = name not in totals and name != "model" and kept[name] is not None
                kept[name] = kept[name] + more if summed else more
        return replace(self, **kept)

    def facts(self) -> dict[str, Any]:
        """What is known of it, by name."""
        known = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Errand:
    """What a session is for, and what it may do."""

    task_id: str
    token: int
    agent: str
    session: str
    """A UUID that nobody else has, for who lets himself be told his session's name."""
    place: Path
    """Where it works."""
    git_dir: Path | None
    """The worktree's own directory in its repository, where it has a worktree of its own."""
    project_dir: Path | None
    scratch: Path
    """A directory for files of this session."""
    words: tuple[str, ...]
    """The program by its whole path, and what the user wants beside the row's own words."""
    loom: tuple[str, ...]
    """The words that start Loom."""
    allow: tuple[str, ...] = ()
    """Beginnings of command lines that may run."""
    checks: tuple[str, ...] = ()
    """Command lines that may run."""

    def environment(self) -> dict[str, str]:
        """By what `loom` and its tools know whose claim theirs is."""
        env = {"LOOM_TASK_ID": self.task_id, "LOOM_CLAIM_TOKEN": str(self.token), "LOOM_AGENT_ID": self.agent}
        return env | ({"LOOM_PROJECT_DIR": str(self.project_dir)} if self.project_dir else {})


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line, what it needs in its environment, and what is made before: files by path, and directories."""

    words: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[Path, str] = field(default_factory=dict)
    directories: tuple[Path, ...] = ()


class Reader(Protocol):
    """What is learnt from one run while it goes on, and of its end."""

    @property
    def session(self) -> str | None:
        """What to go on with, once it is known."""

    @property
    def usage(self) -> Usage | None:
        """What it has used, once that is told."""

    @property
    def busy(self) -> bool:
        """Whether the agent waits for something of its own, such as a command, that may take long without a word."""

    @property
    def stalled(self) -> str:
        """What the command says while it waits for its provider."""

    def line(self, line: bytes) -> None:
        """Takes a line of its standard output."""

    def end(self, ended: Ended) -> End:
        """Says how it has ended."""


class Runner(Protocol):
    """A row of the table."""

    name: str
    must_report: bool
    """Whether an end in order is no success without a report."""
    remembers: bool
    """Whether who is asked something has the conversation so far before him."""
    speaks: bool
    """Whether a run shows that it lives, so that silence means something."""
    by_tools: bool
    """Whether Loom's tools are at hand."""
    by_shell: bool
    """Whether `loom` can be run."""
    unread: tuple[str, ...]
    """Files of the repository with instructions for agents that it does not read by itself."""
    totals: frozenset[str]
    """What of `Usage` a run tells of its whole session."""

    def start(self, errand: Errand) -> Launch:
        """How a session begins; its text comes on standard input."""

    def resume(self, errand: Errand, session: str) -> Launch:
        """How it is gone on with."""

    def reader(self) -> Reader:
        """For one run."""


class Events:
    """A reader of lines that are JSON objects. What is none is passed by."""

    def __init__(self) -> None:
        self.session: str | None = None
        self.usage: Usage | None = None
        self.stalled = ""
        self.begun = False
        self._under_way: set[str] = set()

    @property
    def busy(self) -> bool:
        return bool(self._under_way)

    def line(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            return
        if isinstance(event, dict):
            self.begun = True
            self.stalled = ""
            self.event(event)

    def event(self, event: dict[str, Any]) -> None:
        """Takes one."""
        raise NotImplementedError


def number(value: object) -> int | None:
    """A count in an event, None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
