"""Proving: a commit's checks are run on its files alone, and what came of it is recorded.

    async with Prover.of(loom, repository) as prover:
        proofs = await prover.prove(commit, checks, agent="ada")

A proof says that Loom ran a check on a tree. Each run has the files of the commit and nothing else (`checkout.py`), an
environment that is made and not inherited, an empty home, and an end: with its time, and with all that it started. The
row is written before it and closed after it. What was proven once for the same tree and the same check is not run
again, whoever asks.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self
from weakref import WeakValueDictionary

from loom.background import taken, through
from loom.exceptions import CommandError, TargetError
from loom.git import Repository
from loom.graph.store import proofs
from loom.graph.store.proofs import Proof
from loom.landing import setup
from loom.landing.checkout import Checkout
from loom.landing.checks import Check
from loom.landing.places import Scratch, proving, state_dir
from loom.landing.snapshot import lending
from loom.process import ProcessTrees, guard

if TYPE_CHECKING:
    from loom.graph.front import Loom

TIMED_OUT = 124
"""The exit status of a check that did not end in its time, as `timeout` has it."""

_AT_ONCE = 2  # checks, or half of the processors
_REAPER = str(Path(guard.__file__).with_name("reaper.py"))  # a script: nothing of it is needed here
_REFS_BYTES = 50_000_000
_SYSTEM = (
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/opt/homebrew/bin",
    "/snap/bin",
)
_OF_THE_USER = (
    ".local/bin",
    ".cargo/bin",
    "go/bin",
    ".bun/bin",
    ".deno/bin",
    ".volta/bin",
    ".local/share/mise/shims",
    ".asdf/shims",
    ".pyenv/shims",
    ".rbenv/shims",
)


class Prover:
    """Proves work of one project. Give it back with `close`, or use it as a context."""

    def __init__(self, loom: Loom, repository: Repository | None, places: Path, tell: Callable[[str], None]) -> None:
        """
        Args:
            repository: None: the project is in none.
            places: where checkouts lie.
            tell: is called with the name of each check that begins to run.
        """
        self._loom, self._repository, self._places, self._tell = loom, repository, places, tell
        self._room = asyncio.Semaphore(max(_AT_ONCE, (os.cpu_count() or 1) // 2))
        self._trees: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._ending = ExitStack()
        self._started: ProcessTrees | None = None

    @classmethod
    def of(cls, loom: Loom, repository: Repository | None, tell: Callable[[str], None] = lambda name: None) -> Self:
        """The prover of a project and its repository. Raises FileError where there is no place for what it needs."""
        return cls(loom, repository, proving(state_dir(loom.config)), tell)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives back what it holds; nothing is to be proven any more."""
        self._started = None
        self._ending.close()

    async def prove(
        self,
        commit: str,
        checks: Sequence[Check],
        *,
        agent: str,
        task_id: str | None = None,
        token: int | None = None,
        again: bool = True,
        target: bool = False,
        base: str | None = None,
        objects: Path | None = None,
    ) -> list[Proof]:
        """Proves a commit with these checks: runs those that have no proof yet. Returns what is known of each, in their
        order, red or green; of one whose run changed what it was to look at, a proof without an exit status.

        Args:
            agent: who asks for it, or whose work it is.
            task_id, token: for which claim, both or neither.
            again: it is one branch's work, which is told all that is wrong with it, and is blamed only for what is red
                twice. False: a group's, which ends with the first check that is red, and does not wait for a turn.
            target: it is what work begins from, so that what its setup makes may be kept for others.
            base: what the work was merged with. Where the setup fails for that too, as without a network, the work is
                not blamed.
            objects: a directory with objects of the commit that the repository has not.

        Raises:
            TargetError: the setup fails for the base too.
            CommandError: git, or what makes a place to work in, refuses; FileError: there is no place for it.
        """
        assert self._repository is not None, "a commit is of a repository"
        if not checks:
            return []
        env = lending(objects) if objects else {}
        found = await self._repository.run("rev-parse", "--verify", "--end-of-options", f"{commit}^{{tree}}", env=env)
        tree = found.out.decode().strip()
        work = _Work(agent, task_id, token, tree, commit, target, base)
        async with self._trees.setdefault(tree, asyncio.Lock()):  # whoever else asks for it has its proofs then
            known = await self.known(checks, tree=tree, commit=commit)
            if all(one.name in known for one in checks):
                return [known[one.name] for one in checks]
            async with self._room if again else nullcontext():  # what many wait for does not wait behind one's own
                place = Checkout.take(self._places, self._repository)
                try:
                    return await self._in_checkout(place, work, commit, checks, known, again=again, objects=objects)
                finally:
                    place.give_back()

    async def prove_claim(
        self, checks: Sequence[Check], directory: Path, *, agent: str, task_id: str, token: int
    ) -> list[Proof]:
        """Proves what lies in a directory that is in no repository: that counts for this claim alone, and whether it
        changed meanwhile nobody knows. Returns as `prove` does."""
        work = _Work(agent, task_id, token)
        hashes = {one.name: one.digest for one in checks}
        known = await self._loom.look(
            lambda connection: proofs.green(
                connection, self._loom.project_id, hashes, tree=None, task_id=task_id, token=token
            )
        )

        def run(check: Check) -> Awaitable[_Run]:
            return self._run(check, directory, {}, ())

        return [known.get(one.name) or await self._until_sure(work, one, run) for one in checks]

    async def known(self, checks: Sequence[Check], *, tree: str, commit: str) -> dict[str, Proof]:
        """The proofs that there are for a tree, and for those that read history for the commit, by the check's name."""
        hashes = {one.name: one.digest for one in checks}
        return await self._loom.look(
            lambda connection: proofs.green(connection, self._loom.project_id, hashes, tree=tree, commit_id=commit)
        )

    # --- a run --------------------------------------------------------------------------------------------------------

    async def _in_checkout(
        self,
        place: Checkout,
        work: _Work,
        commit: str,
        checks: Sequence[Check],
        known: Mapping[str, Proof],
        *,
        again: bool,
        objects: Path | None,
    ) -> list[Proof]:
        assert self._repository is not None
        refs = await self._refs() if any(one.proofs == "commit" for one in checks) else ""
        config = self._loom.config
        below = (config.project_dir or Path()).resolve()
        cwd = place.tree / (below.relative_to(self._repository.work_tree) if self._within(below) else ".")

        async def run(check: Check) -> _Run:
            async def made(of: str) -> CommandError | None:
                await place.show(of, (*config.work.keep, *check.keep), objects, refs)
                try:
                    await self._set_up(place, cwd, keeps=work.target)
                except CommandError as error:
                    return error
                return None

            begun = time.monotonic()
            if failed := await _blamed(made, commit, work.base):
                return _Run(None, time.monotonic() - begun, f"--- proves nothing: {failed}")
            variables = {"LOOM_SLOT": str(place.slot)}
            ended = await self._run(check, cwd if cwd.is_dir() else place.tree, variables, (place.lock,))
            if changed := await place.changed():
                return _Run(None, ended.seconds, f"{ended.tail}\n--- proves nothing: {changed}")
            return ended

        found: list[Proof] = []
        for check in checks:
            proof = known.get(check.name)
            if proof is None and again:
                proof = await self._until_sure(work, check, run)
            elif proof is None:
                proof = await self._recorded(work, check, run)
            found.append(proof)
            if not again and not proof.green:
                break
        return found

    async def _set_up(self, place: Checkout, home: Path, *, keeps: bool) -> None:
        """Makes a checkout one to work in. Raises CommandError."""
        assert self._repository is not None
        config = self._loom.config
        await setup.prepare(
            setup.Place(
                tree=place.tree,
                home=home,
                source=self._repository.work_tree,
                state=self._places.parent,
                log=self._places / "setup.log",
                variables=(("LOOM_SLOT", str(place.slot)),),
                keeps=keeps,
                cleaned=True,
                submodules=place.submodules,
            ),
            config,
            self._trees_of_processes(),
        )
        if config.work.setup.command and (changed := await place.changed()):
            raise CommandError(f"The setup is none for a checkout: {changed}.", "Have it keep to what is locked.")

    async def _until_sure(self, work: _Work, check: Check, run: _Runner) -> Proof:
        """Runs a check, and once more where it is red: one that is red only now and then blames nobody."""
        first = await self._recorded(work, check, run)
        if first.green or first.exit_status in (None, TIMED_OUT):
            return first
        return await self._recorded(work, check, run, flaky=True)

    async def _recorded(self, work: _Work, check: Check, run: _Runner, *, flaky: bool = False) -> Proof:
        number = await self._loom.transact(
            lambda tx: proofs.begin(
                tx,
                check.name,
                check.digest,
                agent=work.agent,
                tree=work.tree,
                commit_id=work.commit if check.proofs == "commit" else None,
                task_id=work.task_id,
                token=work.token,
            )
        )
        ended = _Run(None, 0.0, "--- it was not run to its end")
        try:
            ended = await run(check)
        finally:
            closed = await self._loom.transact(
                lambda tx: proofs.close(
                    tx, number, exit_status=ended.exit_status, seconds=ended.seconds, tail=ended.tail, flaky=flaky
                )
            )
        assert closed is not None, "nobody else knows its number"
        return closed

    async def _run(self, check: Check, cwd: Path, variables: Mapping[str, str], inherited: Sequence[int]) -> _Run:
        """Runs a check to its end, and to that of all that it started."""
        self._tell(check.name)
        scratch = await taken(Scratch.make, Scratch.drop)
        begun = time.monotonic()
        try:
            tree = await self._trees_of_processes().start(
                [sys.executable, "-I", "-S", _REAPER, *check.command],
                text="",
                env={**_environment(check, scratch.path), **variables},
                cwd=cwd,
                log=None,
                pass_fds=(*inherited, scratch.fd),
            )
            ended = asyncio.create_task(tree.wait())
            late = False
            try:
                async with asyncio.timeout(check.timeout):
                    await asyncio.shield(ended)
            except TimeoutError:
                late = True
            finally:
                tree.stop()
                await through(ended)
        except OSError as error:
            raise CommandError(f"The check {check.name} cannot be started: {error.strerror}.") from None
        finally:
            await through(asyncio.create_task(asyncio.to_thread(scratch.drop)))
        seconds, said = time.monotonic() - begun, ended.result()
        tail = said.out[-proofs.TAIL_BYTES :].decode(errors="replace")
        if late:
            return _Run(TIMED_OUT, seconds, f"{tail}\n--- stopped: it did not end within {check.timeout} seconds")
        return _Run(said.status if said.status >= 0 else 128 - said.status, seconds, tail)

    def _trees_of_processes(self) -> ProcessTrees:
        if self._started is None:
            self._started = self._ending.enter_context(ProcessTrees())
        return self._started

    async def _refs(self) -> str:
        """The references of the repository, as git keeps many of them in one file."""
        assert self._repository is not None
        listed = await self._repository.run("for-each-ref", "--format=%(objectname) %(refname)", out_bytes=_REFS_BYTES)
        return "" if listed.cut else listed.out.decode(errors="replace")

    def _within(self, directory: Path) -> bool:
        return self._repository is not None and directory.is_relative_to(self._repository.work_tree)


