"""The rows of the runners: the command lines, and what is read in the events of agents' programs."""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest

from loom.cli import cli
from loom.orchestration.workers.runners import COMMITTING, REPORTING, RUNNERS, EndKind, Errand, Usage, until
from loom.orchestration.workers.runners.command import Command
from loom.process import Ended

SOON = int((datetime.now(UTC) + timedelta(hours=2)).timestamp())


def errand(**more: Any) -> Errand:
    given: dict[str, Any] = {
        "task_id": "loom-0123abcd",
        "token": 7,
        "agent": "worker-1",
        "session": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "place": Path("/somewhere/tree"),
        "git_dir": Path("/somewhere/shop/.git/worktrees/loom-0123abcd"),
        "project_dir": Path("/somewhere/shop"),
        "scratch": Path("/tmp"),
        "words": ("/bin/agent", "--model", "m"),
        "loom": ("/bin/loom",),
        "allow": ("loom status", "git add"),
        "checks": ("pytest -q 'a b'",),
    }
    return Errand(**(given | more))


def read(name: str, *events: object, status: int = 0, err: str = "") -> Any:
    """What a row's reader says of a run with these events, and the reader."""
    reader = RUNNERS[name].reader()
    for event in events:
        reader.line(event if isinstance(event, bytes) else json.dumps(event).encode())
    return reader.end(Ended(status, b"", err.encode())), reader


# --- what is run ----------------------------------------------------------------------------------------------------


def test_what_is_allowed_of_loom_is_there() -> None:
    assert set(REPORTING) <= set(cli.list_commands(click.Context(cli)))
    assert not {"config", "demo", "down", "init", "up", "work"} & set(REPORTING)
    assert COMMITTING == ("git add", "git commit")


@pytest.mark.parametrize("name", list(RUNNERS))
def test_no_permission_is_skipped_unless_it_was_typed(name: str) -> None:
    for launch in (RUNNERS[name].start(errand()), RUNNERS[name].resume(errand(), "session-1")):
        line = " ".join(launch.words)
        assert "dangerously" not in line
        assert "bypass" not in line
        assert "danger-full-access" not in line
        assert "yolo" not in line
    typed = errand(words=("/bin/agent", "--dangerously-skip-permissions"))
    assert "--dangerously-skip-permissions" in RUNNERS[name].start(typed).words


def test_claude_is_told_what_it_may_do_and_where_loom_is() -> None:
    first = RUNNERS["claude"].start(errand()).words
    options = dict(pairwise(first))
    assert first[:2] == ["/bin/agent", "-p"]
    assert options["--allowedTools"] == "mcp__loom,Bash(loom status:*),Bash(git add:*),Bash(pytest -q 'a b')"
    server = json.loads(options["--mcp-config"])["mcpServers"]["loom"]
    assert (server["command"], server["args"], server["alwaysLoad"]) == ("/bin/loom", ["mcp"], True)
    assert server["env"] == {
        "LOOM_TASK_ID": "loom-0123abcd",
        "LOOM_CLAIM_TOKEN": "7",
        "LOOM_AGENT_ID": "worker-1",
        "LOOM_PROJECT_DIR": "/somewhere/shop",
    }
    assert options["--setting-sources"] == "user"
    assert first[-4:] == ["--session-id", errand().session, "--model", "m"]
    assert RUNNERS["claude"].resume(errand(), "s-1").words[-4:] == ["--resume", "s-1", "--model", "m"]


def test_patience_that_the_user_has_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("API_TIMEOUT_MS", raising=False)
    monkeypatch.setenv("CLAUDE_CODE_MAX_RETRIES", "9")
    assert RUNNERS["claude"].start(errand()).env == {"API_TIMEOUT_MS": "600000"}


