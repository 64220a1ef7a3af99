"""Claude Code.

It asks nobody: what is not allowed is refused, and the agent is told so. Only the user's own settings count, not the
repository's, whose hooks would run; so it does not read AGENTS.md or CLAUDE.md by itself either.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from loom.orchestration.workers import result
from loom.orchestration.workers.runners import until
from loom.orchestration.workers.runners.row import End, EndKind, Errand, Events, Launch, Reader, Usage, number
from loom.process import Ended

_PATIENCE = {"CLAUDE_CODE_MAX_RETRIES": "3", "API_TIMEOUT_MS": "600000"}  # where the user says nothing else
_ERRORS = {
    "rate_limit": EndKind.LIMIT,
    "authentication_failed": EndKind.LOGIN,
    "billing_error": EndKind.LOGIN,
    "model_not_found": EndKind.LOGIN,
    "server_error": EndKind.AWAY,
    "overloaded": EndKind.AWAY,
}
_ADVICE = {
    "authentication_failed": "Run `claude` in a terminal and log in, then run it again.",
    "billing_error": "See to the account's credit, then run it again.",
    "model_not_found": "Name another model: `-- --model NAME`.",
}
_RESETS = re.compile(r"limit reached\|(\d{9,11})")


class Claude:
    """The row."""

    name = "claude"
    must_report = remembers = speaks = by_tools = by_shell = True
    unread: tuple[str, ...] = ("AGENTS.md", "CLAUDE.md")
    totals = frozenset({"cost_usd"})

    def start(self, errand: Errand) -> Launch:
        return self._launch(errand, "--session-id", errand.session)

    def resume(self, errand: Errand, session: str) -> Launch:
        return self._launch(errand, "--resume", session)

    def reader(self) -> Reader:
        return _Stream()

    def _launch(self, errand: Errand, *session: str) -> Launch:
        program, *more = errand.words
        command, *arguments = errand.loom
        server = {
            "command": command,
            "args": [*arguments, "mcp"],
            "alwaysLoad": True,
            "env": errand.environment(),
        }
        rules = [f"Bash({line}:*)" for line in errand.allow] + [f"Bash({line})" for line in errand.checks]
        words = [
            program, "-p", "--output-format", "stream-json", "--verbose",
            "--strict-mcp-config", "--mcp-config", json.dumps({"mcpServers": {"loom": server}}),
            "--permission-mode", "acceptEdits", "--permission-prompts", "none", "--setting-sources", "user",
            "--allowedTools", ",".join(["mcp__loom", *rules]),
        ]  # fmt: skip
        patience = {name: value for name, value in _PATIENCE.items() if name not in os.environ}
        return Launch([*words, *session, *more], patience)


class _Stream(Events):
    def __init__(self) -> None:
        super().__init__()
        self._error = ""  # what kind of error the last answer is
        self._until: datetime | None = None
        self._result: Mapping[str, Any] | None = None

    def event(self, event: dict[str, Any]) -> None:
        if isinstance(event.get("session_id"), str):
            self.session = event["session_id"]
        match event.get("type"):
            case "assistant":
                self._error = str(event.get("error") or "")
                self._under_way |= {_id(one, "id") for one in _content(event, "tool_use")}
            case "user":
                self._under_way -= {_id(one, "tool_use_id") for one in _content(event, "tool_result")}
            case "system" if event.get("subtype") == "api_retry":
                self.stalled = f"{event.get('error')} ({event.get('error_status')})"
            case "rate_limit_event":
                self._limit(event.get("rate_limit_info"))
            case "result":
                self._result = event
                self.usage = _usage(event)
                self._under_way.clear()

    def end(self, ended: Ended) -> End:
        found = self._result
        if found is None:
            return self._without_a_result(ended)
        said = result.clean(str(found.get("result") or ""))
        if found.get("stop_reason") == "refusal":
            return End(EndKind.REFUSED, said)
        if found.get("is_error") is False and found.get("subtype") == "success":
            output = found.get("structured_output")
            return End(EndKind.SILENT, said, output=output if isinstance(output, dict) else None)
        if found.get("terminal_reason") != "api_error":
            errors = found.get("errors")
            more = "; ".join(map(str, errors)) if isinstance(errors, list) else ""
            why = said or result.clean(more) or "It says no more."
            return End(EndKind.BROKEN, f"{found.get('terminal_reason') or found.get('subtype')}: {why}")
        kind = _ERRORS.get(self._error, EndKind.BROKEN)
        return End(kind, said, self._until or _told(said), _ADVICE.get(self._error, ""))

    def _without_a_result(self, ended: Ended) -> End:
        if self.stalled:
            kind = EndKind.LIMIT if self.stalled.startswith("rate_limit") else EndKind.AWAY
            return End(kind, f"It waited for its provider: {self.stalled}.", self._until)
        if not self.begun and ended.status > 0:
            return End(EndKind.LOGIN, result.reason(ended), advice="Mend that, then run it again.")
        return End(EndKind.BROKEN, result.reason(ended))

    def _limit(self, info: object) -> None:
        """Takes a word on what may still be used; most say that all is well."""
        if isinstance(info, dict) and info.get("status") == "rejected" and (at := number(info.get("resetsAt"))):
            self._until = until.moment(at)


def _content(event: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    message = event.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    return [one for one in content if isinstance(one, dict) and one.get("type") == kind] if content else []


def _id(one: Mapping[str, Any], name: str) -> str:
    return str(one.get(name))


def _usage(event: Mapping[str, Any]) -> Usage:
    told = event.get("usage")
    used: Mapping[str, Any] = told if isinstance(told, dict) else {}
    parts = [number(used.get(name)) for name in ("input_tokens", "cache_creation_input_tokens")]
    cached = number(used.get("cache_read_input_tokens"))
    cost = event.get("total_cost_usd")
    models = event.get("modelUsage")
    return Usage(
        input_tokens=None if parts[0] is None else sum(part or 0 for part in (*parts, cached)),
        cached_input_tokens=cached,
        output_tokens=number(used.get("output_tokens")),
        cost_usd=float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) else None,
        model=_dearest(models) if isinstance(models, dict) else None,
    )


def _dearest(models: Mapping[str, Any]) -> str | None:
    """The model that the most was spent on; others do small things beside it."""
    costs = {name: one.get("costUSD") or 0 for name, one in models.items() if isinstance(one, dict)}
    return max(costs, key=lambda name: costs[name], default=None)


def _told(said: str) -> datetime | None:
    """When a limit is over, by the text alone."""
    found = _RESETS.search(said)
    return until.moment(int(found[1])) if found else until.told(said, datetime.now(UTC))
