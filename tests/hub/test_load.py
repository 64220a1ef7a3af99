"""Many sessions of one hub at once: each task is done once, over few connections, whatever is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from loom.config import LoomConfig, load_config
from loom.hub import running
from tests.hub.load import drain, judged, planted

pytestmark = pytest.mark.timeout(300)


Crowd = tuple[LoomConfig, dict[str, str]]


@pytest.fixture
def crowd(root: Path, home: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    """A project whose leases are short, and the variables of those who work on it."""
    monkeypatch.setenv("LOOM_MCP_HUB", "auto")
    for name in ("LOOM_DATABASE_URL", "LOOM_REDIS_URL"):
        monkeypatch.setenv(name, home[name])
    file = Path(home["LOOM_PROJECT_DIR"]) / ".loom" / "config.yaml"
    leases = "  claim_ttl_seconds: 5\n  idle_limit_seconds: 5\n  backoff_base_seconds: 0\n  max_retries: 100\n"
    file.write_text(file.read_text() + leases)
    config = load_config(Path(home["LOOM_PROJECT_DIR"]))
    yield config, home | {"LOOM_DATA_DIR": os.environ["LOOM_DATA_DIR"], "LOOM_MCP_HUB": "auto"}
    running.end(config)


async def test_sessions_drain_a_project_together(crowd: Crowd) -> None:
    config, environ = crowd
    await planted(config, 100)
    result = await drain(config, environ, sessions=20)
    await judged(config, 100, result)
    assert result.connections <= 20
    assert result.per_session < 5_000_000  # beside the 10 MB of the bridge


async def test_a_hub_that_is_killed_again_and_again_loses_nothing(crowd: Crowd) -> None:
    config, environ = crowd
    await planted(config, 60)
    result = await drain(config, environ, sessions=6, kills=2)
    await judged(config, 60, result)
