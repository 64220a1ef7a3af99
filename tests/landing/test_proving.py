"""Proving: what a check runs on and in, what its run may not do, and what is recorded of it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loom.config import CheckConfig, LoomConfig, SetupConfig, WorkConfig
from loom.exceptions import TargetError
from loom.git import Repository
from loom.graph.front import Loom
from loom.graph.store import proofs
from loom.graph.store.proofs import Proof
from loom.landing import checks, places
from loom.landing.checkout import Checkout
from loom.landing.checks import Check
from loom.landing.places import Lock, proving, state_dir
from loom.landing.proving import TIMED_OUT, Prover
from loom.landing.worktrees import Worktrees, tidy
from tests.landing.place import SLOW, Place, kill_git, stays
from tests.test_reaper import LEAVES_ONE
from tests.waiting import alive, until, until_there

Committer = Callable[..., str]
pytestmark = pytest.mark.usefixtures("state")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A repository without a commit."""
    directory = tmp_path / "shop"
    directory.mkdir()
    git(directory, "init", "-q", "-b", "main")
    return directory


def git(directory: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(["git", *identity, *words], cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def commit(shop: Path) -> Committer:
    """Writes files, or removes those that are None, and commits everything."""

    def make(**texts: str | None) -> str:
        for name, text in texts.items():
            path = shop / name.replace("__", "/").replace("_py", ".py")
            path.parent.mkdir(exist_ok=True)
            path.unlink(missing_ok=True) if text is None else path.write_text(textwrap.dedent(text))
        git(shop, "add", "-A")
        git(shop, "commit", "-q", "--allow-empty", "-m", "more")
        return git(shop, "rev-parse", "HEAD")

    return make


@pytest.fixture
async def prover(shop: Path, loom: Loom) -> AsyncIterator[Prover]:
    loom.config = replace(loom.config, project_dir=shop)
    async with Prover.of(loom, await Repository.around(shop)) as prover:
        yield prover


def check(script: str, name: str = "unit", **options: Any) -> Check:
    """A check that runs a script of Python."""
    row = CheckConfig((sys.executable, "-c", textwrap.dedent(script)), **options)
    return checks.in_force(LoomConfig(checks={name: row}))[name]


async def run(prover: Prover, commit: str, script: str, base: str | None = None, **options: Any) -> Proof:
    (proof,) = await prover.prove(commit, [check(script, **options)], agent="ada", base=base)
    return proof


async def recorded(loom: Loom) -> list[tuple[str, int | None, bool]]:
    rows = await loom.look(lambda connection: connection.fetch("select * from proofs order by id"))
    return [(row["check_name"], row["exit_status"], row["flaky"]) for row in rows]


# --- what is recorded ------------------------------------------------------------------------------------------------


async def test_a_proof_says_what_ran_on_which_tree(prover: Prover, loom: Loom, shop: Path, commit: Committer) -> None:
    first = commit(mod_py="ONE = 1\n")
    proof = await run(prover, first, "import mod; print('seen', mod.ONE)")
    assert (proof.green, proof.tree, proof.commit_id) == (True, git(shop, "rev-parse", "HEAD^{tree}"), None)
    assert (proof.tail, proof.agent, proof.check_name) == ("seen 1\n", "ada", "unit")
    assert proof.seconds is not None
    assert 0 < proof.seconds < 30


async def test_the_same_tree_and_check_are_not_run_twice(prover: Prover, loom: Loom, commit: Committer) -> None:
    first, second = commit(a="1"), commit(a="1")
    assert first != second
    one = await run(prover, first, "print(1)")
    assert await run(prover, second, "print(1)") == one
    assert (await run(prover, second, "print(2)")).id != one.id  # another check of the same name
    assert (await run(prover, commit(a="2"), "print(1)")).id != one.id
    assert len(await recorded(loom)) == 3


async def test_whoever_asks_for_a_tree_that_is_being_proven_has_its_proof(
    prover: Prover, loom: Loom, commit: Committer
) -> None:
    first = commit(a="1")
    found = await asyncio.gather(*(run(prover, first, "import time; time.sleep(0.3)") for _ in range(3)))
    assert len({one.id for one in found}) == 1
    assert len(await recorded(loom)) == 1


async def test_a_check_that_reads_history_is_proven_for_its_commit_alone(
    prover: Prover, loom: Loom, shop: Path, commit: Committer
) -> None:
    first, second = commit(a="1"), commit(a="1")
    git(shop, "tag", "v1", first)
    script = "import subprocess; subprocess.run(['git', 'describe', '--tags'], check=True)"
    one = await run(prover, first, script, proofs="commit")
    two = await run(prover, second, script, proofs="commit")
    assert (one.tail, one.commit_id) == ("v1\n", first)
    assert two.tail.startswith("v1-1-g")
    assert await run(prover, first, script, proofs="commit") == one


async def test_what_is_red_once_is_run_once_more_and_both_are_recorded(
    prover: Prover, loom: Loom, tmp_path: Path, commit: Committer
) -> None:
    first = commit(a="1")
    once = f"""
        import pathlib, sys
        mark = pathlib.Path({str(tmp_path / "mark")!r})
        there = mark.exists()
        mark.touch()
        sys.exit(0 if there else 3)
    """
    proof = await run(prover, first, once)
    assert (proof.green, proof.flaky) == (True, True)
    assert await recorded(loom) == [("unit", 3, False), ("unit", 0, True)]
    assert (await run(prover, first, "import sys; sys.exit(4)")).exit_status == 4
    assert (await recorded(loom))[2:] == [("unit", 4, False), ("unit", 4, True)]


async def test_a_branch_is_told_all_that_is_red_and_a_group_the_first(
    prover: Prover, loom: Loom, commit: Committer
) -> None:
    first = commit(a="1")
    both = [check("raise SystemExit(1)", "lint"), check("raise SystemExit(2)", "unit")]
    found = await prover.prove(first, both, agent="ada", again=False)
    assert [one.exit_status for one in found] == [1]
    found = await prover.prove(first, both, agent="ada")
    assert [one.exit_status for one in found] == [1, 2]


async def test_a_group_does_not_wait_behind_those_who_prove_their_own(
    loom: Loom, shop: Path, tmp_path: Path, commit: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loom.config = replace(loom.config, project_dir=shop)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    commits = [commit(a=str(number)) for number in range(4)]
    waits = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)"
    async with Prover.of(loom, await Repository.around(shop)) as prover:
        own = [asyncio.create_task(run(prover, one, waits)) for one in commits[:3]]
        (group,) = await prover.prove(commits[3], [check("print('landed')")], agent="ada", again=False)
        assert group.green
        assert not any(one.done() for one in own)
        (tmp_path / "go").touch()
        assert all(one.green for one in await asyncio.gather(*own))


async def test_a_run_is_recorded_before_it_and_closed_whatever_ends_it(
    prover: Prover, loom: Loom, tmp_path: Path, commit: Committer
) -> None:
    first = commit(a="1")
    script = f"open({str(tmp_path / 'there')!r}, 'w').write('1'); import time; time.sleep(300)"
    running = asyncio.create_task(run(prover, first, script))
    await until_there(tmp_path / "there")
    assert await recorded(loom) == [("unit", None, False)]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (row,) = await loom.look(lambda connection: connection.fetch("select * from proofs"))
    assert (row["exit_status"], row["ended_at"] is None) == (None, False)


# --- what it runs in -------------------------------------------------------------------------------------------------


async def test_a_check_sees_the_files_of_its_commit_and_nothing_else(
    prover: Prover, shop: Path, commit: Committer
) -> None:
    """A compiled file that is left would make a tree green in which its source is gone."""
    first = commit(mod_py="", gitignore="*.pyc\n__pycache__/\nkept/\n")
    git(shop, "mv", "gitignore", ".gitignore")
    first = commit()
    (shop / "loose").write_text("not committed")
    makes = "import py_compile, os; py_compile.compile('mod.py', cfile='mod.pyc'); os.mkdir('new'); os.mkdir('kept')"
    assert (await run(prover, first, makes, keep=("kept",))).green
    gone = commit(mod_py=None, loose=None)
    shows = "import os; print(sorted(os.listdir()))"
    assert (await run(prover, gone, shows, keep=("kept",))).tail == "['.git', '.gitignore', 'kept']\n"
    assert (await run(prover, gone, f"{shows}; import mod")).exit_status == 1


async def test_what_nobody_has_used_for_long_goes_and_is_made_again(
    prover: Prover, commit: Committer, loom: Loom, shop: Path
) -> None:
    assert (await run(prover, commit(a="1"), "")).green
    trees = await Worktrees.of_project(loom.config)
    places = proving(trees.state)
    await tidy(loom, trees)
    assert (places / "1" / "tree" / "a").is_file()
    os.utime(places / "1" / "lock", (time.time() - 8 * 86400,) * 2)
    lock = Lock.take(places / "1" / "lock")
    assert lock is not None
    await tidy(loom, trees)
    assert (places / "1" / "tree").exists(), "somebody is in it"
    lock.let_go()
    await tidy(loom, trees)
    assert [one.name for one in (places / "1").iterdir()] == ["lock"]
    assert (await run(prover, commit(a="2"), "print(open('a').read())")).tail == "2\n"
    await tidy(loom, trees)
    assert (places / "1" / "tree" / "a").is_file()


async def test_the_environment_is_made(prover: Prover, commit: Committer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = commit(a="1")
    planted = {"PATH": "/evil:/usr/bin", "GIT_DIR": "/evil", "PYTHONPATH": "/evil", "LOOM_CLAIM_TOKEN": "7", "A": "a"}
    for name, value in {**planted, "LC_ALL": "C", "LOOM_SKILLS_API_KEY": "sk"}.items():
        monkeypatch.setenv(name, value)
    shows = "import os; print({**os.environ, 'home': os.listdir(os.environ['HOME'])})"
    seen = eval((await run(prover, first, shows, env=("A", "LOOM_SKILLS_API_KEY"))).tail)
    assert set(seen) == {"PATH", "HOME", "TMPDIR", "LANG", "TZ", "A", "LOOM_RUN", "LOOM_SLOT", "home"} | set(seen) & {
        "LC_CTYPE"
    }
    assert (seen["A"], seen["home"], seen["TZ"]) == ("a", [], "UTC")
    assert "/evil" not in seen["PATH"]
    assert "/usr/bin" in seen["PATH"]
    assert not Path(seen["HOME"]).exists()


async def test_a_check_runs_where_its_project_is_in_the_repository(loom: Loom, shop: Path, commit: Committer) -> None:
    first = commit(part__a="1")
    loom.config = replace(loom.config, project_dir=shop / "part")
    async with Prover.of(loom, await Repository.around(shop)) as prover:
        assert (await run(prover, first, "import os; print(os.listdir())")).tail == "['a']\n"


async def test_what_a_check_is_that_cannot_be_started_is_red(prover: Prover, commit: Committer) -> None:
    missing = checks.in_force(LoomConfig(checks={"unit": CheckConfig(("no-such-program",))}))["unit"]
    (proof,) = await prover.prove(commit(a="1"), [missing], agent="ada")
    assert (proof.exit_status, proof.tail) == (127, "no-such-program cannot be started: No such file or directory\n")


async def test_two_processes_prove_beside_each_other(
    loom: Loom, prover: Prover, shop: Path, tmp_path: Path, commit: Committer
) -> None:
    first, second = commit(a="1"), commit(a="2")
    meets = f"""
        import os, pathlib, time
        mine = open("a").read()
        place = pathlib.Path({str(tmp_path)!r})
        (place / f"at-{{mine}}").touch()
        while len(list(place.glob("at-*"))) < 2: time.sleep(0.01)
        time.sleep(0.2)
        print(mine, open("a").read())
    """
    async with Prover.of(loom, await Repository.around(shop)) as other:
        found = await asyncio.gather(run(prover, first, meets), run(other, second, meets))
    assert [one.tail for one in found] == ["1 1\n", "2 2\n"]


# --- what a run may do to it -----------------------------------------------------------------------------------------

GIT = """\
import subprocess
def git(*words): subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x", *words], check=True)
"""


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("open('a', 'w').write('2')", "it changed files that git knows: a"),
        ("import os; os.remove('a')", "it changed files that git knows: a"),
        ("import os; os.chmod('a', 0o755)", "it changed files that git knows: a"),
        ("import os; os.remove('a'); os.symlink('/etc/passwd', 'a')", "it changed files that git knows: a"),
        (f"{GIT}git('commit', '-q', '--allow-empty', '-m', 'x')", "it moved HEAD"),
        (f"{GIT}git('switch', '-q', '-c', 'other')", "it moved HEAD"),
        ("import shutil; shutil.rmtree('.git')", "it removed .git"),
        ("import os, shutil; shutil.rmtree(os.getcwd())", "it removed .git"),
        (
            f"{GIT}open('a', 'w').write('2')\ngit('update-index', '--assume-unchanged', 'a')",
            "it changed files that git knows: a",
        ),
        (
            f"{GIT}git('config', 'core.ignoreStat', 'true')\ngit('config', 'core.fsmonitor', 'true')\n"
            "open('a', 'w').write('2')",
            "it changed files that git knows: a",
        ),
    ],
)
async def test_a_run_that_changes_what_it_looks_at_proves_nothing(
    prover: Prover, loom: Loom, commit: Committer, script: str, why: str
) -> None:
    first = commit(a="1", b="1")
    proof = await run(prover, first, script)
    assert (proof.green, proof.exit_status) == (False, None)
    assert proof.tail.endswith(f"--- proves nothing: {why}")
    assert len(await recorded(loom)) == 1  # which is not run again
    shows = "import os; print(open('a').read(), sorted(os.listdir()), os.access('a', os.X_OK), os.path.islink('a'))"
    assert (await run(prover, first, shows)).tail == "1 ['.git', 'a', 'b'] False False\n"


@pytest.mark.parametrize(
    "script",
    [
        f"{GIT}git('update-ref', 'refs/heads/main', 'HEAD~1')",
        f"{GIT}git('branch', 'planted', 'HEAD')",
        f"{GIT}git('config', 'core.hooksPath', 'evil')",
        f"{GIT}git('update-ref', 'refs/replace/' + 'a' * 40, 'HEAD')",
        f"{GIT}git('stash', 'list')\ngit('tag', 'planted')",
    ],
)
async def test_what_a_check_does_with_git_reaches_nobody(
    prover: Prover, shop: Path, commit: Committer, script: str
) -> None:
    commit(a="0")
    first = commit(a="1")
    before = git(shop, "for-each-ref"), (shop / ".git" / "config").read_text()
    assert (await run(prover, first, script)).green
    assert (git(shop, "for-each-ref"), (shop / ".git" / "config").read_text()) == before
    shows = f"{GIT}git('for-each-ref')\ngit('config', '--local', '--list')"
    assert (await run(prover, first, shows)).tail == "core.repositoryformatversion=0\n"


async def test_a_filter_of_the_repository_counts_where_it_is_trusted(
    prover: Prover, loom: Loom, shop: Path, commit: Committer
) -> None:
    first = commit(a="1", b="* filter=loud\n")
    git(shop, "mv", "b", ".gitattributes")
    first = commit()
    git(shop, "config", "filter.loud.smudge", "tr 1 2")
    git(shop, "config", "filter.loud.clean", "tr 2 1")
    (shop / ".git" / "lfs").mkdir()
    assert (await run(prover, first, "print(open('a').read())")).tail == "1\n"
    repository = await Repository.around(shop, ["filter.loud"])
    async with Prover.of(loom, repository) as trusting:
        assert (await run(trusting, first, "print( open('a').read())")).tail == "2\n"
    own = state_dir(loom.config) / "proving" / "1" / "git"
    assert git(shop, f"--git-dir={own}", "config", "lfs.storage") == str(shop / ".git" / "lfs")


async def test_a_place_that_was_closed_or_swapped_is_made_anew(
    prover: Prover, state: Path, loom: Loom, shop: Path, commit: Committer
) -> None:
    first = commit(a="1")
    closes = "import os; os.makedirs('new/deep'); os.chmod('new/deep', 0); os.chmod('new', 0)"
    assert (await run(prover, first, closes)).green
    assert (await run(prover, first, "import os; print(sorted(os.listdir()))")).tail == "['.git', 'a']\n"
    swaps = "import os, shutil; here = os.getcwd(); shutil.rmtree(here); os.symlink('/', here)"
    assert not (await run(prover, first, swaps)).green
    assert (await run(prover, first, "import os; print( sorted(os.listdir()))")).tail == "['.git', 'a']\n"
    assert [one.name for one in (state_dir(loom.config) / "proving").iterdir()] == ["1"]
    assert git(shop, "worktree", "list").count("\n") == 0


async def test_a_check_that_hangs_is_stopped_at_its_time(prover: Prover, loom: Loom, commit: Committer) -> None:
    proof = await run(prover, commit(a="1"), "print('on', flush=True)\nimport time; time.sleep(300)", timeout=4)
    assert proof.exit_status == TIMED_OUT
    assert proof.tail == "on\n\n--- stopped: it did not end within 4 seconds"
    assert len(await recorded(loom)) == 1  # a second time would be as long


async def test_a_daemon_ends_with_its_check(prover: Prover, shop: Path, tmp_path: Path, commit: Committer) -> None:
    proof = await run(prover, commit(a="1"), f"import os; os.chdir({str(tmp_path)!r})\n{LEAVES_ONE}")
    assert proof.green
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_of_what_is_printed_the_end_is_kept(prover: Prover, commit: Committer) -> None:
    prints = "import sys\nfor _ in range(100): sys.stdout.write('x' * 1_000_000)\nprint('the end', file=sys.stderr)"
    before = _memory()
    proof = await run(prover, commit(a="1"), prints)
    assert proof.green
    assert len(proof.tail.encode()) == proofs.TAIL_BYTES
    assert proof.tail.endswith("xthe end\n")
    assert _memory() - before < 20_000


def _memory() -> int:
    """Kilobytes that this process has at most had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def start(script: str, *words: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script, *words], env=env)


PROVES = """
import asyncio, sys
from pathlib import Path
from loom import Loom
from loom.config import CheckConfig, LoomConfig, SetupConfig, WorkConfig
from loom.git import Repository
from loom.landing import checks
from loom.landing.proving import Prover

async def main(directory, commit, script):
    row = CheckConfig((sys.executable, "-c", script))
    async with Loom.here(Path(directory)) as loom, Prover.of(loom, await Repository.around(Path(directory))) as prover:
        one = checks.in_force(LoomConfig(checks={"unit": row}))
        await prover.prove(commit, list(one.values()), agent="ada")

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_prover_that_is_killed_leaves_nothing_and_another_goes_on(
    prover: Prover, loom: Loom, shop: Path, tmp_path: Path, commit: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.orchestration.conftest import in_environment

    first = commit(a="1")
    (shop / ".loom").mkdir()
    (shop / ".loom" / "config.yaml").write_text("")
    away = f"import os; here = os.getcwd(); os.chdir({str(tmp_path)!r})\n"
    script = f"{away}{LEAVES_ONE}\nopen(here + '/a', 'w')\ntime.sleep(300)"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with in_environment(loom.config) as env:
        killed = start(PROVES, str(shop), first, script, env=env | {"TMPDIR": str(scratch)})
    try:
        pid = await until_there(tmp_path / "pid")
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert (await run(prover, first, "print(open('a').read())")).tail == "1\n"  # wherever the other was
    await until(lambda: not alive(pid))  # its watchdog takes a moment
    assert await recorded(loom) == [("unit", None, False), ("unit", 0, False)]
    await until(lambda: _cleared(scratch))


def _cleared(scratch: Path) -> bool:
    """Whether nothing is left once whoever comes next has cleared it."""
    places.clear_scratch()
    return [*scratch.iterdir()] == []


# --- a place to work in ----------------------------------------------------------------------------------------------


def with_setup(loom: Loom, script: str, **work: Any) -> None:
    """The project's checkouts are set up by a script of Python."""
    made = SetupConfig((sys.executable, "-c", textwrap.dedent(script)), inputs=("lock",))
    loom.config = replace(loom.config, work=WorkConfig(setup=made, **work))


async def test_a_check_has_what_the_setup_makes(
    prover: Prover, loom: Loom, shop: Path, tmp_path: Path, commit: Committer
) -> None:
    """Made once for the same inputs, and spared by the cleaning between runs."""
    first = commit(lock="1", gitignore=".venv\n.env\n")
    git(shop, "mv", "gitignore", ".gitignore")
    first = commit()
    (shop / ".env").write_text("secret")
    (shop / ".venv").mkdir()
    with_setup(
        loom,
        f"""
        import os
        os.makedirs(".venv"); open(".venv/made", "w").write(open("lock").read() + os.environ["LOOM_SLOT"])
        open({str(tmp_path / "setups")!r}, "a").write("x")
        """,
        keep=(".venv",),
        copy=(".env",),
    )
    shows = "import os; print(open('.venv/made').read()[0], open('.env').read(), int(os.environ['LOOM_SLOT']) > 0)"
    assert (await run(prover, first, shows)).tail == "1 secret True\n"
    assert (await run(prover, commit(a="1"), shows)).tail == "1 secret True\n"
    assert (tmp_path / "setups").read_text() == "x"
    assert (await run(prover, commit(lock="2"), shows)).tail == "2 secret True\n"
    assert (tmp_path / "setups").read_text() == "xx"
    (state_dir(loom.config) / "proving" / "1" / "git" / "HEAD").write_text("damaged")
    assert (await run(prover, commit(a="2"), shows)).tail == "2 secret True\n"
    assert (tmp_path / "setups").read_text() == "xxx"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("print('no network'); raise SystemExit(3)", "failed with exit status 3: no network"),
        (
            "open('lock', 'w').write('newer')",
            "The setup is none for a checkout: it changed files that git knows: lock.",
        ),
    ],
)
async def test_a_setup_that_fails_or_changes_the_checkout_proves_nothing(
    prover: Prover, loom: Loom, commit: Committer, script: str, why: str
) -> None:
    with_setup(loom, script)
    proof = await run(prover, commit(lock="1"), "print('not reached')")
    assert proof.exit_status is None
    assert "--- proves nothing: " in proof.tail
    assert why in proof.tail
    assert "not reached" not in proof.tail
    assert len(await recorded(loom)) == 1


