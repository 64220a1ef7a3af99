"""Tasks by the ids that they have elsewhere, in a tracker or under an idempotency key: what there is already when they
come again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.graph.model.task import Task, TaskStatus
from loom.graph.store.tasks import COLUMNS
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Row


@dataclass(frozen=True, slots=True)
class KnownTask:
    """A task as far as an import has to know it. `waived` are those of `depends_on` that it no longer waits for."""

    id: str
    origin_id: str | None
    status: TaskStatus
    parent_id: str | None = None
    depends_on: tuple[str, ...] = ()
    waived: frozenset[str] = frozenset()
    title: str = ""

    @classmethod
    def from_record(cls, record: Row) -> KnownTask:
        """Builds one from its row."""
        values = {field: record[field] for field in cls.__slots__}
        edges = {"depends_on": tuple(record["depends_on"]), "waived": frozenset(record["waived"])}
        return cls(**values | edges | {"status": TaskStatus(record["status"])})


async def by_origin(tx: Transaction, origins: Sequence[str]) -> dict[str, Task]:
    """Those of the tasks with these origin ids that there are, by them."""
    records = await tx.connection.fetch(
        f"select {COLUMNS} from tasks t where project_id = $1 and origin_id = any($2::text[])", tx.project_id, origins
    )
    return {record["origin_id"]: Task.from_record(record) for record in records}


async def known_tasks(tx: Transaction) -> list[KnownTask]:
    """Every task of the project."""
    records = await tx.connection.fetch(
        """
        select t.id, t.origin_id, t.title, t.status, t.parent_id,
               array_remove(array_agg(e.depends_on order by e.depends_on), null) as depends_on,
               coalesce(array_agg(e.depends_on) filter (where e.waived_at is not null), '{}') as waived
          from tasks t left join task_deps e on e.project_id = t.project_id and e.task_id = t.id
         where t.project_id = $1 group by t.project_id, t.id
        """,
        tx.project_id,
    )
    return [KnownTask.from_record(record) for record in records]


async def rename_origins(tx: Transaction, origins: Mapping[str, str]) -> list[Task]:
    """Gives locked tasks other origin ids, by id, and returns them as they are now."""
    records = await tx.connection.fetch(
        f"""
        update tasks t set origin_id = o.origin_id, version = version + 1, updated_at = loom_now()
          from unnest($2::text[], $3::text[]) o(id, origin_id)
         where t.project_id = $1 and t.id = o.id
        returning {COLUMNS}
        """,
        tx.project_id,
        list(origins),
        list(origins.values()),
    )
    return [Task.from_record(record) for record in records]
