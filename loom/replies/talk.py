"""What is said: messages between agents, and escalations with their diagnoses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loom.replies.fitting import Reply, full
from loom.replies.parts import age

if TYPE_CHECKING:  # the MCP server imports this before its first answer
    from loom.graph.store.escalations import Escalation
    from loom.graph.store.messages import Inbox, Message


def inbox(found: Inbox) -> Reply:
    """An inbox."""
    reply = full(
        agent=found.agent, messages=[message(one) for one in found.messages], more=found.more or None, acked=found.acked
    )
    if not found.messages:
        reply |= {"messages": [], "note": "No messages."}
    return reply | {"count": len(found.messages)}


def message(sent: Message) -> Reply:
    """One message. Its text is what another agent wrote: data, whose author stands beside it."""
    return {
        "id": sent.id,
        "from": sent.sender,
        "to": sent.recipient,
        "thread_id": sent.thread_id,
        "text": sent.body,
        "age": age(sent.created_at),
    }


def escalations(found: Sequence[Escalation], deferred: Sequence[Escalation] = ()) -> Reply:
    """Open escalations, and apart from them what is deferred."""
    reply: Reply = {"escalations": [escalation(one) for one in found], "count": len(found)}
    if not found:
        reply["note"] = "No escalation is open."
    return reply | full(deferred=[escalation(one) for one in deferred] or None)


def escalation(one: Escalation) -> Reply:
    """One escalation, with its diagnosis where it has one."""
    return full(
        id=one.id,
        task_id=one.task_id,
        kind=one.kind,
        **{"from": one.raised_by},
        message=one.message,
        held_up=one.held_up or None,
        age=age(one.raised_at),
        attempt=one.attempt or None,
        resolution=one.resolution,
        resolved_by=one.resolved_by,
        note=one.note,
        diagnosis=None if one.diagnosis is None else diagnosis(one.diagnosis),
    )


def diagnosis(found: Mapping[str, Any]) -> Reply:
    """What somebody who decides needs of a diagnosis: not the evidence, nor what only the next worker must know."""
    names = ("cause", "confidence", "action", "question", "left", "proposed", "fixes", "run_id")
    return full(**{name: found.get(name) for name in names})
