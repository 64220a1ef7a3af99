"""A target that lies in another repository, which several machines share: seen by fetching, moved by a plain push.

Nothing is ever forced. A push whose answer was lost is no failure: whether it arrived is seen the next time that the
target is looked at, by the commit that the intent names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from loom.exceptions import CommandError, TargetError, TargetHeldError
from loom.git import Repository
from loom.landing import refs
from loom.landing.merging import is_ancestor
from loom.landing.target import OWN, Known, Tip, commit_of, exists, fit_name, nothing_in_the_way
from loom.texts import said, shorten

_MISSING = "couldn't find remote ref"
_LOST = ("fetch first", "non-fast-forward", "stale info", "cannot lock ref", "failed to update ref", "already exists")
_SECONDS = 120.0  # for the remote to answer
_TRIES = 5  # to see a branch and what is known of it at one moment


@dataclass(frozen=True, slots=True)
class RemoteTarget:
    """A branch of a remote, as `target.Target` is one of this repository. `start`: what Loom's own branch is made from
    where the remote has none."""

    repository: Repository
    remote: str
    name: str = OWN
    start: str = "HEAD"

    own = False
    shared = True

    @property
    def ref(self) -> str:
        """What this repository knows of it."""
        return refs.target(self.name, self.remote)

    @classmethod
    async def of(
        cls, repository: Repository, remote: str, name: str | None = None, *, start: str = "HEAD"
    ) -> RemoteTarget:
        """The target of that name, None: Loom's own.

        Raises:
            TargetError: there is no such remote, or it has no such branch.
            CommandError: it does not answer, or git refuses.
        """
        await nothing_in_the_way(repository)
        known = await repository.text("remote")
        if remote not in known.splitlines():
            raise TargetError(
                f"The repository {repository.work_tree} has no remote {remote}.",
                f"Add it (git remote add {remote} URL), or mend landing.remote.",
            )
        target = cls(repository, remote, OWN if name is None else name, start)
        if target.name != OWN:
            await fit_name(repository, target.name)
            if await target.stands() is None:
                raise TargetError(
                    f"The remote {remote} has no branch {target.name}.",
                    f"Push it (git push {remote} {target.name}), or name another one.",
                )
        return target

    async def tip(self, known: Callable[[], Awaitable[Known]]) -> Tip:
        """Where it stands. Loom's own is made where the remote has none.

        Raises:
            TargetError: it was deleted, or moved by somebody else but forwards.
            TargetHeldError: the remote does not let it be made.
            CommandError: the remote does not answer.
        """
        for _ in range(_TRIES):
            stands = await self.stands()  # before what is known, so that a landing meanwhile is
            at = await known()
            if stands is None:
                await self._make(at)
            elif at.tip is None or stands == at.tip or await self._follows(at.tip, stands):
                return Tip(stands)
            elif await self.stands() == stands:
                raise TargetError(
                    f"{self.name} of {self.remote} was moved by somebody else, and no longer has {at.tip[:12]}, which"
                    " Loom saw there.",
                    "Name it again as the target if that was meant, or bring back what it had.",
                )
        raise TargetError(f"{self.name} of {self.remote} is moved all the time.", "Wait until whoever does it is done.")

    async def move(self, old: str, new: str, *, release: Sequence[str] = (), alone: bool = False) -> bool:
        """Pushes a commit that follows `old`.

        Returns:
            False if it stands elsewhere by now.

        Raises:
            TargetHeldError: the remote refuses it.
            CommandError: the remote does not answer; it may have moved.
        """
        del old, alone  # a plain push moves it forwards or not at all
        ended = await self.repository.push(
            self.remote, f"{new}:{refs.branch(self.name)}", accepted=(0, 1), timeout=_SECONDS
        )
        lines = ended.out.decode(errors="replace").splitlines()
        refused = next((line for line in lines if line.startswith("!")), "")
        if ended.status == 0:
            await refs.change(self.repository, f"update {self.ref} {new}", *(f"delete {one}" for one in release))
            return True
        if any(why in refused for why in _LOST):
            return False
        if not refused:
            why = ended.err.decode(errors="replace").strip().splitlines() or ["it did not say why"]
            raise CommandError(f"{self.remote} was not pushed to: {said(why[-1])}")
        raise TargetHeldError(
            f"{self.remote} refuses to have {self.name} pushed to: {shorten(said(refused.split(chr(9))[-1]), 200)}.",
        )

    async def stands(self) -> str | None:
        """The commit that it is by now, None if it does not exist. Raises CommandError: the remote does not answer."""
        try:
            await self.repository.fetch(self.remote, f"+{refs.branch(self.name)}:{self.ref}", timeout=_SECONDS)
        except CommandError as error:
            if _MISSING in error.cause:
                return None
            raise
        return await self.repository.text("rev-parse", "--verify", self.ref)

    async def contains(self, commit: str) -> bool:
        """Whether a commit is on it by now. Raises CommandError: the remote does not answer."""
        stands = await self.stands()
        return stands is not None and await self.has(commit) and await is_ancestor(self.repository, commit, stands)

    async def has(self, commit: str) -> bool:
        """Whether this repository has a commit."""
        return await exists(self.repository, commit)

    async def own_instead(self, start: str) -> RemoteTarget:
        """Loom's own branch of the same remote, made at a commit where there is none."""
        return await RemoteTarget.of(self.repository, self.remote, start=start)

    # --- how ----------------------------------------------------------------------------------------------------------

    async def _make(self, at: Known) -> None:
        if self.name != OWN:
            raise TargetError(
                f"{self.remote} has no branch {self.name} any more, on which work lands.",
                f"Push it again (git push {self.remote} {at.tip or 'COMMIT'}:{refs.branch(self.name)}), or name another"
                " one.",
            )
        await self.move("", at.tip or await commit_of(self.repository, self.start))

    async def _follows(self, tip: str, stands: str) -> bool:
        return await self.has(tip) and await is_ancestor(self.repository, tip, stands)
