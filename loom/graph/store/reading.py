"""Questions about tasks: SQL that only reads, for people and agents who look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from loom.bus.events import Event
from loom.graph.model.notes import Note, noted
from loom.graph.model.task import Listed, Priority, Task, TaskStatus
from loom.graph.store import escalations, events, messages, proofs
from loom.graph.store.blockers import Blocker, blockers
from loom.graph.store.edges import HOLDS
from loom.graph.store.escalations import Escalation
from loom.graph.store.landings import Landing, of_task
from loom.graph.store.plans import WAITS
from loom.graph.store.proofs import Proof
from loom.graph.store.states import state_of
from loom.graph.store.tasks import COLUMNS, get_task

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row

PROOFS = 10  # that are shown with a task
_HELD_UP = 2_000  # tasks that a dead one is told to hold up
_NEWEST = 10  # events of a task that are shown with it
_BESIDE = 20  # blocked tasks beside one, of which is told what they wait for
_NAMED = 6  # children of an epic that are named


@dataclass(frozen=True, slots=True)
class Page:
    """Some tasks, and whether there are more: how many would cost a look at each."""

    tasks: list[Listed]
    more: bool = False


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A task that another one is tied to: enough to name it. `waived`: the edge between them does not hold any more."""

    id: str
    title: str
    status: TaskStatus
    state: str
    """As of a `Task`."""
    waived: bool = False


@dataclass(frozen=True, slots=True)
class Detail:
    """One task with all that is around it; `history` has its newest events first, `blockers` what it waits for,
    `proofs` the newest runs of checks for its newest claim, newest first."""

    task: Task
    blockers: list[Blocker]
    dependencies: list[Neighbour]
    dependents: list[Neighbour]
    children: list[Neighbour]
    escalations: list[Escalation]
    history: list[Event]
    proofs: list[Proof]
    landing: Landing | None = None
    """What the newest claim that lands came to; None where none ever was."""
    beside: dict[str, list[Blocker]] = field(default_factory=dict)
    """What those of its dependencies and children wait for that are blocked, by id; of many the first."""
    notes: Sequence[Note] = ()
    """Its newest notes, newest last."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a task came to: the beginning of its output as JSON, how many characters all of it has, and the branch and
    commit that its work has landed on."""

    id: str
    title: str
    status: TaskStatus
    output: str
    length: int
    landed: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class AgentView:
    """An agent that holds claims: which tasks, the first to lapse first. `stale`: less than a third of a lease is left,
    which nobody lets happen whose server still renews it."""

    agent: str
    tasks: list[Task]
    stale: bool


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead task, why it is dead, and how many unfinished tasks it holds up, directly or not; of very many some."""

    task: Task
    reason: str
    held_up: list[str]
    held_up_count: int


@dataclass(frozen=True, slots=True)
class Tallies:
    """How much of what is not a status there is: open escalations but for deferrals, those of them that are questions,
    deferrals, dead letters, failed tasks that wait to be tried again, agents that hold a claim themselves, workflows
    under way, plans that wait for a yes."""

    open_escalations: int
    questions: int
    deferred: int
    dead_letters: int
    retries_due: int
    agents: int
    open_workflows: int
    open_plans: int


async def get_ready_tasks(
    connection: Connection, project_id: str, *, limit: int, priority: Priority | None = None
) -> list[Listed]:
    """The best claimable tasks."""
    rank = None if priority is None else priority.rank
    return [Listed.from_record(record) for record in await connection.fetch(READY, project_id, rank, limit)]


READY = """
select id, title, status, priority, parent_id, created_at from tasks
 where project_id = $1 and status = 'pending' and ($2::int is null or priority = $2)
 order by priority, ready_at, id desc limit $3
