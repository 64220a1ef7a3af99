"""Landing: groups, red ones and conflicts, a target that others move, and a person's yes."""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from loom.exceptions import ProofMissingError, TargetError, TargetHeldError
from loom.graph.front import Loom
from loom.graph.rules import landings as rules
from loom.graph.store import landing_targets, landing_tips
from loom.graph.store.landings import LandingState
from loom.landing.lander import Lander, Report
from loom.landing.proving import Prover
from loom.landing.target import OWN
from loom.landing.turning import turn
from loom.landing.worktrees import Worktrees
from tests.landing.yard import Yard


async def once(yard: Yard) -> Report:
    return await (await yard.lander()).once()


async def test_what_waits_lands_as_one_commit_of_the_target(yard: Yard) -> None:
    old = await yard.tip()
    task = await yard.queued({"one.txt": "1\n"}, "Make one")
    await yard.proven(task)
    work = yard.place.tip(f"loom/{task.id}")
    report = await once(yard)
    commit = yard.place.tip(OWN)
    assert [(one.task_id, one.commit, one.target) for one in report.landed] == [(task.id, commit, OWN)]
    assert yard.landed() == [[task.id]]
    assert yard.place.git("rev-parse", f"{commit}^@").split() == [old, work]
    detail = (await yard.loom.get(task.id)).task
    assert (detail.status.value, detail.output) == ("done", {"by": "Make one"})
    assert await yard.runs() == 1  # the tree is the one that was proven
    assert not yard.held()
    assert (await once(yard)).landed == []


async def test_eight_branches_that_end_at_once_cost_two_runs_beyond_their_own(yard: Yard) -> None:
    old = await yard.tip()
    tasks = [await yard.queued({f"f{n}.txt": "1\n"}, f"Work {n}") for n in range(8)]
    for task in tasks:
        await yard.proven(task)
    before = await yard.runs()
    report = await once(yard)
    assert [one.task_id for one in report.landed] == [task.id for task in tasks]
    assert yard.landed(since=old) == [[task.id for task in tasks]]
    assert await yard.runs() - before <= 2
    assert len(yard.place.git("log", "--first-parent", "--format=%H", f"{old}..{OWN}").splitlines()) == 1
    assert set(yard.place.files(OWN)) >= {f"f{n}.txt" for n in range(8)}


async def test_at_most_sixteen_land_together(yard: Yard) -> None:
    tasks = [await yard.queued({f"f{n}.txt": "1\n"}, f"Work {n}") for n in range(18)]
    await once(yard)
    await once(yard)
    assert [len(some) for some in yard.landed()] == [16, 2]
    assert [task for some in yard.landed() for task in some] == [task.id for task in tasks]


async def test_who_makes_a_group_red_goes_back_and_the_others_land(yard: Yard) -> None:
    good = [await yard.queued({"a1": "1"}), await yard.queued({"a2": "1"})]
    bad = await yard.queued({"bad": "1"})
    more = [await yard.queued({"a3": "1"}), await yard.queued({"a4": "1"})]
    report = await once(yard)
    assert [one.task_id for one in report.sent_back] == [bad.id]
    assert "unit is red on loom/landed" in report.sent_back[0].reason
    await once(yard)
    assert yard.landed() == [[one.id for one in good], [one.id for one in more]]
    assert await yard.status(bad) == "claimed"
    landing = await yard.landing(bad)
    assert landing.state is LandingState.SENT_BACK
    assert "looked" in (landing.note or "")
    assert not yard.held()


async def test_of_two_that_are_red_together_the_later_one_goes_back(yard: Yard) -> None:
    first, second = await yard.queued({"x": "1"}), await yard.queued({"y": "1"})
    await yard.proven(first)
    await yard.proven(second)
    report = await once(yard)
    assert [one.task_id for one in report.landed] == [first.id]
    assert [one.task_id for one in report.sent_back] == [second.id]


