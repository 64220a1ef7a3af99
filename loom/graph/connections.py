"""What the application object holds, and several of one project share: the pool, Redis, the mirror, the relay and the
subscription of one project.

Each is made when it is first needed. Servers are asked for only when connecting fails, so that running ones cost
nothing, and embedded ones that are found dead are started again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from loom import services, texts
from loom.bus import channels
from loom.config import LoomConfig, places
from loom.db import connection as db
from loom.db import migrate
from loom.exceptions import DatabaseUnavailableError, ServersError
from loom.graph import project, store
from loom.graph.store import projects

if TYPE_CHECKING:
    from loom.bus.client import Client
    from loom.bus.subscriber import Subscriber
    from loom.graph.cache.mirror import Cache
    from loom.graph.cache.relay import Relay

T = TypeVar("T")
Met: TypeAlias = Callable[[db.Connection], Coroutine[Any, Any, None]]
_LOG = logging.getLogger(__name__)


async def open_pool(config: LoomConfig, endpoints: services.Endpoints, name: str, met: Met | None = None) -> db.Pool:
    """A pool as the configuration wants it; `name` and `met` as in `db.open_pool`. Raises DatabaseUnavailableError."""
    settings, password = config.database, None
    if settings.password_command:
        from loom.db.password import Password

        password = Password(settings.password_command)
    return await db.open_pool(
        endpoints.database_url,
        min_size=settings.pool_min,
        max_size=settings.pool_max,
        name=name,
        pooler=settings.pooler,
        schema=settings.schema,
        password=password,
        ours=config.servers.backend != "external",
        met=met,
    )


async def bring_forward(config: LoomConfig, *, look: bool = False) -> list[str]:
    """Brings the database's schema up to this version of Loom, whoever else may, starting the servers if they are
    Loom's to start, and returns the names of the migrations that were applied; with `look` those that are missing, and
    nothing is changed.

    Raises:
        ServersError, DatabaseUnavailableError: PostgreSQL cannot be reached.
        SchemaTooNewError, ConfigError: as `migrate.migrate`.
    """
    endpoints = await asyncio.to_thread(services.ensure, config)
    pool = await open_pool(replace(config, database=replace(config.database, pool_min=1)), endpoints, "loom")
    try:
        with db.translated():
            async with pool.acquire() as connection:
                if look:
                    return [one.name for one in await migrate.missing(connection)]
                return await migrate.migrate(connection, schema=config.database.schema)
    finally:
        pool.terminate()


class Connections:
    """The connections of one process to one project."""

    def __init__(self, config: LoomConfig, project_id: str) -> None:
        self.config = config
        self.project_id = project_id
        self.history = ""  # of the database; known once connected
        self.committed = asyncio.Event()  # set at each commit, for who follows them
        self.frontier = store.Frontier()
        self.notice = ""  # what a person should know of where the data is; known once connected
        self._pool: db.Pool | None = None
        self._redis: Client | None = None
        self._cache: Cache | None = None
        self._relay: Relay | None = None
        self._subscriber: Subscriber | None = None
        self._endpoints: services.Endpoints | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    @property
    def cache_in_use(self) -> Cache | None:
        """The mirror if this process has written to it, or had much to count; a process that only looks does not pay
        for a second server."""
        return self._cache

    @property
    def open(self) -> bool:
        """Whether PostgreSQL was ever needed."""
        return self._pool is not None

    async def pool(self) -> db.Pool:
        """The pool, its schema up to date and the project's row there. Raises DatabaseUnavailableError, also once all
        was given back."""
        if self._pool is None:
            async with self._connecting:
                if self._pool is None:
                    self._pool = await self._open()
        return self._pool

    async def read(self, question: Callable[[db.Connection], Awaitable[T]], *, snapshot: bool = False) -> T:
        """Asks what changes nothing, again where the servers are found dead; with `snapshot` all that it asks is
        answered as of one moment, and it can write nothing."""

        async def ask(pool: db.Pool) -> T:
            if snapshot:
                return await db.in_snapshot(pool, question)
            async with db.borrowed(pool) as connection:
                return await question(connection)

        return await self.run(ask)

    async def run(self, work: Callable[[db.Pool], Awaitable[T]], *, repeatable: bool = True) -> T:
        """Runs `work`. Where the servers are found dead it starts them and runs it again, unless it is not `repeatable`
        and may have been carried out. What does not come in time is not waited for twice."""
        pool = await self.pool()
        try:
            with db.translated():
                return await work(pool)
        except DatabaseUnavailableError as error:
            if self._closed or isinstance(error.__cause__, TimeoutError) or (error.began and not repeatable):
                raise
        await asyncio.to_thread(services.ensure, self.config)
        with db.translated():
            return await work(pool)

    async def cache(self) -> Cache:
        """The mirror."""
        if self._cache is None:
            from loom.graph.cache import Cache

            await self.pool()
            if self._cache is None:  # of those who come at once, one makes it; here and below
                self._cache = Cache(
                    self._client, self.project_id, history=self.history, stream_maxlen=self.config.redis.stream_maxlen
                )
        return self._cache

    async def relay(self) -> Relay:
        """The relay."""
        if self._relay is None:
            from loom.graph.cache import Relay

            pool, cache = await self.pool(), await self.cache()
            if self._relay is None:
                self._relay = Relay(pool, cache, self.project_id, replay=self.config.redis.stream_maxlen)
        return self._relay

    async def subscriber(self) -> Subscriber:
        """The subscription to everything that the project announces."""
        if self._subscriber is None:
            from loom.bus.subscriber import Subscriber

            await self.pool()
            if self._subscriber is None:
                self._subscriber = Subscriber(self._redis_url(), channels.everything(self.project_id))
        return self._subscriber

    async def close(self) -> None:
        """Gives everything back, for good: whoever is still at something here opens nothing anew. One that fails, or
        over which who waits is cancelled, keeps none of the others open."""
        self._closed = True
        async with AsyncExitStack() as stack:
            if self._subscriber is not None:
                stack.push_async_callback(self._subscriber.close)
            if self._redis is not None:
                stack.push_async_callback(self._redis.aclose)
            if self._pool is not None:  # first, since it may take its time; where it may not, it is cut off
                stack.push_async_callback(self._pool.close)
            self._pool = self._redis = self._subscriber = None

    async def _open(self) -> db.Pool:
        self._must_be_open()
        places.enter(self.config)
        try:
            self._endpoints = services.endpoints(self.config)
            pool = await self._open_pool(self._endpoints)
        except (ServersError, DatabaseUnavailableError):
            self._endpoints = await asyncio.to_thread(services.ensure, self.config)
            pool = await self._open_pool(self._endpoints)
        try:
            with db.translated():
                async with pool.acquire() as connection:
                    await migrate.migrate(connection, schema=self.config.database.schema, policy=policy(self.config))
                    self.history = await project.create_project(connection, self.project_id, self.config.project_name)
                    await self._look_for_the_data(connection, texts.mask(self._endpoints.database_url))
            self._must_be_open()
        except BaseException:
            pool.terminate()
            raise
        return pool

    async def _look_for_the_data(self, connection: db.Connection, here: str) -> None:
        """Says so where the project is empty here and was worked on elsewhere: with another user's servers, or others
        of the same user. Else it is here, from now on."""
        last = places.last_data(self.config)
        if last == here:
            return
        if last is None or await projects.has_tasks(connection, self.project_id):
            places.keep_data(self.config, here)
            return
        self.notice = f"This project is empty on the servers at {here}; its data was last at {last}."
        _LOG.warning("%s", self.notice)

    async def _open_pool(self, endpoints: services.Endpoints) -> db.Pool:
        return await open_pool(self.config, endpoints, f"loom/{self.project_id}", self._met)

    async def _met(self, connection: db.Connection) -> None:
        """Looks whether a new connection has come to another history, as after a failover, and if so has the project
        and the mirror begin it, and lets go of the connections to the one before."""
        if not self.history or projects.is_of(self.history, await projects.history(connection)):
            return
        self.history = await project.create_project(connection, self.project_id, self.config.project_name)
        if self._cache is not None:
            self._cache.history = self.history
        if self._pool is not None:
            await self._pool.expire_connections()

    def _must_be_open(self) -> None:
        if self._closed:
            raise DatabaseUnavailableError(
                "The connections of this project were given back.", "Open the project anew, then do the same again."
            )

    async def _client(self) -> Client:
        if self._closed:  # the mirror takes it for a Redis that is away
            raise ConnectionResetError("The connections of this project were given back")
        if self._redis is None:
            from loom.bus.client import Client

            self._redis = Client(self._redis_url())
        return self._redis

    def _redis_url(self) -> str:
        assert self._endpoints is not None, "PostgreSQL is connected first"
        return self._endpoints.redis_url


def policy(config: LoomConfig) -> migrate.Policy:
    """Whether whoever connects brings the schema forward."""
    if config.database.migrate is not None:
        return migrate.Policy(config.database.migrate)
    return migrate.Policy.EMPTY if config.servers.backend == "external" else migrate.Policy.ALWAYS
