"""Reporting work as done where checks have to prove it: what is proven, and what a report then comes to."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from loom.caller import Caller, calling
from loom.config import CheckConfig, LandingConfig
from loom.exceptions import CheckFailedError, ClaimConflictError, CommandError, ConfigError, ProofMissingError
from loom.git import Repository
from loom.graph.front import Loom
from loom.graph.rules.claims import Outcome
from loom.landing import checkout
from loom.landing.report import Reports
from loom.landing.snapshot import Snapshot
from loom.landing.worktrees import Worktrees
from loom.replies import Checking
from tests.conftest import Opener
from tests.landing.place import Place
from tests.waiting import until_renewed

GREEN = "import mod; assert mod.ONE == 1"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def bare_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "bare"
    directory.mkdir()
    return directory


Reporter = Callable[..., Reports]


@pytest.fixture
async def reporter(open_loom: Opener) -> AsyncIterator[Reporter]:
    """Reports of a project in a directory, whose every task needs a check that runs a script of Python."""
    made: list[Reports] = []
    base = await open_loom()

    def make(directory: Path, script: str = GREEN, *, every: tuple[str, ...] = ("unit",), timeout: int = 60) -> Reports:
        row = CheckConfig((sys.executable, "-c", script), timeout=timeout)
        config = replace(base.config, project_dir=directory, checks={"unit": row}, landing=LandingConfig(checks=every))
        made.append(Reports(Loom(config, agent="ada")))
        return made[-1]

    yield make
    for one in made:
        await one.close()
        await one._loom.close()


async def claimed(reports: Reports, checks: tuple[str, ...] = ()) -> str:
    task = await reports._loom.create("a task")
    await reports._loom.look(
        lambda connection: connection.execute("update tasks set checks = $1 where id = $2", checks, task.id)
    )
    claim = await reports._loom.claim(task.id)
    assert claim is not None
    return task.id


async def finished(reports: Reports, task_id: str, **more: object) -> str:
    made = await reports.done(task_id, {"a": 1}, **more)  # type: ignore[arg-type]
    assert isinstance(made, Outcome)
    return str(made.task.status)


async def runs(reports: Reports) -> list[tuple[str | None, int | None]]:
    rows = await reports._loom.look(lambda connection: connection.fetch("select * from proofs order by id"))
    return [(row["task_id"], row["exit_status"]) for row in rows]


async def test_work_is_done_with_what_lies_there_and_the_user_sees_nothing_of_it(
    place: Place, reporter: Reporter
) -> None:
    place.commit(files={"mod.py": "ONE = 2\n", ".gitignore": "junk\n"})
    place.write("mod.py", "ONE = 1\n")  # not committed, and one that git does not know beside it
    place.write("new.py")
    place.git("add", "new.py")
    before = place.status(), place.tip(), place.git("count-objects"), place.git("for-each-ref")
    reports = reporter(place.top, f"{GREEN}; import new, subprocess; print(subprocess.check_output(['git', 'log']))")
    task = await claimed(reports)
    assert await finished(reports, task) == "done"
    assert await runs(reports) == [(task, 0)]
    assert (place.status(), place.tip(), place.git("count-objects"), place.git("for-each-ref")) == before


async def test_a_red_check_fails_nothing_and_the_claim_stays(place: Place, reporter: Reporter) -> None:
    place.commit(files={"mod.py": "ONE = 2\n"})
    reports = reporter(place.top, "import mod; print('it is', mod.ONE); assert mod.ONE == 1")
    task = await claimed(reports)
    with pytest.raises(CheckFailedError, match="is not proven: unit is red") as caught:
        await reports.done(task)
    (told,) = caught.value.facts["checks"]
    assert (told["name"], told["exit_status"]) == ("unit", 1)
    assert "it is 2\n" in told["tail"]
    assert (await reports._loom.get(task)).task.status == "claimed"
    place.write("mod.py", "ONE = 1\n")
    assert await finished(reports, task) == "done"


async def test_without_a_check_nothing_is_run(place: Place, reporter: Reporter) -> None:
    reports = reporter(place.top, every=())
    assert await finished(reports, await claimed(reports)) == "done"
    assert await runs(reports) == []
    assert not place.top.with_name("state").exists()


async def test_what_an_agent_wrote_for_another_task_is_not_proven_again(place: Place, reporter: Reporter) -> None:
    place.commit(files={"mod.py": "ONE = 1\n"})
    reports = reporter(place.top)
    first, second = await claimed(reports), await claimed(reports)
    assert [await finished(reports, one) for one in (first, second)] == ["done", "done"]
    assert await runs(reports) == [(first, 0)]


async def test_whoever_reports_at_once_proves_with_one_prover(place: Place, reporter: Reporter) -> None:
    place.commit(files={"mod.py": "ONE = 1\n"})
    reports = reporter(place.top)
    tasks = [await claimed(reports) for _ in range(3)]
    assert await asyncio.gather(*(finished(reports, one) for one in tasks)) == ["done"] * 3
    assert len(await runs(reports)) == 1


async def test_long_checks_go_on_and_the_same_call_gives_the_result(
    place: Place, reporter: Reporter, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    reports = reporter(place.top, f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)")
    task = await claimed(reports)
    made = await reports.done(task, {"a": 1}, seconds=0.05)
    assert isinstance(made, Checking)
    assert (made.task_id, made.checks) == (task, ("unit",))
    made = await reports.done(task, {"a": 1}, seconds=0.05)
    assert isinstance(made, Checking)
    go.touch()
    assert await finished(reports, task, seconds=30) == "done"
    assert await runs(reports) == [(task, 0)]


async def test_a_claim_is_renewed_while_its_work_is_proven(place: Place, reporter: Reporter, tmp_path: Path) -> None:
    go = tmp_path / "go"
    reports = reporter(place.top, f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)")
    task = await reports._loom.create("a task")
    claim = await reports._loom.claim(task.id, lease_seconds=6)
    assert claim is not None

    async def sweeping() -> None:
        while True:
            await reports._loom.sweep()
            await asyncio.sleep(0.1)

    sweeps = asyncio.create_task(sweeping())
    proving = asyncio.create_task(finished(reports, task.id))
    await until_renewed(reports._loom, claim.task)
    go.touch()
    assert await proving == "done"
    sweeps.cancel()
    assert (await reports._loom.get(task.id)).task.attempt == 1


async def test_somebody_elses_task_is_not_proven(place: Place, reporter: Reporter) -> None:
    reports = reporter(place.top)
    task = await reports._loom.create("a task")
    await reports._loom.claim(task.id, agent_id="bob")
    with pytest.raises(ClaimConflictError):
        await reports.done(task.id)
    assert await runs(reports) == []


async def test_a_check_that_is_named_and_not_in_force_refuses(place: Place, reporter: Reporter) -> None:
    reports = reporter(place.top, every=())
    task = await claimed(reports, ("gone",))
    with pytest.raises(ProofMissingError, match="not in force: gone"):
        await reports.done(task)
    withheld = reporter(place.top, every=())
    withheld._loom = Loom(replace(withheld._loom.config, withheld=("landing.checks",)), agent="ada")
    with pytest.raises(ProofMissingError, match=r"not in force: landing\.checks"):
        await withheld.done(await claimed(withheld))
    assert await runs(reports) == []


async def test_without_a_repository_it_counts_for_the_claim_alone(bare_directory: Path, reporter: Reporter) -> None:
    (bare_directory / "mod.py").write_text("ONE = 1\n")
    reports = reporter(bare_directory)
    first, second = await claimed(reports), await claimed(reports)
    assert [await finished(reports, one) for one in (first, second)] == ["done", "done"]
    assert await runs(reports) == [(first, 0), (second, 0)]
    ready = await reports._loom.create("nobody holds it")
    assert await finished(reports, ready.id) == "done"
    with pytest.raises(ConfigError, match="for a claim alone"):
        await reports.check()


async def test_checks_are_run_by_name_or_as_they_are_needed(place: Place, reporter: Reporter) -> None:
    place.commit(files={"mod.py": "ONE = 1\n"})
    reports = reporter(place.top)
    assert [one.green for one in await reports.check()] == [True]
    reports = reporter(place.top, every=())
    with pytest.raises(ConfigError, match="Not every task needs a check"):
        await reports.check()
    assert [one.green for one in await reports.check(names=["unit"])] == [True]
    task = await claimed(reports, ("unit",))
    assert [one.green for one in await reports.check(task)] == [True]
    assert await runs(reports) == [(None, 0)]


async def test_the_baseline_is_what_work_begins_from(place: Place, reporter: Reporter) -> None:
    place.commit(files={"mod.py": "ONE = 1\n"})
    place.write("mod.py", "ONE = 2\n")
    assert [one.green for one in await reporter(place.top).baseline()] == [True]
    place.commit()
    with pytest.raises(CheckFailedError, match=r"HEAD is red as it stands \(unit\)"):
        await reporter(place.top).baseline()
    place.git("branch", "loom/landed", "HEAD~1")
    assert [one.green for one in await reporter(place.top).baseline()] == [True]
    with pytest.raises(ConfigError, match="No check is needed by every task"):
        await reporter(place.top, every=()).baseline()


async def test_work_of_a_worktree_by_hand_is_taken_from_there(
    place: Place, tmp_path: Path, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.commit(files={"mod.py": "ONE = 2\n"})
    beside = place.worktree(tmp_path / "beside", "mine")
    beside.write("mod.py", "ONE = 1\n")
    monkeypatch.chdir(beside.top)
    reports = reporter(place.top)
    assert await finished(reports, await claimed(reports)) == "done"
    # one whose `.git` somebody has written leads nowhere
    (tmp_path / "evil").mkdir()
    monkeypatch.chdir(tmp_path / "evil")
    (tmp_path / "evil" / ".git").write_text((beside.top / ".git").read_text())
    (tmp_path / "evil" / "mod.py").write_text("ONE = 1\n")
    with pytest.raises(CheckFailedError):
        await reports.done(await claimed(reports))


async def test_work_of_whoever_is_served_is_taken_from_where_he_is(
    place: Place, tmp_path: Path, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.commit(files={"mod.py": "ONE = 2\n"})
    beside = place.worktree(tmp_path / "beside", "mine")
    beside.write("mod.py", "ONE = 1\n")
    monkeypatch.chdir(tmp_path)  # where the process is that serves
    reports = reporter(place.top)
    task = await claimed(reports)
    with calling(Caller(dict(os.environ), directory=place.top)), pytest.raises(CheckFailedError):
        await reports.done(task)
    with calling(Caller(dict(os.environ), directory=beside.top)):
        assert await finished(reports, task) == "done"


def files(directory: Path, found: Snapshot) -> list[str]:
    env = {"PATH": "/usr/bin:/bin", "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(found.objects)}
    words = ["git", "ls-tree", "--name-only", found.tree]
    return subprocess.run(words, cwd=directory, env=env, capture_output=True, text=True, check=True).stdout.split()


async def test_work_is_taken_merged_with_what_has_landed(place: Place, tmp_path: Path) -> None:
    place.commit(files={"other.py": "A = 1\n"})
    beside = place.worktree(tmp_path / "beside", "mine", "HEAD~1")
    beside.write("mod.py", "ONE = 1\n")
    both = await Snapshot.of(await beside.repository(), place.tip())
    shown = files(place.top, both)
    assert shown == ["a.txt", "b.txt", "mod.py", "other.py"]
    again = await Snapshot.of(await beside.repository(), place.tip())
    assert (again.commit, again.tree) == (both.commit, both.tree)
    beside.write("other.py", "A = 2\n")
    with pytest.raises(ProofMissingError, match=r"conflicts in other\.py"):
        await Snapshot.of(await beside.repository(), place.tip())
    both.drop()
    again.drop()
    assert (await Snapshot.of(Repository(place.top, place.top / ".git"))).commit == place.tip()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", ["a pipe", "a directory", "a link to what has no end"])
async def test_what_an_agent_puts_in_the_place_of_its_index_is_told(place: Place, tmp_path: Path, what: str) -> None:
    beside = await place.worktree(tmp_path / "beside", "mine").repository()
    assert beside.git_dir is not None
    index = beside.git_dir / "index"
    index.unlink()
    if what == "a pipe":
        os.mkfifo(index)
    elif what == "a directory":
        index.mkdir()
    else:
        index.symlink_to("/dev/zero")
    with pytest.raises(CommandError, match=r"index (cannot be copied|is a link)"):
        await Snapshot.of(beside)


async def test_an_agents_work_is_proven_as_it_would_land(
    place: Place, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its worktree of Loom's, whatever its `.git` file says by then."""
    place.commit(files={"mod.py": "ONE = 2\n"})
    reports = reporter(place.top, f"{GREEN}; import other")
    task = await claimed(reports)
    trees = await Worktrees.of_project(reports._loom.config)
    tree = await trees.make(task)
    (tree.path / "mod.py").write_text("ONE = 1\n")
    monkeypatch.chdir(tree.path)
    with pytest.raises(CheckFailedError):
        await reports.done(task)
    place.git("switch", "-q", "-c", "loom/landed")
    place.commit(files={"other.py": ""})
    (tree.path / ".git").write_text("gitdir: /nowhere\n")
    assert await finished(reports, task) == "done"


