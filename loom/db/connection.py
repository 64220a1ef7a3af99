"""The way to PostgreSQL: a small pool, transactions that are tried again, and one translation of its errors.

No session state is kept in a connection, so that a transaction pooler may stand between: no LISTEN, no session locks,
no SET outside a transaction where one may.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

import asyncpg
from asyncpg.transaction import Transaction

from loom import texts
from loom.background import Backoff
from loom.db import trouble
from loom.exceptions import DatabaseUnavailableError, InvalidInputError

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
T = TypeVar("T")


class Row(Protocol):
    """What models are built from: a record of the database, or a mapping in its place."""

    def __getitem__(self, name: str, /) -> Any: ...


# Seconds. What somebody asked to wait for, and checks that look at everything, have bounds of their own.
_STATEMENT = 25.0  # for an answer to one
_CONNECTION = 25.0  # for one of the pool to be free
_CONNECT = 5.0  # for a server to let a new one in
_CANCEL = 4.0  # for a server to take back a statement that was given up; then the connection is dropped
_NOT_LET_IN = f"did not let a new connection in within {_CONNECT:g} s"
WHOLE = 600.0
"""For a statement that looks at, or changes, all that there is."""

_PORT = 5432
_NOTHING_MORE: dict[str, Any] = {"ssl": False, "direct_tls": False, "target_session_attrs": "any", "gsslib": "gssapi"}
"""What a server of Loom's own is reached with, beside its address; each would come from a variable else."""

_ISOLATION = "read committed"  # of a statement without a block too: what it calls sees what was committed meanwhile
_SHOWN = 200  # characters of what is wrong with a value
_TRIES = 8
_PAUSES = (0.01, 1.0)  # seconds between tries: at first, at most
_CONFLICTS = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InvalidCachedStatementError,  # a newer Loom has brought the schema forward; the next try prepares it anew
)
_WITH_IDS = ("access_tokens", "escalations", "plans", "skill_runs", "tasks", "workflow_runs")
_DRAWN = frozenset({*(f"{table}_pkey" for table in _WITH_IDS), "access_tokens_by_id", "tasks_origin"})
"""Unique constraints that the next try may keep: it draws another id, and finds what has had an origin id meanwhile."""


class _LateError(TimeoutError):
    """A wait that is over; its text completes the sentence "PostgreSQL ..."."""


class _Connection(asyncpg.Connection):
    """A connection that is dropped where the server does not even take a statement back."""

    async def _cancel(self, *waiters: Any) -> None:
        patience = asyncio.get_running_loop().call_later(_CANCEL, self.terminate)
        try:
            await super()._cancel(*waiters)  # type: ignore[misc]
        finally:
            patience.cancel()


class _BorrowedConnection(_Connection):
    """A connection to a pooler that lends a server for one transaction at a time. A statement is prepared before it is
    carried out, so that each stands in a transaction, lest the two meet different servers."""

    async def _execute(self, *arguments: Any, **options: Any) -> Any:
        if self.is_in_transaction():
            return await super()._execute(*arguments, **options)  # type: ignore[misc]
        async with block(self):
            return await super()._execute(*arguments, **options)  # type: ignore[misc]


class Pool(asyncpg.Pool):
    """A pool that nobody waits for longer than a bound, and that has a connection at hand: to give one back and to have
    it again takes longer than many a statement."""

    _at_hand: Connection | None = None
    _keeps = True
    _waiting = 0  # how many wait for a connection
    age = 0
    """How often all connections were let go."""

    def keep(self, connection: Connection, age: int) -> bool:
        """Whether a connection that is as it was when it was had stays at hand, instead of being given back. Not where
        somebody waits for one, or all are let go, or were since the pool was of this `age`."""
        if self._at_hand is not None or self._waiting or age != self.age or not self._keeps:
            return False
        self._at_hand = connection
        return True

    async def expire_connections(self) -> None:
        """Lets go of all connections, those in use once they are given back."""
        self.age += 1
        await super().expire_connections()
        await self._let_go()

    async def close(self) -> None:
        """Closes all connections, once they are given back."""
        self._keeps = False
        await self._let_go()
        await super().close()

    async def _let_go(self) -> None:
        connection, self._at_hand = self._at_hand, None
        if connection is not None:
            await self.release(connection)  # type: ignore[arg-type]

    async def _acquire(self, timeout: float | None) -> Any:
        connection, self._at_hand = self._at_hand, None
        if connection is not None:
            if _is_open(connection):
                return connection
            await self.release(connection)  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        began, longest = loop.time(), timeout or _CONNECTION
        self._waiting += 1
        try:
            return await super()._acquire(longest)  # type: ignore[misc]
        except TimeoutError:
            if loop.time() - began < longest:
                raise _LateError(_NOT_LET_IN) from None
            raise _LateError(f"had none of this process's connections free within {longest:g} s") from None
        finally:
            self._waiting -= 1


