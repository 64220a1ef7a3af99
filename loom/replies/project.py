"""A project as a whole: how it stands, what is waited for where nothing is ready, who holds what, what is dead, and who
may come in from afar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loom.graph.model.task import TaskStatus
from loom.replies import landing
from loom.replies.fitting import Reply, full
from loom.replies.parts import time
from loom.replies.tasks import held_until, row, waits_for
from loom.wording import Words, call

if TYPE_CHECKING:  # the MCP server imports this before its first answer
    from loom.graph.project import ProjectStatus
    from loom.graph.store.reading import AgentView, DeadLetter
    from loom.graph.store.tokens import AccessToken


def overview(status: ProjectStatus) -> Reply:
    """A project at a glance."""
    return full(
        project_id=status.project_id,
        project=status.project_name,
        counts=status.counts,
        ready=status.ready_count,
        agents=status.agents,
        open_escalations=status.open_escalations,
        deferred=status.deferred or None,
        dead_letters=status.dead_letters,
        retries_due=status.retries_due,
        open_workflows=status.open_workflows or None,
        open_plans=status.open_plans or None,
        landing=landing.glance(status),
        blocked=[row(one) | full(waits_for=waits_for(status.blockers.get(one.id, ()))) for one in status.blocked_tasks],
    )


def nothing_ready(status: ProjectStatus) -> Reply:
    """The answer to a claim when nothing can be claimed: what is waited for."""
    waits = []
    if claimed_now := max(status.counts[TaskStatus.CLAIMED] - status.landing.queued, 0):
        waits.append(f"{claimed_now} claimed by {status.agents} agent{'s' * (status.agents != 1)}")
    if status.landing.queued:
        waits.append(f"{status.landing.queued} waiting to be landed")
    if blocked := status.counts[TaskStatus.BLOCKED]:
        waits.append(f"{blocked} blocked")
    if status.retries_due:
        waits.append(f"{status.retries_due} waiting to be tried again")
    if status.dead_letters:
        waits.append(f"{status.dead_letters} dead-lettered")
    if status.open_escalations:
        waits.append(f"{status.open_escalations} open escalation{'s' * (status.open_escalations != 1)}")
    if status.deferred:
        waits.append(f"{status.deferred} deferred")
    if waits:
        return {
            "status": "nothing_ready",
            "waiting_for": ", ".join(waits),
            "next": Words("Wait with {}, then claim again.", call("wait", what="ready")),
        }
    finished = status.counts[TaskStatus.DONE] + status.counts[TaskStatus.CANCELLED]
    what = f"all {finished} tasks are finished" if finished else "the project has no tasks yet"
    return {"status": "nothing_ready", "waiting_for": what, "next": "There is nothing to do; create tasks if there is."}


def agents(views: Sequence[AgentView]) -> Reply:
    """Who holds what."""
    if not views:
        return {"agents": [], "count": 0, "note": "Nobody holds a claim now."}
    rows = [
        full(
            agent=view.agent,
            stale=view.stale or None,
            tasks=[{"id": one.id, "title": one.title} | held_until(one) for one in view.tasks],
        )
        for view in views
    ]
    return {"agents": rows, "count": len(rows)}


def dead_letters(found: Sequence[DeadLetter]) -> Reply:
    """Dead tasks, and what they hold up."""
    if not found:
        return {"tasks": [], "count": 0, "note": "No task is dead-lettered."}
    rows = [
        row(one.task)
        | full(
            reason=one.reason, attempts=one.task.attempt, held_up=one.held_up, held_up_count=one.held_up_count or None
        )
        for one in found
    ]
    return {"tasks": rows, "count": len(rows)}


def token(one: AccessToken) -> Reply:
    """An access token, without its secret."""
    return full(
        id=one.id,
        name=one.name,
        role=str(one.role),
        created_at=time(one.created_at),
        created_by=one.created_by,
        expires_at=time(one.expires_at),
        revoked_at=time(one.revoked_at),
        last_used_at=time(one.last_used_at),
        last_client=one.last_client,
    )
