"""Looking: what there is, how it stands, and whether it is sound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loom import texts
from loom.bus.events import Event, EventType, Position
from loom.exceptions import InvalidInputError
from loom.graph import project, store
from loom.graph.front.seat import Seat
from loom.graph.model import limits
from loom.graph.model.task import Priority
from loom.graph.rules import holding
from loom.graph.store import landing_views, names, projects, reading
from loom.graph.store.blockers import Blocker, blockers
from loom.graph.store.escalations import Escalation, deferrals, open_escalations
from loom.graph.store.landing_views import LandingView
from loom.graph.store.reading import AgentView, DeadLetter, Detail, Page
from loom.wording import Argument, Words

if TYPE_CHECKING:  # who looks brings what he looks with; a claim does not pay for it
    from loom.graph.model.filters import Filter
    from loom.graph.model.verdict import Verdict
    from loom.graph.overview import Glance
    from loom.graph.store.graphs import GraphView, Outline
    from loom.graph.store.listing import Found
    from loom.graph.store.stats import Stats
    from loom.graph.store.sticking import Root


_DAY = 86400.0  # seconds
_DRAWN = 10_000  # tasks of one answer, of which little is told


class Looking(Seat):
    """What a front offers to whoever looks."""

    async def ready(self, *, priority: str | None = None, limit: int = 10) -> Page:
        """The best claimable tasks, in the order in which they will be claimed."""
        limit = limits.page(limit)
        chosen: Priority | None = None if priority is None else limits.priority(priority)
        cache = self._links.cache_in_use
        found = None if cache is None else await cache.get_ready_tasks(limit + 1, chosen)
        if found is None:
            found = await self.look(
                lambda connection: reading.get_ready_tasks(
                    connection, self.project_id, limit=limit + 1, priority=chosen
                )
            )
        return Page(found[:limit], len(found) > limit)

    async def find(self, wanted: Filter | str, *, limit: int = 50) -> Found:
        """The tasks that a filter asks for, as text (see `model.filters`) or whole. Raises InvalidInputError."""
        from loom.graph.model import filters
        from loom.graph.store import listing

        chosen = filters.known(wanted) if isinstance(wanted, filters.Filter) else filters.parse(wanted)
        limit = limits.page(limit)
        for key in ("epic", "waits_for"):
            if (given := getattr(chosen, key)) is not None:
                chosen = chosen.with_(**{key: await self.id_of(given, key)})
        if chosen.words or chosen.file:
            while await self._at_once(lambda tx: listing.read_texts(tx.connection, self.project_id)):
                pass
        return await self.look(lambda connection: listing.list_tasks(connection, self.project_id, chosen, limit))

    async def get(self, task_id: str) -> Detail:
        """One task with its neighbours, escalations and newest events. Raises TaskNotFoundError."""
        task_id = await self.id_of(task_id)
        self._session.touch(task_id)
        found = await self.look(lambda connection: reading.detail(connection, self.project_id, task_id))
        if found is None:
            raise holding.not_found(task_id)
        return found

    async def titles(self, task_ids: Sequence[str] | None = None, *, limit: int = 5_000) -> dict[str, str]:
        """The titles of these tasks by id; without ids of so many, the unfinished ones first, then those that were
        finished last."""
        if task_ids is not None:
            return await self.look(lambda connection: names.titles_of(connection, self.project_id, task_ids))
        most = max(1, min(limit, _DRAWN))
        return await self.look(lambda connection: names.titles(connection, self.project_id, most))

    async def blockers(self, task_ids: Sequence[str]) -> dict[str, list[Blocker]]:
        """What each of these tasks waits for that waits for something, of each the first few."""
        named = [await self.id_of(one) for one in task_ids]
        return await self.look(lambda connection: blockers(connection, self.project_id, named))

    async def history(self, task_id: str, *, limit: int = 100) -> list[Event]:
        """A task's newest events, oldest first. Raises TaskNotFoundError."""
        task_id, limit = await self.id_of(task_id), limits.page(limit)
        found = await self.look(
            lambda connection: store.events.of_task(connection, self.project_id, task_id, limit=limit)
        )
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
        return await self.look(
            lambda connection: store.events.newest(
                connection, self.project_id, until=told, types=types, agent=by, limit=limit
            )
        )

    async def status(self) -> project.ProjectStatus:
        """The project at a glance."""
        cache = self._links.cache_in_use
        known = None if cache is None else await cache.counts()
        return await self.look(lambda connection: project.get_project_status(connection, self.project_id, known))

    async def glance(self, *, limit: int = 5) -> Glance:
        """What waits for a person, who is at what, what is next, how far the epics are, and when it may end: the
        project's status, and at most so many of each."""
        from loom.graph import overview

        limit, status = limits.page(limit), await self.status()
        return await self.look(lambda connection: overview.get_glance(connection, status, limit))

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
        from loom.graph import overview
        from loom.graph.store.stats import GROUPS

        if by is not None and by not in GROUPS:
            raise InvalidInputError(
                Words("{} {} does not exist.", Argument("by"), texts.quote(str(by))), f"Use {', '.join(GROUPS)}."
            )
        back, limit = limits.seconds(seconds, "since", 1, limits.SPAN_SECONDS), limits.page(limit)
        east, status = limits.seconds(offset, "offset", -_DAY, _DAY), await self.status()
        return await self.look(
            lambda connection: overview.get_stats(connection, status, back, by=by, offset=east, limit=limit)
        )

    async def agents(self) -> list[AgentView]:
        """Who holds what, by name."""
        return await self.look(lambda connection: reading.agents(connection, self.project_id))

    async def escalations(self, *, limit: int = 50) -> list[Escalation]:
        """The open escalations that ask for somebody, oldest first."""
        return await self.look(
            lambda connection: open_escalations(connection, self.project_id, limit=limits.page(limit))
        )

    async def deferrals(self, *, limit: int = 50) -> list[Escalation]:
        """What is deferred, as open escalations, oldest first. `resolve` with retry puts one into play."""
        return await self.look(lambda connection: deferrals(connection, self.project_id, limit=limits.page(limit)))

    async def dead_letters(self, *, limit: int = 50) -> list[DeadLetter]:
        """Dead tasks with what they hold up, oldest first."""
        return await self.look(
            lambda connection: reading.dead_letters(connection, self.project_id, limit=limits.page(limit))
        )

    async def stuck(self, *, limit: int = 50) -> list[Root]:
        """What does not go on by itself, what holds up most first: dead and cancelled work that others wait for,
        questions, deferrals, landings that want a yes, epics without children."""
        from loom.graph.store import sticking

        return await self.look(lambda connection: sticking.roots(connection, self.project_id, limits.page(limit)))

    async def landings(self, *, limit: int = 20) -> LandingView:
        """What is queued to land, was sent back, and has landed, at most so many of each."""
        return await self.look(
            lambda connection: landing_views.overview(connection, self.project_id, limits.page(limit))
        )

    async def graph(
        self, *, root: str | None = None, wanted: Filter | str | None = None, limit: int = 200
    ) -> GraphView:
        """The graph, or the part that `root` is made of and waits for, or the tasks that a filter asks for.

        Raises TaskNotFoundError for an unknown root, InvalidInputError.
        """
        from loom.graph.store import graphs

        if wanted is not None:
            if root is not None:
                raise InvalidInputError("A root and a filter were given.", "Give one of them.")
            page = await self.find(wanted, limit=min(limit, limits.PAGE))
            return await self.look(
                lambda connection: graphs.graph_of(connection, self.project_id, page.tasks, more=page.more)
            )
        root = None if root is None else await self.id_of(root, "root")
        found = await self.look(
            lambda connection: graphs.graph(connection, self.project_id, root=root, limit=max(1, min(limit, _DRAWN)))
        )
        if root is not None and not found.tasks:
            raise holding.not_found(root)
        return found

    async def outline(self, *, limit: int = 10_000) -> Outline:
        """The graph as `graph` has it, of each task only what it takes to draw it."""
        from loom.graph.store import graphs

        return await self.look(
            lambda connection: graphs.outline(connection, self.project_id, limit=max(1, min(limit, _DRAWN)))
        )

    async def projects(self) -> list[projects.Project]:
        """All projects of this database, oldest first; for a principal this one."""
        found = await self.look(lambda connection: projects.list_projects(connection))
        return found if self.principal is None else [one for one in found if one.id == self.project_id]

    async def neighbours(self) -> dict[str, int]:
        """Other projects whose processes are connected to the same database server now: name to connections."""
        return await self.look(lambda connection: projects.connected(connection, self.project_id))

    async def doctor(self, *, deep: bool = False) -> list[Verdict]:
        """Checks the invariants of the project on one snapshot, and the mirror against Postgres; with `deep` the mirror
        is built anew first, and what is kept of how many tasks there are."""
        from loom.graph.cache import comparison
        from loom.graph.rules import invariants
        from loom.graph.store import counting

        links = self._links
        if deep:
            await (await links.relay()).rebuild_cache()
            await self._commit(counting.count_anew)
        found = await links.read(lambda connection: invariants.check(connection, self.project_id), snapshot=True)
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
