"""What long processes do beside their work: sweeps, and the claims that were handed out here."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from loom.bus.events import Position
from loom.graph import store
from loom.graph.front.seat import Seat
from loom.graph.model import limits
from loom.graph.model.task import Task
from loom.graph.rules import claims
from loom.graph.store import counting

if TYPE_CHECKING:
    from loom.bus.subscriber import Subscriber
    from loom.graph.cache.relay import Relay


class Upkeep(Seat):
    """What a front offers to who keeps a project in order."""

    async def sweep(self) -> tuple[claims.Swept, Position]:
        """Gives lapsed claims back, puts due retries into play, announces a complete project and brings its counts
        forward; one cheap query when there is nothing to do. Any number of processes may do it at a time.

        Returns what it did, and where the newest event of the project stands.
        """
        pulse = await self.look(lambda connection: store.pulse(connection, self.project_id))
        if pulse.uncounted:
            while await self._commit(counting.keep):
                pass
            await self.look(lambda connection: store.analyze(connection, self.project_id))
        if pulse.expired or pulse.due or pulse.complete:
            return await self._commit(claims.sweep), pulse.newest
        return claims.Swept(), pulse.newest

    async def prune(self) -> None:
        """Takes away what has been kept for longer than `retention` says, a batch at a time; where another process is
        at it, nothing. Any number of processes may call it, seldom."""
        from loom.graph.rules import retention

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
        return await self._aside(lambda connection: store.renew_leases(connection, self.project_id, held, owner))

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

    async def take_up(
        self, but: Callable[[str, int], bool] = lambda task_id, token: False, named: str | None = None
    ) -> None:
        """Has the claims renewed here that the agent of this session holds by its name, such as those that were handed
        out by a process that has died. They are not given back with the session, since another may have them too.

        Args:
            but: whether a claim, by its task's id and token, is looked after by somebody else.
            named: instead the claims of this agent, as which calls name themselves.
        """
        held = await self.look(
            lambda connection: store.list_active_tasks(connection, self.project_id, named or self.agent)
        )
        for task in held:
            if not but(task.id, task.claim_token):
                self._session.take_up(task.id, task.claim_token, self._terms.lease_seconds, named)

    async def next_name(self) -> str:
        """The next name that a call gives for the first time."""
        return await self._session.next_name()

    def take_over(self, other: Self) -> None:
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