"""


async def tallies(connection: Connection, project_id: str) -> Tallies:
    """What there is to tell of a project beside its counts."""
    record = await connection.fetchrow(
        f"""
        select (select count(*) from escalations
                 where project_id = $1 and resolved_at is null and kind <> 'deferred') as open_escalations,
               (select count(*) from escalations
                 where project_id = $1 and resolved_at is null and kind = 'question') as questions,
               (select count(*) from escalations
                 where project_id = $1 and resolved_at is null and kind = 'deferred') as deferred,
               (select count(*) from tasks
                 where project_id = $1 and status = 'failed' and retry_at is null) as dead_letters,
               (select count(*) from tasks
                 where project_id = $1 and status = 'failed' and retry_at is not null) as retries_due,
               (select count(distinct assignee) from tasks
                 where project_id = $1 and status = 'claimed' and lease_expires_at < 'infinity') as agents,
               (select count(*) from workflow_runs
                 where project_id = $1 and status in ('running', 'waiting')) as open_workflows,
               (select count(*) from plans p where {WAITS}) as open_plans
        """,
        project_id,
    )
    assert record is not None
    return Tallies(**record)


async def blocked_tasks(connection: Connection, project_id: str, limit: int) -> list[Listed]:
    """Some of the blocked tasks, the most urgent first."""
    records = await connection.fetch(
        "select id, title, status, priority, parent_id, created_at from tasks"
        " where project_id = $1 and status = 'blocked' order by priority, id limit $2",
        project_id,
        limit,
    )
    return [Listed.from_record(record) for record in records]


async def detail(connection: Connection, project_id: str, task_id: str) -> Detail | None:
    """One task with its neighbours, escalations and newest events."""
    task = await get_task(connection, project_id, task_id)
    if task is None:
        return None
    around: dict[str, list[Neighbour]] = {"dependent": [], "child": []}
    for row in await connection.fetch(_AROUND, project_id, task_id):
        around[row["kind"]].append(_neighbour(row))
    dependencies = await get_task_dependencies(connection, project_id, task_id) if task.depends_on else []
    held = [one.id for one in (*dependencies, *around["child"]) if one.status is TaskStatus.BLOCKED][:_BESIDE]
    own = [task_id] if task.waiting > 0 or task.retry_at is not None else []
    waits = await blockers(connection, project_id, [*own, *held]) if own or held else {}
    return Detail(
        task,
        blockers=waits.pop(task_id, []),
        beside=waits,
        dependencies=dependencies,
        dependents=around["dependent"],
        children=around["child"],
        escalations=await escalations.of_tasks(connection, project_id, [task_id]),
        history=await events.of_task(connection, project_id, task_id, limit=_NEWEST),
        notes=noted(task.context, (await messages.notes_of(connection, project_id, [task_id])).get(task_id, ())),
        landing=await of_task(connection, project_id, task_id) if task.landing_token else None,
        proofs=await proofs.of_task(connection, project_id, task_id, PROOFS, token=task.claim_token)
        if task.claim_token
        else [],
    )


_AROUND = f"""
select 'dependent' as kind, t.id, t.title, t.status, {state_of("t")} as state, e.waived_at is not null as waived
  from task_deps e
  join tasks t on t.project_id = e.project_id and t.id = e.task_id
 where e.project_id = $1 and e.depends_on = $2
 union all
select 'child', t.id, t.title, t.status, {state_of("t")}, false
  from tasks t where t.project_id = $1 and t.parent_id = $2
 order by 1, 2
