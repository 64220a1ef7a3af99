"""Tasks and edges in PostgreSQL: the only module that writes them.

Every function is one or two statements on an open `Transaction`; what has to happen together, and in which order, is
decided by `deps` and the front. Statements that must see what was committed while they waited for a lock are separate
from the one that takes it: READ COMMITTED gives each statement a fresh view.

Rows are locked FOR NO KEY UPDATE, which lets foreign keys through; who adds an edge locks its target FOR SHARE, which
does not. Several rows are always locked in id order.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from loom import ids
from loom.bus.events import START, EventType, Position
from loom.graph.deps import epic_start, task_of
from loom.graph.task import Priority, Task, TaskStatus
from loom.graph.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row

_FIELDS = (
    "project_id, id, title, status, priority, version, created_at, updated_at, assignee, parent_id, context, output,"
    " done_when, ready_at, claimed_at, done_at, attempt, max_attempts, claim_token, lease_expires_at, deadline_at,"
    " retry_at, dead_reason, lapsed, origin_id, waiting"
)
# A task's row as `Task.from_record` wants it, read from `t`.
COLUMNS = (
    ", ".join(f"t.{column.strip()}" for column in _FIELDS.split(","))
    + ", array(select e.depends_on from task_deps e where e.project_id = t.project_id and e.task_id = t.id"
    " order by e.depends_on) as depends_on"
)

# `waiting` by its definition, for a row `t` that is locked: whoever counts it down holds that lock until it commits.
WAITING = """(
    (select count(*) from task_deps e join tasks d on d.project_id = e.project_id and d.id = e.depends_on
      where e.project_id = t.project_id and e.task_id = t.id and e.waived_at is null and d.status <> 'done')
  + (select count(*) from tasks p where p.project_id = t.project_id and p.id = t.parent_id and p.waiting > 0)
  + (select count(*) from escalations q where q.project_id = t.project_id and q.task_id = t.id
        and q.kind = 'question' and q.resolved_at is null)
)"""


# --- claims ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim just made: the task, and what its direct dependencies left (`output` as JSON text, cut at 8,001
    characters; `children` are the titles below a dependency that is an epic; at most 50 dependencies)."""

    task: Task
    inputs: tuple[dict[str, Any], ...]


BEST_READY = """(select id from tasks where project_id = $1 and status = 'pending'
                   order by priority, ready_at, id desc limit 1 for no key update skip locked)"""

# One round trip: the row, its event, and what the worker needs. The outer status is checked again because the row may
# have changed between the sub-select and the update.
_CLAIM = f"""
with claimed as (
    update tasks t
       set status = 'claimed', assignee = $2, claim_token = claim_token + 1, attempt = attempt + 1, lapsed = false,
           lease_seconds = $3, claimed_at = loom_now(), deadline_at = loom_now() + make_interval(secs => $4),
           lease_expires_at = loom_now() + make_interval(secs => least($3, $4)),
           version = version + 1, updated_at = loom_now()
     where project_id = $1 and status = 'pending' and id = any(array(%s))
    returning {COLUMNS}
), logged as (
    insert into events (project_id, type, task_id, status, version, agent, token)
    select project_id, 'task.claimed', id, status, version, assignee, claim_token from claimed
    returning xid::text as event_xid, id as event_id
)
select c.*, l.event_xid, l.event_id,
       (select coalesce(json_agg(json_build_object(
                   'id', d.id, 'title', d.title, 'status', d.status, 'output', left(d.output::text, 8001),
                   'children', array(select k.title from tasks k
                                      where k.project_id = $1 and k.parent_id = d.id order by k.id limit 20))
                   order by d.id), '[]')
          from (select e.depends_on from task_deps e where e.project_id = $1 and e.task_id = c.id
                 order by e.depends_on limit 50) e
          join tasks d on d.project_id = $1 and d.id = e.depends_on) as inputs
  from claimed c, logged l
"""
CLAIM_BEST = _CLAIM % BEST_READY
CLAIM_BY_ID = _CLAIM % "values ($5)"


