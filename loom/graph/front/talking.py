"""Talking to each other, and waiting for something to happen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loom import texts
from loom.db import connection as db
from loom.exceptions import InvalidInputError, MessageNotFoundError
from loom.graph import store
from loom.graph.front.seat import Seat
from loom.graph.model import limits
from loom.graph.model.task import TaskStatus
from loom.graph.store import messages
from loom.graph.store.messages import Message
from loom.wording import Argument, Words, call

if TYPE_CHECKING:
    from loom.graph.cache.waiting import Waited

LONGEST_WAIT = 60.0  # seconds; MCP clients give up on a call soon after


class Talking(Seat):
    """What a front offers to whoever talks and waits."""

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
            async with db.borrowed(pool) as connection, db.block(connection):
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
    ) -> Waited:
        """Blocks until something changes, for at most `timeout` seconds (60 at most).

        Args:
            what: ready, task (with `task_id`; of an epic also the end of a child), inbox, escalation or any.
            since: from an earlier wait; nothing that happened after it is missed.
        """
        from loom.graph.cache import waiting

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
        span = limits.seconds(seconds, "since", 0, limits.SPAN_SECONDS)
        return str(await self.look(lambda connection: store.events.position_at(connection, self.project_id, span)))
