"""What is announced beside the commit of a change: built here, carried to Redis by whoever committed, and again by the
relay, should he have died in between. A hint each time: Postgres holds the fact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loom.bus import channels, queue
from loom.bus.events import Event

DATA_BYTES = 2_048
"""How much of an event's data the stream carries."""

EVERYONE = "*"
"""The recipient of a message to all."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to publish on a channel. `enqueue` and `dequeue`: what joins or leaves the list of that name."""

    channel: str
    text: str
    enqueue: str | None = None
    dequeue: str | None = None


def publish_event(event: Event) -> dict[str, Any]:
    """An event as an entry of the stream: `id`, which is its position, and `fields`, flat. Large data stays in
    Postgres; the entry says how many bytes it has."""
    fields = event.fields()
    size = len(fields.get("data", "").encode())
    if size > DATA_BYTES:
        fields["data"] = json.dumps({"left_out": size})
    return {"id": str(event.position), "fields": [part for pair in fields.items() for part in pair]}


def publish_escalation(project_id: str, escalation_id: str, task_id: str, *, raised: bool) -> Notice:
    """Says that an escalation was raised, or resolved; the queue of open ones follows."""
    what, change = ("raised", queue.push_escalation) if raised else ("resolved", queue.pop_escalation)
    text = json.dumps({what: escalation_id, "task_id": task_id})
    return Notice(channels.escalation_channel(project_id), text, **change(escalation_id))


def send_agent_message(project_id: str, message_id: int, sender: str, recipient: str) -> Notice:
    """Says that a message was sent: to its agent, or to all for `EVERYONE`."""
    everyone = recipient == EVERYONE
    channel = channels.broadcast_channel(project_id) if everyone else channels.agent_channel(project_id, recipient)
    return Notice(channel, json.dumps({"message": message_id, "from": sender, "to": recipient}))


def publish_workflow(project_id: str, facts: Mapping[str, Any]) -> Notice:
    """Says that a workflow's run went on, or that a plan was proposed or refused."""
    return Notice(channels.workflow_channel(project_id), json.dumps(facts, ensure_ascii=False))


def publish_revocation(project_id: str) -> Notice:
    """Says that access tokens were revoked; which, whoever hears it looks up."""
    return Notice(channels.tokens_channel(project_id), "{}")