async def claim_task(
    tx: Transaction, agent: str, *, lease_seconds: float, deadline_seconds: float, task_id: str | None = None
) -> Claim | None:
    """Claims one task, or the best ready one; counts the attempt and draws the next token.

    The event is written by the same statement, so that on its own, outside of a transaction block, it is a whole claim.
    None: the task is not claimable, or nothing is ready.
    """
    arguments: tuple[Any, ...] = (tx.project_id, agent, lease_seconds, deadline_seconds)
    if task_id is None:
        record = await tx.connection.fetchrow(CLAIM_BEST, *arguments)
    else:
        record = await tx.connection.fetchrow(CLAIM_BY_ID, *arguments, task_id)
    if record is None:
        return None
    task = Task.from_record(record)
    tx.logged(task, Position(int(record["event_xid"]), record["event_id"]))
    return Claim(task, tuple(json.loads(record["inputs"])))


async def renew_leases(connection: Connection, project_id: str, claims: Mapping[str, int]) -> dict[str, datetime]:
    """Gives each of these claims (token by task id) its lease anew, never past its deadline; one statement for all.

    Returns the new ends of those that still stand; whatever is missing was lost.
    """
    records = await connection.fetch(
        """
        update tasks t
           set lease_expires_at = least(loom_now() + make_interval(secs => t.lease_seconds), t.deadline_at)
          from unnest($2::text[], $3::bigint[]) c(id, token)
         where t.project_id = $1 and t.id = c.id and t.status = 'claimed' and t.claim_token = c.token
        returning t.id, t.lease_expires_at
        """,
        project_id,
        list(claims),
        list(claims.values()),
    )
    return {record["id"]: record["lease_expires_at"] for record in records}


async def complete_task(tx: Transaction, task_id: str, agent: str, token: int | None, output: str) -> Task | None:
    """Finishes the claim that `token` names, or without one the claim of `agent`, and writes its event in the same
    statement; None if there is no such claim."""
    record = await tx.connection.fetchrow(
        f"""
        with finished as (
            update tasks t
               set status = 'done', output = $5, done_at = loom_now(), lease_expires_at = null,
                   version = version + 1, updated_at = loom_now()
             where project_id = $1 and id = $2 and status = 'claimed'
               and (claim_token = $4 or ($4::bigint is null and assignee = $3))
            returning {COLUMNS}
        ), logged as (
            insert into events (project_id, type, task_id, status, version, agent, token)
            select project_id, 'task.done', id, status, version, $3, claim_token from finished
            returning xid::text as event_xid, id as event_id
        )
        select f.*, l.event_xid, l.event_id from finished f, logged l
        """,
        tx.project_id,
        task_id,
        agent,
        token,
        output,
    )
    if record is None:
        return None
    task = Task.from_record(record)
    tx.logged(task, Position(int(record["event_xid"]), record["event_id"]))
    return task


async def expired_claims(tx: Transaction, limit: int) -> list[Task]:
    """Locks claimed tasks whose lease is over, passing by what another sweep has locked."""
    return await _lock_unlocked(tx, "status = 'claimed' and lease_expires_at <= loom_now()", limit)


async def due_retries(tx: Transaction, limit: int) -> list[Task]:
    """Locks failed tasks whose retry time has come, passing by what another sweep has locked."""
    return await _lock_unlocked(tx, "status = 'failed' and retry_at <= loom_now()", limit)


async def _lock_unlocked(tx: Transaction, condition: str, limit: int) -> list[Task]:
    records = await tx.connection.fetch(
        f"select {COLUMNS} from tasks t where project_id = $1 and {condition}"
        " order by id limit $2 for no key update of t skip locked",
        tx.project_id,
        limit,
    )
    return [Task.from_record(record) for record in records]


@dataclass(frozen=True, slots=True)
class Pulse:
    """Whether a project wants anything from a sweep: leases over, retries due, everything finished since it was last
    announced, and where its newest event stands."""

    expired: bool
    due: bool
    complete: bool
    newest: Position


# Whether anything is unfinished is asked of the partial indexes, one after the other.
_UNFINISHED = """(
    exists(select from tasks where project_id = $1 and status = 'pending')
 or exists(select from tasks where project_id = $1 and status = 'claimed')
 or exists(select from tasks where project_id = $1 and status in ('blocked', 'epic'))
 or exists(select from tasks where project_id = $1 and status = 'failed'))"""
