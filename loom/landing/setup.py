"""What makes a fresh checkout one to work in: a virtual environment, node_modules, an .env.

    await prepare(place, config, trees)

`work.setup.command` runs in it, unless a result for the same inputs is kept: then the paths of `work.keep` are brought
from there. Each place has copies of its own (which share their bytes where the file system can do that), because by
links an agent who edits a package would edit it for all. What names the place that it was made in, such as the first
lines of a virtual environment's scripts, names the new one then. Submodules cannot be kept, since git has a part of
each elsewhere: a setup that fetches some runs in each place. The files of `work.copy` come from the main checkout.

The setup runs code of the checkout outside of an agent's sandbox, as a check does. A result is kept only where the
checkout is the target's, so that no branch can leave something for the others.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from loom import caller, files, process
from loom.background import taken, through
from loom.config import LoomConfig
from loom.exceptions import CommandError, FileError
from loom.landing import places
from loom.landing.places import Lock
from loom.process import ProcessTrees, reaper

_FORMAT = 1  # of what is kept
_SECONDS = 1800.0  # for a setup, and for bringing what is kept
_INPUT_BYTES = 64 * 1024 * 1024
_COPY_BYTES = 16 * 1024 * 1024
_REWRITTEN_BYTES = 64 * 1024 * 1024  # of a file that is looked through for the place that it was made in
_KEPT = 4  # results of a project
_SHOWN = 1_500  # characters of a setup's output in a sentence
_WITHOUT = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONHOME", "PYTHONPATH", "NODE_PATH")  # they lead elsewhere
_COPY = ("cp", "-Rpc") if sys.platform == "darwin" else ("cp", "-a", "--reflink=auto")


@dataclass(frozen=True, slots=True)
class Place:
    """A checkout that somebody will work in, or a check will run in.

    Args:
        tree: its root; `home`: the directory in it that the project has in the repository.
        source: the root of the main checkout.
        state: the project's directory for what is not in its repository.
        log: the file for what the setup prints.
        variables: what the setup finds in its environment, beside what this process has.
        keeps: whether its files are those of the target, so that its result may be kept for others.
        cleaned: of what a setup has made there before, only what `work.keep` names is left.
        submodules: the commits that its submodules are to be at, by their paths.
    """

    tree: Path
    home: Path
    source: Path
    state: Path
    log: Path
    variables: tuple[tuple[str, str], ...] = ()
    keeps: bool = False
    cleaned: bool = False
    submodules: Mapping[str, str] = field(default_factory=dict)


async def prepare(place: Place, config: LoomConfig, trees: ProcessTrees) -> None:
    """Makes a checkout one to work in. Where that was done before and its inputs are the same, nothing is done again,
    but for files that are to be copied and are gone.

    Raises:
        CommandError: the setup fails, with the end of what it printed; it does not end; a key names what it cannot.
        FileError: something cannot be written.
    """
    try:
        await asyncio.to_thread(_copy_files, place, config.work.copy)
        if not config.work.setup.command:
            return
        wanted = await asyncio.to_thread(_digest, place, config)
        done = place.tree.with_name(f"{place.tree.name}.setup")
        before = await asyncio.to_thread(_done, done, place.tree)
        if before == wanted and (config.work.keep or not place.cleaned):
            return
        await asyncio.to_thread(_make_room, place, config.work.keep, fresh=before is None)
        await _set_up(place, config, trees, wanted)
        made = await asyncio.to_thread(_ignored, place.tree, config.work.keep) + _fetched(place)
        await asyncio.to_thread(files.write, done, "\n".join([wanted, *made]), 0o600, place.state)
    except OSError as error:
        raise FileError(f"{error.filename or place.tree} cannot be written: {error.strerror}.", "Mend that.") from None


# --- the setup --------------------------------------------------------------------------------------------------------


async def _set_up(place: Place, config: LoomConfig, trees: ProcessTrees, wanted: str) -> None:
    """Brings what is kept for these inputs; where nothing is, runs the setup and keeps its result."""
    if not (config.work.keep and config.work.setup.inputs):
        await _run(place, config.work.setup.command, trees)
        return
    kept = _Kept(places.own_directory(place.state / "kept") / wanted)
    if await kept.bring(place.tree):
        return
    lock = await Lock.wait(kept.path.with_suffix(".lock"), _SECONDS) if place.keeps else None
    try:
        if lock is not None and await kept.bring(place.tree):  # somebody else has made it meanwhile
            return
        await _run(place, config.work.setup.command, trees)
        if lock is not None and not _fetched(place):
            await kept.keep(place.tree, config.work.keep)
    finally:
        if lock is not None:
            lock.let_go()


async def _run(place: Place, command: tuple[str, ...], trees: ProcessTrees) -> None:
    without = [name for name in caller.environ() if name.startswith(("GIT_", "LOOM_")) or name in _WITHOUT]
    said = f"The setup `{shlex.join(command)}`"
    try:
        log = await taken(lambda: files.log(place.log, place.log.parent.parent), BinaryIO.close)
        tree = await trees.start(
            [sys.executable, "-I", "-S", reaper.__file__, *command],
            text="",
            env=process.environment(dict(place.variables), without=without),
            cwd=place.home if place.home.is_dir() else place.tree,
            log=log,
        )
    except OSError as error:
        raise CommandError(f"{said} cannot be started: {error.strerror}.") from None
    ended = asyncio.create_task(tree.wait())
    try:
        async with asyncio.timeout(_SECONDS):
            await asyncio.shield(ended)
    except TimeoutError:
        raise CommandError(f"{said} did not end within {_SECONDS:g} seconds, and was stopped.") from None
    finally:
        tree.stop()
        await through(ended)
    if status := ended.result().status:
        end = ended.result().out.decode(errors="replace").strip()[-_SHOWN:]
        raise CommandError(
            f"{said} failed with exit status {status}: {end or 'it printed nothing'}", f"See {place.log}."
        )


def _digest(place: Place, config: LoomConfig) -> str:
    """What a result is known by: what makes it, and all that this says it is made from."""
    work = config.work
    told: list[object] = [_FORMAT, platform.system(), platform.machine(), work.setup.command, work.keep]
    told += sorted(place.submodules.items())
    for name in work.setup.inputs:
        try:
            data = files.read(place.tree / name, _INPUT_BYTES, place.tree)
            told.append([name, hashlib.sha256(data).hexdigest()])
        except FileNotFoundError:
            told.append([name, None])
        except OSError as error:
            raise CommandError(f"work.setup.inputs: {name} cannot be read: {error.strerror}.") from None
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _make_room(place: Place, keep: tuple[str, ...], *, fresh: bool) -> None:
    """Removes what an earlier setup has made, with all that was done to it since."""
    for name in keep:
        there = _inside(place.tree, name, "work.keep")
        if fresh and os.path.lexists(there):
            raise CommandError(f"work.keep: {name} is in the repository.", "Name only what the setup makes.")
        places.remove(there)


def _inside(tree: Path, name: str, key: str) -> Path:
    """A path in a checkout, to which no link leads out of it."""
    path = tree / name
    parent = path.parent.resolve()
    if not parent.is_relative_to(tree.resolve()) or path == tree:
        raise CommandError(f"{key}: {name} leads out of the checkout.", "Name a path that lies in it.")
    return parent / path.name


def _ignored(tree: Path, keep: tuple[str, ...]) -> list[str]:
    """Has git ignore what was made, also where the repository does not say so: nobody commits it by mistake. Returns
    what was made."""
    made = []
    for name in keep:
        there = _inside(tree, name, "work.keep")
        if os.path.lexists(there):
            made.append(name)
        if there.is_dir() and not there.is_symlink() and not os.path.lexists(there / ".gitignore"):
            (there / ".gitignore").write_text("*\n")
    return made


def _fetched(place: Place) -> list[str]:
    """What there is of each submodule that the setup has fetched, and that goes with it."""
    return [name for path in place.submodules if os.path.lexists(place.tree / (name := f"{path}/.git"))]


def _done(path: Path, tree: Path) -> str | None:
    """What a checkout was set up for, None if it never was; "" where something that was made is gone."""
    try:
        wanted, *made = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return wanted if all(os.path.lexists(tree / name) for name in made) else ""


# --- what is kept -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Mark:
    """What is kept: the paths, in which checkout they were made, and which files of each name that checkout."""

    paths: list[str]
    made_in: str
    naming: list[list[str]]


class _Kept:
    """A result, in a directory whose mark is written last."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def bring(self, tree: Path) -> bool:
        """Copies it into a checkout. Returns False where there is none, or not all of it."""
        mark = await asyncio.to_thread(self._mark)
        if mark is None:
            return False
        for number, name in enumerate(mark.paths):
            to = _inside(tree, name, "work.keep")
            if not await _copied(self.path / str(number), to):
                await asyncio.to_thread(places.remove, to)
                return False
            await asyncio.to_thread(_renamed, to, mark.naming[number], mark.made_in, str(tree))
        return True

    async def keep(self, tree: Path, names: tuple[str, ...]) -> None:
        """Keeps the result of a setup that has just ended."""
        mark = _Mark([], str(tree), [])
        await asyncio.to_thread(places.remove, self.path)
        self.path.mkdir(mode=0o700)
        for name in names:
            there, own = _inside(tree, name, "work.keep"), self.path / str(len(mark.paths))
            if there.is_symlink() or not there.exists():
                continue
            if not await _copied(there, own):
                return
            mark.naming.append(await asyncio.to_thread(_naming, own, str(tree)))
            mark.paths.append(name)
        files.write(self.path / "mark.json", json.dumps(asdict(mark)), 0o600, self.path.parent)
        await asyncio.to_thread(_only_newest, self.path.parent)

    def _mark(self) -> _Mark | None:
        path = self.path / "mark.json"
        try:
            mark = _Mark(**json.loads(path.read_text()))
            os.utime(path)
        except (OSError, ValueError, TypeError):
            return None
        return mark


