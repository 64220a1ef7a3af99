"""The branch that work lands on: where it stands, who moved it, and whether it can be moved."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from loom.exceptions import CommandError, TargetError, TargetHeldError
from loom.landing import moving, refs
from loom.landing.target import OWN, Known, Target, Tip
from loom.landing.worktrees import Worktrees
from tests.landing.place import ENV, SLOW, Place, kill_git, stays, where_it_stays


async def known(tip: str | None = None, *intents: str) -> Known:
    return Known(tip, frozenset(intents))


async def stands(target: Target, tip: str | None = None, *intents: str) -> Tip:
    return await target.tip(lambda: known(tip, *intents))


async def target_of(place: Place, name: str | None = None, places: Path | None = None) -> Target:
    return await Target.of(await place.repository(), name, places=places)


def landing(place: Place, old: str, files: dict[str, str] | None = None) -> str:
    """A commit behind `old` that nothing points to."""
    where = place.git("symbolic-ref", "-q", "--short", "HEAD", check=False) or place.tip()
    place.git("checkout", "-q", "--detach", old)
    made = place.commit("landing", files or {"new.txt": "new\n"})
    place.git("checkout", "-q", where)
    return made


# --- Loom's own -------------------------------------------------------------------------------------------------------


async def test_looms_own_branch_is_made_from_head(place: Place) -> None:
    target = await target_of(place)
    assert await stands(target) == Tip(place.tip())
    assert place.tip(OWN) == place.tip()


async def test_it_is_moved_from_the_value_that_is_known_and_no_other(place: Place) -> None:
    target = await target_of(place)
    old = (await stands(target)).commit
    new, other = landing(place, old), landing(place, old, {"other.txt": "other\n"})
    assert await target.move(old, new)
    assert not await target.move(old, other)
    assert place.tip(OWN) == new
    assert await target.contains(new)
    assert not await target.contains(other)
    assert not await target.contains("1" * 40)


async def test_of_many_who_move_it_at_once_one_does(place: Place) -> None:
    target = await target_of(place)
    old = (await stands(target)).commit
    commits = [landing(place, old, {f"f{n}": "x"}) for n in range(6)]
    moved = await asyncio.gather(*(target.move(old, one) for one in commits))
    assert moved.count(True) == 1
    assert place.tip(OWN) == commits[moved.index(True)]


@pytest.mark.parametrize("how", ["forward", "back", "away", "pointer", "deleted"])
async def test_it_is_put_back_where_somebody_else_has_moved_it(place: Place, how: str) -> None:
    target = await target_of(place)
    old = (await stands(target)).commit
    new = landing(place, old)
    await target.move(old, new)
    if how == "pointer":
        place.git("symbolic-ref", f"refs/heads/{OWN}", "refs/heads/main")
        there = old
    elif how == "deleted":
        place.git("update-ref", "-d", f"refs/heads/{OWN}")
        there = ""
    else:
        there = {"forward": landing(place, new, {"x": "x"}), "back": old, "away": landing(place, old, {"y": "y"})}[how]
        place.git("update-ref", f"refs/heads/{OWN}", there)
    tip = await stands(target, new)
    assert tip.commit == new == place.tip(OWN)
    assert place.tip("main") == old
    assert not place.git("symbolic-ref", "-q", f"refs/heads/{OWN}", check=False)
    if there:
        assert place.tip(refs.kept(OWN, there)) == there
        assert refs.kept(OWN, there) in tip.note


async def test_of_what_somebody_put_there_the_newest_is_kept_and_what_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refs, "_KEPT", 2)
    target = await target_of(place)
    old = (await stands(target)).commit
    made = []
    for year in ("2031", "2033", "2032", "2030"):
        monkeypatch.setitem(ENV, "GIT_COMMITTER_DATE", f"{year}-01-01T00:00:00")
        made.append(landing(place, old, {"x": year}))
        place.git("update-ref", f"refs/heads/{OWN}", made[-1])
        assert refs.kept(OWN, made[-1]) in (await stands(target, old)).note
    found = place.git("for-each-ref", "--format=%(objectname)", "refs/loom/kept").split()
    assert sorted(found) == sorted(made[1:])  # the last one is the oldest, and was told just now


async def test_what_loom_is_about_to_move_it_to_is_not_put_back(place: Place) -> None:
    target = await target_of(place)
    old = (await stands(target)).commit
    new = landing(place, old)
    await target.move(old, new)
    assert await stands(target, old, new) == Tip(new)


async def test_what_landed_between_two_looks_is_not_put_back(place: Place) -> None:
    """The branch was read before somebody moved it, and what is known after."""
    target = await target_of(place)
    old = (await stands(target)).commit
    new = landing(place, old)

    async def meanwhile() -> Known:
        await target.move(old, new)
        return Known(new)

    assert await target.tip(meanwhile) == Tip(new)
    assert place.tip(OWN) == new
    assert not place.git("for-each-ref", "refs/loom/kept")


async def test_a_landing_right_after_what_is_known_was_looked_up_is_not_put_back(place: Place) -> None:
    target = await target_of(place)
    old = (await stands(target)).commit
    new = landing(place, old)

    async def and_then() -> Known:
        found = Known(old)
        await target.move(old, new)
        return found

    assert await target.tip(and_then) == Tip(old)  # where it stood; the move from there will be refused
    assert place.tip(OWN) == new
    assert not place.git("for-each-ref", "refs/loom/kept")


async def projects(place: Place, tmp_path: Path) -> tuple[Target, Target]:
    """Loom's own branch, as two projects of the repository have it that know nothing else of each other."""
    repository = await place.repository()
    one, other = [
        await Target.of(repository, places=tmp_path / "state" / name, project_id=name) for name in ("one", "other")
    ]
    return one, other


