"""The relay: carries events from Postgres to the mirror in order, and heals the mirror where it is behind or gone.

Any process may run it, any number at a time. An event is read once no older transaction can commit before it, and the
position is written by the same script call as what it covers, and only from the expected previous one: of two relays
one wins, and a Redis that lost its last second has lost its position too. The tasks that the events met are mirrored
again, as they are now, so that a process killed between commit and mirror leaves nothing stale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.bus.events import START, Event, EventType, Position
from loom.bus.publisher import Notice, publish_escalation, send_agent_message
from loom.db.connection import borrowed, translated
from loom.graph import store
from loom.graph.cache.mirror import BATCH, Cache
from loom.graph.store import escalations, projects

if TYPE_CHECKING:
    from loom.db.connection import Pool


_PAGE = 100  # tasks, with all that they carry


class Relay:
    """The relay of one project."""

    def __init__(self, pool: Pool, cache: Cache, project_id: str, *, replay: int) -> None:
        """
        Args:
            pool: where the events are.
            cache: where they go.
            project_id: whose they are.
            replay: how many past events a rebuilt stream begins with.
        """
        self._pool = pool
        self._cache = cache
        self._project = project_id
        self._replay = replay
        self.position = START  # how far the mirror was when last looked at

    async def step(self) -> bool:
        """Brings the mirror up to date, rebuilding it if it is missing; False if that has to wait.

        That is so when Redis is away, another process rebuilds, or a newer Loom has laid the mirror out.
        """
        state = await self._cache.state()
        if state is None or state.newer:
            return False
        if not state.usable:
            if not await self.rebuild_cache(state.generation):
                return False
            state = await self._cache.state()
            if state is None or not state.usable:
                return False
        self.position = state.position
        with translated():
            async with borrowed(self._pool) as connection:
                history, start = await projects.begun(connection, self._project)
                if history != self._cache.history:  # the project was restored meanwhile
                    self._cache.history = history
                    return False
                while events := await store.events.after(
                    connection, self._project, self.position, limit=BATCH, later_than_id=start
                ):
                    met = await store.get_tasks(
                        connection, self._project, {event.task_id for event in events if event.task_id}
                    )
                    notices = [notice for event in events if (notice := _notice(self._project, event))]
                    if not await self._cache.follow(self.position, events, list(met.values()), notices):
                        return False
                    self.position = events[-1].position
        return True

    def expect(self, position: Position) -> None:
        """Says where Postgres was a while ago: a mirror that has not come there is not read."""
        self._cache.expect(position)

    async def rebuild_cache(self, wanting: str = "*") -> bool:
        """Empties the mirror, fills it from the database and hands over to the relay; others may write. `wanting`: the
        generation that is to be replaced, by default any. False if another process is at it, or has done it, or Redis
        is away."""
        generation = await self._cache.begin(wanting)
        if generation is None:
            return False
        built = False
        try:
            built = await self._cache.empty(generation) and await self._fill(generation)
        finally:
            if not built:
                await self._cache.abandon(generation)
        return built

    async def _fill(self, generation: str) -> bool:
        with translated():
            # The position is taken first and each page is read as it is then, so that no snapshot is held for long:
            # whatever changes meanwhile has an event behind the position, and versions keep the older state out.
            async with borrowed(self._pool) as connection:
                _, start = await projects.begun(connection, self._project)
                position = await store.events.replay_from(connection, self._project, self._replay, start)
                async for tasks in store.list_all_tasks(connection, self._project, _PAGE):
                    if not await self._cache.load(generation, tasks):
                        return False
                waiting = await escalations.open_escalations(connection, self._project, limit=10_000)
        return await self._cache.finish(generation, position, [one.id for one in waiting])


def _notice(project_id: str, event: Event) -> Notice | None:
    """What an event announces beside the tasks it changed, should its process have died before it could."""
    data = event.data or {}
    match event.type:
        case EventType.MESSAGE_SENT:
            return send_agent_message(project_id, data["message"], event.agent or "", data["to"])
        case EventType.TASK_NOTED:
            return send_agent_message(project_id, data["message"], event.agent or "", event.task_id or "")
        case EventType.ESCALATION_RAISED | EventType.ESCALATION_RESOLVED:
            raised = event.type == EventType.ESCALATION_RAISED
            return publish_escalation(project_id, data["escalation"], event.task_id or "", raised=raised)
        case _:
            return None
