"""Who calls from afar, and what he may do.

A `Principal` is what a token, or a person's way into the board, stands for. Whoever calls in a process of his own has
the database's password, so that nothing is asked of him: he is no principal, and may do everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from loom import texts
from loom.exceptions import ForbiddenError, InvalidInputError

CODE_SECONDS = 60.0
"""How long a person may take to follow a link that lets a browser in once."""
COOKIE_SECONDS = 7 * 86400.0
"""How long a browser stays let in that does not come."""


class Role(IntEnum):
    """What a principal may do; each role includes those before it."""

    READER = 1
    """Looks and waits, and reads its own messages."""
    WORKER = 2
    """Claims, reports and talks, makes tasks below what it holds, and adds files and checks to that."""
    PLANNER = 3
    """Makes and changes the graph, answers, puts off and brings back."""
    ADMIN = 4
    """Decides about dead work, cancels, says yes to landings, and gives out tokens."""

    def __str__(self) -> str:
        return self.name.lower()

    @classmethod
    def named(cls, text: object) -> Role:
        """The role of this name. Raises InvalidInputError."""
        found = next((one for one in cls if str(one) == text), None)
        if found is None:
            raise InvalidInputError(f"There is no role {texts.quote(str(text))}.", f"Use one of {', '.join(ROLES)}.")
        return found


ROLES = tuple(str(one) for one in Role)

NEEDS: Mapping[str, Role] = MappingProxyType(
    {
        "agents": Role.READER,
        "blockers": Role.READER,
        "dead_letters": Role.READER,
        "deferrals": Role.READER,
        "escalations": Role.READER,
        "events": Role.READER,
        "export": Role.READER,
        "find": Role.READER,
        "get": Role.READER,
        "glance": Role.READER,
        "graph": Role.READER,
        "history": Role.READER,
        "id_of": Role.READER,
        "inbox": Role.READER,
        "landings": Role.READER,
        "must_exist": Role.READER,
        "outline": Role.READER,
        "projects": Role.READER,
        "ready": Role.READER,
        "since": Role.READER,
        "stats": Role.READER,
        "status": Role.READER,
        "stuck": Role.READER,
        "titles": Role.READER,
        "wait": Role.READER,
        "workflow.list": Role.PLANNER,
        "workflow.status": Role.PLANNER,
        "claim": Role.WORKER,
        "create": Role.WORKER,
        "done": Role.WORKER,
        "escalate": Role.WORKER,
        "fail": Role.WORKER,
        "give_back": Role.WORKER,
        "heartbeat": Role.WORKER,
        "note": Role.WORKER,
        "note_attempt": Role.WORKER,
        "release": Role.WORKER,
        "renew_claims": Role.WORKER,
        "send": Role.WORKER,
        "skill": Role.WORKER,
        "update": Role.WORKER,
        "apply_plan": Role.PLANNER,
        "create.anywhere": Role.PLANNER,
        "decompose": Role.PLANNER,
        "defer": Role.PLANNER,
        "import_tasks": Role.PLANNER,
        "reopen": Role.PLANNER,
        "resolve": Role.PLANNER,
        "resolve.answer": Role.PLANNER,
        "update.anything": Role.PLANNER,
        "workflow.resume": Role.PLANNER,
        "workflow.start": Role.PLANNER,
        "add_token": Role.ADMIN,
        "approve": Role.ADMIN,
        "archive": Role.ADMIN,
        "cancel": Role.ADMIN,
        "doctor": Role.ADMIN,
        "mirror_refused": Role.ADMIN,
        "neighbours": Role.ADMIN,
        "refuse": Role.ADMIN,
        "resolve.cancel": Role.ADMIN,
        "resolve.reassign": Role.ADMIN,
        "resolve.retry": Role.ADMIN,
        "resolve.waive": Role.ADMIN,
        "revoke_tokens": Role.ADMIN,
        "take_escalation": Role.ADMIN,
        "tokens": Role.ADMIN,
    }
)
"""Which role each operation needs: a method of the graph's front, or one that stands above it. With a point: one of the
things that the operation before it may come to. What is not here needs the last role."""


def needs(operation: str) -> Role:
    """Which role an operation needs."""
    return NEEDS.get(operation, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls from afar. His agents are called `name`, or `name/` and something more. `client`: the program that he
    calls with, as it names itself."""

    name: str
    role: Role
    client: str = ""

    def owns(self, agent: str | None) -> bool:
        """Whether an agent of this name is his."""
        return agent is not None and (agent == self.name or agent.startswith(f"{self.name}/"))

    def may(self, operation: str) -> bool:
        """Whether his role is enough for an operation of `NEEDS`."""
        return self.role >= needs(operation)

    def must(self, operation: str) -> None:
        """Raises ForbiddenError unless he may."""
        if not self.may(operation):
            raise ForbiddenError(
                f"{operation.replace('.', ' ')} needs the role {needs(operation)}, and {self.name} is a {self.role}.",
                "Leave it to somebody who may, or ask whoever gave you the token for another one.",
            )

    @property
    def origin(self) -> dict[str, str]:
        """What an event says of him."""
        return {"principal": self.name} | ({"client": self.client} if self.client else {})