def _only_newest(kept: Path) -> None:
    """Removes the results that were used longest ago. Who brings one of them meanwhile makes his own."""
    ages = []
    for one in kept.iterdir():
        if one.is_dir():
            mark = one / "mark.json"
            ages.append((mark.stat().st_mtime if mark.exists() else one.stat().st_mtime, one))
    for _, one in sorted(ages, reverse=True)[_KEPT:]:
        if (lock := Lock.take(one.with_suffix(".lock"))) is not None:
            places.remove(one)
            lock.let_go(remove=True)


async def _copied(there: Path, to: Path) -> bool:
    """Copies a file or a directory with all that is in it, links as links. Returns whether all of it was copied."""
    ended = await process.run(
        [*_COPY, "--", str(there), str(to)],
        env=process.environment(),
        cwd=None,
        timeout=_SECONDS,
        out_bytes=_SHOWN,
    )
    return ended.status == 0


def _naming(top: Path, made_in: str) -> list[str]:
    """The files that name the checkout they were made in. What Python has compiled there goes: it would be taken for
    that of a file which names another one by then."""
    found, wanted = [], made_in.encode()
    for path in _walk(top):
        if path.is_symlink():
            names = str(path.readlink()).startswith(f"{made_in}/")
        elif not path.is_file() or path.stat().st_size > _REWRITTEN_BYTES:
            names = False
        elif path.suffix == ".pyc":
            path.unlink()
            continue
        else:
            data = path.read_bytes()
            names = wanted in data and b"\0" not in data
        if names:
            found.append(str(path.relative_to(top)))
    return found


