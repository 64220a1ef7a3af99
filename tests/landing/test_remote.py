"""A target that several machines share through a remote, which refuses, goes away, or is moved by others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from loom.config import LoomConfig
from loom.exceptions import CommandError, TargetError, TargetHeldError
from loom.graph.front import Loom
from loom.graph.store import landing_intents
from loom.graph.store.landings import LandingState
from loom.landing import leading
from loom.landing.lander import Lander, Report
from loom.landing.offering import Offer, offer
from loom.landing.proving import Prover
from loom.landing.remote import RemoteTarget
from loom.landing.target import OWN
from loom.landing.worktrees import Worktrees
from tests.landing.place import Place
from tests.landing.yard import Yard, configured


class Shared:
    """A bare repository that stands for the remote, and machines with clones of it."""

    def __init__(self, place: Path, config: LoomConfig, stack: AsyncExitStack) -> None:
        self.place, self.config, self.stack = place, config, stack
        self.bare = Place(place / "bare.git")

    async def machine(self, name: str, monkeypatch: pytest.MonkeyPatch, target: str = "main") -> Yard:
        """Another clone, as on a machine of its own, with the database in reach."""
        clone = Place(self.place / name)
        self.bare.git("clone", "-q", str(self.bare.top), str(clone.top))
        monkeypatch.setenv("XDG_STATE_HOME", str(self.place / f"{name}-state"))
        monkeypatch.setattr(leading, "_host", lambda: name)
        chosen = configured(self.config, clone, remote="origin", target=target)
        loom = await self.stack.enter_async_context(Loom(chosen, agent=name))
        worktrees = await Worktrees.of_project(chosen)
        prover = await self.stack.enter_async_context(Prover.of(loom, worktrees.repository))
        bench = self.place / f"{name}-bench"
        clone.git("worktree", "add", "-q", "--detach", str(bench))
        return Yard(loom, clone, Place(bench), worktrees, prover, target)

    def hook(self, name: str, script: str) -> None:
        path = self.bare.write(f"hooks/{name}", f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture
async def shared(config: LoomConfig, place: Place, tmp_path: Path) -> AsyncIterator[Shared]:
    place.git("clone", "-q", "--bare", str(place.top), str(tmp_path / "bare.git"))
    async with AsyncExitStack() as stack:
        yield Shared(tmp_path, config, stack)


@pytest.fixture
async def one(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> Yard:
    return await shared.machine("one", monkeypatch)


async def once(yard: Yard, kind: type[Lander] = Lander) -> Report:
    return await (await yard.lander(kind)).once()


async def test_what_lands_is_pushed_and_the_persons_checkout_is_left_alone(one: Yard, shared: Shared) -> None:
    before = one.place.tip("main")
    task = await one.queued({"f": "1"})
    report = await once(one)
    assert [each.task_id for each in report.landed] == [task.id]
    tip = shared.bare.tip("main")
    assert report.landed[0].commit == tip == one.place.tip("refs/remotes/origin/main")
    assert one.place.tip("main") == before
    assert await (await one.lander()).taken_by() == "git pull origin main"
    assert not one.held()


async def test_looms_own_branch_is_made_there_where_nobody_names_one(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard = await shared.machine("own", monkeypatch, target=OWN)
    yard.loom.config = replace(yard.loom.config, landing=replace(yard.loom.config.landing, target=None))
    task = await yard.queued({"f": "1"})
    await once(yard)
    assert task.id in shared.bare.git("show", "-s", "--format=%B", OWN)


async def test_two_machines_land_on_one_branch_each_what_it_has(
    one: Yard, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = await shared.machine("two", monkeypatch)
    first, second = await one.queued({"f": "1"}), await two.queued({"g": "1"})
    report = await once(two)
    assert [each.task_id for each in report.landed] == [second.id]
    assert first.id in report.notes[0]
    assert (await one.landing(first)).state is LandingState.QUEUED
    assert [each.task_id for each in (await once(one)).landed] == [first.id]
    named = shared.bare.git("log", "--first-parent", "--format=%(trailers:key=Loom-Task,valueonly)", "main").split()
    assert named == [first.id, second.id]


async def test_a_branch_that_somebody_pushes_to_meanwhile_is_begun_from_anew(one: Yard, shared: Shared) -> None:
    task = await one.queued({"f": "1"})
    pushed: list[str] = []

    class Slow(Lander):
        async def _intend(self, *given: object) -> bool:
            made = await super()._intend(*given)  # type: ignore[arg-type]
            if not pushed:
                one.bench.git("checkout", "-q", "--detach", "main")
                pushed.append(one.bench.commit("of a person", {"his": "1"}))
                one.bench.git("push", "-q", "origin", "HEAD:main")
            return made

    report = await once(one, Slow)
    assert [each.task_id for each in report.landed] == [task.id]
    assert shared.bare.tip("main^") == pushed[0]
    assert not one.held()


async def test_a_branch_that_somebody_pushed_by_force_stops_landing(one: Yard, shared: Shared) -> None:
    await one.queued({"f": "1"})
    await once(one)
    shared.bare.git("update-ref", "refs/heads/main", "main^")
    task = await one.queued({"g": "1"}, at="refs/remotes/origin/main")
    with pytest.raises(TargetError, match="was moved by somebody else"):
        await once(one)
    assert (await one.landing(task)).state is LandingState.QUEUED


async def test_a_push_whose_answer_was_lost_is_found_the_next_time(one: Yard, shared: Shared) -> None:
    task = await one.queued({"f": "1"})

    class Deaf(Lander):
        async def _finish(self, *given: object) -> None:
            raise CommandError("origin was not pushed to: the remote end hung up unexpectedly")

    with pytest.raises(CommandError):
        await once(one, Deaf)
    pushed = shared.bare.tip("main")
    report = await once(one)
    assert [(each.task_id, each.commit) for each in report.landed] == [(task.id, pushed)]
    assert shared.bare.tip("main") == pushed


async def test_a_remote_that_goes_away_in_the_middle_leaves_nothing_half_landed(one: Yard, shared: Shared) -> None:
    task = await one.queued({"f": "1"})
    before, away = shared.bare.tip("main"), shared.place / "away"

    class Cut(Lander):
        async def _intend(self, *given: object) -> bool:
            made = await super()._intend(*given)  # type: ignore[arg-type]
            shared.bare.top.rename(away)
            return made

    with pytest.raises(CommandError):
        await once(one, Cut)
    with pytest.raises(CommandError):
        await once(one)
    assert (await one.landing(task)).state is LandingState.QUEUED
    away.rename(shared.bare.top)
    assert shared.bare.tip("main") == before
    assert [each.task_id for each in (await once(one)).landed] == [task.id]
    assert not await one.loom.look(lambda connection: landing_intents.still_open(connection, one.loom.project_id))


async def test_what_another_machine_was_about_to_land_is_its_own_for_a_while(
    one: Yard, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await one.queued({"f": "1"})

    class Dies(Lander):
        async def _moved(self, *given: object) -> bool:
            raise CommandError("it died")

    with pytest.raises(CommandError):
        await once(one, Dies)
    two = await shared.machine("two", monkeypatch)
    mine = await two.queued({"g": "1"})
    report = await once(two)
    assert f"{task.id} is being landed from another clone." in report.notes
    assert [each.task_id for each in report.landed] == [mine.id]
    monkeypatch.setattr(leading, "_host", lambda: "one")
    assert [each.task_id for each in (await once(one)).landed] == [task.id]


async def test_a_remote_that_refuses_the_target_gets_looms_own_branch(one: Yard, shared: Shared) -> None:
    shared.hook("update", 'test "$1" != refs/heads/main')
    task = await one.queued({"f": "1"})
    report = await once(one)
    assert [(each.task_id, each.target) for each in report.landed] == [(task.id, OWN)]
    assert "origin refuses to have main pushed to" in report.notes[0]
    assert task.id in shared.bare.git("show", "-s", "--format=%B", OWN)


async def test_what_landed_beside_its_target_is_offered_once_by_the_users_command(one: Yard, shared: Shared) -> None:
    said = shared.place / "said"
    words = ("sh", "-c", f'echo "$@" >> {said}', "-", "{task}", "{branch} to {target}", "{title}")
    landing = replace(one.loom.config.landing, propose=words)
    one.loom.config = replace(one.loom.config, landing=landing)
    plain = await one.queued({"e": "1"})
    assert (await once(one)).landed
    assert not said.exists()  # it is on its target
    shared.hook("update", 'test "$1" != refs/heads/main')
    tasks = [await one.queued({"f": "1"}, "Make {branch}"), await one.queued({"g": "1"}, "Make g")]
    await once(one)
    assert said.read_text().splitlines() == [
        f"{task.id} loom/{task.id} to main {title}"
        for task, title in zip(tasks, ("Make {branch}", "Make g"), strict=True)
    ]
    for task in tasks:
        assert shared.bare.tip(f"loom/{task.id}") == (await one.landing(task)).commit_id
    assert shared.bare.git("branch", "--list", f"loom/{plain.id}") == ""
    found = await one.landing(tasks[0])
    offered = Offer(tasks[0].id, "again", found.branch, found.commit_id or "", "main")
    assert not await offer(one.worktrees.repository, "origin", words, offered)


async def test_what_was_to_land_on_a_branch_that_a_worker_names_is_offered_too(one: Yard, shared: Shared) -> None:
    said = shared.place / "said"
    landing = replace(
        one.loom.config.landing, propose=("sh", "-c", f"echo {{task}} to {{target}} >> {said}"), target=None
    )
    one.loom.config = replace(one.loom.config, landing=landing)
    shared.hook("update", 'test "$1" != refs/heads/main')
    task = await one.queued({"f": "1"}, at="main")
    await (await Lander.of(one.loom, one.worktrees, one.prover, "main")).once()
    assert said.read_text() == f"{task.id} to main\n"


async def test_a_command_that_fails_to_offer_is_told_and_tried_again_so_many_times(one: Yard, shared: Shared) -> None:
    said = shared.place / "said"
    landing = replace(one.loom.config.landing, propose=("sh", "-c", f"echo x >> {said}; echo no account >&2; exit 3"))
    one.loom.config = replace(one.loom.config, landing=landing)
    shared.hook("update", 'test "$1" != refs/heads/main')
    task = await one.queued({"f": "1"})
    lander = await one.lander()
    report = await lander.once()
    assert [each.task_id for each in report.landed] == [task.id]
    told = f"{task.id} was not offered: `sh` ended with exit status 3: no account"
    assert [report.notes[-1], (await lander.once()).notes, (await lander.once()).notes] == [told, [told], [told]]
    assert (await lander.once()).notes == []
    assert said.read_text() == "x\n" * 3
    assert not one.held()


async def test_a_remote_that_refuses_everything_is_named(one: Yard, shared: Shared) -> None:
    shared.hook("pre-receive", "exit 1")
    task = await one.queued({"f": "1"})
    with pytest.raises(TargetHeldError, match="origin refuses"):
        await once(one)
    assert (await one.landing(task)).state is LandingState.QUEUED
    assert not await one.loom.look(lambda connection: landing_intents.still_open(connection, one.loom.project_id))


async def test_a_remote_or_branch_that_is_not_there_is_a_sentence(one: Yard) -> None:
    repository = one.worktrees.repository
    with pytest.raises(TargetError, match="has no remote upstream"):
        await RemoteTarget.of(repository, "upstream")
    with pytest.raises(TargetError, match="The remote origin has no branch gone"):
        await RemoteTarget.of(repository, "origin", "gone")
    with pytest.raises(TargetError, match="no name of a branch"):
        await RemoteTarget.of(repository, "origin", "a..b")
