"""The branch that work lands on: where it stands, whether somebody else has moved it, and moving it.

    target = await Target.of(repository)
    tip = await target.tip(known)
    if await target.move(tip.commit, landing): ...

`loom/landed` is Loom's own, of all projects in the repository: made from HEAD, and put back where somebody else has
moved it. Projects may have servers of their own, so each tells the others by a ref of the repository, before it moves
the branch. A branch that a person named is the person's: what he adds to it is gone on from, and where he moved it
otherwise, landing stops. Wherever it is checked out the files follow, and git decides whether they can.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from loom import files, texts
from loom.exceptions import CommandError, TargetError, TargetHeldError
from loom.git import FILES_SECONDS, Repository
from loom.landing import pointers, refs
from loom.landing.merging import is_ancestor
from loom.landing.moving import mend, moving, of_targets

OWN = "loom/landed"
"""Loom's own branch, which work lands on where nobody names another one."""

_LOCKED_SECONDS = 5.0  # that another process may have a checkout's index
_IN_USE_BYTES = 10_000_000  # of a file that names the branches of a rebase
_ENDED_BY = {"rebase": "rebase --abort", "bisect": "bisect reset"}
_TRIES = 20  # to see a branch and what is known of it at one moment


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a target beside the repository: where it stood last, None before it was first seen, and the
    commits that somebody is about to move it to."""

    tip: str | None
    intents: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Tip:
    """Where a target stands. `note`: what a person should know of how it came to, "" if nothing."""

    commit: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A branch of a repository on this machine. `start`: what it is made from, where it is Loom's own and not there
    yet; `places`: the project's directory for what is not in its repository, with the worktrees of tasks, in which
    agents may check out what they like; `project_id`: the project that lands on it, as others know it."""

    repository: Repository
    name: str = OWN
    start: str = "HEAD"
    places: Path | None = None
    project_id: str = ""

    shared = False

    @property
    def own(self) -> bool:
        """Whether it is Loom's own."""
        return self.name == OWN

    @property
    def ref(self) -> str:
        """Its full name."""
        return refs.branch(self.name)

    @classmethod
    async def of(
        cls,
        repository: Repository,
        name: str | None = None,
        *,
        start: str = "HEAD",
        places: Path | None = None,
        project_id: str = "",
    ) -> Target:
        """The target of that name, None: Loom's own.

        Raises:
            TargetError: there is no such branch, or no such name; a branch stands in the way of those that Loom makes.
            CommandError: the repository has no commit; git refuses.
        """
        target = cls(repository, OWN if name is None else name, start, places, project_id)
        await nothing_in_the_way(repository)
        if not target.own:
            await target._must_exist()
        return target

    async def tip(self, known: Callable[[], Awaitable[Known]]) -> Tip:
        """Where it stands. Loom's own is made where there is none, and put back where somebody else has moved it.

        Args:
            known: what is known of it at the moment of the call.

        Raises:
            TargetError: it was deleted, or moved by somebody else, and is a person's; what is known of it is not in
                this repository.
            TargetHeldError: Loom's own was moved, and a checkout of it does not let it be put back.
        """
        if self.places is not None:
            await mend(self.repository, of_targets(self.repository, self.places))
        for _ in range(_TRIES):
            # In this order: what Loom moved it to was known before.
            stands, follows, noted = await self._read()
            at = await known()
            if at.tip is not None and not await self.has(at.tip):
                raise TargetError(
                    f"What has landed on {self.name} is not in the repository {self.repository.work_tree}.",
                    "Land from the clone in which it landed, or give both a remote to share (landing.remote).",
                )
            if self.own:
                found = await self._own_tip(stands, follows, at)
            else:
                found = await self._persons_tip(stands, follows, at)
            if found is not None:
                if self._note and noted != found.commit:
                    await refs.change(self.repository, f"update {self._note} {found.commit}")
                return found
        raise TargetError(f"{self.name} is moved all the time.", "Wait until whoever does that is done.")

    async def move(self, old: str, new: str, *, release: Sequence[str] = (), alone: bool = False) -> bool:
        """Moves it from where it stood to a commit that follows, with the files of its checkout.

        Args:
            release: refs of Loom's that go with it.
            alone: as `refs.change` has it.

        Returns:
            False if it stands elsewhere by now.

        Raises:
            TargetHeldError: a checkout of it does not let it move; nothing has changed.
            CommandError: git refuses for another reason; it may have moved.
        """
        checkout = await self._checkout()
        notes = [f"update {self._note} {new}"] if self._note else []  # first, so that nobody sees it there unannounced
        deletions = [f"delete {one}" for one in release]
        if checkout is None:
            move = f"update {self.ref} {new} {old}"
            return await refs.change(self.repository, *notes, move, *deletions, alone=alone)
        await refs.change(self.repository, *notes)
        moved = await self._forward(checkout, old, new)
        if moved and deletions:
            await refs.change(self.repository, *deletions)
        return moved

    async def stands(self) -> str | None:
        """The commit that it is, None if it does not exist."""
        return (await self._read())[0]

    async def has(self, commit: str) -> bool:
        """Whether the repository has a commit."""
        return await exists(self.repository, commit)

    async def own_instead(self, start: str) -> Target:
        """Loom's own branch of the same repository, made at a commit where there is none."""
        return await Target.of(self.repository, start=start, places=self.places, project_id=self.project_id)

    async def contains(self, commit: str) -> bool:
        """Whether a commit is on it; False also for one that is not in the repository."""
        looked = await self.repository.run("merge-base", "--is-ancestor", commit, self.ref, accepted=(0, 1, 128))
        return looked.status == 0

    # --- where it stands ----------------------------------------------------------------------------------------------

    async def _own_tip(self, stands: str | None, follows: str, at: Known) -> Tip | None:
        """Where Loom's own stands or was put, None if it moved meanwhile."""
        if stands is None:
            first = at.tip or await commit_of(self.repository, self.start)
            made = await refs.change(self.repository, f"create {self.ref} {first}")
            return Tip(first) if made else None
        if not follows and (at.tip is None or stands == at.tip or stands in at.intents):
            return Tip(stands)
        if not follows and await self._was_brought(str(at.tip), stands):
            return Tip(stands)
        back, kept = at.tip or stands, refs.kept(self.name, stands)
        checkout = await self._checkout()
        if checkout is None:
            put = await refs.change(self.repository, f"update {kept} {stands}", f"update {self.ref} {back} {stands}")
        else:
            await refs.change(self.repository, f"update {kept} {stands}")
            put = await self._back(checkout, stands, back)
        await refs.forget_oldest(self.repository, self.name, but=kept)
        return Tip(back, f"Somebody moved {self.name}. It was put back; what was there is {kept}.") if put else None

    async def _was_brought(self, tip: str, stands: str) -> bool:
        """Whether a project of this repository has brought it from one commit to another: the latter is among those
        that stood there, one after the other, on the way to where that project has it, or is about to. That may be this
        one, where its database knows less by now, as an older backup does."""
        listed = await self.repository.text("for-each-ref", "--format=%(refname) %(objectname)", refs.TIPS)
        for ref, commit in (line.split(" ") for line in listed.splitlines()):
            if not ref.endswith(f"/{self.name}"):
                continue
            way = await self.repository.text("rev-list", "--first-parent", f"{tip}..{commit}")
            if stands in way.split():
                return await is_ancestor(self.repository, tip, stands)
        return False

    async def _persons_tip(self, stands: str | None, follows: str, at: Known) -> Tip | None:
        """Where a person's branch stands, None if it moved meanwhile."""
        if stands is None:
            raise TargetError(
                f"The branch {self.name} is gone, on which work lands.",
                f"Make it again (git branch {self.name} {at.tip or 'COMMIT'}), or name another one.",
            )
        if follows:
            raise TargetError(f"{self.name} is another name of {follows}.", "Name that branch instead.")
        if at.tip is None or stands == at.tip or await is_ancestor(self.repository, at.tip, stands):
            return Tip(stands)
        if await self.stands() != stands:
            return None
        raise TargetError(
            f"{self.name} was moved by somebody else, and no longer has {at.tip[:12]}, which Loom saw there.",
            "Name it again as the target if that was meant, or bring back what it had.",
        )

    @property
    def _note(self) -> str:
        """The ref that tells other projects where this one has brought it, "" where they need not know."""
        return refs.tip(self.project_id, self.name) if self.own and self.project_id else ""

    async def _read(self) -> tuple[str | None, str, str | None]:
        """Its commit, None if it does not exist; the ref that it points to, "" if none; and what was told to others."""
        names = [self.ref, *([self._note] if self._note else [])]
        listed = await self.repository.text("for-each-ref", "--format=%(refname) %(objectname) %(symref)", *names)
        found = {name: (commit, "".join(follows)) for name, commit, *follows in map(str.split, listed.splitlines())}
        commit, follows = found.get(self.ref, (None, ""))
        noted, _ = found.get(self._note, (None, ""))
        return commit, follows, noted

    async def _must_exist(self) -> None:
        await fit_name(self.repository, self.name)
        if await self.stands() is None:
            raise TargetError(
                f"There is no branch {self.name} in {self.repository.work_tree}.",
                f"Make it (git branch {self.name}), or name another one.",
            )

    # --- its checkouts ------------------------------------------------------------------------------------------------

    async def _checkout(self) -> Repository | None:
        """The one checkout of it, None if there is none. In the worktrees of tasks it is detached where it stands.

        Raises TargetHeldError: it is in use by a rebase or bisection, or checked out more than once.
        """
        if self.places is not None:
            await asyncio.to_thread(pointers.lead_home, self.places)
        common, own_dirs = await self._directories()
        for git_dir, top in ((common, None), *own_dirs.items()):
            if top is not None and self._belongs_to_a_task(top):
                continue
            if what := await asyncio.to_thread(_in_use, git_dir, self.ref):
                raise TargetHeldError(
                    f"{self.name} is in the middle of a {what} in {top or 'the main checkout'}.",
                    f"Finish that, or end it (git {_ENDED_BY[what]}).",
                )
        found: list[tuple[Path, Path]] = []
        for top in await self._checked_out():
            git_dir = next((one for one, where in own_dirs.items() if where == top), common)
            if self._belongs_to_a_task(top):
                place = replace(self.repository, git_dir=git_dir)
                await place.run("update-ref", "--no-deref", "HEAD", self.ref)
            else:
                found.append((top, git_dir))
        if len(found) > 1:
            raise TargetHeldError(
                f"{self.name} is checked out in {found[0][0]} and in {found[1][0]}.", "Leave it checked out in one."
            )
        return replace(self.repository, work_tree=found[0][0], git_dir=found[0][1]) if found else None

    def _belongs_to_a_task(self, top: Path) -> bool:
        return self.places is not None and top.is_relative_to(self.places)

    async def _checked_out(self) -> list[Path]:
        listed = (await self.repository.run("worktree", "list", "--porcelain", "-z")).out.decode(
            errors="surrogateescape"
        )
        records = [record.split("\0") for record in listed.split("\0\0") if record]
        return [
            Path(record[0].removeprefix("worktree "))
            for record in records
            if f"branch {self.ref}" in record and not any(line.startswith("prunable") for line in record)
        ]

    async def _directories(self) -> tuple[Path, dict[Path, Path]]:
        """The repository's directory, and those of its further worktrees, with where they are."""
        common = self.repository.common_dir or Path(
            await self.repository.text("rev-parse", "--path-format=absolute", "--git-common-dir")
        )
        return common, await asyncio.to_thread(pointers.listed, common)

    async def _forward(self, checkout: Repository, old: str, new: str) -> bool:
        """Moves it where it is checked out, as a person would. Git refuses before it changes anything."""
        if await checkout.text("rev-parse", "HEAD") != old:
            return False
        merge = ("merge", "--ff-only", "--no-squash", "--commit", "--no-autostash", "--no-overwrite-ignore", "--quiet")
        said = await self._by_checkout(checkout, old, new, *merge, new)
        if said is not None and await self.stands() == old:
            raise TargetHeldError(f"{self.name} is checked out in {checkout.work_tree}, where git refuses: {said}.")
        return await self.contains(new)

    async def _back(self, checkout: Repository, stands: str, back: str) -> bool:
        """Puts it back where it is checked out; changes that are not committed stay, or git refuses."""
        if await checkout.text("rev-parse", "HEAD") != stands:
            return False
        said = await self._by_checkout(checkout, stands, back, "reset", "--quiet", "--keep", back)
        if said is not None:
            raise TargetHeldError(
                f"Somebody moved {self.name}, and it is checked out in {checkout.work_tree}, where git refuses to put"
                f" it back: {said}.",
                "Commit or move away what lies there.",
            )
        return True

    async def _by_checkout(self, checkout: Repository, old: str, new: str, *words: str) -> str | None:
        """Has git move a checkout; what it says where it refuses. Killed on the way, it leaves the files as before."""
        until = time.monotonic() + _LOCKED_SECONDS
        record = of_targets(checkout, self.places) if self.places else None
        async with moving(checkout, record, old, new, self.ref) if record else nullcontext() as held:
            fds = () if held is None else (held,)
            while True:
                ended = await checkout.run(
                    *words, accepted=(0, 1, 2, 128), timeout=FILES_SECONDS, whole=True, pass_fds=fds
                )
                if ended.status == 0:
                    return None
                said = ended.err.decode(errors="replace")
                if ".lock': File exists" not in said or time.monotonic() > until:
                    return _sentence(said)
                await asyncio.sleep(random.uniform(0.02, 0.5))


