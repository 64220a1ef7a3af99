"""The front of the graph: the application object that every face calls, and Loom's Python API.

    async with Loom.here() as loom:
        claim = await loom.claim()
        ...
        await loom.done(claim.task.id, {"result": "..."})

Nothing is connected before it is needed. Every method that changes something runs one transaction through the
rules and store, mirrors its change, and returns the tasks as they are now.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from loom import ids, texts, tracing
from loom.background import end
from loom.bus.events import Event, EventType, Position
from loom.config import LoomConfig, load_config
from loom.config.inside import inside_run, refuse_inside
from loom.db import connection as db
from loom.exceptions import (
    ClaimConflictError,
    InvalidInputError,
    LoomError,
    MessageNotFoundError,
    NotFromAfarError,
    ProjectNotFoundError,
)
from loom.graph import project, store
from loom.graph.access import guarded
from loom.graph.cache import waiting
from loom.graph.connections import Connections
from loom.graph.model import filters, limits, paths
from loom.graph.model.filters import Filter
from loom.graph.model.principals import Principal, Role
from loom.graph.model.retry import RetryPolicy
from loom.graph.model.task import Priority, Task, TaskStatus
from loom.graph.rules import claims, editing, resolving, retention
from loom.graph.rules.claims import Holder, Outcome, Refused, Renewal, Terms
from loom.graph.rules.proofs import Proven
from loom.graph.session import Session, default_agent
from loom.graph.store import Claim, listing, messages, projects, reading, sticking, tokens, traces
from loom.graph.store.blockers import Blocker, blockers
from loom.graph.store.escalations import Escalation, deferrals, open_escalations, take
from loom.graph.store.landing_views import LandingView
from loom.graph.store.landings import Landing
from loom.graph.store.listing import Found
from loom.graph.store.messages import Message
from loom.graph.store.reading import AgentView, DeadLetter, Detail, GraphView, Outline, Page
from loom.graph.store.stats import GROUPS, Stats
from loom.graph.store.sticking import Root
from loom.graph.store.tokens import AccessToken, NewToken
from loom.graph.store.transaction import Bounds, Change, Transaction
from loom.ids import TASK_ID
from loom.wording import Argument, Shell, Words, call

if TYPE_CHECKING:
    from loom.bus.subscriber import Subscriber
    from loom.graph.cache.relay import Relay
    from loom.graph.importing import Batch
    from loom.graph.importing.writing import Imported
    from loom.graph.model.verdict import Verdict

T = TypeVar("T")

LONGEST_WAIT = 60.0  # seconds; MCP clients give up on a call soon after
_LONGEST_LEASE = 7 * 86400.0
_LARGE = 1_000  # tasks
_LONGEST_NAME = 500  # characters of a name that is looked up
_LAST_MOMENT = 1.0  # seconds for mutations to come to their end when the connections are given back
_OLDEST = 100 * 365 * 86400.0


@guarded
class Loom:
    """One project, as one process sees it."""

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
    def here(cls, project_dir: Path | None = None, *, agent: str | None = None) -> Loom:
        """The project of a directory, by default of the current one. Raises ProjectNotFoundError, ConfigError."""
        return cls(load_config(project_dir), agent=agent)

    def beside(self, *, agent: str | None = None, principal: Principal | None = None) -> Loom:
        """Another front of this project over the same connections, for somebody else: with a name, and claims, of its
        own. Closing it leaves the connections open."""
        return Loom(self.config, agent=agent, links=self._links, principal=principal)

    async def __aenter__(self) -> Loom:
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
        if self._going:
            await asyncio.wait(self._going, timeout=_LAST_MOMENT)
        await end(self._going)
        if not self._shared:
            await self._links.close()

    # --- making tasks -------------------------------------------------------------------------------------------------

    async def create(
        self,
        title: str,
        *,
        context: Mapping[str, Any] | None = None,
        depends_on: Sequence[str] = (),
        priority: str = "p1",
        parent_id: str | None = None,
        done_when: str | None = None,
        epic: bool = False,
        files: Sequence[str] = (),
        checks: Sequence[str] = (),
        labels: Sequence[str] = (),
        key: str | None = None,
        agent_id: str | None = None,
    ) -> Task:
        """Creates one task; it is ready at once unless it has open dependencies or waits with its parent.

        Args:
            files: the paths that it is about, relative to the repository's root.
            checks: the names of the checks that it is done only with; an epic hands them down to its children.
            labels: words that it is found by.
            key: an idempotency key: the same again makes nothing and returns the same task, as it is then.

        Raises InvalidInputError, TaskNotFoundError, TaskStateError, DependencyCycleError.
        """
        task = store.NewTask(
            id=ids.task_id(),
            title=limits.title(title),
            status=TaskStatus.EPIC if epic else TaskStatus.PENDING,
            priority=limits.priority(priority),
            max_attempts=self._policy.max_attempts,
            parent_id=None if parent_id is None else await self.id_of(parent_id, "parent_id"),
            context=limits.context(context),
            done_when=limits.done_when(done_when),
            depends_on=limits.depends_on(await self._ids_of(depends_on)),
            files=limits.files(files),
            checks=limits.checks(checks),
            labels=limits.labels(labels),
            origin_id=None if key is None else f"key/{limits.key(key)}",
        )
        agent = self._session.name(agent_id)
        if not self.may("create.anywhere"):
            return await self._commit(lambda tx: self._create_below(tx, task, agent))
        if task.depends_on or task.parent_id or task.origin_id:
            return await self._commit(lambda tx: editing.create(tx, task, agent))
        return await self._at_once(lambda tx: editing.create_alone(tx, task, agent))

    async def _create_below(self, tx: Transaction, task: store.NewTask, agent: str) -> Task:
        assert self.principal is not None, "whoever is none may create anywhere"
        await editing.must_be_below(tx, task, self.principal)
        return await editing.create(tx, task, agent)

    async def apply_plan(self, given: object, *, key: str | None = None, agent_id: str | None = None) -> list[Task]:
        """Creates all tasks of a plan `{"tasks": [...]}` or none.

        Args:
            key: an idempotency key: of the same plan again only those tasks are made that were added to it, and those
                that there are already are returned as they are then.

        Raises PlanError, InvalidInputError, TaskNotFoundError, TaskStateError, DependencyCycleError.
        """
        from loom.graph.model import plan
        from loom.graph.rules import plans

        drafts, agent = plan.parse(given), self._session.name(agent_id)
        if key is not None:
            prefix = f"key/{limits.key(key)}"
            drafts = [
                replace(draft, origin_id=f"{prefix}#{digest}")
                for draft, digest in zip(drafts, plan.identities(drafts), strict=True)
            ]
        return await self.transact(lambda tx: plans.plant_once(tx, drafts, agent=agent, max_attempts=self.max_attempts))

    async def import_tasks(self, batch: Batch, *, agent_id: str | None = None) -> Imported:
        """Creates what an import brought and the project has not had before; leaves everything else alone."""
        from loom.graph.importing import writing

        agent = self._session.name(agent_id)
        return await self.transact(lambda tx: writing.write(tx, batch, agent=agent, max_attempts=self.max_attempts))

    async def export(self) -> dict[str, Any]:
        """The whole project as Loom's own import reads it."""
        from loom.graph.importing import native

        async with self._links.reading(snapshot=True) as connection:
            shown = await project.get_project(connection, self.project_id)
            tasks = [task async for some in store.list_all_tasks(connection, self.project_id, 500) for task in some]
            waived = await store.waived_edges(connection, self.project_id)
            held = await store.escalations.holding(connection, self.project_id)
            notes = await messages.notes_of(connection, self.project_id, None)
        return native.export(shown.id, shown.name, tasks, waived, held, notes)

    async def update(
        self,
        task_id: str,
        *,
        title: str | None = None,
        context: Mapping[str, Any] | None = None,
        priority: str | None = None,
        depends_on: Sequence[str] | None = None,
        done_when: str | None = None,
        files: Sequence[str] = (),
        checks: Sequence[str] = (),
        no_files: bool = False,
        no_checks: bool = False,
        labels: Sequence[str] = (),
        unlabel: Sequence[str] = (),
        add_deps: Sequence[str] = (),
        drop_deps: Sequence[str] = (),
        parent_id: str | None = None,
        seen: Mapping[str, Any] | None = None,
        agent_id: str | None = None,
        token: int | None = None,
    ) -> Outcome:
        """Changes an unfinished task. `context` and `depends_on` replace what was there; `done_when` "" removes it.

        Args:
            parent_id: the epic that it is moved into; "" takes it out of the one that it is in.
            seen: fields of the task as they were when the change was decided on; it is refused where somebody else has
                changed one since.
            files, checks: added to those that it has, which `no_files` and `no_checks` take away first. Whoever holds
                the task, or is inside of a run that Loom started, takes none away and adds no path that a check
                protects.
            token: of the claim that the change is made under; one that is lost changes nothing.

        Raises InvalidInputError, TaskNotFoundError, TaskStateError, ClaimConflictError, DependencyCycleError.
        """
        edit = editing.Edit(
            title=None if title is None else limits.title(title),
            context=None if context is None else limits.context(context),
            priority=None if priority is None else limits.priority(priority),
            depends_on=None if depends_on is None else limits.depends_on(await self._ids_of(depends_on)),
            done_when="" if done_when == "" else limits.done_when(done_when),
            files=limits.files(files),
            checks=limits.checks(checks),
            no_files=no_files,
            no_checks=no_checks,
            labels=limits.labels(labels),
            unlabel=limits.labels(unlabel, "unlabel"),
            add_deps=limits.depends_on(await self._ids_of(add_deps)),
            drop_deps=limits.depends_on(await self._ids_of(drop_deps)),
            parent_id=await self.id_of(parent_id, "parent_id") if parent_id else parent_id,
            seen=seen,
        )
        if edit == editing.Edit():
            raise InvalidInputError(
                "Nothing to change was given.",
                Words(
                    "Pass {}, {}, {}, {}, {}, {} or {}.",
                    Argument("title"),
                    Argument("context"),
                    Argument("priority"),
                    Argument("depends_on"),
                    Argument("done_when"),
                    Argument("files"),
                    Argument("checks"),
                ),
            )
        if not edit.only_adds:
            await self.permit("update.anything")
        task_id = await self.id_of(task_id)
        holder = self._session.holder(task_id, agent_id, token) if edit.binds or token is not None else None
        holder = holder or Holder(self._session.name(agent_id))
        return await self._commit(lambda tx: editing.update(tx, task_id, edit, holder))

    async def cancel(
        self, task_id: str, *, reason: str | None = None, downstream: bool = False, agent_id: str | None = None
    ) -> Outcome:
        """Cancels an unfinished task, all that is unfinished in an epic, and with `downstream` what waits for it.

        Raises InvalidInputError, TaskNotFoundError, TaskStateError.
        """
        task_id, agent = await self.id_of(task_id), self._session.name(agent_id)
        why = None if reason is None else limits.reason(reason)
        return await self._commit(lambda tx: editing.cancel(tx, task_id, why, agent, downstream=downstream))

    # --- working on them ----------------------------------------------------------------------------------------------

    async def claim(
        self, task_id: str | None = None, *, agent_id: str | None = None, lease_seconds: float | None = None
    ) -> Claim | None:
        """Claims a task by its id, or the best ready one; None when nothing is ready.

        Args:
            lease_seconds: how long the lease lasts unless renewed; default as configured.

        Raises:
            ClaimConflictError: somebody holds that task.
            TaskNotFoundError, TaskStateError: that task cannot be claimed.
        """
        agent = self._session.name(agent_id)
        wanted = None if task_id is None else await self.id_of(task_id)
        terms = (
            self._terms
            if lease_seconds is None
            else Terms(limits.seconds(lease_seconds, "lease_seconds", 1, _LONGEST_LEASE), self._terms.deadline_seconds)
        )

        making = self._keep(self._claim(agent, wanted, terms, named=agent_id is not None))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            self._keep(self._unclaim(making))
            raise

    async def _claim(self, agent: str, wanted: str | None, terms: Terms, *, named: bool) -> Claim | None:
        async def work(pool: db.Pool) -> tuple[Claim, Change] | LoomError | None:
            async with db.begun(pool) as connection:
                tx = self._transaction(connection)
                made = await store.claim_task(
                    tx,
                    agent,
                    lease_seconds=terms.lease_seconds,
                    deadline_seconds=terms.deadline_seconds,
                    task_id=wanted,
                    frontier=self._links.frontier,
                )
                if made is not None:
                    return made, tx.change()
                if wanted is None:
                    return None
                return await claims.refusal_to_claim(connection, self.project_id, wanted, agent)

        while True:
            asked = time.monotonic()
            with tracing.transaction("claim"):
                made = await self._links.run(work, repeatable=False)
            if isinstance(made, tuple):
                break
            if wanted is None:
                return None
            # Without a refusal it was given back in between; a lease that is over has not been seen by a sweep yet.
            if made is not None and not await self._lapse_if_over(wanted, made):
                raise made
        claim, change = made
        self._session.hand_out(claim.task.id, agent, claim.task.claim_token, terms.lease_seconds, asked, named=named)
        await self._mirror(change)
        await self.join_trace(claim.task.id)
        return claim

    async def join_trace(self, task_id: str) -> None:
        """Links what goes on, where that is recorded as a trace, to the first that was recorded of a task, such as an
        earlier attempt."""
        if (mine := tracing.current()) is None:
            return
        with suppress(LoomError):  # it is no part of the work
            first = await self._at_once(lambda tx: traces.keep(tx, task_id, mine))
            if first != mine:
                tracing.link(first)

    async def _lapse_if_over(self, task_id: str, refusal: LoomError) -> bool:
        return isinstance(refusal, ClaimConflictError) and await self._commit(
            lambda tx: claims.lapse_if_over(tx, task_id)
        )

    async def _unclaim(self, making: asyncio.Task[Claim | None]) -> None:
        """Gives back a claim of which nobody has heard."""
        await asyncio.wait([making])
        claim = None if making.cancelled() or making.exception() else making.result()
        if claim is not None:
            held = {claim.task.id: claim.task.claim_token}
            with suppress(LoomError):  # the end of the session tries again
                await self._commit(lambda tx: claims.give_back(tx, held, "the call that made it was cancelled"))
                self._session.lose(held, held)

    async def done(
        self,
        task_id: str,
        output: Mapping[str, Any] | None = None,
        *,
        agent_id: str | None = None,
        token: int | None = None,
        proven: Proven | None = None,
    ) -> Outcome:
        """Finishes a task: its output is stored, dependents are readied and epics close, all at once.

        Args:
            proven: where the proofs of the checks that it needs are to be found.

        Raises:
            ProofMissingError: a check that it needs is not proven; the claim stays.
            ClaimConflictError: the claim was lost; the output is kept with an event.
            TaskNotFoundError: there is no such task.
            TaskStateError: it is finished, or something that it waits for is open.
            InvalidInputError: the output is no object, or too large.
        """
        task_id, text = await self.id_of(task_id), limits.output(output)
        holder = self._session.holder(task_id, agent_id, token)
        return await self._report(
            task_id,
            lambda tx: claims.done(tx, task_id, holder, self._terms, text, every=self._every_check, proven=proven),
        )

    async def fail(
        self,
        task_id: str,
        reason: str,
        *,
        retry: bool = True,
        output: Mapping[str, Any] | None = None,
        agent_id: str | None = None,
        token: int | None = None,
    ) -> Outcome:
        """Ends a claim without a result; the task is tried again after a backoff while it has attempts left and `retry`
        is true, else it becomes a dead letter. An `output` that does not count is kept with the event. Raises as
        `done`."""
        task_id, reason = await self.id_of(task_id), limits.reason(reason)
        kept = None if output is None else limits.output(output)
        holder = self._session.holder(task_id, agent_id, token)
        return await self._report(
            task_id,
            lambda tx: claims.fail(tx, task_id, holder, self._terms, self._policy, reason, retry=retry, output=kept),
        )

    async def escalate(
        self, task_id: str, message: str, *, agent_id: str | None = None, token: int | None = None
    ) -> Outcome:
        """Ends a claim with a question; the task is blocked until somebody resolves it. Raises as `done`."""
        task_id, message = await self.id_of(task_id), limits.message(message)
        holder = self._session.holder(task_id, agent_id, token)
        return await self._report(task_id, lambda tx: claims.escalate(tx, task_id, holder, self._terms, message))

    async def release(
        self, task_id: str, *, note: str | None = None, agent_id: str | None = None, token: int | None = None
    ) -> Outcome:
        """Gives a claim back, its attempt refunded; a note is kept on the task. Raises as `done`."""
        task_id = await self.id_of(task_id)
        note = None if note is None else limits.reason(note, "note")
        holder = self._session.holder(task_id, agent_id, token)
        return await self._report(task_id, lambda tx: claims.release(tx, task_id, holder, note))

    async def heartbeat(
        self, task_ids: Sequence[str] | None = None, *, agent_id: str | None = None, token: int | None = None
    ) -> Renewal:
        """Renews leases: of these tasks, or of all that the agent holds. Each that still stands is renewed, whatever
        has become of others.

        Raises:
            ClaimConflictError: none of the named tasks is held by this agent any more.
            TaskNotFoundError, TaskStateError: the same, of a task that nobody can hold.
        """
        named = None if task_ids is None else dict.fromkeys([await self.id_of(task_id) for task_id in task_ids])
        agent = self._session.name(agent_id)

        async def work(connection: db.Connection) -> Renewal:
            wanted = named
            if wanted is None:
                listed = await store.list_active_tasks(connection, self.project_id, agent)
                wanted = dict.fromkeys([*(one.id for one in listed), *self._session.claims_of(agent)])
            holders = {task_id: self._session.holder(task_id, agent_id, token) for task_id in wanted}
            return await claims.renew(Transaction(connection, self.project_id), holders)

        asked = time.monotonic()
        renewal = await self._links.run(lambda pool: db.in_transaction(pool, work))
        for task in renewal.tasks:
            self._session.touch(task.id)
        self._session.renewed({task.id: task.claim_token for task in renewal.tasks}, asked)
        if named and not renewal.tasks:
            raise next(iter(renewal.lost.values()))
        return renewal

    async def defer(self, task_id: str, *, reason: str | None = None, agent_id: str | None = None) -> Outcome:
        """Puts off a task that nobody holds: it waits until somebody resolves that with retry.

        Raises InvalidInputError, TaskNotFoundError, TaskStateError.
        """
        task_id, agent = await self.id_of(task_id), self._session.name(agent_id)
        why = "put off" if reason is None else limits.reason(reason)
        return await self._commit(lambda tx: resolving.defer(tx, task_id, why, agent))

    async def reopen(self, task_id: str, *, reason: str | None = None, agent_id: str | None = None) -> Outcome:
        """Puts a finished task into play again, with all its attempts; closed epics above it are open again. What waits
        for it and has begun goes on without it, the rest waits.

        Raises InvalidInputError, TaskNotFoundError, TaskStateError, DependencyCycleError.
        """
        from loom.graph.rules import reopening

        task_id, agent = await self.id_of(task_id), self._session.name(agent_id)
        why = None if reason is None else limits.reason(reason)
        return await self._commit(lambda tx: reopening.reopen(tx, task_id, why, agent))

    async def resolve(
        self,
        target: str,
        action: str,
        *,
        note: str | None = None,
        agent_id: str | None = None,
        downstream: bool = False,
        by: str | None = None,
    ) -> Outcome:
        """Resolves an escalation, or dead or escalated work: retry, answer, reassign (to `agent_id`), waive, cancel.
        Also reopen and defer, with `note` as the reason.

        Raises EscalationNotFoundError, TaskNotFoundError, TaskStateError, InvalidInputError.
        """
        if action == "reopen":
            return await self.reopen(target, reason=note, agent_id=by)
        if action == "defer":
            return await self.defer(target, reason=note, agent_id=by)
        if action not in resolving.Resolution.__members__.values():
            raise InvalidInputError(
                Words("{} {} does not exist.", Argument("action"), texts.quote(str(action))),
                "Use retry, answer, reassign, waive, cancel, reopen or defer.",
            )
        if not isinstance(target, str) or not target.startswith("esc-"):
            target = await self.id_of(target, "id")
        chosen = resolving.Resolution(action)
        await self.permit(f"resolve.{chosen}")
        said = None if note is None else limits.message(note, "note")
        assignee = None if agent_id is None else limits.agent_name(agent_id)
        return await self._commit(
            lambda tx: resolving.resolve(
                tx,
                target,
                chosen,
                by=self._session.name(by),
                note=said,
                assignee=assignee,
                terms=self._terms,
                downstream=downstream,
            )
        )

    async def take_escalation(self, *, agent_id: str | None = None, seconds: float = 600.0) -> Escalation | None:
        """Takes the oldest open escalation that no other handler is looking at, for so many seconds; None if there is
        none. `resolve` ends it; a handler that dies gives it back when the time is over."""
        handler = self._session.name(agent_id)
        span = limits.seconds(seconds, "seconds", 1, _LONGEST_LEASE)
        return await self._commit(lambda tx: take(tx, handler, span))

    async def approve(self, task_id: str, *, agent_id: str | None = None) -> Landing:
        """Says yes to work that waits for it in the landing queue. Raises TaskNotFoundError, TaskStateError."""
        from loom.graph.rules import landings

        task_id, by = await self.id_of(task_id), self._session.name(agent_id)
        return await self._commit(lambda tx: landings.approve(tx, task_id, by))

    async def refuse(self, task_id: str, *, note: str | None = None, agent_id: str | None = None) -> Task:
        """Sends work that needs a yes back to its worker, with a note. Raises as `approve`, and InvalidInputError."""
        from loom.graph.rules import landings

        task_id, by = await self.id_of(task_id), self._session.name(agent_id)
        said = None if note is None else limits.reason(note, "note")
        return await self._commit(lambda tx: landings.refuse(tx, task_id, by, said))

    # --- looking ------------------------------------------------------------------------------------------------------

    async def ready(self, *, priority: str | None = None, limit: int = 10) -> Page:
        """The best claimable tasks, in the order in which they will be claimed."""
        limit = limits.page(limit)
        chosen: Priority | None = None if priority is None else limits.priority(priority)
        cache = self._links.cache_in_use
        found = None if cache is None else await cache.get_ready_tasks(limit + 1, chosen)
        if found is None:
            async with self._links.reading() as connection:
                found = await reading.get_ready_tasks(connection, self.project_id, limit=limit + 1, priority=chosen)
        return Page(found[:limit], len(found) > limit)

    async def find(self, wanted: Filter | str, *, limit: int = 50) -> Found:
        """The tasks that a filter asks for, as text (see `model.filters`) or whole. Raises InvalidInputError."""
        chosen = wanted if isinstance(wanted, Filter) else filters.parse(wanted)
        limit = limits.page(limit)
        for key in ("epic", "waits_for"):
            if (given := getattr(chosen, key)) is not None:
                chosen = chosen.with_(**{key: await self.id_of(given, key)})
        if chosen.words or chosen.file:
            while await self._at_once(lambda tx: listing.read_texts(tx.connection, self.project_id)):
                pass
        async with self._links.reading() as connection:
            return await listing.list_tasks(connection, self.project_id, chosen, limit)

    async def get(self, task_id: str) -> Detail:
        """One task with its neighbours, escalations and newest events. Raises TaskNotFoundError."""
        task_id = await self.id_of(task_id)
        self._session.touch(task_id)
        async with self._links.reading() as connection:
            found = await reading.detail(connection, self.project_id, task_id)
        if found is None:
            raise claims.not_found(task_id)
        return found

    async def titles(self, task_ids: Sequence[str] | None = None, *, limit: int = 5_000) -> dict[str, str]:
        """The titles of these tasks by id; without ids of so many, the unfinished ones first, then those that were
        finished last."""
        if task_ids is not None:
            return await self.look(lambda connection: reading.titles_of(connection, self.project_id, task_ids))
        return await self.look(lambda connection: reading.titles(connection, self.project_id, limit))

    async def blockers(self, task_ids: Sequence[str]) -> dict[str, list[Blocker]]:
        """What each of these tasks waits for that waits for something, of each the first few."""
        named = [await self.id_of(one) for one in task_ids]
        return await self.look(lambda connection: blockers(connection, self.project_id, named))

    async def history(self, task_id: str, *, limit: int = 100) -> list[Event]:
        """A task's newest events, oldest first. Raises TaskNotFoundError."""
        task_id, limit = await self.id_of(task_id), limits.page(limit)
        async with self._links.reading() as connection:
            found = await store.events.of_task(connection, self.project_id, task_id, limit=limit)
        if not found:
            await self.must_exist(task_id)
        return found[::-1]

    async def events(
        self,
        *,
        until: str | None = None,
        types: Sequence[EventType] = (),
        agent: str | None = None,
        limit: int = 100,
    ) -> list[Event]:
        """The project's newest events, newest first, of these types and by this agent where they are given; of very
        many others some may be left out.

        Args:
            until: the position of an event, from which on it goes back. Raises InvalidInputError for anything else.
        """
        limit, told = limits.page(limit), None if until is None else limits.position(until)
        by = None if agent is None else limits.agent_name(agent, "agent")
        async with self._links.reading() as connection:
            return await store.events.newest(
                connection, self.project_id, until=told, types=types, agent=by, limit=limit
            )

    async def status(self) -> project.ProjectStatus:
        """The project at a glance."""
        async with self._links.reading() as connection:
            cache = self._links.cache_in_use
            if cache is None and await reading.is_long(connection, self.project_id):
                # Counting them takes longer than to ask a second server, if its mirror has come to where Postgres is.
                newest = (await store.pulse(connection, self.project_id)).newest
                cache = await self._links.cache()
                cache.expect(newest)
            known = None if cache is None else await cache.counts()
            return await project.get_project_status(connection, self.project_id, known)

    async def glance(self, *, limit: int = 5) -> project.Glance:
        """What waits for a person, who is at what, what is next, how far the epics are, and when it may end: the
        project's status, and at most so many of each."""
        limit, status = limits.page(limit), await self.status()
        async with self._links.reading() as connection:
            return await project.get_glance(connection, status, limit)

    async def stats(
        self, *, seconds: float = 604800.0, by: str | None = None, offset: float = 0.0, limit: int = 50
    ) -> Stats:
        """How the project went in the last so many seconds: how much was done and has failed, how long it waited, was
        worked on, proven and landed, and when it may end.

        Args:
            by: epic, agent, runner or day: also for each of these.
            offset: seconds by which the days are those of a zone east of Greenwich.
            limit: groups at most.

        Raises InvalidInputError.
        """
        if by is not None and by not in GROUPS:
            raise InvalidInputError(
                Words("{} {} does not exist.", Argument("by"), texts.quote(str(by))), f"Use {', '.join(GROUPS)}."
            )
        back, limit, status = limits.seconds(seconds, "since", 1, _OLDEST), limits.page(limit), await self.status()
        async with self._links.reading() as connection:
            return await project.get_stats(connection, status, back, by=by, offset=offset, limit=limit)

    async def agents(self) -> list[AgentView]:
        """Who holds what, by name."""
        async with self._links.reading() as connection:
            return await reading.agents(connection, self.project_id)

    async def escalations(self, *, limit: int = 50) -> list[Escalation]:
        """The open escalations that ask for somebody, oldest first."""
        async with self._links.reading() as connection:
            return await open_escalations(connection, self.project_id, limit=limits.page(limit))

    async def deferrals(self, *, limit: int = 50) -> list[Escalation]:
        """What is deferred, as open escalations, oldest first. `resolve` with retry puts one into play."""
        async with self._links.reading() as connection:
            return await deferrals(connection, self.project_id, limit=limits.page(limit))

    async def dead_letters(self, *, limit: int = 50) -> list[DeadLetter]:
        """Dead tasks with what they hold up, oldest first."""
        async with self._links.reading() as connection:
            return await reading.dead_letters(connection, self.project_id, limit=limits.page(limit))

    async def stuck(self, *, limit: int = 50) -> list[Root]:
        """What does not go on by itself, what holds up most first: dead and cancelled work that others wait for,
        questions, deferrals, landings that want a yes, epics without children."""
        async with self._links.reading() as connection:
            return await sticking.roots(connection, self.project_id, limits.page(limit))

    async def landings(self, *, limit: int = 20) -> LandingView:
        """What is queued to land, was sent back, and has landed, at most so many of each."""
        async with self._links.reading() as connection:
            return await store.landing_views.overview(connection, self.project_id, limits.page(limit))

    async def graph(
        self, *, root: str | None = None, wanted: Filter | str | None = None, limit: int = 200
    ) -> GraphView:
        """The graph, or the part that `root` is made of and waits for, or the tasks that a filter asks for.

        Raises TaskNotFoundError for an unknown root, InvalidInputError.
        """
        if wanted is not None:
            if root is not None:
                raise InvalidInputError("A root and a filter were given.", "Give one of them.")
            page = await self.find(wanted, limit=min(limit, limits.PAGE))
            async with self._links.reading() as connection:
                return await reading.graph_of(connection, self.project_id, page.tasks, more=page.more)
        root = None if root is None else await self.id_of(root, "root")
        async with self._links.reading() as connection:
            found = await reading.graph(connection, self.project_id, root=root, limit=max(1, min(limit, 10_000)))
        if root is not None and not found.tasks:
            raise claims.not_found(root)
        return found

    async def outline(self, *, limit: int = 10_000) -> Outline:
        """The graph as `graph` has it, of each task only what it takes to draw it."""
        async with self._links.reading() as connection:
            return await reading.outline(connection, self.project_id, limit=max(1, min(limit, 10_000)))

    async def projects(self) -> list[projects.Project]:
        """All projects of this database, oldest first; for a principal this one."""
        async with self._links.reading() as connection:
            found = await projects.list_projects(connection)
        return found if self.principal is None else [one for one in found if one.id == self.project_id]

    async def archive(self) -> bool:
        """Hides this project from lists; nothing is removed. False if it was archived before."""

        async def work(pool: db.Pool) -> bool:
            async with pool.acquire() as connection:
                return await projects.archive(connection, self.project_id)

        return await self._links.run(work)

    # --- who may come in over HTTP ------------------------------------------------------------------------------------

    async def add_token(self, name: str, role: str, *, seconds: float | None = None) -> NewToken:
        """Makes an access token: whoever has it calls himself `name`, or `name/` and something more.

        Args:
            role: reader, worker, planner or admin.
            seconds: how long it holds; None: until it is revoked.

        Raises InvalidInputError.
        """
        refuse_inside("Who may come in")
        chosen, by = Role.named(role), self.agent
        given = limits.token_name(name)
        span = None if seconds is None else limits.seconds(seconds, "expires", 60, _OLDEST)
        return await self._at_once(
            lambda tx: tokens.add(tx.connection, tx.project_id, given, chosen, seconds=span, by=by)
        )

    async def tokens(self) -> list[AccessToken]:
        """The access tokens of the project, oldest first, also those that are over."""
        return await self.look(lambda connection: tokens.listed(connection, self.project_id))

    async def revoke_tokens(self, which: str) -> list[AccessToken]:
        """Ends the access tokens that have this name or id, at once and everywhere. Returns those that held."""
        refuse_inside("Who may come in")
        return await self._at_once(lambda tx: tokens.revoke(tx.connection, tx.project_id, which[:_LONGEST_NAME]))

    async def neighbours(self) -> dict[str, int]:
        """Other projects whose processes are connected to the same database server now: name to connections."""
        async with self._links.reading() as connection:
            return await projects.connected(connection, self.project_id)

    async def doctor(self, *, deep: bool = False) -> list[Verdict]:
        """Checks the invariants of the project on one snapshot, and the mirror against Postgres; with `deep` the mirror
        is built anew first."""
        from loom.graph.cache import comparison
        from loom.graph.rules import invariants

        links = self._links
        if deep:
            await (await links.relay()).rebuild_cache()
        async with links.reading(snapshot=True) as connection:
            found = await invariants.check(connection, self.project_id)
        mirror = await comparison.compare(await links.pool(), await links.cache(), await links.relay(), self.project_id)
        return [*found, mirror]

    async def mirror_refused(self) -> str | None:
        """Why the Redis that answers is no mirror, so that Postgres goes on alone; None where it is one, or is away."""
        cache = await self._links.cache()
        cache.try_again()
        await (await self._links.relay()).step()
        return cache.refused or (cache.complaint and f"Redis refuses: {cache.complaint}")

    async def mirror_position(self) -> Position | None:
        """How far the mirror has come; None where it is away, or made anew at this moment."""
        state = await (await self._links.cache()).state()
        return state.position if state is not None and state.usable else None

    # --- talking and waiting ------------------------------------------------------------------------------------------

    async def send(
        self, to: str, message: str, *, thread_id: str | None = None, agent_id: str | None = None
    ) -> Message:
        """Stores a message for an agent, for `orchestrator`, or for everyone (`*`), and announces it. To the id of a
        task it is a note on that. Raises InvalidInputError, TaskNotFoundError."""
        from loom.graph.rules import talking

        recipient = limits.recipient(to)
        body, sender = limits.message(message), self._session.name(agent_id)
        thread = None if thread_id is None else limits.thread(thread_id)
        return await self._commit(lambda tx: talking.send(tx, sender, recipient, body, thread))

    async def note(self, task_id: str, text: str, *, agent_id: str | None = None) -> Message:
        """Keeps a note on a task, for whoever works on it or looks at it. Raises as `send`."""
        return await self.send(await self.id_of(task_id), text, agent_id=agent_id)

    async def inbox(
        self,
        *,
        agent_id: str | None = None,
        ack: Sequence[int] | None = None,
        thread_id: str | None = None,
        unread: bool = True,
        limit: int = 20,
    ) -> messages.Inbox:
        """Acknowledges the messages named in `ack`, then reads. Raises MessageNotFoundError for one it lacks."""
        agent = self._session.name(agent_id)
        thread = None if thread_id is None else limits.thread(thread_id)
        wanted = sorted({limits.message_id(one) for one in ack or ()})

        async def work(pool: db.Pool) -> messages.Inbox:
            async with pool.acquire() as connection, connection.transaction():
                acked = await messages.acknowledge(connection, self.project_id, agent, wanted) if wanted else []
                missing = [one for one in wanted if one not in acked]
                if missing:
                    raise MessageNotFoundError(
                        f"The inbox of {agent} has no message {', '.join(map(str, missing[:5]))}.",
                        Words("See its ids with {}.", call("inbox")),
                    )
                found, more = await messages.inbox(
                    connection, self.project_id, agent, unread=unread, thread_id=thread, limit=limits.page(limit)
                )
                return messages.Inbox(agent, found, more, acked)

        return await self._links.run(work)

    async def wait(
        self,
        what: str = "any",
        *,
        task_id: str | None = None,
        since: str | None = None,
        timeout: float = 30.0,
        agent_id: str | None = None,
    ) -> waiting.Waited:
        """Blocks until something changes, for at most `timeout` seconds (60 at most).

        Args:
            what: ready, task (with `task_id`; of an epic also the end of a child), inbox, escalation or any.
            since: from an earlier wait; nothing that happened after it is missed.
        """
        if what not in waiting.Awaited.__members__.values():
            raise InvalidInputError(
                Words("{} {} cannot be waited for.", Argument("what"), texts.quote(str(what))),
                "Use ready, task, inbox, escalation or any.",
            )
        chosen = waiting.Awaited(what)
        if (chosen is waiting.Awaited.TASK) != (task_id is not None):
            raise InvalidInputError(
                "One task is waited for by its id, and an id names what is waited for.",
                Words("Wait with {}, or without an id.", call("wait", what="task", task_id=...)),
            )
        epic = False
        if task_id is not None:
            task_id = await self.id_of(task_id)
            self._session.touch(task_id)
            epic = (await self._known(task_id)).status is TaskStatus.EPIC
        wanted = waiting.Wait(chosen, self._session.name(agent_id), task_id, epic)
        seconds = limits.seconds(timeout, "timeout", 0, LONGEST_WAIT)
        subscriber = await self._links.subscriber()
        return await self._links.run(
            lambda pool: waiting.wait(pool, subscriber, self.project_id, wanted, since=since, timeout=seconds)
        )

    async def since(self, seconds: float) -> str:
        """A `since` for `wait` that begins so many seconds ago."""
        span = limits.seconds(seconds, "since", 0, _OLDEST)
        async with self._links.reading() as connection:
            return str(await store.events.position_at(connection, self.project_id, span))

    # --- housekeeping, for who runs it --------------------------------------------------------------------------------

    async def sweep(self) -> tuple[claims.Swept, Position]:
        """Gives lapsed claims back, puts due retries into play and announces a complete project; one cheap query when
        there is nothing to do. Any number of processes may do it at a time.

        Returns what it did, and where the newest event of the project stands.
        """

        async def look(pool: db.Pool) -> store.Pulse:
            async with pool.acquire() as connection:
                return await store.pulse(connection, self.project_id)

        pulse = await self._links.run(look)
        if pulse.expired or pulse.due or pulse.complete:
            return await self._commit(claims.sweep), pulse.newest
        return claims.Swept(), pulse.newest

    async def prune(self) -> None:
        """Takes away what has been kept for longer than `retention` says, a batch at a time; where another process is
        at it, nothing. Any number of processes may call it, seldom."""
        while await self._commit(lambda tx: retention.prune(tx, self.config.retention)):
            pass

    async def until_renewal(self) -> None:
        """Returns when the claims that this process handed out are to be renewed."""
        await self._session.until_renewal(self.config.orchestration.idle_limit_seconds)

    def lease_left(self, task_id: str, token: int) -> float | None:
        """How many seconds the lease of a claim that this process handed out lasts at least, by what it knows without
        asking; None where it holds no such claim."""
        return self._session.lease_left(task_id, token)

    async def renew(self) -> list[str]:
        """Renews, in one statement, the claims that this process handed out and that somebody has asked about within
        the idle limit. Returns the ids of those that were lost, to whom what the landing queue has by now does not
        belong."""
        wanted = self._session.wanted(self.config.orchestration.idle_limit_seconds)
        if not wanted:
            return []
        asked = time.monotonic()
        ends = await self.renew_claims(wanted)
        self._session.renewed({task_id: wanted[task_id] for task_id in ends}, asked)
        lost = [task_id for task_id in wanted if task_id not in ends]
        self._session.lose(wanted, [*lost, *(task_id for task_id, end in ends.items() if end is None)])
        return lost

    async def renew_claims(self, held: Mapping[str, int]) -> dict[str, datetime | None]:
        """Renews these claims, token by task id, in one statement. Returns the new ends of their leases, None for what
        the landing queue has by now; whatever is missing was lost."""
        owner = self.principal.name if self.principal else None

        async def work(connection: db.Connection) -> dict[str, datetime | None]:
            return await store.renew_leases(connection, self.project_id, held, owner)

        return await self._links.run(lambda pool: db.in_one_statement(pool, work))

    async def give_back(self, held: Mapping[str, int]) -> list[Task]:
        """Gives these claims, token by task id, back where they still stand; their attempts do not count."""
        return await self._commit(lambda tx: claims.give_back(tx, held, "its session ended", self.principal))

    async def note_attempt(
        self, task_id: str, token: int, data: Mapping[str, Any], *, agent_id: str | None = None
    ) -> None:
        """Notes how the attempt went that a claim was, once for each claim: how its runs ended, and what they used.

        Raises TaskNotFoundError, ClaimConflictError, InvalidInputError.
        """
        task_id, text = await self.id_of(task_id), limits.output(data)
        holder = self._session.holder(task_id, agent_id, token)
        await self._commit(lambda tx: claims.note_attempt(tx, task_id, holder, json.loads(text)))

    async def take_up(self, but: Callable[[str, int], bool] = lambda task_id, token: False) -> None:
        """Has the claims renewed here that the agent of this session holds by its name, such as those that were handed
        out by a process that has died. They are not given back with the session, since another may have them too.

        Args:
            but: whether a claim, by its task's id and token, is looked after by somebody else.
        """
        async with self._links.reading() as connection:
            held = await store.list_active_tasks(connection, self.project_id, self.agent)
        for task in held:
            if not but(task.id, task.claim_token):
                self._session.take_up(task.id, task.claim_token, self._terms.lease_seconds)

    def take_over(self, other: Loom) -> None:
        """The claims that were handed out by another front of this project, whose session has ended, go on in this
        one."""
        self._session.take_over(other._session)

    @property
    def holds(self) -> Mapping[str, int]:
        """The claims that were handed out here and are thought to stand: tokens by task id."""
        return self._session.holds

    async def end_session(self) -> list[Task]:
        """Gives back, at once, the claims that this process handed out and that still stand; their attempts do not
        count. What still goes on comes to its end first."""
        while self._going:
            await asyncio.wait(self._going)
        held = self._session.end()
        if not held or not self._links.open:
            return []
        return await self.give_back(held)

    async def relay(self) -> Relay:
        """The relay of this project, for who runs it."""
        return await self._links.relay()

    async def subscriber(self) -> Subscriber:
        """The subscription of this process to what the project announces, for who follows it."""
        return await self._links.subscriber()

    # --- for the layers above -----------------------------------------------------------------------------------------

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
            await self._links.run(
                lambda pool: db.in_one_statement(pool, lambda one: store.renew_due(one, self.project_id, agent))
            )

    async def admitted(self, secret: str, client: str) -> AccessToken | None:
        """The access token, of whichever project of this database, that somebody shows, where it holds now."""
        return await self.look(lambda connection: tokens.admitted(connection, secret, client))

    async def still_admitted(self, token: AccessToken) -> bool:
        """Whether an access token still holds."""
        return await self.look(lambda connection: tokens.holds(connection, token.project_id, token.id))

    @property
    def max_attempts(self) -> int:
        """How many attempts a new task has."""
        return self._policy.max_attempts

    def caller(self, agent_id: str | None = None) -> str:
        """Whoever calls: `agent_id`, which is thereby known to be alive, or the name of this process."""
        return self._session.name(agent_id)

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
            async with self._links.reading() as connection:
                await store.analyze(connection, changed)
        return result

    async def id_of(self, given: object, field: str = "task_id") -> str:
        """The id of a task that is named by it, by the beginning of it, in any case, or by the id that it had in the
        tracker it came from. `field` names it in errors.

        Raises InvalidInputError: it is nothing of the kind, or several tasks have it.
        """
        if not isinstance(given, str) or TASK_ID.fullmatch(given):
            return limits.task_id(given, field)
        if not (text := given.strip()) or not text.isprintable():  # which the database might not even take
            return limits.task_id(given, field)
        found = await self.look(lambda connection: reading.named(connection, self.project_id, text[:_LONGEST_NAME]))
        if not found:
            return limits.task_id(text.lower(), field)
        if len(found) > 1:
            raise InvalidInputError(
                Words("{} {} stands for several tasks: {}.", Argument(field), texts.quote(text), ", ".join(found)),
                "Give more of the id.",
            )
        return found[0]

    async def _ids_of(self, given: object) -> object:
        """As `id_of`, for each of a list; what is no list is left to its validator."""
        if not isinstance(given, list | tuple):
            return given
        return [await self.id_of(one, "depends_on") if isinstance(one, str) else one for one in given]

    async def look(self, question: Callable[[db.Connection], Awaitable[T]]) -> T:
        """Asks the database something that changes nothing."""
        async with self._links.reading() as connection:
            return await question(connection)

    # --- how ----------------------------------------------------------------------------------------------------------

    async def _report(self, task_id: str, work: Callable[[Transaction], Awaitable[Outcome | Refused]]) -> Outcome:
        self._session.touch(task_id)
        outcome = await self._commit(work)
        if outcome.task.status is not TaskStatus.CLAIMED:
            self._session.forget(task_id)
        return outcome

    async def _at_once(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """As `_commit`, for work that is one statement with its event and needs no transaction block around it."""

        async def attempt(pool: db.Pool) -> tuple[T, Change]:
            async with db.begun(pool) as connection:
                tx = self._transaction(connection)
                return await work(tx), tx.change()

        with tracing.transaction(work):
            result, change = await self._links.run(attempt, repeatable=False)
        await self._mirror(change)
        return result

    async def must_exist(self, task_id: str) -> None:
        """Raises TaskNotFoundError unless there is such a task."""
        await self._known(task_id)

    async def _known(self, task_id: str) -> Task:
        cache = self._links.cache_in_use
        found = None if cache is None else await cache.get_task(task_id)
        if found is None:
            async with self._links.reading() as connection:
                found = await store.get_task(connection, self.project_id, task_id)
        if found is None:
            raise claims.not_found(task_id)
        return found

    async def _commit(self, work: Callable[[Transaction], Awaitable[T | Refused]]) -> T:
        """Runs one mutation: a transaction, its events, the mirror. Raises what a refusal carries, after the commit.
        Whoever waits for it may be cancelled; it goes on to its end, so that it is done whole or not at all."""
        return await asyncio.shield(self._keep(self._committed(work)))

    def _keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Has a mutation go on in a task of its own, whatever becomes of who waits for it."""
        task = asyncio.create_task(work)
        self._going.add(task)
        task.add_done_callback(self._going.discard)
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
