"""Naming another branch that the work of a project lands on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.exceptions import TargetError
from loom.graph.rules import landings as rules
from loom.graph.store import landing_tips, landings
from loom.landing.lander import target_of
from loom.landing.merging import is_ancestor
from loom.landing.remote import RemoteTarget
from loom.landing.target import OWN, Known, Target
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
    before, project = await target_of(loom, worktrees), loom.project_id
    if before.name == name:
        if not before.own:  # whoever names it again means it as it stands
            await loom.transact(lambda tx: landing_tips.forget(tx, name))
        return
    stood = await loom.look(lambda connection: landing_tips.seen(connection, project, before.name))
    after = await _target(loom, worktrees, name, stood)
    if stood is not None and not await after.contains(stood):
        raise TargetError(
            f"{name} has not all that landed on {before.name}, which later work rests on.",
            Words("Bring it there first with {}, then name it again.", Shell(f"git merge {before.name}")),
        )

    async def go(tx: Transaction) -> None:
        moved = await landing_tips.seen(tx.connection, project, before.name) != stood
        if moved or await landings.open_intents(tx.connection, project):
            raise TargetError(
                f"Something is being landed on {before.name} at this moment.",
                Words("Name {} again once that is done; where nobody lands, {} does.", name, Shell("loom land")),
            )
        configured = loom.config.landing.target or OWN
        await rules.redirect(tx, name, None if name == configured else f"{by} named it.")
        await landing_tips.forget(tx, name)

    await loom.transact(go)


async def _target(loom: Loom, worktrees: Worktrees, name: str, stood: str | None) -> Target | RemoteTarget:
    """The branch of that name. Loom's own is made, or brought forward to what has landed."""
    start = stood or "HEAD"
    if remote := loom.config.landing.remote:
        target: Target | RemoteTarget = await RemoteTarget.of(worktrees.repository, remote, name, start=start)
    else:
        target = await Target.of(worktrees.repository, name, start=start, places=worktrees.state)

    async def nothing_known() -> Known:
        return Known(None)

    tip = (await target.tip(nothing_known)).commit
    if name == OWN and stood is not None and await is_ancestor(worktrees.repository, tip, stood):
        await target.move(tip, stood)
    return target
