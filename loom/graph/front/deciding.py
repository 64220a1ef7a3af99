"""Deciding what becomes of tasks that wait for somebody, and of the project."""

from __future__ import annotations

from loom import texts
from loom.db import connection as db
from loom.exceptions import InvalidInputError
from loom.graph.front.seat import Seat
from loom.graph.model import limits
from loom.graph.model.task import Task
from loom.graph.rules import resolving
from loom.graph.rules.claims import Outcome
from loom.graph.store import projects
from loom.graph.store.escalations import Escalation, take
from loom.graph.store.landings import Landing
from loom.wording import Argument, Words


class Deciding(Seat):
    """What a front offers to whoever decides."""

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
        span = limits.seconds(seconds, "seconds", 1, limits.LEASE_SECONDS)
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

    async def archive(self) -> bool:
        """Hides this project from lists; nothing is removed. False if it was archived before."""

        async def work(pool: db.Pool) -> bool:
            async with db.borrowed(pool) as connection:
                return await projects.archive(connection, self.project_id)

        return await self._links.run(work)
