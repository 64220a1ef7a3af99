"""Naming another branch that work lands on."""

from __future__ import annotations

from typing import Any

import pytest

from loom.exceptions import TargetError
from loom.graph.store import landing_intents, landing_targets, landings
from loom.graph.store.landing_targets import RecordedTarget
from loom.landing import turning
from loom.landing.baseline import baseline
from loom.landing.lander import target_of
from loom.landing.target import OWN
from loom.landing.turning import turn
from tests.landing.yard import Yard


async def recorded(yard: Yard) -> RecordedTarget | None:
    return await yard.loom.look(lambda connection: landing_targets.recorded(connection, yard.loom.project_id))


async def test_what_is_on_its_way_lands_on_the_branch_that_was_named(yard: Yard) -> None:
    yard.place.git("branch", "stable")
    task = await yard.queued({"new.txt": "new\n"})
    await turn(yard.loom, "stable", by="ann")
    assert (await target_of(yard.loom, yard.worktrees)).name == "stable"
    found = await recorded(yard)
    assert found is not None
    assert (found.target, found.why) == ("stable", "ann named it.")
    report = await (await yard.lander()).once()
    assert [(one.task_id, one.target) for one in report.landed] == [(task.id, "stable")]
    assert yard.place.git("show", "stable:new.txt") == "new"
    await turn(yard.loom, OWN, by="ann")
    assert await recorded(yard) is None, "it is the configured one"
    later = await yard.queued({"later.txt": "later\n"}, at=yard.place.git("rev-parse", "stable"))
    report = await (await yard.lander()).once()
    assert [(one.task_id, one.target) for one in report.landed] == [(later.id, OWN)]
    assert yard.place.git("show", f"{OWN}:new.txt") == "new"


async def test_the_baseline_is_the_branch_that_was_named(yard: Yard) -> None:
    before = await yard.tip()
    stable = yard.bench.commit("more", {"more.txt": "more\n"})
    yard.place.git("branch", "stable", stable)
    found = await baseline(yard.loom, yard.worktrees.repository, yard.prover)
    assert (found.name, found.commit) == (OWN, before)
    await turn(yard.loom, "stable", by="ann")
    found = await baseline(yard.loom, yard.worktrees.repository, yard.prover)
    assert (found.name, found.commit) == ("stable", stable)


async def test_a_branch_that_lacks_what_has_landed_is_not_landed_on(yard: Yard) -> None:
    yard.place.git("branch", "old")
    await yard.queued({"new.txt": "new\n"})
    await (await yard.lander()).once()
    with pytest.raises(TargetError, match=f"old has not all that landed on {OWN}") as caught:
        await turn(yard.loom, "old", by="ann")
    assert f"git merge {OWN}" in str(caught.value.next_step)
    with pytest.raises(TargetError, match="nowhere"):
        await turn(yard.loom, "nowhere", by="ann")
    assert await recorded(yard) is None
    yard.bench.git("checkout", "-q", "old")
    yard.bench.git("merge", "-q", OWN)
    yard.bench.git("checkout", "-q", "--detach")
    await turn(yard.loom, "old", by="ann")
    await turn(yard.loom, "old", by="bob")
    found = await recorded(yard)
    assert found is not None
    assert found.why == "ann named it."


async def test_no_other_branch_is_named_while_something_is_being_landed(yard: Yard) -> None:
    yard.place.git("branch", "stable")
    task = await yard.queued({"new.txt": "new\n"})
    (row,) = await yard.loom.look(lambda connection: landings.waiting(connection, yard.loom.project_id, OWN))
    assert row.task_id == task.id
    await yard.loom.transact(lambda tx: landing_intents.intend(tx, [row], commit_id="c" * 40, target=OWN, old="0" * 40))
    with pytest.raises(TargetError, match="is being landed"):
        await turn(yard.loom, "stable", by="ann")
    assert await recorded(yard) is None


async def test_no_branch_is_named_that_lacks_what_has_landed_right_before(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.place.git("branch", "stable")
    lander, look = await yard.lander(), turning._tip

    async def landed_meanwhile(*given: Any) -> str:
        found = await look(*given)
        await yard.queued({"new.txt": "new\n"})
        assert (await lander.once()).landed
        return found

    monkeypatch.setattr(turning, "_tip", landed_meanwhile)
    with pytest.raises(TargetError, match="is being landed"):
        await turn(yard.loom, "stable", by="ann")
    assert await recorded(yard) is None


async def test_a_branch_that_is_gone_can_be_left_for_another(yard: Yard) -> None:
    yard.place.git("branch", "stable")
    await yard.queued({"new.txt": "new\n"})
    await turn(yard.loom, "stable", by="ann")
    await (await yard.lander()).once()
    at = yard.place.tip("stable")
    yard.place.git("branch", "-q", "-D", "stable")
    yard.place.git("branch", "other")
    with pytest.raises(TargetError, match="no branch stable"):
        await turn(yard.loom, "stable", by="ann")
    with pytest.raises(TargetError, match="other has not all that landed on stable") as caught:
        await turn(yard.loom, "other", by="ann")
    assert f"git merge {at[:12]}" in str(caught.value.next_step)
    await turn(yard.loom, OWN, by="ann")
    assert await recorded(yard) is None
    assert yard.place.tip(OWN) == at


async def test_a_branch_that_is_moved_right_after_it_was_named_stops_landing(yard: Yard) -> None:
    first = await yard.tip()
    yard.place.git("branch", "stable", yard.bench.commit("more", {"more.txt": "more\n"}))
    await turn(yard.loom, "stable", by="ann")
    yard.place.git("branch", "-q", "-f", "stable", first)
    lander = await yard.lander()
    with pytest.raises(TargetError, match="stable was moved by somebody else"):
        await lander.once()
    await turn(yard.loom, "stable", by="ann")
    await lander.once()
