from __future__ import annotations

from pathlib import Path

import pytest

from loom.config import LoomConfig


@pytest.fixture
def place(tmp_path: Path, config: LoomConfig) -> dict[str, str]:
    """A project in a directory of its own, as the variables that lead a server to it."""
    project = tmp_path / "project"
    (project / ".loom").mkdir(parents=True)
    text = f"project_name: test\nproject_id: {config.project_id}\norchestration:\n  sweep_seconds: 0.2\n"
    (project / ".loom" / "config.yaml").write_text(text)
    assert config.database.url
    assert config.redis.url
    return {
        "HOME": str(tmp_path),
        "LOOM_PROJECT_DIR": str(project),
        "LOOM_DATABASE_URL": config.database.url,
        "LOOM_REDIS_URL": config.redis.url,
    }
