"""Working on tasks: a claim, and the reports that end it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from loom import tracing
from loom.db import connection as db
from loom.exceptions import ClaimConflictError, LoomError
from loom.graph import store
from loom.graph.front.seat import Seat
from loom.graph.model import limits
from loom.graph.rules import claims, holding
from loom.graph.rules.claims import Outcome, Renewal, Terms
from loom.graph.rules.proofs import Proven
from loom.graph.store import Claim, traces
from loom.graph.store.transaction import Change, Transaction


class Working(Seat):
    """What a front offers to whoever works on tasks."""

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
            else Terms(
                limits.seconds(lease_seconds, "lease_seconds", 1, limits.LEASE_SECONDS), self._terms.deadline_seconds
            )
        )

        making = self._keep(self._claim(agent, wanted, terms, named=agent_id is not None))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            self._keep(self._unclaim(making))
            raise

    async def _claim(self, agent: str, wanted: str | None, terms: Terms, *, named: bool) -> Claim | None:
        async def work(connection: db.Connection) -> tuple[Claim, Change] | LoomError | None:
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
            return await holding.refusal_to_claim(connection, self.project_id, wanted, agent)

        while True:
            asked = time.monotonic()
            with tracing.transaction("claim"):
                made = await self._links.run(lambda pool: db.in_one_statement(pool, work), repeatable=False)
            if isinstance(made, tuple):
                break
            if wanted is None:
                return None
            # Without a refusal it was given back in between; a lease that is over has not been seen by a sweep yet.
            if made is not None and not await self._lapse_if_over(wanted, made):
                raise made
        claim, change = made
        self._session.hand_out(
            claim.task.id, agent, claim.task.claim_token, terms.lease_seconds, asked, named=named, alone=claim.alone
        )
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
            proven: where the proofs of the checks that it needs are to be found; of a principal, who could lead to
                those of other work, it counts for nothing.

        Raises:
            ProofMissingError: a check that it needs is not proven; the claim stays.
            ClaimConflictError: the claim was lost; the output is kept with an event.
            TaskNotFoundError: there is no such task.
            TaskStateError: it is finished, or something that it waits for is open.
            InvalidInputError: the output is no object, or too large.
        """
        task_id, text = await self.id_of(task_id), limits.output(output)
        holder = self._session.holder(task_id, agent_id, token)
        where = proven if self.principal is None else None
        # A principal's report, and one that needs checks, is judged by rules that the one statement does not know.
        alone = self._session.is_alone(task_id) and self.principal is None and not self._every_check
        return await self._report(
            task_id,
            lambda tx: claims.done(tx, task_id, holder, self._terms, text, every=self._every_check, proven=where),
            first=(lambda tx: claims.done_alone(tx, task_id, holder, text)) if alone else None,
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
