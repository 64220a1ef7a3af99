"""What came of a fleet, seen from git and /proc: nothing that Loom says of itself is believed but statuses."""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loom.graph.model.task import Task, TaskStatus
from tests.fleet import agent, repository
from tests.fleet.orders import Order

TARGET = "loom/landed"
_HONEST_SHARE = 0.95  # of the good ones, with nobody helping


@dataclass(frozen=True)
class Scene:
    """Where a fleet has worked. `state`: where its worktrees were; `place`: where the agents keep their orders."""

    root: Path
    state: Path
    place: Path


def judge(scene: Scene, orders: Sequence[Order], tasks: Mapping[str, Task]) -> list[str]:
    """What is wrong. `tasks`: as they are at the end, by the keys of the orders."""
    landed = _landed(scene.root)
    return [
        *_fates(orders, tasks, landed),
        *_states(scene.root),
        *_lies(scene.root),
        *_planted(scene.place),
        *_left_over(scene, tasks),
    ]


def share(orders: Sequence[Order], tasks: Mapping[str, Task]) -> float:
    """Which part of the good ones is done."""
    good = [tasks[order.key] for order in orders if order.lands]
    return sum(task.status is TaskStatus.DONE for task in good) / len(good)


def lacking(orders: Sequence[Order], tasks: Mapping[str, Task]) -> list[str]:
    """The good ones that are not done, each with why."""
    good = [(order, tasks[order.key]) for order in orders if order.lands]
    return [
        f"{order.key} ({order.character}): {task.status}, {task.dead_reason or ''}"
        for order, task in good
        if task.status is not TaskStatus.DONE
    ]


def _landed(root: Path) -> Counter[str]:
    """How often the target's own commits say of each task's id that it has landed. What agents wrote into theirs, which
    lie beside the first parents, does not count."""
    words = ["log", "--first-parent", "--format=%(trailers:key=Loom-Task,valueonly)", f"main..{TARGET}"]
    return Counter(line for line in repository.git(root, *words).splitlines() if line)


def _fates(orders: Sequence[Order], tasks: Mapping[str, Task], landed: Counter[str]) -> Iterator[str]:
    lost = {task.id for task in tasks.values() if task.status is not TaskStatus.DONE}

    def waits(task: Task) -> bool:
        """Whether nobody could begin it, for want of another."""
        return task.status is TaskStatus.BLOCKED and not lost.isdisjoint(task.depends_on)

    for order in orders:
        task = tasks[order.key]
        who, times = f"{order.key} ({order.character}, {task.id})", landed[task.id]
        if times > 1:
            yield f"{who} has landed {times} times"
        if (task.status is TaskStatus.DONE) != (times == 1):
            yield f"{who} is {task.status} and has landed {times} times"
        if not order.lands and (times or not (task.dead or waits(task))):
            yield f"{who} should have failed and is {task.status}"
        if not order.lands and task.dead and not task.dead_reason:
            yield f"{who} has failed without a reason"
        if order.lands and task.status not in (TaskStatus.DONE, TaskStatus.FAILED, TaskStatus.BLOCKED):
            yield f"{who} was left {task.status}"
    if strangers := set(landed) - {task.id for task in tasks.values()}:
        yield f"the target names tasks that there are none: {sorted(strangers)[:5]}"
    if (done := share(orders, tasks)) < _HONEST_SHARE:
        yield f"only {done:.0%} of the honest ones have landed"


def _states(root: Path) -> Iterator[str]:
    """Every first-parent commit of the target passes the checks from a clean clone."""
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place) / "clone"
        repository.git(root, "clone", "-q", "--no-local", "-b", TARGET, str(root), str(clone))
        commits = repository.git(
            clone, "rev-list", "--first-parent", "--reverse", f"origin/main..{TARGET}"
        ).splitlines()
        for commit in commits:
            repository.git(clone, "checkout", "-q", "--force", "--detach", commit)
            repository.git(clone, "clean", "-q", "-ffdx")
            if not repository.is_good(clone):
                yield f"the target's commit {commit} does not pass its checks"


def _lies(root: Path) -> Iterator[str]:
    found = subprocess.run(["git", "grep", "-l", "LIE", TARGET, "--", "app"], cwd=root, capture_output=True, text=True)
    if found.returncode == 0:
        yield f"a lie has landed: {found.stdout.split()}"
    for name in repository.git(root, "ls-tree", "-r", "--name-only", TARGET).splitlines():
        if name.startswith(".loom/") and name != ".loom/config.yaml":
            yield f"{name} has landed"


def _planted(place: Path) -> Iterator[str]:
    if (place / agent.PLANTED).exists():
        yield f"planted programs have run: {(place / agent.PLANTED).read_text().split()[:10]}"


def _left_over(scene: Scene, tasks: Mapping[str, Task]) -> Iterator[str]:
    """No process, lock, branch or worktree is left of what has landed."""
    for pid, command in _processes(f"FLEET_PLACE={scene.place}"):
        yield f"process {pid} has outlived the fleet: {command[:100]}"
    common = scene.root / ".git"
    for lock in common.rglob("*.lock"):
        yield f"{lock} is left"
    refs = repository.git(scene.root, "for-each-ref", "--format=%(refname:short)", "refs/heads/loom").splitlines()
    for task in tasks.values():
        if task.status is TaskStatus.DONE:
            if f"loom/{task.id}" in refs:
                yield f"the branch of {task.id} is left"
            for place in scene.state.rglob(task.id):
                yield f"{place} is left"


def _processes(mark: str) -> Iterator[tuple[int, str]]:
    """Those with a mark in their environment, and their command lines."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"\0{mark}\0".encode() in b"\0" + (entry / "environ").read_bytes():
                yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
