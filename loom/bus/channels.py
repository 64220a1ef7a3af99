"""Every Redis name, spelled once.

The braces are part of the names: they keep a project's keys in one slot of a Redis Cluster.
"""

from __future__ import annotations


def _name(project_id: str, rest: str) -> str:
    return f"loom:{{{project_id}}}:{rest}"


def task_key(project_id: str, task_id: str) -> str:
    """Hash: one task."""
    return _name(project_id, f"task:{task_id}")


def status_set(project_id: str, status: str) -> str:
    """Set: the ids of the tasks in a status."""
    return _name(project_id, f"tasks:{status}")


def ready_queue(project_id: str) -> str:
    """Sorted set: the claimable ids, best first when read in reverse."""
    return _name(project_id, "tasks:ready")


def dead_letter_set(project_id: str) -> str:
    """Set: the ids of dead-lettered tasks."""
    return _name(project_id, "tasks:dead_letter")


def finished_versions(project_id: str) -> str:
    """Hash: the row version of each finished task, whose own hash expires."""
    return _name(project_id, "tasks:finished")


def event_stream(project_id: str) -> str:
    """Stream: every event in order, its id made of the transaction and the event."""
    return _name(project_id, "events")


def mirror_key(project_id: str) -> str:
    """Hash: which generation the mirror is and how far the relay has come."""
    return _name(project_id, "mirror")


def updates_channel(project_id: str) -> str:
    """Pub/sub: a task changed."""
    return _name(project_id, "tasks:updates")


def escalation_channel(project_id: str) -> str:
    """List and pub/sub: escalations to look at."""
    return _name(project_id, "escalations")


def agent_channel(project_id: str, agent: str) -> str:
    """Pub/sub: a message for one agent."""
    return _name(project_id, f"messages:{agent}")


def broadcast_channel(project_id: str) -> str:
    """Pub/sub: a message for all."""
    return _name(project_id, "broadcast")


def workflow_channel(project_id: str) -> str:
    """Pub/sub: a workflow went on, or a plan was proposed or refused."""
    return _name(project_id, "workflows")


def tokens_channel(project_id: str) -> str:
    """Pub/sub: access tokens were revoked."""
    return _name(project_id, "tokens")


def everything(project_id: str) -> str:
    """Pattern: all names of one project, glob characters escaped."""
    return _name(project_id, "*")
