"""Git as Loom calls it, in repositories that would have their own programs run."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from loom import git as git_module
from loom.caller import Caller, calling
from loom.exceptions import CommandError
from loom.git import Person, Repository
from loom.landing.worktrees import Worktrees
from loom.skills import gathering
from tests.waiting import alive, pids, until

HOOKS = ("pre-commit", "commit-msg", "post-commit", "post-checkout", "reference-transaction", "post-index-change")
SETTINGS = """
[core]
    fsmonitor = {program}
    pager = {program}
    editor = {program}
    askPass = {program}
    sshCommand = {program}
[diff]
    external = {program}
[diff "x"]
    command = {program}
    textconv = {program}
[merge "x"]
    driver = {program}
[filter "x"]
    clean = {program}
    smudge = {program}
    required = true
[filter "a=b"]
    clean = {program}
    smudge = {program}
[filter "long"]
    process = {program}
[gpg]
    program = {program}
[log]
    showSignature = true
[commit]
    gpgSign = true
[credential]
    helper = {program}
[alias]
    ls-files = !{program}
    worktree = !{program}
    status = !{program}
"""


ASIDE = (
    "user.name=t",
    "user.email=t@example.org",
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "commit.gpgSign=false",
    "protocol.file.allow=always",
    *(f"filter.{name}={value}" for name, value in (("x.clean", ""), ("x.smudge", ""), ("x.required", "false"))),
)


class Hostile:
    """A repository with everything planted that a git of this machine could run; what runs is noted."""

    def __init__(self, place: Path) -> None:
        self.top, self.ran = place / "top", place / "ran"
        self.program = place / "program"
        place.mkdir(exist_ok=True)
        self.program.write_text(f'#!/bin/sh\necho "$0 $*" >> {self.ran}\nexec cat\n')
        self.program.chmod(0o755)
        self.top.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        self.write("a.txt", "one\n")
        self.git("add", ".")
        self.git("commit", "-q", "-m", "one")
        self.git("branch", "side")
        self.write("a.txt", "two\n")
        self.git("commit", "-q", "-a", "-m", "two")

    def git(self, *words: str, at: Path | None = None) -> str:
        """What prepares a test, without its traps."""
        settings = [word for one in ASIDE for word in ("-c", one)]
        git = ["git", "-C", str(at or self.top), *settings, *words]
        return subprocess.run(git, check=True, capture_output=True, text=True).stdout

    def write(self, name: str, text: str, at: Path | None = None) -> None:
        (at or self.top).joinpath(name).write_text(text)

    def set(self, key: str, value: str | None = None) -> None:
        self.git("config", key, value or str(self.program))

    def sign(self) -> None:
        """Gives the last commit a signature, for which somebody may want to run a program."""
        head, text = self.git("cat-file", "commit", "HEAD").split("\n\n", 1)
        (self.top / "signed").write_text(f"{head}\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n -----END\n\n{text}")
        self.git("reset", "-q", "--hard", self.git("hash-object", "-t", "commit", "-w", "signed").strip())
        (self.top / "signed").unlink()

    def plant(self) -> None:
        """Hooks, and every setting that starts a program."""
        hooks = self.top / ".git" / "hooks"
        hooks.mkdir(exist_ok=True)
        for name in HOOKS:
            (hooks / name).write_text(f"#!/bin/sh\necho {name} >> {self.ran}\n")
            (hooks / name).chmod(0o755)
        with (self.top / ".git" / "config").open("a") as config:
            config.write(SETTINGS.format(program=self.program))
        (self.top / ".git" / "info").mkdir(exist_ok=True)
        (self.top / ".git" / "info" / "attributes").write_text(
            "*.txt filter=x diff=x merge=x\n*.eq filter=a=b\n*.long filter=long\n"
        )

    def noted(self) -> str:
        return self.ran.read_text() if self.ran.exists() else ""


@pytest.fixture
def hostile(tmp_path: Path) -> Hostile:
    made = Hostile(tmp_path)
    made.write("b.eq", "=\n")
    made.write("c.long", "...\n")
    made.git("add", ".")
    made.git("commit", "-q", "-m", "three")
    made.sign()
    made.plant()
    return made


async def used(hostile: Hostile) -> str:
    """Everything that Loom does with a repository; returns what it shows of a task's changes."""
    assert "a.txt" in await gathering.tracked_files(hostile.top)
    trees = await Worktrees.of(hostile.top, hostile.top.parent / "trees")
    tree = await trees.make("task")
    place = tree.path
    assert (place / "a.txt").read_text() == (hostile.top / "a.txt").read_text()
    hostile.write("a.txt", "changed\n", place)
    seen = await trees.changes("task")
    hostile.write("a.txt", "two\n", place)
    assert await trees.drop(tree) == ""
    assert not place.exists()
    return seen