PULSE = f"""
select exists(select from tasks
               where project_id = $1 and status = 'claimed' and lease_expires_at <= loom_now()) as expired,
       exists(select from tasks where project_id = $1 and status = 'failed' and retry_at <= loom_now()) as due,
       not {_UNFINISHED}
         and (select done_at from tasks where project_id = $1 and done_at is not null order by done_at desc limit 1)
             > coalesce(completed_at, '-infinity') as complete,
       (select xid::text || '-' || id from events where project_id = $1 order by xid desc, id desc limit 1) as newest
  from projects where id = $1
"""


async def pulse(connection: Connection, project_id: str) -> Pulse:
    """One cheap query that tells whether there is anything to do."""
    record = await connection.fetchrow(PULSE, project_id)
    if record is None:
        return Pulse(False, False, False, START)
    newest = Position.parse(record["newest"]) if record["newest"] else START
    return Pulse(record["expired"], record["due"], bool(record["complete"]), newest)


async def mark_complete(tx: Transaction) -> bool:
    """Notes that the project is complete, if it is and nobody has noted it; the row's lock lets one process win."""
    await tx.connection.execute("select from projects where id = $1 for no key update", tx.project_id)
    marked: int | None = await tx.connection.fetchval(
        f"""
        update projects set completed_at = n.newest
          from (select max(done_at) as newest from tasks where project_id = $1 and done_at is not null) n
         where id = $1 and not {_UNFINISHED} and n.newest > coalesce(completed_at, '-infinity')
        returning 1
        """,
        tx.project_id,
    )
    return marked is not None


# --- one task -------------------------------------------------------------------------------------------------------


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


async def all_tasks(connection: Connection, project_id: str, batch: int) -> AsyncIterator[list[Task]]:
    """Every task of a project, in batches, read through a cursor of the open transaction."""
    cursor = await connection.cursor(f"select {COLUMNS} from tasks t where project_id = $1 order by id", project_id)
    while records := await cursor.fetch(batch):
        yield [Task.from_record(record) for record in records]


async def lock(tx: Transaction, task_ids: Iterable[str]) -> dict[str, Task]:
    """Locks these tasks for a change, in id order, and returns those that exist."""
    records = await tx.connection.fetch(
        f"select {COLUMNS} from tasks t where project_id = $1 and id = any($2::text[])"
        " order by id for no key update of t",
        tx.project_id,
        list(task_ids),
    )
    return {record["id"]: Task.from_record(record) for record in records}