async def test_nobody_is_blamed_for_what_is_red_once(yard: Yard, tmp_path: Path) -> None:
    """Red the first time that the two are together."""
    seen = tmp_path / "seen"
    check = replace(
        yard.loom.config.checks["unit"],
        command=("sh", "-c", f"test -e x -a -e y || exit 0; test -e {seen} && exit 0; touch {seen}; exit 1"),
    )
    yard.loom.config = replace(yard.loom.config, checks={"unit": check})
    tasks = [await yard.queued({"x": "1"}), await yard.queued({"y": "1"})]
    report = await once(yard)
    assert not report.sent_back
    assert yard.landed() == [[one.id for one in tasks]]


async def test_the_first_red_prefix_is_found_with_few_runs(yard: Yard) -> None:
    tasks = [await yard.queued({"bad" if n == 11 else f"f{n}": "1"}) for n in range(16)]
    report = await once(yard)
    assert [one.task_id for one in report.sent_back] == [tasks[11].id]
    assert len(report.landed) == 11
    assert await yard.runs() <= 6


async def test_checks_that_one_task_names_are_run_on_the_group(yard: Yard) -> None:
    good, bad = await yard.queued({"f": "1"}), await yard.queued({"worse": "1"}, checks=("other",))
    report = await once(yard)
    assert [one.task_id for one in report.landed] == [good.id]
    assert [one.reason.split(" ")[0] for one in report.sent_back] == ["other"]
    assert (await yard.landing(bad)).state is LandingState.SENT_BACK


async def test_a_check_that_is_not_in_force_lets_only_others_land(yard: Yard) -> None:
    named, free = await yard.queued({"f": "1"}, checks=("other",)), await yard.queued({"g": "1"})
    yard.loom.config = replace(yard.loom.config, checks={"unit": yard.loom.config.checks["unit"]})
    report = await once(yard)
    assert [one.task_id for one in report.landed] == [free.id]
    assert named.id in report.notes[0]
    assert (await yard.landing(named)).state is LandingState.QUEUED


async def test_nothing_lands_while_a_check_that_all_need_is_not_in_force(yard: Yard) -> None:
    task = await yard.queued({"f": "1"})
    yard.loom.config = replace(yard.loom.config, checks={})
    with pytest.raises(ProofMissingError, match="unit"):
        await once(yard)
    assert not yard.landed()
    assert (await yard.landing(task)).state is LandingState.QUEUED


# --- conflicts --------------------------------------------------------------------------------------------------------


async def test_a_conflict_with_what_has_landed_goes_back_and_names_files_and_tasks(yard: Yard) -> None:
    old = await yard.tip()
    first = await yard.queued({"a.txt": "first\n"}, at=old)
    await once(yard)
    second = await yard.queued({"a.txt": "second\n"}, at=old)
    report = await once(yard)
    assert [one.reason for one in report.sent_back] == [f"It conflicts in a.txt, which {first.id} changed meanwhile."]
    assert (await yard.landing(second)).state is LandingState.SENT_BACK


async def test_a_conflict_with_what_waits_before_it_waits_for_that_to_land(yard: Yard) -> None:
    old = await yard.tip()
    tasks = [
        await yard.queued({"a.txt": "first\n"}, at=old),
        await yard.queued({"a.txt": "second\n"}, at=old),
        await yard.queued({"c.txt": "third\n"}, at=old),
    ]
    report = await once(yard)
    assert [one.task_id for one in report.landed] == [tasks[0].id, tasks[2].id]
    assert not report.sent_back
    report = await once(yard)
    assert [one.task_id for one in report.sent_back] == [tasks[1].id]


async def test_a_conflict_with_what_goes_back_itself_is_none(yard: Yard) -> None:
    old = await yard.tip()
    bad = await yard.queued({"a.txt": "first\n", "bad": "1"}, at=old)
    good = await yard.queued({"a.txt": "second\n"}, at=old)
    await once(yard)
    await once(yard)
    assert yard.landed() == [[good.id]]
    assert (await yard.landing(bad)).state is LandingState.SENT_BACK