@pytest.mark.parametrize(
    "words", ["status", "diff", "worktree add --no-checkout ../place", "reset --hard", "log -p", "commit -a -m more"]
)
def test_the_traps_of_these_tests_are_live(hostile: Hostile, words: str) -> None:
    hostile.write("a.txt", "changed\n")
    subprocess.run(["git", *words.split()], cwd=hostile.top, capture_output=True, check=False)
    assert hostile.noted()


async def test_nothing_that_a_repository_plants_runs(hostile: Hostile) -> None:
    assert "+changed" in await used(hostile)
    assert hostile.noted() == ""


@pytest.mark.parametrize(
    "words",
    [
        ("status", "--short"),
        ("add", "-A"),
        ("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-a", "-m", "more"),
        ("log", "-p", "--stat"),
        ("show", "HEAD"),
        ("diff", "HEAD~1"),
        ("stash", "list"),
        ("checkout", "-f", "side"),
        ("merge-tree", "--write-tree", "main", "side"),
        ("update-ref", "refs/heads/other", "HEAD"),
        ("for-each-ref",),
        ("fetch", "."),
    ],
)
async def test_nothing_runs_for_what_else_may_be_asked_of_git(hostile: Hostile, words: tuple[str, ...]) -> None:
    hostile.write("a.txt", "changed\n")
    repository = await Repository.around(hostile.top)
    if words[0] == "fetch":
        with pytest.raises(CommandError, match=r"transport 'file' not allowed"):
            await repository.run(*words)
    else:
        await repository.run(*words)
    assert hostile.noted() == ""


async def test_a_merge_with_a_driver_of_the_repository_is_a_conflict(hostile: Hostile) -> None:
    hostile.git("checkout", "-q", "-f", "side")
    hostile.write("a.txt", "other\n")
    hostile.git("commit", "-q", "-a", "-m", "other")
    with pytest.raises(CommandError, match=r"^`git merge-tree --write-tree` failed"):
        await (await Repository.around(hostile.top)).run("merge-tree", "--write-tree", "main", "side")
    assert hostile.noted() == ""


@pytest.mark.parametrize("when", ["onbranch:loom/**", "gitdir:**/worktrees/**"])
async def test_what_a_worktree_alone_would_include_does_not_run(hostile: Hostile, when: str) -> None:
    more = hostile.top / ".git" / "more"
    more.write_text(f'[filter "later"]\n\tsmudge = {hostile.program}\n\tclean = {hostile.program}\n')
    hostile.set(f"includeIf.{when}.path", str(more))
    (hostile.top / ".git" / "info" / "attributes").write_text("*.txt filter=later\n")
    await used(hostile)
    assert hostile.noted() == ""


async def test_a_submodules_own_settings_do_not_run(hostile: Hostile, tmp_path: Path) -> None:
    other = Hostile(tmp_path / "other")
    hostile.git("submodule", "add", "-q",
                str(other.top), "sub")  # fmt: skip
    hostile.git("commit", "-q", "-m", "four")
    trees = await Worktrees.of(hostile.top, tmp_path / "trees")
    tree = await trees.make("task")
    place = tree.path
    hostile.git("submodule", "update", "-q",
                "--init", at=place)  # fmt: skip
    inside = Path(hostile.git("rev-parse", "--absolute-git-dir", at=place / "sub").strip())
    hostile.git("config", "filter.y.clean", str(hostile.program), at=place / "sub")
    (inside / "info" / "attributes").write_text("*.txt filter=y\n")
    hostile.write("a.txt", "TWO\n", place / "sub")
    hostile.ran.unlink(missing_ok=True)
    await trees.changes("task")
    assert await trees.drop(tree) == f"{place}: sub: not all that lies in it is committed"
    assert (place / "sub" / "a.txt").read_text() == "TWO\n"
    assert hostile.noted() == ""