@pytest.mark.parametrize("at", ["nowhere", "checkout"])
async def test_what_another_project_has_brought_is_gone_on_from(place: Place, tmp_path: Path, at: str) -> None:
    one, other = await projects(place, tmp_path)
    old = (await stands(one)).commit
    if at == "checkout":
        place.git("worktree", "add", "-q", str(tmp_path / "person"), OWN)
    first = landing(place, old)
    second = landing(place, first, {"second.txt": "x"})
    assert await one.move(old, first)
    assert await stands(other, old) == Tip(first)
    assert await one.move(first, second)
    assert await stands(other, old) == Tip(second)
    assert await stands(one, second) == Tip(second)
    assert not place.git("for-each-ref", "refs/loom/kept")


async def test_what_it_has_brought_stays_though_its_database_is_of_before(place: Place, tmp_path: Path) -> None:
    one, _ = await projects(place, tmp_path)
    old = (await stands(one)).commit
    new = landing(place, old)
    assert await one.move(old, new)
    assert await stands(one, old) == Tip(new)
    place.git("update-ref", f"refs/heads/{OWN}", landing(place, new, {"x": "x"}))
    assert "Somebody moved" in (await stands(one, new)).note


async def test_what_another_project_is_about_to_bring_hides_nothing_of_what_it_has(
    place: Place, tmp_path: Path
) -> None:
    """It tells before it moves, and may be killed in between."""
    one, other = await projects(place, tmp_path)
    old = (await stands(one)).commit
    first = landing(place, old)
    assert await one.move(old, first)
    about = landing(place, first, {"second.txt": "x"})
    place.git("update-ref", refs.tip("one", OWN), about)
    assert await stands(other, old) == Tip(first)
    assert await stands(one, first) == Tip(first)
    assert place.tip(refs.tip("one", OWN)) == first


async def test_what_no_project_has_brought_is_put_back_whoever_else_lands_there(place: Place, tmp_path: Path) -> None:
    one, other = await projects(place, tmp_path)
    old = (await stands(one)).commit
    inner = landing(place, old)
    place.git("checkout", "-q", "--detach", old)
    place.git("merge", "-q", "--no-ff", "-m", "landing", inner)
    group = place.tip()
    place.git("checkout", "-q", "main")
    assert await one.move(old, group)
    for there in (inner, landing(place, group), landing(place, old, {"away": "x"})):
        place.git("update-ref", f"refs/heads/{OWN}", there)
        assert refs.kept(OWN, there) in (await stands(other, old)).note
        assert place.tip(OWN) == old
    place.git("update-ref", f"refs/heads/{OWN}", group)
    assert await stands(other, old) == Tip(group)


