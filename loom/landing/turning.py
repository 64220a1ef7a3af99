"""Naming another branch that the work of a project lands on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.exceptions import TargetError
from loom.git import Repository
from loom.graph.rules import landings as rules
from loom.graph.store import landing_intents, landing_tips
from loom.landing import refs
from loom.landing.lander import lands_on
from loom.landing.merging import is_ancestor
from loom.landing.remote import RemoteTarget
from loom.landing.target import OWN, Known, Target, exists
from loom.landing.worktrees import Worktrees
from loom.wording import Shell, Words

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.graph.store.transaction import Transaction


async def turn(loom: Loom, name: str, *, by: str) -> None:
    """Has the work of a project land on another branch from now on, what is on its way too; one that it lands on
    already is taken as it stands, wherever somebody has moved it.

    Raises:
        TargetError: there is no such branch, or it lacks what has landed; something is being landed at this moment.
        CommandError: there is no repository, or git refuses.
    """
    worktrees = await Worktrees.of_project(loom.config, to_make=False)
    before, project = await lands_on(loom), loom.project_id  # by its name: it may be gone
    if before == name:
        tip = await _tip(loom, worktrees, name, None)
        if name != OWN:  # whoever names it again means it as it stands
            await loom.transact(lambda tx: _seen_at(tx, name, tip))
        return
    stood = await loom.look(lambda connection: landing_tips.seen(connection, project, before))
    tip = await _tip(loom, worktrees, name, stood)
    if stood is not None and not await _has(worktrees.repository, tip, stood):
        there = await refs.commit_at(worktrees.repository, refs.branch(before))
        merge = Shell(f"git merge {before if there else stood[:12]}")
        raise TargetError(
            f"{name} has not all that landed on {before}, which later work rests on.",
            Words("Bring it there first with {}, then name it again.", merge),
        )

    async def go(tx: Transaction) -> None:
        moved = await landing_tips.seen(tx.connection, project, before) != stood
        if moved or await landing_intents.still_open(tx.connection, project):
            raise TargetError(
                f"Something is being landed on {before} at this moment.",
                Words("Name {} again once that is done; where nobody lands, {} does.", name, Shell("loom land")),
            )
        configured = loom.config.landing.target or OWN
        await rules.redirect(tx, name, None if name == configured else f"{by} named it.")
        await _seen_at(tx, name, tip)

    await loom.transact(go)


async def _tip(loom: Loom, worktrees: Worktrees, name: str, stood: str | None) -> str:
    """Where the branch of that name stands. Loom's own is made, or brought forward to what has landed."""
    start = stood or "HEAD"
    if remote := loom.config.landing.remote:
        target: Target | RemoteTarget = await RemoteTarget.of(worktrees.repository, remote, name, start=start)
    else:
        target = await Target.of(
            worktrees.repository, name, start=start, places=worktrees.state, project_id=loom.project_id
        )

    async def nothing_known() -> Known:
        return Known(None)

    tip = (await target.tip(nothing_known)).commit
    if name == OWN and stood is not None and await is_ancestor(worktrees.repository, tip, stood):
        return stood if await target.move(tip, stood) else tip
    return tip


async def _has(repository: Repository, tip: str, commit: str) -> bool:
    """Whether a commit that may not be there is behind another one."""
    return await exists(repository, commit) and await is_ancestor(repository, commit, tip)


async def _seen_at(tx: Transaction, name: str, tip: str) -> None:
    """Notes where a branch stands, whatever was known of it: what is moved from there from now on is moved."""
    await landing_tips.forget(tx, name)
    await landing_tips.see(tx, name, None, tip)