def _renamed(top: Path, names: list[str], made_in: str, tree: str) -> None:
    """Has these files name the checkout that they lie in."""
    for path in (top / name for name in names):
        if path.is_symlink():
            leads = str(path.readlink())
            path.unlink()
            path.symlink_to(tree + leads.removeprefix(made_in))
            continue
        mode = path.stat().st_mode
        path.chmod(mode | 0o200)
        path.write_bytes(path.read_bytes().replace(made_in.encode(), tree.encode()))
        path.chmod(mode)


def _walk(top: Path) -> Iterator[Path]:
    if not top.is_dir():
        yield top
    for directory, names, more in os.walk(top):
        yield from (
            Path(directory, name) for name in (*more, *names) if name in more or Path(directory, name).is_symlink()
        )


# --- what is copied ---------------------------------------------------------------------------------------------------


def _copy_files(place: Place, names: tuple[str, ...]) -> None:
    """Brings files of the main checkout that are not there."""
    for name in names:
        to = _inside(place.tree, name, "work.copy")
        if os.path.lexists(to):
            continue
        try:
            data = files.read(place.source / name, _COPY_BYTES, place.source)
            mode = (place.source / name).stat().st_mode & 0o700
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CommandError(f"work.copy: {name} cannot be read: {error.strerror}.") from None
        to.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
