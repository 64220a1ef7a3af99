"""Whose front it is, and how a mutation is carried out: what all that a front offers rests on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Self, TypeVar

from loom import texts, tracing
from loom.background import end
from loom.config import LoomConfig, load_config
from loom.config.inside import inside_run
from loom.db import connection as db
from loom.exceptions import InvalidInputError, NotFromAfarError, ProjectNotFoundError
from loom.graph import store
from loom.graph.connections import Connections
from loom.graph.model import limits, paths
from loom.graph.model.principals import Principal
from loom.graph.model.retry import RetryPolicy
from loom.graph.model.task import Task, TaskStatus
from loom.graph.rules import holding
from loom.graph.rules.claims import Outcome, Refused, Terms
from loom.graph.session import Session, default_agent
from loom.graph.store import names
from loom.graph.store.transaction import Bounds, Change, Transaction
from loom.ids import TASK_ID
from loom.wording import Argument, Shell, Words, call

T = TypeVar("T")

_LARGE = 1_000  # tasks
_TOLD = 5  # tasks that a name stands for
_LAST_MOMENT = 1.0  # seconds for mutations to come to their end when the connections are given back


class Seat:
    """One project, as whoever calls sees it."""

    keeps_order = True
    """Whether this process is one that sweeps and mirrors, or a server does it."""

    def __init__(
        self,
        config: LoomConfig,
        *,
        agent: str | None = None,
        links: Connections | None = None,
        principal: Principal | None = None,
    ) -> None:
        """
        Args:
            config: from `load_config`; must belong to a project.
            agent: the name of whoever calls without one; default: `LOOM_AGENT_ID`, else a name derived from the
                client's session, else one minted for this process.
            links: of the same project, to share with who made them, and who closes them; default: of its own.
            principal: whoever is known by a token; its name is then that of whoever calls without one.

        Raises:
            ProjectNotFoundError: the configuration names no project.
            ForbiddenError: the agent's name is another principal's.
            NotFromAfarError: the configuration leads to a server instead of a database.
        """
        if config.server.url is not None:
            raise NotFromAfarError.at(texts.mask(config.server.url))
        if config.project_id is None:
            raise ProjectNotFoundError(
                "There is no Loom project here.", Words("Run {} in the project's directory.", Shell("loom init"))
            )
        self.config = config
        self.project_id = config.project_id
        self.principal = principal
        self._renewed: set[str] = set()  # agents of a principal's, since he called
        agent = agent or (principal.name if principal else None)
        self._session = Session(limits.agent_name(agent) if agent else default_agent(config), principal)
        self._links = links or Connections(config, self.project_id)
        self._shared = links is not None
        self._going: set[asyncio.Task[Any]] = set()  # mutations
        self._terms = Terms(config.orchestration.claim_ttl_seconds, config.orchestration.deadline_seconds)
        self._policy = RetryPolicy.of(config.orchestration)
        # A demand that is there and not in force is in nobody's proofs: nothing is done until somebody looks at it.
        self._every_check = (*config.landing.checks, *(one for one in config.withheld if one == "landing.checks"))

    @property
    def agent(self) -> str:
        """The name of whoever calls without one."""
        return self._session.agent

    @property
    def names_begin(self) -> str:
        """What the names of agents begin with that who calls may use; "" where they are anybody's."""
        return f"{self.principal.name}/" if self.principal else ""

    @property
    def links(self) -> Connections:
        """The connections, for another front of the same project to share."""
        return self._links

    @property
    def committed(self) -> asyncio.Event:
        """Is set at each commit over these connections, for who follows them."""
        return self._links.committed

    @property
    def notice(self) -> str:
        """What a person should know of where this project's data is; "" before the first connection, and if nothing."""
        return self._links.notice

    @classmethod
    def here(cls, project_dir: Path | None = None, *, agent: str | None = None) -> Self:
        """The project of a directory, by default of the current one. Raises ProjectNotFoundError, ConfigError."""
        return cls(load_config(project_dir), agent=agent)

    def beside(self, *, agent: str | None = None, principal: Principal | None = None) -> Self:
        """Another front of this project over the same connections, for somebody else: with a name, and claims, of its
        own. Closing it leaves the connections open."""
        return type(self)(self.config, agent=agent, links=self._links, principal=principal)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connects to PostgreSQL now instead of with the first call, starting embedded servers that are found dead,
        and brings the schema up to date."""
        await self._links.pool()

    async def close(self) -> None:
        """Gives the connections back, unless it shares them, when the mutations that go on are at their end, or a
        moment later. Claims stay as they are; see `end_session`."""
        try:
            if self._going:
                await asyncio.wait(self._going, timeout=_LAST_MOMENT)
            await end(self._going)
        finally:
            if not self._shared:
                await self._links.close()

    def may(self, operation: str) -> bool:
        """Whether whoever calls may do this; see `principals.NEEDS`."""
        return self.principal is None or self.principal.may(operation)

    async def permit(self, operation: str, agent_id: str | None = None) -> None:
        """Judges whether a principal may do this, and renews what his agent holds, since he calls: nobody remembers
        his claims for him. Whoever is none may do everything. Raises ForbiddenError."""
        if self.principal is None:
            return
        self.principal.must(operation)
        agent = agent_id if agent_id is not None and self.principal.owns(agent_id) else self.agent
        if agent not in self._renewed and self.may("claim"):
            self._renewed.add(agent)
            await self._aside(lambda connection: store.renew_due(connection, self.project_id, agent))

    @property
    def max_attempts(self) -> int:
        """How many attempts a new task has."""
        return self._policy.max_attempts

    def caller(self, agent_id: str | None = None) -> str:
        """Whoever calls: `agent_id`, which is thereby known to be alive, or the name of this process."""
        return self._session.name(agent_id)

    async def id_of(self, given: object, field: str = "task_id") -> str:
        """The id of a task that is named by it, by the beginning of it, in any case, or by the id that it had in the
        tracker it came from. `field` names it in errors.

        Raises InvalidInputError: it is nothing of the kind, or several tasks have it.
        """
        if not isinstance(given, str) or TASK_ID.fullmatch(given):
            return limits.task_id(given, field)
        if not (text := given.strip()) or not text.isprintable():  # which the database might not even take
            return limits.task_id(given, field)
        found = await self.look(
            lambda connection: names.named(connection, self.project_id, text[: limits.LOOKUP_CHARACTERS])
        )
        if not found:
            raise InvalidInputError(
                Words(
                    "{} {} is not a task id, nor the beginning of one, nor what a tracker called a task that is here.",
                    Argument(field),
                    texts.quote(text),
                ),
                Words("Look for it with {}.", call("status", filter=...)),
            )
        if len(found) > 1:
            told = ", ".join(found[:_TOLD]) + (" and others" if len(found) > _TOLD else "")
            raise InvalidInputError(
                Words("{} {} stands for several tasks: {}.", Argument(field), texts.quote(text), told),
                "Give more of the id, or one of these.",
            )
        return found[0]

    async def _ids_of(self, given: object) -> object:
        """As `id_of`, for each of a list; what is no list is left to its validator."""
        if not isinstance(given, list | tuple):
            return given
        return [await self.id_of(one, "depends_on") if isinstance(one, str) else one for one in given]

    async def must_exist(self, task_id: str) -> None:
        """Raises TaskNotFoundError unless there is such a task."""
        await self._known(task_id)

    async def _known(self, task_id: str) -> Task:
        cache = self._links.cache_in_use
        found = None if cache is None else await cache.get_task(task_id)
        if found is None:
            found = await self.look(lambda connection: store.get_task(connection, self.project_id, task_id))
        if found is None:
            raise holding.not_found(task_id)
        return found

    async def look(self, question: Callable[[db.Connection], Awaitable[T]]) -> T:
        """Asks the database something that may be asked twice: where the servers are found dead it is asked again."""
        return await self._links.read(question)

    async def _aside(self, work: Callable[[db.Connection], Awaitable[T]]) -> T:
        """Asks the database something and has it note that: what no event tells of, and no mirror has. Each statement
        is whole by itself, and may be run again."""
        return await self._links.run(lambda pool: db.in_one_statement(pool, work))

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs `work` as one mutation: a transaction, its events, the mirror. It may be run again after a deadlock, so
        it has no effects but through the transaction. After a large one the planner's statistics are refreshed, instead
        of waiting for autovacuum to notice."""
        changed = 0

        @wraps(work)
        async def counted(tx: Transaction) -> T:
            nonlocal changed
            result = await work(tx)
            changed = len(tx.tasks)
            return result

        result = await self._commit(counted)
        if changed >= _LARGE:
            await self.look(lambda connection: store.analyze(connection, self.project_id, changed))
        return result

    async def _report(
        self,
        task_id: str,
        work: Callable[[Transaction], Awaitable[Outcome | Refused]],
        *,
        first: Callable[[Transaction], Awaitable[Outcome | None]] | None = None,
    ) -> Outcome:
        """Ends a claim by one mutation. `first`: a statement that does all of it, or nothing."""
        self._session.touch(task_id)
        ended = None if first is None else await asyncio.shield(self._keep(self._at_once(first)))
        outcome = await self._commit(work) if ended is None else ended
        if outcome.task.status is not TaskStatus.CLAIMED:
            self._session.forget(task_id)
        return outcome

    async def _at_once(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """As `_commit`, for work that is one statement with its event and needs no transaction block around it."""

        async def attempt(connection: db.Connection) -> tuple[T, Change]:
            tx = self._transaction(connection)
            return await work(tx), tx.change()

        with tracing.transaction(work):
            result, change = await self._links.run(lambda pool: db.in_one_statement(pool, attempt), repeatable=False)
        await self._mirror(change)
        return result

    async def _commit(self, work: Callable[[Transaction], Awaitable[T | Refused]]) -> T:
        """Runs one mutation: a transaction, its events, the mirror. Raises what a refusal carries, after the commit.
        Whoever waits for it may be cancelled; it goes on to its end, so that it is done whole or not at all."""
        return await asyncio.shield(self._keep(self._committed(work)))

    def _keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Has a mutation go on in a task of its own, whatever becomes of who waits for it."""
        task = asyncio.create_task(work)
        self._going.add(task)
        task.add_done_callback(self._going.discard)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody may be left to hear it
        return task

    def _transaction(self, connection: db.Connection) -> Transaction:
        return Transaction(connection, self.project_id, self._bounds, self.principal.origin if self.principal else {})

    @cached_property
    def _bounds(self) -> Bounds:
        """What whoever works on a task may not do to it, by the configuration that this process began with. While a
        check is not in force nobody knows what it protects."""
        at_work = inside_run() or not self.may("update.anything")
        if any(name.startswith("checks.") for name in self.config.withheld):
            return Bounds((".",), at_work)
        given = (path for check in self.config.checks.values() for path in check.protect)
        return Bounds(tuple(dict.fromkeys(map(paths.plain, given))), at_work)

    async def _committed(self, work: Callable[[Transaction], Awaitable[T | Refused]]) -> T:
        async def attempt(connection: db.Connection) -> tuple[T | Refused, Change]:
            tx = self._transaction(connection)
            result = await work(tx)
            await store.events.record_events(tx)
            return result, tx.change()

        with tracing.transaction(work):
            result, change = await self._links.run(lambda pool: db.in_transaction(pool, attempt), repeatable=False)
        await self._mirror(change)
        if isinstance(result, Refused):
            raise result.error
        return result

    async def _mirror(self, change: Change) -> None:
        if change != Change():
            await (await self._links.cache()).sync(change)
            self._links.committed.set()
