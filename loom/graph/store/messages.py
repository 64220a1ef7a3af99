"""Durable messages between agents. A message is stored, then announced; an inbox reads and acknowledges by id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from loom import texts
from loom.bus.events import EventType
from loom.bus.publisher import EVERYONE, send_agent_message
from loom.graph.model.notes import NOTES, Note
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row

BROADCAST_HOURS = 24
_TOLD = 500  # characters of a note that its event has


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `recipient` is an agent's name, `*`, or the id of the task on which it is a note."""

    id: int
    sender: str
    recipient: str
    thread_id: str
    body: str
    created_at: datetime

    @classmethod
    def from_record(cls, record: Row) -> Message:
        """Builds a message from a row."""
        return cls(**{field: record[field] for field in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Inbox:
    """An agent's messages, how many more there are, and the ids that were acknowledged."""

    agent: str
    messages: list[Message]
    more: int
    acked: list[int]


_COLUMNS = "m.id, m.sender, m.recipient, m.thread_id, m.body, m.created_at"


async def send(tx: Transaction, sender: str, recipient: str, body: str, thread_id: str | None = None) -> Message:
    """Stores a message; without a `thread_id` it begins a thread that bears its own id."""
    message = await _store(tx, sender, recipient, body, thread_id)
    tx.record_event(EventType.MESSAGE_SENT, agent=sender, data={"message": message.id, "to": recipient})
    tx.announce(send_agent_message(tx.project_id, message.id, sender, recipient))
    return message


async def note(tx: Transaction, task_id: str, by: str, text: str) -> Message:
    """Stores a note on a task that is there."""
    message = await _store(tx, by, task_id, text, task_id)
    data = {"message": message.id, "text": texts.shorten(text, _TOLD)}
    tx.record_event(EventType.TASK_NOTED, task_id, agent=by, data=data)
    tx.announce(send_agent_message(tx.project_id, message.id, by, task_id))
    return message


async def notes_of(connection: Connection, project_id: str, task_ids: Sequence[str] | None) -> dict[str, list[Note]]:
    """The newest notes of these tasks, or of all, by task, newest last."""
    records = await connection.fetch(
        """
        select recipient, sender, body, created_at
          from (select m.*, row_number() over (partition by recipient order by id desc) as place
                  from messages m
                 where project_id = $1 and recipient like 'loom-%' and ($2::text[] is null or recipient = any($2))) n
         where place <= $3 order by recipient, id
        """,
        project_id,
        task_ids,
        NOTES,
    )
    found: dict[str, list[Note]] = {}
    for one in records:
        found.setdefault(one["recipient"], []).append(Note(one["sender"], one["body"], one["created_at"]))
    return found


NOTES_TOLD = f"""(select coalesce(json_agg(json_build_object(
                   'by', n.sender, 'text', left(n.body, 8001), 'at', n.created_at) order by n.id), '[]')
          from (select id, sender, body, created_at from messages
                 where project_id = $1 and recipient = {{task}} order by id desc limit {NOTES}) n)"""
"""The same of one task within a statement, as JSON, each up to 8,001 characters."""


async def _store(tx: Transaction, sender: str, recipient: str, body: str, thread_id: str | None) -> Message:
    record = await tx.connection.fetchrow(
        f"""
        with n as (select nextval(pg_get_serial_sequence('messages', 'id')) as id)
        insert into messages as m (project_id, id, sender, recipient, thread_id, body)
        overriding system value select $1, n.id, $2, $3, coalesce($4, n.id::text), $5 from n
        returning {_COLUMNS}
        """,
        tx.project_id,
        sender,
        recipient,
        thread_id,
        body,
    )
    assert record is not None
    return Message.from_record(record)


async def acknowledge(connection: Connection, project_id: str, agent: str, message_ids: Sequence[int]) -> list[int]:
    """Acknowledges messages to `agent`, or to everyone on its behalf; returns those that its inbox has."""
    records = await connection.fetch(
        """
        with mine as (
            update messages set acked_at = coalesce(acked_at, loom_now())
             where project_id = $1 and recipient = $2 and id = any($3::bigint[]) returning id
        ), shared as (
            insert into message_acks (project_id, message_id, agent)
            select project_id, id, $2 from messages where project_id = $1 and recipient = $4 and id = any($3::bigint[])
            on conflict (project_id, message_id, agent) do update set agent = excluded.agent
            returning message_id
        )
        select id from mine union select message_id from shared order by 1
        """,
        project_id,
        agent,
        list(message_ids),
        EVERYONE,
    )
    return [record["id"] for record in records]


async def inbox(
    connection: Connection, project_id: str, agent: str, *, unread: bool, thread_id: str | None, limit: int
) -> tuple[list[Message], int]:
    """Messages of an agent, newest last, and how many more there are: the oldest of those that are unread, of all the
    newest.

    A message to everyone is shown for 24 hours, until this agent acknowledges it, and not to its sender.
    """
    order = "asc" if unread else "desc"
    records = await connection.fetch(
        f"""
        select {_COLUMNS}, count(*) over () as total from messages m
         where project_id = $1 and ($4::text is null or thread_id = $4)
           and ((recipient = $2 and (acked_at is null or not $3::boolean))
             or (recipient = $5 and sender <> $2 and created_at > loom_now() - make_interval(hours => $6)
                 and not ($3::boolean and exists(select from message_acks a where a.project_id = $1
                                                    and a.message_id = m.id and a.agent = $2)))
             or (not $3::boolean and $4::text is not null and sender = $2))
         order by m.id {order} limit $7
        """,
        project_id,
        agent,
        unread,
        thread_id,
        EVERYONE,
        BROADCAST_HOURS,
        limit,
    )
    total = records[0]["total"] if records else 0
    found = [Message.from_record(record) for record in (records if unread else reversed(records))]
    return found, total - len(records)


async def thread(connection: Connection, project_id: str, thread_id: str, limit: int) -> list[Message]:
    """What was written in a thread, but for a task's notes, the oldest first; of very many the newest."""
    records = await connection.fetch(
        f"select {_COLUMNS} from messages m where project_id = $1 and thread_id = $2 and recipient <> $2"
        " order by m.id desc limit $3",
        project_id,
        thread_id,
        limit,
    )
    return [Message.from_record(record) for record in reversed(records)]


async def by_id(connection: Connection, project_id: str, ids: Sequence[int]) -> dict[int, Message]:
    """Those of these messages that are there."""
    records = await connection.fetch(
        f"select {_COLUMNS} from messages m where project_id = $1 and id = any($2::bigint[])", project_id, list(ids)
    )
    return {record["id"]: Message.from_record(record) for record in records}
