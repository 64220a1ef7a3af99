"""Messages: to an agent, to everyone, and to a task, whose notes they are."""

from __future__ import annotations

from loom.graph import store
from loom.graph.rules.holding import not_found
from loom.graph.store import messages
from loom.graph.store.messages import Message
from loom.graph.store.transaction import Transaction
from loom.ids import TASK_ID


async def send(tx: Transaction, sender: str, to: str, text: str, thread_id: str | None = None) -> Message:
    """Stores a message; one to a task is a note on it. Raises TaskNotFoundError."""
    if not TASK_ID.fullmatch(to):
        return await messages.send(tx, sender, to, text, thread_id)
    if await store.get_task(tx.connection, tx.project_id, to) is None:
        raise not_found(to)
    return await messages.note(tx, to, sender, text)
