"""What a task has to be proven with before it is done."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from loom.exceptions import ProofMissingError
from loom.graph.model.task import Task
from loom.graph.store import proofs
from loom.graph.store.transaction import Transaction
from loom.wording import Shell, Words


@dataclass(frozen=True, slots=True)
class Proven:
    """What whoever reports work as done says of its proofs: where to look for them, not that they are there."""

    hashes: Mapping[str, str]
    """The checks that are in force, by name, each with the hash that its proofs have."""
    tree: str | None = None
    """The tree that holds the work; None: there is no repository."""
    commit_id: str | None = None
    """The commit of that tree, for checks that read history."""


async def require(tx: Transaction, task: Task, every: Collection[str], proven: Proven | None) -> None:
    """Raises ProofMissingError unless a locked task is proven, as it stands and for its newest claim.

    Args:
        every: the names of the checks that every task needs, beside those that this one names.
        proven: None: whoever reports knows of no proofs.
    """
    names = dict.fromkeys((*every, *task.checks))
    if not names:
        return
    if proven is None:
        raise _missing(task, names)
    if away := [name for name in names if name not in proven.hashes]:
        raise not_in_force(task.id, away)
    found = await proofs.green(
        tx.connection,
        tx.project_id,
        {name: proven.hashes[name] for name in names},
        tree=proven.tree,
        commit_id=proven.commit_id,
        task_id=task.id,
        token=task.claim_token,
    )
    if open_ones := [name for name in names if name not in found]:
        raise _missing(task, open_ones)


def not_in_force(what: str, names: Collection[str]) -> ProofMissingError:
    """The error for checks that are named and do not count. `what` is done only with them: a task's id, or a sentence's
    beginning."""
    return ProofMissingError(
        f"{what} is done only with checks that are not in force: {', '.join(names)}.",
        Words(
            "A person looks at {}: a check is in force once the project's configuration has it and is trusted.",
            Shell("loom config trust"),
        ),
        [{"name": name, "why": "not in force"} for name in names],
    )


def _missing(task: Task, names: Collection[str]) -> ProofMissingError:
    return ProofMissingError(
        f"{task.id} is done only with proofs that it has not for this work: {', '.join(names)}.",
        "Have these checks run where the work is, then report again.",
        [{"name": name} for name in names],
    )
