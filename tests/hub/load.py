"""Many sessions of one hub drain a project together, while the hub is killed, if wanted:

uv run python -m tests.hub.load --sessions 200 --tasks 2000
uv run python -m tests.hub.load --sessions 20 --tasks 1000 --kills 10

Prints what it came to as JSON. The servers are those of LOOM_DATA_DIR, or of a place that goes with it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loom import bridge, services
from loom.bus.events import EventType
from loom.config import LoomConfig, load_config
from loom.graph.front import Loom
from loom.hub import running
from loom.services.instance import instance_dir
from loom.services.launcher import is_locked
from tests.hub.conftest import Connection, knock

_SETTINGS = """\
project_name: load
project_id: {project_id}
orchestration:
  sweep_seconds: 0.5
  claim_ttl_seconds: {lease}
  idle_limit_seconds: {lease}
  backoff_base_seconds: 0
  max_retries: 100
"""


@dataclass
class Drained:
    """What it came to."""

    seconds: float = 0.0
    done: Counter[str] = field(default_factory=Counter)  # by task id: how often a session was told that it is done
    connections: int = 0  # to the database, at most
    per_session: float = 0.0  # bytes that the hub grew by
    kills: int = 0


async def drain(config: LoomConfig, environ: dict[str, str], *, sessions: int, kills: int = 0) -> Drained:
    """Has sessions claim and finish all that is ready, and kills the hub so often meanwhile. Each has a session of its
    client's of its own, under which it comes again."""
    root, result = instance_dir(config), Drained()
    assert running.start(config)
    before = _memory(root)
    lines = [await _session(root, environ, number) for number in range(sessions)]
    result.per_session = (_memory(root) - before) / sessions
    begin = time.monotonic()
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(config, result))
        killing = group.create_task(_kill(config, result, kills))
        async with asyncio.TaskGroup() as working:
            for number, line in enumerate(lines):
                working.create_task(_work(config, environ, number, line, result))
        result.seconds = time.monotonic() - begin
        watching.cancel()
        killing.cancel()
    return result


async def _work(config: LoomConfig, environ: dict[str, str], number: int, line: Connection, result: Drained) -> None:
    """One agent: claims, finishes, and comes again where it was cut off."""
    root, held = instance_dir(config), None
    while True:
        try:
            if held is None:
                claimed = await line.call("loom_claim")
                if claimed.get("status") == "nothing_ready":
                    if claimed["waiting_for"].startswith("all "):  # are finished
                        await line.hang_up()
                        return
                    await asyncio.sleep(0.3)
                    continue
                held = claimed
            done = await line.call("loom_done", task_id=held["id"], token=held["token"])
            if done.get("status") == "done":
                result.done[held["id"]] += 1
            held = None
        except (OSError, ValueError, KeyError, EOFError):  # cut off
            await line.hang_up()
            line = await _again(config, root, environ, number)


async def _again(config: LoomConfig, root: Path, environ: dict[str, str], number: int) -> Connection:
    while True:
        with suppress(OSError, ValueError):
            return await _session(root, environ, number)
        await asyncio.to_thread(running.start, config)


async def _session(root: Path, environ: dict[str, str], number: int) -> Connection:
    line = await knock(root, environ | {"CLAUDE_CODE_SESSION_ID": f"{number:08x}-load"})
    try:
        await line.initialize()
    except (OSError, ValueError):
        await line.hang_up()
        raise
    return line


async def _kill(config: LoomConfig, result: Drained, kills: int) -> None:
    root = instance_dir(config)
    while result.kills < kills:
        await asyncio.sleep(1.5)
        for file in (root / "hubs").glob("[0-9]*"):
            if is_locked(file):
                with suppress(OSError):
                    os.kill(int(file.name), signal.SIGKILL)
                    result.kills += 1


async def _watch(config: LoomConfig, result: Drained) -> None:
    async with Loom(config, agent="watch") as loom:
        while True:
            counted = await loom.look(
                lambda connection: connection.fetchval(
                    "select count(*) from pg_stat_activity where application_name = $1 and pid <> pg_backend_pid()",
                    f"loom/{loom.project_id}",
                )
            )
            result.connections = max(result.connections, counted)
            await asyncio.sleep(0.2)


def _memory(root: Path) -> int:
    """Bytes that the hub has in memory."""
    (pid,) = [file.name for file in (root / "hubs").glob("[0-9]*") if is_locked(file)]
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) * 1024


async def planted(config: LoomConfig, tasks: int) -> None:
    """A project with so many ready tasks."""
    async with Loom(config, agent="planter") as loom:
        await loom.apply_plan({"tasks": [{"title": f"Task {number}"} for number in range(tasks)]})


async def judged(config: LoomConfig, tasks: int, result: Drained) -> None:
    """Raises AssertionError unless each task is done, and was finished once."""
    async with Loom(config, agent="judge") as loom:
        counts = (await loom.status()).counts
        assert counts["done"] == tasks, counts

        async def finished(connection: Any) -> int:
            found = await connection.fetch(
                "select task_id, count(*) as times from events where project_id = $1 and type = $2 group by task_id",
                loom.project_id,
                EventType.TASK_DONE.value,
            )
            assert {record["times"] for record in found} == {1}
            return len(found)

        assert await loom.look(finished) == tasks
    if not result.kills:
        assert result.done.total() == tasks


def _play(sessions: int, tasks: int, kills: int) -> dict[str, Any]:
    from loom.ids import project_id

    with tempfile.TemporaryDirectory(prefix="loom-load-", dir="/tmp") as place:
        Path(place).chmod(0o755)
        os.environ.setdefault("LOOM_DATA_DIR", str(Path(place) / "data"))
        project = Path(place) / "project"
        (project / ".loom").mkdir(parents=True)
        settings = _SETTINGS.format(project_id=project_id(), lease=5 if kills else 600)
        (project / ".loom" / "config.yaml").write_text(settings)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CLAUDE")}
        environ["LOOM_PROJECT_DIR"] = str(project)
        config = load_config(project)
        services.up(config)
        try:
            asyncio.run(planted(config, tasks))
            result = asyncio.run(drain(config, environ, sessions=sessions, kills=kills))
            asyncio.run(judged(config, tasks, result))
        finally:
            running.end(config)
            services.down(config)
    return {
        "sessions": sessions,
        "tasks": tasks,
        "kills": result.kills,
        "seconds": round(result.seconds, 1),
        "database connections": result.connections,
        "kB for a session": round(result.per_session / 1024),
        "version": bridge.VERSION,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--tasks", type=int, default=1_000)
    parser.add_argument("--kills", type=int, default=0)
    print(json.dumps(_play(**vars(parser.parse_args()))))
