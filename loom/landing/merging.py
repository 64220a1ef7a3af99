"""Merging without a checkout: one branch behind the other, and what all of them bring as one commit of the target.

    links, left = await chain(repository, tip, branches)
    landing = await group(repository, tip, links[-1], brought)

What is merged lies in no work tree and no index, so that nothing of it can be locked, and nobody is in the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loom.exceptions import CommandError
from loom.git import FILES_SECONDS, LOOM, Person, Repository
from loom.landing.moving import beside, moving
from loom.landing.trailers import lines, subject

_NAMED = 20  # files of a conflict, and tasks that changed them


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two lines of work that git does not bring together: the files, and the tasks that changed these on the target.
    `tree`: both as far as they go together, with markers in the files where they do not."""

    files: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    tree: str = field(default="", compare=False)

    def __str__(self) -> str:
        shown = ", ".join(self.files[:_NAMED]) + (f" and {len(self.files) - _NAMED} more" * (len(self.files) > _NAMED))
        by = f", which {' and '.join(self.tasks)} changed meanwhile" if self.tasks else ""
        return f"It conflicts in {shown or 'its history'}{by}."


@dataclass(frozen=True, slots=True)
class Link:
    """A commit of a chain and its tree: the target with so many branches merged into it."""

    commit: str
    tree: str


@dataclass(frozen=True, slots=True)
class Brought:
    """A task whose work a commit brings."""

    task_id: str
    agent: str
    title: str


async def tree_of(repository: Repository, commit: str) -> str:
    """The tree of a commit."""
    return await repository.text("rev-parse", f"{commit}^{{tree}}")


async def is_ancestor(repository: Repository, commit: str, of: str) -> bool:
    """Whether a commit is another one, or in its history."""
    looked = await repository.run("merge-base", "--is-ancestor", commit, of, accepted=(0, 1))
    return looked.status == 0


async def merge_base(repository: Repository, one: str, other: str) -> str:
    """Where two commits left each other; "" where they have nothing in common, or one of them is none."""
    looked = await repository.run("merge-base", one, other, accepted=(0, 1, 128))
    return looked.out.decode().strip() if looked.status == 0 else ""


async def merge(repository: Repository, ours: str, theirs: str, env: Mapping[str, str] | None = None) -> str | Conflict:
    """The tree of both, or what conflicts; `env` as in `Repository.run`. Raises CommandError, also where they have no
    history in common."""
    merged = await repository.run(
        "merge-tree", "--write-tree", "--no-messages", "--name-only", "-z", ours, theirs, accepted=(0, 1), env=env
    )
    tree, *files = merged.out.decode(errors="surrogateescape").rstrip("\0").split("\0")
    if merged.status == 0:
        return tree
    shown = (name.encode(errors="surrogateescape").decode(errors="replace") for name in files)
    return Conflict(tuple(shown), tree=tree)


async def chain(
    repository: Repository, tip: str, branches: Sequence[str]
) -> tuple[list[Link], list[tuple[int, Conflict]]]:
    """Merges branches one after another behind a tip.

    Returns:
        For each branch that could be merged the chain up to it; and those that conflict with what stands before them,
        by their place in `branches`.
    """
    links: list[Link] = []
    left: list[tuple[int, Conflict]] = []
    at = tip
    for place, branch in enumerate(branches):
        try:
            merged = await merge(repository, at, branch)
        except CommandError as error:
            if "unrelated histories" not in error.cause:
                raise
            merged = Conflict(())
        if isinstance(merged, Conflict):
            left.append((place, merged))
            continue
        if at == tip and await is_ancestor(repository, tip, branch):
            at = branch
        else:
            at = await commit_tree(repository, merged, (at, branch), "Merge what is about to land")
        links.append(Link(at, merged))
    return links, left


async def group(repository: Repository, old: str, link: Link, brought: Sequence[Brought]) -> str:
    """The one commit by which a chain comes onto the target: behind the target as it stood, with the tree of the chain,
    and with a line for each task that it brings."""
    if len(brought) == 1:
        one = brought[0]
        text = [subject(one.title)]
        author = Person.agent(one.agent)
    else:
        text = [f"Land {len(brought)} tasks", "", *(f"- {subject(one.title)}" for one in brought)]
        author = LOOM
    told = [line for one in brought for line in lines(one.task_id, one.agent)]
    return await commit_tree(
        repository, link.tree, (old, link.commit), "\n".join([*text, "", *told, ""]), author=author
    )


async def commit_tree(
    repository: Repository, tree: str, parents: Sequence[str], message: str, *, author: Person = LOOM
) -> str:
    """A commit that nothing points to yet, never signed."""
    words = [word for parent in dict.fromkeys(parents) for word in ("-p", parent)]
    made = await repository.run(
        "commit-tree", "--no-gpg-sign", tree, *words, "-F", "-", text=message.encode(), author=author
    )
    return made.out.decode().strip()


async def changed_by(repository: Repository, base: str, tip: str, files: Sequence[str]) -> tuple[str, ...]:
    """The tasks by which files came to differ between a commit and what has landed behind it."""
    if not files:
        return ()
    told = await repository.text(
        "log", "--first-parent", "--format=%(trailers:key=Loom-Task,valueonly,separator=%x0A)",
        f"{base}..{tip}", "--", *(f":(top,literal){name}" for name in files[:_NAMED]),
    )  # fmt: skip
    return tuple(dict.fromkeys(told.split()))[:_NAMED]


# --- in the worktree of an agent --------------------------------------------------------------------------------------


async def bring_in(worktree: Repository, ours: str, target: str) -> str | Conflict:
    """Merges the target into what an agent has committed, in its worktree, which has nothing that is not committed.

    Returns:
        The commit of both, which its worktree has now; or the conflict, whose markers are in the files then, with
        MERGE_HEAD for the agent to go on from.

    Raises:
        CommandError: git refuses; the files are as they were. FileError: it cannot be written down.
    """
    if await is_ancestor(worktree, target, ours):
        return ours
    merged = await merge(worktree, ours, target)
    if isinstance(merged, Conflict):
        base = await worktree.text("merge-base", ours, target)
        marked = await merge(worktree, "HEAD", target)  # as git names both in the markers
        until = marked.tree if isinstance(marked, Conflict) else target
        async with moving(worktree, beside(worktree.work_tree), ours, until) as held:
            await worktree.run(
                "merge", "--no-commit", "--no-ff", "--no-squash", "--no-autostash", "--quiet", target,
                accepted=(0, 1), timeout=FILES_SECONDS, whole=True, pass_fds=(held,),
            )  # fmt: skip
        await worktree.run("rev-parse", "--verify", "--quiet", "MERGE_HEAD")  # else it has refused to begin
        return Conflict(merged.files, await changed_by(worktree, base, target, merged.files))
    made = await commit_tree(worktree, merged, (ours, target), "Merge what has landed meanwhile")
    async with moving(worktree, beside(worktree.work_tree), ours, made) as held:
        words = ("reset", "--quiet", "--hard", made)
        await worktree.run(*words, timeout=FILES_SECONDS, whole=True, pass_fds=(held,))
    return made
