"""Committing what lies in the worktree of a task, and judging whether it may land.

    made = await commit(worktree.repository, worktree.branch, work, target=tip, base=worktree.base)
    if isinstance(made, Refusal): tell the agent made.problems

The files decide, whatever an agent has done to its branch: committed by itself, rewritten or deleted it, or left HEAD
elsewhere. Nothing of the worktree's index or branch changes where the work is refused, but that files are staged.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loom.exceptions import CommandError
from loom.files import read, read_beginning
from loom.git import FILES_SECONDS, GITLINK, Person, Repository
from loom.graph.model.paths import below, is_own, may_be_below, plain
from loom.landing import refs
from loom.landing.merging import commit_tree, is_ancestor, merge_base, tree_of
from loom.landing.moving import unmerge
from loom.landing.submodules import keep_up, unsaved
from loom.landing.trailers import lines, speaks_for_others, subject
from loom.texts import quote

LARGEST = 50_000_000
"""Bytes of a file that is committed, at most."""

_MARKER = re.compile(rb"^(<{7}|>{7}) ", re.MULTILINE)
_BINARY = 8_000  # bytes among which a zero means that git takes a file for no text
_NAMED = 10  # paths in a sentence
_LISTED_BYTES = 50_000_000  # of what git lists
_HEAD_BYTES = 10_000  # of what git keeps of a merge
_WALKED = 200  # entries of the log of a worktree, and of a branch
_MESSAGES_BYTES = 1_000_000  # of an agent's own messages that are looked through


@dataclass(frozen=True, slots=True)
class Work:
    """Whose work is committed: the task, the agent, and the paths that the task is for."""

    task_id: str
    title: str
    agent: str
    files: tuple[str, ...] = ()

    @property
    def author(self) -> Person:
        """Who its commits are by."""
        return Person.agent(self.agent)


@dataclass(frozen=True, slots=True)
class Committed:
    """What a worktree came to: the commit that its branch has, the paths by which that differs from the target, and
    those of them that are not among the task's files."""

    commit: str
    changed: tuple[str, ...]
    outside: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an agent's work is not committed, a sentence or two each. `nothing`: because it has changed nothing."""

    problems: tuple[str, ...]
    nothing: bool = False


async def commit(
    worktree: Repository,
    branch: str,
    work: Work,
    *,
    target: str,
    base: str,
    protected: Collection[str] = (),
) -> Committed | Refusal:
    """Commits what lies in a worktree, in which nothing runs: untracked files too, ignored ones never.

    Args:
        worktree: by its own directory.
        branch: that of the task.
        target: the commit of the target that the work is to land on.
        base: the commit that the branch began from, should the agent have left nothing to tell it by; "": unknown.
        protected: paths that only a task which names them may change; `.loom` is, whatever it names.

    Raises:
        CommandError: git refuses, or the disk is full.
    """
    found = await _lies_there(worktree)
    if problems := found.problems or await _in_files(worktree, found.paths, target):
        return Refusal(tuple(problems))
    if left := await unsaved(worktree, target, untracked=False):
        return Refusal(tuple(f"{line}, and nothing of a submodule's own lands. Put it back." for line in left))
    line = await _line(worktree, branch, target, base, found)
    if isinstance(line, Refusal):
        return line
    if found.paths or found.undecided:
        refused = await _add(worktree)
        if refused is not None:
            return refused
    if kept := await _keep_up(worktree, line, target, base, found):
        found = replace(found, paths=(*found.paths, *kept))
    made, base = await _made(worktree, work, line, target, found)
    differing = await _differing(worktree, base, made)
    changed = await _brought(worktree, differing, base, made, target)
    paths = {one.path: one for one in changed}
    if wrong := [
        *_links(changed),
        *(await _in_files(worktree, sorted(paths.keys() - set(found.paths)), target)),
        *judged(paths, work.files, protected),
        *(await _ignored(worktree, work.files, paths)),
        *(await _filtered(worktree, paths)),
    ]:
        return Refusal(tuple(wrong))
    if not differing and work.files:
        return Refusal(
            (f"Nothing was changed, though the task is for {_some(work.files)}. Do the work, or say why it fails.",),
            nothing=True,
        )
    await _keep(worktree, branch, made, found)
    return Committed(made, tuple(map(_shown, paths)), outside(paths, work.files))


