"""Bringing the work on one task before its target: committed, merged with what has landed, proven, and queued.

    found = await bring(loom, prover, worktree, task, agent, tip)
    if isinstance(found, Back): tell the agent found.why and found.note
    await enter(loom, task, found, output)

Nobody lands here; from the queue on that is `lander.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loom.exceptions import CommandError
from loom.graph.rules import landings as rules
from loom.landing import checks, commits, merging
from loom.landing.commits import Refusal, Work
from loom.landing.merging import Conflict

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.graph.model.task import Task
    from loom.graph.store.landings import Landing
    from loom.graph.store.proofs import Proof
    from loom.landing.proving import Prover
    from loom.landing.worktrees import Worktree


@dataclass(frozen=True, slots=True)
class Back:
    """Why work goes back to its agent: in a sentence, and what he needs for it. `nothing`: because nothing was changed;
    `conflict`: because it does not go together with what has landed, which lies in his files now; `red`: the proofs of
    the checks that are red."""

    why: str
    note: str = ""
    nothing: bool = False
    conflict: bool = False
    red: tuple[Proof, ...] = ()


@dataclass(frozen=True, slots=True)
class Ready:
    """Proven work. `base`: the target as it is merged with; `nothing`: it brings that nothing."""

    commit: str
    base: str
    outside: tuple[str, ...]
    needs_yes: bool
    nothing: bool
    proofs: tuple[Proof, ...]


async def merge(loom: Loom, worktree: Worktree, task: Task, agent: str, tip: str) -> tuple[str, tuple[str, ...]] | Back:
    """Commits what lies in a worktree, in which nothing runs, and merges the target into it. Returns the commit of both
    and the paths that were changed, or why it goes back.

    Args:
        tip: where the target stands.

    Raises:
        ConfigError: a check is not in force, so that nobody knows what it protects.
        CommandError: the worktree is gone; git refuses.
    """
    if not await asyncio.to_thread(lambda: worktree.is_there):
        raise CommandError(
            f"The worktree {worktree.path} was removed while it was worked in.",
            "Begin the work anew; what was committed is on its branch.",
        )
    repository, protected = worktree.repository, checks.protected(loom.config)
    work = Work(task.id, task.title, agent, task.files)
    made = await commits.commit(repository, worktree.branch, work, target=tip, protected=protected, base=worktree.base)
    if isinstance(made, Refusal):
        first, *more = made.problems
        return Back(f"It cannot be committed: {first}", "\n".join(more), nothing=made.nothing)
    both = await merging.bring_in(repository, made.commit, tip)
    return Back(str(both), conflict=True) if isinstance(both, Conflict) else (both, made.changed)


async def bring(loom: Loom, prover: Prover, worktree: Worktree, task: Task, agent: str, tip: str) -> Ready | Back:
    """As `merge`, and proves what that makes.

    Raises:
        TargetError: the setup fails for the target, too.
        ProofMissingError, ConfigError: a check is not in force.
        CommandError, FileError: git, or what makes a place to prove in, refuses.
    """
    wanted = checks.demanded(loom.config, task)
    merged = await merge(loom, worktree, task, agent, tip)
    if isinstance(merged, Back):
        return merged
    both, changed = merged
    proofs = await prover.prove(both, wanted, agent=agent, task_id=task.id, token=task.claim_token, base=tip)
    if red := tuple(one for one in proofs if not one.green):
        return Back(_red(red), "\n\n".join(f"{one.check_name}:\n{one.tail}" for one in red), red=red)
    approval = _needs_yes(loom.config.landing.approve, changed)
    return Ready(both, tip, commits.outside(changed, task.files), approval, not changed, tuple(proofs))


async def enter(
    loom: Loom, task: Task, ready: Ready, output: Mapping[str, Any] | None, usage: Mapping[str, Any] | None = None
) -> Landing:
    """Puts proven work into the queue, which has the claim from then on; None keeps what was reported. Raises
    LoomError: the claim was lost."""
    return await loom.transact(
        lambda tx: rules.enter(
            tx,
            task.id,
            task.claim_token,
            commit_id=ready.commit,
            base=ready.base,
            output=output,
            usage=usage or None,
            outside=ready.outside,
            needs_yes=ready.needs_yes,
        )
    )


def _needs_yes(approve: Sequence[str], changed: Sequence[str]) -> bool:
    """Whether work that changes these paths waits for a person, by `landing.approve`."""
    return "all" in approve or any(commits.within(path, approve) for path in changed)


def _red(proofs: Sequence[Proof]) -> str:
    names = ", ".join(one.check_name for one in proofs)
    if all(one.exit_status is None for one in proofs):
        return f"Nothing is proven by {names}, for the reason that its output ends with."
    return f"{names} {'are' if proofs[1:] else 'is'} red."
