"""A git worktree and a branch for each task, so that those who work do not get in each other's way.

    trees = await Worktrees.of_project(config)
    tree = await trees.make(task_id, tip)     # held by this process from here on
    ...
    trees.leave(tree)                         # or: await trees.drop(tree)

Below the project's state each task has `worktrees/TASK/`, in which an agent works and may do what he likes, and beside
it what he has no business with: `TASK.json`, the mark that it was made whole, written last, with the directories that
git is given from then on; and `TASK.lock`, which one process holds. What has no mark was left half made, by a process
that died: taken for a worktree, it would be one in which most files were deleted. It is removed and made again.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from loom import process
from loom.background import through
from loom.config import LoomConfig
from loom.exceptions import CommandError, FileError, LoomError
from loom.git import FILES_SECONDS, Repository
from loom.graph import store
from loom.graph.model.paths import below, plain
from loom.graph.model.task import TaskStatus
from loom.landing import checkout, filters, moving, places, pointers, refs, setup, submodules
from loom.landing.merging import commit_tree, is_ancestor, merge_base
from loom.landing.places import Lock, Mark
from loom.landing.target import commit_of, nothing_in_the_way

if TYPE_CHECKING:
    from loom.graph.front import Loom

_LISTED_BYTES = 5_000  # of commits, and of what is not committed
_DIFF_BYTES = 50_000
_SHOW_SECONDS = 30.0  # for git to show something
_HELD_SECONDS = 60.0  # that another process may take to be done with a worktree: more than it takes to end a command
_NOT_INTO = "--ignore-submodules=dirty"  # their own configuration is never met
_BRANCHES = "loom"  # before the slash
_NO_ROOM = ("No space left on device", "Disk quota exceeded", "Read-only file system")
_OVER = (TaskStatus.DONE, TaskStatus.CANCELLED)


@dataclass(frozen=True, slots=True)
class Worktree:
    """A place to work in.

    Args:
        path: the directory with the files; `home`: the one in it that the project has in the repository.
        repository: to call git with; an agent's `.git` file does not count.
        base: the commit that its branch began from, "" if that is not known.
        slot: a number that no other worktree in use on this machine has.
        fresh: it was made just now, with the files of `base`: nobody has worked on it.
    """

    task_id: str
    path: Path
    home: Path
    repository: Repository
    branch: str
    base: str
    slot: int
    fresh: bool

    @property
    def variables(self) -> dict[str, str]:
        """What a command that works in it finds in its environment."""
        return {"LOOM_SLOT": str(self.slot)}

    @property
    def is_there(self) -> bool:
        """Whether it still lies where it was made, and git keeps it."""
        assert self.repository.git_dir is not None, "its mark has it"
        return self.path.is_dir() and self.repository.git_dir.is_dir()

    def put_back(self) -> None:
        """Mends what leads git to it, whatever was made of that. Raises OSError."""
        assert self.repository.git_dir is not None, "its mark has it"
        pointers.put_back(self.path, self.repository.git_dir, self.branch)


@dataclass(frozen=True, slots=True)
class Found:
    """What lies there of a task. `in_use`: a process holds it; `whole`: it was made to its end."""

    task_id: str
    path: Path
    branch: str
    in_use: bool
    whole: bool


class Worktrees:
    """The worktrees of a project, each on the branch `loom/<task id>` of its repository."""

    def __init__(self, repository: Repository, state: Path, project_dir: Path) -> None:
        """
        Args:
            state: the project's directory for what is not in its repository.
            project_dir: where the project is, in the work tree of the repository.
        """
        self.repository, self.state = repository, state
        self._place = places.worktrees(state)
        self._below = project_dir.relative_to(repository.work_tree)
        self._held: dict[str, _Hold] = {}

    @classmethod
    async def of_project(cls, config: LoomConfig, *, to_make: bool = True) -> Worktrees:
        """Those of a project. Raises as `of`."""
        directory, state = config.project_dir or Path(), places.state_dir(config)
        return await cls.of(directory, state, config.landing.trusted_git, to_make=to_make)

    @classmethod
    async def of(
        cls, directory: Path, state: Path, trusted: Collection[str] = (), *, to_make: bool = True
    ) -> Worktrees:
        """Those of the repository that `directory` is in.

        Args:
            to_make: whether some are to be made, and not only those that are there looked at.

        Raises:
            CommandError: there is none, it has no commit yet, files of it belong through a filter that does not
                run, or git is not installed or refuses.
            TargetError: something in it keeps branches from being made.
            FileError: there is no place for them.
        """
        try:
            repository = await Repository.around(directory, trusted)
        except CommandError as error:
            if "not a git repository" not in error.cause:
                raise
            raise CommandError(
                f"{directory} is not in a git repository, which worktrees need.", "Run `git init` and commit first."
            ) from error
        if to_make:
            await nothing_in_the_way(repository)
            await filters.must_run(repository)
        places.own_directory(places.worktrees(state))
        return cls(repository, state, await asyncio.to_thread(directory.resolve))

    async def make(self, task_id: str, base: str | None = None, *, later_than: datetime | None = None) -> Worktree:
        """The worktree of a task, held by this process until `leave` or `drop`: the one that an earlier attempt left,
        with all that lies in it and with nothing of that attempt running, else a new one.

        Args:
            base: the commit that a new one begins from; None: HEAD. A branch of the task with commits of its own is
                gone on with.
            later_than: when the task was reopened. Its work begins anew then, and what is from before on its branch, or
                lies in its worktree, is kept at `refs/loom/kept`.

        Raises:
            CommandError: with what git says; somebody else works in it and does not end.
            FileError: there is no place for it.
        """
        try:
            hold = await self._take(task_id)
        except OSError as error:
            raise _unwritable(error, self._place) from None
        try:
            if later_than is not None:
                await self._set_aside(task_id, later_than.timestamp())
            if (tree := await asyncio.to_thread(self._read, task_id, hold.slot)) is None:
                # To the end, also when cancelled: what is half made is only made again.
                making = asyncio.create_task(self._add(task_id, base, hold))
                await through(making)
                tree = making.result()
            elif hold.taken:
                await asyncio.to_thread(tree.put_back)
                await moving.mend(tree.repository, moving.beside(tree.path))
        except OSError as error:
            self._leave(task_id)
            raise _unwritable(error, self._place) from None
        except BaseException:
            self._leave(task_id)
            raise
        return tree

    async def trouble(self, error: LoomError | OSError) -> LoomError | None:
        """What keeps all worktrees from being worked in, None if nothing does.

        Args:
            error: what has just gone wrong with one of them.
        """
        if any(said in str(error) for said in _NO_ROOM):
            return error if isinstance(error, LoomError) else _unwritable(error, self._place)
        try:
            await self.repository.run("rev-parse", "--git-dir")
        except CommandError as gone:
            return CommandError(
                f"The git repository of {self.repository.work_tree} does not answer any more. {gone.cause}",
                "Bring it back to where it was; the work on it stays where it lies.",
            )
        return None

    def leave(self, worktree: Worktree) -> None:
        """Lets another process work in it. What lies in it stays."""
        self._leave(worktree.task_id)

    def find(self, task_id: str) -> Worktree | None:
        """The worktree of a task as it lies there, whoever works in it; None if there is none that is whole."""
        return self._read(task_id, 0)

    def made_before(self, task_id: str, seconds: float) -> bool:
        """Whether the worktree of a task was made before a moment, in seconds since the epoch; False if there is
        none."""
        try:
            return self._mark_of(task_id).stat().st_mtime < seconds
        except OSError:
            return False

    async def would_have(self, name: str, base: str, *, brought: Collection[str] = ()) -> bool:
        """Whether a worktree that begins from a commit has a file, by the path that it has from where one works there.
        `brought`: paths of the repository that come from elsewhere. Raises CommandError."""
        path = _normal(self._below / name)
        if any(below(path, plain(one)) for one in brought):
            return True
        looked = await self.repository.run("cat-file", "-e", f"{base}:{path}", accepted=(0, 128))
        return looked.status == 0

    async def changes(self, task_id: str, onto: str = "HEAD") -> str:
        """What was changed in a task's worktree since its branch left another, as git shows it: the commits, what is
        not committed, and the diff of all that git knows; of each the beginning.

        Args:
            onto: the branch that it left, as the repository names it.

        Raises:
            CommandError: with what git says, or that it does not end; there is no worktree.
        """
        tree = self.find(task_id)
        if tree is None:
            raise CommandError(f"The worktree of {task_id} is gone.")
        top = await _shown(_LISTED_BYTES, self.repository, "rev-parse", "--verify", "--end-of-options", onto)
        base = await _shown(_LISTED_BYTES, tree.repository, "merge-base", "HEAD", top)
        commits = await _shown(_LISTED_BYTES, tree.repository, "log", "--oneline", f"{base}..HEAD")
        loose = await _shown(_LISTED_BYTES, tree.repository, "status", "--short", _NOT_INTO)
        diff = await _shown(_DIFF_BYTES, tree.repository, "diff", "--patch-with-stat", _NOT_INTO, base)
        return (
            f"The commits on {tree.branch}, newest first:\n{commits or 'none'}\n\n"
            f"What is not committed:\n{loose or 'nothing'}\n\n"
            f"The diff of both, without files that git does not know:\n{diff or 'nothing'}"
        )

    async def brought(self, base: str, commit: str) -> str:
        """What a commit brings beyond another one, as `changes` shows it. Raises CommandError."""
        commits = await _shown(_LISTED_BYTES, self.repository, "log", "--oneline", f"{base}..{commit}")
        diff = await _shown(_DIFF_BYTES, self.repository, "diff", "--patch-with-stat", _NOT_INTO, base, commit)
        return f"The commits, newest first:\n{commits or 'none'}\n\nThe diff:\n{diff or 'nothing'}"

    async def drop(self, worktree: Worktree) -> str:
        """Removes a worktree and its branch, and lets it go. It stays where something in it is not committed, and the
        branch where it has commits that no other branch has.

        Returns:
            What is still there and why, "" if nothing.

        Raises:
            FileError: it cannot be removed.
        """
        dropping = asyncio.create_task(self._drop(worktree))
        try:
            await through(dropping)
        except OSError as error:
            raise _unwritable(error, self._place) from None
        finally:
            self._leave(worktree.task_id)
        return dropping.result()

    async def set_up(self, worktree: Worktree, config: LoomConfig, trees: process.ProcessTrees, log: Path) -> None:
        """Makes a worktree one to work in. `log`: the file for what the setup prints. Raises as `setup.prepare`."""
        for name in config.work.copy:
            words = ("check-ignore", "--quiet", "--no-index", "--", name)
            source = self.repository.work_tree / name
            if source.exists() and (await worktree.repository.run(*words, accepted=(0, 1))).status:
                raise CommandError(
                    f"work.copy: {name} is not ignored by git, so that it would be committed.",
                    "Add it to .gitignore, and commit that.",
                )
        place = setup.Place(
            tree=worktree.path,
            home=worktree.home,
            source=self.repository.work_tree,
            state=self.state,
            log=log,
            variables=tuple(worktree.variables.items()),
            keeps=worktree.fresh,
            submodules=await submodules.staged(worktree.repository) if config.work.setup.command else {},
        )
        await setup.prepare(place, config, trees)

    def listed(self) -> list[Found]:
        """What lies there, by task. Raises FileError."""
        try:
            names = {one.name.partition(".")[0] for one in self._place.iterdir() if not one.name.endswith(".lock")}
            return [self._look(name) for name in sorted(names)]
        except OSError as error:
            raise _unwritable(error, self._place) from None

    async def branches(self) -> list[str]:
        """The tasks that have a branch, with or without a worktree. Raises CommandError."""
        refs = await self.repository.text("for-each-ref", "--format=%(refname)", f"refs/heads/{_BRANCHES}/loom-*")
        return [name.rpartition("/")[2] for name in refs.splitlines()]

    async def prune(self, over: Collection[str]) -> dict[str, str]:
        """Removes what was left half made, and the worktrees and branches of these tasks, which are over. What is in
        use stays, and what would be lost by it. Returns for each that was looked at what is still there and why, "" if
        nothing.

        Raises:
            FileError: something cannot be removed. CommandError: git refuses.
        """
        told = {}
        for found in self.listed():
            if found.whole and found.task_id not in over:
                continue
            told[found.task_id] = await self._prune(found)
        # Whoever removed a worktree may have died before its branch went.
        for task_id in await self.branches():
            if task_id in over and not told.get(task_id):
                told[task_id] = await self._drop_branch(branch_of(task_id))
        return told

    # --- who holds it -------------------------------------------------------------------------------------------------

    async def _take(self, task_id: str) -> _Hold:
        """Holds the worktree of a task. What an attempt of a process that has died left running there is ended."""
        if (held := self._held.get(task_id)) is not None:
            return replace(held, taken=False)
        for one in (self.state, self._place):  # somebody may have cleared the place while this went on
            await asyncio.to_thread(places.own_directory, one)
        lock = await Lock.wait(self._place / f"{task_id}.lock", _HELD_SECONDS)
        if lock is None:
            raise CommandError(
                f"Another process still works in {self._place / task_id}.", "Wait until it has ended, or end it."
            )
        try:
            await process.end_others(lambda env: env.get("LOOM_TASK_ID") == task_id and process.guard.MARK in env)
            mark = self._read_mark(task_id)
            slot, slot_lock = places.take_slot(mark.slot if mark else 1)
        except BaseException:
            lock.let_go()
            raise
        self._held[task_id] = hold = _Hold(lock, slot_lock, slot, taken=True)
        return hold

    def _leave(self, task_id: str, *, remove: bool = False) -> None:
        if (hold := self._held.pop(task_id, None)) is not None:
            hold.slot_lock.let_go()
            hold.lock.let_go(remove=remove)

    # --- making and removing ------------------------------------------------------------------------------------------

    async def _add(self, task_id: str, base: str | None, hold: _Hold) -> Worktree:
        """Makes the worktree. What git starts for it holds it on, should this process die."""
        path, branch = self._place / task_id, branch_of(task_id)
        fds = (hold.lock.fd,)
        start = await commit_of(self.repository, base or "HEAD")
        await asyncio.to_thread(self._clear, task_id)
        anew = await self._has_nothing(branch, start)
        how = ["-B", branch, str(path), start] if anew else [str(path), branch]
        try:
            await self.repository.run("worktree", "add", "--no-checkout", *how, pass_fds=fds)
            left = start if anew else await merge_base(self.repository, refs.branch(branch), start)
            tree = await asyncio.to_thread(self._made, task_id, left, hold.slot, anew)
            # By a call of its own: the configuration may differ by branch or place, and is looked through there.
            await tree.repository.run("reset", "--hard", "--quiet", timeout=FILES_SECONDS, pass_fds=fds)
            await asyncio.to_thread(self._mark, tree)
        except BaseException:
            with suppress(OSError):
                await asyncio.to_thread(self._clear, task_id)
            raise
        return tree

    async def _set_aside(self, task_id: str, seconds: float) -> None:
        """Keeps the worktree that a task had before a time, and its branch, where only refs of Loom's own show them."""
        branch, tree = branch_of(task_id), self.find(task_id)
        tip = await refs.commit_at(self.repository, refs.branch(branch))
        if tree is not None:
            old = self.made_before(task_id, seconds)
        else:
            old = tip is not None and int(await self.repository.text("log", "-1", "--format=%ct", tip)) < seconds
        if not old:
            return
        if tree is not None:
            await asyncio.to_thread(tree.put_back)
        found = {tip, await self._with_all(tree) if tree is not None else None} - {None}
        await refs.change(self.repository, *(f"update {refs.kept(branch, str(one))} {one}" for one in found))
        await asyncio.to_thread(self._clear, task_id)
        if tip is not None:
            await refs.change(self.repository, f"delete {refs.branch(branch)} {tip}")

    async def _with_all(self, tree: Worktree) -> str | None:
        """The commit that HEAD of a worktree is, or one with all that lies there; None: there is no HEAD."""
        head = await refs.commit_at(tree.repository, "HEAD")
        if head is None or not await self._unsaved(tree):
            return head
        await tree.repository.run("add", "--all", "--", ":/", timeout=FILES_SECONDS)
        made = await tree.repository.text("write-tree")
        return await commit_tree(tree.repository, made, (head,), f"What lay in the worktree of {tree.task_id}\n")

    async def _has_nothing(self, branch: str, start: str) -> bool:
        """Whether there is no such branch, or nothing on it that is not in the commit to begin from."""
        at = await refs.commit_at(self.repository, refs.branch(branch))
        return at is None or await is_ancestor(self.repository, at, start)

    def _made(self, task_id: str, base: str, slot: int, fresh: bool) -> Worktree:
        """The worktree that git has just made, before anybody can have been in it."""
        path = self._place / task_id
        git_dir = Path((path / ".git").read_text().removeprefix("gitdir:").strip())
        return self._worktree(task_id, path, git_dir, base, slot, fresh=fresh)

    def _worktree(self, task_id: str, path: Path, git_dir: Path, base: str, slot: int, *, fresh: bool) -> Worktree:
        repository = replace(self.repository, work_tree=path, git_dir=git_dir, common_dir=self._common)
        return Worktree(task_id, path, path / self._below, repository, branch_of(task_id), base, slot, fresh)

    async def _drop(self, tree: Worktree) -> str:
        if kept := await self._unsaved(tree):
            return f"{tree.path}: {kept}"
        await asyncio.to_thread(self._clear, tree.task_id)
        self._leave(tree.task_id, remove=True)
        return await self._drop_branch(tree.branch)

    async def _drop_branch(self, branch: str) -> str:
        ref = refs.branch(branch)
        try:
            listed = await self.repository.text("for-each-ref", "--format=%(objectname) %(worktreepath)", ref)
            stands, _, where = listed.partition(" ")
            if not stands:
                return ""
            if where != "" and await asyncio.to_thread(Path(where).exists):  # of another project of the repository
                return f"the branch {branch}, which is checked out in {where}"
            if await self._only_on(branch, stands):
                return f"the branch {branch}, whose commits no other branch has"
            await self.repository.run("update-ref", "--no-deref", "-d", ref, stands)
        except CommandError as error:
            return f"the branch {branch}: {error.cause}"
        return ""

    async def _unsaved(self, tree: Worktree) -> str:
        """Why a worktree is not removed without force, "" if it may be."""
        if not tree.path.is_dir():
            return ""
        words = ("status", "--porcelain", "--untracked-files=all", "--ignore-submodules=all")
        base = tree.base or "HEAD"
        try:
            moved = await submodules.moved(tree.repository, base)
            if moved or (await tree.repository.run(*words, out_bytes=_LISTED_BYTES, timeout=FILES_SECONDS)).out:
                return "not all that lies in it is committed"
            return "; ".join(await submodules.unsaved(tree.repository, base, untracked=True))
        except CommandError as error:
            return error.cause

    async def _only_on(self, branch: str, tip: str) -> bool:
        """Whether a commit is on no branch but this one, and those of other tasks, which may go as well."""
        others = [f"--exclude={branch}", f"--exclude={_BRANCHES}/loom-*", "--branches", "HEAD"]
        return bool(await self.repository.text("rev-list", "--max-count=1", tip, "--not", *others))

    async def _prune(self, found: Found) -> str:
        try:
            lock = Lock.take(self._place / f"{found.task_id}.lock")
        except OSError as error:
            raise _unwritable(error, self._place) from None
        if lock is None:
            return f"{found.path}: somebody works in it"
        tree = self.find(found.task_id)
        try:
            if tree is not None:
                return await self._drop(tree)
            await asyncio.to_thread(self._clear, found.task_id)
        except OSError as error:
            raise _unwritable(error, self._place) from None
        finally:
            lock.let_go(remove=not found.path.exists())
        return ""

    def _clear(self, task_id: str) -> None:
        """Removes a worktree: mark, files, and what git keeps of it, however far it was made. The mark goes first."""
        mark = self._read_mark(task_id)
        self._mark_of(task_id).unlink(missing_ok=True)
        self._mark_of(task_id).with_suffix(".setup").unlink(missing_ok=True)
        moving.beside(self._place / task_id).unlink(missing_ok=True)
        places.remove(self._place / task_id)
        kept = self._common / "worktrees"
        for one in [*kept.iterdir()] if kept.is_dir() else ():
            ours = self._is_ours(one, task_id) and re.fullmatch(re.escape(task_id) + r"\d*", one.name)
            if ours or (mark is not None and str(one) == mark.git_dir):
                places.remove(one)

    def _is_ours(self, git_dir: Path, task_id: str) -> bool:
        """Whether git made this for the worktree of a task, or had no time to write what for."""
        try:
            return pointers.pointer(git_dir) in ("", str(self._place / task_id / ".git"))
        except FileNotFoundError:
            return True
        except OSError:  # somebody else's doing
            return False

    # --- the mark -----------------------------------------------------------------------------------------------------

    def _mark(self, tree: Worktree) -> None:
        """Says that a worktree is whole."""
        mark = Mark(str(self._common), str(tree.repository.git_dir), tree.base, tree.slot)
        mark.write(self._mark_of(tree.task_id), self.state)

    def _mark_of(self, task_id: str) -> Path:
        return self._place / f"{task_id}.json"

    def _read_mark(self, task_id: str) -> Mark | None:
        return Mark.read(self._mark_of(task_id), self.state)

    def _read(self, task_id: str, slot: int) -> Worktree | None:
        """The worktree as its mark has it; None if it has none, or is not what the mark says."""
        mark, path = self._read_mark(task_id), self._place / task_id
        if mark is None or mark.common_dir != str(self._common):
            return None
        git_dir = Path(mark.git_dir)
        try:
            if not stat.S_ISDIR(path.lstat().st_mode):  # a link would lead anywhere
                return None
        except OSError:
            return None
        if git_dir.parent != self._common / "worktrees" or not os.path.lexists(git_dir / "HEAD"):
            return None
        return self._worktree(task_id, path, git_dir, mark.base, slot or mark.slot, fresh=False)

    def _look(self, task_id: str) -> Found:
        lock = Lock.take(self._place / f"{task_id}.lock")
        if lock is not None:
            lock.let_go()
        whole = self.find(task_id) is not None
        return Found(task_id, self._place / task_id, branch_of(task_id), in_use=lock is None, whole=whole)

    @property
    def _common(self) -> Path:
        assert self.repository.common_dir is not None, "it was found"
        return self.repository.common_dir


