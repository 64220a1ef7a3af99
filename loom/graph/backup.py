"""A project as one file: `loom backup` and `loom restore`.

The file has Loom's own rows and not what a program of PostgreSQL's writes: it needs no such program, whoever runs the
server and whatever its version, it holds one project of a database that many share, and it can be looked into.

It is gzip. Its first line says what it is, as JSON. For each table there is a line that names it and its columns, then
its rows as COPY writes them, and a line `\\.`; the last line of all counts the rows, so that a file without its end is
told from a whole one. Left out are what can be made anew, and who may come in and whom the servers have told, which
belong to the servers.

A project that was restored begins a new history: no mirror of before is read any more, and whoever holds a claim token
from after the backup was made finishes nothing with it.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

import asyncpg

from loom import bridge, files, services, texts
from loom.config import LoomConfig
from loom.db import connection as db
from loom.db import migrate
from loom.exceptions import BackupError, FileError, ProjectNotFoundError, RestoreError
from loom.graph import project
from loom.graph.connections import Connections, open_pool, policy
from loom.graph.store import backup, events, projects
from loom.ids import PROJECT_ID
from loom.wording import Shell, Words

FORMAT = 1
_END = b"\\.\n"
_LINE_BYTES = 64 * 1024 * 1024  # more than any row has; for all rows together there is no bound, as projects have none
_PIECE = 256 * 1024  # bytes that are handed on at a time
_SHOWN = ("tasks", "messages", "events")  # of what a project has
_TORN = (OSError, EOFError, zlib.error)  # what gzip says of a file that is torn, or none
# What the server says of rows that fit into no table.
_UNFIT = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
)
_LATEST = 1e11  # seconds since 1970 that a clock may show


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds, or what a restore has put in."""

    project_id: str
    project: str
    version: str
    """The Loom that made it."""
    made_at: datetime
    rows: Mapping[str, int]
    """How many each table has."""


async def write(config: LoomConfig, path: Path, *, progress: Callable[[str], None] = services.silent) -> Backup:
    """Writes a project, as it is at one moment, into a new file; others go on meanwhile. Whatever happens, there is the
    whole file or none.

    Raises:
        ProjectNotFoundError: there is none here, or the database has none.
        FileError: the file is there already, or cannot be written.
        ServersError, DatabaseUnavailableError: PostgreSQL cannot be reached.
    """
    project_id = _named(config)
    try:
        with files.new(path) as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
            async with _connected(config) as pool, db.snapshot(pool) as connection:
                return await _copy(connection, project_id, packed, progress)
    except OSError as error:
        raise FileError(
            f"{path} cannot be written: {error.strerror}.", "Name a new file, where there is room."
        ) from None


async def restore(
    config: LoomConfig,
    path: Path,
    *,
    replacing: str | None = None,
    progress: Callable[[str], None] = services.silent,
) -> Backup:
    """Puts a project back from such a file, all of it or nothing, and builds its mirror anew.

    Args:
        config: says on which servers; its project, if it has one, must be that of the file.
        replacing: the name of the project that may go for it; without one only a project that has nothing is restored.

    Raises:
        BackupError: the file is none, is damaged, was made by a newer Loom, or is of another project.
        RestoreError: the project has something, or processes are at work on it.
        ServersError, DatabaseUnavailableError, SchemaTooNewError: the database cannot be used.
        SchemaTooOldError: it lacks migrations, which somebody else is to bring.
    """
    async with _connected(config) as pool:

        async def whole(connection: db.Connection) -> Backup:
            with _opened(path) as file:  # anew for each try
                return await _restore(connection, config, file, replacing, progress)

        with db.translated():
            async with pool.acquire() as connection:
                await migrate.migrate(connection, schema=config.database.schema, policy=policy(config))
            done = await db.in_transaction(pool, whole)
    progress("Building the mirror anew.")
    links = Connections(replace(config, project_id=done.project_id, project_name=done.project), done.project_id)
    try:
        await (await links.relay()).step()
    finally:
        await links.close()
    return done


# --- out --------------------------------------------------------------------------------------------------------------