def settings_of(words: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in (words[at + 1] for at, word in enumerate(words) if word == "-c"):
        for key, value in tomllib.loads(line).items():
            merge(found, key, value)
    return found


def merge(into: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(value, dict) and isinstance(into.get(key), dict):
        for name, one in value.items():
            merge(into[key], name, one)
    else:
        into[key] = value


def test_codex_may_write_its_worktree_and_what_a_commit_there_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_DATABASE_URL", "postgresql://u:secret@h/d")
    launch = RUNNERS["codex"].start(errand(place=Path('/somewhere/a "b" é')))
    found = settings_of(launch.words)
    assert found["approval_policy"] == "never"
    profile = found["permissions"][found["default_permissions"]]
    assert profile["filesystem"] == {
        ":root": "read",
        ":workspace_roots": {".": "write"},
        "/somewhere/shop/.git/worktrees/loom-0123abcd": "write",
        "/somewhere/shop/.git/objects": "write",
        "/somewhere/shop/.git/refs/heads/loom": "write",
        "/somewhere/shop/.git/logs/refs/heads/loom": "write",
    }
    assert profile["network"] == {
        "enabled": True,
        "mode": "limited",
        "allow_local_binding": True,
        "domains": {},
    }
    server = found["mcp_servers"]["loom"]
    assert server["required"] is True
    assert server["tool_timeout_sec"] > 60, "a report may take 50 s"
    assert server["env"]["LOOM_CLAIM_TOKEN"] == "7"
    assert {"LOOM_DATABASE_URL", "LOOM_RUN"} <= set(server["env_vars"]), "and it knows that it is inside of a run"
    assert "secret" not in " ".join(launch.words), "everybody can read a command line"
    assert launch.words[-3:] == ["--model", "m", "-"]
    again = RUNNERS["codex"].resume(errand(), "thread-1").words
    assert again[1:4] == ["exec", "resume", "thread-1"]
    assert not {"-C", "--color"} & set(again)
    assert RUNNERS["codex"].start(errand(git_dir=None)).directories == ()


# --- how Claude Code ends -------------------------------------------------------------------------------------------


def result(**more: Any) -> dict[str, Any]:
    return {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "stop_reason": "end_turn",
        "terminal_reason": "completed",
        "session_id": "s-1",
        "result": "I will not.",
        "total_cost_usd": 0.03,
        "usage": {
            "input_tokens": 6000,
            "cache_creation_input_tokens": 20,
            "cache_read_input_tokens": 100,
            "output_tokens": 300,
        },
        "modelUsage": {"small": {"costUSD": 0.001}, "large": {"costUSD": 0.029}},
        **more,
    }


def failed(error: str, text: str, **more: Any) -> list[dict[str, Any]]:
    return [
        {"type": "assistant", "message": {"content": [{"type": "text", "text": text}]}, "error": error},
        result(**{"is_error": True, "terminal_reason": "api_error", "result": text} | more),
    ]


def rejected(at: int) -> dict[str, Any]:
    return {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": at}}


ALLOWED = {"type": "rate_limit_event", "rate_limit_info": {"status": "allowed_warning", "resetsAt": SOON}}
RETRY = {"type": "system", "subtype": "api_retry", "error_status": 529, "error": "overloaded"}


@pytest.mark.parametrize(
    ("kind", "events"),
    [
        (EndKind.SILENT, [ALLOWED, result()]),
        (EndKind.REFUSED, failed("invalid_request", "can't help with this", stop_reason="refusal")),
        (EndKind.LIMIT, failed("rate_limit", "Request rejected (429)")),
        (EndKind.LIMIT, [{**RETRY, "error": "rate_limit", "error_status": 429}]),
        (EndKind.AWAY, failed("server_error", "500 Internal server error")),
        (EndKind.AWAY, [RETRY]),
        (EndKind.LOGIN, failed("authentication_failed", "Invalid API key")),
        (EndKind.LOGIN, failed("billing_error", "Credit balance is too low")),
        (EndKind.LOGIN, failed("model_not_found", "the selected model")),
        (EndKind.BROKEN, failed("invalid_request", "Prompt is too long", terminal_reason="prompt_too_long")),
        (EndKind.BROKEN, failed("max_output_tokens", "too much")),
        (EndKind.BROKEN, [result(subtype="error_max_budget_usd", is_error=True, errors=["spent"], result=None)]),
        (EndKind.BROKEN, [result(subtype="error_during_execution", terminal_reason="aborted_tools")]),
        (EndKind.BROKEN, [ALLOWED]),
    ],
)
def test_ends_of_claude_are_told_apart(kind: EndKind, events: list[object]) -> None:
    end, _ = read("claude", *events, status=0 if kind is EndKind.SILENT else 1)
    assert end.kind is kind
    assert end.said
    assert bool(end.advice) is (kind is EndKind.LOGIN)


def test_a_program_that_never_began_is_no_failure_of_a_task() -> None:
    for name in RUNNERS:
        end, _ = read(name, b"not JSON", status=2, err="error: unexpected argument '--nonsense'")
        assert (end.kind, "--nonsense" in end.said) == (EndKind.LOGIN, True)
        assert read(name, status=-9)[0].kind is EndKind.BROKEN


def test_when_a_limit_of_claude_is_over() -> None:
    end, _ = read("claude", rejected(SOON), *failed("rate_limit", "You've hit your limit · resets 7:45pm (UTC)"))
    assert end.until == datetime.fromtimestamp(SOON, UTC)
    end, _ = read("claude", *failed("rate_limit", f"Claude AI usage limit reached|{SOON}"))
    assert end.until == datetime.fromtimestamp(SOON, UTC)
    end, _ = read("claude", rejected(SOON), result())
    assert end.kind is EndKind.SILENT


def test_what_claude_used_and_hands_in() -> None:
    end, reader = read("claude", result(structured_output={"a": 1}))
    assert end.output == {"a": 1}
    assert reader.session == "s-1"
    assert reader.usage == Usage(6120, 100, 300, 0.03, "large")


def test_who_waits_for_a_tool_of_his_own_is_busy() -> None:
    call = {"type": "assistant", "message": {"content": [{"type": "tool_use", "id": "t1"}, {"type": "text"}]}}
    answer = {"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "t1"}]}}
    assert read("claude", call)[1].busy
    assert not read("claude", call, answer)[1].busy
    assert not read("claude", {"type": "user", "message": {"content": "text"}})[1].busy
    begun = {"type": "item.started", "item": {"id": "i1", "type": "command_execution"}}
    assert read("codex", begun)[1].busy
    assert not read("codex", begun, {**begun, "type": "item.completed"})[1].busy


@pytest.mark.parametrize("name", list(RUNNERS))
def test_events_of_any_shape_are_lived_with(name: str) -> None:
    shapes: list[object] = [b"", b"[1]", b"{", b"\xff", b"[" * 100_000, {"type": None}, {"item": 5}, {}]
    for kind in ("assistant", "user", "system", "rate_limit_event", "result", "item.completed", "turn.failed", "error",
                 "turn.completed", "thread.started"):  # fmt: skip
        values: tuple[Any, ...] = (None, 5, "x", [], [5], {})
        for value in values:
            shapes.append({
                "type": kind, "message": value, "item": value, "error": value, "usage": value, "result": value,
                "rate_limit_info": value, "modelUsage": value, "total_cost_usd": value, "errors": value,
            })  # fmt: skip
        shapes.append({"type": kind, "message": {"content": value}, "usage": {"input_tokens": "many"}})
    for shape in shapes:
        read(name, shape)
    read(name, *shapes, status=1)


# --- how Codex ends -------------------------------------------------------------------------------------------------

SAID = {"type": "item.completed", "item": {"id": "i2", "type": "agent_message", "text": "I will not."}}
ACTED = {"type": "item.completed", "item": {"id": "i1", "type": "command_execution"}}
NOTICE = {"type": "item.completed", "item": {"id": "i0", "type": "error", "message": "Model metadata not found."}}
BEGUN = {"type": "thread.started", "thread_id": "t-1"}
COMPLETED = {
    "type": "turn.completed",
    "usage": {"input_tokens": 1000, "cached_input_tokens": 10, "output_tokens": 50},
}


def turn_failed(message: str) -> list[dict[str, Any]]:
    return [BEGUN, {"type": "error", "message": message}, {"type": "turn.failed", "error": {"message": message}}]


@pytest.mark.parametrize(
    ("kind", "events"),
    [
        (EndKind.SILENT, [BEGUN, NOTICE, SAID, COMPLETED]),
        (EndKind.SILENT, [BEGUN, ACTED, COMPLETED]),
        (EndKind.REFUSED, [BEGUN, NOTICE, COMPLETED]),
        (EndKind.LIMIT, turn_failed("You’ve hit your usage limit. Visit … or try again at 7:47 PM.")),
        (EndKind.LIMIT, turn_failed("Quota exceeded. Check your plan and billing details.")),
        (EndKind.LIMIT, turn_failed("exceeded retry limit, last status: 429 Too Many Requests")),
        (EndKind.LIMIT, [BEGUN, {"type": "error", "message": "Reconnecting... 1/5 (last status: 429)"}]),
        (EndKind.AWAY, turn_failed("We’re currently experiencing high demand, which may cause temporary errors.")),
        (EndKind.AWAY, turn_failed("unexpected status 529 <unknown status code>: Overloaded")),
        (EndKind.AWAY, turn_failed("stream disconnected before completion: error sending request")),
        (EndKind.AWAY, [BEGUN, {"type": "error", "message": "Reconnecting... waiting for network"}]),
        (EndKind.LOGIN, turn_failed("unexpected status 401 Unauthorized: invalid key")),
        (EndKind.LOGIN, turn_failed("unexpected status 404 Not Found: model: nope")),
        (EndKind.LOGIN, turn_failed('{"error": {"message": "Your credit balance is too low to access"}}')),
        (EndKind.BROKEN, turn_failed("Codex ran out of room in the model's context window.")),
        (EndKind.BROKEN, [BEGUN]),
    ],
)
def test_ends_of_codex_are_told_apart(kind: EndKind, events: list[object]) -> None:
    end, reader = read("codex", *events, status=0 if kind in (EndKind.SILENT, EndKind.REFUSED) else 1)
    assert end.kind is kind
    assert end.said
    assert reader.session == "t-1"
    assert bool(end.advice) is (kind is EndKind.LOGIN)


def test_codex_that_goes_on_after_a_wait_has_not_stalled() -> None:
    waits = {"type": "error", "message": "Reconnecting... 1/5 (last status: 429)"}
    assert read("codex", BEGUN, waits)[1].stalled
    end, reader = read("codex", BEGUN, waits, SAID, COMPLETED)
    assert (end.kind, end.said, reader.stalled) == (EndKind.SILENT, "I will not.", "")
    assert reader.usage == Usage(1000, 10, 50)


# --- one's own command ----------------------------------------------------------------------------------------------


def test_the_status_of_ones_own_command_counts() -> None:
    reader = Command().reader()
    assert reader.end(Ended(0, b"all\ndone\n", b"")).kind is EndKind.DONE
    end = reader.end(Ended(7, b"", b"no luck\n"))
    assert (end.kind, end.said) == (EndKind.BROKEN, "The command ended with exit status 7: no luck")


# --- times, and what was used ---------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 25, 18, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("You've hit your limit · resets 7:45pm (UTC)", datetime(2026, 11, 25, 19, 45, tzinfo=UTC)),
        ("Your limit will reset. It resets 1pm (Europe/Berlin)", datetime(2026, 11, 26, 12, 0, tzinfo=UTC)),
        ("resets 4:50am (UTC)", datetime(2026, 11, 26, 4, 50, tzinfo=UTC)),
        ("resets 12am (UTC)", datetime(2026, 11, 26, 0, 0, tzinfo=UTC)),
        ("or try again at Nov 28th, 2026 2:13 PM.", datetime(2026, 11, 28, 14, 13).astimezone(UTC)),
        ("try again at Nov 28th, 2036 2:13 PM.", None),
        ("try again at Feb 31st, 2026 2:13 PM.", None),
        ("try again at 25:99 PM.", None),
        ("resets 3pm (No/Where)", datetime(2026, 11, 25, 15, 0).astimezone() + timedelta(days=1)),
        ("try again later", None),
    ],
)
def test_times_in_texts(text: str, when: datetime | None) -> None:
    found = until.told(text, NOW)
    if when is None or "No/Where" not in text:
        assert found == when
    else:
        assert found is not None
        assert found > NOW


def test_a_time_without_a_zone_is_that_of_this_machine() -> None:
    here = datetime.now().astimezone() + timedelta(hours=1)
    found = until.told(f"try again at {here:%I:%M %p}.", datetime.now(UTC))
    assert found is not None
    assert found.astimezone(UTC) == here.replace(second=0, microsecond=0).astimezone(UTC)


def test_a_moment_out_of_reach_is_none() -> None:
    assert until.moment(SOON) == datetime.fromtimestamp(SOON, UTC)
    assert until.moment(10**17) is None
    assert until.moment(0) is None


def test_what_is_told_of_the_whole_session_is_not_summed() -> None:
    first, second = Usage(100, 10, 5, 0.8, "m"), Usage(50, None, 5, 0.9, None)
    assert Usage().plus(first, frozenset()) == first
    assert first.plus(second, RUNNERS["claude"].totals) == Usage(150, 10, 10, 0.9, "m")
    assert first.plus(second, RUNNERS["codex"].totals).input_tokens == 50
    assert Usage(output_tokens=3).facts() == {"output_tokens": 3}