async def test_what_it_had_is_put_back_where_a_person_has_it_checked_out(place: Place) -> None:
    target = await target_of(place)
    old = (await stands(target)).commit
    place.git("checkout", "-q", OWN)
    place.commit("of a person", {"a.txt": "his\n"})
    place.write("b.txt", "not committed\n")
    assert (await stands(target, old)).commit == old
    assert place.tip(OWN) == old
    assert place.read("a.txt") == "one\n"
    assert place.read("b.txt") == "not committed\n"


async def test_a_checkout_that_does_not_let_it_be_put_back_is_named(place: Place) -> None:
    target = await target_of(place)
    old = (await stands(target)).commit
    place.git("checkout", "-q", OWN)
    place.commit("of a person", {"a.txt": "his\n"})
    place.write("a.txt", "not committed\n")
    with pytest.raises(TargetHeldError, match=r"put it back: .*a.txt"):
        await stands(target, old)
    assert place.read("a.txt") == "not committed\n"


async def test_what_landed_in_another_clone_is_not_put_back(place: Place) -> None:
    target = await target_of(place)
    await stands(target)
    with pytest.raises(TargetError, match=r"is not in the repository") as refused:
        await stands(target, "1" * 40)
    assert "landing.remote" in str(refused.value)


# --- a person's -------------------------------------------------------------------------------------------------------


async def test_what_a_person_adds_to_his_branch_is_gone_on_from(place: Place) -> None:
    target = await target_of(place, "main")
    old = place.tip()
    assert await stands(target) == Tip(old)
    new = place.commit("of a person", {"c": "c"})
    assert await stands(target, old) == Tip(new)


@pytest.mark.parametrize("how", ["reset", "deleted"])
async def test_where_a_person_moves_his_branch_otherwise_landing_stops(place: Place, how: str) -> None:
    place.git("branch", "target")
    target = await target_of(place, "target")
    old = place.tip()
    new = landing(place, old)
    await target.move(old, new)
    if how == "reset":
        place.git("update-ref", "refs/heads/target", old)
    else:
        place.git("branch", "-q", "-D", "target")
    with pytest.raises(TargetError, match="moved by somebody else" if how == "reset" else "is gone"):
        await stands(target, new)
    assert place.git("rev-parse", "--verify", "-q", "target", check=False) == (old if how == "reset" else "")


async def test_what_landed_between_two_looks_does_not_stop_landing(place: Place) -> None:
    place.git("branch", "target")
    target = await target_of(place, "target")
    old = place.tip()
    new = landing(place, old)

    async def meanwhile() -> Known:
        await target.move(old, new)
        return Known(new)

    assert await target.tip(meanwhile) == Tip(new)


async def test_a_branch_that_points_to_another_is_not_landed_on(place: Place) -> None:
    place.git("symbolic-ref", "refs/heads/alias", "refs/heads/main")
    target = await target_of(place, "alias")
    with pytest.raises(TargetError, match="another name of refs/heads/main"):
        await stands(target)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gone", "There is no branch gone"),
        ("a..b", "no name of a branch"),
        ("-d", "no name of a branch"),
        ("HEAD", "no name of a branch"),
        ("", "no name of a branch"),
        ("a\nb", "no name of a branch"),
        ("loom/loom-00000000", "that Loom makes and removes"),
    ],
)
async def test_a_target_that_cannot_be_is_refused_in_a_sentence(place: Place, name: str, why: str) -> None:
    with pytest.raises(TargetError, match=why):
        await target_of(place, name)


@pytest.mark.parametrize("name", ["loom", "loom/landed/x"])
async def test_a_branch_that_stands_in_the_way_is_refused_by_name(place: Place, name: str) -> None:
    place.git("branch", name)
    with pytest.raises(TargetError, match=f"The branch {name} stands in the way"):
        await target_of(place)


