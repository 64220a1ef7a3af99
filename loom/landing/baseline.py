"""The baseline: whether the branch that work begins from is green, before anything is spent on it.

In a repository whose checks are red as it stands, or that has none, nothing that is landed would be known to be right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.exceptions import CheckFailedError, CommandError, ConfigError
from loom.graph.store.proofs import Proof
from loom.landing import checks, refs
from loom.landing.lander import lands_on
from loom.landing.proving import Prover
from loom.replies.checks import proof

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
    """Proves what work begins from, the target or HEAD while there is none, with all checks that every task needs.

    Args:
        name: the target, where the project has none recorded; None: as configured.

    Raises:
        ConfigError: there is no such check; ProofMissingError: one is not in force.
        CheckFailedError: one is red.
        CommandError: there is no commit; git, or what makes a place to work in, refuses.
    """
    wanted = checks.named(loom.config, checks.every(loom.config))
    if not wanted:
        raise ConfigError(
            "No check is needed by every task, so that nothing says whether work is as it should be.",
            "Describe one in `checks`, and put its name into `landing.checks`.",
        )
    name = await lands_on(loom, name)
    commit = await refs.commit_at(repository, refs.target(name, loom.config.landing.remote))
    if commit is None:
        name, commit = "HEAD", await refs.commit_at(repository, "HEAD")
    if commit is None:
        raise CommandError(f"The git repository {repository.work_tree} has no commit.", "Commit first.")
    found = await prover.prove(commit, wanted, agent=loom.caller(), target=True)
    if red := [one for one in found if not one.green]:
        names = ", ".join(one.check_name for one in red)
        raise CheckFailedError(
            f"{name} is red as it stands ({names}): work that begins from it cannot be proven.",
            "Mend that first; what a fresh worktree lacks is made by `work.setup`, and brought by `work.copy`.",
            [proof(one) for one in red],
        )
    return Baseline(commit, name, found)
