"""Worktrees: whole or not at all, each held by one, led astray by nobody, and nothing of them lost."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loom.exceptions import CommandError, FileError, LoomError, TargetError
from loom.landing import moving, worktrees
from loom.landing.worktrees import Worktrees
from tests.repositories import git
from tests.waiting import alive, pids, until


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One with one commit."""
    top = tmp_path / "top"
    git(tmp_path, "init", "-q", "-b", "main", str(top))
    (top / "a.txt").write_text("one\n")
    git(top, "add", ".")
    git(top, "commit", "-q", "-m", "one")
    return top


async def of(repository: Path) -> Worktrees:
    """Those of another process: what it holds, the first one does not."""
    return await Worktrees.of(repository, repository.parent / "state")


@pytest.fixture
async def trees(repository: Path) -> Worktrees:
    """Those of a repository; `task` has one, with a new file."""
    trees = await of(repository)
    tree = await trees.make("task")
    (tree.path / "new.txt").write_text("hello\n")
    git(tree.path, "add", "new.txt")
    return trees


def put_before(git: str, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a script do what `git` is asked, a pattern; the rest is left to the real one."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "git").write_text(f"""#!/bin/sh
case "$*" in
*" {git}"*) {script} ;;
*) exec {shutil.which("git")} "$@" ;;
esac
""")
    (place / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(place), prepend=":")


async def test_what_has_failed_is_not_shown_as_nothing(trees: Worktrees, tmp_path: Path) -> None:
    assert "+hello" in await trees.changes("task")
    (index,) = (tmp_path / "top" / ".git" / "worktrees").glob("*/index")
    index.write_bytes(b"garbage")
    with pytest.raises(LoomError, match=r"^`git status --short` failed: fatal: .*index file"):
        await trees.changes("task")


async def test_what_git_says_of_a_failure_does_not_stop_it(
    trees: Worktrees, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_before("log", "yes warning | head -n 100000 >&2; echo broken >&2; exit 3", tmp_path, monkeypatch)
    with pytest.raises(LoomError, match=r"^`git log --oneline` failed: broken$"):
        await trees.changes("task")


@pytest.mark.parametrize("git", ["merge-base", "diff"])
async def test_a_git_that_hangs_is_stopped(
    git: str, trees: Worktrees, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worktrees, "_SHOW_SECONDS", 3)
    put_before(git, f"sleep 60 & echo $! > {tmp_path}/started; echo begun; wait", tmp_path, monkeypatch)
    async with asyncio.timeout(30):
        with pytest.raises(LoomError, match=f"^`git {git}` did not end within 3 seconds, and was stopped"):
            await trees.changes("task")
    assert [alive(pid) for pid in pids(tmp_path / "started")] == [False]


# --- anew -------------------------------------------------------------------------------------------------------------


def kept(repository: Path, task: str) -> list[str]:
    """What the commits hold that were set aside."""
    listed = git(repository, "for-each-ref", "--format=%(refname)", f"refs/loom/kept/loom/{task}").split()
    return sorted(git(repository, "show", "--format=", "--name-only", one).strip() for one in listed)


async def test_a_task_that_was_reopened_begins_on_a_new_branch(trees: Worktrees, repository: Path) -> None:
    tree = trees.find("task")
    assert tree is not None
    git(tree.path, "commit", "-q", "-m", "work")
    (tree.path / "loose.txt").write_text("not committed\n")
    reopened = datetime.now(UTC)
    anew = await trees.make("task", later_than=reopened)
    assert (anew.fresh, (anew.path / "new.txt").exists(), (anew.path / "loose.txt").exists()) == (True, False, False)
    assert git(anew.path, "rev-parse", "HEAD") == git(repository, "rev-parse", "HEAD")
    assert kept(repository, "task") == ["loose.txt", "new.txt"], "nothing of it is lost"
    (anew.path / "more.txt").write_text("more\n")
    again = await trees.make("task", later_than=reopened)
    assert (again.fresh, (again.path / "more.txt").exists()) == (False, True), "what was made since is gone on with"


async def test_a_branch_without_its_worktree_is_set_aside_too(trees: Worktrees, repository: Path) -> None:
    tree = trees.find("task")
    assert tree is not None
    git(tree.path, "commit", "-q", "-m", "work")
    assert "whose commits no other branch has" in await trees.drop(tree)
    assert (await trees.make("task", later_than=datetime.fromtimestamp(0, UTC))).fresh is False
    made = trees.find("task")
    assert made is not None
    await trees.drop(made)
    tree = await trees.make("task", later_than=datetime.now(UTC) + timedelta(seconds=1))
    assert (tree.fresh, (tree.path / "new.txt").exists(), kept(repository, "task")) == (True, False, ["new.txt"])


# --- what there is of one ---------------------------------------------------------------------------------------------


async def test_a_worktree_begins_at_the_commit_that_is_given(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD").strip()
    (repository / "b.txt").write_text("two\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "two")
    trees = await of(repository)
    old, new = await trees.make("old", first), await trees.make("new")
    assert (old.base, (old.path / "b.txt").exists()) == (first, False)
    assert (new.path / "b.txt").exists()
    assert (new.branch, git(new.path, "branch", "--show-current").strip()) == ("loom/new", "loom/new")
    assert (new.fresh, new.path.is_relative_to(repository)) == (True, False)
    with pytest.raises(CommandError, match=r"^nothing is no commit of the git repository"):
        await trees.make("none", "nothing")


async def test_a_branch_with_nothing_on_it_begins_anew(repository: Path) -> None:
    git(repository, "branch", "loom/task")
    git(repository, "commit", "-q", "--allow-empty", "-m", "two")
    tree = await (await of(repository)).make("task")
    assert (tree.fresh, git(tree.path, "rev-parse", "HEAD").strip()) == (True, tree.base)
    assert tree.base == git(repository, "rev-parse", "HEAD").strip()


async def test_a_pipe_that_an_agent_puts_among_gits_files_keeps_no_worktree_from_being_made(
    trees: Worktrees, repository: Path
) -> None:
    pointer = repository / ".git" / "worktrees" / "task" / "gitdir"
    pointer.unlink()
    os.mkfifo(pointer)
    assert (await trees.make("other")).fresh
    trees.leave(trees.find("task") or await trees.make("task"))
    assert (await (await of(repository)).make("task")).path.is_dir()
    assert pointer.is_file(), "it is mended for who enters"


async def test_a_branch_that_is_gone_on_with_began_where_it_left_what_lands(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD").strip()
    for task_id, words in (("task", ("-b",)), ("apart", ("--orphan",))):
        git(repository, "checkout", "-q", *words, f"loom/{task_id}")
        git(repository, "commit", "-q", "--allow-empty", "-m", "work")
        git(repository, "checkout", "-q", "main")
    git(repository, "commit", "-q", "--allow-empty", "-m", "landed meanwhile")
    trees = await of(repository)
    tree, apart = await trees.make("task"), await trees.make("apart")
    assert (tree.fresh, tree.base) == (False, first)
    assert (apart.fresh, apart.base) == (False, "")
    found = trees.find("task")
    assert found is not None
    assert found.base == first


async def test_a_retry_goes_on_in_the_same_place(trees: Worktrees, repository: Path) -> None:
    first = trees.find("task")
    assert first is not None
    trees.leave(first)
    again = await (await of(repository)).make("task", "HEAD")
    assert (again.fresh, again.path, again.base) == (False, first.path, first.base)
    assert (again.path / "new.txt").exists()


async def test_a_project_below_the_root_has_its_directory(repository: Path) -> None:
    (repository / "sub").mkdir()
    (repository / "sub" / "x").touch()
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "two")
    trees = await Worktrees.of(repository / "sub", repository.parent / "state")
    tree = await trees.make("task")
    assert tree.home == tree.path / "sub"
    assert (tree.home / "x").exists()


async def test_two_projects_in_one_repository_have_their_own(repository: Path) -> None:
    one = await Worktrees.of(repository, repository.parent / "one")
    other = await Worktrees.of(repository, repository.parent / "other")
    first, second = await one.make("task-1"), await other.make("task-2")
    assert {found.task_id for found in one.listed()} == {"task-1"}
    assert (first.slot, second.slot) == (1, 2)
    with pytest.raises(CommandError, match=r"'loom/task-1' is already checked out at"):
        await other.make("task-1")
    assert await one.drop(first) == ""
    assert (second.path / "a.txt").exists()


# --- made whole -------------------------------------------------------------------------------------------------------

MAKER = """
import asyncio, sys
from pathlib import Path
from loom.landing.worktrees import Worktrees

