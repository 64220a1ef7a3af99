"""Rows of `tasks`: read, locked, written, and inserted by the thousand.

Statements that must see what was committed while they waited for a lock are separate from the one that takes it: READ
COMMITTED gives each statement a fresh view. Rows are locked FOR NO KEY UPDATE, which lets foreign keys through; who
adds an edge locks its target FOR SHARE, which does not. Several rows are always locked in id order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from loom import ids
from loom.bus.events import Position
from loom.graph.model.task import FOREVER, Priority, Task, TaskStatus
from loom.graph.store.edges import add_edges
from loom.graph.store.escalations import HOLDING
from loom.graph.store.events import record_events
from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection


_FIELDS = (
    "project_id, id, title, status, priority, version, created_at, updated_at, assignee, parent_id, context, output,"
    " done_when, ready_at, claimed_at, done_at, attempt, max_attempts, claim_token, lease_expires_at, deadline_at,"
    " retry_at, dead_reason, lapsed, origin_id, waiting, files, checks, labels, landing_token"
)

# A task's row as `Task.from_record` wants it, read from `t`.
COLUMNS = (
    ", ".join(f"t.{column.strip()}" for column in _FIELDS.split(","))
    + ", array(select e.depends_on from task_deps e where e.project_id = t.project_id and e.task_id = t.id"
    " order by e.depends_on) as depends_on"
)

# `waiting` by its definition, for a row `t` that is locked: whoever counts it down holds that lock until it commits.
WAITING = f"""(
    (select count(*) from task_deps e join tasks d on d.project_id = e.project_id and d.id = e.depends_on
      where e.project_id = t.project_id and e.task_id = t.id and e.waived_at is null and d.status <> 'done')
  + (select count(*) from tasks p where p.project_id = t.project_id and p.id = t.parent_id and p.waiting > 0)
  + (select count(*) from escalations q where q.project_id = t.project_id and q.task_id = t.id and {HOLDING})
)"""


async def now(tx: Transaction) -> datetime:
    """The time by Loom's clock, the same throughout a transaction."""
    moment: datetime = await tx.connection.fetchval("select loom_now()")
    return moment


async def get_task(connection: Connection, project_id: str, task_id: str) -> Task | None:
    """One task as it is committed, not locked."""
    record = await connection.fetchrow(
        f"select {COLUMNS} from tasks t where project_id = $1 and id = $2", project_id, task_id
    )
    return None if record is None else Task.from_record(record)


async def get_tasks(connection: Connection, project_id: str, task_ids: Iterable[str]) -> dict[str, Task]:
    """Those of these tasks that exist, by id, not locked."""
    records = await connection.fetch(
        f"select {COLUMNS} from tasks t where project_id = $1 and id = any($2::text[])", project_id, list(task_ids)
    )
    return {record["id"]: Task.from_record(record) for record in records}


async def list_all_tasks(connection: Connection, project_id: str, batch: int) -> AsyncIterator[list[Task]]:
    """Every task of a project, in batches by id: as of one moment in a snapshot, else each batch as it is then."""
    last = ""
    while records := await connection.fetch(
        f"select {COLUMNS} from tasks t where project_id = $1 and id > $2 order by id limit $3", project_id, last, batch
    ):
        yield [Task.from_record(record) for record in records]
        last = records[-1]["id"]


async def lock(tx: Transaction, task_ids: Iterable[str]) -> dict[str, Task]:
    """Locks these tasks for a change, in id order, and returns those that exist."""
    records = await tx.connection.fetch(
        f"select {COLUMNS} from tasks t where project_id = $1 and id = any($2::text[])"
        " order by id for no key update of t",
        tx.project_id,
        list(task_ids),
    )
    return {record["id"]: Task.from_record(record) for record in records}


async def lock_statuses(tx: Transaction, task_ids: Iterable[str]) -> dict[str, TaskStatus]:
    """As `lock`, for who needs no more than the statuses."""
    records = await tx.connection.fetch(
        "select id, status from tasks where project_id = $1 and id = any($2::text[]) order by id for no key update",
        tx.project_id,
        list(task_ids),
    )
    return {record["id"]: TaskStatus(record["status"]) for record in records}


async def lock_targets(tx: Transaction, task_ids: Iterable[str]) -> dict[str, TaskStatus]:
    """Locks these tasks as targets of new edges (FOR SHARE, in id order): none finishes before this commits.

    The statuses are read afterwards, so that they are those of the rows as they are now locked.
    """
    wanted = list(task_ids)
    await tx.connection.execute(
        "select from tasks where project_id = $1 and id = any($2::text[]) order by id for share", tx.project_id, wanted
    )
    records = await tx.connection.fetch(
        "select id, status from tasks where project_id = $1 and id = any($2::text[])", tx.project_id, wanted
    )
    return {record["id"]: TaskStatus(record["status"]) for record in records}


async def lock_graph(tx: Transaction) -> None:
    """Takes the project's lock on the shape of its graph, until the transaction ends: before any cycle check."""
    await tx.connection.execute("select pg_advisory_xact_lock(hashtextextended('loom.graph:' || $1, 0))", tx.project_id)


