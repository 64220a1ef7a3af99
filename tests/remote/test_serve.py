"""`loom serve --http` as a process."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.request
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, bare, cli
from tests.remote.conftest import Served

__all__ = ["bare", "cli"]

_TOOLS = {
    "loom_cancel": {},
    "loom_claim": {},
    "loom_create": {"title": "x"},
    "loom_decompose": {"goal": "x"},
    "loom_done": {"task_id": "loom-00000000"},
    "loom_escalate": {"task_id": "loom-00000000", "message": "x"},
    "loom_fail": {"task_id": "loom-00000000", "reason": "x"},
    "loom_heartbeat": {},
    "loom_message": {"to": "x", "message": "x"},
    "loom_release": {"task_id": "loom-00000000"},
    "loom_resolve": {"id": "loom-00000000", "action": "retry"},
    "loom_skill": {},
    "loom_update": {"task_id": "loom-00000000", "title": "x"},
    "loom_workflow": {"action": "list"},
}


def test_a_process_serves_and_ends_when_it_is_told_to(cli: Cli) -> None:
    token = cli.ok("token", "add", "ann", "--role", "worker")["token"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with cli.start("serve", "--http", "--port", str(port)) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == f"Serving at http://127.0.0.1:{port}; Ctrl-C ends it.\n"
            asked = urllib.request.Request(f"http://127.0.0.1:{port}/api", headers={"authorization": f"Bearer {token}"})
            with urllib.request.urlopen(asked, timeout=30) as answer:
                greeting = json.loads(answer.read())
            assert (greeting["project"], greeting["principal"], greeting["role"]) == ("shop", "ann", "worker")
        finally:
            server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=30)
    assert token not in out + err
    assert "Traceback" not in err
    open_to_all = cli("serve", "--http", "--host", "0.0.0.0")
    assert (open_to_all.code, "in the clear" in open_to_all.err) == (1, True)


def test_a_listener_that_others_reach_needs_a_token(cli: Cli) -> None:
    refused = cli("serve", "--http", "--host", "0.0.0.0", "--behind-proxy")
    assert (refused.code, "Nobody has an access token yet" in refused.err) == (1, True)
    assert "loom token add NAME --role ROLE" in refused.err
    assert "Give --cert and --key together" in cli("serve", "--http", "--cert", __file__).err


def test_what_cannot_be_served_is_told_before_anything_is_said_to_serve(cli: Cli, tmp_path: Path) -> None:
    torn = tmp_path / "torn.pem"
    torn.write_text("no certificate")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        there = ("serve", "--http", "--port", str(taken.getsockname()[1]))
        for more, code, words in (
            (("--cert", str(torn), "--key", str(torn)), 1, "torn.pem with the key"),
            (("--cert", str(torn)), 2, "--cert and --key together"),
            ((), 1, "cannot be listened on: Address already in use."),
            (("--host", "no host"), 2, "'no host' is not a host name or address"),
            (("--public-url", "example.org"), 2, "is not a URL that begins with https:// or http://"),
            (("--public-url", "https://example.org:99999"), 2, "whose port is a whole number"),
            (("--public-url", "https:///x"), 2, "is not a URL"),
        ):
            told = cli(*there, *more)
            assert (told.code, words in told.err, told.out) == (code, True, ""), (more, told)
    told = cli("serve", "--port", "1")
    assert (told.code, "Give --http too" in told.err) == (2, True)


@pytest.mark.parametrize("role", ["reader", "worker"])
async def test_a_tool_that_a_role_may_not_use_changes_nothing(served: Served, role: str) -> None:
    made = await served.loom.create("a task")
    async with served.mcp(await served.token("ann", role)) as client:
        seen = {one.name for one in await client.list_tools()}
        for name, arguments in _TOOLS.items():
            if name not in seen:
                answer = await client.call_tool(name, arguments, raise_on_error=False)
                assert answer.is_error
                assert re.search("Unknown tool", str(answer.content)), name
        if role == "worker":
            for name in ("loom_create", "loom_update"):
                answer = await client.call_tool(name, _TOOLS[name] | {"title": "y"}, raise_on_error=False)
                assert "forbidden" in str(answer.content), name
    assert [str(one.type) for one in await served.loom.history(made.id)] == ["task.created"]