@pytest.mark.parametrize("url", ["ext::{program} x", "{top}"])
async def test_missing_objects_are_not_fetched_by_a_program(hostile: Hostile, url: str) -> None:
    blob = hostile.git("rev-parse", "HEAD:b.eq").strip()
    (hostile.top / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    for key, value in (
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.url", url.format(program=hostile.program, top=hostile.top)),
        ("remote.origin.uploadpack", str(hostile.program)),
        ("protocol.ext.allow", "always"),
        ("protocol.file.allow", "always"),
    ):
        hostile.set(key, value)
    trees = await Worktrees.of(hostile.top, hostile.top.parent / "trees")
    with pytest.raises(CommandError, match=r"^`git reset --hard` failed: "):
        await trees.make("task")
    assert hostile.noted() == ""
    assert trees.find("task") is None, "what could not be written is not taken for a worktree"


async def test_the_environment_leads_git_nowhere_else(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_EXTERNAL_DIFF", "GIT_SSH_COMMAND", "GIT_PAGER", "GIT_ASKPASS"):
        monkeypatch.setenv(name, str(hostile.program))
    for name, value in (
        ("GIT_DIR", "/nowhere"),
        ("GIT_WORK_TREE", "/nowhere"),
        ("GIT_INDEX_FILE", "/nowhere"),
        ("GIT_OBJECT_DIRECTORY", "/nowhere"),
        ("GIT_CONFIG_PARAMETERS", f"'core.fsmonitor={hostile.program}'"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Hostile, "git", lambda *_, **__: "")
    assert "+changed" in await used(hostile)
    assert hostile.noted() == ""


async def test_the_users_own_filters_stay(hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.joinpath(".gitconfig").write_text('[filter "mine"]\n\tsmudge = sed s/two/TWO/\n')
    monkeypatch.setenv("HOME", str(home))
    (hostile.top / ".git" / "info" / "attributes").write_text("*.txt filter=mine\n")
    place = (await (await Worktrees.of(hostile.top, hostile.top.parent / "trees")).make("task")).path
    assert (place / "a.txt").read_text() == "TWO\n"


async def test_a_filter_runs_where_git_would_run_it(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.joinpath(".gitconfig").write_text('[filter "mine"]\n\tclean = cat\n[filter "x"]\n\tclean = cat\n')
    monkeypatch.setenv("HOME", str(home))
    (hostile.top / ".git" / "info" / "attributes").write_text("*.txt filter=x\n")
    repository = await Repository.around(hostile.top)
    assert await repository.runs_filter("mine")
    assert not await repository.runs_filter("nobody's")
    assert not await repository.runs_filter("x"), "the repository sets it too, so that none runs"
    assert await (await Repository.around(hostile.top, trusted=["filter.x"])).runs_filter("x")


async def test_git_says_why_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match=r"^`git rev-parse HEAD` failed: fatal: not a git repository"):
        await Repository(tmp_path).text("rev-parse", "HEAD")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match=r"^git is not installed"):
        await Repository(tmp_path).text("rev-parse", "HEAD")


async def test_what_git_says_is_shown_without_passwords_and_what_cannot_be_seen(hostile: Hostile) -> None:
    repository = await Repository.around(hostile.top)
    with pytest.raises(CommandError) as caught:
        await repository.text("checkout", "--", "http://ann:secret@host/\u202e\u200bx")
    assert "pathspec 'http://ann:***@host/x' did not match" in caught.value.cause


async def test_what_git_prints_is_bounded(hostile: Hostile) -> None:
    ended = await (await Repository.around(hostile.top)).run("ls-files", out_bytes=3)
    assert (ended.out, ended.cut) == (b"a.t", True)


# --- where a call goes ------------------------------------------------------------------------------------------------


def add(path: Path, text: str) -> None:
    path.write_text((path.read_text() if path.exists() else "") + text)


async def linked(hostile: Hostile) -> Repository:
    """A linked work tree, by the directories that git made for it."""
    place = hostile.top.parent / "linked"
    await (await Repository.around(hostile.top)).run("worktree", "add", "--detach", str(place))
    return await Repository.around(place)


@pytest.fixture
def evil(hostile: Hostile) -> Path:
    """Another repository, with a program that runs for whoever enters it."""
    other = hostile.top.parent / "evil"
    subprocess.run(["git", "init", "-q", str(other)], check=True)
    (other / ".git" / "config").write_text(f'[filter "e"]\n\tclean = {hostile.program}\n\tsmudge = {hostile.program}\n')
    (other / ".git" / "info" / "attributes").write_text("* filter=e\n")
    return other


async def committed(repository: Repository) -> str:
    """Commits all that lies in a work tree, and says where that went."""
    await repository.run("add", "-A")
    await repository.run("commit", "-m", "more", author=Person("agent <1>\n", "agent@loom"))
    return await repository.text("rev-parse", "HEAD")


def lead_astray(how: str, place: Repository, hostile: Hostile, evil: Path) -> None:
    """Has the work tree's own files name another repository."""
    assert place.git_dir is not None
    if how == "a .git file":
        (place.work_tree / ".git").write_text(f"gitdir: {evil}/.git\n")
    elif how == "a .git link":
        (place.work_tree / ".git").unlink()
        (place.work_tree / ".git").symlink_to(evil / ".git")
    elif how == "a commondir":
        (place.git_dir / "commondir").write_text(f"{evil}/.git\n")
    else:
        add(hostile.top / ".git" / "config", f"[core]\n\tworktree = {evil}\n")


@pytest.mark.parametrize("how", ["a .git file", "a .git link", "a commondir", "core.worktree"])
async def test_a_work_tree_leads_to_no_other_repository(hostile: Hostile, evil: Path, how: str) -> None:
    place = await linked(hostile)
    lead_astray(how, place, hostile, evil)
    (place.work_tree / "new.txt").write_text("new\n")
    made = await committed(place)
    assert hostile.git("cat-file", "-t", made).strip() == "commit"
    assert not (evil / ".git" / "index").exists()
    assert hostile.noted() == ""


async def test_a_repositorys_own_word_on_its_work_tree_does_not_count(hostile: Hostile, evil: Path) -> None:
    hostile.set("core.worktree", str(evil))
    assert (await Repository.around(hostile.top)).work_tree == hostile.top


async def test_a_directory_without_a_work_tree_is_refused(hostile: Hostile) -> None:
    with pytest.raises(CommandError, match="is in no work tree of a git repository"):
        await Repository.around(hostile.top / ".git")


def wrapped(place: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Has a script run before git, with its words."""
    place.mkdir()
    (place / "git").write_text(f'#!/bin/sh\n{script}\nexec {shutil.which("git")} "$@"\n')
    (place / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(place), prepend=":")


async def test_a_repository_of_another_user_is_entered_only_where_one_works(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped(tmp_path / "bin", monkeypatch, "export GIT_TEST_ASSUME_DIFFERENT_OWNER=1")
    with pytest.raises(CommandError, match=r"^The git repository in .*/top belongs to another user\."):
        await Repository.around(hostile.top)
    monkeypatch.chdir(hostile.top)
    repository = await Repository.around(hostile.top)
    assert await repository.text("rev-list", "--count", "HEAD") == "3"
    assert repository.safe == hostile.top
    monkeypatch.chdir(tmp_path)
    with calling(Caller(dict(os.environ), directory=hostile.top)):
        assert (await Repository.around(hostile.top)).safe == hostile.top


@pytest.mark.parametrize("version", ["2.17.1", "2.37.9"])
async def test_an_old_git_is_refused(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    wrapped(tmp_path / "bin", monkeypatch, f'[ "$1" = version ] && echo "git version {version}" && exit')
    with pytest.raises(CommandError, match=f"^This is git version {version}, and Loom needs 2.38 or newer"):
        await Repository.around(hostile.top)
    with pytest.raises(CommandError, match=f"^This is git version {version}"):
        await git_module.version()
    assert hostile.noted() == ""


async def test_what_git_says_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await git_module.version()).startswith("git version ")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match=r"^git is not installed\."):
        await git_module.version()


# --- what a call costs ------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many times git was started since the last time."""
    log = tmp_path / "calls"
    log.touch()
    wrapped(tmp_path / "bin", monkeypatch, f"echo >> {log}")

    def count() -> int:
        lines = log.read_text().count("\n")
        log.write_text("")
        return lines

    return count


def long_ago(path: Path) -> None:
    """Has the time pass in which a file may have been written again without its times telling."""
    while time.time_ns() - path.stat().st_ctime_ns < git_module._SETTLED:
        time.sleep(0.01)


async def test_the_look_at_the_settings_is_spared_while_they_are_unchanged(
    hostile: Hostile, calls: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_module, "_SETTLED", 50_000_000)
    repository = await Repository.around(hostile.top)
    long_ago(hostile.top / ".git" / "config")
    await repository.text("rev-parse", "HEAD")
    calls()
    for _ in range(5):
        await repository.text("rev-parse", "HEAD")
    assert calls() == 5


@pytest.mark.parametrize("where", ["config", "config.worktree"])
async def test_settings_that_are_written_between_two_calls_are_seen(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(git_module, "_SETTLED", 50_000_000)
    hostile.set("extensions.worktreeConfig", "true")
    repository = await Repository.around(hostile.top)
    long_ago(hostile.top / ".git" / "config")
    await repository.text("rev-parse", "HEAD")
    add(hostile.top / ".git" / where, f'[filter "late"]\n\tclean = {hostile.program}\n')
    (hostile.top / ".git" / "info" / "attributes").write_text("*.txt filter=late\n")
    hostile.write("a.txt", "changed\n")
    await repository.run("add", "-A")
    assert hostile.noted() == ""


async def test_settings_written_just_now_are_looked_at_each_time(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one tick of the clock a file can be written twice, with one size and one time."""
    config = hostile.top / ".git" / "config"
    calm = config.read_bytes() + b'[flower "late"]\n\tclean = %s\n' % bytes(hostile.program)
    config.write_bytes(calm)
    repository = await Repository.around(hostile.top)
    await repository.text("rev-parse", "HEAD")
    real = Path.stat
    facts = config.stat()
    monkeypatch.setattr(Path, "stat", lambda path, **how: facts if path == config else real(path, **how))
    config.write_bytes(calm.replace(b"flower", b"filter"))
    (hostile.top / ".git" / "info" / "attributes").write_text("*.txt filter=late\n")
    hostile.write("a.txt", "changed\n")
    await repository.run("add", "-A")
    assert hostile.noted() == ""


async def test_with_settings_elsewhere_nothing_is_spared(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_module, "_SETTLED", 50_000_000)
    more = hostile.top / ".git" / "more"
    hostile.set("include.path", str(more))
    repository = await Repository.around(hostile.top)
    long_ago(hostile.top / ".git" / "config")
    await repository.text("rev-parse", "HEAD")
    more.write_text(f'[filter "late"]\n\tclean = {hostile.program}\n')
    (hostile.top / ".git" / "info" / "attributes").write_text("*.txt filter=late\n")
    hostile.write("a.txt", "changed\n")
    await repository.run("add", "-A")
    assert hostile.noted() == ""


# --- what a call takes and gives --------------------------------------------------------------------------------------


async def test_a_commit_names_who_made_it_and_who_committed_it(hostile: Hostile) -> None:
    repository = await Repository.around(hostile.top)
    hostile.write("a.txt", "more\n")
    await committed(repository)
    said = await repository.text("log", "-1", "--format=%an|%ae|%cn|%ce")
    assert said == "agent 1|agent@loom|Loom|loom@localhost"
    await repository.run("commit", "--allow-empty", "-m", "x", author=Person("<>", ""), committer=Person(".", " "))
    assert await repository.text("log", "-1", "--format=%an %ae %cn") == "nobody nobody@localhost nobody"


async def test_a_call_has_an_index_of_its_own_and_a_standard_input(hostile: Hostile, tmp_path: Path) -> None:
    repository = await Repository.around(hostile.top)
    blob = (await repository.run("hash-object", "-w", "--stdin", text=b"\xff\0")).out.decode().strip()
    await repository.run("update-index", "--add", "--cacheinfo", f"100644,{blob},x", index=tmp_path / "index")
    assert (await repository.run("ls-files", index=tmp_path / "index")).out == b"x\n"
    assert "x\n" not in await repository.text("ls-files")
    assert (await repository.run("cat-file", "blob", blob)).out == b"\xff\0"


async def test_an_exit_status_that_is_an_answer_is_no_failure(hostile: Hostile) -> None:
    repository = await Repository.around(hostile.top)
    hostile.write("a.txt", "changed\n")
    assert (await repository.run("diff", "--quiet", accepted=(0, 1))).status == 1
    with pytest.raises(CommandError, match=r"^`git diff --quiet` failed: exit status 1$"):
        await repository.run("diff", "--quiet")


async def test_who_finds_the_index_locked_tries_again(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = await Repository.around(hostile.top)
    lock = hostile.top / ".git" / "index.lock"
    lock.touch()
    adding = asyncio.create_task(repository.run("add", "-A"))
    await asyncio.sleep(0.3)
    assert not adding.done()
    lock.unlink()
    await adding
    monkeypatch.setattr(git_module, "_LOCKED_SECONDS", 0.1)
    lock.touch()
    with pytest.raises(CommandError, match=r"^`git add -A` failed: fatal: Unable to create '.*index.lock'"):
        await repository.run("add", "-A")


async def test_nothing_of_a_call_outlives_its_cancellation(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = await Repository.around(hostile.top)
    told = f"echo $! $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/begun"
    wrapped(tmp_path / "bin", monkeypatch, f'case "$*" in *" gc"*) sleep 60 & {told}; wait ;; esac')
    call = asyncio.create_task(repository.run("gc"))
    await until((tmp_path / "begun").exists)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [alive(pid) for pid in pids(tmp_path / "begun")] == [False, False]


async def test_what_is_trusted_runs(hostile: Hostile) -> None:
    repository = await Repository.around(hostile.top, trusted=["filter.x"])
    await repository.run("hash-object", "--path=a.txt", "a.txt")
    assert str(hostile.program) in hostile.noted()
    hostile.ran.unlink()
    await repository.run("hash-object", "--path=b.eq", "b.eq")
    await repository.run("update-ref", "refs/heads/other", "HEAD")
    assert hostile.noted() == ""
    repository = await Repository.around(hostile.top, trusted=["hooks"])
    await repository.run("update-ref", "refs/heads/more", "HEAD")
    assert "reference-transaction" in hostile.noted()


# --- another repository -----------------------------------------------------------------------------------------------


async def test_a_remote_is_reached_and_nothing_of_the_repository_runs(hostile: Hostile, tmp_path: Path) -> None:
    other = tmp_path / "other.git"
    hostile.git("init", "-q", "--bare", str(other))
    for key in ("uploadpack", "receivepack"):
        hostile.set(f"remote.origin.{key}")
    hostile.set("remote.origin.url", str(other))
    hostile.set("core.alternateRefsCommand")
    repository = await Repository.around(hostile.top)
    pushed = await repository.push("origin", "main:refs/heads/landed")
    assert b"[new branch]" in pushed.out
    await repository.fetch("origin", "refs/heads/landed:refs/remotes/origin/landed")
    assert await repository.text("rev-parse", "origin/landed") == await repository.text("rev-parse", "main")
    hostile.git("reset", "-q", "--soft", "HEAD~1")
    await repository.run("commit", "-m", "another")
    refused = await repository.push("origin", "main:refs/heads/landed", accepted=(0, 1))
    assert b"[rejected] (non-fast-forward)" in refused.out
    assert hostile.noted() == ""


async def test_the_users_own_way_to_a_remote_is_gone(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repository names an ssh of its own; the user's is taken."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "ssh").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/ssh\nexit 1\n')
    (place / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(place), prepend=":")
    hostile.set("remote.origin.url", "ssh://host.invalid/repo")
    repository = await Repository.around(hostile.top)
    with pytest.raises(CommandError, match=r"^`git fetch --no-tags` failed"):
        await repository.fetch("origin", "refs/heads/main")
    assert "host.invalid" in (tmp_path / "ssh").read_text()
    assert hostile.noted() == ""


async def test_whoever_is_served_reaches_a_remote_in_his_own_way(hostile: Hostile, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/ssh\nexit 1\n')
    own.chmod(0o755)
    hostile.set("remote.origin.url", "ssh://host.invalid/repo")
    repository = await Repository.around(hostile.top)
    with (
        calling(Caller({**os.environ, "GIT_SSH_COMMAND": str(own)})),
        pytest.raises(CommandError, match=r"^`git fetch --no-tags` failed"),
    ):
        await repository.fetch("origin", "refs/heads/main")
    assert "host.invalid" in (tmp_path / "ssh").read_text()
    assert hostile.noted() == ""


@pytest.mark.parametrize("url", ["ext::{program} x", "helper::x"])
async def test_a_transport_that_is_a_program_is_refused(hostile: Hostile, url: str) -> None:
    hostile.set("remote.origin.url", url.format(program=hostile.program))
    hostile.set("protocol.allow", "always")
    with pytest.raises(CommandError, match=r"transport '(ext|helper)' not allowed"):
        await (await Repository.around(hostile.top)).fetch("origin", "refs/heads/main")
    assert hostile.noted() == ""


async def test_a_remote_that_a_program_stands_for_is_refused(hostile: Hostile) -> None:
    hostile.set("remote.origin.vcs", "helper")
    with pytest.raises(CommandError, match=r"^The repository's setting remote.origin.vcs names a program"):
        await (await Repository.around(hostile.top)).push("origin", "main")


async def test_the_users_own_credentials_are_asked_for_and_none_of_the_repository(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(f"[credential]\n\thelper = !echo own >> {tmp_path}/own; echo quit=true #\n")
    monkeypatch.setenv("HOME", str(home))

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n')
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        hostile.set("remote.origin.url", f"http://127.0.0.1:{port}/repo")
        hostile.set(f"credential.http://127.0.0.1:{port}.helper")
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(CommandError, match=r"^`git fetch --no-tags` failed"):
            await (await Repository.around(hostile.top)).fetch("origin", "refs/heads/main")
    assert (tmp_path / "own").exists()
    assert hostile.noted() == ""


# --- what git would write through -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MERGE_MSG", "logs/HEAD", "logs", "COMMIT_EDITMSG", "index"])
async def test_git_writes_through_no_link_of_an_agents(hostile: Hostile, name: str) -> None:
    """Who may commit in a worktree may write in its directory, and make links there that lead anywhere."""
    place = await linked(hostile)
    assert place.git_dir is not None
    mine = hostile.top.parent / "mine"
    mine.mkdir() if name == "logs" else mine.write_text("mine\n")
    link = place.git_dir / name
    if name == "logs":
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(mine)
    with pytest.raises(CommandError, match=f"{name} is a link, where git keeps none"):
        await place.run("commit", "--allow-empty", "-m", "$(program)")
    assert [*mine.iterdir()] == [] if name == "logs" else mine.read_text() == "mine\n"


async def test_no_log_of_a_branch_leads_elsewhere(hostile: Hostile) -> None:
    repository = await Repository.around(hostile.top)
    await repository.run("branch", "loom/task")
    mine = hostile.top.parent / "mine"
    mine.write_text("mine\n")
    log = hostile.top / ".git" / "logs" / "refs" / "heads" / "loom" / "task"
    log.unlink()
    log.symlink_to(mine)
    with pytest.raises(CommandError, match="is a link, where git keeps none"):
        await repository.run("update-ref", "-m", "$(program)", "refs/heads/loom/task", "HEAD~1")
    assert mine.read_text() == "mine\n"
