"""Repositories to land in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from loom.config import LoomConfig
from loom.graph.front import Loom
from loom.landing.proving import Prover
from loom.landing.worktrees import Worktrees
from tests.landing.place import Place
from tests.landing.yard import Yard, configured


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A repository with a commit on `main`."""
    top = tmp_path / "top"
    top.mkdir()
    made = Place(top)
    made.git("init", "-q", "-b", "main")
    made.commit("one", {"a.txt": "one\n", "b.txt": "b\n"})
    return made


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Loom's places lie."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
async def yard(config: LoomConfig, place: Place, tmp_path: Path, state: Path) -> AsyncIterator[Yard]:
    async with AsyncExitStack() as stack:
        chosen = configured(config, place)
        loom = await stack.enter_async_context(Loom(chosen, agent="tester"))
        worktrees = await Worktrees.of_project(chosen)
        prover = await stack.enter_async_context(Prover.of(loom, worktrees.repository))
        bench = tmp_path / "bench"
        place.git("worktree", "add", "-q", "--detach", str(bench))
        yield Yard(loom, place, Place(bench), worktrees, prover)