async def fit_name(repository: Repository, name: str) -> None:
    """Raises TargetError where work cannot land on a branch of that name."""
    fits = await repository.run("check-ref-format", refs.branch(name), accepted=(0, 1))
    if fits.status or name.startswith("-") or name == "HEAD":
        raise TargetError(f"{texts.quote(name)} is no name of a branch.", "Name a branch of the repository.")
    if name.startswith("loom/"):
        raise TargetError(
            f"{name} is among the branches that Loom makes and removes.",
            f"Land on {OWN}, or on a branch of your own.",
        )


async def exists(repository: Repository, commit: str) -> bool:
    """Whether a repository has a commit."""
    looked = await repository.run("cat-file", "-e", f"{commit}^{{commit}}", accepted=(0, 1, 128))
    return looked.status == 0


async def nothing_in_the_way(repository: Repository) -> None:
    """Raises TargetError where something keeps Loom from making its branches, CommandError where there is no commit."""
    await commit_of(repository, "HEAD")
    listed = await repository.text("for-each-ref", "--format=%(refname)", "refs/heads/loom", refs.branch(OWN) + "/**")
    for name in listed.splitlines():
        if name == "refs/heads/loom" or name.startswith(f"{refs.branch(OWN)}/"):
            short = name.removeprefix("refs/heads/")
            raise TargetError(
                f"The branch {short} stands in the way of the branches loom/… that Loom makes.",
                f"Rename it: git branch -m {short} NAME",
            )
    assert repository.common_dir is not None, "it was found"
    there = repository.common_dir / "refs" / "heads" / "loom"
    if there.is_symlink() or (there.exists() and not there.is_dir()):
        raise TargetError(f"{there} stands in the way of the branches loom/… that Loom makes.", "Move it away.")