# --- the target -------------------------------------------------------------------------------------------------------


async def test_a_target_that_somebody_moves_during_the_checks_is_begun_from_anew(yard: Yard) -> None:
    yard.place.git("branch", "target")
    yard.loom.config = replace(yard.loom.config, landing=replace(yard.loom.config.landing, target="target"))
    yard.target = "target"
    task = await yard.queued({"f": "1"})
    moved: list[str] = []

    class Slow(Lander):
        async def _intend(self, *given: object) -> bool:
            if not moved:
                yard.bench.git("checkout", "-q", "--detach", "target")
                moved.append(yard.bench.commit("of a person", {"his": "1"}))
                yard.place.git("update-ref", "refs/heads/target", moved[0])
            return await super()._intend(*given)  # type: ignore[arg-type]

    report = await (await yard.lander(Slow)).once()
    assert [one.task_id for one in report.landed] == [task.id]
    assert yard.place.tip("target^") == moved[0]
    assert not yard.held()


async def test_what_somebody_puts_onto_looms_own_branch_is_taken_off_and_kept(yard: Yard) -> None:
    await yard.queued({"f": "1"})
    await once(yard)
    forged = yard.bench.commit("forged", {"evil": "1"})
    yard.place.git("update-ref", f"refs/heads/{OWN}", forged)
    task = await yard.queued({"g": "1"}, at="main")
    report = await once(yard)
    assert "Somebody moved loom/landed" in report.notes[0]
    assert [one.task_id for one in report.landed] == [task.id]
    assert "evil" not in yard.place.files(OWN)
    assert forged in yard.held()


async def test_that_it_was_put_back_is_told_whoever_has_seen_it_first(yard: Yard) -> None:
    await yard.queued({"f": "1"})
    await once(yard)
    lander, forged = await yard.lander(), yard.bench.commit("forged", {"evil": "1"})
    yard.place.git("update-ref", f"refs/heads/{OWN}", forged)
    assert await lander.tip() == yard.place.tip(OWN) != forged
    assert ["Somebody moved loom/landed" in note for note in (await lander.once()).notes] == [True]
    assert not (await lander.once()).notes


async def test_where_the_target_cannot_be_moved_the_project_lands_on_looms_own_from_then_on(yard: Yard) -> None:
    yard.loom.config = replace(yard.loom.config, landing=replace(yard.loom.config.landing, target="main"))
    yard.target = "main"
    old = yard.place.tip("main")
    first, second = await yard.queued({"a.txt": "new\n"}), await yard.queued({"f": "1"})
    yard.place.write("a.txt", "not committed\n")
    report = await once(yard)
    assert [one.task_id for one in report.landed] == [first.id, second.id]
    assert {one.target for one in report.landed} == {OWN}
    assert "a.txt. What lands is on loom/landed from now on" in report.notes[0]
    assert yard.place.tip("main") == old
    assert yard.place.read("a.txt") == "not committed\n"
    assert yard.landed(OWN) == [[first.id, second.id]]
    recorded = await yard.loom.look(lambda connection: landing_targets.recorded(connection, yard.loom.project_id))
    assert recorded is not None
    assert recorded.target == OWN
    assert (await yard.lander()).target == OWN
    assert not yard.held()
    for name in ("main", OWN):
        found = await yard.loom.look(
            partial(landing_targets.holder_of_lease, project_id=yard.loom.project_id, target=name)
        )
        assert found is None, "nobody lands on it any more"