async def test_without_anything_kept_the_setup_is_run_for_each_check(
    prover: Prover, loom: Loom, commit: Committer
) -> None:
    with_setup(loom, "import os; os.makedirs('made')")
    for number in range(2):
        assert (await run(prover, commit(lock="1", a=str(number)), "import os; print(os.listdir('made'))")).green


async def with_submodule(shop: Path, commit: Committer, other: Path) -> tuple[str, str]:
    """Commits of a repository with the submodule `in/part`, at the first and then at another commit of that."""
    git(shop, "init", "-q", "-b", "main", str(other))
    (other / "what").write_text("first")
    git(other, "add", "what")
    git(other, "commit", "-qm", "one")
    git(shop, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "in/part")
    first = commit(lock="1")
    git(other, "mv", "what", "now")
    git(other, "commit", "-qm", "two")
    git(shop / "in" / "part", "pull", "-q")
    return first, commit()


FETCHES = """
import os, subprocess
os.makedirs("env")
subprocess.run(["git", "-c", "protocol.file.allow=always", "submodule", "update", "-q", "--init"], check=True)
"""


@pytest.mark.parametrize("keep", [(), ("env",)])
async def test_a_submodule_is_fetched_for_each_check_as_its_commit_has_it(
    prover: Prover, loom: Loom, shop: Path, commit: Committer, tmp_path: Path, keep: tuple[str, ...]
) -> None:
    """Of what lay in it before nothing is left, whoever has put it there and whatever stands in its place now."""
    first, second = await with_submodule(shop, commit, tmp_path / "other")
    with_setup(loom, FETCHES, keep=keep)
    shows = "import os; print(sorted(os.listdir('in/part')), os.path.isdir('env')); open('in/part/junk', 'w').close()"
    assert (await run(prover, first, shows)).tail == "['.git', 'what'] True\n"
    assert (await run(prover, second, shows)).tail == "['.git', 'now'] True\n"
    assert (await run(prover, second, f"{shows}; 1")).tail == "['.git', 'now'] True\n"
    git(shop, "rm", "-qf", "in/part")
    plain = commit(in__part__plain="files of its own now")
    assert (await run(prover, plain, shows)).tail == "['plain'] True\n"
    assert (await run(prover, first, shows, keep=("in/part",))).tail == "['.git', 'what'] True\n"


