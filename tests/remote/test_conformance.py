"""The protocol's own conformance suite, over HTTP, in each revision of the protocol that it knows.

Most of its scenarios ask for tools, prompts and resources of a server that is made to be tested; those that any server
is to stand are judged. It sends no token, so that one is put before the guard.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from loom.config import LoomConfig
from loom.graph.front import Loom
from tests.remote.conftest import serving

_SCENARIOS = (
    "server-initialize",
    "server-session-lifecycle",
    "server-stateless",
    "logging-set-level",
    "ping",
    "tools-list",
    "tools-call-error",
    "server-sse-polling",
    "server-sse-multiple-streams",
    "resources-list",
    "sep-2164-resource-not-found",
    "prompts-list",
    "dns-rebinding-protection",
    "caching",
    "http-header-validation",
    "input-required-result-unsupported-methods",
    "input-required-result-ignore-extra-params",
)
_ITS_OWN_TOOL = {"sep-2575-server-rejects-undeclared-capability", "sep-2575-missing-capability-http-400"}
"""Checks that call a tool, `test_missing_capability`, that only a server made to be tested has."""


def _suite() -> list[str]:
    """The command of the suite; the test is skipped where it is not installed."""
    bins = Path(os.environ.get("LOOM_TEST_CONFORMANCE", ""), "node_modules", ".bin")
    node = shutil.which("node", path=f"{bins}{os.pathsep}{os.environ['PATH']}")
    if not os.environ.get("LOOM_TEST_CONFORMANCE") or node is None or not (bins / "conformance").exists():
        pytest.skip(
            "needs Node 22 and LOOM_TEST_CONFORMANCE: a directory where npm has installed"
            " @modelcontextprotocol/conformance@0.2.0-alpha.12, which knows both eras"
        )
    return [node, str(bins / "conformance")]


@pytest.mark.timeout(300)
async def test_the_protocols_own_suite_finds_nothing_wrong(loom: Loom, config: LoomConfig, tmp_path: Path) -> None:
    suite, token = _suite(), (await loom.add_token("conformance", "admin")).secret

    def with_token(app: ASGIApp) -> ASGIApp:
        async def brought(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                scope["headers"] = [*scope["headers"], (b"authorization", f"Bearer {token}".encode())]
            await app(scope, receive, send)

        return brought

    async with serving(config, before=with_token) as port:
        words = [*suite, "server", "--url", f"http://127.0.0.1:{port}/mcp", "--suite", "all", "--output-dir", "out"]
        await asyncio.to_thread(subprocess.run, words, cwd=tmp_path, capture_output=True, timeout=280)
    found = {name: _checks(tmp_path / "out", name) for name in _SCENARIOS}
    assert [name for name, checks in found.items() if not checks] == []
    failed = {
        check["id"]: check.get("errorMessage")
        for checks in found.values()
        for check in checks
        if check["status"] == "FAILURE" and check["id"] not in _ITS_OWN_TOOL
    }
    assert failed == {}


def _checks(out: Path, scenario: str) -> list[dict[str, Any]]:
    """What was looked at in a scenario; its directory is called after it and the time."""
    (place,) = (one for one in out.iterdir() if re.fullmatch(rf"server-{scenario}-[\dTZ-]+", one.name))
    found: list[dict[str, Any]] = json.loads((place / "checks.json").read_text())
    return found
