"""Committing what an agent leaves in its worktree, whatever it did there, and what is refused."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from loom.exceptions import CommandError
from loom.git import Repository
from loom.landing import commits
from loom.landing.commits import Committed, Refusal, Work, commit
from loom.landing.merging import bring_in
from loom.landing.trailers import speaks_for_others
from tests.landing.place import Place

BRANCH = "loom/loom-00000001"
WORK = Work("loom-00000001", "Do it\nLoom-Task: loom-99999999", "ann-1")


class Agent(Place):
    """The worktree of a task, and the target as it stood when that began."""

    def __init__(self, top: Path, main: Place) -> None:
        super().__init__(top)
        self.main, self.base = main, main.tip()

    async def committed(
        self, *files: str, protected: tuple[str, ...] = (), target: str | None = None, base: str | None = None
    ) -> Committed | Refusal:
        """What Loom makes of what lies there, for a task with these files."""
        repository = await self.known()
        work = replace(WORK, files=files)
        base = self.base if base is None else base
        return await commit(repository, BRANCH, work, target=target or self.base, base=base, protected=protected)

    async def known(self) -> Repository:
        """By the directory that Loom has recorded, whatever lies in the worktree."""
        common = self.main.top / ".git"
        return Repository(self.top, common / "worktrees" / self.top.name, common)

    async def good(self, *files: str, **more: str) -> Committed:
        made = await self.committed(*files, **more)  # type: ignore[arg-type]
        assert isinstance(made, Committed), made
        assert self.main.tip(BRANCH) == made.commit
        assert self.main.git("show", "-s", "--format=%cn", made.commit) in ("Loom", "Ann")
        assert not self.status()
        assert self.git("symbolic-ref", "HEAD") == f"refs/heads/{BRANCH}"
        return made

    async def refused(self, *files: str, **more: object) -> str:
        before = self.main.git("rev-parse", "--verify", "-q", BRANCH, check=False)
        made = await self.committed(*files, **more)  # type: ignore[arg-type]
        assert isinstance(made, Refusal), made
        assert self.main.git("rev-parse", "--verify", "-q", BRANCH, check=False) == before
        return "\n".join(made.problems)


@pytest.fixture
def agent(place: Place, tmp_path: Path) -> Agent:
    place.commit("ignore", {".gitignore": "*.log\n/build/\n", "src/m.py": "m = 1\n"})
    return Agent(place.worktree(tmp_path / "agent", BRANCH).top, place)


# --- what is committed ------------------------------------------------------------------------------------------------


async def test_what_lies_there_is_committed_and_what_is_ignored_is_not(agent: Agent) -> None:
    agent.write("a.txt", "changed\n")
    agent.write("new dir/n\xe9w\n.txt", "new\n")
    agent.write("junk.log", "junk\n")
    agent.write("build/out", "junk\n")
    (agent.top / "b.txt").unlink()
    (agent.top / "link").symlink_to("/etc/passwd")
    (agent.top / "run.sh").write_text("#!/bin/sh\n")
    (agent.top / "run.sh").chmod(0o755)
    os.mkfifo(agent.top / "fifo")
    made = await agent.good()
    listed = agent.main.git("ls-tree", "-r", "-z", made.commit).split("\0")
    modes = {line.split("\t")[1]: line[:6] for line in listed if line}
    assert modes == {
        ".gitignore": "100644",
        "a.txt": "100644",
        "link": "120000",
        "new dir/n\xe9w\n.txt": "100644",
        "run.sh": "100755",
        "src/m.py": "100644",
    }
    assert set(made.changed) == {"a.txt", "b.txt", "link", "new dir/n\xe9w\N{REPLACEMENT CHARACTER}.txt", "run.sh"}
    assert made.outside == ()


async def test_a_commit_is_by_the_agent_and_made_by_loom_and_unsigned(agent: Agent) -> None:
    agent.main.git("config", "commit.gpgSign", "true")
    agent.main.git("config", "gpg.program", "/bin/false")
    agent.write("a.txt", "changed\n")
    made = await agent.good()
    shown = agent.main.git("show", "-s", "--format=%an|%ae|%cn|%s|%(trailers:only,unfold)", made.commit)
    assert shown == (
        "ann-1|ann-1@loom.invalid|Loom|Do it Loom-Task: loom-99999999|Loom-Task: loom-00000001\nLoom-Agent: ann-1"
    )
    assert "gpgsig" not in agent.main.git("cat-file", "commit", made.commit)


async def test_a_name_that_is_no_text_is_committed_and_shown_with_signs_in_its_place(agent: Agent) -> None:
    (agent.top / os.fsdecode(b"caf\xe9")).write_text("x")
    made = await agent.good()
    assert made.changed == ("caf\N{REPLACEMENT CHARACTER}",)


async def test_what_is_not_among_the_files_of_its_task_is_named(agent: Agent) -> None:
    agent.write("src/m.py", "m = 2\n")
    agent.write("src2.py", "x")
    agent.write("a.txt", "changed\n")
    made = await agent.good("src", "a.txt")
    assert made.outside == ("src2.py",)


async def test_a_file_that_was_made_executable_counts_though_the_repository_says_otherwise(agent: Agent) -> None:
    agent.main.git("config", "core.fileMode", "false")
    (agent.top / "a.txt").chmod(0o755)
    made = await agent.committed()
    assert isinstance(made, Committed)
    assert made.changed == ("a.txt",)


async def test_what_was_done_in_a_submodule_would_not_land_and_goes_back(place: Place, tmp_path: Path) -> None:
    other = Place(tmp_path / "other")
    place.git("clone", "-q", str(place.top), str(other.top))
    for path in ("part", "empty"):
        place.git("submodule", "add", "-q", str(other.top), path)
    place.commit("two", {})
    agent = Agent(place.worktree(tmp_path / "agent", BRANCH).top, place)
    agent.git("submodule", "update", "-q", "--init", "part")
    agent.write("c.txt", "new\n")
    agent.write("part/built.o", "as a build leaves it")
    assert isinstance(await agent.committed(), Committed)
    agent.write("part/a.txt", "changed\n")
    agent.write("empty/new.txt", "new\n")
    assert await agent.refused() == (
        "empty: files lie in it, though it was never fetched, and nothing of a submodule's own lands. Put it back.\n"
        "part: not all that lies in it is committed, and nothing of a submodule's own lands. Put it back."
    )
    (agent.top / "empty" / "new.txt").unlink()
    Place(agent.top / "part").commit("its own", {"a.txt": "changed\n"})
    assert "part: it has commits that no remote has" in await agent.refused()


async def test_a_submodule_that_the_target_moves_meanwhile_is_not_moved_back(place: Place, tmp_path: Path) -> None:
    other = Place(tmp_path / "other")
    place.git("clone", "-q", str(place.top), str(other.top))
    place.git("submodule", "add", "-q", str(other.top), "part")
    place.commit("two", {})
    agent = Agent(place.worktree(tmp_path / "agent", BRANCH).top, place)
    agent.git("submodule", "update", "-q", "--init")
    part, targets = Place(place.top / "part"), []
    for text in ("one", "two", "three"):
        new = other.commit(text)
        part.git("fetch", "-q", "origin")
        part.git("checkout", "-q", new)
        targets.append(place.commit(f"move it: {text}", {"b.txt": text}))

    async def landed(target: str) -> Committed:
        made = await agent.committed(target=target)
        assert isinstance(made, Committed), made
        await bring_in(await agent.known(), made.commit, target)
        assert agent.git("rev-parse", ":part") == place.git("rev-parse", f"{target}:part")
        return made

    agent.write("c.txt", "new\n")
    assert (await landed(targets[0])).changed == ("c.txt",)
    agent.write("c.txt", "mended\n")
    agent.git("commit", "-q", "-a", "-m", "mended")  # which takes the submodule back to where it lies
    assert place.git("rev-parse", f"{BRANCH}:part") == place.git("rev-parse", f"{agent.base}:part")
    assert (await landed(targets[1])).changed == ("c.txt",)
    agent.write("b.txt", "mine\n")
    assert (await landed(targets[2])).changed == ("b.txt", "c.txt")
    agent.write("b.txt", "both\n")  # of a conflict
    assert (await landed(targets[2])).changed == ("b.txt", "c.txt")

    new = other.commit("four")
    Place(agent.top / "part").git("fetch", "-q", "origin")
    Place(agent.top / "part").git("checkout", "-q", new)  # who moves it himself means it
    made = await agent.committed(target=targets[2])
    assert isinstance(made, Committed)
    assert made.changed == ("b.txt", "c.txt", "part")


async def test_committing_again_changes_nothing(agent: Agent) -> None:
    agent.write("a.txt", "changed\n")
    assert await agent.good() == await agent.good()


async def test_nothing_changed_is_the_target_itself_where_nothing_was_declared(agent: Agent) -> None:
    made = await agent.good()
    assert made == Committed(agent.base, (), ())


async def test_nothing_changed_is_refused_where_files_were_declared(agent: Agent) -> None:
    made = await agent.committed("src")
    assert isinstance(made, Refusal)
    assert made.nothing
    assert "Nothing was changed, though the task is for src." in made.problems[0]


async def test_empty_commits_are_nothing(agent: Agent) -> None:
    agent.commit("I have done it all")
    made = await agent.committed("src")
    assert isinstance(made, Refusal)
    assert made.nothing


# --- whatever the agent did to its branch -----------------------------------------------------------------------------


async def test_what_an_agent_committed_by_itself_stays_as_it_is(agent: Agent) -> None:
    agent.commit("by myself", {"a.txt": "1\n"})
    own = agent.commit("and more", {"c.txt": "2\n"})
    made = await agent.good()
    assert made.commit == own
    assert set(made.changed) == {"a.txt", "c.txt"}


async def test_what_it_left_uncommitted_comes_on_top(agent: Agent) -> None:
    own = agent.commit("by myself", {"a.txt": "1\n"})
    agent.write("c.txt", "2\n")
    made = await agent.good()
    assert agent.main.tip(f"{made.commit}^") == own


@pytest.mark.parametrize("line", ["Loom-Task: loom-99999999", "  LOOM-AGENT :  eve", "Loom-Task: loom-00000001 x"])
async def test_an_agents_history_that_speaks_for_others_becomes_one_commit(agent: Agent, line: str) -> None:
    agent.commit(f"sly\n\n{line}\nmore", {"a.txt": "1\n"})
    agent.commit("and more", {"c.txt": "2\n"})
    made = await agent.good()
    assert agent.main.tip(f"{made.commit}^") == agent.base
    assert "99999999" not in agent.main.git("log", "--format=%b", f"{agent.base}..{made.commit}")
    assert set(made.changed) == {"a.txt", "c.txt"}


@pytest.mark.timeout(30)
def test_a_message_is_gone_through_once_whatever_is_in_it() -> None:
    long = f"Loom-Task: x{' ' * 500_000}x"
    assert speaks_for_others(long, "loom-00000001", "ann-1")
    assert not speaks_for_others(f"Loom-Agent:  ann-1{' ' * 500_000}\n", "loom-00000001", "ann-1")


async def test_an_agents_history_that_speaks_for_itself_may(agent: Agent) -> None:
    own = agent.commit("mine\n\nLoom-Task: loom-00000001\nLoom-Agent: ann-1", {"a.txt": "1\n"})
    assert (await agent.good()).commit == own


@pytest.mark.parametrize("how", ["deleted", "orphan", "reset soft", "amended", "behind", "pointer"])
async def test_a_branch_that_an_agent_has_rewritten_or_deleted_is_made_again(agent: Agent, how: str) -> None:
    if how == "deleted":
        agent.git("update-ref", "-d", f"refs/heads/{BRANCH}")
    elif how == "orphan":
        agent.git("checkout", "-q", "--orphan", "fresh")
        agent.git("commit", "-q", "-m", "no history")
        agent.git("branch", "-q", "-M", BRANCH)
    elif how == "reset soft":
        agent.git("reset", "-q", "--soft", "HEAD^")
    elif how == "amended":
        agent.git("commit", "-q", "--amend", "-m", "mine")
    elif how == "behind":
        agent.git("reset", "-q", "--hard", "HEAD^")
        agent.write(".gitignore", "*.log\n/build/\n")
        agent.write("src/m.py", "m = 1\n")
    else:
        agent.git("symbolic-ref", f"refs/heads/{BRANCH}", "refs/heads/main")
    agent.write("c.txt", "2\n")
    made = await agent.good()
    assert agent.main.tip("main") == agent.base  # nothing but its own branch has moved
    assert set(agent.main.files(made.commit)) == {".gitignore", "a.txt", "b.txt", "c.txt", "src/m.py"}
    assert "c.txt" in made.changed
    assert agent.main.git("merge-base", made.commit, agent.base)


async def test_a_history_begun_anew_takes_nothing_back_that_was_merged_meanwhile(agent: Agent) -> None:
    agent.write("c.txt", "1\n")
    first = await agent.good()
    target = agent.main.commit("landed meanwhile", {"tests/other.py": "o = 1\n", "a.txt": "landed\n"})
    merged = await bring_in(await agent.known(), first.commit, target)
    assert isinstance(merged, str)
    agent.git("checkout", "-q", "--orphan", "fresh")
    agent.git("commit", "-q", "-m", "no history")
    agent.git("branch", "-q", "-M", BRANCH)
    agent.write("d.txt", "2\n")
    made = await agent.good(target=target, protected=("tests",))  # type: ignore[arg-type]
    assert set(made.changed) == {"c.txt", "d.txt"}


async def test_a_history_begun_anew_is_known_by_its_branch_where_the_worktree_was_made_again(agent: Agent) -> None:
    agent.commit("first try", {"c.txt": "1\n"})
    agent.git("checkout", "-q", "--orphan", "fresh")
    agent.git("commit", "-q", "-m", "no history")
    agent.git("update-ref", f"refs/heads/{BRANCH}", agent.tip())
    agent.git("checkout", "-q", BRANCH)
    agent.main.git("worktree", "remove", str(agent.top))
    agent.main.git("worktree", "add", "-q", str(agent.top), BRANCH)
    target = agent.main.commit("landed meanwhile", {"tests/other.py": "o = 1\n"})
    made = await agent.good(target=target, base="", protected=("tests",))  # type: ignore[arg-type]
    assert made.changed == ("c.txt",)


async def test_what_the_target_has_is_nobodys_change_however_it_came_to_lie_there(agent: Agent) -> None:
    target = agent.main.commit("landed meanwhile", {"tests/other.py": "o = 1\n", "a.txt": "landed\n"})
    agent.git("rm", "-q", "b.txt")
    agent.git("read-tree", "--reset", "-u", target)  # a merge that was killed before it was noted
    agent.write("c.txt", "1\n")
    made = await agent.good("c.txt", target=target, protected=("tests",))  # type: ignore[arg-type]
    assert (made.changed, made.outside) == (("c.txt",), ())


async def test_work_at_a_head_that_was_left_elsewhere_is_taken(agent: Agent) -> None:
    agent.git("checkout", "-q", "--detach")
    own = agent.commit("detached", {"a.txt": "1\n"})
    assert (await agent.good()).commit == own


async def test_who_only_looked_elsewhere_has_his_branch_back(agent: Agent) -> None:
    own = agent.commit("mine", {"a.txt": "1\n"})
    agent.git("checkout", "-q", "--detach", "HEAD^")
    assert (await agent.good()).commit == own
    assert agent.read("a.txt") == "1\n"


async def test_work_on_two_lines_is_refused(agent: Agent) -> None:
    agent.commit("mine", {"a.txt": "1\n"})
    agent.git("checkout", "-q", "--detach", "HEAD^")
    agent.commit("other", {"a.txt": "2\n"})
    assert "Your commits are on two lines" in await agent.refused()


@pytest.mark.parametrize("how", ["on two lines", "nothing in common"])
async def test_the_advice_for_a_history_of_its_own_brings_it_in_and_takes_nothing_back(agent: Agent, how: str) -> None:
    target = agent.main.commit("landed meanwhile", {"other.py": "o = 1\n"})
    agent.commit("mine", {"mine.txt": "1\n"}) if how == "on two lines" else None
    agent.git("checkout", "-q", "--orphan", "fresh")
    agent.commit("no history", {"d.txt": "2\n"})
    if how == "nothing in common":
        agent.git("branch", "-q", "-M", BRANCH)
        (agent.main.top / ".git/worktrees/agent/logs/HEAD").write_text("")
    told = await agent.refused(target=target, base="")
    assert how in told
    for advised in re.findall("`git ([^`]+)`", told):
        agent.git(*advised.split(" "))
    made = await agent.good(target=target)
    assert "d.txt" in made.changed
    assert "other.py" not in made.changed


async def test_work_on_what_has_landed_beside_its_own_branch_is_refused(agent: Agent) -> None:
    agent.commit("mine", {"a.txt": "1\n"})
    agent.git("checkout", "-q", "--detach", "HEAD^")
    agent.write("b.txt", "2\n")
    assert f"git checkout {BRANCH}" in await agent.refused()
    assert agent.read("b.txt") == "2\n"


async def test_a_rebase_under_way_is_refused(agent: Agent) -> None:
    onto = agent.main.commit("two", {"a.txt": "2\n"})
    agent.commit("mine", {"a.txt": "1\n"})
    agent.git("rebase", onto, check=False)
    assert "A rebase is under way" in await agent.refused()


async def test_a_pick_that_was_resolved_is_committed(agent: Agent) -> None:
    other = agent.main.commit("two", {"a.txt": "2\n"})
    agent.commit("mine", {"a.txt": "1\n"})
    agent.git("cherry-pick", other, check=False)
    assert "markers of a conflict" in await agent.refused()
    agent.write("a.txt", "1 and 2\n")
    made = await agent.good()
    assert agent.main.git("show", f"{made.commit}:a.txt") == "1 and 2"


# --- merges -----------------------------------------------------------------------------------------------------------


async def test_a_merge_that_the_agent_resolved_is_a_merge(agent: Agent) -> None:
    agent.commit("mine", {"a.txt": "mine\n"})
    target = agent.main.commit("landed", {"a.txt": "theirs\n", "src/m.py": "m = 3\n"})
    agent.git("merge", target, check=False)
    assert "a.txt has the markers of a conflict" in await agent.refused("a.txt", target=target)
    agent.write("a.txt", "both\n")
    made = await agent.good("a.txt", target=target)
    assert agent.main.tip(f"{made.commit}^2") == target
    assert made.changed == ("a.txt",)  # and not what others have landed
    assert not (agent.main.top / ".git/worktrees/agent/MERGE_HEAD").exists()


@pytest.mark.parametrize("kind", ["binary", "deleted", "deleted by them"])
async def test_a_conflict_without_markers_is_to_be_decided(agent: Agent, kind: str) -> None:
    agent.main.write("a.txt", "x\0y\n") if kind == "binary" else None
    mine = {"binary": "x\0mine\n"}.get(kind, "mine\n")
    if kind == "deleted":
        agent.git("rm", "-q", "a.txt")
        agent.commit("mine")
    else:
        agent.commit("mine", {"a.txt": mine})
    if kind == "deleted by them":
        agent.main.git("rm", "-q", "a.txt")
        target = agent.main.commit("landed")
    else:
        target = agent.main.commit("landed", {"a.txt": "x\0theirs\n" if kind == "binary" else "theirs\n"})
    agent.git("merge", target, check=False)
    assert "a.txt is in conflict, which shows in no markers" in await agent.refused(target=target)
    assert "a.txt is in conflict" in await agent.refused(target=target)  # also when asked again
    agent.write("a.txt", "decided\n")
    agent.git("add", "a.txt")
    await agent.good(target=target)


@pytest.mark.parametrize("how", ["-merge", "merge=own"])
async def test_a_conflict_in_what_git_does_not_merge_as_text_is_to_be_decided(agent: Agent, how: str) -> None:
    """Git leaves one side there, by which what has landed on the other would be taken back."""
    agent.main.git("config", "merge.own.driver", "false")
    for place in (agent, agent.main):
        place.commit("kinds", {".gitattributes": f"*.txt {how}\n*.md text eol=crlf\n"})
    agent.commit("mine", {"a.txt": "mine\n", "b.txt": "mine\n"})
    target = agent.main.commit("landed", {"a.txt": "theirs\n", "b.txt": "theirs\n"})
    agent.git("merge", target, check=False)
    assert "a.txt, b.txt is in conflict, which shows in no markers" in await agent.refused(target=target)
    agent.write("a.txt", "both\n")
    assert "b.txt is in conflict, which shows in no markers" in await agent.refused(target=target)
    agent.git("add", "b.txt")
    made = await agent.good(target=target)
    assert [agent.git("show", f"{made.commit}:{name}") for name in ("a.txt", "b.txt")] == ["both", "mine"]


async def test_a_conflict_that_became_a_pipe_is_to_be_decided(agent: Agent) -> None:
    agent.commit("mine", {"a.txt": "mine\n"})
    target = agent.main.commit("landed", {"a.txt": "theirs\n"})
    agent.git("merge", target, check=False)
    (agent.top / "a.txt").unlink()
    os.mkfifo(agent.top / "a.txt")
    assert "a.txt is in conflict, which shows in no markers" in await agent.refused(target=target)


# --- what is refused --------------------------------------------------------------------------------------------------


async def test_markers_of_a_conflict_are_refused(agent: Agent) -> None:
    agent.write("a.txt", "<<<<<<< HEAD\none\n=======\ntwo\n>>>>>>> x\n")
    assert await agent.refused() == "a.txt has the markers of a conflict (<<<<<<<, >>>>>>>). Resolve it."
    agent.commit("mine")
    assert "a.txt has the markers" in await agent.refused()


async def test_what_only_looks_like_markers_is_committed(agent: Agent) -> None:
    agent.write("a.rst", "Changes\n=======\n\n  <<<<<<< HEAD\n")
    agent.write("b.bin", "\0\n<<<<<<< HEAD\n")
    await agent.good()


async def test_markers_that_the_target_has_stay(agent: Agent) -> None:
    agent.base = agent.main.commit("docs of a conflict", {"doc.md": "<<<<<<< HEAD\n>>>>>>> x\n"})
    agent.git("merge", "-q", "--ff-only", agent.base)
    agent.write("doc.md", "<<<<<<< HEAD\n>>>>>>> x\nand so on\n")
    await agent.good()
    agent.write("doc.md", "<<<<<<< HEAD\n>>>>>>> x\n<<<<<<< HEAD\n")
    assert "doc.md has the markers" in await agent.refused()


@pytest.mark.parametrize("commits_there", [True, False])
async def test_a_repository_within_is_refused(agent: Agent, *, commits_there: bool) -> None:
    within = Place(agent.write("sub/x.txt", "x").parent)
    within.git("init", "-q")
    if commits_there:
        within.commit("x")
    assert "sub/ is a git repository of its own" in await agent.refused()
    if commits_there:
        agent.git("add", "sub")
        assert "sub is a git repository of its own" in await agent.refused()


async def test_an_ignored_repository_within_is_none_of_it(agent: Agent) -> None:
    within = Place(agent.write("build/dep/x.txt", "x").parent)
    within.git("init", "-q")
    agent.write("a.txt", "1\n")
    assert (await agent.good()).changed == ("a.txt",)


async def test_a_large_file_is_refused_and_not_even_stored(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "LARGEST", 1_000_000)
    data = os.urandom(1_000_001)
    (agent.top / "big.bin").write_bytes(data)
    assert "big.bin is larger than 1 MB" in await agent.refused()
    named = agent.main.git("hash-object", str(agent.top / "big.bin"))
    assert agent.main.git("cat-file", "-t", named, check=False) == ""


async def test_a_protected_path_is_for_the_tasks_that_name_it(agent: Agent) -> None:
    agent.write("tests/test_m.py", "assert True\n")
    assert "tests/test_m.py may not be changed by this task" in await agent.refused(protected=("tests",))
    assert "tests/test_m.py may not" in await agent.refused("tests/other.py", protected=("tests/",))
    assert "tests/test_m.py may not" in await agent.refused("src", protected=("./Tests/",))
    assert isinstance(await agent.committed(".", protected=("tests",)), Committed)
    made = await agent.committed("tests/test_m.py", protected=("tests",))
    assert isinstance(made, Committed)


@pytest.mark.parametrize("how", ["changed", "deleted", "renamed", "committed and put back"])
async def test_a_protected_path_is_protected_whatever_is_done_to_it(agent: Agent, how: str) -> None:
    if how == "changed":
        agent.write("src/m.py", "m = 2\n")
    elif how == "deleted":
        (agent.top / "src/m.py").unlink()
    elif how == "renamed":
        agent.git("mv", "src/m.py", "m.py")
    else:
        agent.commit("mine", {"src/m.py": "m = 2\n"})
        agent.write("src/m.py", "m = 1\n")
        assert (await agent.good()).changed == ()
        return
    assert "src/m.py may not be changed" in await agent.refused(protected=("src",))


@pytest.mark.parametrize("path", [".loom/config.yaml", "part/.loom/config.yaml", ".Loom/config.yaml"])
async def test_looms_own_files_never_land_even_where_a_task_names_them(agent: Agent, path: str) -> None:
    agent.write(path, "checks: {}\n")
    for files in (path.partition("/")[0], "."):
        assert "Loom's own files never land" in await agent.refused(files)


async def test_a_file_of_the_task_that_git_ignores_is_not_lost_in_silence(agent: Agent) -> None:
    agent.write("a.txt", "1\n")
    agent.write("out.log", "wanted\n")
    assert "out.log is ignored by git and would not land" in await agent.refused("a.txt", "out.log")


async def test_a_file_that_belongs_through_a_filter_is_not_committed_as_it_lies_there(agent: Agent) -> None:
    agent.write(".gitattributes", "*.bin filter=lfs\n")
    agent.write("x.bin", "large\n")
    assert "x.bin belongs through the filter “lfs”" in await agent.refused()
    (agent.top / "x.bin").unlink()
    await agent.good()


async def test_what_git_cannot_take_is_told_in_its_words(agent: Agent) -> None:
    agent.write("a.txt", "1\n")
    agent.write(".gitattributes", "*.txt working-tree-encoding=UTF-16\n")
    assert "cannot be committed" in await agent.refused()


async def test_all_that_is_wrong_is_told_at_once(agent: Agent) -> None:
    agent.write(".loom/x", "1\n")
    agent.write("src/m.py", "<<<<<<< x\n")
    agent.commit("mine")
    text = await agent.refused(protected=("src",))
    assert len(text.splitlines()) == 3


# --- attacks ----------------------------------------------------------------------------------------------------------


async def test_a_rewritten_git_file_leads_nowhere(agent: Agent, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (agent.top / ".evil").mkdir()
    shutil.copytree(agent.main.top / ".git", agent.top / ".evil" / "git")
    evil = agent.top / ".evil" / "git" / "config"
    evil.write_text(evil.read_text() + f'[filter "x"]\n clean = touch {ran}\n[core]\n fsmonitor = touch {ran}\n')
    (agent.top / ".git").write_text(f"gitdir: {agent.top}/.evil/git\n")
    agent.write(".gitattributes", "* filter=x\n")
    agent.write("a.txt", "1\n")
    await agent.committed()
    assert not ran.exists()


async def test_filters_hooks_and_monitors_of_the_repository_do_not_run(agent: Agent, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for key in ("filter.x.clean", "filter.x.smudge", "core.fsmonitor", "diff.x.textconv", "merge.x.driver"):
        agent.main.git("config", key, f"touch {ran}")
    for hook in ("pre-commit", "post-commit", "reference-transaction", "post-index-change"):
        path = agent.main.write(f".git/hooks/{hook}", f"#!/bin/sh\ntouch {ran}\n")
        path.chmod(0o755)
    agent.write("a.txt", "1\n")
    assert isinstance(await agent.committed(), Committed)
    assert not ran.exists()


async def test_a_full_disk_is_no_fault_of_the_agents(agent: Agent) -> None:
    agent.write("a.txt", "1\n")
    objects = agent.main.top / ".git" / "objects"
    moved = objects.rename(objects.with_name("objects.away"))
    (agent.main.top / ".git" / "objects").mkdir()
    with pytest.raises(CommandError):
        await agent.committed()
    (agent.main.top / ".git" / "objects").rmdir()
    moved.rename(objects)
    await agent.good()


def test_nothing_outside_of_the_worktree_is_looked_through(tmp_path: Path) -> None:
    top, outside = tmp_path / "top", tmp_path / "outside"
    for place in (top, outside):
        place.mkdir()
        (place / "a").write_text("<<<<<<< mine\n")
    (top / "led").symlink_to(outside)
    assert commits._looked_through(top, ["a", "led/a"]) == ([], {"a": 1})