def judged(changed: Iterable[str], files: Collection[str], protected: Collection[str]) -> list[str]:
    """Why paths may not be changed by a task for these files: those that are protected, and that it does not name."""
    changed = list(changed)
    problems = []
    if own := [path for path in changed if is_own(path)]:
        problems.append(f"{_some(own)} may not be changed: Loom's own files never land. Put them back.")
    touched = [
        path for path in changed if any(may_be_below(path, plain(one)) for one in protected) and not within(path, files)
    ]
    if touched := [path for path in touched if path not in own]:
        problems.append(
            f"{_some(touched)} may not be changed by this task: checks rest on that. Put it back as it was; if the work"
            " needs it, say so and fail."
        )
    return problems


def outside(changed: Iterable[str], files: Collection[str]) -> tuple[str, ...]:
    """Those of the paths that are not among a task's files; none where it names none."""
    return tuple(_shown(path) for path in changed if not within(path, files)) if files else ()


# --- what lies there --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    head: str  # the commit that HEAD is, "" if none
    on: str  # the branch that HEAD follows, "" if none
    paths: tuple[str, ...]  # that differ from the index, or the index from HEAD
    undecided: bool  # whether some are in conflict for git
    merging: str | None  # what was to be merged
    problems: tuple[str, ...]


async def _lies_there(worktree: Repository) -> _Found:
    """Looks, and changes nothing."""
    git_dir = _git_dir(worktree)
    listed = await worktree.run(
        "status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--no-renames",
        "--ignore-submodules=dirty",
        timeout=FILES_SECONDS, out_bytes=_LISTED_BYTES,
    )  # fmt: skip
    if listed.cut:
        return _Found(
            "", "", (), False, None, ("There are too many new files to commit: have git ignore what is no work.",)
        )
    paths: list[str] = []
    nested: list[str] = []
    unmerged: list[list[str]] = []
    told: dict[str, str] = {}
    for line in listed.out.decode(errors="surrogateescape").split("\0"):
        kind, _, rest = line.partition(" ")
        if kind == "1":
            paths.append(rest.split(" ", 7)[7])
        elif kind == "u":
            paths.append(rest.split(" ", 9)[9])
            unmerged.append(rest.split(" ", 9))
        elif kind == "#":
            name, _, told[name] = rest.partition(" ")
        elif kind == "?":
            (nested if rest.endswith("/") else paths).append(rest)
    problems = []
    if any((git_dir / name).exists() for name in ("rebase-merge", "rebase-apply")):
        problems.append("A rebase is under way in your worktree. Finish it, or end it with `git rebase --abort`.")
    if nested:
        problems.append(
            f"{_some(nested)} is a git repository of its own, whose files would not land. Remove its .git, or move it"
            " out of your worktree."
        )
    open_still = [fields[9] for fields in unmerged if await _undecided(worktree, fields)]
    if open_still:
        problems.append(
            f"{_some(open_still)} is in conflict, which shows in no markers. Make it what it is to be, then say so with"
            " `git add`."
        )
    merging = _first_line(git_dir / "MERGE_HEAD")
    head, on = (told.get(f"branch.{name}", "") for name in ("oid", "head"))
    # In brackets: that there is no commit, or no branch.
    return _Found(
        "" if head.startswith("(") else head,
        "" if on.startswith("(") else on,
        tuple(paths),
        bool(unmerged),
        merging,
        tuple(problems),
    )


async def _undecided(worktree: Repository, fields: Sequence[str]) -> bool:
    """Whether nobody can see that a path in conflict was decided: it has no markers, by what it is, or because git
    merges no such file as text, and has left it as it was on one side."""
    return await asyncio.to_thread(_untouched, worktree.work_tree, fields) or await _as_git_left_it(worktree, fields[9])