async def lock_key(tx: Transaction, key: str) -> None:
    """Takes the lock on what is made under an idempotency key, until the transaction ends."""
    name = f"loom.key:{tx.project_id}:{key}"
    await tx.connection.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", name)


async def waiting(tx: Transaction, task_id: str) -> int:
    """`waiting` of a locked task, counted anew from its definition."""
    count: int = await tx.connection.fetchval(
        f"select {WAITING} from tasks t where project_id = $1 and id = $2", tx.project_id, task_id
    )
    return count


async def update_task(
    tx: Transaction,
    task: Task,
    *,
    context: str | None = None,
    output: str | None = None,
    files: Sequence[str] | None = None,
    checks: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> Task:
    """Writes the fields of a locked task that can change, raises its version and returns it as it is now.

    `context` and `output` are JSON text; they and the lists stay as they are stored where they are left out, so
    that bulky values are not written again.
    """
    record = await tx.connection.fetchrow(
        f"""
        update tasks t
           set title = $3, status = $4, priority = $5, waiting = $6, attempt = $7, lapsed = $8, assignee = $9,
               ready_at = $10, done_at = $11, lease_expires_at = $12, retry_at = $13, dead_reason = $14,
               done_when = $15, context = coalesce($16::jsonb, context), output = coalesce($17::jsonb, output),
               files = coalesce($18::text[], files), checks = coalesce($19::text[], checks),
               labels = coalesce($20::text[], labels), parent_id = $21,
               version = version + 1, updated_at = loom_now()
         where project_id = $1 and id = $2
        returning {COLUMNS}
        """,
        tx.project_id,
        task.id,
        task.title,
        task.status,
        task.priority.rank,
        task.waiting,
        task.attempt,
        task.lapsed,
        task.assignee,
        task.ready_at,
        task.done_at,
        FOREVER if task.queued else task.lease_expires_at,
        task.retry_at,
        task.dead_reason,
        task.done_when,
        context,
        output,
        files,
        checks,
        labels,
        task.parent_id,
    )
    assert record is not None, "update_task takes a task that is locked"
    return Task.from_record(record)


async def place(tx: Transaction, task_id: str, parent_id: str | None) -> None:
    """Puts a locked task into an epic, or into none, so that what it waits for can be counted; `update_task` raises its
    version."""
    await tx.connection.execute(
        "update tasks set parent_id = $3 where project_id = $1 and id = $2", tx.project_id, task_id, parent_id
    )


async def update_task_status(
    tx: Transaction,
    task: Task,
    status: TaskStatus,
    *,
    output: str | None = None,
    **fields: Any,
) -> Task:
    """Gives a locked task another status, and what goes with it; see `update_task`. What is not pending has no time
    since which it was ready, unless `fields` say so, and what is not claimed no lease."""
    if status is not TaskStatus.PENDING:
        fields.setdefault("ready_at", None)
    if status is not TaskStatus.CLAIMED:
        fields |= {"lease_expires_at": None, "queued": False}
    return await update_task(tx, replace(task, status=status, **fields), output=output)


async def reopen_task(tx: Transaction, task: Task, status: TaskStatus, waiting: int) -> Task:
    """Gives a locked task that is finished a status of those that are not, as if nobody had worked on it; its token
    stays, which only grows."""
    record = await tx.connection.fetchrow(
        f"""
        update tasks t
           set status = $3, waiting = $4, done_at = null, output = null, attempt = 0, lapsed = false,
               landing_token = 0, retry_at = null, dead_reason = null,
               ready_at = case when $3 = 'pending' then loom_now() end, version = version + 1, updated_at = loom_now()
         where project_id = $1 and id = $2
        returning {COLUMNS}
        """,
        tx.project_id,
        task.id,
        status,
        waiting,
    )
    assert record is not None, "reopen_task takes a task that is locked"
    return Task.from_record(record)


async def lock_dependents(tx: Transaction, task_id: str) -> dict[str, TaskStatus]:
    """Locks what waits for a task over edges that are not waived, in id order, and returns the statuses."""
    records = await tx.connection.fetch(
        "select id, status from tasks where project_id = $1 and id = any(array("
        " select task_id from task_deps where project_id = $1 and depends_on = $2 and waived_at is null))"
        " order by id for no key update",
        tx.project_id,
        task_id,
    )
    return {record["id"]: TaskStatus(record["status"]) for record in records}


async def some_children(connection: Connection, project_id: str, task_id: str, limit: int) -> list[str]:
    """Ids of some children of a task, whatever has become of them."""
    records = await connection.fetch(
        "select id from tasks where project_id = $1 and parent_id = $2 order by id limit $3", project_id, task_id, limit
    )
    return [record["id"] for record in records]


async def cancel_tasks(tx: Transaction, task_ids: Sequence[str]) -> list[Task]:
    """Cancels those of these locked tasks that are unfinished; epics only where they have no children, since the others
    close by their children."""
    records = await tx.connection.fetch(
        f"""
        update tasks t
           set status = 'cancelled', waiting = {WAITING}, done_at = loom_now(), lease_expires_at = null,
               retry_at = null, ready_at = null, version = version + 1, updated_at = loom_now()
         where project_id = $1 and id = any($2::text[]) and done_at is null
           and (status <> 'epic' or not exists(select from tasks k where k.project_id = $1 and k.parent_id = t.id))
        returning {COLUMNS}
        """,
        tx.project_id,
        task_ids,
    )
    return [Task.from_record(record) for record in records]


@dataclass(frozen=True, slots=True)
class NewTask:
    """One row to insert. `depends_on` are ids; those in `waived` come in as waived edges. JSON fields are text."""

    id: str
    title: str
    status: TaskStatus
    priority: Priority
    max_attempts: int
    waiting: int = 0
    parent_id: str | None = None
    context: str = "{}"
    output: str | None = None
    done_when: str | None = None
    depends_on: tuple[str, ...] = ()
    waived: frozenset[str] = frozenset()
    origin_id: str | None = None
    created_at: datetime | None = None
    done_at: datetime | None = None
    files: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


async def draw_ids(tx: Transaction, count: int) -> list[str]:
    """Draws ids that are distinct and not taken; whoever draws the same meanwhile is refused by the primary key."""
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        fresh = {ids.task_id(): None for _ in range(count - len(drawn))}
        taken = await tx.connection.fetch(
            "select id from tasks where project_id = $1 and id = any($2::text[])", tx.project_id, list(fresh)
        )
        for record in taken:
            del fresh[record["id"]]
        drawn |= fresh
    return list(drawn)


async def create_task(tx: Transaction, task: NewTask, agent: str) -> Task | None:
    """Inserts one task and its edges, and writes its event in the same statement, so that for a task without edges it
    is all there is to do, on its own, outside of a transaction block. None if the id is taken."""
    await record_events(tx)
    record = await tx.connection.fetchrow(
        _CREATE,
        tx.project_id,
        task.id,
        task.title,
        task.status,
        task.priority.rank,
        task.max_attempts,
        task.waiting,
        task.parent_id,
        task.context,
        task.done_when,
        task.files,
        task.checks,
        task.labels,
        agent,
        tx.stored(None),
        task.origin_id,
    )
    if record is None:
        return None
    if task.depends_on:
        await add_edges(tx, task.id, task.depends_on)
    created = Task.from_record({**record, "depends_on": sorted(task.depends_on)})
    tx.logged(created, Position(int(record["event_xid"]), record["event_id"]))
    return created


_CREATE = f"""
with created as (
    insert into tasks (project_id, id, title, status, priority, max_attempts, waiting, parent_id, context, done_when,
                       files, checks, labels, origin_id, ready_at)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $16, case when $4 = 'pending' then loom_now() end)
    on conflict (project_id, id) do nothing
    returning {_FIELDS}
), logged as (
    insert into events (project_id, type, task_id, status, version, agent, data)
    select project_id, 'task.created', id, status, version, $14, $15::jsonb from created
    returning xid::text as event_xid, id as event_id
)
select c.*, l.event_xid, l.event_id from created c, logged l
"""


async def insert_tasks(tx: Transaction, tasks: Sequence[NewTask]) -> dict[str, Task]:
    """Inserts many tasks and their edges with COPY, and returns them by id."""
    moment = await now(tx)
    tasks = sorted(tasks, key=lambda task: task.id)  # as their index has them, which is half the work
    edges = {task.id: sorted(task.depends_on) for task in tasks}
    await tx.connection.copy_records_to_table(
        "tasks",
        columns=[
            "project_id", "id", "title", "status", "priority", "max_attempts", "waiting", "parent_id", "context",
            "output", "done_when", "origin_id", "files", "checks", "labels",
            "created_at", "updated_at", "ready_at", "done_at",
        ],
        records=[
            (
                tx.project_id, task.id, task.title, str(task.status), task.priority.rank, task.max_attempts,
                task.waiting, task.parent_id, task.context, task.output, task.done_when, task.origin_id,
                task.files, task.checks, task.labels, task.created_at or moment, moment,
                moment if task.status is TaskStatus.PENDING else None,
                (task.done_at or moment) if task.status.finished else None,
            )
            for task in tasks
        ],
    )  # fmt: skip
    await tx.connection.copy_records_to_table(
        "task_deps",
        columns=["project_id", "task_id", "depends_on", "waived_at", "waived_by", "waive_reason"],
        records=[
            (
                tx.project_id,
                task.id,
                target,
                *((moment, "import", "finished before it") if target in task.waived else (None,) * 3),
            )
            for task in tasks
            for target in edges[task.id]
        ],
    )
    records = await tx.connection.fetch(
        f"select {_FIELDS} from tasks where project_id = $1 and id = any($2::text[])", tx.project_id, list(edges)
    )
    return {one["id"]: Task.from_record({**one, "depends_on": edges[one["id"]]}) for one in records}