async def test_what_the_dead_were_about_to_land_goes_to_the_new_target_with_all_else(yard: Yard) -> None:
    """Two died before they moved the target, and when the next one comes a checkout does not let it be moved."""
    yard.loom.config = replace(yard.loom.config, landing=replace(yard.loom.config.landing, target="main"))
    yard.target = "main"
    tip = await yard.tip()
    tasks = [await yard.queued({"a.txt": "new\n", name: "1"}) for name in ("f", "g")]
    for task in tasks:
        row = await yard.landing(task)
        merged = yard.place.git("commit-tree", f"{row.commit_id}^{{tree}}", "-p", tip, "-m", task.id)
        await yard.loom.transact(partial(rules.intend, landing_ids=[row.id], commit_id=merged, target="main", old=tip))
    yard.place.write("a.txt", "not committed\n")
    for _ in range(2):
        await once(yard)
    assert [await yard.status(task) for task in tasks] == ["done", "done"]
    assert yard.landed(OWN) == [[task.id for task in tasks]]
    assert yard.place.tip("main") == tip


async def test_looms_own_branch_that_a_person_holds_waits_for_him(yard: Yard) -> None:
    await yard.tip()
    yard.place.git("checkout", "-q", OWN)
    task = await yard.queued({"a.txt": "new\n"})
    yard.place.write("a.txt", "not committed\n")
    with pytest.raises(TargetHeldError, match=r"a\.txt"):
        await once(yard)
    assert (await yard.landing(task)).state is LandingState.QUEUED
    yard.place.git("checkout", "-q", "a.txt")
    assert [one.task_id for one in (await once(yard)).landed] == [task.id]
    assert yard.place.read("a.txt") == "new\n"


async def test_landing_stops_where_a_persons_branch_was_moved_otherwise(yard: Yard) -> None:
    yard.place.git("branch", "target")
    yard.loom.config = replace(yard.loom.config, landing=replace(yard.loom.config.landing, target="target"))
    yard.target = "target"
    old = yard.place.tip("target")
    await yard.queued({"f": "1"})
    await once(yard)
    yard.place.git("update-ref", "refs/heads/target", old)
    task = await yard.queued({"g": "1"}, at="main")
    with pytest.raises(TargetError, match="was moved by somebody else"):
        await once(yard)
    assert (await yard.landing(task)).state is LandingState.QUEUED
    assert yard.place.tip("target") == old
    await turn(yard.loom, "target", by="ann")
    assert [one.task_id for one in (await once(yard)).landed] == [task.id]
    assert yard.place.tip("target^") == old


async def test_a_landing_that_is_noted_late_brings_no_older_tip_back(yard: Yard) -> None:
    """Two note the same landing, one of them only after the next one has landed."""
    old = await yard.tip()
    await yard.queued({"f": "1"})
    await once(yard)
    first = yard.place.tip(OWN)
    await yard.queued({"g": "1"})
    await once(yard)
    last = yard.place.tip(OWN)
    await yard.loom.transact(lambda tx: landing_tips.see(tx, OWN, old, first))
    assert await yard.tip() == last
    assert not yard.held()


# --- the queue --------------------------------------------------------------------------------------------------------


async def test_what_waits_for_a_yes_does_not_land_before_it(yard: Yard) -> None:
    task = await yard.queued({"f": "1"}, needs_yes=True)
    assert not (await once(yard)).landed
    await yard.loom.transact(lambda tx: rules.approve(tx, task.id, "ann"))
    assert [one.task_id for one in (await once(yard)).landed] == [task.id]


async def test_what_is_taken_out_of_the_queue_during_the_checks_does_not_land(yard: Yard) -> None:
    gone, stays = await yard.queued({"f": "1"}), await yard.queued({"g": "1"})
    cancelled: list[object] = []

    class Slow(Lander):
        async def _intend(self, *given: object) -> bool:
            if not cancelled:
                cancelled.append(await yard.loom.cancel(gone.id))
            return await super()._intend(*given)  # type: ignore[arg-type]

    report = await (await yard.lander(Slow)).once()
    assert [one.task_id for one in report.landed] == [stays.id]
    assert "f" not in yard.place.files(OWN)
    assert not yard.held()