async def test_a_repository_without_a_commit_is_refused(tmp_path: Path) -> None:
    empty = Place(tmp_path)
    empty.git("init", "-q")
    with pytest.raises(CommandError, match="has no commit to begin from"):
        await target_of(empty)


# --- where it is checked out ------------------------------------------------------------------------------------------


async def test_the_files_of_a_checkout_follow(place: Place) -> None:
    target = await target_of(place, "main")
    old = place.tip()
    new = landing(place, old)
    place.write("b.txt", "not committed\n")
    place.write("junk.txt", "unknown to git\n")
    assert await target.move(old, new)
    assert place.tip("main") == new
    assert place.read("new.txt") == "new\n"
    assert place.status().split() == ["M", "b.txt", "??", "junk.txt"]


async def test_the_files_of_another_worktree_follow(place: Place, tmp_path: Path) -> None:
    place.git("branch", "target")
    other = Place(tmp_path / "other")
    place.git("worktree", "add", "-q", str(other.top), "target")
    target = await target_of(place, "target")
    old = place.tip()
    assert await target.move(old, landing(place, old))
    assert other.read("new.txt") == "new\n"
    assert not other.status()


# --- where git is killed on the way -----------------------------------------------------------------------------------


async def checked_out(place: Place, tmp_path: Path, after: int) -> tuple[Target, str, str]:
    """A target that is checked out, from where and to where it is to be moved. Its git stays after so many of four
    files in the middle."""
    files = {"a.txt": "a\n" * 9, "gone.txt": "g", "turned/x": "x", "zz.txt": "z\n", "his": ""}
    old = place.commit("before", SLOW | {f"m{n}.txt": f"{n}\n" for n in range(4)} | files)
    place.git("checkout", "-q", "--detach")
    place.git("rm", "-q", "gone.txt", "turned/x")
    (place.top / "link").symlink_to("a.txt")
    files = {"a.txt": "b\n" * 99, "deep/b.txt": "d", "last.txt": "l", "turned": "t", "zz.txt": "y"}
    new = place.commit("after", {f"m{n}.txt": f"{n} again\n" for n in range(4)} | files)
    place.git("checkout", "-q", "main")
    stays(place, tmp_path, after)
    (tmp_path / "state").mkdir()
    repository = replace(await place.repository(), trusted=frozenset({"filter.slow"}))
    return await Target.of(repository, "main", places=tmp_path / "state"), old, new


async def killed(target: Target, old: str, new: str, tmp_path: Path) -> None:
    """Moves it, and kills its git where that stays."""
    move = asyncio.create_task(target.move(old, new))
    await kill_git("--ff-only", tmp_path)
    with pytest.raises(CommandError):
        await move


