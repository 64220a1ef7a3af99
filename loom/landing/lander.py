"""Landing what waits: merged in groups, proven as it will stand, and brought onto the target one commit a group.

    async with Prover.of(loom, repository) as prover:
        lander = await Lander.of(loom, repository, prover)
        report = await lander.once()

What makes it safe is no lease. Before the target is moved an intent is written, in PostgreSQL, that this commit brings
these tasks; the move compares and swaps, and is the moment at which they have landed: landed is a task of which some
intent's commit is on the target. So whoever comes after one that died at any step sees what had been decided. He
finishes the tasks whose commit is there, moves the target himself where an intent still fits it, and begins anew with
the rest. The lease only saves others the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from loom.exceptions import CommandError, LoomError, ProofMissingError, TargetError, TargetHeldError, TaskStateError
from loom.git import Repository
from loom.graph import store
from loom.graph.rules import landings as rules
from loom.graph.store import landing_intents, landing_targets, landing_tips, landings
from loom.graph.store.landing_intents import Intent
from loom.graph.store.landings import Landing
from loom.graph.store.proofs import Proof
from loom.graph.store.transaction import Transaction
from loom.landing import checks as named_checks
from loom.landing import refs
from loom.landing.checks import Check
from loom.landing.leading import leading, own_name
from loom.landing.merging import Brought, Conflict, Link, chain, changed_by, group, is_ancestor, merge
from loom.landing.offering import Offer, offer
from loom.landing.proving import Prover
from loom.landing.remote import RemoteTarget
from loom.landing.target import OWN, Known, Target, exists
from loom.landing.worktrees import Worktrees

if TYPE_CHECKING:
    from loom.db.connection import Connection
    from loom.graph.front import Loom
    from loom.graph.model.task import Task

GROUP = 16
"""Branches that are merged and proven together, at most."""

_ROUNDS = 20  # in which somebody else moves the target each time
_LOST = 900.0  # seconds after which an intent whose commit is not here was left by a machine that is gone
_OFFERED = 3  # times that it is tried to offer what has landed
_PAUSE = 0.05  # seconds, times the rounds lost so far


@dataclass(frozen=True, slots=True)
class Landed:
    """A task whose work the target has."""

    task_id: str
    commit: str
    target: str


@dataclass(frozen=True, slots=True)
class SentBack:
    """A task whose work went back to its worker, and why."""

    task_id: str
    reason: str


@dataclass(slots=True)
class Report:
    """What came of a look at the queue. `busy`: somebody else lands now; `notes`: what a person should know."""

    landed: list[Landed] = field(default_factory=list)
    sent_back: list[SentBack] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    busy: bool = False


class Lander:
    """Lands the work of one project from this process."""

    def __init__(
        self, loom: Loom, worktrees: Worktrees, prover: Prover, target: Target | RemoteTarget, meant: str
    ) -> None:
        self._loom, self._worktrees, self._prover = loom, worktrees, prover
        self._target, self._meant = target, meant
        self._untold: list[str] = []  # what a person should know, and no report has said
        self._repository: Repository = worktrees.repository
        self._holder = own_name()
        self._alone = False  # no other process of this user's on this machine lands
        self._untidy: set[str] = set()  # tasks whose places could not be removed yet
        self._unoffered: dict[str, int] = {}  # tasks whose work could not be offered yet, and how often that was tried

    @classmethod
    async def of(cls, loom: Loom, worktrees: Worktrees, prover: Prover, name: str | None = None) -> Self:
        """The lander of a project.

        Args:
            name: the target, where the project has none recorded; None: as configured.

        Raises:
            TargetError: there is no such branch, or what Loom makes is in its way.
            CommandError: git refuses.
        """
        target = await target_of(loom, worktrees, name)
        return cls(loom, worktrees, prover, target, name or loom.config.landing.target or OWN)

    @property
    def target(self) -> str:
        """The branch that it lands on."""
        return self._target.name

    async def taken_by(self) -> str | None:
        """The command that brings what has landed into the branch that a person is on, None where it is there."""
        if self._target.shared:
            return f"git pull {self._loom.config.landing.remote} {self.target}"
        if await is_ancestor(self._repository, refs.branch(self.target), "HEAD"):
            return None
        behind = await is_ancestor(self._repository, "HEAD", refs.branch(self.target))
        return f"git merge {'--ff-only ' if behind else ''}{self.target}"

    async def tip(self) -> str:
        """Where the target stands, which new work begins from. Raises TargetError, CommandError."""
        return await self._stands(Report(notes=self._untold))

    async def once(self) -> Report:
        """Looks once: what has landed is finished, and what waits lands or goes back, a group at most.

        Raises:
            TargetError: the target does not exist any more, or was moved by somebody else; nothing was landed.
            ProofMissingError: a check that every task needs is not in force.
            CommandError: git refuses.
        """
        report = Report()
        async with self._leading() as leads:
            if not leads:
                report.busy = True
                return report
            await self._forget_the_dead()
            for lost in range(_ROUNDS):
                await self._follow()
                if await self._round(report):
                    break
                await asyncio.sleep(lost * _PAUSE)
            else:
                report.notes.append(f"{self.target} is moved by others all the time.")
        report.notes[:0] = self._untold
        self._untold.clear()
        await self._offer(report)
        await self._tidy(report.landed)
        return report

    # --- a round ------------------------------------------------------------------------------------------------------

    async def _round(self, report: Report) -> bool:
        """Lands or sends back what waits, at most a group. False: somebody else moved the target, or took something out
        of the queue, so that all of it is to be looked at anew."""
        tip = await self._settled(report)
        if tip is None:
            return False
        batch = await self._merged(tip, report)
        if not batch.rows:
            return True
        try:
            green, red = await self._proven(tip, batch)
            if green and not await self._landed(tip, batch, green, report):
                return False
        finally:
            await self._let_go(batch)
        if red is not None:
            what = "is red" if red.exit_status is not None else "proves nothing"
            await self._send_back(
                batch.rows[green], f"{red.check_name} {what} on {self.target} with this work.", red.tail, report
            )
        return True

    async def _merged(self, tip: str, report: Report) -> _Batch:
        """What waits and can be merged, one behind the other. What conflicts with the target goes back; what conflicts
        with something before it in the queue waits for that to land."""
        waiting = await self._loom.look(
            lambda connection: landings.waiting(connection, self._loom.project_id, self.target, GROUP)
        )
        here = [row for row in waiting if await self._is_here(row, report)]
        tasks = await self._loom.look(
            lambda connection: store.get_tasks(connection, self._loom.project_id, [row.task_id for row in here])
        )
        fit = [row for row in here if await self._can_be_proven(tasks[row.task_id], report)]
        links, left = await chain(self._repository, tip, [_commit(row) for row in fit])
        apart = {place for place, _ in left}
        for place, conflict in left:
            row = fit[place]
            if place > min(set(range(len(fit))) - apart, default=place):
                found = await merge(self._repository, tip, _commit(row))
                if not isinstance(found, Conflict):
                    continue
                conflict = found
            by = await changed_by(self._repository, row.base or tip, tip, conflict.files)
            await self._send_back(row, str(Conflict(conflict.files, by)), None, report)
        rows = [row for place, row in enumerate(fit) if place not in apart]
        return _Batch(rows, links, tasks)

    async def _is_here(self, row: Landing, report: Report) -> bool:
        """Whether this repository has what was entered. Elsewhere another clone may have it."""
        if await exists(self._repository, _commit(row)):
            return True
        if self._target.shared:
            report.notes.append(
                f"{row.task_id} waits for the clone of {self._repository.work_tree.name} it was made in."
            )
        else:
            await self._send_back(row, f"Its commit {row.commit_id} is gone from the repository.", None, report)
        return False

    async def _can_be_proven(self, task: Task, report: Report) -> bool:
        """Whether the checks that a task names are in force. Those that all tasks need are, or this raises."""
        try:
            named_checks.demanded(self._loom.config, task)
        except ProofMissingError as error:
            if task.checks:
                report.notes.append(f"{task.id} waits: {error}")
                return False
            raise
        return True

    # --- the proof ----------------------------------------------------------------------------------------------------

    async def _proven(self, tip: str, batch: _Batch) -> tuple[int, Proof | None]:
        """How many of a batch are green together, from its beginning; and why the next one is not, if all are not.

        The first red prefix is found by bisection. Whose work it ends with is blamed for what is red twice."""
        red = await self._red(tip, batch, len(batch.rows))
        if red is None:
            return len(batch.rows), None
        low, high = 0, len(batch.rows)
        while high - low > 1:
            middle = (low + high) // 2
            found = await self._red(tip, batch, middle)
            low, high, red = (middle, high, red) if found is None else (low, middle, found)
        if high > 1:
            red = await self._red(tip, batch, high)
        return (high, None) if red is None else (low, red)

    async def _red(self, tip: str, batch: _Batch, count: int) -> Proof | None:
        """The check that is red on the first so many of a batch, None: all are green."""
        commit = await self._commit_of(tip, batch, count)
        wanted: dict[str, Check] = {}
        for row in batch.rows[:count]:
            for check in named_checks.demanded(self._loom.config, batch.tasks[row.task_id]):
                wanted[check.name] = check
        only = batch.rows[0] if count == 1 else None
        proofs = await self._prover.prove(
            commit,
            list(wanted.values()),
            agent=only.agent if only else self._holder,
            again=only is not None,
            base=tip,
        )
        return next((proof for proof in proofs if not proof.green), None)

    async def _commit_of(self, tip: str, batch: _Batch, count: int) -> str:
        """The commit by which the first so many of a batch land. It is kept from being collected."""
        if count not in batch.commits:
            brought = [Brought(row.task_id, row.agent, batch.tasks[row.task_id].title) for row in batch.rows[:count]]
            commit = await group(self._repository, tip, batch.links[count - 1], brought)
            await refs.change(self._repository, f"update {self._held(commit)} {commit}")
            batch.commits[count] = commit
        return batch.commits[count]

    # --- the move -----------------------------------------------------------------------------------------------------

    async def _landed(self, tip: str, batch: _Batch, count: int, report: Report) -> bool:
        """Brings the first so many of a batch onto the target. False where it stands elsewhere by now, or where one of
        them is not to land any more."""
        commit = await self._commit_of(tip, batch, count)
        ids = [row.id for row in batch.rows[:count]]
        if not await self._intend(ids, commit, tip):
            return False
        del batch.commits[count]  # kept until the intent is closed
        return await self._moved(ids, commit, tip, report)

    async def _let_go(self, batch: _Batch) -> None:
        """Keeps none of the commits any more by which a batch might have landed."""
        if batch.commits:
            with suppress(CommandError):
                await refs.change(self._repository, *(f"delete {self._held(one)}" for one in batch.commits.values()))

    async def _intend(self, ids: Sequence[int], commit: str, tip: str) -> bool:
        """Writes what is about to be done; False where one of these is not to land any more."""
        return bool(
            await self._loom.transact(lambda tx: rules.intend(tx, ids, commit_id=commit, target=self.target, old=tip))
        )

    async def _moved(self, ids: Sequence[int], commit: str, tip: str, report: Report) -> bool:
        """Moves the target to a commit that an intent names, and finishes the tasks that it brings."""
        try:
            moved = await self._target.move(tip, commit, release=[self._held(commit)], alone=self._alone)
        except TargetHeldError as held:
            await self._withdraw(ids, commit)
            await self._turn_to_own(tip, held, report)
            return False
        if not moved:
            if not await self._target.contains(commit):
                await self._withdraw(ids, commit)
            return False
        await self._finish(ids, commit, tip, report)
        return True

    async def _finish(self, ids: Sequence[int], commit: str, old: str, report: Report) -> None:
        """The tasks of a commit that the target has are done."""
        await self._loom.transact(lambda tx: landing_tips.see(tx, self.target, old, commit))
        for landing_id in ids:
            # What left the queue, though an intent was open, is not of this commit.
            with suppress(TaskStateError):
                outcome = await self._loom.transact(
                    lambda tx, landing_id=landing_id: rules.landed(tx, landing_id, commit_id=commit)  # type: ignore[misc]
                )
                report.landed.append(Landed(outcome.task.id, commit, self.target))

    async def _withdraw(self, ids: Sequence[int], commit: str) -> None:
        await self._loom.transact(lambda tx: rules.withdraw(tx, ids, commit))
        with suppress(CommandError):
            await refs.change(self._repository, f"delete {self._held(commit)}")

    async def _send_back(self, row: Landing, reason: str, note: str | None, report: Report) -> None:
        with suppress(TaskStateError):  # somebody has taken it out of the queue
            await self._loom.transact(lambda tx: rules.send_back(tx, row.id, reason, note))
            report.sent_back.append(SentBack(row.task_id, reason))

    # --- what others have left ----------------------------------------------------------------------------------------

    async def _settled(self, report: Report) -> str | None:
        """Where the target stands, once what was decided before is finished. None where it moves meanwhile."""
        tip = await self._stands(report)
        for old, commit, found in await self._intents():
            ids = [one.landing_id for one, _ in found]
            if await self._on(commit, tip):
                await self._finish(ids, commit, old, report)
        await self._see(tip)
        for old, commit, found in await self._intents():
            ids = [one.landing_id for one, is_open in found if is_open]
            if not ids:
                continue
            if old != tip:  # and cannot be again: what is known of the target only follows
                await self._withdraw(ids, commit)
            elif await self._target.has(commit):
                await self._moved(ids, commit, tip, report)
                return None
            else:
                await self._give_up(found, report)
        return tip

    def _held(self, commit: str) -> str:
        """The ref that keeps a commit which is about to land, apart from those of other projects."""
        return refs.held(self._loom.project_id, commit)

    async def _forget_the_dead(self) -> None:
        """Keeps no commit any more that somebody made before he died, and that no intent names."""
        kept = await self._repository.text("for-each-ref", "--format=%(refname)", self._held(""))
        if kept:
            intents = await self._loom.look(
                lambda connection: landing_intents.still_open(connection, self._loom.project_id)
            )
            named = {self._held(one.commit_id) for one in intents}
            await refs.change(self._repository, *(f"delete {ref}" for ref in kept.split() if ref not in named))

    async def _give_up(self, found: Sequence[tuple[Intent, bool]], report: Report) -> None:
        """Forgets, after a while, what another machine was about to land and has not."""
        intent = found[0][0]
        now = await self._loom.transact(store.now)
        if (now - intent.at).total_seconds() > _LOST:
            await self._withdraw([one.landing_id for one, _ in found], intent.commit_id)
        else:
            report.notes.append(f"{intent.task_id} is being landed from another clone.")

    async def _stands(self, report: Report) -> str:
        found = await self._target.tip(self._known)
        if found.note:
            report.notes.append(found.note)
        await self._loom.transact(lambda tx: landing_tips.see(tx, self.target, None, found.commit))
        return found.commit

    async def _see(self, tip: str) -> None:
        """Notes where a target stands that a person has moved on."""
        seen = (await self._known()).tip
        if seen != tip:
            await self._loom.transact(lambda tx: landing_tips.see(tx, self.target, seen, tip))

    async def _known(self) -> Known:
        return await self._known_of(self.target)

    async def _known_of(self, target: str) -> Known:
        project = self._loom.project_id

        async def look(connection: Connection) -> Known:
            intents = await landing_intents.of_queued(connection, project, target)
            seen = await landing_tips.seen(connection, project, target)
            return Known(seen, frozenset(one.commit_id for one, _ in intents))

        return await self._loom.look(look)

    async def _intents(self) -> list[tuple[str, str, list[tuple[Intent, bool]]]]:
        """What was about to land, by commit: the target's tip before, the commit, and the intents, oldest first."""
        found = await self._loom.look(
            lambda connection: landing_intents.of_queued(connection, self._loom.project_id, self.target)
        )
        by_commit: dict[tuple[str, str], list[tuple[Intent, bool]]] = {}
        for one in found:
            by_commit.setdefault((one[0].old, one[0].commit_id), []).append(one)
        return [(old, commit, some) for (old, commit), some in by_commit.items()]

    async def _on(self, commit: str, tip: str) -> bool:
        return await self._target.has(commit) and await is_ancestor(self._repository, commit, tip)

    # --- which target -------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Goes to the target that the project has by now."""
        recorded = await self._loom.look(lambda connection: landing_targets.recorded(connection, self._loom.project_id))
        if recorded is not None and recorded.target != self.target:
            self._target = await target_of(self._loom, self._worktrees, recorded.target)

    async def _turn_to_own(self, tip: str, held: TargetHeldError, report: Report) -> None:
        """Has the project land on Loom's own branch from now on, because a checkout of its target is in the way.

        Raises TargetHeldError: it does already; TargetError: that branch has work which its target has not."""
        if self.target == OWN:
            raise held
        own = await self._target.own_instead(tip)
        stands = (await own.tip(lambda: self._known_of(OWN))).commit
        if not await is_ancestor(self._repository, tip, stands):
            if not await is_ancestor(self._repository, stands, tip):
                raise TargetError(
                    f"{held.cause} {OWN} cannot take its place, because it has work that {self.target} has not.",
                    f"Bring that into {self.target} first: git merge {OWN}",
                ) from held
            await own.move(stands, tip, alone=self._alone)
        for _, commit, found in await self._intents():  # of the dead: nobody would come back to this target for them
            if ids := [one.landing_id for one, is_open in found if is_open]:
                await self._withdraw(ids, commit)

        async def turn(tx: Transaction) -> None:
            await rules.redirect(tx, OWN, f"{held.cause} What lands is on {OWN} from now on.")
            await landing_tips.forget(tx, OWN)

        await self._loom.transact(turn)
        self._target = own
        report.notes.append(f"{held.cause} What lands is on {OWN} from now on, until another target is named.")

    # --- who lands ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _leading(self) -> AsyncIterator[bool]:
        """Whether this process is to land now, which others then leave to it."""
        async with leading(self._loom, lambda: self.target, self._holder) as self._alone:
            try:
                yield self._alone
            finally:
                self._alone = False

    async def _offer(self, report: Report) -> None:
        """Has the user's command offer what has landed beside its target, because that cannot be pushed to; what it
        fails to offer is offered again with the next look."""
        config = self._loom.config.landing
        if not (config.propose and config.remote) or self.target == self._meant:
            return
        for task_id in (*self._unoffered, *(one.task_id for one in report.landed)):
            tried = self._unoffered.pop(task_id, 0) + 1
            task = (await self._loom.get(task_id)).task
            row = await self._row(task)
            if row is not None and row.commit_id is not None:
                offered = Offer(task.id, task.title, row.branch, row.commit_id, self._meant)
                try:
                    await offer(self._repository, config.remote, config.propose, offered)
                except CommandError as error:
                    report.notes.append(f"{task.id} was not offered: {error}")
                    if tried < _OFFERED:
                        self._unoffered[task_id] = tried

    async def _row(self, task: Task) -> Landing | None:
        return await self._loom.look(
            lambda connection: landings.of_claim(connection, self._loom.project_id, task.id, task.claim_token)
        )

    async def _tidy(self, landed: Sequence[Landed]) -> None:
        """Removes the places in which landed work was done; what cannot be removed now is pruned later."""
        self._untidy |= {one.task_id for one in landed}
        if self._untidy:
            with suppress(LoomError):
                told = await self._worktrees.prune(self._untidy)
                self._untidy &= {task_id for task_id, kept in told.items() if kept}


@dataclass(slots=True)
class _Batch:
    """What is merged behind the target: the chain up to each of the rows, and the commits by which they would land, by
    how many of them."""

    rows: list[Landing]
    links: list[Link]
    tasks: dict[str, Task]
    commits: dict[int, str] = field(default_factory=dict)


async def lands_on(loom: Loom, name: str | None = None) -> str:
    """The branch that a project lands on: what is recorded, else `name`, else as configured, else Loom's own."""
    recorded = await loom.look(lambda connection: landing_targets.recorded(connection, loom.project_id))
    return recorded.target if recorded else name or loom.config.landing.target or OWN


async def target_of(loom: Loom, worktrees: Worktrees, name: str | None = None) -> Target | RemoteTarget:
    """What a project lands on, as `lands_on` names it. Raises TargetError, CommandError."""
    wanted = await lands_on(loom, name)
    if remote := loom.config.landing.remote:
        return await RemoteTarget.of(worktrees.repository, remote, wanted)
    return await Target.of(worktrees.repository, wanted, places=worktrees.state, project_id=loom.project_id)


def _commit(row: Landing) -> str:
    assert row.commit_id is not None, "what is queued has a commit"
    return row.commit_id