async def hold(tx: Transaction, task_ids: Iterable[str]) -> dict[str, TaskStatus]:
    """Holds these tasks as targets of new edges (FOR SHARE, in id order): none finishes before this commits.

    The statuses are read afterwards, so that they are those of the rows as they are now held.
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


async def waiting(tx: Transaction, task_id: str) -> int:
    """`waiting` of a locked task, counted anew from its definition."""
    count: int = await tx.connection.fetchval(
        f"select {WAITING} from tasks t where project_id = $1 and id = $2", tx.project_id, task_id
    )
    return count


async def save(tx: Transaction, task: Task, *, context: str | None = None, output: str | None = None) -> Task:
    """Writes the fields of a locked task that can change, raises its version and returns it as it is now.

    `context` and `output` are JSON text; left out, the stored ones stay, so that bulky values are not written again.
    """
    record = await tx.connection.fetchrow(
        f"""
        update tasks t
           set title = $3, status = $4, priority = $5, waiting = $6, attempt = $7, lapsed = $8, assignee = $9,
               ready_at = $10, done_at = $11, lease_expires_at = $12, retry_at = $13, dead_reason = $14,
               done_when = $15, context = coalesce($16::jsonb, context), output = coalesce($17::jsonb, output),
               version = version + 1, updated_at = loom_now()
         where project_id = $1 and id = $2
        returning {COLUMNS}
        """,
        tx.project_id,
        task.id,
        task.title,
        task.status,
        _rank(task.priority),
        task.waiting,
        task.attempt,
        task.lapsed,
        task.assignee,
        task.ready_at,
        task.done_at,
        task.lease_expires_at,
        task.retry_at,
        task.dead_reason,
        task.done_when,
        context,
        output,
    )
    assert record is not None, "save takes a task that is locked"
    return Task.from_record(record)


# --- new tasks ------------------------------------------------------------------------------------------------------


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


async def create_task(tx: Transaction, task: NewTask) -> Task | None:
    """Inserts one task and its edges; None if the id is taken."""
    record = await tx.connection.fetchrow(
        f"""
        insert into tasks as t (project_id, id, title, status, priority, max_attempts, waiting, parent_id, context,
                                done_when, ready_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, case when $4 = 'pending' then loom_now() end)
        on conflict (project_id, id) do nothing
        returning {COLUMNS}
        """,
        tx.project_id,
        task.id,
        task.title,
        task.status,
        _rank(task.priority),
        task.max_attempts,
        task.waiting,
        task.parent_id,
        task.context,
        task.done_when,
    )
    if record is None:
        return None
    if not task.depends_on:
        return Task.from_record(record)
    await add_edges(tx, task.id, task.depends_on)
    return Task.from_record({**record, "depends_on": sorted(task.depends_on)})


async def insert_tasks(tx: Transaction, tasks: Sequence[NewTask]) -> dict[str, Task]:
    """Inserts many tasks and their edges with COPY, and returns them by id."""
    moment = await now(tx)
    tasks = sorted(tasks, key=lambda task: task.id)  # as their index has them, which is half the work
    edges = {task.id: sorted(task.depends_on) for task in tasks}
    await tx.connection.copy_records_to_table(
        "tasks",
        columns=[
            "project_id", "id", "title", "status", "priority", "max_attempts", "waiting", "parent_id", "context",
            "output", "done_when", "origin_id", "created_at", "updated_at", "ready_at", "done_at",
        ],
        records=[
            (
                tx.project_id, task.id, task.title, str(task.status), _rank(task.priority), task.max_attempts,
                task.waiting, task.parent_id, task.context, task.output, task.done_when, task.origin_id,
                task.created_at or moment, moment,
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


async def outline(
    tx: Transaction,
) -> list[tuple[str, str | None, TaskStatus, str | None, tuple[str, ...], frozenset[str]]]:
    """Every task of the project as far as an import has to know it: id, origin id, status, parent, what it depends on,
    and which of that is waived."""
    records = await tx.connection.fetch(
        """
        select t.id, t.origin_id, t.status, t.parent_id,
               array_remove(array_agg(e.depends_on order by e.depends_on), null) as depends_on,
               array_remove(array_agg(e.depends_on) filter (where e.waived_at is not null), null) as waived
          from tasks t left join task_deps e on e.project_id = t.project_id and e.task_id = t.id
         where t.project_id = $1 group by t.project_id, t.id
        """,
        tx.project_id,
    )
    return [
        (
            row["id"],
            row["origin_id"],
            TaskStatus(row["status"]),
            row["parent_id"],
            tuple(row["depends_on"]),
            frozenset(row["waived"] or ()),
        )
        for row in records
    ]


async def analyze(connection: Connection) -> None:
    """Refreshes the planner's statistics after a large insert, instead of waiting for autovacuum to notice."""
    await connection.execute("analyze tasks, task_deps, events")


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


# --- edges ----------------------------------------------------------------------------------------------------------


async def add_edges(tx: Transaction, task_id: str, targets: Iterable[str]) -> None:
    """Adds dependencies of one task; the targets are held, the counter is the caller's business."""
    await tx.connection.execute(
        "insert into task_deps (project_id, task_id, depends_on) select $1, $2, unnest($3::text[])",
        tx.project_id,
        task_id,
        list(targets),
    )


async def remove_edges(tx: Transaction, task_id: str, targets: Iterable[str]) -> None:
    """Removes dependencies of one task; the counter is the caller's business."""
    await tx.connection.execute(
        "delete from task_deps where project_id = $1 and task_id = $2 and depends_on = any($3::text[])",
        tx.project_id,
        task_id,
        list(targets),
    )


