"""What makes a fresh checkout one to work in: run once for its inputs, and brought to each place as its own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from loom.config import LoomConfig
from loom.config.keys import SetupConfig, WorkConfig
from loom.exceptions import CommandError, FileError
from loom.landing import setup
from loom.landing.setup import Place, prepare
from loom.landing.worktrees import Worktrees
from loom.process import ProcessTrees
from tests.waiting import alive, pids

RUNS = """
import os, pathlib, sys
here = pathlib.Path.cwd()
env = here / "env"
(env / "bin").mkdir(parents=True, exist_ok=True)
(env / "bin" / "tool").write_text(f"#!{here}/env/bin/python\\n")
(env / "bin" / "tool").chmod(0o555)
(env / "lib.pyc").write_bytes(b"compiled")
(env / "binary").write_bytes(b"\\0" + str(here).encode())
(env / "link").symlink_to(here / "env" / "bin")
(env / "inner").symlink_to("bin/tool")
(env / "slot").write_text(os.environ.get("LOOM_SLOT", ""))
runs = pathlib.Path(sys.argv[1])
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
print("set up", file=sys.stderr)
"""


class Home:
    """A main checkout, and places that are to be set up as it says."""

    def __init__(self, top: Path) -> None:
        self.top, self.runs = top, top / "runs"
        self.source, self.state, self.logs = top / "source", top / "state", top / ".loom" / "logs"
        for one in (self.source, self.state, self.logs.parent):
            one.mkdir()
        (top / "runs.py").write_text(RUNS)

    def place(
        self, name: str, *, keeps: bool = True, lock: str = "1", submodules: Mapping[str, str] | None = None
    ) -> Place:
        tree = self.top / "trees" / name
        tree.mkdir(parents=True, exist_ok=True)
        (tree / "lock").write_text(lock)
        variables = (("LOOM_SLOT", "7"),)
        log = self.logs / f"{name}.log"
        return Place(tree, tree, self.source, self.top, log, variables, keeps, submodules=submodules or {})

    def config(
        self,
        command: tuple[str, ...] = (),
        inputs: tuple[str, ...] = ("lock",),
        keep: tuple[str, ...] = ("env",),
        copy: tuple[str, ...] = (),
    ) -> LoomConfig:
        words = command or (sys.executable, str(self.top / "runs.py"), str(self.runs))
        return LoomConfig(work=WorkConfig(setup=SetupConfig(command=words, inputs=inputs), keep=keep, copy=copy))

    @property
    def ran(self) -> int:
        """How often the setup ran."""
        return len(self.runs.read_text()) if self.runs.exists() else 0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


async def prepared(home: Home, name: str, config: LoomConfig | None = None, **place: object) -> Path:
    """A place that was made one to work in."""
    made = home.place(name, **place)  # type: ignore[arg-type]
    with ProcessTrees() as trees:
        await prepare(made, config or home.config(), trees)
    return made.tree


# --- run once, brought to each place ----------------------------------------------------------------------------------


async def test_a_setup_runs_once_for_the_same_inputs(home: Home) -> None:
    first, second = await prepared(home, "first"), await prepared(home, "second")
    assert home.ran == 1
    assert (second / "env" / "slot").read_text() == "7"
    assert (home.logs / "first.log").read_text() == "set up\n"
    await prepared(home, "first")
    assert home.ran == 1
    third = await prepared(home, "third", lock="2")
    assert home.ran == 2
    assert (first / "env").exists()
    assert (third / "env").exists()


async def test_what_is_brought_names_the_place_that_it_is_brought_to(home: Home) -> None:
    first, second = await prepared(home, "first"), await prepared(home, "second")
    assert (second / "env" / "bin" / "tool").read_text() == f"#!{second}/env/bin/python\n"
    assert (second / "env" / "bin" / "tool").stat().st_mode & 0o777 == 0o555
    assert (second / "env" / "link").resolve() == second / "env" / "bin"
    assert (second / "env" / "inner").readlink() == Path("bin/tool")
    assert (second / "env" / "binary").read_bytes() == b"\0" + str(first).encode(), "what it is made of nobody knows"
    assert (first / "env" / "lib.pyc").exists()
    assert not (second / "env" / "lib.pyc").exists()


async def test_an_edit_in_one_place_changes_no_other(home: Home) -> None:
    first, second = await prepared(home, "first"), await prepared(home, "second")
    for one in (first, second):
        with (one / "env" / "slot").open("a") as file:
            file.write(" edited")
    third = await prepared(home, "third")
    assert (third / "env" / "slot").read_text() == "7"


async def test_places_that_are_set_up_at_once_run_it_once(home: Home) -> None:
    await asyncio.gather(*[prepared(home, f"{number}") for number in range(6)])
    assert home.ran == 1


async def test_what_a_branch_has_made_is_kept_for_nobody(home: Home) -> None:
    await prepared(home, "branch", keeps=False)
    await prepared(home, "first")
    assert home.ran == 2
    await prepared(home, "other", keeps=False)
    assert home.ran == 2, "what the target has made is for all"


async def test_a_setup_that_fetches_submodules_runs_in_each_place_and_again_when_they_are_moved(home: Home) -> None:
    fetches = home.config(("sh", "-c", f"mkdir -p env part && touch part/.git && printf x >> {home.runs}"))
    for number, name in enumerate(("first", "second", "first"), 1):
        place = await prepared(home, name, fetches, submodules={"part": "a"})
        assert (place / "part" / ".git").exists()
        assert home.ran == min(number, 2)
    await prepared(home, "first", fetches, submodules={"part": "b"})
    assert home.ran == 3
    shutil.rmtree(home.top / "trees" / "first" / "part")
    await prepared(home, "first", fetches, submodules={"part": "b"})
    assert home.ran == 4
    for name in ("third", "fourth"):  # which it leaves alone here
        await prepared(home, name, submodules={"part": "b"})
    assert home.ran == 5


async def test_other_inputs_make_it_anew(home: Home) -> None:
    place = await prepared(home, "place")
    (place / "env" / "junk").touch()
    await prepared(home, "place", lock="2")
    assert home.ran == 2
    assert not (place / "env" / "junk").exists()
    (place / "lock").unlink()
    config = home.config()
    with ProcessTrees() as trees:
        made = home.place("place")
        (place / "lock").unlink()
        await prepare(made, config, trees)
    assert home.ran == 3, "an input that is gone is another one"


async def test_what_is_gone_is_made_again(home: Home) -> None:
    place = await prepared(home, "place")
    shutil.rmtree(place / "env")
    await prepared(home, "place")
    assert (place / "env" / "slot").exists()
    assert home.ran == 1


async def test_without_inputs_nothing_is_kept(home: Home) -> None:
    await prepared(home, "first", home.config(inputs=()))
    await prepared(home, "second", home.config(inputs=()))
    assert home.ran == 2


async def test_a_result_that_was_kept_in_part_is_made_again(home: Home) -> None:
    await prepared(home, "first")
    (kept,) = [one for one in (home.top / "kept").iterdir() if one.is_dir()]
    for damage in (lambda: (kept / "mark.json").write_text("{"), lambda: (kept / "0").rename(kept / "away")):
        damage()
        before = home.ran
        await prepared(home, f"after-{before}")
        assert home.ran == before + 1
    await prepared(home, "last")
    assert home.ran == 3


async def test_only_the_newest_results_are_kept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "_KEPT", 2)
    for lock in "1213":
        await prepared(home, f"{lock}-{time.time()}", lock=lock)
        await asyncio.sleep(0.05)
    assert len([one for one in (home.top / "kept").iterdir() if one.is_dir()]) == 2
    await prepared(home, "again", lock="1")
    assert home.ran == 3
    await prepared(home, "gone", lock="2")
    assert home.ran == 4


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def test_a_setup_that_fails_says_why(home: Home) -> None:
    config = home.config(("sh", "-c", "echo begun; echo no network >&2; exit 3"))
    with pytest.raises(CommandError, match=r"^The setup `sh -c .*` failed with exit status 3: begun\nno network"):
        await prepared(home, "place", config)
    with pytest.raises(CommandError, match="failed with exit status"):
        await prepared(home, "place", config)
    with pytest.raises(CommandError, match="failed with exit status 127: nothing-of-the-kind cannot be started"):
        await prepared(home, "place", home.config(("nothing-of-the-kind",)))
    assert await prepared(home, "place")


async def test_a_setup_that_hangs_is_stopped_with_all_that_it_started(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "_SECONDS", 3)
    config = home.config(("sh", "-c", f"setsid sleep 60 & echo $! $$ > {home.top}/began; wait"))
    with pytest.raises(CommandError, match="did not end within 3 seconds, and was stopped"):
        await prepared(home, "place", config)
    assert [alive(pid) for pid in pids(home.top / "began")] == [False, False]


async def test_nothing_that_a_setup_starts_outlives_it(home: Home) -> None:
    script = f"env -i setsid sleep 60 & echo $! > {home.top}/began"
    await prepared(home, "place", home.config(("sh", "-c", script)))
    assert [alive(pid) for pid in pids(home.top / "began")] == [False]


async def test_the_users_own_environment_is_not_set_up(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "GIT_DIR", "LOOM_TASK_ID", "UV_PROJECT_ENVIRONMENT"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("PASSED_ON", "yes")
    place = await prepared(home, "place", home.config(("sh", "-c", "env > env.txt")))
    told = (place / "env.txt").read_text()
    assert "elsewhere" not in told
    assert "PASSED_ON=yes" in told
    assert "LOOM_SLOT=7" in told


@pytest.mark.parametrize("key", ["keep", "copy", "inputs"])
async def test_no_key_leads_out_of_the_checkout(home: Home, key: str) -> None:
    away = home.top / "away"
    (away / "env").mkdir(parents=True)
    (away / "file").touch()
    place = home.place("place")
    (place.tree / "link").symlink_to(away)
    (home.source / "link").mkdir()
    (home.source / "link" / "file").touch()
    (home.source / "link" / "new").touch()
    configs = {
        "keep": home.config(keep=("link/env",)),
        "copy": home.config(copy=("link/new",)),
        "inputs": home.config(inputs=("link/file",)),
    }
    with ProcessTrees() as trees, pytest.raises(CommandError, match=rf"work\..*{key}: link/.* leads out of"):
        await prepare(place, configs[key], trees)
    assert sorted(one.name for one in away.iterdir()) == ["env", "file"]


async def test_what_is_in_the_repository_is_not_kept(home: Home) -> None:
    place = home.place("place")
    (place.tree / "env").mkdir()
    with ProcessTrees() as trees, pytest.raises(CommandError, match=r"^work.keep: env is in the repository\."):
        await prepare(place, home.config(), trees)


async def test_what_cannot_be_written_is_told(home: Home) -> None:
    (home.top / "kept").touch()
    with pytest.raises(FileError, match=r"kept cannot be written: "):
        await prepared(home, "place")


# --- what is copied ---------------------------------------------------------------------------------------------------


async def test_files_of_the_main_checkout_are_copied_where_there_are_none(home: Home) -> None:
    (home.source / ".env").write_text("SECRET=1\n")
    (home.source / ".env").chmod(0o640)
    (home.source / "sub").mkdir()
    (home.source / "sub" / ".env").write_text("SUB=1\n")
    config = home.config(("true",), copy=(".env", "sub/.env", "nothing"))
    place = await prepared(home, "place", config)
    assert (place / ".env").read_text() == "SECRET=1\n"
    assert (place / ".env").stat().st_mode & 0o777 == 0o600
    assert (place / "sub" / ".env").exists()
    (place / ".env").write_text("changed\n")
    await prepared(home, "place", config)
    assert (place / ".env").read_text() == "changed\n"
    (place / ".env").unlink()
    await prepared(home, "place", config)
    assert (place / ".env").read_text() == "SECRET=1\n"


async def test_a_directory_is_not_copied(home: Home) -> None:
    (home.source / "sub").mkdir()
    with pytest.raises(CommandError, match=r"^work.copy: sub cannot be read: it is no regular file\."):
        await prepared(home, "place", home.config(copy=("sub",)))


# --- what git is not to take ------------------------------------------------------------------------------------------


async def test_what_was_made_is_committed_by_nobody(home: Home) -> None:
    first, second = await prepared(home, "first"), await prepared(home, "second")
    for place in (first, second):
        assert (place / "env" / ".gitignore").read_text() == "*\n"


async def test_a_file_that_git_would_take_is_not_copied(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        await asyncio.to_thread(subprocess.run, [*git, *words], check=True)
    (tmp_path / ".env").write_text("SECRET=1\n")
    worktrees = await Worktrees.of(tmp_path, tmp_path / "state")
    tree = await worktrees.make("task")
    config = LoomConfig(work=WorkConfig(copy=(".env", "nothing")))
    with ProcessTrees() as trees:
        with pytest.raises(CommandError, match=r"^work.copy: .env is not ignored by git"):
            await worktrees.set_up(tree, config, trees, tmp_path / "logs" / "log")
        (tree.path / ".gitignore").write_text(".env\n")
        await worktrees.set_up(tree, config, trees, tmp_path / "logs" / "log")
    assert (tree.path / ".env").read_text() == "SECRET=1\n"