async def open_pool(
    url: str,
    *,
    min_size: int,
    max_size: int,
    name: str = "loom",
    pooler: str = "none",
    schema: str | None = None,
    password: Callable[[], Awaitable[str]] | None = None,
    ours: bool = False,
    met: Callable[[Connection], Coroutine[Any, Any, None]] | None = None,
) -> Pool:
    """Opens a pool whose first connection answers.

    Args:
        url: where PostgreSQL is; passwords in it never reach an error.
        min_size: connections held open.
        max_size: the most that are opened.
        name: what the server's list of sessions shows.
        pooler: what stands between: none, or one that lends a server for a session or a transaction.
        schema: where names without one are looked up; default, and behind a pooler in any case: as the role has it.
        password: gives the password for each new connection, instead of the one in `url`.
        ours: the server is one that Loom has started, and what this process's variables say of others (PGPORT,
            PGSSLMODE) means nothing there.
        met: is told of each new connection before anybody uses it.

    Raises:
        DatabaseUnavailableError: nothing answers there, or it refuses.
    """
    # The pool would tell of each failure to hold connections open; whoever needs one is told anyway, in one sentence.
    logging.getLogger("asyncpg.pool").setLevel(logging.CRITICAL)
    with translated(url):
        return await Pool(
            url,
            min_size=min(min_size, max_size),
            max_size=max_size,
            max_queries=50_000,
            max_inactive_connection_lifetime=300,
            connection_class=_BorrowedConnection if pooler == "transaction" else _Connection,
            record_class=asyncpg.Record,
            loop=None,
            timeout=_CONNECT,
            connect=None if password is None else _connecting(password),
            command_timeout=_STATEMENT,
            # What a connection could carry from one user to the next is never made, so there is nothing to reset,
            # and a round trip is saved at each release.
            reset=_nothing_to_reset,
            init=_settled(met) if pooler == "session" else met,
            # What is prepared on a server that is lent is not there the next time.
            statement_cache_size=0 if pooler == "transaction" else 100,
            server_settings={"application_name": name} | (_settings(schema) if pooler == "none" else {}),
            **({"port": urlsplit(url).port or _PORT, **_NOTHING_MORE} if ours else {}),
        )


def _connecting(password: Callable[[], Awaitable[str]]) -> Any:
    """How a connection is made with a password of its own; the time that the server has begins once it is there."""

    async def connect(*arguments: Any, **options: Any) -> Any:
        return await asyncpg.connect(*arguments, **options, password=await password())

    return connect


def _settings(schema: str | None) -> dict[str, str]:
    """What a connection comes with; poolers do not pass it on."""
    # A transaction of a process that has stopped in the middle of it holds up everybody who waits for its locks.
    settings = {"idle_in_transaction_session_timeout": "60s", "default_transaction_isolation": _ISOLATION}
    return settings if schema is None else settings | {"search_path": f'"{schema}"'}


def _settled(
    met: Callable[[Connection], Coroutine[Any, Any, None]] | None,
) -> Callable[[Connection], Coroutine[Any, Any, None]]:
    """What is done with a new connection through a pooler that lends a server for a session, and forgets such settings
    when that ends."""

    async def settle(connection: Connection) -> None:
        await connection.execute(f"set default_transaction_isolation = '{_ISOLATION}'")
        if met is not None:
            await met(connection)

    return settle


@asynccontextmanager
async def snapshot(pool: Pool) -> AsyncIterator[Connection]:
    """A connection whose statements all see the database as it was at one moment, and that cannot write."""
    with translated():
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection


def _is_open(connection: Connection) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # the server has closed it, and the pool has it back already
        return False