async def _copy(
    connection: db.Connection, project_id: str, file: gzip.GzipFile, progress: Callable[[str], None]
) -> Backup:
    try:
        found = await project.get_project(connection, project_id)
    except asyncpg.UndefinedTableError:
        raise ProjectNotFoundError(f"The database has no project {project_id}.") from None
    await backup.plain(connection)
    made_at = await backup.now(connection)
    _put(
        file,
        {
            "loom_backup": FORMAT,
            "version": bridge.VERSION,
            "made_at": made_at,
            "project_id": project_id,
            "project": found.name,
            "migrations": await backup.migrated(connection),
        },
    )

    async def sink(piece: bytes) -> None:
        file.write(piece)

    rows = {}
    for table in await backup.tables(connection):
        if table.name not in backup.DERIVED | backup.APART:
            progress(f"Copying {table.name}.")
            _put(file, {"table": table.name, "columns": table.columns})
            rows[table.name] = await backup.copy_out(connection, table, project_id, sink)
            file.write(_END)
    _put(file, {"rows": rows})
    return Backup(project_id, found.name, bridge.VERSION, datetime.fromtimestamp(made_at, UTC), rows)


def _put(file: gzip.GzipFile, facts: Mapping[str, Any]) -> None:
    file.write(json.dumps(facts).encode() + b"\n")


@asynccontextmanager
async def _connected(config: LoomConfig) -> AsyncIterator[db.Pool]:
    """A pool that no process at work on the project is taken for."""
    endpoints = await asyncio.to_thread(services.ensure, config)
    pool = await open_pool(replace(config, database=replace(config.database, pool_min=0)), endpoints, "loom")
    try:
        yield pool
    finally:
        pool.terminate()


def _named(config: LoomConfig) -> str:
    if config.project_id is None:
        raise ProjectNotFoundError(
            "There is no Loom project here.", Words("Run {} in its directory.", Shell("loom backup FILE"))
        )
    return config.project_id


# --- in ---------------------------------------------------------------------------------------------------------------


async def _restore(
    connection: db.Connection,
    config: LoomConfig,
    file: _Reader,
    replacing: str | None,
    progress: Callable[[str], None],
) -> Backup:
    head = file.head()
    if config.project_id not in (None, head.project_id):
        raise BackupError(
            f"{file.name} holds the project {head.project}, and this is another one.",
            "Restore it in that project's directory, or in one that is no project.",
        )
    await backup.lock(connection, head.project_id)
    there = [table for table in await backup.tables(connection) if table.name not in backup.APART]
    await _must_be_free(connection, there, head, replacing)
    await backup.plain(connection)
    schema, path = await backup.beside(connection)
    try:
        await migrate.apply(connection, [one for one in migrate.migrations() if one.number in head.migrations])
        rows = await _fill(connection, schema, head, file, progress)
        progress("Bringing the rows forward.")
        await migrate.apply(connection, migrate.migrations())
        await backup.lead_back(connection, path)
        await backup.empty(connection, there, head.project_id)
        # Nobody claims a task more than once in a microsecond: no token that was handed out since is as high as these.
        raise_by = max(int((await backup.now(connection) - head.made_at) * 1_000_000), 1)
        wanted = [table for table in there if table.name not in backup.DERIVED]
        await backup.bring_over(connection, schema, wanted, head.project_id, raise_by)
    except _UNFIT as error:
        raise file.damaged(texts.one_line(str(error))) from None
    await backup.drop(connection, schema)
    await backup.count_on(connection, wanted, head.project_id)
    await events.put_behind(connection, head.project_id)
    await backup.begin_anew(connection, head.project_id, await projects.history(connection))
    return Backup(head.project_id, head.project, head.version, datetime.fromtimestamp(head.made_at, UTC), rows)


async def _must_be_free(
    connection: db.Connection, there: Sequence[backup.Table], head: _Head, replacing: str | None
) -> None:
    if busy := await backup.at_work(connection, head.project_id):
        raise RestoreError(
            f"Processes are at work on the project {head.project} on these servers, with {busy} connections.",
            "End its agents, boards and servers, then run it again. A pooler may keep connections of theirs: have it"
            " let go of them.",
        )
    held = await backup.held(connection, there, head.project_id)
    name = (await project.get_project(connection, head.project_id)).name if held else head.project
    if held and replacing != name:
        shown = ", ".join(f"{count:,} {name}" for name, count in held.items() if name in _SHOWN) or "rows"
        given = "" if replacing is None else f", and its name is not {texts.one_line(replacing)}"
        raise RestoreError(
            f"The project {name} has something on these servers: {shown}{given}.",
            Words("Restore it where it has nothing, or read {}.", Shell("loom help restore")),
        )


