"""Git as Loom calls it, in repositories that would have their own programs run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from loom.exceptions import CommandError
from loom.git import Repository
from loom.orchestration.workers.worktrees import Worktrees
from loom.skills import gathering

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
    trees = await Worktrees.of(hostile.top, hostile.top / "trees")
    place = await trees.make("task")
    assert (place / "a.txt").read_text() == (hostile.top / "a.txt").read_text()
    hostile.write("a.txt", "changed\n", place)
    seen = await trees.changes("task")
    hostile.write("a.txt", "two\n", place)
    await trees.drop("task")
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
    trees = await Worktrees.of(hostile.top, hostile.top / "trees")
    place = await trees.make("task")
    hostile.git("submodule", "update", "-q",
                "--init", at=place)  # fmt: skip
    inside = Path(hostile.git("rev-parse", "--absolute-git-dir", at=place / "sub").strip())
    hostile.git("config", "filter.y.clean", str(hostile.program), at=place / "sub")
    (inside / "info" / "attributes").write_text("*.txt filter=y\n")
    hostile.write("a.txt", "TWO\n", place / "sub")
    hostile.ran.unlink(missing_ok=True)
    await trees.changes("task")
    await trees.drop("task")
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
    trees = await Worktrees.of(hostile.top, hostile.top / "trees")
    with pytest.raises(CommandError, match=r"^`git reset --hard` failed: "):
        await trees.make("task")
    assert hostile.noted() == ""
    assert not (hostile.top / "trees" / "task").exists(), "what could not be written is not taken for a worktree"


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
    place = await (await Worktrees.of(hostile.top, hostile.top / "trees")).make("task")
    assert (place / "a.txt").read_text() == "TWO\n"


async def test_git_says_why_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match=r"^`git rev-parse HEAD` failed: fatal: not a git repository"):
        await Repository(tmp_path).text("rev-parse", "HEAD")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match=r"^git is not installed"):
        await Repository(tmp_path).text("rev-parse", "HEAD")


async def test_what_git_prints_is_bounded(hostile: Hostile) -> None:
    ended = await (await Repository.around(hostile.top)).run("ls-files", out_bytes=3)
    assert (ended.out, ended.cut) == (b"a.t", True)
