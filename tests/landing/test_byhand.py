"""Landing without a worker: the rest of the way for one task, and all that waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from loom.exceptions import CheckFailedError, ClaimConflictError, LandingError, TaskStateError
from loom.graph.model.task import Task
from loom.graph.rules import landings as rules
from loom.graph.rules.holding import Holder
from loom.graph.store import landing_targets
from loom.graph.store.landings import LandingState
from loom.landing.byhand import ByHand
from loom.landing.target import OWN
from tests.landing.place import Place
from tests.landing.yard import Yard


class Hand:
    """Whoever lands by hand, and what he was told."""

    def __init__(self, hand: ByHand, said: list[str]) -> None:
        self.by, self.said = hand, said


@pytest.fixture
async def hand(yard: Yard) -> AsyncIterator[Hand]:
    said: list[str] = []
    async with ByHand.of(yard.loom, said.append) as made:
        yield Hand(made, said)


async def claimed(yard: Yard, **files: str) -> tuple[Task, Place]:
    """A claim of this process's, and its worktree, in which these files were written."""
    made = await yard.loom.create("Work")
    claim = await yard.loom.claim(made.id)
    assert claim is not None
    tree = await yard.worktrees.make(made.id, await yard.tip())
    yard.worktrees.leave(tree)
    place = Place(tree.path)
    for name, text in files.items():
        place.write(name, text)
    return claim.task, place


async def test_the_work_on_a_claim_is_committed_proven_and_landed(yard: Yard, hand: Hand) -> None:
    task, tree = await claimed(yard, one="1")
    found = await hand.by.task(task.id, 30)
    assert found is not None
    assert found.state is LandingState.LANDED
    assert found.landed_commit == yard.place.tip(OWN)
    assert yard.landed() == [[task.id]]
    assert await yard.status(task) == "done"
    assert not tree.top.exists()
    assert not yard.place.git("branch", "--list", f"loom/{task.id}")
    assert hand.said == [f"proving {task.id} on {OWN}", f"landed     {task.id}  {found.landed_commit[:12]} on {OWN}"]
    assert await hand.by.task(task.id, 30) == found  # again the first answer
    assert await hand.by.lander.taken_by() == f"git merge --ff-only {OWN}"


async def test_what_was_reported_lands_for_whoever_asks_with_its_output(yard: Yard, hand: Hand) -> None:
    task, _ = await claimed(yard, one="1")
    branch, holder = f"loom/{task.id}", Holder("tester", task.claim_token)
    await yard.loom.transact(lambda tx: rules.begin(tx, task.id, holder, target=OWN, branch=branch))
    await yard.loom.done(task.id, {"made": "one"})
    await hand.by.task(task.id, 30, agent_id="somebody-else")
    assert (await yard.loom.get(task.id)).task.output == {"made": "one"}
    assert yard.landed() == [[task.id]]


async def test_a_red_check_is_told_and_the_claim_stays(yard: Yard, hand: Hand) -> None:
    task, tree = await claimed(yard, bad="1")
    with pytest.raises(CheckFailedError) as refused:
        await hand.by.task(task.id, 30)
    assert refused.value.checks[0]["name"] == "unit"
    assert await yard.status(task) == "claimed"
    (tree.top / "bad").rename(tree.top / "good")
    found = await hand.by.task(task.id, 30)
    assert found is not None
    assert found.state is LandingState.LANDED


async def test_a_conflict_is_left_in_the_worktree_to_be_mended(yard: Yard, hand: Hand) -> None:
    task, tree = await claimed(yard)
    tree.write("a.txt", "mine\n")
    other = await yard.queued({"a.txt": "theirs\n"}, at="main")
    await hand.by.queue(30)
    with pytest.raises(LandingError, match=f"conflicts in a.txt, which {other.id} changed") as refused:
        await hand.by.task(task.id, 30)
    assert str(tree.top) in str(refused.value.next_step)
    assert "<<<<<<<" in tree.read("a.txt")
    with pytest.raises(LandingError, match="markers of a conflict"):
        await hand.by.task(task.id, 30)
    tree.write("a.txt", "both\n")
    found = await hand.by.task(task.id, 30)
    assert found is not None
    assert found.state is LandingState.LANDED
    assert yard.place.git("show", f"{OWN}:a.txt") == "both"


async def test_work_that_brings_nothing_is_done_without_landing(yard: Yard, hand: Hand) -> None:
    task, _ = await claimed(yard)
    assert await hand.by.task(task.id, 30) is None
    assert await yard.status(task) == "done"
    assert not yard.landed()


async def test_what_waits_for_a_yes_is_not_waited_for(yard: Yard, hand: Hand) -> None:
    yard.loom.config = replace(yard.loom.config, landing=replace(yard.loom.config.landing, approve=("src",)))
    task, tree = await claimed(yard)
    tree.write("src/m.py", "1\n")
    found = await hand.by.task(task.id, 30)
    assert found is not None
    assert found.waits_for_yes
    await yard.loom.approve(task.id)
    found = await hand.by.task(task.id, 30)
    assert found is not None
    assert found.state is LandingState.LANDED


async def test_a_claim_of_somebody_elses_is_not_landed(yard: Yard, hand: Hand) -> None:
    task, _ = await claimed(yard, one="1")
    with pytest.raises(ClaimConflictError):
        await hand.by.task(task.id, 30, agent_id="eve")
    with pytest.raises(ClaimConflictError):
        await hand.by.task(task.id, 30, token=task.claim_token + 1)
    assert not yard.landed()


async def test_what_nobody_has_claimed_or_is_elsewhere_is_refused(yard: Yard, hand: Hand) -> None:
    made = await yard.loom.create("Work")
    with pytest.raises(TaskStateError, match="is ready, and no work on it waits"):
        await hand.by.task(made.id, 30)
    await yard.loom.claim(made.id)
    with pytest.raises(LandingError, match="has no worktree here"):
        await hand.by.task(made.id, 30)


async def test_what_is_from_before_it_was_reopened_does_not_land_by_hand(yard: Yard, hand: Hand) -> None:
    task, _ = await claimed(yard, one="1")
    assert await hand.by.task(task.id, 30) is not None
    yard.worktrees.leave(await yard.worktrees.make(task.id))
    await yard.loom.reopen(task.id)
    await yard.loom.claim(task.id)
    with pytest.raises(LandingError, match="is from before"):
        await hand.by.task(task.id, 30)


async def test_what_others_land_is_waited_for_until_the_time_is_over(yard: Yard, hand: Hand) -> None:
    task, _ = await claimed(yard, one="1")
    await yard.loom.transact(lambda tx: landing_targets.take_lease(tx, OWN, "elsewhere-1", 60))
    found = await hand.by.task(task.id, 0.1)
    assert found is not None
    assert found.state is LandingState.QUEUED
    await yard.loom.transact(lambda tx: landing_targets.give_lease(tx, OWN, "elsewhere-1"))
    assert [one.task_id for one in (await hand.by.queue(30)).landed] == [task.id]


async def test_the_whole_queue_lands_group_by_group(yard: Yard, hand: Hand) -> None:
    tasks = [await yard.queued({f"f{n}": "1"}) for n in range(17)]
    bad = await yard.queued({"bad": "1"})
    report = await hand.by.queue(60)
    assert [one.task_id for one in report.landed] == [task.id for task in tasks]
    assert [one.task_id for one in report.sent_back] == [bad.id]
    assert len(hand.said) == 18