async def make():
    trees = await Worktrees.of(Path(sys.argv[1]), Path(sys.argv[2]))
    print("begins", flush=True)
    await trees.make("task")
    print("made", flush=True)

asyncio.run(make())
"""


@pytest.mark.parametrize("after", [0.0, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2])
async def test_one_whose_making_was_killed_is_made_again(repository: Path, after: float) -> None:
    for number in range(2_000):
        (repository / f"{number}.txt").write_text(f"{number}\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "many")
    state = repository.parent / "state"
    maker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MAKER, str(repository), str(state), stdout=asyncio.subprocess.PIPE
    )
    assert maker.stdout is not None
    assert await maker.stdout.readline() == b"begins\n"
    await asyncio.sleep(after)
    with suppress(ProcessLookupError):  # it was faster
        maker.kill()
    await maker.wait()
    trees = await of(repository)
    tree = await trees.make("task")
    assert await tree.repository.text("status", "--porcelain") == ""
    assert len([*tree.path.glob("*.txt")]) == 2_001
    assert len(git(repository, "worktree", "list").splitlines()) == 2
    assert await trees.drop(tree) == ""
    assert git(repository, "worktree", "list", "--porcelain").count("worktree ") == 1
    assert [*(repository / ".git" / "worktrees").glob("*")] == []


async def test_one_that_was_left_half_made_is_not_taken_for_whole(repository: Path) -> None:
    """As git leaves it when it is killed: all is there but most files, and it is locked."""
    trees = await of(repository)
    place = trees.state / "worktrees" / "task"
    git(repository, "worktree", "add", "--no-checkout", "-b", "loom/task", str(place))
    (repository / ".git" / "worktrees" / "task" / "locked").write_text("initializing\n")
    (repository / ".git" / "worktrees" / "task" / "index.lock").touch()
    (repository / ".git" / "worktrees" / "task1").mkdir()
    (repository / ".git" / "worktrees" / "task1" / "locked").write_text("initializing\n")
    assert trees.find("task") is None
    assert [found.whole for found in trees.listed()] == [False]
    tree = await trees.make("task")
    assert (tree.path / "a.txt").exists()
    assert [one.name for one in (repository / ".git" / "worktrees").iterdir()] == ["task"]


async def test_what_git_still_does_for_a_maker_that_died_is_waited_for(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its git goes on, and would write into what is made again."""
    with monkeypatch.context() as patched:
        put_before("reset", f'touch {tmp_path}/slow; sleep 1; exec {shutil.which("git")} "$@"', tmp_path, patched)
        maker = await asyncio.create_subprocess_exec(
            sys.executable, "-c", MAKER, str(repository), str(tmp_path / "state"), stdout=asyncio.subprocess.DEVNULL
        )
        await until((tmp_path / "slow").exists)
        maker.kill()
        await maker.wait()
    trees = await of(repository)
    assert [found.in_use for found in trees.listed()] == [True]
    assert await trees.prune(["task"]) == {"task": f"{trees.state / 'worktrees' / 'task'}: somebody works in it"}
    tree = await trees.make("task")
    assert await tree.repository.text("status", "--porcelain") == ""


