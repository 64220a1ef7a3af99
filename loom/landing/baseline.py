"""The baseline: whether the branch that work begins from is green, before anything is spent on it.

In a repository whose checks are red as it stands, or that has none, nothing that is landed would be known to be right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.exceptions import CheckFailedError, ConfigError
from loom.graph.store.proofs import Proof
from loom.landing import checks
from loom.landing.lander import lands_on
from loom.landing.proving import Prover
from loom.landing.remote import RemoteTarget
from loom.landing.target import Target, commit_of
from loom.replies import proof
from loom.wording import Shell, Words

if TYPE_CHECKING:
    from loom.git import Repository
    from loom.graph.front import Loom


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was proven: a commit, what it is called, and its proofs."""

    commit: str
    name: str
    proofs: list[Proof]


async def baseline(loom: Loom, repository: Repository, prover: Prover, name: str | None = None) -> Baseline:
    """Proves what work begins from with all checks that every task needs. Takes the target's `name` and raises as
    `begins_from`; beside that:

    Raises:
        ConfigError: there is no such check; ProofMissingError: one is not in force.
        CheckFailedError: one is red.
        CommandError: what makes a place to work in refuses.
    """
    wanted = checks.named(loom.config, checks.every(loom.config))
    if not wanted:
        raise ConfigError(
            "No check is needed by every task, so that nothing says whether work is as it should be.",
            Words("Describe one in `checks`, and name it in `landing.checks`; {} proposes some.", Shell("loom init")),
        )
    commit, name = await begins_from(loom, repository, name)
    found = await prover.prove(commit, wanted, agent=loom.caller(), target=True)
    if red := [one for one in found if not one.green]:
        names = ", ".join(one.check_name for one in red)
        raise CheckFailedError(
            f"{name} is red as it stands ({names}): work that begins from it cannot be proven.",
            "Mend that first; what a fresh worktree lacks is made by `work.setup`, and brought by `work.copy`.",
            [proof(one) for one in red],
        )
    return Baseline(commit, name, found)


async def begins_from(loom: Loom, repository: Repository, name: str | None = None) -> tuple[str, str]:
    """The commit that work begins from and what it is called: the target, or HEAD while there is none of Loom's own.

    Args:
        name: the target, where the project has none recorded; None: as configured.

    Raises:
        TargetError: there is no such branch, or what Loom makes is in its way.
        CommandError: there is no commit; the remote does not answer; git refuses.
    """
    name, remote = await lands_on(loom, name), loom.config.landing.remote
    target = await (RemoteTarget.of(repository, remote, name) if remote else Target.of(repository, name))
    if (commit := await target.stands()) is not None:
        return commit, name
    return await commit_of(repository, "HEAD"), "HEAD"
