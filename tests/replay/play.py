"""One replay: the tasks of a history, worked on by agents that are killed, and held against the history at the end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loom import services
from loom.config import load_config, trust
from loom.graph.front import Loom
from loom.graph.model.task import Task, TaskStatus
from tests.fleet.repository import git
from tests.replay import agent, history
from tests.terminals import Terminals, disturb

TARGET = "loom/landed"
_CONFIG = """\
project_name: replay
project_id: {id}
orchestration:
  {{claim_ttl_seconds: 20, sweep_seconds: 0.5, max_retries: 30, backoff_base_seconds: 1, backoff_cap_seconds: 3}}
checks:
  all: {{command: {check}, timeout: 600}}
landing: {{checks: [all]}}
"""


@dataclass(frozen=True)
class Settings:
    """What is played, and how roughly."""

    repository: Path
    last: int
    check: Sequence[str]
    seed: int
    agents: int
    kill_every: float
    limit: float
    place: Path


async def play(settings: Settings) -> list[str]:
    """Plays once below `settings.place`, and returns what is wrong at the end."""
    root, given, data = (settings.place / name for name in ("repository", "orders", "data"))
    for directory in (given, data):
        directory.mkdir(mode=0o755)
    git(settings.place, "clone", "-q", "--no-local", str(settings.repository), str(root))
    looking = settings.place / "looking"
    git(root, "worktree", "add", "-q", "--detach", str(looking), "HEAD")
    made = history.steps(root, settings.last, lambda commit: _is_good(looking, commit, settings.check))
    print(f"{len(made)} tasks, {sum(len(step.waits_for) for step in made)} edges")
    git(root, "checkout", "-q", "-B", "begin", made[0].old)
    os.environ |= {"LOOM_DATA_DIR": str(data), "XDG_STATE_HOME": str(settings.place / "state")}
    (root / ".loom").mkdir()
    (root / ".loom" / "config.yaml").write_text(_CONFIG.format(id=uuid.uuid4(), check=json.dumps(list(settings.check))))
    trust(root)
    config = load_config(root)
    for number, step in enumerate(made):
        order = asdict(step) | {"waits_for": [], "files": []}
        (given / f"r{number}.json").write_text(json.dumps(order))
    plan = [
        {
            "key": f"r{number}",
            "title": f"r{number} {step.title}"[:400],
            "depends_on": [f"r{one}" for one in sorted(step.waits_for)],
        }
        for number, step in enumerate(made)
    ]
    await asyncio.to_thread(services.up, config)
    terminals = Terminals(
        root, settings.place, count=1, agents=settings.agents, script=Path(agent.__file__),
        more={"REPLAY_PLACE": str(given)},
    )  # fmt: skip
    try:
        async with Loom(config, agent="replay") as loom:
            planted = await loom.apply_plan({"tasks": plan})
            took = await disturb(
                loom, terminals, random.Random(settings.seed), tasks=len(made), kill_every=settings.kill_every,
                limit=settings.limit, servers=[], data=data,
            )  # fmt: skip
            tasks = [(await loom.get(task.id)).task for task in planted]
    finally:
        await terminals.end()
        await asyncio.to_thread(services.down, config)
    print(f"{sum(task.status is TaskStatus.DONE for task in tasks)} of {len(tasks)} have landed in {took:.0f} s;"
          f" {terminals.killed} terminals were killed")  # fmt: skip
    return list(_judge(root, looking, settings.check, made, tasks))


def _is_good(place: Path, commit: str, check: Sequence[str]) -> bool:
    """Whether the check passes on a commit, from a clean checkout."""
    git(place, "checkout", "-q", "--force", "--detach", commit)
    git(place, "clean", "-q", "-ffdx")
    env: Mapping[str, str] = {"PATH": os.environ["PATH"], "HOME": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(check, cwd=place, env=env, capture_output=True, check=False, timeout=600).returncode == 0


def _judge(
    root: Path, place: Path, check: Sequence[str], made: Sequence[history.Step], tasks: Sequence[Task]
) -> Iterator[str]:
    for task in tasks:
        if task.status is not TaskStatus.DONE:
            yield f"{task.id} ({task.title}) is {task.status}: {task.dead_reason or ''}"
    words = ["log", "--first-parent", "--format=%(trailers:key=Loom-Task,valueonly)", f"begin..{TARGET}"]
    named = Counter(line for line in git(root, *words).splitlines() if line)
    for task in tasks:
        if task.status is TaskStatus.DONE and named[task.id] != 1:
            yield f"{task.id} is named by {named[task.id]} commits of the target"
    for commit in git(root, "rev-list", "--first-parent", "--reverse", f"begin..{TARGET}").splitlines():
        if not _is_good(place, commit, check):
            yield f"the target's commit {commit} does not pass the check"
    if differing := git(root, "diff", "--name-only", made[-1].new, TARGET, "--", ".", ":(exclude).loom"):
        yield f"the tree is not the history's: {differing.split()[:10]}"