async def test_a_making_that_is_cancelled_leaves_a_whole_one(repository: Path) -> None:
    trees = await of(repository)
    making = asyncio.create_task(trees.make("task"))
    while not (trees.state / "worktrees" / "task").exists():  # noqa: ASYNC110 - a file tells
        await asyncio.sleep(0)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    found = trees.find("task")
    assert found is not None
    assert await found.repository.text("status", "--porcelain") == ""
    assert [one.in_use for one in trees.listed()] == [False]


async def test_a_full_disk_leaves_nothing_half_made(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "large").write_text("x" * 100_000)
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "large")
    trees = await of(repository)
    with monkeypatch.context() as patched:
        # A bound on the size of files is met as a full disk is: a write fails.
        real = shutil.which("git")
        put_before("reset", f"trap '' XFSZ; ulimit -f 10; exec {real} \"$@\"", tmp_path, patched)
        with pytest.raises(CommandError, match=r"^`git reset --hard` failed: "):
            await trees.make("task")
    assert trees.listed() == []
    assert (await trees.make("task")).fresh


# --- held by one ------------------------------------------------------------------------------------------------------


async def test_what_another_process_works_in_is_not_entered(
    trees: Worktrees, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await of(repository)
    monkeypatch.setattr(worktrees, "_HELD_SECONDS", 0.2)
    with pytest.raises(CommandError, match=r"^Another process still works in .*/task\."):
        await other.make("task")
    assert [found.in_use for found in other.listed()] == [True]
    mine = trees.find("task")
    assert mine is not None
    monkeypatch.setattr(worktrees, "_HELD_SECONDS", 30)
    entering = asyncio.create_task(other.make("task"))
    await asyncio.sleep(0.2)
    assert not entering.done()
    trees.leave(mine)
    await entering


async def test_what_was_brought_in_halfway_is_not_taken_for_the_agents_work(trees: Worktrees, repository: Path) -> None:
    tree = trees.find("task")
    assert tree is not None
    (repository / "landed.txt").write_text("all of it\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "landed")
    old, new = (git(where, "rev-parse", "HEAD").strip() for where in (tree.path, repository))
    trees.leave(tree)
    record = {"work_tree": str(tree.path), "git_dir": str(tree.repository.git_dir), "ref": "", "old": old, "new": new}
    moving.beside(tree.path).write_text(json.dumps(record))
    (tree.path / "landed.txt").write_text("all")  # as git and whoever had started it were killed
    (tree.path / "mine.txt").write_text("all")
    tree = await trees.make("task")
    assert git(tree.path, "status", "--porcelain") == "A  new.txt\n?? mine.txt\n"
    git(tree.path, "rm", "-q", "-f", "new.txt")
    (tree.path / "mine.txt").unlink()
    assert await trees.drop(tree) == ""
    assert not moving.beside(tree.path).exists()


async def test_nothing_of_the_attempt_before_runs_where_a_retry_enters(trees: Worktrees, repository: Path) -> None:
    first = trees.find("task")
    assert first is not None
    mine = {**os.environ, "LOOM_TASK_ID": "task", "LOOM_RUN": "abc.1."}
    left = await asyncio.create_subprocess_exec("sleep", "60", env=mine, start_new_session=True)
    others = [
        await asyncio.create_subprocess_exec("sleep", "60", env={**os.environ, **env})
        for env in ({"LOOM_TASK_ID": "task"}, {"LOOM_TASK_ID": "task-2", "LOOM_RUN": "abc.2."})
    ]
    trees.leave(first)
    await (await of(repository)).make("task")
    assert not alive(left.pid)
    assert all(alive(one.pid) for one in others), "a person may look at it, and others work"
    for one in (left, *others):
        with suppress(ProcessLookupError):
            one.kill()
        await one.wait()


async def test_no_two_worktrees_in_use_have_one_slot(trees: Worktrees, repository: Path) -> None:
    other = await of(repository)
    second = await other.make("other")
    first = trees.find("task")
    assert first is not None
    assert (first.slot, second.slot, second.variables) == (1, 2, {"LOOM_SLOT": "2"})
    trees.leave(first)
    assert (await other.make("third")).slot == 1
    assert (await trees.make("task")).slot == 3, "its own is taken meanwhile"
    other.leave(second)
    assert (await other.make("other")).slot == 2, "what was made for it counts on"


# --- led astray by nobody ---------------------------------------------------------------------------------------------


async def test_an_agents_own_git_file_leads_nobody_on(trees: Worktrees, repository: Path, tmp_path: Path) -> None:
    tree = trees.find("task")
    assert tree is not None
    assert tree.repository.git_dir is not None
    evil = tmp_path / "evil"
    git(tmp_path, "init", "-q", str(evil))
    for pointer in (tree.path / ".git", tree.repository.git_dir / "commondir", tree.repository.git_dir / "gitdir"):
        pointer.write_text(f"gitdir: {evil}/.git\n")
    (tree.repository.git_dir / "index.lock").touch()
    for name in ("MERGE_MSG", "logs/HEAD"):
        (tree.repository.git_dir / name).unlink(missing_ok=True)
        (tree.repository.git_dir / name).symlink_to(tmp_path / "mine")
    trees.leave(tree)
    again = await (await of(repository)).make("task")
    assert again.repository == tree.repository
    git(again.path, "commit", "-q", "--allow-empty", "-m", "more")
    assert not (tmp_path / "mine").exists()
    git(again.path, "reset", "-q", "--soft", "HEAD~1")
    assert git(again.path, "rev-parse", "--absolute-git-dir").strip() == str(tree.repository.git_dir)
    assert git(again.path, "status", "--short") == "A  new.txt\n"
    assert len(git(repository, "worktree", "list").splitlines()) == 2


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", ["a pipe", "a directory", "a file without end"])
async def test_what_an_agent_puts_in_the_place_of_gits_own_files_holds_nobody_up(
    trees: Worktrees, repository: Path, what: str
) -> None:
    tree = trees.find("task")
    assert tree is not None
    git_dir = tree.repository.git_dir
    assert git_dir is not None
    if what == "a file without end":
        os.truncate(tree.path / ".git", 2**40)
    for path in (git_dir / "HEAD", git_dir / "index") if what != "a file without end" else ():
        path.unlink()
        os.mkfifo(path) if what == "a pipe" else path.mkdir()
    trees.leave(tree)
    again = await (await of(repository)).make("task")
    assert again.repository == tree.repository
    assert git(again.path, "branch", "--show-current").strip() == "loom/task"
    git(again.path, "add", "--all")
    assert git(again.path, "status", "--short") == "A  new.txt\n"


async def test_an_agents_own_repository_is_moved_aside(trees: Worktrees, repository: Path) -> None:
    tree = trees.find("task")
    assert tree is not None
    (tree.path / ".git").unlink()
    git(tree.path, "init", "-q")
    trees.leave(tree)
    again = await (await of(repository)).make("task")
    assert git(again.path, "branch", "--show-current").strip() == "loom/task"
    assert (tree.path.parent / "task.git" / "HEAD").exists()


async def test_a_link_in_the_place_of_a_worktree_is_not_followed(
    trees: Worktrees, repository: Path, tmp_path: Path
) -> None:
    tree = trees.find("task")
    assert tree is not None
    away = tmp_path / "away"
    tree.path.rename(away)
    tree.path.symlink_to(away)
    assert trees.find("task") is None
    trees.leave(tree)
    again = await (await of(repository)).make("task")
    assert again.fresh
    assert not again.path.is_symlink()
    assert (away / "new.txt").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", '{"common_dir": 1}', "null"])
async def test_a_damaged_mark_marks_nothing(trees: Worktrees, text: str) -> None:
    (trees.state / "worktrees" / "task.json").write_text(text)
    assert trees.find("task") is None


async def test_a_mark_that_names_another_place_marks_nothing(trees: Worktrees, tmp_path: Path) -> None:
    mark = trees.state / "worktrees" / "task.json"
    told = json.loads(mark.read_text())
    for key, value in (("git_dir", str(tmp_path / "evil")), ("common_dir", str(tmp_path / "evil"))):
        mark.write_text(json.dumps({**told, key: value}))
        assert trees.find("task") is None


# --- removed, and nothing lost ----------------------------------------------------------------------------------------


async def test_what_is_not_saved_elsewhere_stays(trees: Worktrees, repository: Path) -> None:
    tree = trees.find("task")
    assert tree is not None
    assert await trees.drop(tree) == f"{tree.path}: not all that lies in it is committed"
    git(tree.path, "commit", "-q", "-m", "more")
    (tree.path / "junk.txt").touch()
    assert "is committed" in await trees.drop(tree)
    (tree.path / "junk.txt").unlink()
    assert await trees.drop(tree) == "the branch loom/task, whose commits no other branch has"
    assert not tree.path.exists()
    again = await trees.make("task")
    assert (again.path / "new.txt").exists(), "its branch is gone on with"
    assert not again.fresh
    git(repository, "merge", "-q", "loom/task")
    assert await trees.drop(again) == ""
    assert git(repository, "branch", "--list", "loom/*") == ""
    assert [one.name for one in (trees.state / "worktrees").iterdir()] == []


async def test_a_worktree_that_its_agent_removed_goes(trees: Worktrees, repository: Path) -> None:
    tree = trees.find("task")
    assert tree is not None
    shutil.rmtree(tree.path)
    assert trees.find("task") is None
    assert await trees.drop(tree) == ""
    assert len(git(repository, "worktree", "list").splitlines()) == 1


async def test_what_is_over_is_pruned_and_what_would_be_lost_is_named(trees: Worktrees, repository: Path) -> None:
    task = trees.find("task")
    assert task is not None
    over, wanted = await trees.make("over"), await trees.make("wanted")
    (trees.state / "worktrees" / "half").mkdir()
    for one in (task, over, wanted):
        trees.leave(one)
    told = await (await of(repository)).prune(["task", "over", "unknown"])
    assert told == {"task": f"{task.path}: not all that lies in it is committed", "over": "", "half": ""}
    assert {found.task_id: (found.whole, found.in_use) for found in trees.listed()} == {
        "task": (True, False),
        "wanted": (True, False),
    }


async def test_a_branch_whose_worktree_is_gone_is_pruned_unless_something_would_be_lost(
    trees: Worktrees, repository: Path
) -> None:
    for name in ("loom-00000001", "loom-00000002", "loom-00000003"):
        git(repository, "branch", f"loom/{name}")
    git(repository, "update-ref", "refs/heads/loom/loom-00000002", git(
        repository, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit-tree", "-m", "x", "HEAD^{tree}"
    ).strip())  # fmt: skip
    told = await trees.prune(["loom-00000001", "loom-00000002"])
    assert told["loom-00000001"] == ""
    assert "whose commits no other branch has" in told["loom-00000002"]
    assert await trees.branches() == ["loom-00000002", "loom-00000003"]


# --- repositories that are not as others ------------------------------------------------------------------------------


async def test_a_branch_that_is_in_the_way_is_refused_by_name(repository: Path) -> None:
    git(repository, "branch", "loom")
    with pytest.raises(TargetError, match=r"^The branch loom stands in the way .* git branch -m loom NAME"):
        await of(repository)
    git(repository, "branch", "-d", "loom")
    there = repository / ".git" / "refs" / "heads" / "loom"
    for kind in ("file", "link"):
        there.touch() if kind == "file" else there.symlink_to(repository)
        with pytest.raises(TargetError, match=r"refs/heads/loom stands in the way .* Move it away\.$"):
            await of(repository)
        there.unlink()
    git(repository, "branch", "loom/landed")
    await of(repository)


@pytest.mark.parametrize("kind", ["none", "empty"])
async def test_without_a_commit_there_is_nothing_to_begin_from(tmp_path: Path, kind: str) -> None:
    if kind == "empty":
        git(tmp_path, "init", "-q")
    told = {"none": r"is not in a git repository, which worktrees need\.", "empty": r"has no commit to begin from\."}
    with pytest.raises(CommandError, match=told[kind]):
        await Worktrees.of(tmp_path, tmp_path / "state")


async def test_a_shallow_repository_is_worked_in(repository: Path, tmp_path: Path) -> None:
    git(repository, "commit", "-q", "--allow-empty", "-m", "two")
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{repository}", "shallow")
    trees = await Worktrees.of(tmp_path / "shallow", tmp_path / "more")
    tree = await trees.make("task")
    (tree.path / "new").touch()
    git(tree.path, "add", ".")
    git(tree.path, "commit", "-q", "-m", "new")
    assert " new\n" in await trees.changes("task")


async def test_what_lies_in_a_submodule_is_not_lost(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    git(tmp_path, "init", "-q", str(other))
    git(other, "commit", "-q", "--allow-empty", "-m", "one")
    git(repository, "submodule", "add", "-q", str(other), "sub")
    git(repository, "commit", "-q", "-m", "two")
    trees = await of(repository)
    tree = await trees.make("task")
    assert [*(tree.path / "sub").iterdir()] == []
    git(tree.path, "submodule", "update", "-q", "--init")
    sub = tree.path / "sub"
    (sub / "new.txt").touch()
    assert await trees.drop(tree) == f"{tree.path}: sub: not all that lies in it is committed"
    git(sub, "add", ".")
    git(sub, "commit", "-q", "-m", "its own")
    git(sub, "branch", "aside")
    git(sub, "reset", "-q", "--hard", "HEAD^")
    assert await trees.drop(tree) == f"{tree.path}: sub: it has commits that no remote has"
    git(sub, "branch", "-q", "-D", "aside")
    assert await trees.drop(tree) == ""
    assert not tree.path.exists()


async def test_a_submodule_that_has_stayed_behind_keeps_no_worktree(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    git(tmp_path, "init", "-q", str(other))
    for text in ("one", "two"):
        git(other, "commit", "-q", "--allow-empty", "-m", text)
    git(repository, "submodule", "add", "-q", str(other), "sub")
    git(repository, "commit", "-q", "-m", "two")
    trees = await of(repository)
    tree = await trees.make("task")
    git(tree.path, "submodule", "update", "-q", "--init")
    git(other, "commit", "-q", "--allow-empty", "-m", "three")
    git(repository / "sub", "pull", "-q")
    git(repository, "commit", "-q", "-a", "-m", "three")
    git(tree.path, "merge", "-q", git(repository, "rev-parse", "HEAD").strip())
    assert git(tree.path, "status", "--short") == " M sub\n"
    git(tree.path / "sub", "checkout", "-q", "HEAD^")  # which nothing names
    assert await trees.drop(tree) == f"{tree.path}: not all that lies in it is committed"
    git(tree.path, "submodule", "update", "-q")
    git(tree.path / "sub", "checkout", "-q", "HEAD^")
    assert await trees.drop(tree) == ""
    assert not tree.path.exists()


async def test_what_lies_in_a_submodule_of_a_submodule_or_in_one_that_is_not_fetched_is_not_lost(
    repository: Path, tmp_path: Path
) -> None:
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    for one in (inner, outer):
        git(tmp_path, "init", "-q", str(one))
        git(one, "commit", "-q", "--allow-empty", "-m", "one")
    git(outer, "submodule", "add", "-q", str(inner), "in")
    git(outer, "commit", "-q", "-m", "two")
    for path in ("out", "empty"):
        git(repository, "submodule", "add", "-q", str(outer), path)
    git(repository, "commit", "-q", "-m", "two")
    trees = await of(repository)
    tree = await trees.make("task")
    git(tree.path, "submodule", "update", "-q", "--init", "--recursive", "out")
    (tree.path / "out" / "in" / "new.txt").touch()
    (tree.path / "empty" / "new.txt").touch()
    inside = "out/in: not all that lies in it is committed"
    assert await trees.drop(tree) == f"{tree.path}: empty: files lie in it, though it was never fetched; {inside}"
    (tree.path / "out" / "in" / "new.txt").unlink()
    (tree.path / "empty" / "new.txt").unlink()
    assert await trees.drop(tree) == ""


async def test_a_branch_that_another_project_works_on_stays(repository: Path) -> None:
    one = await Worktrees.of(repository, repository.parent / "one")
    other = await Worktrees.of(repository, repository.parent / "other")
    tree = await other.make("loom-1")
    told = await one.prune(["loom-1"])  # which it does not know
    assert told == {"loom-1": f"the branch loom/loom-1, which is checked out in {tree.path}"}
    assert git(tree.path, "rev-parse", "--abbrev-ref", "HEAD") == "loom/loom-1\n"
    assert await other.drop(tree) == ""
    assert git(repository, "branch", "--list", "loom/*") == ""


async def test_large_files_without_a_filter_are_refused(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "sub").mkdir()
    (repository / "sub" / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "two")
    for key in ("clean", "smudge"):
        git(repository, "config", f"filter.lfs.{key}", "cat")
    with pytest.raises(CommandError, match=r"keeps files in Git LFS, whose filter may not run here"):
        await of(repository)
    await Worktrees.of(repository, tmp_path / "state", trusted=["filter.lfs"])
    Path("~/.gitconfig").expanduser().write_text('[filter "lfs"]\n\tclean = cat\n')
    with pytest.raises(CommandError, match=r"keeps files in Git LFS"):  # none runs where the repository sets it too
        await of(repository)
    git(repository, "config", "--remove-section", "filter.lfs")
    await of(repository)


async def test_a_filter_that_only_the_repository_has_is_told_before_anything_is_made(
    repository: Path, tmp_path: Path
) -> None:
    (repository / ".gitattributes").write_text("# filter=said\n*.a\tfilter=mine\n*.b -text filter=nobodys\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "two")
    for name in ("said", "other"):
        git(repository, "config", f"filter.{name}.clean", "cat")
    await of(repository)  # none that a file belongs through is set
    git(repository, "config", "filter.mine.smudge", "cat")
    with pytest.raises(CommandError, match="belong through the filter “mine”, which its own settings have") as refused:
        await of(repository)
    assert str(refused.value).endswith("landing.trusted_git: [filter.mine]")
    await Worktrees.of(repository, tmp_path / "state", to_make=False)
    await Worktrees.of(repository, tmp_path / "state", trusted=["filter.mine"])


async def test_worktrees_are_not_made_where_a_link_leads(repository: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "worktrees").symlink_to(away)
    with pytest.raises(FileError, match="is no directory of this user's own"):
        await of(repository)
    assert [*away.iterdir()] == []
