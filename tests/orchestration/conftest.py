"""A project whose workers run real commands, and `loom work` as a process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loom.config import LoomConfig, SkillsConfig
from loom.config.keys import WorkConfig
from loom.graph.front import Loom
from loom.graph.model.task import Task
from loom.orchestration.workers.bench import JobPhase, JobProgress
from loom.orchestration.workers.left import Left
from loom.orchestration.workers.worker import Workers, command_line
from tests.proxy import Door
from tests.skills.conftest import bare, bare_shop, cli, directory, home, model, shop
from tests.waiting import alive, pids, until

__all__ = ["bare", "bare_shop", "cli", "directory", "home", "model", "shop"]

Clock = Callable[[float], Awaitable[None]]
Project = Callable[..., Loom]


@pytest.fixture
async def project_loom(config: LoomConfig, tmp_path: Path) -> AsyncIterator[Project]:
    """Opens the test's project, which has a directory, with settings of its own."""
    opened: list[Loom] = []
    (tmp_path / ".loom").mkdir()

    def opener(
        agent: str = "worker",
        skills: SkillsConfig | None = None,
        work: WorkConfig | None = None,
        **orchestration: float,
    ) -> Loom:
        settings = replace(
            config.orchestration,
            **{"max_retries": 1, "backoff_base_seconds": 0} | orchestration,  # type: ignore[arg-type]
        )
        chosen = replace(config, project_dir=tmp_path, orchestration=settings)
        chosen = replace(chosen, skills=skills or config.skills, work=work or config.work)
        loom = Loom(chosen, agent=agent)
        opened.append(loom)
        return loom

    yield opener
    for loom in opened:
        await loom.close()


class Work:
    """Workers that run a shell script, and what they told."""

    def __init__(self, loom: Loom, script: str, **options: Any) -> None:
        self.told: list[JobProgress] = []
        self.workers = Workers(loom, command_line(["sh", "-c", script]), tell=self.told.append, **options)

    async def finish(self) -> list[Left]:
        """Works until nothing can be done, and returns what is left."""
        async with asyncio.timeout(30):
            left = await self.workers.run()
        assert left is not None
        return left

    @asynccontextmanager
    async def going(self) -> AsyncIterator[asyncio.Task[list[Left] | None]]:
        """Works meanwhile, and is stopped at the end if it has not finished."""
        running = asyncio.create_task(self.workers.run())
        try:
            yield running
        finally:
            self.workers.stop()
            async with asyncio.timeout(30):
                await running

    def said(self, phase: JobPhase) -> list[JobProgress]:
        """Steps of one kind."""
        return [one for one in self.told if one.phase is phase]


@pytest.fixture
async def door(database_url: str) -> AsyncIterator[Door]:
    door = Door(database_url)
    await door.make()
    yield door
    door.unmake()


async def task_now(loom: Loom, task: Task) -> Task:
    return (await loom.get(task.id)).task


@contextmanager
def in_environment(config: LoomConfig) -> Iterator[dict[str, str]]:
    """What a process needs to find the test's project."""
    assert config.database.url
    assert config.redis.url
    assert config.project_id
    added = {
        "LOOM_DATABASE_URL": config.database.url,
        "LOOM_REDIS_URL": config.redis.url,
        "LOOM_PROJECT_ID": config.project_id,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LOOM_")]:
            patch.delenv(name)
        for name, value in added.items():
            patch.setenv(name, value)
        yield dict(os.environ)


class Command:
    """`loom work` as a process of its own."""

    def __init__(self, loom: Loom, directory: Path) -> None:
        settings = directory / ".loom" / "config.yaml"
        settings.write_text(
            "orchestration: {sweep_seconds: 0.2, max_retries: 1, backoff_base_seconds: 0, claim_ttl_seconds: 60}\n"
        )
        self._loom, self._directory = loom, directory

    def start(self, *words: str) -> subprocess.Popen[str]:
        with in_environment(self._loom.config) as env:
            return subprocess.Popen(
                [sys.executable, "-m", "loom", "work", *words],
                cwd=self._directory,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

    async def run(self, *words: str) -> tuple[int, str, str]:
        running = self.start(*words)
        out, err = await asyncio.to_thread(running.communicate, timeout=30)
        return running.returncode, out, err

    async def gives_back(self, task: Task, running: subprocess.Popen[str], sent: signal.Signals, started: Path) -> None:
        """Ends it by a signal, and looks that it has given its task back at once and left no process. `started`: the
        file where they are noted, two of them."""
        await until(lambda: len(pids(started)) == 2)
        running.send_signal(sent)
        out, err = await asyncio.to_thread(running.communicate, timeout=30)
        assert (running.returncode, err) == (128 + sent, "")
        assert "given back" in out
        found = await task_now(self._loom, task)
        assert (found.status, found.attempt) == ("pending", 0)
        assert not any(map(alive, pids(started)))


@pytest.fixture
def command(loom: Loom, tmp_path: Path) -> Command:
    return Command(loom, tmp_path)