@dataclass(frozen=True, slots=True)
class _Work:
    """What is proven: by whom or whose, for which claim, and which tree of which commit."""

    agent: str
    task_id: str | None
    token: int | None
    tree: str | None = None
    commit: str | None = None
    target: bool = False
    base: str | None = None


@dataclass(frozen=True, slots=True)
class _Run:
    """How a run ended; without an exit status it proves nothing."""

    exit_status: int | None
    seconds: float
    tail: str


_Runner = Callable[[Check], Awaitable[_Run]]


async def _blamed(
    made: Callable[[str], Awaitable[CommandError | None]], commit: str, base: str | None
) -> CommandError | None:
    """Why the setup fails for a commit, None: it does not. `made`: runs it for one, and says why it failed.

    Raises TargetError where it fails for what the commit was merged with, too.
    """
    failed = await made(commit)
    if failed is None or base is None:
        return failed
    if (too := await made(base)) is not None:
        raise TargetError(f"What work lands on cannot be set up any more. {too.cause}", too.next_step)
    return await made(commit)


def _environment(check: Check, scratch: Path) -> dict[str, str]:
    """What a check sees: the same on each machine and from whoever asks for it, but for what it names."""
    home, temporary = scratch / "home", scratch / "tmp"
    home.mkdir()
    temporary.mkdir()
    made = {"PATH": _path(), "HOME": str(home), "TMPDIR": str(temporary), "LANG": "C.UTF-8", "TZ": "UTC"}
    return made | dict(check.variables)


@cache
def _path() -> str:
    """Where programs are found: the usual places of the system and of the user, whatever PATH this process was given.
    An agent may have given it."""
    with suppress(KeyError):  # a user that the system does not know
        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
        own = [str(path) for path in (home / one for one in _OF_THE_USER) if path.is_dir()]
        return ":".join([*own, *_SYSTEM])
    return ":".join(_SYSTEM)