async def test_what_a_dead_lander_was_about_to_do_holds_nothing_in_the_queue_once_it_cannot_be_done(yard: Yard) -> None:
    first, second = await yard.queued({"x": "1"}), await yard.queued({"y": "1"})
    ids = [(await yard.landing(second)).id]
    await yard.loom.transact(lambda tx: rules.intend(tx, ids, commit_id="1" * 40, target=OWN, old="2" * 40))
    report = await once(yard)
    assert [one.task_id for one in report.landed] == [first.id]
    assert [one.task_id for one in report.sent_back] == [second.id]


async def test_a_commit_that_is_gone_goes_back(yard: Yard) -> None:
    task = await yard.queued({"f": "1"})
    yard.place.git("update-ref", "-d", f"refs/heads/loom/{task.id}")
    yard.bench.git("checkout", "-q", "--detach", "main")
    yard.place.git("reflog", "expire", "--expire=now", "--all")
    yard.bench.git("reflog", "expire", "--expire=now", "--all")
    yard.place.git("gc", "-q", "--prune=now")
    report = await once(yard)
    assert "is gone from the repository" in report.sent_back[0].reason


async def test_what_is_about_to_land_outlives_a_collection_of_garbage(yard: Yard) -> None:
    task = await yard.queued({"f": "1"})
    await yard.proven(task)

    class Collected(Lander):
        async def _intend(self, *given: object) -> bool:
            yard.place.git("reflog", "expire", "--expire=now", "--all")
            yard.place.git("gc", "-q", "--prune=now")
            return await super()._intend(*given)  # type: ignore[arg-type]

    report = await (await yard.lander(Collected)).once()
    assert [one.task_id for one in report.landed] == [task.id]


async def test_one_lands_at_a_time_on_a_machine(yard: Yard) -> None:
    task = await yard.queued({"f": "1"})
    busy = []

    class Slow(Lander):
        async def _intend(self, *given: object) -> bool:
            busy.append((await once(yard)).busy)
            return await super()._intend(*given)  # type: ignore[arg-type]

    report = await (await yard.lander(Slow)).once()
    assert busy == [True]
    assert [one.task_id for one in report.landed] == [task.id]


async def test_the_lease_of_another_machine_is_waited_for_and_that_of_a_dead_process_is_not(yard: Yard) -> None:
    task = await yard.queued({"f": "1"})
    await yard.loom.transact(lambda tx: landing_targets.take_lease(tx, OWN, "elsewhere-1", 30))
    assert (await once(yard)).busy
    await yard.loom.transact(lambda tx: landing_targets.give_lease(tx, OWN, "elsewhere-1"))
    lander = await yard.lander()
    dead = lander._holder.rpartition("-")[0] + "-1"
    await yard.loom.transact(lambda tx: landing_targets.take_lease(tx, OWN, dead, 30))
    assert [one.task_id for one in (await lander.once()).landed] == [task.id]


# --- several projects -------------------------------------------------------------------------------------------------


async def test_projects_of_one_repository_land_behind_each_other(yard: Yard) -> None:
    """What another one has landed is no move of somebody's, to be put back."""
    config = replace(yard.loom.config, project_id=str(uuid.uuid4()), project_name="other")
    async with Loom(config, agent="tester") as loom, Prover.of(loom, yard.worktrees.repository) as prover:
        other = Yard(loom, yard.place, yard.bench, await Worktrees.of_project(config), prover)
        landed = []
        for number, one in enumerate((yard, other, yard, yard, other)):
            task = await one.queued({f"{number}.txt": "new\n"})
            report = await (await one.lander()).once()
            assert (len(report.landed), report.notes) == (1, [])
            landed.append([task.id])
        assert yard.landed() == landed
        assert not yard.place.git("for-each-ref", "refs/loom/kept")
        its_own = f"refs/loom/held/{config.project_id}/{'1' * 40}"
        yard.place.git("update-ref", its_own, "HEAD")
        await (await yard.lander()).once()
        assert its_own in yard.held(), "what another one is about to land is its own to let go"
