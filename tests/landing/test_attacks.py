"""An agent plants what git could run, in all places that he can write, and his work is landed: nothing of it runs.

Each attack is live: git, called by a person in the same place, runs the program.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from loom.exceptions import LoomError
from loom.landing.byhand import ByHand
from tests.landing.place import ENV, Place
from tests.landing.test_byhand import claimed
from tests.landing.yard import Yard
from tests.test_git import HOOKS, SETTINGS


class Attack:
    """What an agent can write, and a program that notes when it runs."""

    def __init__(self, tree: Place, top: Path, away: Path) -> None:
        self.tree, self.common, self.away = tree, top / ".git", away
        self.own = self.common / "worktrees" / tree.top.name
        self.ran, self.program = away / "ran", away / "program"
        away.mkdir()
        self.program.write_text(f'#!/bin/sh\necho "$0 $*" >> {self.ran}\n[ -t 0 ] || cat\n')
        self.program.chmod(0o755)

    def evil(self) -> Path:
        """A repository of the agent's own, with settings that start the program."""
        other = self.away / "evil"
        subprocess.run(["git", "init", "-q", str(other)], check=True, env=ENV)
        self.settings(other / ".git" / "config")
        (other / ".git" / "info" / "attributes").write_text("* filter=x diff=x merge=x\n")
        return other / ".git"

    def settings(self, config: Path) -> None:
        with config.open("a") as file:
            file.write(SETTINGS.format(program=self.program))

    def attributes(self) -> None:
        """The repository's own, which land with the work."""
        self.tree.write(".gitattributes", "* filter=x diff=x merge=x\n")

    @property
    def noted(self) -> str:
        return self.ran.read_text() if self.ran.exists() else ""


def hooks(attack: Attack) -> None:
    for place in (attack.common / "hooks", attack.tree.top / ".hooks"):
        place.mkdir(exist_ok=True)
        for name in (*HOOKS, "post-merge", "pre-merge-commit", "prepare-commit-msg", "post-rewrite"):
            (place / name).write_text(f"#!/bin/sh\necho {name} >> {attack.ran}\n")
            (place / name).chmod(0o755)


def hooks_elsewhere(attack: Attack) -> None:
    hooks(attack)
    with (attack.common / "config").open("a") as file:
        file.write(f"[core]\n\thooksPath = {attack.tree.top}/.hooks\n")


def drivers(attack: Attack) -> None:
    attack.settings(attack.common / "config")
    attack.attributes()


def drivers_by_info(attack: Attack) -> None:
    attack.settings(attack.common / "config")
    (attack.common / "info" / "attributes").write_text("* filter=x diff=x merge=x\n")


def an_include(attack: Attack) -> None:
    more = attack.tree.write("more")
    attack.settings(more)
    with (attack.common / "config").open("a") as file:
        file.write(f'[include]\n\tpath = {more}\n[includeIf "onbranch:loom/**"]\n\tpath = {more}\n')
    attack.attributes()


def settings_of_the_worktree(attack: Attack) -> None:
    with (attack.common / "config").open("a") as file:
        file.write("[core]\n\trepositoryformatversion = 1\n[extensions]\n\tworktreeConfig = true\n")
    attack.settings(attack.own / "config.worktree")
    attack.attributes()


def a_git_file(attack: Attack) -> None:
    (attack.tree.top / ".git").write_text(f"gitdir: {attack.evil()}\n")


def a_git_link(attack: Attack) -> None:
    (attack.tree.top / ".git").unlink()
    (attack.tree.top / ".git").symlink_to(attack.evil())


def a_commondir(attack: Attack) -> None:
    (attack.own / "commondir").write_text(f"{attack.evil()}\n")


def another_work_tree(attack: Attack) -> None:
    drivers(attack)
    with (attack.common / "config").open("a") as file:
        file.write(f"[core]\n\tworktree = {attack.evil().parent}\n")


def a_link_for_a_worktree(attack: Attack) -> None:
    evil = attack.evil()
    moved = attack.away / "moved"
    attack.tree.top.rename(moved)
    (moved / ".git").write_text(f"gitdir: {evil}\n")
    attack.tree.top.symlink_to(moved)


def links_among_gits_files(attack: Attack) -> None:
    for name in ("logs/HEAD", "MERGE_MSG", "COMMIT_EDITMSG"):
        (attack.own / name).unlink(missing_ok=True)
        (attack.own / name).symlink_to(attack.ran)


ATTACKS = (
    hooks,
    hooks_elsewhere,
    drivers,
    drivers_by_info,
    an_include,
    settings_of_the_worktree,
    a_git_file,
    a_git_link,
    a_commondir,
    another_work_tree,
    a_link_for_a_worktree,
    links_among_gits_files,
)


@pytest.fixture
async def hand(yard: Yard) -> AsyncIterator[ByHand]:
    async with ByHand.of(yard.loom, lambda said: None) as made:
        yield made


@pytest.mark.parametrize("plant", ATTACKS, ids=[one.__name__ for one in ATTACKS])
async def test_nothing_that_an_agent_plants_runs(
    yard: Yard, hand: ByHand, tmp_path: Path, plant: Callable[[Attack], None]
) -> None:
    # Something else lands in the same file, so that what was planted meets a merge too.
    other = await yard.queued({"a.txt": "two\n"}, "Other")
    task, tree = await claimed(yard, one="1")
    tree.write("a.txt", "one\ntheirs\n")
    attack = Attack(tree, yard.place.top, tmp_path / "away")
    plant(attack)
    with suppress(LoomError):  # what leads astray may be refused; what runs may not
        await hand.task(task.id, 30)
    with suppress(LoomError):
        await yard.worktrees.changes(task.id)
    await hand.queue(30)
    again = await yard.worktrees.make(task.id)
    await yard.worktrees.drop(again)
    assert attack.noted == ""
    assert await yard.status(other) == "done", "nobody else is held up by it"


def test_each_attack_is_live(tmp_path: Path) -> None:
    quiet = []
    for number, plant in enumerate(ATTACKS):
        top = Place(tmp_path / f"{number}" / "top")
        top.top.mkdir(parents=True)
        top.git("init", "-q", "-b", "main")
        top.commit("one", {"a.txt": "one\n"})
        tree = Place(tmp_path / f"{number}" / "tree")
        top.git("worktree", "add", "-q", "-b", "loom/tree", str(tree.top))
        attack = Attack(tree, top.top, tmp_path / f"{number}" / "away")
        plant(attack)
        tree.write("a.txt", "two\n")
        for words in (("add", "a.txt"), ("commit", "-q", "--allow-empty", "--no-gpg-sign", "-m", "two")):
            tree.git(*words, check=False)
        for place in (top, tree):
            place.git("status", check=False)
        if not attack.noted:
            quiet.append(plant.__name__)
    assert quiet == []