async def _as_git_left_it(worktree: Repository, path: str) -> bool:
    """Whether a file in conflict lies there as the merge has left it, which was without markers."""
    left = f"AUTO_MERGE:{path}"
    shown = await worktree.run("cat-file", "blob", left, accepted=(0, 128), out_bytes=LARGEST)
    if shown.status or _markers(shown.out):
        return False
    lies_there = await worktree.run("hash-object", "--", path, accepted=(0, 128), timeout=FILES_SECONDS)
    return lies_there.out.decode().strip() == await worktree.text("rev-parse", "--verify", "--end-of-options", left)


def _untouched(top: Path, fields: Sequence[str]) -> bool:
    """Whether a path in conflict has no markers by which to see that somebody decided: one side has deleted it, or it
    is no text."""
    state, path = fields[0], fields[9]
    if state in ("DU", "UD", "UA", "AU"):
        return True
    file = top / path
    try:
        if stat.S_ISREG(file.lstat().st_mode):
            return b"\0" in read_beginning(file, _BINARY, top)
    except OSError:
        pass
    return state != "DD"


async def _in_files(worktree: Repository, paths: Sequence[str], target: str) -> tuple[str, ...]:
    """What is wrong with files as they lie there: too large, or with the markers of a conflict, which the target does
    not have."""
    large, marked = await asyncio.to_thread(_looked_through, worktree.work_tree, paths)
    fresh = [path for path, count in marked.items() if count > await _markers_of(worktree, f"{target}:{path}")]
    problems = []
    if large:
        problems.append(
            f"{_some(large)} is larger than {LARGEST // 1_000_000} MB. Leave it out, or have git ignore it."
        )
    if fresh:
        problems.append(f"{_some(fresh)} has the markers of a conflict (<<<<<<<, >>>>>>>). Resolve it.")
    return tuple(problems)


