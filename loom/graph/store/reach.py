"""How far a change reaches: what lies below a task, over parents and over edges that hold."""

from __future__ import annotations

from collections.abc import Sequence

from loom.graph.model.task import Task
from loom.graph.store.tasks import COLUMNS
from loom.graph.store.transaction import Transaction


async def below(tx: Transaction, task_ids: Sequence[str], *, downstream: bool) -> list[str]:
    """These tasks and the unfinished ones below them: the children of epics and, with `downstream`, whatever waits for
    one of them over an edge that is not waived."""
    records = await tx.connection.fetch(
        """
        with recursive reach(id) as (
            select unnest($2::text[]) collate "C"
            union
            select n.id from reach r cross join lateral (
                select k.id from tasks k where k.project_id = $1 and k.parent_id = r.id and k.done_at is null
                union all
                select e.task_id from task_deps e
                  join tasks t on t.project_id = $1 and t.id = e.task_id and t.done_at is null
                 where $3 and e.project_id = $1 and e.depends_on = r.id and e.waived_at is null
            ) n
        )
        select id from reach order by id
        """,
        tx.project_id,
        task_ids,
        downstream,
    )
    return [record["id"] for record in records]


async def started_below(tx: Transaction, epic_id: str) -> list[Task]:
    """Locks all descendants of a locked epic and returns those that are claimed or done, a few of them."""
    descendants = """
        with recursive reach(id) as (
            select $2::text collate "C"
            union
            select k.id from reach r join tasks k on k.project_id = $1 and k.parent_id = r.id
        )
    """
    await tx.connection.execute(
        f"{descendants} select from tasks where project_id = $1 and id in (select id from reach)"
        " order by id for no key update",
        tx.project_id,
        epic_id,
    )
    records = await tx.connection.fetch(
        f"""
        {descendants}
        select {COLUMNS} from tasks t
         where t.project_id = $1 and t.id <> $2 and t.id in (select id from reach) and t.status in ('claimed', 'done')
         order by t.id limit 3
        """,
        tx.project_id,
        epic_id,
    )
    return [Task.from_record(record) for record in records]
