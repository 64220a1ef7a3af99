"""Reporting work as done where checks have to prove it, as both faces do; and running checks by themselves.

    reports = Reports(loom)
    match await reports.done(task_id, output, seconds=50):
        case Checking(): ...          # the same call again gives the result
        case Outcome() as outcome: ...

Without checks that a task needs nothing of this costs anything. With some, the work is taken as it lies there
(`snapshot.py`), proven (`proving.py`), and the graph's rules look for the proofs when the task is finished: what an
agent says counts for nothing. A red check is no failure of the task; its claim stays, and is renewed meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom import caller
from loom.background import end, through
from loom.config import LoomConfig
from loom.config.files import common_dir
from loom.exceptions import CheckFailedError, ConfigError, ProofMissingError
from loom.graph.model.task import Task, TaskStatus
from loom.landing.keeping import kept
from loom.replies import Checking, proof

if TYPE_CHECKING:  # a report on what needs no check does not pay for it
    from loom.git import Repository
    from loom.graph.front import Loom
    from loom.graph.rules.claims import Outcome
    from loom.graph.rules.proofs import Proven
    from loom.graph.store.proofs import Proof
    from loom.landing.checks import Check
    from loom.landing.proving import Prover
    from loom.landing.snapshot import Snapshot
    from loom.landing.worktrees import Worktree


class Reports:
    """What one process reports and proves. Give it back with `close`."""

    def __init__(self, loom: Loom, tell: Callable[[str], None] = lambda name: None) -> None:
        """
        Args:
            tell: is called with the name of each check that begins to run.
        """
        self._loom, self._tell = loom, tell
        self._prover: Prover | None = None
        self._asked: dict[str, _Asked] = {}  # by task id

    async def close(self) -> None:
        """Ends the checks that run."""
        try:
            await end([one.running for one in self._asked.values()])
        finally:
            self._asked.clear()
            if self._prover is not None:
                self._prover.close()

    async def done(
        self,
        task_id: str,
        output: Mapping[str, Any] | None = None,
        *,
        agent_id: str | None = None,
        token: int | None = None,
        seconds: float | None = None,
    ) -> Outcome | Checking:
        """Finishes a task as `Loom.done` does, and has the checks that are not proven run before.

        Args:
            seconds: how long they may take; None: until their end. After that they go on, and the same call again
                gives the result.

        Raises:
            CheckFailedError: one is red; ProofMissingError: one is not in force, or the work does not go together with
                what has landed.
            CommandError, FileError: they cannot be run.
            LoomError: as `Loom.done`.
        """
        task_id = await self._loom.id_of(task_id)
        with suppress(ProofMissingError):
            return await self._loom.done(task_id, output, agent_id=agent_id, token=token)
        asked = self._asked.get(task_id)
        if asked is None:
            asked = self._asked[task_id] = await self._ask(task_id, agent_id, token)
        await asyncio.wait([asked.running], timeout=seconds)
        if not asked.running.done():
            return Checking(task_id, tuple(asked.proven.hashes), time.monotonic() - asked.begun)
        self._asked.pop(task_id, None)
        if red := [one for one in asked.running.result() if not one.green]:
            raise failed(task_id, red)
        return await self._loom.done(task_id, output, agent_id=agent_id, token=token, proven=asked.proven)

    async def check(
        self, task_id: str | None = None, names: Sequence[str] = (), *, agent_id: str | None = None
    ) -> list[Proof]:
        """Has checks run on the work as it lies there, where they are not proven. Returns what is known of each.

        Args:
            task_id: whose work it is.
            names: which checks; none: those that the task needs, without one those that every task needs.

        Raises:
            ConfigError: there are none, or nothing that a proof would count for; ProofMissingError, CommandError,
                FileError: as `done`.
        """
        from loom.landing import checks

        config = self._loom.config
        task = None if task_id is None else (await self._loom.get(task_id)).task
        if names:
            wanted = checks.named(config, dict.fromkeys(names))
        else:
            wanted = checks.demanded(config, task) if task else checks.named(config, checks.every(config))
        if not wanted:
            raise ConfigError(
                f"{task.id if task else 'Not every task'} needs a check.",
                "Name one that the configuration has, or put its name into `landing.checks`.",
            )
        agent = self._loom.caller(agent_id)
        return await self._prove(wanted, await self._snapshot(task), task, agent)

    async def proven(self, task: Task, worktree: Worktree | None, agent: str) -> Proven | None:
        """Proves the work on a claimed task for who has had it done: what lies in its worktree, else in the project's
        directory. Returns where the proofs are, None where the task needs none.

        Raises:
            CheckFailedError, ProofMissingError, CommandError, FileError: as `done`.
        """
        from loom.landing import checks
        from loom.landing.snapshot import Snapshot

        wanted = checks.demanded(self._loom.config, task)
        if not wanted:
            return None
        repository = worktree.repository if worktree else await repository_of(self._loom.config)
        snapshot = await Snapshot.of(repository) if repository else None
        found = await self._prove(wanted, snapshot, task, agent)
        if red := [one for one in found if not one.green]:
            raise failed(task.id, red)
        return _where(wanted, snapshot)

    async def baseline(self) -> list[Proof]:
        """Proves what work begins from. Raises as `baseline.baseline`, and ConfigError where there is no repository."""
        from loom.landing.baseline import baseline

        repository = await repository_of(self._loom.config)
        if repository is None:
            raise ConfigError("There is no git repository here, so that nothing can begin from it.", "Make one first.")
        return (await baseline(self._loom, repository, await self._its_prover())).proofs

    # --- how ----------------------------------------------------------------------------------------------------------

    async def _ask(self, task_id: str, agent_id: str | None, token: int | None) -> _Asked:
        """Begins to prove what a task needs."""
        from loom.landing import checks

        agent, task = self._loom.caller(agent_id), (await self._loom.get(task_id)).task
        wanted = checks.demanded(self._loom.config, task)
        snapshot = await self._snapshot(task)
        if snapshot is None and task.status is TaskStatus.PENDING and not task.lapsed:
            claim = await self._loom.claim(task_id, agent_id=agent_id)  # what is proven counts for a claim
            assert claim is not None, "a claim by id is made or refused"
            task = claim.task
        proven = _where(wanted, snapshot)
        proving = self._prove(wanted, snapshot, task, agent)
        running = asyncio.create_task(self._renewing(proving, task, agent_id, token))
        return _Asked(running, proven, time.monotonic())

    async def _prove(
        self, wanted: Sequence[Check], snapshot: Snapshot | None, task: Task | None, agent: str
    ) -> list[Proof]:
        """Proves work, and throws the snapshot of it away."""
        claim = (task.id, task.claim_token) if task and task.claim_token else (None, None)
        try:
            prover = await self._its_prover()
            if snapshot is not None:
                return await prover.prove(
                    snapshot.commit, wanted, agent=agent, task_id=claim[0], token=claim[1], objects=snapshot.objects
                )
            if claim[0] is None or claim[1] is None:
                raise ConfigError(
                    "There is no git repository here, so that a check is proven for a claim alone.",
                    "Name a task that is claimed.",
                )
            directory = self._loom.config.project_dir or Path()
            return await prover.prove_claim(wanted, directory, agent=agent, task_id=claim[0], token=claim[1])
        finally:
            if snapshot is not None:
                await through(asyncio.create_task(asyncio.to_thread(snapshot.drop)))

    async def _renewing(
        self, proving: Coroutine[Any, Any, list[Proof]], task: Task, agent_id: str | None, token: int | None
    ) -> list[Proof]:
        """Renews the claim while its work is proven."""
        if task.status is not TaskStatus.CLAIMED:
            return await proving
        async with kept(self._loom, task, agent_id, token):
            return await proving

    async def _its_prover(self) -> Prover:
        if self._prover is None:
            from loom.landing.proving import Prover

            prover = Prover.of(self._loom, await repository_of(self._loom.config), self._tell)
            self._prover = self._prover or prover  # whoever asked meanwhile may have been faster
        return self._prover

    async def _snapshot(self, task: Task | None) -> Snapshot | None:
        """The work as it lies there: in the worktree where whoever calls is, else in the project's directory. That of
        a task in its worktree of Loom's is taken merged with what it lands on, if there is something to land on."""
        from loom.git import Repository
        from loom.landing import refs
        from loom.landing.lander import lands_on
        from loom.landing.places import state_dir
        from loom.landing.snapshot import Snapshot
        from loom.landing.worktrees import Worktrees

        config, here = self._loom.config, caller.directory()
        repository = await repository_of(config)
        if repository is None:
            return None
        project = (config.project_dir or Path()).resolve()
        tree = Worktrees(repository, state_dir(config), project).find(task.id) if task else None
        if tree is not None and here.is_relative_to(tree.path):
            target = refs.target(await lands_on(self._loom), config.landing.remote)
            return await Snapshot.of(tree.repository, await refs.commit_at(repository, target))
        for directory in (here, *here.parents):
            if common_dir(directory) == repository.common_dir:
                return await Snapshot.of(await Repository.around(directory, repository.trusted))
        return await Snapshot.of(repository)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Proofs that are on their way, for whom they count, and since when (on the monotonic clock)."""

    running: asyncio.Task[list[Proof]]
    proven: Proven
    begun: float


def _where(wanted: Sequence[Check], snapshot: Snapshot | None) -> Proven:
    from loom.graph.rules.proofs import Proven

    tree, commit = (snapshot.tree, snapshot.commit) if snapshot else (None, None)
    return Proven({one.name: one.digest for one in wanted}, tree, commit)


async def repository_of(config: LoomConfig) -> Repository | None:
    """The repository that a project is in, None if it is in none. Raises CommandError with what git says."""
    from loom.git import Repository

    directory = (config.project_dir or Path()).resolve()
    if not any((one / ".git").exists() for one in (directory, *directory.parents)):
        return None
    return await Repository.around(directory, config.landing.trusted_git)


def failed(what: str, red: Sequence[Proof]) -> CheckFailedError:
    """The error for checks that are red; `what` was to be proven."""
    names = ", ".join(one.check_name for one in red)
    return CheckFailedError(
        f"{what} is not proven: {names} {'are' if red[1:] else 'is'} red.",
        "Mend what the output says, then report again; the claim stays.",
        [proof(one) for one in red],
    )