async def waive_edges(tx: Transaction, target: str, by: str, reason: str | None) -> list[str]:
    """Marks every edge to a task as waived; returns the dependents. Count them down first."""
    records = await tx.connection.fetch(
        """
        update task_deps set waived_at = loom_now(), waived_by = $3, waive_reason = $4
         where project_id = $1 and depends_on = $2 and waived_at is null returning task_id
        """,
        tx.project_id,
        target,
        by,
        reason,
    )
    return sorted(record["task_id"] for record in records)


async def waived_edges(connection: Connection, project_id: str) -> dict[str, set[str]]:
    """The waived edges of a project: task to what it was to depend on."""
    records = await connection.fetch(
        "select task_id, array_agg(depends_on) as targets from task_deps"
        " where project_id = $1 and waived_at is not null group by task_id",
        project_id,
    )
    return {record["task_id"]: set(record["targets"]) for record in records}


async def upstream(tx: Transaction, origins: Iterable[str]) -> dict[str, list[str]]:
    """Everything that these nodes of the waiting graph wait for: each node with the nodes it waits for.

    Nodes are named as in `deps`, each task of the store as if it were an epic. What is done waits for nothing, and
    waived edges do not count.
    """
    names = list(origins)
    records = await tx.connection.fetch(
        """
        with recursive up(id, at_start) as (
            select id collate "C", at_start from unnest($2::text[], $3::boolean[]) o(id, at_start)
            union
            select n.id, n.at_start
              from up u
              join tasks t on t.project_id = $1 and t.id = u.id and t.status <> 'done'
             cross join lateral (
                select u.id, true where not u.at_start
                union all
                select k.id, false from tasks k where not u.at_start and k.project_id = $1 and k.parent_id = u.id
                union all
                select e.depends_on, false from task_deps e
                 where u.at_start and e.project_id = $1 and e.task_id = u.id and e.waived_at is null
                union all
                select t.parent_id, true where u.at_start and t.parent_id is not null
             ) n(id, at_start)
        )
        select u.id, u.at_start, t.parent_id,
               array(select e.depends_on from task_deps e
                      where u.at_start and e.project_id = $1 and e.task_id = u.id and e.waived_at is null) as depends_on
          from up u join tasks t on t.project_id = $1 and t.id = u.id and t.status <> 'done'
        """,
        tx.project_id,
        [task_of(name) for name in names],
        [name != task_of(name) for name in names],
    )
    graph: dict[str, list[str]] = {}
    for record in records:
        task_id, parent_id = record["id"], record["parent_id"]
        if record["at_start"]:
            start = graph.setdefault(epic_start(task_id), [])
            start += record["depends_on"]
            if parent_id is not None:
                start.append(epic_start(parent_id))
        else:
            graph.setdefault(task_id, []).append(epic_start(task_id))
            if parent_id is not None:
                graph.setdefault(parent_id, []).append(task_id)
    return graph


# --- the cascade, level by level ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Level:
    """What one level of the cascade changed: tasks that became claimable (or blocked), and epics whose children now
    follow, cancelled ones included, whose children count as all others do."""

    tasks: tuple[Task, ...]
    epics: tuple[str, ...]


async def count_down_dependents(tx: Transaction, finished: Sequence[str]) -> Level:
    """Tells the dependents of finished tasks that they wait for one thing less each."""
    dependents = await tx.connection.fetch(
        """
        select id from tasks
         where project_id = $1 and id in (select task_id from task_deps
                                           where project_id = $1 and depends_on = any($2::text[]) and waived_at is null)
         order by id for no key update
        """,
        tx.project_id,
        finished,
    )
    if not dependents:
        return Level((), ())
    return _level(
        await tx.connection.fetch(
            _COUNT
            % """(select task_id as id, -count(*)::integer as step from task_deps
                   where project_id = $1 and depends_on = any($2::text[]) and waived_at is null group by task_id)""",
            tx.project_id,
            finished,
        )
    )


async def count_children(tx: Transaction, epics: Sequence[str], step: int) -> Level:
    """Tells the children of epics whose own `waiting` reached zero (step -1) or left it (step 1)."""
    await tx.connection.execute(
        "select from tasks where project_id = $1 and parent_id = any($2::text[]) order by id for no key update",
        tx.project_id,
        epics,
    )
    return _level(
        await tx.connection.fetch(
            _COUNT
            % "(select id, $3::integer as step from tasks where project_id = $1 and parent_id = any($2::text[]))",
            tx.project_id,
            epics,
            step,
        )
    )


