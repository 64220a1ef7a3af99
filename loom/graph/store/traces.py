"""To which trace a task belongs, so that its attempts find each other; kept only where something records traces."""

from __future__ import annotations

from loom.graph.store.transaction import Transaction


async def keep(tx: Transaction, task_id: str, traceparent: str) -> str:
    """Keeps the first trace of a task, and returns it."""
    kept: str = await tx.connection.fetchval(
        """
        insert into task_traces as t (project_id, task_id, traceparent) values ($1, $2, $3)
        on conflict (project_id, task_id) do update set traceparent = t.traceparent returning traceparent
        """,
        tx.project_id,
        task_id,
        traceparent,
    )
    return kept