@dataclass(frozen=True, slots=True)
class _Hold:
    """What this process has of a worktree. `taken`: just now."""

    lock: Lock
    slot_lock: Lock
    slot: int
    taken: bool


def of_earlier_versions(project_dir: Path) -> list[Path]:
    """The worktrees that Loom has made inside of a project's directory, before they came to lie elsewhere."""
    try:
        return sorted(one for one in (project_dir / ".loom" / "worktrees").iterdir() if (one / ".git").is_file())
    except OSError:
        return []


async def over(loom: Loom, task_ids: Collection[str]) -> set[str]:
    """Those of these tasks that nobody will work on again: done, cancelled, or of no project any more."""
    known = await loom.look(lambda connection: store.get_tasks(connection, loom.project_id, task_ids))
    return {one for one in task_ids if one not in known or known[one].status in _OVER}


async def tidy(loom: Loom, trees: Worktrees) -> dict[str, str]:
    """Prunes what is left of all tasks that are over, whoever left it, the checkouts for checks that nobody has used
    for long, and the scratch of processes that were killed. Returns and raises as `Worktrees.prune`."""
    try:
        await asyncio.to_thread(places.clear_scratch)
        await asyncio.to_thread(checkout.prune, places.proving(trees.state))
    except OSError as error:
        raise _unwritable(error, places.proving(trees.state)) from None
    known = {*(one.task_id for one in trees.listed()), *await trees.branches()}
    return await trees.prune(await over(loom, known))


def _normal(path: Path) -> str:
    """A path without `.` and `..`, but for those that it must begin with."""
    return os.path.normpath(path)


def branch_of(task_id: str) -> str:
    """The branch that a task's work is on."""
    return f"{_BRANCHES}/{task_id}"


async def _shown(limit: int, repository: Repository, *words: str) -> str:
    """The first bytes that git prints, and whether there is more."""
    ended = await repository.run(*words, timeout=_SHOW_SECONDS, out_bytes=limit)
    return ended.out.decode(errors="replace").rstrip() + "\n... and more" * ended.cut


def _unwritable(error: OSError, place: Path) -> FileError:
    return FileError(f"{error.filename or place} cannot be written: {error.strerror}.", "Mend that first.")