async def test_a_history_that_is_cut_off_too_often_is_told(
    place: Place, tmp_path: Path, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.commit()
    made = Place(tmp_path / "made")
    place.git("clone", "-q", "--depth=1", place.top.as_uri(), str(made.top))
    monkeypatch.setattr(checkout, "_SHALLOW_BYTES", 10)
    told = r"cut off at more commits than .* Fetch the rest of it with `git fetch --unshallow`\.$"
    with pytest.raises(CommandError, match=told):
        await reporter(made.top).baseline()


@pytest.mark.parametrize("kind", ["shallow", "sha256", "submodule", "no commit", 'a:b "c" ü', "below"])
async def test_repositories_of_any_kind_are_proven(place: Place, tmp_path: Path, reporter: Reporter, kind: str) -> None:
    made = Place(tmp_path / ('a:b "c" ü' if kind.startswith("a:b") else "made"))
    made.top.mkdir()
    if kind == "shallow":
        place.commit()
        made.git("clone", "-q", "--depth=1", place.top.as_uri(), ".")
    else:
        made.git("init", "-q", f"--object-format={'sha256' if kind == 'sha256' else 'sha1'}")
    if kind == "submodule":
        made.git("submodule", "add", "-q", place.top.as_uri(), "part")
    if kind != "no commit":
        made.commit()
    directory = made.top / "below" if kind == "below" else made.top
    made.write(str(directory.relative_to(made.top) / "mod.py"), "ONE = 1\n")
    reports = reporter(directory)
    assert await finished(reports, await claimed(reports)) == "done"
    assert [one.green for one in await reports.check()] == [True]
    made.commit()
    assert [one.green for one in await reports.baseline()] == [True]
