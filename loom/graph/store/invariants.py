"""The rules of a project's rows as queries; each returns what breaks it. None of them changes anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.db.connection import WHOLE
from loom.graph.store import backup
from loom.graph.store.edges import HOLDS
from loom.graph.store.tasks import WAITING

if TYPE_CHECKING:
    from loom.db.connection import Connection

# Each query returns the ids that break a rule.
RULES = {
    "waiting equals its definition": f"""
        select t.id from tasks t where t.project_id = $1 and t.waiting <> {WAITING}""",
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
    "a check ran for no claim that there never was": """
        select p.task_id from proofs p join tasks t on t.project_id = p.project_id and t.id = p.task_id
         where p.project_id = $1 and p.token > t.claim_token""",
    "what is on its way to a branch has its claim": """
        select l.task_id from landings l join tasks t on t.project_id = l.project_id and t.id = l.task_id
         where l.project_id = $1 and l.state in ('begun', 'reported', 'queued', 'sent_back')
           and (t.status <> 'claimed' or t.claim_token <> l.token or t.landing_token <> l.token)""",
    "a lease has no end if and only if its work is queued": """
        select t.id from tasks t
          left join landings l on l.project_id = $1 and l.state = 'queued'
                              and l.task_id = t.id and l.token = t.claim_token
         where t.project_id = $1 and (t.lease_expires_at = 'infinity') is true <> (l.id is not null)""",
    "what is being landed is queued, and what has landed is done": """
        select l.task_id from landings l join tasks t on t.project_id = l.project_id and t.id = l.task_id
         where l.project_id = $1
           and ((l.state = 'landed' and t.status <> 'done' and t.landing_token = l.token)
             or (l.state <> 'queued' and exists(select from landing_intents i where i.project_id = $1
                                                   and i.landing_id = l.id and i.closed_at is null)))""",
    "each change has one event": """
        select task_id from events where project_id = $1 and version is not null
         group by task_id, version having count(*) > 1""",
}


async def broken(connection: Connection, project_id: str, rule: str) -> list[str]:
    """The ids of the tasks that break one of `RULES`."""
    return [record[0] for record in await connection.fetch(RULES[rule], project_id, timeout=WHOLE)]


async def forbidden(connection: Connection) -> list[str]:
    """What the role of a connection may not do with the rows of projects, such as `insert on plans`."""
    rows = await connection.fetch(
        """
        select privilege || ' on ' || name as what
          from unnest($1::text[]) name, unnest(array['select', 'insert', 'update', 'delete']) privilege
         where not has_table_privilege(quote_ident(name), privilege)
         order by name, privilege
        """,
        [table.name for table in await backup.tables(connection)],
    )
    return [row["what"] for row in rows]


async def shape(connection: Connection, project_id: str) -> tuple[dict[str, list[str]], dict[str, str | None]]:
    """What is unfinished: each task with what it waits for over edges that hold, and each with its parent."""
    rows = await connection.fetch(
        f"""
        select t.id, t.parent_id,
               array(select e.depends_on from task_deps e
                      where e.project_id = $1 and e.task_id = t.id and {HOLDS}) as depends_on
          from tasks t where t.project_id = $1 and t.done_at is null order by t.id
        """,
        project_id,
        timeout=WHOLE,
    )
    return {row["id"]: row["depends_on"] for row in rows}, {row["id"]: row["parent_id"] for row in rows}
