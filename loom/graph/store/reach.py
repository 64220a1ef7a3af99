"""How far a change reaches: what lies below a task, over parents and over edges that hold."""

from __future__ import annotations

from collections.abc import Sequence

from loom.graph.store.edges import HOLDS
from loom.graph.store.transaction import Transaction


async def below(tx: Transaction, task_ids: Sequence[str], *, downstream: bool, finished: bool) -> list[str]:
    """These tasks and those below them: the children of epics, finished ones only with `finished`, and with
    `downstream` whatever waits for one of them over an edge that holds."""
    records = await tx.connection.fetch(
        f"""
        with recursive reach(id) as (
            select unnest($2::text[]) collate "C"
            union
            select n.id from reach r cross join lateral (
                select k.id from tasks k
                 where k.project_id = $1 and k.parent_id = r.id and ($4 or k.done_at is null)
                union all
                select e.task_id from task_deps e
                  join tasks t on t.project_id = $1 and t.id = e.task_id
                 where $3 and e.project_id = $1 and e.depends_on = r.id and {HOLDS}
            ) n
        )
        select id from reach order by id
        """,
        tx.project_id,
        task_ids,
        downstream,
        finished,
    )
    return [record["id"] for record in records]