def block(connection: Connection) -> Transaction:
    """Statements that count together or not at all. Each sees what was committed while the one before it waited for a
    lock, whatever isolation the database, or the role, has by default."""
    return connection.transaction(isolation="read_committed")


async def in_transaction(pool: Pool, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Runs `work` in one READ COMMITTED transaction and returns what it returned.

    Deadlocks, serialization failures, statements prepared for a schema that has changed since, and ids that are taken
    (40P01, 40001, 0A000, 23505 of what is drawn) roll everything back and run `work` again, after a random pause that
    grows; callers never see them. So `work` must be free of effects outside of the transaction, and draw ids within it.
    """

    async def whole() -> T:
        async with begun(pool) as connection, block(connection):
            return await work(connection)

    return await _until_no_conflict(whole)


async def in_one_statement(pool: Pool, work: Callable[[Connection], Awaitable[T]]) -> T:
    """As `in_transaction`, for work that is a single statement and needs no block around it."""

    async def whole() -> T:
        async with begun(pool) as connection:
            return await work(connection)

    return await _until_no_conflict(whole)


async def in_snapshot(pool: Pool, question: Callable[[Connection], Awaitable[T]]) -> T:
    """As `in_transaction`, on a connection as `snapshot` gives it."""

    async def whole() -> T:
        async with snapshot(pool) as connection:
            return await question(connection)

    return await _until_no_conflict(whole)


async def _until_no_conflict(attempt: Callable[[], Awaitable[T]]) -> T:
    for number in range(1, _TRIES):
        try:
            return await attempt()
        except asyncpg.PostgresError as error:
            if not _may_pass(error):
                raise
            rest = Backoff(*_PAUSES, jitter=1).after(number)
        await asyncio.sleep(rest)
    return await attempt()


def _may_pass(error: asyncpg.PostgresError) -> bool:
    if isinstance(error, asyncpg.UniqueViolationError):
        return error.constraint_name in _DRAWN
    return isinstance(error, _CONFLICTS)


class borrowed:  # noqa: N801 - read as a statement: `async with borrowed(pool) as connection:`
    """A connection of a pool, which stays at hand afterwards where all went well."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._age = pool, pool.age

    async def __aenter__(self) -> Connection:
        self._connection: Connection = await self._pool.acquire()
        return self._connection

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is not None or not self._pool.keep(self._connection, self._age):
            await self._pool.release(self._connection)  # type: ignore[arg-type]


class begun(borrowed):  # noqa: N801 - as that
    """A connection for something that must not be done twice: an error that comes once it is had says that what was
    asked for may have been carried out (`DatabaseUnavailableError.began`)."""

    async def __aenter__(self) -> Connection:
        with translated():
            return await super().__aenter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            with translated():
                await super().__aexit__(kind, error, trace)
            translated().__exit__(kind, error, trace)
        except DatabaseUnavailableError as told:
            told.began = True
            told.next_step = trouble.after_all(told.__cause__, told.next_step)
            raise


class translated:  # noqa: N801 - read as a statement: `with translated():`
    """Turns errors that mean "the database is not there", or cannot do it, into `DatabaseUnavailableError`, and those
    about a value that it cannot take into `InvalidInputError`; others pass."""

    def __init__(self, url: str = "") -> None:
        self._where = f" at {texts.mask(url)}" if url else ""

    def _late(self, error: BaseException | None) -> str | None:
        """What of PostgreSQL did not come in time, if that is behind an error."""
        while error is not None:
            if isinstance(error, _LateError):
                return str(error)
            if isinstance(error, TimeoutError) and error.errno is None:
                return _NOT_LET_IN if self._where else f"did not answer a statement within {_STATEMENT:g} s"
            error = error.__context__
        return None

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if error is not None and trouble.is_unfit(error):
            why = texts.shorten(texts.one_line(str(error)), _SHOWN)
            raise InvalidInputError(
                f"A value was given that cannot be looked for or kept: {why}.", "Correct it."
            ) from error
        found = trouble.told(error) if error is not None else None
        if found:
            cause, next_step = found
            raise DatabaseUnavailableError(
                f"PostgreSQL{self._where} {self._late(error) or cause}.", next_step
            ) from error


async def _nothing_to_reset(_: Connection) -> None:
    return None
