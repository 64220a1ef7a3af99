"""Who holds a task, by which every report on it is judged; and in which words whoever does not is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.exceptions import ClaimConflictError, LoomError, TaskNotFoundError, TaskStateError
from loom.graph import store
from loom.graph.model.principals import Principal
from loom.graph.model.task import Task, TaskStatus
from loom.graph.store import reading
from loom.graph.store.blockers import Blocker, blockers
from loom.graph.store.escalations import EscalationKind
from loom.graph.store.transaction import Transaction
from loom.wording import Argument, Moment, Words, call

if TYPE_CHECKING:
    from loom.db.connection import Connection

_STOP = "Stop working on it: the result was not taken."


@dataclass(frozen=True, slots=True)
class Holder:
    """Who reports: an agent's name, and the token of the claim it reports on if it has one. `principal`: whose agent it
    is, where somebody calls from afar, whom a token alone gives no claim of anybody else's."""

    agent: str
    token: int | None = None
    principal: Principal | None = None

    def is_stranger_to(self, task: Task) -> bool:
        """Whether the newest claim of a task is another principal's."""
        return self.principal is not None and self.token is not None and not self.principal.owns(task.assignee)


async def locked(tx: Transaction, task_id: str) -> Task:
    """Locks a task for a change. Raises TaskNotFoundError."""
    found = await store.lock(tx, [task_id])
    if task_id not in found:
        raise not_found(task_id)
    return found[task_id]


def holds(task: Task, holder: Holder) -> bool:
    """Whether a task is claimed by this holder: by his token, or without one under his name."""
    if task.status is not TaskStatus.CLAIMED or holder.is_stranger_to(task):
        return False
    return task.claim_token == holder.token if holder.token is not None else task.assignee == holder.agent


def may_go_on(task: Task, token: int) -> bool:
    """Whether a report of this claim is taken: it stands, or it has ended by itself and nothing has moved on since."""
    if task.claim_token != token:
        return False
    lapsed = task.lapsed and task.waiting == 0 and (task.status is TaskStatus.PENDING or task.dead)
    return lapsed or task.status is TaskStatus.CLAIMED


# --- refusals ---------------------------------------------------------------------------------------------------------


def not_found(task_id: str) -> TaskNotFoundError:
    """The error for an id that the project does not have."""
    return TaskNotFoundError(
        f"There is no task {task_id} in this project.",
        Words("Look for it with {}.", call("status", filter=...)),
    )


async def refusal_to_claim(connection: Connection, project_id: str, task_id: str, agent: str) -> LoomError | None:
    """Why a task cannot be claimed by its id now; None: it can, it was given back in between."""
    task = await store.get_task(connection, project_id, task_id)
    if task is None:
        return not_found(task_id)
    other = Words("Claim another task with {}.", call("claim"))
    match task.status:
        case TaskStatus.PENDING:
            return None
        case TaskStatus.CLAIMED:
            if task.queued:
                return ClaimConflictError(
                    f"{task.id} is done by {task.assignee} and waits in the landing queue.",
                    Words("Take the best ready task with {}, or {}.", call("claim"), _wait_for(task)),
                )
            until = Moment(task.lease_expires_at) if task.lease_expires_at else "its release"
            if task.assignee == agent:
                return ClaimConflictError(
                    Words("{} is already claimed under your name, {}, until {}.", task.id, agent, until),
                    Words(
                        "Go on with it and report with {}, give it back with {}, or claim another one with {}.",
                        call("done", task_id=task.id),
                        call("release", task_id=task.id),
                        call("claim"),
                    ),
                )
            return ClaimConflictError(
                Words("{} is claimed by {} until {}.", task.id, str(task.assignee), until),
                Words("Take the best ready task with {}, or {}.", call("claim"), _wait_for(task)),
            )
        case TaskStatus.BLOCKED:
            waits = (await blockers(connection, project_id, [task_id])).get(task_id, [])
            for deferral in (one.id for one in waits if one.question == EscalationKind.DEFERRED):
                into_play = call("resolve", id=deferral, action="retry")
                other = Words(
                    "Claim another task with {}, or put this one into play with {}.", call("claim"), into_play
                )
            return TaskStateError(f"{task.id} is blocked; it waits for {', '.join(map(_named, waits))}.", other)
        case TaskStatus.FAILED:
            return _failed(task)
        case TaskStatus.EPIC:
            children = ", ".join(await reading.ready_children(connection, project_id, task_id))
            return TaskStateError(
                f"{task.id} is an epic, which is not claimed.",
                Words("Take one of its ready children with {}: {}.", call("claim", task_id=...), children)
                if children
                else "None of its children is ready now.",
            )
        case _:
            return TaskStateError(f"{task.id} is already {task.status}.", other)


def _named(one: Blocker) -> str:
    what = one.state or one.question or "a time"
    return f"{one.id} ({what}{', without children' if one.childless else ''})"


def refusal(task: Task, holder: Holder) -> LoomError:
    """Why a report on a task is not taken, with what happened instead."""
    if holder.token is not None and task.claim_token != holder.token:
        return ClaimConflictError(
            f"Claim {holder.token} of {task.id} was lost; the newest is {task.claim_token}, and the task is"
            f" {task.status.called}{f' by {task.assignee}' if task.status is TaskStatus.CLAIMED else ''}.",
            _STOP,
        )
    if holder.is_stranger_to(task):
        return not_yours(task, holder)
    match task.status:
        case TaskStatus.CLAIMED:
            return ClaimConflictError(
                f"{task.id} is claimed, and not by {holder.agent}.",
                Words("A report needs the claim that it is about: pass the {} that it returned.", Argument("token")),
            )
        case TaskStatus.BLOCKED:
            return TaskStateError(
                f"{task.id} is blocked and cannot be reported on.",
                Words("See {} for what it waits for.", call("status", task_id=task.id)),
            )
        case TaskStatus.EPIC:
            return TaskStateError(
                f"{task.id} is an epic, which closes by itself when its children are finished.", "Work on its children."
            )
        case TaskStatus.FAILED:
            return _failed(task)
        case TaskStatus.PENDING:
            again = Words("Claim it again with {} before you report on it.", call("claim", task_id=task.id))
            return ClaimConflictError(f"{task.id} is held by nobody now.", again)
        case _:
            return TaskStateError(f"{task.id} is already {task.status}.", _STOP)


def not_yours(task: Task, holder: Holder) -> LoomError:
    """The error for the claim of another principal's."""
    return ClaimConflictError(f"Claim {holder.token} of {task.id} was not made by an agent of yours.", _STOP)


def _failed(task: Task) -> TaskStateError:
    """The error for what cannot be done with failed work: when it is tried again, or what puts it into play."""
    if task.retry_at is None:
        return TaskStateError(
            f"{task.id} has failed and is a dead letter.",
            Words("It is put into play again with {}.", call("resolve", id=task.id, action="retry")),
        )
    return TaskStateError(
        f"{task.id} has failed and waits to be tried again.",
        Words(
            "It is ready again at {}; until then take another one with {}, or {}.",
            Moment(task.retry_at),
            call("claim"),
            _wait_for(task),
        ),
    )


def _wait_for(task: Task) -> Words:
    return Words("wait for this one with {}", call("wait", what="task", task_id=task.id))