async def commit_of(repository: Repository, name: str) -> str:
    """The commit that a name stands for. Raises CommandError, also where there is none."""
    if (found := await refs.commit_at(repository, name)) is not None:
        return found
    if name != "HEAD":
        raise CommandError(f"{name} is no commit of the git repository {repository.work_tree}.")
    raise CommandError(
        f"The git repository {repository.work_tree} has no commit to begin from.", "Commit first, then run it again."
    )


def _in_use(git_dir: Path, ref: str) -> str:
    """Which of git's longer undertakings has a branch in its hands, though it is checked out nowhere; "": none."""
    names = {ref, ref.removeprefix("refs/heads/")}
    for file, what in (
        ("rebase-merge/head-name", "rebase"),
        ("rebase-apply/head-name", "rebase"),
        ("rebase-merge/update-refs", "rebase"),
        ("BISECT_START", "bisect"),
    ):
        try:
            lines = files.read(git_dir / file, _IN_USE_BYTES, git_dir).decode(errors="replace").splitlines()
        except OSError:
            continue
        if names & set(lines):
            return what
    return ""


def _sentence(said: str) -> str:
    """What git says last of why it refuses, with the files that it names."""
    lines = [line for line in said.splitlines() if line.strip()]
    first = next((line for line in lines if line.startswith(("error:", "fatal:"))), lines[0] if lines else "no reason")
    named = [line.strip() for line in lines if line.startswith("\t")]
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    why = re.sub(r"^(error|fatal): ", "", first)
    return texts.said(why + (f" {', '.join(named[:3])}{more}" if named else "")).rstrip(".")
