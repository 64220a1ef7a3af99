"""What must always hold in a project, checked on one snapshot of a live one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.db.connection import snapshot, translated
from loom.graph import store
from loom.graph.cache import Cache
from loom.graph.deps import detect_cycle, tasks_of_cycle, waits_for
from loom.graph.relay import Relay

if TYPE_CHECKING:
    from loom.db.connection import Connection, Pool

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: whether it held, what was found, and how to mend it."""

    check: str
    ok: bool
    found: str = ""
    mend: str = ""


# Each query returns the ids that break a rule.
_RULES = {
    "waiting equals its definition": f"""
        select t.id from tasks t where t.project_id = $1 and t.waiting <> {store.WAITING}""",
    "pending and claimed tasks wait for nothing": """
        select id from tasks where project_id = $1 and status in ('pending', 'claimed') and waiting > 0""",
    "blocked tasks wait for something": """
        select id from tasks where project_id = $1 and status = 'blocked' and waiting = 0""",
    "a task is claimed if and only if there is a lease": """
        select id from tasks where project_id = $1 and (status = 'claimed') <> (lease_expires_at is not null)""",
    "an epic is closed if and only if its children are": """
        select p.id from tasks p
          join lateral (select count(*) as n, count(*) filter (where k.done_at is null) as open,
                               count(*) filter (where k.status = 'done') as done
                          from tasks k where k.project_id = p.project_id and k.parent_id = p.id) k on k.n > 0
         where p.project_id = $1
           and p.status <> case when k.open > 0 then 'epic' when k.done > 0 then 'done' else 'cancelled' end""",
    "nothing is done before its dependencies": """
        select t.id from tasks t
          join task_deps e on e.project_id = t.project_id and e.task_id = t.id and e.waived_at is null
          join tasks d on d.project_id = e.project_id and d.id = e.depends_on
         where t.project_id = $1 and t.status = 'done' and d.status <> 'done'""",
    "a task's last event is its row": """
        select t.id from tasks t
          left join lateral (select e.status, e.version from events e
                              where e.project_id = t.project_id and e.task_id = t.id and e.version is not null
                              order by e.version desc limit 1) e on true
         where t.project_id = $1 and (e.version is distinct from t.version or e.status is distinct from t.status)""",
    "each change has one event": """
        select task_id from events where project_id = $1 and version is not null
         group by task_id, version having count(*) > 1""",
}


async def check(pool: Pool, cache: Cache, relay: Relay, project_id: str) -> list[Finding]:
    """Every invariant, in one REPEATABLE READ snapshot; the mirror is compared once the relay has passed that point."""
    with translated():
        async with snapshot(pool) as connection:
            findings = [await _rule(connection, project_id, name, query) for name, query in _RULES.items()]
            findings.append(await _acyclic(connection, project_id))
    findings.append(await _mirror(pool, cache, relay, project_id))
    return findings


async def _rule(connection: Connection, project_id: str, name: str, query: str) -> Finding:
    broken = [record[0] for record in await connection.fetch(query, project_id)]
    return _finding(name, broken, "Please report this with the output of `loom export`; no data was lost.")


async def _acyclic(connection: Connection, project_id: str) -> Finding:
    rows = await connection.fetch(
        """
        select t.id, t.parent_id,
               array(select e.depends_on from task_deps e
                      where e.project_id = $1 and e.task_id = t.id and e.waived_at is null) as depends_on
          from tasks t where t.project_id = $1 order by t.id
        """,
        project_id,
    )
    parents = {row["id"]: row["parent_id"] for row in rows}
    edges = waits_for(
        {row["id"]: row["depends_on"] for row in rows}, parents, {parent for parent in parents.values() if parent}
    )
    cycle = detect_cycle(edges)
    return _finding(
        "the graph has no cycle",
        tasks_of_cycle(cycle) if cycle else [],
        "Remove one of these dependencies with `loom update TASK --depends-on …`.",
    )


async def _mirror(pool: Pool, cache: Cache, relay: Relay, project_id: str) -> Finding:
    """Compares Redis with Postgres, looking again at what differs, since others write meanwhile."""
    name = "Redis equals Postgres"
    if not await relay.step():
        return Finding(name, True, "not compared: Redis is away or being filled; every command works without it")
    held = await cache.everything()
    suspects: set[str] | None = None
    for _ in range(3):
        if held is None:
            return Finding(name, True, "not compared: Redis is away; every command works without it")
        differing = set()
        with translated():
            async with snapshot(pool) as connection:
                async for tasks in store.all_tasks(connection, project_id, 500):
                    differing |= {task.id for task in tasks if not held.shows(task)}
                known = {
                    row["id"]
                    for row in await connection.fetch("select id from tasks where project_id = $1", project_id)
                }
        differing |= held.ids - known
        suspects = differing if suspects is None else suspects & differing
        if not suspects:
            break
        await relay.step()
        held = await cache.everything()
    return _finding(name, sorted(suspects or ()), "Run `loom doctor --deep` to build the mirror anew from Postgres.")


def _finding(name: str, broken: list[str], mend: str) -> Finding:
    if not broken:
        return Finding(name, True)
    more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    return Finding(name, False, f"{', '.join(broken[:_SHOWN])}{more}", mend)