# The counter moves in every status; what is mirrored, version and time, only where the status follows.
_COUNT = f"""
with counted as (
    update tasks t
       set waiting = t.waiting + c.step,
           status = case when t.status = 'blocked' and t.waiting + c.step = 0 then 'pending'
                         when t.status = 'pending' and t.waiting + c.step > 0 then 'blocked' else t.status end,
           ready_at = case when t.status = 'blocked' and t.waiting + c.step = 0 then loom_now()
                           when t.status = 'pending' then null else t.ready_at end,
           version = t.version + (t.status = 'pending' or (t.status = 'blocked' and t.waiting + c.step = 0))::integer,
           updated_at = case when t.status = 'pending' or (t.status = 'blocked' and t.waiting + c.step = 0)
                             then loom_now() else t.updated_at end
      from %s c
     where t.project_id = $1 and t.id = c.id
    returning t.*, c.step
)
select {COLUMNS}, t.step from counted t
 where t.status = 'pending' or (t.status = 'blocked' and t.waiting = t.step)
    or (t.status in ('epic', 'cancelled') and t.waiting = greatest(t.step, 0))
 order by t.id
"""


def _level(records: Sequence[Row]) -> Level:
    follows = [record["status"] in ("pending", "blocked") for record in records]
    return Level(
        tuple(Task.from_record(record) for record, moved in zip(records, follows, strict=True) if moved),
        tuple(record["id"] for record, moved in zip(records, follows, strict=True) if not moved),
    )


async def close_epic(tx: Transaction, epic_id: str) -> Task | None:
    """Closes an epic if all its children are finished: done if one is done, else cancelled. None: it stays open.

    The row is locked first and the children are looked at afterwards, so that of two last children the later one sees
    the earlier.
    """
    await tx.connection.execute(
        "select from tasks where project_id = $1 and id = $2 for no key update", tx.project_id, epic_id
    )
    record = await tx.connection.fetchrow(
        f"""
        update tasks t
           set status = case when exists(select from tasks k where k.project_id = $1 and k.parent_id = $2
                                            and k.status = 'done') then 'done' else 'cancelled' end,
               done_at = loom_now(), version = version + 1, updated_at = loom_now()
         where project_id = $1 and id = $2 and status = 'epic'
           and exists(select from tasks k where k.project_id = $1 and k.parent_id = $2)
           and not exists(select from tasks k where k.project_id = $1 and k.parent_id = $2
                             and k.status = any(array['pending', 'blocked', 'claimed', 'failed', 'epic']))
        returning {COLUMNS}
        """,
        tx.project_id,
        epic_id,
    )
    return None if record is None else Task.from_record(record)


async def get_dependents(connection: Connection, project_id: str, task_id: str) -> tuple[str, ...]:
    """Ids of the unfinished tasks that wait for this one over an edge that is not waived."""
    records = await connection.fetch(
        """
        select e.task_id from task_deps e join tasks t on t.project_id = e.project_id and t.id = e.task_id
         where e.project_id = $1 and e.depends_on = $2 and e.waived_at is null and t.done_at is null order by 1
        """,
        project_id,
        task_id,
    )
    return tuple(record["task_id"] for record in records)


async def consequences(
    connection: Connection, project_id: str, task_id: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the tasks that finishing a task unblocked and of the epics it closed: events of the same transaction."""
    records = await connection.fetch(
        """
        select e.type, e.task_id
          from events f join events e on e.project_id = f.project_id and e.xid = f.xid and e.id > f.id
         where f.project_id = $1 and f.task_id = $2 and f.type = 'task.done'
           and e.type in ('task.unblocked', 'task.done', 'task.cancelled') order by e.id
        """,
        project_id,
        task_id,
    )
    unblocked = tuple(record["task_id"] for record in records if record["type"] == EventType.TASK_UNBLOCKED)
    closed = tuple(record["task_id"] for record in records if record["type"] != EventType.TASK_UNBLOCKED)
    return unblocked, closed


def _rank(priority: Priority) -> int:
    return int(priority.value[1])
