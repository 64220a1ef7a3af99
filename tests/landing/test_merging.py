"""Merging without a checkout, the one commit by which work comes onto the target, and conflicts for agents to mend."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from loom.exceptions import CommandError
from loom.landing import merging, moving
from loom.landing.merging import Brought, Conflict, Link, bring_in, chain, group
from tests.landing.place import SLOW, Place, kill_git, stays

ONE = Brought("loom-00000001", "ann-1", "One\nLoom-Task: loom-99999999")
TWO = Brought("loom-00000002", "bob-2", "---")


def branch(place: Place, name: str, files: dict[str, str], at: str = "main") -> str:
    """A branch with these files."""
    place.git("checkout", "-q", "-b", name, at)
    made = place.commit(name, files)
    place.git("checkout", "-q", "main")
    return made


async def test_branches_are_merged_one_behind_the_other(place: Place) -> None:
    one, two = branch(place, "one", {"one": "1"}), branch(place, "two", {"two": "2"})
    links, left = await chain(await place.repository(), place.tip(), [one, two])
    assert not left
    assert links[0] == Link(one, place.tip("one^{tree}"))  # it stands behind the tip as it is
    assert place.files(links[1].commit) == ["a.txt", "b.txt", "one", "two"]
    assert place.git("rev-parse", f"{links[1].commit}^1", f"{links[1].commit}^2").split() == [one, two]
    assert place.tip(f"{links[1].commit}^{{tree}}") == links[1].tree
    assert not place.status()


async def test_a_branch_in_conflict_is_left_out_and_the_others_are_merged(place: Place) -> None:
    one, two = branch(place, "one", {"a.txt": "1"}), branch(place, "two", {"a.txt": "2", "b.txt": "2"})
    three = branch(place, "three", {"three": "3"})
    links, left = await chain(await place.repository(), place.tip(), [one, two, three])
    assert left == [(1, Conflict(("a.txt",)))]
    assert place.files(links[-1].commit) == ["a.txt", "b.txt", "three"]


async def test_a_file_that_was_renamed_is_followed(place: Place) -> None:
    place.commit("long", {"long.txt": "".join(f"{n}\n" for n in range(40))})
    place.git("checkout", "-q", "-b", "one")
    place.git("mv", "long.txt", "renamed.txt")
    one = place.commit("one")
    place.git("checkout", "-q", "main")
    two = branch(place, "two", {"long.txt": "".join(f"{n}\n" for n in range(39)) + "last\n"})
    links, left = await chain(await place.repository(), place.tip(), [one, two])
    assert not left
    assert place.git("show", f"{links[-1].commit}:renamed.txt").endswith("last")


async def test_a_name_of_a_file_in_conflict_may_have_any_sign(place: Place) -> None:
    name = "d ir/\n\u00e9"
    one, two = branch(place, "one", {name: "1"}), branch(place, "two", {name: "2"})
    _, left = await chain(await place.repository(), place.tip(), [one, two])
    assert left[0][1].files == (name,)


async def test_what_has_no_history_in_common_conflicts_in_that(place: Place) -> None:
    place.git("checkout", "-q", "--orphan", "alone")
    alone = place.commit("alone")
    place.git("checkout", "-q", "main")
    _, left = await chain(await place.repository(), place.tip(), [alone])
    assert left == [(0, Conflict(()))]
    assert str(left[0][1]) == "It conflicts in its history."


async def test_a_group_is_one_commit_of_the_target_with_lines_for_each_task(place: Place) -> None:
    repository, old = await place.repository(), place.tip()
    one, two = branch(place, "one", {"one": "1"}), branch(place, "two", {"two": "2"})
    links, _ = await chain(repository, old, [one, two])
    made = await group(repository, old, links[-1], [ONE, TWO])
    assert place.git("rev-parse", f"{made}^@").split() == [old, links[-1].commit]
    assert place.git("log", "--first-parent", "--format=%H", f"{old}..{made}") == made
    assert place.tip(f"{made}^{{tree}}") == links[-1].tree
    shown = place.git("show", "-s", "--format=%an|%cn|%s|%(trailers:unfold)", made)
    assert shown.splitlines() == [
        "Loom|Loom|Land 2 tasks|Loom-Task: loom-00000001",
        "Loom-Agent: ann-1",
        "Loom-Task: loom-00000002",
        "Loom-Agent: bob-2",
    ]
    assert "- ---\n" in place.git("show", "-s", "--format=%B", made)


async def test_a_group_of_one_is_by_its_agent(place: Place) -> None:
    repository, old = await place.repository(), place.tip()
    links, _ = await chain(repository, old, [branch(place, "one", {"one": "1"})])
    made = await group(repository, old, links[-1], [ONE])
    assert place.git("show", "-s", "--format=%an|%cn|%s|%(trailers:unfold)", made) == (
        "ann-1|Loom|One Loom-Task: loom-99999999|Loom-Task: loom-00000001\nLoom-Agent: ann-1"
    )


async def test_a_branch_that_the_target_has_already_changes_nothing(place: Place) -> None:
    repository, old = await place.repository(), place.tip()
    links, left = await chain(repository, old, [place.git("rev-parse", "HEAD")])
    assert not left
    assert links[-1].tree == place.tip(f"{old}^{{tree}}")


# --- in an agent's worktree -------------------------------------------------------------------------------------------


async def test_what_has_landed_meanwhile_comes_into_the_worktree(place: Place, tmp_path: Path) -> None:
    agent = place.worktree(tmp_path / "agent", "loom/x")
    own = agent.commit("mine", {"mine": "1"})
    landed = place.commit("landed", {"landed": "2"})
    made = await bring_in(await agent.repository(), own, landed)
    assert isinstance(made, str)
    assert agent.tip() == made == place.tip("loom/x")
    assert agent.git("rev-parse", f"{made}^@").split() == [own, landed]
    assert agent.read("landed") == "2"
    assert not agent.status()
    assert await bring_in(await agent.repository(), made, landed) == made


async def test_who_is_stopped_while_the_files_are_written_leaves_all_of_them(place: Place, tmp_path: Path) -> None:
    agent = place.worktree(tmp_path / "agent", "loom/x")
    own = agent.commit("mine", {"c.txt": "c"})
    landed = place.commit("landed", {f"many/{number}.txt": f"{number}\n" for number in range(3_000)})
    bringing = asyncio.create_task(bring_in(await agent.repository(), own, landed))
    async with asyncio.timeout(30):
        while not (agent.top / "many" / "0.txt").exists():  # noqa: ASYNC110 - git does not say that it has begun
            await asyncio.sleep(0)
    bringing.cancel()
    with suppress(asyncio.CancelledError):
        await bringing
    assert not agent.status()
    assert len(list((agent.top / "many").iterdir())) == 3_000


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="the git is found by /proc")
@pytest.mark.parametrize("word", ["reset", "merge"])
@pytest.mark.parametrize("dies", [False, True], ids=["git", "both"])
async def test_a_worktree_is_whole_again_when_git_was_killed_over_what_comes_in(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, dies: bool
) -> None:
    place.commit("before", SLOW | {f"m{number}.txt": f"{number}\n" for number in range(3)})
    agent = place.worktree(tmp_path / "agent", "loom/x")
    own = agent.commit("mine", {"a.txt" if word == "merge" else "c.txt": "mine\n"})
    files = {f"m{number}.txt": f"{number} again\n" for number in range(3)} | {"m9.txt": "new\n", "a.txt": "b\n"}
    landed = place.commit("landed", files)
    stays(place, tmp_path, 1)
    repository = replace(await agent.repository(), trusted=frozenset({"filter.slow"}))
    with monkeypatch.context() as patch:
        if dies:  # who has begun it, before he has made anything whole

            async def died(*_: object) -> bool:
                return True

            patch.setattr(moving, "_made_whole", died)
        bringing = asyncio.create_task(bring_in(repository, own, landed))
        await kill_git(word, tmp_path)
        with pytest.raises(CommandError):
            await bringing
    if dies:
        assert agent.status()
        await moving.mend(repository, moving.beside(agent.top))
    assert not agent.status()
    assert agent.tip() == own
    assert isinstance(await bring_in(repository, own, landed), Conflict if word == "merge" else str)
    assert agent.read("m2.txt") == "2 again\n"


async def test_a_conflict_that_was_brought_in_by_who_died_then_is_brought_in_anew(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = place.worktree(tmp_path / "agent", "loom/x")
    own = agent.commit("mine", {"a.txt": "mine\n"})
    landed = place.commit("landed", {"a.txt": "theirs\n", "b.txt": "theirs\n", "new": "x"})
    repository, write = await agent.repository(), moving._write
    with monkeypatch.context() as patch:
        patch.setattr(moving, "_write", lambda lock, move: write(lock, move) if move else None)
        conflict = await bring_in(repository, own, landed)
    assert agent.tip("MERGE_HEAD") == landed
    await moving.mend(repository, moving.beside(agent.top))
    assert not agent.status()
    assert not (repository.git_dir / "MERGE_HEAD").exists()  # type: ignore[operator]
    assert await bring_in(repository, own, landed) == conflict
    assert agent.tip("MERGE_HEAD") == landed


async def test_a_conflict_is_left_to_the_agent_with_its_markers_and_the_tasks_are_named(
    place: Place, tmp_path: Path
) -> None:
    agent = place.worktree(tmp_path / "agent", "loom/x")
    own = agent.commit("mine", {"a.txt": "mine\n", "c.txt": "c"})
    side = branch(place, "side", {"a.txt": "theirs\n"})
    repository, old = await place.repository(), place.tip()
    links, _ = await chain(repository, old, [side])
    landed = await group(repository, old, links[-1], [TWO])
    other, _ = await chain(repository, landed, [branch(place, "other", {"b.txt": "b2\n"})])
    landed = await group(repository, landed, other[-1], [ONE])
    made = await bring_in(await agent.repository(), own, landed)
    assert made == Conflict(("a.txt",), ("loom-00000002",))
    assert str(made) == "It conflicts in a.txt, which loom-00000002 changed meanwhile."
    assert agent.tip("MERGE_HEAD") == landed
    assert "<<<<<<<" in agent.read("a.txt")
    assert agent.tip() == own


async def test_a_line_in_what_an_agent_committed_names_nobody(place: Place) -> None:
    repository, old = await place.repository(), place.tip()
    place.git("checkout", "-q", "-b", "side")
    forged = place.commit("forged\n\nLoom-Task: loom-99999999\n", {"a.txt": "x"})
    place.git("checkout", "-q", "main")
    links, _ = await chain(repository, old, [forged])
    landed = await group(repository, old, links[-1], [ONE])
    assert await merging.changed_by(repository, old, landed, ["a.txt"]) == ("loom-00000001",)


async def test_a_merge_that_cannot_begin_is_no_conflict(place: Place, tmp_path: Path) -> None:
    agent = place.worktree(tmp_path / "agent", "loom/x")
    own = agent.commit("mine", {"a.txt": "mine\n"})
    landed = place.commit("landed", {"a.txt": "theirs\n", "new": "x"})
    agent.write("new", "in the way")
    with pytest.raises(CommandError):
        await bring_in(await agent.repository(), own, landed)
    assert agent.read("new") == "in the way"