async def test_nothing_is_removed_through_a_link_in_the_place_of_what_holds_a_submodule(
    prover: Prover, shop: Path, commit: Committer, tmp_path: Path
) -> None:
    first, second = await with_submodule(shop, commit, tmp_path / "other")
    (tmp_path / "else" / "part").mkdir(parents=True)
    (tmp_path / "else" / "part" / "theirs").touch()
    links = f"import os; os.rmdir('in/part'); os.rmdir('in'); os.symlink({str(tmp_path / 'else')!r}, 'in')"
    await run(prover, first, links)
    assert (await run(prover, second, "import os; print(os.listdir('in/part'), os.path.islink('in'))")).green
    assert [*(tmp_path / "else" / "part").iterdir()] == [tmp_path / "else" / "part" / "theirs"]


async def test_who_is_not_to_blame_for_a_setup_that_fails_is_not_blamed(
    prover: Prover, loom: Loom, commit: Committer, tmp_path: Path
) -> None:
    """It fails while `away` is there, and for a commit with a `bad` one."""
    away, setups = tmp_path / "away", tmp_path / "setups"
    script = f"""
        import os, sys
        open({str(setups)!r}, "a").write("x")
        sys.exit("no network" if os.path.exists({str(away)!r}) or os.path.exists("bad") else 0)
        """
    with_setup(loom, script)
    base, work, bad = commit(a="1"), commit(a="2"), commit(bad="1")
    away.touch()
    told = r"(?s)^What work lands on cannot be set up any more\. The setup `.*failed.*no network"
    with pytest.raises(TargetError, match=told):
        await run(prover, work, "", base=base)
    away.unlink()
    assert (await run(prover, work, "", base=base)).green
    setups.unlink()
    proof = await run(prover, bad, "print('not reached')", base=base)
    assert (proof.exit_status, setups.read_text()) == (None, "xxx"), "its own, that of the base, and its own again"
    assert "The setup" in proof.tail


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="the git is found by /proc")
@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("dies", [False, True], ids=["here", "with its process"])
async def test_a_check_sees_all_files_of_its_commit_also_after_git_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, dies: bool
) -> None:
    (tmp_path / "source").mkdir()
    source = Place(tmp_path / "source")
    source.git("init", "-q", "-b", "main")
    first, second = (
        source.commit(text, SLOW | {f"{where}{n}.txt": f"{text} {n}\n" for n in range(4) for where in ("a/", "m", "z")})
        for text in ("one", "two")
    )
    stays(source, tmp_path, after + 4)
    repository = replace(await source.repository(), trusted=frozenset({"filter.slow"}))
    place = Checkout.take(tmp_path / "places", repository)
    await place.show(first, ())
    showing = asyncio.create_task(place.show(second, ()))
    with monkeypatch.context() as patch:
        if dies:
            patch.setattr(Checkout, "_anew", lambda self: asyncio.Event().wait())
        await kill_git("--force", tmp_path)
        if dies:
            await asyncio.wait([showing], timeout=1)
            showing.cancel()
        await asyncio.wait([showing])
    place.give_back()
    place = Checkout.take(tmp_path / "places", repository)
    await place.show(second, ())
    shown = {path.relative_to(place.tree): path.read_text() for path in place.tree.rglob("*.txt")}
    assert len(shown) == 12
    assert {text.split()[0] for text in shown.values()} == {"two"}
    place.give_back()
