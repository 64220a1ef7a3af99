"""Rows that an earlier version wrote are kept when its schema is brought forward, and work goes on with them.

Here stands what only a migration has made possible: who adds one that rows can show adds such rows. A database with the
schema and the rows of the first so many is brought forward to all that there are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from loom.config import LoomConfig
from loom.db.migrate import migrate, migrations
from loom.graph.front import Loom
from tests.test_migrations import empty

__all__ = ["empty"]

PROJECT = "00000000-0000-4000-8000-000000000001"

# An epic that is done but for two children, one of them claimed and one with a question; work that waits for the epic,
# work that failed and is tried again, and a dead letter whose dependent waits.
ROWS = {
    1: """
        insert into projects (id, name) values ('{0}', 'old');
        insert into tasks (
            project_id, id, title, status, parent_id, waiting, attempt, max_attempts, claim_token, lapsed,
            lease_seconds, claimed_at, done_at, lease_expires_at, deadline_at, retry_at, ready_at, assignee,
            dead_reason, output, context
        ) values
            ('{0}', 'loom-00000001', 'epic', 'epic', null, 0, 0, 4, 0, false,
             null, null, null, null, null, null, null, null, null, null, '{{}}'),
            ('{0}', 'loom-00000002', 'done', 'done', 'loom-00000001', 0, 1, 4, 1, false,
             600, now(), now(), null, now(), null, null, 'ann', null, '{{"path": "a.py"}}', '{{}}'),
            ('{0}', 'loom-00000003', 'claimed', 'claimed', 'loom-00000001', 0, 1, 4, 1, false,
             600, now(), null, now() + interval '1 hour', now() + interval '4 hours', null, now(), 'ann', null, null,
             '{{}}'),
            ('{0}', 'loom-00000004', 'asked', 'blocked', 'loom-00000001', 1, 1, 4, 1, false,
             600, now(), null, null, now(), null, null, 'bob', null, null, '{{"notes": ["see a.py"]}}'),
            ('{0}', 'loom-00000005', 'after', 'blocked', null, 1, 0, 4, 0, false,
             null, null, null, null, null, null, null, null, null, null, '{{}}'),
            ('{0}', 'loom-00000006', 'again', 'failed', null, 0, 1, 4, 1, false,
             600, now(), null, null, now(), now() + interval '1 hour', null, 'bob', null, null, '{{}}'),
            ('{0}', 'loom-00000007', 'dead', 'failed', null, 0, 4, 4, 4, true,
             600, now(), null, null, now(), null, null, 'bob', 'its lease expired', null, '{{}}'),
            ('{0}', 'loom-00000008', 'stuck', 'blocked', null, 1, 0, 4, 0, false,
             null, null, null, null, null, null, null, null, null, null, '{{}}'),
            ('{0}', 'loom-00000009', 'cancelled', 'cancelled', null, 0, 0, 4, 0, false,
             null, null, now(), null, null, null, null, null, null, null, '{{}}'),
            ('{0}', 'loom-0000000a', 'ready', 'pending', null, 0, 0, 4, 0, false,
             null, null, null, null, null, null, now(), null, null, null, '{{}}');
        insert into task_deps (project_id, task_id, depends_on, waived_at, waived_by, waive_reason) values
            ('{0}', 'loom-00000005', 'loom-00000001', null, null, null),
            ('{0}', 'loom-00000008', 'loom-00000007', null, null, null),
            ('{0}', 'loom-0000000a', 'loom-00000009', now(), 'ann', 'not needed');
        insert into events (project_id, type, task_id, status, version)
            select project_id, 'task.created', id, status, version from tasks;
        insert into escalations (project_id, id, task_id, kind, message, raised_by, attempt, resolution, resolved_at)
        values
            ('{0}', 'esc-00000001', 'loom-00000004', 'question', 'Which one?', 'bob', 1, null, null),
            ('{0}', 'esc-00000002', 'loom-00000007', 'failure', 'its lease expired', 'bob', 4, null, null),
            ('{0}', 'esc-00000003', 'loom-00000006', 'failure', 'no', 'bob', 1, 'retry at …', now());
        insert into messages (project_id, sender, recipient, thread_id, body) values
            ('{0}', 'ann', 'bob', '1', 'hello'), ('{0}', 'ann', '*', '2', 'all');
        insert into message_acks (project_id, message_id, agent)
            select project_id, id, 'bob' from messages where recipient = '*'
    """,
    2: "update escalations set handler = 'ann', handling_until = now() where id = 'esc-00000001'",
    3: """
        insert into skill_runs (project_id, id, skill, skill_version, provider, agent, status, inputs, expects, output,
                                finished_at) values
            ('{0}', 'run-00000001', 'decompose_project', '1', 'command', 'ann', 'done', '{{}}', '{{}}', '{{}}', now()),
            ('{0}', 'run-00000002', 'decompose_project', '1', 'command', 'ann', 'open', '{{}}', '{{}}', null, null);
        insert into plans (project_id, id, goal, plan, agent, run_id) values
            ('{0}', 'plan-00000001', 'a goal', '{{"tasks": [{{"title": "one"}}]}}', 'ann', 'run-00000001')
    """,
    4: """
        update escalations set diagnosed_at = now(), diagnosis = '{{"cause": "a typo", "fixes": ["loom-0000000a"]}}'
         where id = 'esc-00000002';
        insert into diagnosis_asks (project_id, escalation_id, asked_by) values ('{0}', 'esc-00000002', 'ann')
    """,
    5: """
        insert into workflow_runs (project_id, id, workflow, version, definition, inputs, status, agent, token,
                                   finished_at, error) values
            ('{0}', 'wf-00000001', 'tidy_up', '1', '{{"steps": []}}', '{{}}', 'failed', 'ann', 1, now(), 'no'),
            ('{0}', 'wf-00000002', 'tidy_up', '1', '{{"steps": []}}', '{{}}', 'done', 'ann', 1, now(), null);
        insert into workflow_steps (project_id, run_id, position, step, type, status, agent, error, finished_at) values
            ('{0}', 'wf-00000001', 0, 'look', 'action', 'failed', 'ann', 'no', now())
    """,
    6: "update workflow_runs set status = 'cancelled' where id = 'wf-00000001'",
    25: """
        insert into plans (project_id, id, goal, plan, agent) values
            ('{0}', 'plan-00000002', 'another', '{{"tasks": [{{"title": "two"}}]}}', 'ann');
        insert into workflow_steps (project_id, run_id, position, step, type, status, agent, output, finished_at) values
            ('{0}', 'wf-00000002', 0, 'plan', 'action', 'done', 'ann', '{{"plan_id": "plan-00000002"}}', now())
    """,
    7: "update projects set pruned_xid = '1', pruned_id = 1",
    11: """
        insert into proofs (project_id, task_id, token, check_name, check_hash, agent, ended_at, exit_status) values
            ('{0}', 'loom-00000003', 1, 'unit', 'abc', 'ann', now(), 1)
    """,
    12: """
        update tasks set landing_token = claim_token where id in ('loom-00000002', 'loom-00000006');
        insert into landings (project_id, task_id, token, agent, target, branch, state, commit_id, queued_at, ended_at,
                              landed_commit, times_sent, sent_back_at) values
            ('{0}', 'loom-00000002', 1, 'ann', 'main', 'a', 'landed', 'c1', now(), now(), 'm1', 0, null),
            ('{0}', 'loom-00000006', 1, 'bob', 'main', 'b', 'dropped', null, null, now(), null, 1, now());
        insert into landing_intents (project_id, landing_id, task_id, commit_id, target, old, closed_at)
            select project_id, id, task_id, 'm1', target, 'm0', now() from landings where state = 'landed';
        insert into landing_leases (project_id, target, holder, until) values ('{0}', 'main', 'ann', now());
        insert into landing_targets (project_id, target, why) values ('{0}', 'loom/landed', 'It is checked out.')
    """,
    13: """
        insert into landing_tips (project_id, target, commit_id) values ('{0}', 'main', 'm1')
    """,
    14: "update tasks set labels = '{{api,ui}}' where id = 'loom-0000000a'",
    16: """
        insert into access_tokens (project_id, id, name, role, digest, created_by) values
            ('{0}', 'abc', 'ann', 'planner', decode(repeat('ab', 32), 'hex'), 'bob')
    """,
    17: """
        insert into notify_cursors (project_id, receiver, since, last_id, history) values
            ('{0}', 'team:abc', '1:1:', 1, 'of before')
    """,
    18: """
        insert into metric_cursors (project_id, xid, event_id, newest_id, history) values
            ('{0}', '1', 1, 1, 'of before');
        insert into metric_totals (project_id, metric, label, total) values ('{0}', 'events', 'task.created', 1)
    """,
    19: """
        insert into messages (project_id, sender, recipient, thread_id, body) values
            ('{0}', 'ann', 'loom-0000000a', '3', 'Keep the old names.')
    """,
    21: """
        insert into task_traces (project_id, task_id, traceparent) values
            ('{0}', 'loom-0000000a', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01')
    """,
    23: """
        insert into browser_entries (digest, project_id, token_id, is_code, expires_at) values
            (decode(repeat('cd', 32), 'hex'), '{0}', 'abc', false, now() + interval '1 hour')
    """,
    24: """
        insert into task_counts (project_id, history, upto, newest_id, counts) values
            ('{0}', 'of before', '1', 0, '{{"pending": 99}}')
    """,
}
NUMBERS = [one.number for one in migrations()]


@pytest.mark.parametrize("number", NUMBERS)
async def test_rows_of_a_version_are_brought_forward(empty: str, config: LoomConfig, number: int) -> None:
    connection = await asyncpg.connect(empty)
    await migrate(connection, migrations()[:number])
    for one in NUMBERS[:number]:
        if one in ROWS:
            await connection.execute(ROWS[one].format(PROJECT))
    before = await everything(connection)
    await migrate(connection)
    after = await everything(connection)
    await connection.close()
    for table, rows in before.items():
        assert [{name: row.get(name) for name in old} for row, old in zip(after[table], rows, strict=True)] == rows, (
            table
        )

    known = replace(config, project_id=PROJECT, database=replace(config.database, url=empty))
    async with Loom(known, agent="ann") as loom:
        assert [one for one in await loom.doctor() if not one.holds] == []
        asked = (number >= 3) + (number >= 26)  # one that a workflow asks about is marked by the migration
        assert (await loom.status()).open_plans == asked
        assert (await loom.resolve("esc-00000001", "answer", note="this one")).unblocked == ("loom-00000004",)
        await loom.done("loom-00000004")
        finished = await loom.done("loom-00000003", token=(await loom.get("loom-00000003")).task.claim_token)
        assert (finished.closed, finished.unblocked) == (("loom-00000001",), ("loom-00000005",))
        assert (await loom.resolve("loom-00000007", "waive")).unblocked == ("loom-00000008",)
        assert [one.id for one in (await loom.ready()).tasks] == ["loom-0000000a", "loom-00000005", "loom-00000008"]
        assert [one for one in await loom.doctor() if not one.holds] == []


async def everything(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table of the project, by its names."""
    names = await connection.fetch(
        "select table_name from information_schema.tables"
        " where table_schema = 'public' and table_name <> 'loom_migrations'"
    )
    return {
        table: sorted((dict(row) for row in await connection.fetch(f"select * from {table}")), key=repr)
        for (table,) in names
    }
