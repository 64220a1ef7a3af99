"""What can be wrong with PostgreSQL: each kind of error in a sentence, and what to do about it in another."""

from __future__ import annotations

import ssl

import asyncpg

from loom.wording import Shell, Words

_ADDRESS = "database.url or LOOM_DATABASE_URL"
_LOOK = Words("Run {} to start it, or {} to see what is wrong.", Shell("loom up"), Shell("loom doctor"))

_PERHAPS_DONE = "It may have been carried out all the same: look before you do it again."

# What completes the sentence "PostgreSQL ...", `{}` being what the server says; the first kind that fits counts.
_KINDS: tuple[tuple[tuple[type[BaseException], ...], str, str], ...] = (
    (
        (asyncpg.TooManyConnectionsError,),
        "has no connection left for Loom: {}",
        "Raise max_connections there, or lower database.pool_max of the processes that are connected.",
    ),
    (
        (asyncpg.DiskFullError,),
        "has no room left on its disk: {}",
        "Make room there, then do the same again; this has changed nothing.",
    ),
    ((asyncpg.OutOfMemoryError,), "has no memory left: {}", "Give it more, then do the same again."),
    (
        (asyncpg.InsufficientResourcesError,),
        "has met a limit of its own configuration: {}",
        "Raise it there, then do the same again; this has changed nothing.",
    ),
    (
        (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError, asyncpg.TransactionTimeoutError),
        "did not go on with that: {}",
        "Try again; where it happens often, raise the time-outs that are set there for this role and database.",
    ),
    (
        (asyncpg.PostgresSystemError, asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError),
        "has trouble with its own files: {}",
        "See its log, and the health of its disk.",
    ),
    (
        (asyncpg.InsufficientPrivilegeError,),
        "does not let this role do that: {}",
        "Have the owner of the database grant the role what it lacks; to bring the schema up to date it must be allowed"
        " to create there.",
    ),
    (
        (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError),
        "refused the connection: {}",
        f"Check user, password and database name in {_ADDRESS}.",
    ),
    (
        (asyncpg.InvalidSchemaNameError,),
        "knows no schema to look in: {}",
        "Name one that is there in database.schema, or have the search_path of the role name it.",
    ),
    (
        (asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError, asyncpg.DuplicateFunctionError),
        "has something of another program under a name that Loom needs: {}",
        f"Give Loom a database of its own, and name it in {_ADDRESS}; this has changed nothing.",
    ),
    (
        (ssl.SSLCertVerificationError,),
        "shows a certificate that is not trusted here: {}",
        f"Name the file of its CA as sslrootcert in {_ADDRESS}.",
    ),
    ((asyncpg.ClientConfigurationError,), "cannot be connected to as its address asks: {}", f"Correct {_ADDRESS}."),
    (
        (asyncpg.ProtocolViolationError,),
        "is not spoken to directly: {}",
        "Say in database.pooler whether the pooler before it lends a server for a session or a transaction.",
    ),
    (
        # The second is what a standby says of its own position in the log, which only a primary has.
        (asyncpg.ReadOnlySQLTransactionError, asyncpg.ObjectNotInPrerequisiteStateError),
        "takes no changes: it is a standby, or was set to be read only",
        f"Name the primary in {_ADDRESS}.",
    ),
)
_UNFIT = (
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.UntranslatableCharacterError,
    asyncpg.NumericValueOutOfRangeError,
    asyncpg.DatetimeFieldOverflowError,
    asyncpg.IntervalFieldOverflowError,
)
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what a connection says that broke while it was handed out
    asyncpg.OperatorInterventionError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)


def is_unfit(error: BaseException) -> bool:
    """Whether an error says that a value which was given is none that PostgreSQL can take."""
    return isinstance(error, _UNFIT) or type(error) is asyncpg.DataError  # which the client itself raises


def after_all(error: BaseException | None, next_step: str) -> str:
    """What to do about an error that came with a statement under way, where `next_step` says what to do about the
    server: one that went away, or did not answer in time, may have carried it out."""
    answered = isinstance(error, tuple(one for kinds, *_ in _KINDS for one in kinds))
    return Words("{} {}", _PERHAPS_DONE, next_step) if isinstance(error, _AWAY) and not answered else next_step


def told(error: BaseException) -> tuple[str, str] | None:
    """What completes the sentence "PostgreSQL ..." about an error, without its full stop, and the sentence of what to
    do; None for an error that says nothing of the server."""
    for kinds, cause, next_step in _KINDS:
        if isinstance(error, kinds) and not isinstance(error, asyncpg.ObjectInUseError):
            return cause.format(str(error).rstrip(".")), next_step
    return (f"does not answer ({type(error).__name__})", _LOOK) if isinstance(error, _AWAY) else None