async def _fill(
    connection: db.Connection, schema: str, head: _Head, file: _Reader, progress: Callable[[str], None]
) -> dict[str, int]:
    """Puts the rows of the file into the tables of their version, and returns how many there are of each."""
    tables = {table.name: table for table in await backup.tables(connection, schema)}
    rows: dict[str, int] = {}
    while "rows" not in (facts := file.facts()):
        table, columns = tables.get(str(facts.get("table"))), facts.get("columns")
        if table is None or not _are_of(columns, table.columns):
            raise file.damaged("it has a table that its version does not have")
        progress(f"Restoring {table.name}.")
        chosen = table._replace(columns=tuple(columns))
        rows[table.name] = await backup.copy_in(connection, schema, chosen, file.rows())
        if await backup.count(connection, table, head.project_id) != rows[table.name]:
            raise file.damaged("it has rows of other projects")
    if facts["rows"] != rows or rows.get("projects") != 1 or file.more():
        raise file.damaged("it does not have the rows that it counts")
    return rows


def _are_of(given: object, known: Collection[object]) -> TypeGuard[list[Any]]:
    """Whether it is a list of some of what is known, each once."""
    return isinstance(given, list) and all(given.count(one) == 1 and one in known for one in given)


@dataclass(frozen=True, slots=True)
class _Head:
    """The first line of a backup."""

    version: str
    made_at: float
    project_id: str
    project: str
    migrations: list[int]


class _Reader:
    """A backup that is read from its beginning to its end, once."""

    def __init__(self, name: str, file: gzip.GzipFile) -> None:
        self.name = name
        self._file = file

    def damaged(self, how: str) -> BackupError:
        return BackupError(f"{self.name} is no whole backup: {how}.", "Nothing was changed; take another file.")

    def head(self) -> _Head:
        """What it says of itself. Raises BackupError, also where a newer Loom has made it."""
        facts = self.facts()
        kinds = {"version": str, "made_at": float, "project_id": str, "project": str, "migrations": list}
        if not isinstance(facts.get("loom_backup"), int) or any(
            type(facts.get(name)) is not kind for name, kind in kinds.items()
        ):
            raise self.damaged("it does not begin like one")
        head = _Head(**{name: facts[name] for name in kinds})
        if not (0 <= head.made_at <= _LATEST and PROJECT_ID.fullmatch(head.project_id)):
            raise self.damaged("it does not begin like one")
        if facts["loom_backup"] > FORMAT or not _are_of(head.migrations, [one.number for one in migrate.migrations()]):
            version = texts.one_line(head.version)
            raise BackupError(
                f"{self.name} was made by Loom {version}, and this is {bridge.VERSION}, which is older.",
                f"Install Loom {version} or newer; nothing was changed.",
            )
        return head

    def facts(self) -> dict[str, Any]:
        """The object in the next line."""
        try:
            found = json.loads(self._line())
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self.damaged("it has something else where Loom writes what comes next")
        return found

    async def rows(self) -> AsyncIterator[bytes]:
        """The rows of a table, in pieces."""
        piece = bytearray()
        while (line := self._line()) != _END:
            piece += line
            if len(piece) > _PIECE:
                yield bytes(piece)
                piece.clear()
        if piece:
            yield bytes(piece)

    def more(self) -> bool:
        """Whether something comes yet."""
        try:
            return bool(self._file.read(1))
        except _TORN as error:
            raise self.damaged(str(error)) from None

    def _line(self) -> bytes:
        try:
            line = self._file.readline(_LINE_BYTES)
        except _TORN as error:
            raise self.damaged(str(error)) from None
        if not line.endswith(b"\n"):
            raise self.damaged("its end is missing")
        return line


@contextmanager
def _opened(path: Path) -> Iterator[_Reader]:
    try:
        file = files.opened(path)
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror}.", "Name a file that is there.") from None
    with file, gzip.GzipFile("", "rb", fileobj=file) as unpacked:
        yield _Reader(path.name, unpacked)
