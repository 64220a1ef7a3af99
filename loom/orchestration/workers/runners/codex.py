"""Codex.

It works in its own sandbox: it may write in its worktree and what a commit there needs, and reach this machine alone.
What it may run is not named one by one. `loom` in its shell could not write its own files, so it reports by tools.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loom.orchestration.workers import result
from loom.orchestration.workers.runners import until
from loom.orchestration.workers.runners.row import End, EndKind, Errand, Events, Launch, Reader, Usage, number
from loom.process import Ended
from loom.process.guard import MARK

_PROFILE = "loom"  # of the sandbox
_COMMON = ("--json", "--skip-git-repo-check", "--ignore-rules")
_RETRY = "Reconnecting..."
# The first that fits counts.
_ERRORS = (
    (r"hit your usage limit|Quota exceeded|status:? 429", EndKind.LIMIT),
    (r"status 40[134]|credit balance|not logged in", EndKind.LOGIN),
    (r"high demand|at capacity|status:? 5\d\d", EndKind.AWAY),
    (r"waiting for network|stream disconnected|error sending request|timed out", EndKind.AWAY),
)
_ADVICE = "Run `codex login`, or see to the account and the model, then run it again."


class Codex:
    """The row."""

    name = "codex"
    must_report = remembers = speaks = by_tools = True
    by_shell = False
    unread: tuple[str, ...] = ()
    totals = frozenset({"input_tokens", "cached_input_tokens", "output_tokens"})

    def start(self, errand: Errand) -> Launch:
        return self._launch(errand, "exec", "--color", "never", "-C", str(errand.place))

    def resume(self, errand: Errand, session: str) -> Launch:
        return self._launch(errand, "exec", "resume", session)

    def reader(self) -> Reader:
        return _Stream()

    def _launch(self, errand: Errand, *how: str) -> Launch:
        program, *more = errand.words
        needed = _for_a_commit(errand)
        return Launch(
            [program, *how, *_COMMON, *_settings(errand, needed), *more, "-"],
            directories=needed,  # the sandbox cannot open what is not there
        )


class _Stream(Events):
    def __init__(self) -> None:
        super().__init__()
        self._said = ""  # the last that the agent said
        self._acted = False
        self._failed: str | None = None
        self._completed = False

    def event(self, event: dict[str, Any]) -> None:
        match event.get("type"):
            case "thread.started":
                self.session = str(event.get("thread_id"))
            case "item.started" | "item.completed":
                self._item(event)
            case "error" if str(event.get("message")).startswith(_RETRY):
                self.stalled = str(event["message"])
            case "turn.completed":
                self._completed = True
                self.usage = _usage(event.get("usage"))
            case "turn.failed":
                error = event.get("error")
                self._failed = str(error.get("message") if isinstance(error, dict) else error)

    def end(self, ended: Ended) -> End:
        if self._completed:
            # Refused by the provider, it says and does nothing at all, and calls that complete.
            kind = EndKind.SILENT if self._said or self._acted else EndKind.REFUSED
            return End(kind, result.clean(self._said) or "It said nothing at all.")
        if self._failed is not None:
            return _failure(self._failed, EndKind.BROKEN)
        if self.stalled:
            return _failure(self.stalled, EndKind.AWAY)
        if not self.begun and ended.status > 0:
            return End(EndKind.LOGIN, result.reason(ended), advice="Mend that, then run it again.")
        return End(EndKind.BROKEN, result.reason(ended))

    def _item(self, event: Mapping[str, Any]) -> None:
        item = event.get("item")
        if not isinstance(item, dict) or item.get("type") == "error":
            return
        name = str(item.get("id"))
        if event["type"] == "item.started":
            self._under_way.add(name)
        else:
            self._under_way.discard(name)
        if item.get("type") == "agent_message":
            self._said = str(item.get("text"))
        elif item.get("type") != "reasoning":
            self._acted = True


def _for_a_commit(errand: Errand) -> tuple[Path, ...]:
    """What git writes for a commit on a branch of Loom's in a worktree, and no more of the repository than that."""
    if errand.git_dir is None:
        return ()
    common = errand.git_dir.parent.parent
    return (errand.git_dir, *(common / part for part in ("objects", "refs/heads/loom", "logs/refs/heads/loom")))


def _settings(errand: Errand, writable: Sequence[Path]) -> list[str]:
    command, *arguments = errand.loom
    server = {
        "command": command,
        "args": [*arguments, "mcp"],
        "required": True,
        "startup_timeout_sec": 30,
        "tool_timeout_sec": 120,  # a report waits for checks
        "env": errand.environment(),
        # By name, so that no address with a password stands in a command line that everybody can read.
        # The mark of the run too, by which Loom's server knows that it is inside of one.
        "env_vars": sorted({MARK, *(name for name in os.environ if name.startswith(("LOOM_", "XDG_", "PYTHON")))}),
    }
    files: dict[str, Any] = {":root": "read", ":workspace_roots": {".": "write"}}
    files |= {str(path): "write" for path in writable}
    network = {"enabled": True, "mode": "limited", "allow_local_binding": True, "domains": {}}
    settings = {
        "approval_policy": "never",
        "allow_login_shell": False,  # whose PATH is the system's, without the programs of a virtual environment
        "features.code_mode.direct_only_tool_namespaces": ["mcp__loom"],  # else newer models are not told of them
        **{f"mcp_servers.loom.{name}": value for name, value in server.items()},
        "default_permissions": _PROFILE,
        f"permissions.{_PROFILE}.filesystem": files,
        f"permissions.{_PROFILE}.network": network,
    }
    given = [word for name, value in settings.items() for word in ("-c", f"{name}={_toml(value)}")]
    return ["--enable", "network_proxy", "--disable", "unbounded_connection_retries", *given]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{_toml(name)}={_toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _usage(told: object) -> Usage | None:
    if not isinstance(told, dict):
        return None
    cached, out = number(told.get("cached_input_tokens")), number(told.get("output_tokens"))
    return Usage(number(told.get("input_tokens")), cached, out)


def _failure(message: str, otherwise: EndKind) -> End:
    kind = next((kind for pattern, kind in _ERRORS if re.search(pattern, message, re.IGNORECASE)), otherwise)
    said = result.clean(message)
    advice = _ADVICE if kind is EndKind.LOGIN else ""
    return End(kind, said, until.told(said, datetime.now(UTC)) if kind is EndKind.LIMIT else None, advice)
