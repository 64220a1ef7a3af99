"""The front of the graph from afar: the same calls, each carried to a server.

What a process remembers between calls, its name and the claims that were handed out to it, it remembers here as well;
the server does not. What needs the database itself is refused in one sentence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from loom.bus.events import START, Position
from loom.config import LoomConfig
from loom.exceptions import NotFromAfarError
from loom.graph.cache import Relay
from loom.graph.front import Loom
from loom.graph.model import limits
from loom.graph.model.principals import Role, needs
from loom.graph.model.task import Task, TaskStatus
from loom.graph.rules.claims import Swept, Terms
from loom.graph.session import Session
from loom.ids import TASK_ID
from loom.remote import codec
from loom.remote.client import Client, Greeting
from loom.remote.credentials import token_for

T = TypeVar("T")

_REPORTS = frozenset({"done", "escalate", "fail", "release"})
_ONCE = frozenset({"done", "give_back", "heartbeat", "note_attempt", "renew_claims"})
"""What changes something, and twice is as once."""


class Remote(Loom):
    """One project behind a server."""

    keeps_order = False

    def __init__(self, config: LoomConfig, *, agent: str | None = None) -> None:
        """
        Args:
            config: from `load_config`, with `server.url`.
            agent: the name of whoever calls without one; default: LOOM_AGENT_ID, else that of the token.

        Raises:
            TokenError: there is no access token for that server.
            ConfigError: the token would travel in the clear, or its file is not in order.
        """
        assert config.server.url is not None, "the project is elsewhere"
        self.config = config
        self.principal = None  # the server asks whether something may be done
        self._client = Client(config.server.url, token_for(config.server.url))
        self._given = agent or config.agent_id
        self._greeted: Greeting | None = None
        self._session = Session(limits.agent_name(self._given) if self._given else "")
        self._never = asyncio.Event()

    @property
    def project_id(self) -> str:  # type: ignore[override]
        """The id of the project that the token is for; known once connected."""
        return self._greeted.project_id if self._greeted else ""

    @property
    def names_begin(self) -> str:
        """As the front's, for the principal of the token."""
        assert self._greeted is not None, "it is connected"
        return f"{self._greeted.principal}/"

    @property
    def committed(self) -> asyncio.Event:
        """Is never set: whoever commits is the server."""
        return self._never

    @property
    def notice(self) -> str:
        """Nothing: where the data is, the server knows."""
        return ""

    async def __aenter__(self) -> Remote:
        await self.connect()
        return self

    async def connect(self) -> None:
        """Asks the server who it is, and who calls. Raises TokenError, ServersError."""
        self._greeted = await self._client.greeting()
        self._session.agent = self._given or self._greeted.principal
        self._terms = Terms(self._greeted.claim_ttl_seconds, self._greeted.deadline_seconds)

    async def close(self) -> None:
        """Gives the connections back."""
        await self._client.close()

    async def id_of(self, given: object, field: str = "task_id") -> str:
        """As the front's; a whole id is not asked about."""
        if isinstance(given, str) and TASK_ID.fullmatch(given):
            return given
        found: str = await self._call("id_of", {"given": given, "field": field})
        return found

    async def end_session(self) -> list[Task]:
        """Gives back, at once, the claims that were handed out here and that still stand."""
        held = self._session.end()
        return await self.give_back(held) if held else []

    async def sweep(self) -> tuple[Swept, Position]:
        """Nothing: the server sweeps."""
        return Swept(), START

    async def relay(self) -> Relay:
        raise NotFromAfarError.at(self._client.url)

    async def transact(self, work: Callable[..., Awaitable[T]]) -> T:
        raise NotFromAfarError.at(self._client.url)

    async def look(self, question: Callable[..., Awaitable[T]]) -> T:
        raise NotFromAfarError.at(self._client.url)

    # --- how ----------------------------------------------------------------------------------------------------------

    async def _call(self, operation: str, arguments: dict[str, Any]) -> Any:
        """Has the server do an operation, on behalf of who calls here, and remembers what it came to."""
        if operation in _REPORTS:
            arguments["task_id"] = await self.id_of(arguments["task_id"])
            holder = self._session.holder(arguments["task_id"], arguments.get("agent_id"), arguments.get("token"))
            arguments |= {"agent_id": holder.agent, "token": holder.token}
        who = "by" if operation == "resolve" else "agent_id"
        named = arguments.get(who) is not None
        if codec.takes(operation, who):
            arguments[who] = self._session.name(arguments.get(who))
        asked = time.monotonic()
        found = await self._client.call(
            operation,
            arguments,
            waits=float(arguments.get("timeout", 30.0)) if operation == "wait" else 0.0,
            repeatable=operation in _ONCE or needs(operation) is Role.READER,
        )
        self._remember(operation, arguments, found, asked, named=named)
        return found

    def _remember(self, operation: str, arguments: dict[str, Any], found: Any, asked: float, *, named: bool) -> None:
        if operation == "claim" and found is not None:
            lease, task = arguments.get("lease_seconds") or self._terms.lease_seconds, found.task
            self._session.hand_out(task.id, task.assignee, task.claim_token, lease, asked, named=named)
        elif operation in _REPORTS and found.task.status is not TaskStatus.CLAIMED:
            self._session.forget(found.task.id)
        elif operation == "heartbeat":
            for task in found.tasks:
                self._session.touch(task.id)
            self._session.renewed({task.id: task.claim_token for task in found.tasks}, asked)
        elif isinstance(task_id := arguments.get("task_id"), str):
            self._session.touch(task_id)


def _carried(operation: str) -> Callable[..., Awaitable[Any]]:
    async def carried(remote: Remote, *arguments: Any, **named: Any) -> Any:
        return await remote._call(operation, codec.bound(operation, arguments, named))

    carried.__name__ = operation
    return carried


for _operation in codec.OPERATIONS - set(vars(Remote)):
    setattr(Remote, _operation, _carried(_operation))
