"""Who calls, and the claims that were handed out to him: what one process remembers between calls.

Nothing here is authority: that is the token of a claim, which the database judges. A session only knows which claims to
keep alive, and which one a report means that names none.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loom import caller, ids, texts
from loom.config import LoomConfig
from loom.exceptions import ForbiddenError
from loom.graph.model import limits
from loom.graph.model.principals import Principal
from loom.graph.rules.holding import Holder

_LONGEST_RENEWAL = 60.0  # seconds
_MOST_NAMES = 1_000  # of agents that share a session


@dataclass(slots=True)
class _Agent:
    """One that holds something, and when it last called since: for all of its claims, however many, at once."""

    name: str
    called: float = -math.inf


@dataclass(slots=True)
class _Held:
    """A claim that was handed out: to whom, and whether the call gave that name, its token, when a call last touched it
    alone, how many seconds its lease lasts, and when that was last asked for. `ours`: nobody else can have it too, so
    that it is given back when the session ends. `alone`: nothing followed if it were done then."""

    by: _Agent
    named: bool
    token: int
    touched: float
    lease: float
    begun: float
    ours: bool = True
    alone: bool = False

    @property
    def agent(self) -> str:
        """The name of who holds it."""
        return self.by.name

    @property
    def due(self) -> float:
        """When it is to be renewed."""
        return self.begun + min(self.lease / 3, _LONGEST_RENEWAL)

    def is_wanted(self, since: float) -> bool:
        """Whether a call has touched it since then, or its agent has called."""
        return max(self.touched, self.by.called) >= since


class Session:
    """The memory of one process on one project. `agent` is the name of whoever calls without one; `principal`: who
    calls from afar, whose agents are his alone."""

    def __init__(self, agent: str, principal: Principal | None = None) -> None:
        self._principal = principal
        self.agent = self._own(agent)
        self._held: dict[str, _Held] = {}
        self._agents: dict[str, _Agent] = {}  # at least those that hold something
        self._more = asyncio.Event()  # claims came that may be due before those that were there
        self._due = math.inf  # when the next renewal is waited for
        self._names: set[str] = set()  # that calls have given
        self._new = asyncio.Queue[str]()  # those of them that nobody has looked at

    def name(self, agent_id: str | None) -> str:
        """Whoever calls: `agent_id`, or this session's own name. His claims are thereby known to be wanted. Raises
        ForbiddenError for the name of another principal's."""
        name = self.agent if agent_id is None else self._given(agent_id)
        if (agent := self._agents.get(name)) is not None:
            agent.called = time.monotonic()
        return name

    def _given(self, agent_id: str) -> str:
        name = self._own(limits.agent_name(agent_id))
        if name not in self._names and len(self._names) < _MOST_NAMES:
            self._names.add(name)
            self._new.put_nowait(name)
        return name

    def touch(self, task_id: str) -> None:
        """Somebody has asked about a task: a claim of it is still wanted."""
        if task_id in self._held:
            self._held[task_id].touched = time.monotonic()

    def holder(self, task_id: str, agent_id: str | None, token: int | None) -> Holder:
        """Who a report is from: the claim of its token, else of its agent, else the one that was handed out here to a
        call without a name. Agents that share a session and name themselves are not taken for each other."""
        held = self._held.get(task_id)
        if token is not None:
            token = limits.token(token)
            named = self.name(agent_id) if agent_id else held.agent if held and held.token == token else self.agent
            return Holder(named, token, self._principal)
        if agent_id is not None:
            return Holder(self.name(agent_id), None, self._principal)
        if held is None and task_id == caller.environ().get("LOOM_TASK_ID"):
            # A worker started this process for that task, and handed on the claim that it holds.
            handed = ids.claim_token(caller.environ().get("LOOM_CLAIM_TOKEN", ""))
            return Holder(self.agent, handed, self._principal)
        if held and not held.named:
            return Holder(held.agent, held.token, self._principal)
        return Holder(self.agent, None, self._principal)

    # --- the claims that were handed out ------------------------------------------------------------------------------

    def hand_out(
        self,
        task_id: str,
        agent: str,
        token: int,
        lease_seconds: float,
        begun: float,
        *,
        named: bool,
        alone: bool = False,
    ) -> None:
        """A claim was made here, with a lease that was asked for at the time `begun`. `named`: by a call that gave the
        agent's name; `alone`: see `Claim`."""
        held = _Held(self._holding(agent), named, token, time.monotonic(), lease_seconds, begun, alone=alone)
        self._held[task_id] = held
        if held.due < self._due:  # as few are: whoever waits need not be woken by each claim
            self._more.set()

    def is_alone(self, task_id: str) -> bool:
        """Whether nothing followed when a task was claimed here, if it were done then; so it is likely to be still."""
        held = self._held.get(task_id)
        return held is not None and held.alone

    async def next_name(self) -> str:
        """The next name that a call gives for the first time."""
        return await self._new.get()

    def take_up(self, task_id: str, token: int, lease_seconds: float, named: str | None = None) -> None:
        """The agent of this session, or one that calls have `named`, holds a claim that was not handed out here; it is
        renewed from now on, at once for the first time."""
        if task_id not in self._held:
            now = time.monotonic()
            begun, agent = now - lease_seconds, self._holding(named or self.agent)
            self._held[task_id] = _Held(agent, named is not None, token, now, lease_seconds, begun, ours=False)
            self._more.set()

    def take_over(self, other: Session) -> None:
        """The claims of a session that has ended go on in this one."""
        for held in other._held.values():
            called, held.by = held.by.called, self._holding(held.agent)
            held.by.called = max(held.by.called, called)
        self._held = other._held | self._held
        other._held = {}
        self._more.set()

    @property
    def holds(self) -> Mapping[str, int]:
        """The claims that are thought to stand, token by task id."""
        return {task_id: held.token for task_id, held in self._held.items()}

    async def until_renewal(self, idle_seconds: float) -> None:
        """Returns when the claims that are wanted are to be renewed: when a third of the shortest lease is over."""
        while True:
            self._more.clear()
            wanted = [self._held[task_id].due for task_id in self.wanted(idle_seconds)]
            self._due = min(wanted, default=time.monotonic() + _LONGEST_RENEWAL)
            try:
                await asyncio.wait_for(self._more.wait(), max(self._due - time.monotonic(), 0))
            except TimeoutError:
                self._due = math.inf
                return

    def renewed(self, claims: Mapping[str, int], asked: float) -> None:
        """These claims, token by task id, have their lease anew; that was asked for at the time `asked`."""
        for task_id, token in claims.items():
            held = self._held.get(task_id)
            if held is not None and held.token == token:
                held.begun = asked

    def lease_left(self, task_id: str, token: int) -> float | None:
        """How many seconds of a claim's lease are left at least; None for one that was not handed out here, or has
        ended."""
        held = self._held.get(task_id)
        if held is None or held.token != token:
            return None
        return held.begun + held.lease - time.monotonic()

    def claims_of(self, agent: str) -> list[str]:
        """The tasks whose claims were handed out to an agent."""
        return [task_id for task_id, held in self._held.items() if held.agent == agent]

    def wanted(self, idle_seconds: float) -> dict[str, int]:
        """The claims, token by task id, that a call has touched within so many seconds."""
        oldest = time.monotonic() - idle_seconds
        return {task_id: held.token for task_id, held in self._held.items() if held.is_wanted(oldest)}

    def forget(self, task_id: str) -> None:
        """A claim has ended, whichever it was."""
        self._held.pop(task_id, None)

    def lose(self, claims: Mapping[str, int], lost: Iterable[str]) -> None:
        """Of `claims` these were lost; one that was handed out anew meanwhile stays."""
        for task_id in lost:
            held = self._held.get(task_id)
            if held is not None and held.token == claims[task_id]:
                del self._held[task_id]

    def end(self) -> dict[str, int]:
        """Forgets all claims, and returns those that are this session's alone, token by task id."""
        held = {task_id: one.token for task_id, one in self._held.items() if one.ours}
        self._held.clear()
        return held

    def _holding(self, name: str) -> _Agent:
        agent = self._agents.get(name)
        if agent is None:
            if len(self._agents) >= _MOST_NAMES:
                self._agents = {held.agent: held.by for held in self._held.values()}
            agent = self._agents[name] = _Agent(name)
        return agent

    def _own(self, name: str) -> str:
        if self._principal is not None and not self._principal.owns(name):
            raise ForbiddenError(
                f"{texts.quote(name)} is not a name of yours.",
                f"Call yourself {self._principal.name}, or {self._principal.name}/ and something more.",
            )
        return name


def default_agent(config: LoomConfig) -> str:
    """The name of an agent that gave none: `LOOM_AGENT_ID`, else one derived from the client's session, else fresh."""
    if config.agent_id:
        return limits.agent_name(config.agent_id, "LOOM_AGENT_ID")
    session = caller.environ().get("CLAUDE_CODE_SESSION_ID", "")
    if session and ids.AGENT_NAME.fullmatch(session[:8]):
        return f"claude-{session[:8]}"
    return ids.agent_name("agent")