async def left_half_moved(target: Target, old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moves it, and kills its git there; who moved it dies too, before he has made anything whole."""

    async def died(*_: object) -> bool:
        return True

    with monkeypatch.context() as patch:
        patch.setattr(moving, "_made_whole", died)
        await killed(target, old, new, tmp_path)


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="the git is found by /proc")
@pytest.mark.parametrize("after", [0, 1, 3])
async def test_a_checkout_is_whole_again_when_git_was_killed_on_the_way(
    place: Place, tmp_path: Path, after: int
) -> None:
    target, old, new = await checked_out(place, tmp_path, after)
    place.write("his", "not committed\n")
    await killed(target, old, new, tmp_path)
    assert place.status().split() == ["M", "his"]
    assert place.tip("main") == old
    assert await target.move(old, new)
    assert place.status().split() == ["M", "his"]
    assert place.tip("main") == new


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="the git is found by /proc")
async def test_a_successor_makes_a_checkout_whole_and_leaves_what_is_the_users(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that moved it has died too, and its user has gone on before anybody saw to it."""
    target, old, new = await checked_out(place, tmp_path, 2)
    await left_half_moved(target, old, new, tmp_path, monkeypatch)
    assert (place.top / ".git" / "index.lock").exists()
    assert len(place.status().splitlines()) > 2, "half of it is there"
    place.write("m0.txt", "0 ag")  # as where git was killed within a file
    place.write("a.txt", "his\n")
    assert (await stands(target, old)).commit == old
    assert place.read("a.txt") == "his\n"
    assert place.status().split() == ["M", "a.txt"]
    assert not (place.top / ".git" / "index.lock").exists()
    place.git("checkout", "-q", "a.txt")
    assert await target.move(old, new)


async def test_another_project_makes_a_checkout_whole_where_the_git_of_one_was_killed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, old, new = await checked_out(place, tmp_path, 1)
    await left_half_moved(target, old, new, tmp_path, monkeypatch)
    assert (place.top / ".git" / "index.lock").exists()
    other = replace(target, places=tmp_path / "other")
    assert (await stands(other, old)).commit == old
    assert place.status() == ""


async def test_a_checkout_that_git_had_moved_to_the_end_stays_so_and_keeps_a_lock_of_before(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever moved it has died right after, before he had noted that."""
    (tmp_path / "state").mkdir()
    target = await target_of(place, "main", places=tmp_path / "state")
    old = place.tip()
    new = landing(place, old, {"a.txt": "landed\n", "new.txt": "new\n"})
    write = moving._write
    with monkeypatch.context() as patch:
        patch.setattr(moving, "_write", lambda lock, move: write(lock, move) if move else None)
        assert await target.move(old, new)
    of_before = place.top / ".git" / "ORIG_HEAD.lock"
    of_before.touch()
    os.utime(of_before, (0, 0))
    assert (await stands(target, new)).commit == new
    assert place.status() == ""
    assert of_before.exists()


@pytest.mark.timeout(30)
async def test_a_pipe_among_the_files_of_a_checkout_holds_nobody_up_who_makes_it_whole(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, old, new = await checked_out(place, tmp_path, 1)
    await left_half_moved(target, old, new, tmp_path, monkeypatch)
    (place.top / "m0.txt").unlink(missing_ok=True)
    os.mkfifo(place.top / "m0.txt")
    assert (await stands(target, old)).commit == old
    assert (place.top / "m0.txt").is_fifo()


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="the git is found by /proc")
async def test_what_its_user_has_put_in_the_place_of_a_file_stays(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, old, new = await checked_out(place, tmp_path, 1)
    await left_half_moved(target, old, new, tmp_path, monkeypatch)
    (place.top / "m0.txt").unlink(missing_ok=True)
    place.write("m0.txt/his", "his\n")
    shutil.rmtree(place.top / "turned", ignore_errors=True)
    (place.top / "turned").write_text("his\n")
    assert (await stands(target, old)).commit == old
    assert [place.read("m0.txt/his"), place.read("turned")] == ["his\n", "his\n"]


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="the git is found by /proc")
async def test_a_git_that_moves_a_checkout_holds_what_says_so_while_it_lives(place: Place, tmp_path: Path) -> None:
    target, old, new = await checked_out(place, tmp_path, 1)
    move = asyncio.create_task(target.move(old, new))
    (git,) = await where_it_stays("--ff-only", tmp_path)
    held = {os.path.realpath(one) for one in Path(f"/proc/{git}/fd").iterdir()}
    assert str(moving.of_targets(target.repository, tmp_path / "state").resolve()) in held
    await kill_git("--ff-only", tmp_path)
    with pytest.raises(CommandError):
        await move


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="the git is found by /proc")
async def test_what_a_git_that_works_there_holds_is_left_to_it(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, old, new = await checked_out(place, tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(moving, "_is_git_in", lambda pid, top: True)
        await killed(target, old, new, tmp_path)
        assert (place.top / ".git" / "index.lock").exists()
        with pytest.raises(CommandError, match="A git works in"):
            await target.move(old, new)
    assert await target.move(old, new)


@pytest.mark.parametrize("what", ["changed", "staged", "untracked", "ignored", "merging", "index.lock"])
async def test_a_checkout_in_which_something_would_be_lost_does_not_let_it_move(place: Place, what: str) -> None:
    if what == "ignored":
        place.commit("ignore", {".gitignore": "new.txt\n"})
    target = await target_of(place, "main")
    old = place.tip()
    place.git("checkout", "-q", "--detach")
    place.write("new.txt", "new\n")
    place.git("add", "-f", "new.txt")
    new = place.commit("landing", {"a.txt": "landed\n"})
    place.git("checkout", "-q", "main")
    if what in ("changed", "staged"):
        place.write("a.txt", "not committed\n")
    if what == "staged":
        place.git("add", "a.txt")
    if what in ("untracked", "ignored"):
        place.write("new.txt", "his\n")
    if what == "merging":
        place.git("checkout", "-q", "-b", "side")
        place.commit("side", {"side": "x"})
        place.git("checkout", "-q", "main")
        place.git("merge", "-q", "--no-commit", "--no-ff", "side")
    if what == "index.lock":
        (place.top / ".git" / "index.lock").touch()
    before = place.status()
    with pytest.raises(TargetHeldError, match="where git refuses: "):
        await target.move(old, new)
    assert place.tip("main") == old
    if what != "index.lock":
        assert place.status() == before
    if what in ("untracked", "ignored"):
        assert place.read("new.txt") == "his\n"


@pytest.mark.parametrize("what", ["rebase", "bisect"])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_branch_in_the_hands_of_a_rebase_or_bisection_is_left_alone(
    place: Place, tmp_path: Path, what: str, where: str
) -> None:
    place.git("branch", "onto")
    place.git("checkout", "-q", "-b", "target")
    place.commit("two", {"a.txt": "two\n"})
    at = place
    place.git("checkout", "-q", "main")
    place.git("update-ref", "refs/heads/onto", landing(place, place.tip("main"), {"a.txt": "three\n"}))
    target = await target_of(place, "target")
    old = place.tip("target")
    new = landing(place, old)
    if where == "elsewhere":
        at = Place(tmp_path / "other")
        place.git("worktree", "add", "-q", str(at.top), "target")
    else:
        place.git("checkout", "-q", "target")
    if what == "rebase":
        at.git("rebase", "onto", check=False)
    else:
        at.git("bisect", "start")
        at.git("bisect", "bad")
        at.git("bisect", "good", "main")
        at.git("checkout", "-q", "--detach")
    with pytest.raises(TargetHeldError, match=f"in the middle of a {what}"):
        await target.move(old, new)
    assert place.tip("target") == old


async def test_a_branch_that_is_checked_out_twice_is_left_alone(place: Place, tmp_path: Path) -> None:
    target = await target_of(place, "main")
    new = landing(place, place.tip())
    place.git("worktree", "add", "-q", "-f", str(tmp_path / "other"), "main")
    with pytest.raises(TargetHeldError, match=r"is checked out in .* and in "):
        await target.move(place.tip(), new)


async def test_a_checkout_whose_directory_is_gone_holds_nothing_up(place: Place, tmp_path: Path) -> None:
    place.git("branch", "target")
    place.git("worktree", "add", "-q", str(tmp_path / "other"), "target")
    (tmp_path / "other").rename(tmp_path / "moved away")
    target = await target_of(place, "target")
    assert await target.move(place.tip(), landing(place, place.tip()))


@pytest.mark.parametrize("what", ["a pipe", "a link to one"])
async def test_a_pipe_that_an_agent_puts_among_gits_files_holds_nothing_up(
    place: Place, tmp_path: Path, what: str
) -> None:
    target = await target_of(place, places=tmp_path / "places")
    old = (await stands(target)).commit
    place.worktree(tmp_path / "places" / "one", "loom/one")
    new = landing(place, old)
    pointer = place.top / ".git/worktrees/one/gitdir"
    pointer.unlink()
    os.mkfifo(tmp_path / "pipe" if what == "a link to one" else pointer)
    if what == "a link to one":
        pointer.symlink_to(tmp_path / "pipe")
    (place.top / ".git/rebase-merge").mkdir()
    os.mkfifo(place.top / ".git/rebase-merge/head-name")
    assert await target.move(old, new)
    assert place.tip(OWN) == new


@pytest.mark.parametrize("how", ["checkout", "rebase"])
async def test_an_agent_that_takes_the_target_into_its_hands_holds_nothing_up(
    place: Place, tmp_path: Path, how: str
) -> None:
    target = await target_of(place, places=tmp_path / "places")
    old = (await stands(target)).commit
    agents = place.worktree(tmp_path / "places" / "one", "loom/one")
    agents.git("checkout", "-q", OWN)
    if how == "rebase":
        (place.top / ".git/worktrees/one/rebase-merge").mkdir()
        (place.top / ".git/worktrees/one/rebase-merge/head-name").write_text(f"refs/heads/{OWN}\n")
    agents.write("a.txt", "not committed\n")
    new = landing(place, old, {"a.txt": "landed\n"})
    assert await target.move(old, new)
    assert place.tip(OWN) == new
    assert agents.tip() == old  # detached where it stood
    assert agents.status() == "M a.txt"


async def test_an_agent_that_says_his_worktree_is_somebody_elses_has_nothing_written_there(
    place: Place, tmp_path: Path
) -> None:
    old = place.tip()
    trees = await Worktrees.of(place.top, tmp_path / "state")
    tree = await trees.make("task")
    target = await target_of(place, places=tmp_path / "state")
    assert (await stands(target)).commit == old
    git_dir = tree.repository.git_dir
    assert git_dir is not None
    Place(tree.path).git("symbolic-ref", "HEAD", f"refs/heads/{OWN}")
    (git_dir / "gitdir").write_text(f"{place.top}/.git\n")  # the user's, who is on another branch there
    new = landing(place, old, {"a.txt": "landed\n"})
    assert await target.move(old, new)
    assert place.tip(OWN) == new
    assert (place.status(), place.tip(), place.git("symbolic-ref", "--short", "HEAD")) == ("", old, "main")
    assert Place(tree.path).tip() == old


async def test_what_the_user_has_merges_do_loses_nothing_here(place: Place) -> None:
    """His settings would stash what lies there, squash, or make a merge commit."""
    target = await target_of(place, "main")
    old = place.tip()
    new = landing(place, old, {"a.txt": "landed\n"})
    for key, value in (("merge.autoStash", "true"), ("branch.main.mergeOptions", "--squash"), ("merge.ff", "false")):
        place.git("config", key, value)
    place.write("a.txt", "not committed\n")
    with pytest.raises(TargetHeldError):
        await target.move(old, new)
    assert place.read("a.txt") == "not committed\n"
    place.git("checkout", "-q", "a.txt")
    assert await target.move(old, new)
    assert place.tip("main") == new


# --- locks ------------------------------------------------------------------------------------------------------------


async def test_a_lock_that_a_git_left_behind_goes_after_a_minute_and_only_for_who_is_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refs, "_LOCKED_SECONDS", 0.3)
    target = await target_of(place)
    old = (await stands(target)).commit
    new = landing(place, old)
    lock = place.top / ".git" / "refs" / "heads" / f"{OWN}.lock"
    lock.touch()
    with pytest.raises(CommandError, match="could not move a ref"):
        await target.move(old, new, alone=True)
    os.utime(lock, (time.time() - 61,) * 2)
    with pytest.raises(CommandError, match="could not move a ref"):
        await target.move(old, new)
    assert await target.move(old, new, alone=True)
    assert place.tip(OWN) == new


async def test_what_kept_a_commit_goes_with_the_move(place: Place) -> None:
    target = await target_of(place)
    old = (await stands(target)).commit
    new = landing(place, old)
    await refs.change(target.repository, f"create {refs.held('project', new)} {new}")
    assert not await target.move(new, old, release=[refs.held("project", new)])
    assert place.tip(refs.held("project", new)) == new
    assert await target.move(old, new, release=[refs.held("project", new)])
    assert not place.git("for-each-ref", "refs/loom")