def _looked_through(top: Path, paths: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """The files that are too large, and how many markers the others have."""
    large, marked = [], {}
    for path in paths:
        file = top / path
        try:
            facts = file.lstat()
            if not stat.S_ISREG(facts.st_mode):
                continue
            if facts.st_size > LARGEST:
                large.append(path)
            elif count := _markers(read(file, LARGEST, top)):
                marked[path] = count
        except OSError:  # deleted, which is work too
            continue
    return large, marked


def _markers(data: bytes) -> int:
    return 0 if b"\0" in data[:_BINARY] else len(_MARKER.findall(data))


async def _markers_of(worktree: Repository, name: str) -> int:
    ended = await worktree.run("cat-file", "blob", name, accepted=(0, 128), out_bytes=LARGEST)
    return 0 if ended.status else _markers(ended.out)


# --- where it is committed --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    commit: str
    base: str  # where it leaves the target


async def _line(worktree: Repository, branch: str, target: str, base: str, found: _Found) -> _Line | Refusal:
    """The commit to go on from: HEAD, the branch where HEAD was left on something that has landed, and where neither
    has anything in common with the target, the last commit that the worktree or the branch was at which has."""
    head = found.head
    tip = head if found.on == branch else await refs.commit_at(worktree, refs.branch(branch))
    if head and tip and head != tip and not await is_ancestor(worktree, tip, head):
        if not (await is_ancestor(worktree, head, tip) or await is_ancestor(worktree, head, target)):
            return Refusal(
                (
                    f"Your commits are on two lines: {branch} and where HEAD is now ({head[:12]}). Bring them together"
                    f" on {branch}: `git checkout {branch}`, then `git merge --allow-unrelated-histories"
                    f" {head[:12]}`.",
                )
            )
        if found.paths or found.merging:
            return Refusal(
                (f"Your worktree is not on {branch}, which has your commits. Go back: `git checkout {branch}`.",)
            )
        await worktree.run("read-tree", "--reset", "-u", tip, timeout=FILES_SECONDS, whole=True)
        head = tip
    if found_line := await _first_with(worktree, target, (head, tip)):
        return found_line
    # An agent who began anew from nothing has the files of where he was last, also of what was merged for him since.
    if found_line := await _first_with(worktree, target, (*await _been_at(worktree, branch), base)):
        return found_line
    return Refusal(
        (
            f"Your branch {branch} has nothing in common with what it began from. Bring that in, and settle what"
            f" conflicts: `git merge --allow-unrelated-histories {target}`.",
        )
    )


async def _first_with(worktree: Repository, target: str, lines: Iterable[str | None]) -> _Line | None:
    """The first of some commits that has a history in common with the target, and where it leaves that."""
    for line in dict.fromkeys(lines):
        if line and (left := await merge_base(worktree, line, target)):
            return _Line(line, left)
    return None


async def _been_at(worktree: Repository, branch: str) -> list[str]:
    """The commits that a worktree was at, by its own log, then those that its branch was at, of which some are from
    before the worktree was made anew; each newest first."""
    found: list[str] = []
    for name in ("HEAD", refs.branch(branch)):
        ended = await worktree.run(
            "rev-list", "--walk-reflogs", f"--max-count={_WALKED}", name, accepted=(0, 128), out_bytes=_LISTED_BYTES
        )
        found += ended.out.decode().split() if ended.status == 0 else []
    return found


async def _add(worktree: Repository) -> Refusal | None:
    try:
        await worktree.run("add", "--all", "--", ":/", timeout=FILES_SECONDS)
    except CommandError as error:
        if any(
            said in error.cause for said in ("did not end", "No space left", "cannot be started", "Unable to create")
        ):
            raise
        return Refusal((f"What lies in your worktree cannot be committed: {error.cause}",))
    return None


async def _keep_up(worktree: Repository, line: _Line, target: str, base: str, found: _Found) -> list[str]:
    """Leaves submodules where what has landed has moved them, which the work has by now. Returns their paths."""
    landed = await merge_base(worktree, found.merging, target) if found.merging else line.base
    return await keep_up(worktree, base, landed) if base and landed else []


async def _made(worktree: Repository, work: Work, line: _Line, target: str, found: _Found) -> tuple[str, str]:
    """A commit with all that is staged, or the line itself where that is all of it; and where it left the target. Where
    the agent's own history speaks for other tasks its changes become one commit."""
    made, base = line.commit, line.base
    staged = found.paths or found.merging or found.head != line.commit
    if staged:
        tree = await worktree.text("write-tree")
        if found.merging or tree != await tree_of(worktree, line.commit):
            parents = (line.commit, found.merging) if found.merging else (line.commit,)
            made = await commit_tree(worktree, tree, parents, _message(work), author=work.author)
            base = await merge_base(worktree, made, target) if found.merging else base
    if (base != line.commit or found.merging) and await _speaks_for_others(worktree, work, f"{target}..{made}"):
        made = await commit_tree(worktree, await tree_of(worktree, made), (base,), _message(work), author=work.author)
    return made, base


async def _speaks_for_others(worktree: Repository, work: Work, history: str) -> bool:
    said = await worktree.run("log", "--format=%B%x00", history, out_bytes=_MESSAGES_BYTES)
    return said.cut or speaks_for_others(said.out.decode(errors="replace"), work.task_id, work.agent)


def _message(work: Work) -> str:
    return "\n".join([subject(work.title), "", *lines(work.task_id, work.agent), ""])


async def _keep(worktree: Repository, branch: str, made: str, found: _Found) -> None:
    """Puts the task's branch, and HEAD on it, to a commit whose tree is the index."""
    if (found.on, found.head) != (branch, made):
        await refs.change(worktree, f"update {refs.branch(branch)} {made}")
    if found.on != branch:
        await worktree.run("symbolic-ref", "HEAD", refs.branch(branch))
    unmerge(_git_dir(worktree))


# --- what has changed -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Changed:
    path: str
    before: str  # mode
    after: str


async def _differing(repository: Repository, old: str, new: str) -> list[_Changed]:
    if old == new:
        return []
    listed = await repository.run(
        "diff-tree", "-r", "-z", "--raw", "--no-renames", "--ignore-submodules=none", old, new,
        out_bytes=_LISTED_BYTES,
    )  # fmt: skip
    if listed.cut:
        raise CommandError("A branch changes more paths than can be listed.", "Commit less at a time.")
    fields = listed.out.decode(errors="surrogateescape").split("\0")
    return [_Changed(path, modes[1:7], modes[8:14]) for modes, path in zip(fields[::2], fields[1::2], strict=False)]


async def _brought(
    repository: Repository, differing: list[_Changed], base: str, made: str, target: str
) -> list[_Changed]:
    """Those of the changes that the target does not have by now. What an agent has got of others' files, from a merge
    that was cut off or under a root of his own, is no work of his."""
    if not differing or base == target:
        return differing
    lacking = {one.path for one in await _differing(repository, target, made)}
    return [one for one in differing if one.path in lacking]


def _links(changed: Iterable[_Changed]) -> list[str]:
    """Repositories that would be committed as a mere link to one of their commits."""
    if nested := [one.path for one in changed if one.after == GITLINK and one.before != GITLINK]:
        return [
            f"{_some(nested)} is a git repository of its own, whose files would not land. Add them as files instead."
        ]
    return []


async def _ignored(worktree: Repository, files: Sequence[str], changed: Mapping[str, object]) -> list[str]:
    """Files that the task is for, that lie there, and that git ignores, so that they would be lost."""
    made = [path for path in files if path not in changed and (worktree.work_tree / path).is_file()]
    if not made:
        return []
    ended = await worktree.run(
        "check-ignore", "-z", "--stdin", text="\0".join(made).encode(errors="surrogateescape"), accepted=(0, 1)
    )
    found = [path for path in ended.out.decode(errors="surrogateescape").split("\0") if path]
    return (
        [f"{_some(found)} is ignored by git and would not land. Change .gitignore, or put it elsewhere."]
        if found
        else []
    )


async def _filtered(worktree: Repository, changed: Mapping[str, object]) -> list[str]:
    """Files that belong through a filter which is not in force, such as git-lfs: they would land as they lie there."""
    if not changed or not await asyncio.to_thread(_attributes, worktree, changed):
        return []
    ended = await worktree.run(
        "check-attr", "-z", "--stdin", "filter",
        text="\0".join(changed).encode(errors="surrogateescape"), out_bytes=_LISTED_BYTES,
    )  # fmt: skip
    fields = ended.out.decode(errors="surrogateescape").split("\0")
    by_filter: dict[str, list[str]] = {}
    for path, value in zip(fields[::3], fields[2::3], strict=False):
        if value not in ("unspecified", "unset", "set"):
            by_filter.setdefault(value, []).append(path)
    problems = []
    for name, paths in by_filter.items():
        there = await asyncio.to_thread(_there, worktree.work_tree, paths)
        if there and not await worktree.runs_filter(name):
            problems.append(
                f"{_some(there)} belongs through the filter {quote(name)}, which is not in force here, so that it would"
                f" land as it lies there. Leave it as it was; a person can allow that filter with landing.trusted_git."
            )
    return problems


def _attributes(worktree: Repository, paths: Iterable[str]) -> bool:
    """Whether some file may say what git does with these."""
    common = worktree.common_dir or _git_dir(worktree)
    places = {parent for path in paths for parent in Path(path).parents}
    return (common / "info" / "attributes").exists() or any(
        os.path.lexists(worktree.work_tree / place / ".gitattributes") for place in places
    )


def _there(top: Path, paths: Sequence[str]) -> list[str]:
    return [path for path in paths if os.path.lexists(top / path)]


# --- words ------------------------------------------------------------------------------------------------------------


def within(path: str, places: Collection[str]) -> bool:
    """Whether a path is one of the places, or below one."""
    return any(below(path, plain(place)) for place in places)


def _some(paths: Sequence[str]) -> str:
    shown = ", ".join(_shown(path) for path in paths[:_NAMED])
    return shown + (f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else "")


def _shown(path: str) -> str:
    """A path in which every byte that is no text, and every sign that cannot be seen, is replaced."""
    text = path.encode(errors="surrogateescape").decode(errors="replace")
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def _first_line(file: Path) -> str | None:
    try:
        text = read(file, _HEAD_BYTES, file.parent).decode(errors="replace")
    except OSError:
        return None
    return text.partition("\n")[0].strip() or None


def _git_dir(worktree: Repository) -> Path:
    assert worktree.git_dir is not None, "a worktree is entered by its own directory"
    return worktree.git_dir