"""


async def get_task_dependencies(connection: Connection, project_id: str, task_id: str) -> list[Neighbour]:
    """All that a task depends on, or did until it was waived."""
    records = await connection.fetch(
        f"""
        select t.id, t.title, t.status, {state_of("t")} as state, e.waived_at is not null as waived from task_deps e
          join tasks t on t.project_id = e.project_id and t.id = e.depends_on
         where e.project_id = $1 and e.task_id = $2 order by t.id
        """,
        project_id,
        task_id,
    )
    return [_neighbour(record) for record in records]


async def results(connection: Connection, project_id: str, task_ids: Sequence[str], characters: int) -> list[Result]:
    """What some tasks came to, in the order of the ids, each up to so many characters."""
    records = await connection.fetch(
        """
        select t.id, t.title, t.status, left(o.text, $3) as output, length(o.text) as length, l.target, l.landed_commit
          from unnest($2::text[]) with ordinality w(id, place)
          join tasks t on t.project_id = $1 and t.id = w.id
          left join landings l on l.project_id = $1 and l.task_id = t.id and l.token = t.claim_token
                              and l.state = 'landed',
               lateral (select coalesce(t.output::text, 'null') as text) o
         order by w.place
        """,
        project_id,
        task_ids,
        characters,
    )
    return [
        Result(
            one["id"],
            one["title"],
            TaskStatus(one["status"]),
            one["output"],
            one["length"],
            None if one["landed_commit"] is None else (one["target"], one["landed_commit"]),
        )
        for one in records
    ]


async def ready_children(connection: Connection, project_id: str, epic_id: str) -> list[str]:
    """Ids of claimable children of an epic, of many the first."""
    records = await connection.fetch(
        "select id from tasks where project_id = $1 and parent_id = $2 and status = 'pending' order by id limit $3",
        project_id,
        epic_id,
        _NAMED,
    )
    return [record["id"] for record in records]


async def children_among(connection: Connection, project_id: str, epic_id: str, task_ids: Sequence[str]) -> set[str]:
    """Those of some tasks that are children of an epic."""
    records = await connection.fetch(
        "select id from tasks where project_id = $1 and id = any($2::text[]) and parent_id = $3",
        project_id,
        list(task_ids),
        epic_id,
    )
    return {record["id"] for record in records}


async def list_active_tasks(connection: Connection, project_id: str, agent: str | None = None) -> list[Task]:
    """All claimed tasks, or those of one agent, by agent and lease."""
    records = await connection.fetch(
        f"""
        select {COLUMNS} from tasks t
         where project_id = $1 and status = 'claimed' and ($2::text is null or assignee = $2)
         order by assignee, lease_expires_at, id
        """,
        project_id,
        agent,
    )
    return [Task.from_record(record) for record in records]


async def agents(connection: Connection, project_id: str) -> list[AgentView]:
    """Who holds what, by name."""
    late = await connection.fetch(
        """
        select distinct assignee from tasks
         where project_id = $1 and status = 'claimed'
           and lease_expires_at < loom_now() + make_interval(secs => lease_seconds / 3)
        """,
        project_id,
    )
    stale = {record["assignee"] for record in late}
    held = await list_active_tasks(connection, project_id)
    return [
        AgentView(agent, list(tasks), agent in stale)
        for agent, tasks in groupby(held, key=lambda one: one.assignee or "")
    ]


async def dead_letters(connection: Connection, project_id: str, *, limit: int) -> list[DeadLetter]:
    """Dead tasks, oldest first, with what waits for them."""
    records = await connection.fetch(
        f"""
        select {COLUMNS}, array(
                 with recursive held(id) as (
                    select t.id
                    union
                    select n.id from held h cross join lateral (
                        select e.task_id from task_deps e
                          join tasks t on t.project_id = $1 and t.id = e.task_id
                         where e.project_id = $1 and e.depends_on = h.id and {HOLDS}
                        union all
                        select k.parent_id from tasks k
                         where k.project_id = $1 and k.id = h.id and k.parent_id is not null
                    ) n(id)
                 )
                 select n.id from (select h.id from held h where h.id <> t.id limit $3) n order by n.id
               ) as held
          from tasks t where project_id = $1 and status = 'failed' and retry_at is null order by updated_at, id limit $2
        """,
        project_id,
        limit,
        _HELD_UP,
    )
    return [
        DeadLetter(Task.from_record(row), row["dead_reason"] or "", row["held"][:20], len(row["held"]))
        for row in records
    ]


def _neighbour(record: Row) -> Neighbour:
    return Neighbour(record["id"], record["title"], TaskStatus(record["status"]), record["state"], record["waived"])
