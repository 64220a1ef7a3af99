"""How long is kept what nobody needs any more: events, messages, runs, proofs, and claims that landed nothing. Tasks
and their escalations stay."""

from __future__ import annotations

from loom.config import RetentionConfig
from loom.graph.store import counting, retention
from loom.graph.store.transaction import Transaction


async def prune(tx: Transaction, keep: RetentionConfig) -> bool:
    """One batch of each kind; whether there may be more to take away now. 0 days keep a kind for ever."""
    if not await retention.take_turn(tx):
        return False
    while await counting.keep(tx):  # which reads events that may go now
        pass
    most = 0
    for days, step in (
        (keep.events_days, retention.prune_events),
        (keep.messages_days, retention.prune_messages),
        (keep.runs_days, retention.prune_runs),
        (keep.runs_days, retention.prune_proofs),
        (keep.runs_days, retention.prune_landings),
    ):
        if days:
            most = max(most, await step(tx, days))
    return most >= retention.BATCH
