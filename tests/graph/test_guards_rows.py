"""Rows: what a plan and an import write, what a state leaves behind, what is counted, and who is asked for what."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest

from loom.db import connection as db
from loom.db.connection import Pool, in_snapshot, in_transaction, snapshot
from loom.exceptions import DatabaseUnavailableError, InvalidInputError, MessageNotFoundError, TaskStateError
from loom.graph import importing, store
from loom.graph.front import Loom
from loom.graph.model.task import Task
from loom.graph.rules import claims
from loom.graph.store.transaction import Transaction
from tests.conftest import Opener
from tests.graph.conftest import kill, row
from tests.graph.test_lifecycle import Clock, holds, status


async def brought_in(loom: Loom, *tasks: Mapping[str, Any]) -> dict[str, Task]:
    """Imports tasks as an export of another project has them; returns them by title."""
    export = {"loom_export": 1, "project": {"id": "elsewhere", "name": "elsewhere"}, "tasks": tasks}
    done = await loom.import_tasks(importing.read(json.dumps(export), "export.json"))
    return {task.title: task for task in done.tasks}


# --- plans ------------------------------------------------------------------------------------------------------------


async def test_a_plans_task_waits_with_its_blocked_epic(loom: Loom) -> None:
    """One of the plan, or one that exists."""
    first = await loom.create("first")
    there = await loom.create("there", epic=True, depends_on=[first.id])
    tasks = await loom.apply_plan(
        {
            "tasks": [
                {"key": "e", "title": "epic", "type": "epic", "depends_on": [first.id]},
                {"title": "inside", "parent": "e"},
                {"title": "below", "parent": there.id},
            ]
        }
    )
    assert {task.title: task.status for task in tasks} == {"epic": "epic", "inside": "blocked", "below": "blocked"}
    await holds(loom)
    await loom.done(first.id)
    assert {task.title for task in (await loom.ready()).tasks} == {"inside", "below"}
    await holds(loom)


async def test_a_plans_task_does_not_wait_for_what_is_done(loom: Loom) -> None:
    done = await loom.create("done")
    await loom.done(done.id)
    (task,) = await loom.apply_plan({"tasks": [{"title": "A", "depends_on": [done.id]}]})
    assert task.status == "pending"
    await holds(loom)


async def test_a_new_task_does_not_wait_for_what_is_done(loom: Loom) -> None:
    done = await loom.create("done")
    await loom.done(done.id)
    assert (await loom.create("A", depends_on=[done.id])).status == "pending"


async def test_ids_that_are_taken_are_drawn_again(loom: Loom, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = await loom.create("taken")
    drawn = iter([taken.id, "loom-0000000a", taken.id, taken.id, "loom-0000000b"])
    monkeypatch.setattr("loom.ids.task_id", lambda: next(drawn))
    assert (await loom.create("A")).id == "loom-0000000a"
    (task,) = await loom.apply_plan({"tasks": [{"title": "B"}]})
    assert task.id == "loom-0000000b"


# --- imports ----------------------------------------------------------------------------------------------------------

LONG_AGO = "2020-02-02T02:02:02+00:00"


async def test_an_import_keeps_its_times(loom: Loom) -> None:
    tasks = await brought_in(
        loom,
        {"id": "a", "title": "open", "created_at": LONG_AGO},
        {"id": "b", "title": "done", "status": "done", "created_at": LONG_AGO, "done_at": LONG_AGO},
    )
    times = [tasks["open"].created_at, tasks["done"].created_at, tasks["done"].done_at]
    assert [moment.isoformat() for moment in times if moment] == [LONG_AGO] * 3


async def test_an_import_without_times_is_of_now(loom: Loom, pool: Pool) -> None:
    now = await pool.fetchval("select loom_now() - interval '1 minute'")
    tasks = await brought_in(loom, {"id": "a", "title": "open"}, {"id": "b", "title": "done", "status": "done"})
    assert tasks["open"].created_at > now
    assert tasks["done"].done_at is not None
    assert tasks["done"].done_at > now


async def test_imported_work_does_not_wait_for_what_is_done_or_waived(loom: Loom, pool: Pool) -> None:
    tasks = await brought_in(
        loom,
        {"id": "a", "title": "done", "status": "done"},
        {"id": "b", "title": "gone", "status": "cancelled"},
        {"id": "c", "title": "task", "depends_on": ["a", "b"], "waived": ["b"]},
        {"id": "d", "title": "early", "status": "done", "depends_on": ["c"]},
    )
    assert tasks["task"].status == "pending"
    waived = await pool.fetch("select task_id, depends_on from task_deps where waived_at is not null order by 1")
    assert sorted(map(tuple, waived)) == sorted(
        [(tasks["task"].id, tasks["gone"].id), (tasks["early"].id, tasks["task"].id)]
    )
    await holds(loom)
    await loom.done(tasks["task"].id)
    await holds(loom)


# --- what is done stays done ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["done", "claimed"])
async def test_a_child_that_has_begun_keeps_its_epic_from_gaining_a_dependency(loom: Loom, how: str) -> None:
    first, epic = await loom.create("first"), await loom.create("epic", epic=True)
    child = await loom.create("child", parent_id=epic.id)
    left = await loom.create("left", parent_id=epic.id)
    await (loom.done(child.id) if how == "done" else loom.claim(child.id))
    with pytest.raises(TaskStateError, match=rf"has begun.*{child.id} \({how}\)"):
        await loom.update(epic.id, depends_on=[first.id])
    assert await status(loom, left.id) == "pending"
    await holds(loom)


async def test_an_epic_whose_children_have_not_begun_gains_a_dependency(loom: Loom) -> None:
    first, epic = await loom.create("first"), await loom.create("epic", epic=True)
    child = await loom.create("child", parent_id=epic.id)
    gone = await loom.create("gone", parent_id=epic.id)
    await loom.cancel(gone.id)
    await loom.update(epic.id, depends_on=[first.id])
    assert await status(loom, child.id) == "blocked"
    await holds(loom)


async def test_a_finished_task_is_not_edited(loom: Loom) -> None:
    done, gone = await loom.create("done"), await loom.create("gone")
    await loom.done(done.id)
    await loom.cancel(gone.id)
    for task in (done, gone):
        with pytest.raises(TaskStateError, match="cannot be changed"):
            await loom.update(task.id, title="x")


async def test_a_change_of_something_else_leaves_the_context(loom: Loom) -> None:
    task = await loom.create("A", context={"k": 1})
    assert (await loom.update(task.id, title="B")).task.context == {"k": 1}
    child = await loom.create("child", parent_id=(await loom.create("epic", epic=True)).id)
    await kill(loom, child)
    await loom.resolve(child.id, "retry", note="look")
    assert [one.text for one in (await loom.get(child.id)).notes] == ["look"]
    assert (await loom.done(task.id, {"n": 1})).task.context == {"k": 1}


async def test_an_output_that_is_stored_stays_where_none_is_given(loom: Loom) -> None:
    task = await loom.create("A")
    await loom.done(task.id, {"n": 1})

    async def touch(tx: Transaction) -> Task:
        return await store.update_task(tx, (await store.lock(tx, [task.id]))[task.id])

    assert (await loom.transact(touch)).output == {"n": 1}


@pytest.mark.parametrize("what", ["claimed", "done", "cancelled", "failed"])
async def test_only_open_work_that_nobody_has_begun_takes_children(loom: Loom, what: str) -> None:
    task = await loom.create("A")
    match what:
        case "claimed":
            await loom.claim(task.id)
        case "done":
            await loom.done(task.id)
        case "cancelled":
            await loom.cancel(task.id)
        case _:
            await loom.fail(task.id, "no")
    with pytest.raises(TaskStateError, match=f"is {what} and takes no children"):
        await loom.create("child", parent_id=task.id)
    assert await status(loom, task.id) == what


async def test_a_task_with_an_open_question_takes_no_children(loom: Loom) -> None:
    task = await loom.create("A")
    await loom.escalate(task.id, "?")
    with pytest.raises(TaskStateError, match="has an open question"):
        await loom.create("child", parent_id=task.id)
    await holds(loom)


async def test_a_task_with_an_open_record_that_is_no_question_takes_children(loom: Loom, pool: Pool) -> None:
    task = await loom.create("A", depends_on=[(await loom.create("before")).id])
    await pool.execute(
        "insert into escalations (project_id, id, task_id, kind, message, attempt)"
        " values ($1, 'esc-00000000', $2, 'failure', 'no', 1)",
        loom.project_id,
        task.id,
    )
    assert (await loom.create("child", parent_id=task.id)).status == "blocked"


async def test_a_task_whose_question_was_answered_takes_children(loom: Loom) -> None:
    task, before = await loom.create("A"), await loom.create("before")
    await loom.escalate(task.id, "?")
    await loom.resolve(task.id, "answer", note="so")
    await loom.fail(task.id, "no", retry=False)
    await loom.resolve(task.id, "retry")
    await loom.update(task.id, depends_on=[before.id])
    assert (await loom.create("child", parent_id=task.id)).status == "blocked"
    await holds(loom)


# --- states that are left behind --------------------------------------------------------------------------------------


async def test_a_cancelled_task_is_not_tried_again(loom: Loom, pool: Pool, clock: Clock) -> None:
    task = await loom.create("A")
    await loom.fail(task.id, "no")
    await loom.cancel(task.id)
    found = await row(pool, task)
    assert (found["retry_at"], found["ready_at"], found["lease_expires_at"]) == (None, None, None)
    await clock(86400)
    await loom.sweep()
    assert await status(loom, task.id) == "cancelled"
    await holds(loom)


@pytest.mark.parametrize("state", ["pending", "claimed", "blocked"])
async def test_a_cancelled_task_is_in_no_queue(loom: Loom, pool: Pool, state: str) -> None:
    before = await loom.create("before", priority="p2")
    task = await loom.create("A", depends_on=[before.id] if state == "blocked" else [])
    if state == "claimed":
        await loom.claim(task.id)
    await loom.cancel(task.id)
    found = await row(pool, task)
    assert (found["ready_at"], found["lease_expires_at"], found["retry_at"]) == (None, None, None)
    await holds(loom)


async def test_a_cancelled_task_asks_nothing_any_more(loom: Loom, pool: Pool) -> None:
    asked = await loom.create("asked")
    await loom.escalate(asked.id, "?")
    await loom.cancel(asked.id, reason="not needed")
    waived = await loom.create("waived")
    await loom.escalate(waived.id, "?")
    await loom.resolve(waived.id, "waive")
    assert await loom.escalations() == []
    assert [(await row(pool, task))["waiting"] for task in (asked, waived)] == [0, 0]
    await holds(loom)


async def test_a_task_brought_back_has_left_its_failure_behind(loom: Loom, pool: Pool, clock: Clock) -> None:
    loom_task, failed = await loom.create("dead"), await loom.create("failed")
    await kill(loom, loom_task)
    await loom.fail(failed.id, "no")
    for task in (loom_task, failed):
        await loom.resolve(task.id, "retry")
        found = await row(pool, task)
        assert (found["retry_at"], found["dead_reason"], found["attempt"]) == (None, None, 0)
        assert found["ready_at"] is not None
    await clock(86400)
    assert (await loom.sweep())[0].retried == ()
    await holds(loom)


async def test_a_retry_keeps_the_count_of_attempts(loom: Loom, clock: Clock) -> None:
    task = await loom.create("A")
    await loom.fail(task.id, "no")
    await clock(3600)
    (again,) = (await loom.sweep())[0].retried
    assert (again.id, again.attempt, again.retry_at) == (task.id, 1, None)
    await holds(loom)


async def test_what_failed_for_now_has_no_reason_to_be_dead(loom: Loom) -> None:
    task = await loom.create("A")
    failed = (await loom.fail(task.id, "no")).task
    assert (failed.dead_reason, failed.ready_at, failed.lease_expires_at, failed.dead) == (None, None, None, False)
    buried = (await loom.fail((await loom.create("B")).id, "never", retry=False)).task
    assert (buried.dead_reason, buried.ready_at, buried.dead) == ("never", None, True)


async def test_a_task_brought_back_waits_for_what_came_to_be_before_it(loom: Loom, clock: Clock) -> None:
    """Its counter is counted anew, whatever it was when the task left."""
    before = await loom.create("before")
    epic = await loom.create("epic", epic=True)
    dead, failed = await loom.create("dead", parent_id=epic.id), await loom.create("failed")
    await kill(loom, dead)
    await loom.fail(failed.id, "no")
    await loom.update(failed.id, depends_on=[before.id])
    await loom.update(epic.id, depends_on=[before.id])
    assert (await loom.resolve(dead.id, "retry")).task.status == "blocked"
    await clock(3600)
    await loom.sweep()
    assert await status(loom, failed.id) == "blocked"
    await holds(loom)
    assert set((await loom.done(before.id)).unblocked) == {dead.id, failed.id}
    await holds(loom)


async def test_a_question_that_is_answered_is_not_waited_for(loom: Loom) -> None:
    """Nor are failures, open or not."""
    task, before = await loom.create("A"), await loom.create("before")
    await loom.escalate(task.id, "?")
    assert (await loom.update(task.id, depends_on=[before.id])).task.waiting == 2
    assert (await loom.resolve(task.id, "answer", note="so")).task.waiting == 1
    await loom.done(before.id)
    await kill(loom, task)
    assert (await loom.update(task.id, depends_on=[])).task.waiting == 0
    await holds(loom)


async def test_an_edit_counts_what_is_done_as_done(loom: Loom) -> None:
    done, left = await loom.create("done"), await loom.create("left")
    await loom.done(done.id)
    task = await loom.create("A")
    assert (await loom.update(task.id, depends_on=[done.id, left.id])).task.waiting == 1
    assert (await loom.update(task.id, depends_on=[done.id])).task.status == "pending"
    await holds(loom)


async def test_failed_work_gains_and_loses_dependencies_without_coming_back(loom: Loom) -> None:
    before, task = await loom.create("before"), await loom.create("A")
    await kill(loom, task)
    assert (await loom.update(task.id, depends_on=[before.id])).task.status == "failed"
    assert (await loom.update(task.id, depends_on=[])).task.status == "failed"
    await holds(loom)


async def test_an_epic_that_loses_its_last_dependency_lets_its_children_go(loom: Loom) -> None:
    before = await loom.create("before")
    epic = await loom.create("epic", epic=True, depends_on=[before.id])
    child = await loom.create("child", parent_id=epic.id)
    assert (await loom.update(epic.id, depends_on=[])).unblocked == (child.id,)
    await holds(loom)


async def test_the_counter_moves_whatever_the_status(loom: Loom, pool: Pool) -> None:
    before = await loom.create("before")
    dead, gone = await loom.create("dead"), await loom.create("gone", depends_on=[before.id])
    await kill(loom, dead)
    await loom.update(dead.id, depends_on=[before.id])
    await loom.cancel(gone.id)
    versions = [(await row(pool, task))["version"] for task in (dead, gone)]
    await loom.done(before.id)
    assert [(await row(pool, task))["waiting"] for task in (dead, gone)] == [0, 0]
    assert [(await row(pool, task))["version"] for task in (dead, gone)] == versions, "nothing that is mirrored changed"
    await holds(loom)


async def test_what_was_ready_and_is_blocked_has_no_place_in_the_queue(loom: Loom, pool: Pool) -> None:
    first, epic = await loom.create("first"), await loom.create("epic", epic=True)
    child, task = await loom.create("child", parent_id=epic.id), await loom.create("task")
    await loom.update(epic.id, depends_on=[first.id])
    await loom.update(task.id, depends_on=[first.id])
    assert [(await row(pool, one))["ready_at"] for one in (child, task)] == [None, None]
    await holds(loom)


async def test_a_claim_released_that_never_counted_leaves_none(loom: Loom, pool: Pool) -> None:
    task = await loom.create("A")
    await loom.claim(task.id)
    await pool.execute("update tasks set attempt = 0")
    assert (await loom.release(task.id)).task.attempt == 0


# --- questions and decisions ------------------------------------------------------------------------------------------


async def test_only_dead_or_escalated_work_is_resolved(loom: Loom) -> None:
    task = await loom.create("A")
    for action in ("retry", "answer", "reassign"):
        with pytest.raises(TaskStateError, match="has no open escalation"):
            await loom.resolve(task.id, action, note="so", agent_id="b")
    assert await status(loom, task.id) == "pending"


async def test_an_answer_needs_a_question_and_a_text(loom: Loom) -> None:
    asked, dead = await loom.create("asked"), await loom.create("dead")
    await loom.escalate(asked.id, "?")
    await kill(loom, dead)
    with pytest.raises(InvalidInputError, match="needs its text"):
        await loom.resolve(asked.id, "answer")
    with pytest.raises(InvalidInputError, match="has no open question"):
        await loom.resolve(dead.id, "answer", note="so")
    assert len(await loom.escalations()) == 2


async def test_reassigning_needs_a_name_and_a_task_that_waits_for_nothing(loom: Loom) -> None:
    before, task = await loom.create("before"), await loom.create("A")
    await kill(loom, task)
    with pytest.raises(InvalidInputError, match="needs the name"):
        await loom.resolve(task.id, "reassign")
    await loom.update(task.id, depends_on=[before.id])
    with pytest.raises(TaskStateError, match="still waits"):
        await loom.resolve(task.id, "reassign", agent_id="b")
    assert await status(loom, task.id) == "failed"
    await holds(loom)


async def test_a_second_failure_does_not_touch_what_the_first_was_resolved_with(loom: Loom, pool: Pool) -> None:
    task = await loom.create("A")
    await kill(loom, task)
    await loom.resolve(task.id, "retry", by="first")
    await kill(loom, task)
    await loom.resolve(task.id, "waive", by="second")
    rows = await pool.fetch("select resolution, resolved_by from escalations order by raised_at")
    assert [tuple(one) for one in rows] == [("retry", "first"), ("waive", "second")]


async def test_handlers_take_the_oldest_open_escalation_that_nobody_looks_at(
    open_loom: Opener, pool: Pool, clock: Clock
) -> None:
    one, two = await open_loom("one"), await open_loom("two")
    tasks = [await one.create(f"T{n}") for n in range(3)]
    for n, task in enumerate(tasks):
        await kill(one, task)
        await pool.execute(
            f"update escalations set raised_at = loom_now() - interval '{9 - n} min' where task_id = $1", task.id
        )
    assert [open_one.task_id for open_one in await one.escalations()] == [task.id for task in tasks]
    await one.resolve(tasks[0].id, "cancel")
    assert [open_one.task_id for open_one in await one.escalations()] == [task.id for task in tasks[1:]]
    taken = [await loom.take_escalation(seconds=60) for loom in (one, two, two)]
    assert [found and found.task_id for found in taken] == [tasks[1].id, tasks[2].id, None]
    await clock(61)
    again = await two.take_escalation(seconds=60)
    assert again is not None
    assert (again.task_id, again.handler) == (tasks[1].id, "two")


async def test_what_is_tried_again_by_itself_asks_for_nobody(loom: Loom) -> None:
    task = await loom.create("A")
    await loom.fail(task.id, "no")
    assert await loom.escalations() == []
    assert await loom.take_escalation() is None
    assert [event.type for event in (await loom.get(task.id)).history if event.type.startswith("escalation")] == []


# --- the sweep --------------------------------------------------------------------------------------------------------


async def test_a_sweep_takes_only_what_is_due(loom: Loom, clock: Clock) -> None:
    short, long = await loom.create("short"), await loom.create("long")
    soon, later, dead = [await loom.create(title) for title in ("soon", "later", "dead")]
    await kill(loom, dead)
    await loom.claim(short.id, lease_seconds=100)
    await loom.claim(long.id, lease_seconds=10_000)
    await loom.fail(soon.id, "no")
    await clock(300)
    await loom.fail(later.id, "no")
    swept, _ = await loom.sweep()
    assert [task.id for task in swept.expired] == [short.id]
    assert [task.id for task in swept.retried] == [soon.id]
    assert not swept.completed
    assert [await status(loom, task.id) for task in (long, later, dead)] == ["claimed", "failed", "failed"]
    await holds(loom)


async def test_where_nothing_is_due_a_sweep_only_looks(loom: Loom) -> None:
    """At claims, at failures, and at a project that was announced complete."""
    await loom.done((await loom.create("done")).id)
    await loom.sweep()
    pulse = await loom.look(lambda connection: store.pulse(connection, loom.project_id))
    assert (pulse.expired, pulse.due, pulse.complete) == (False, False, False)
    await loom.claim((await loom.create("claimed")).id)
    await loom.fail((await loom.create("failed")).id, "no")
    pulse = await loom.look(lambda connection: store.pulse(connection, loom.project_id))
    assert (pulse.expired, pulse.due, pulse.complete) == (False, False, False)


@pytest.mark.parametrize("left", ["pending", "claimed", "blocked", "epic", "failed", "dead"])
async def test_a_project_with_unfinished_work_is_not_complete(loom: Loom, clock: Clock, left: str) -> None:
    await loom.done((await loom.create("done")).id)
    task = await loom.create("A", epic=left == "epic")
    lapses = await loom.create("lapses")
    await loom.claim(lapses.id, lease_seconds=1)
    match left:
        case "claimed":
            await loom.claim(task.id, lease_seconds=9999)
        case "failed":
            await loom.fail(task.id, "no")
        case "dead":
            await kill(loom, task)
        case "blocked":
            await loom.escalate(task.id, "?")
    await clock(2)
    assert not (await loom.sweep())[0].completed  # it has something to do, and looks at all
    await loom.cancel(lapses.id)
    assert not (await loom.sweep())[0].completed


async def test_a_complete_project_is_announced_again_only_after_more(loom: Loom, clock: Clock, pool: Pool) -> None:
    await loom.done((await loom.create("A")).id)
    assert (await loom.sweep())[0].completed
    assert not (await loom.sweep())[0].completed
    # Nor by a sweep that began before the announcement, or has something else to do.
    assert not (await loom.transact(claims.sweep)).completed
    await loom.cancel((await loom.create("B")).id)
    assert (await loom.sweep())[0].completed


# --- what is listed ---------------------------------------------------------------------------------------------------


async def test_ready_work_is_listed_in_the_order_in_which_it_is_claimed(loom: Loom, pool: Pool) -> None:
    """From the database, where no mirror answers."""
    await loom.claim((await loom.create("claimed", priority="p0")).id)
    tasks = [await loom.create(f"T{n}", priority=f"p{n % 3}") for n in range(6)]
    await pool.execute("update tasks set ready_at = loom_now() where id = any($1)", [task.id for task in tasks[:3]])
    await pool.execute("update tasks set ready_at = loom_now() - interval '1 s' where id = $1", tasks[4].id)
    found = []
    async with pool.acquire() as connection:
        listed = [one.id for one in await store.get_ready_tasks(connection, loom.project_id, limit=10)]
    while (claim := await loom.claim()) is not None:
        found.append(claim.task.id)
    assert listed == found
    assert len(found) == 6


async def test_of_equal_tasks_the_one_that_was_ready_first_is_claimed_first_whatever_its_id(
    loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"loom-{n:08x}" for n in range(1, 5)]
    drawn = iter(ids)
    monkeypatch.setattr("loom.ids.task_id", lambda: next(drawn))
    for title in ("first", "second", "third", "fourth"):
        await loom.create(title)
    await loom.claim(ids[0])
    await loom.release(ids[0])  # is ready since now
    claims_made = [await loom.claim() for _ in range(4)]
    assert [claim and claim.task.id for claim in claims_made] == [*ids[1:], ids[0]]


async def test_dead_letters_are_listed_oldest_first_and_without_what_is_tried_again(loom: Loom, pool: Pool) -> None:
    dead = [await loom.create(f"T{n}") for n in range(2)]
    for n, task in enumerate(dead):
        await kill(loom, task)
        await pool.execute(
            "update tasks set updated_at = loom_now() - make_interval(mins => $2) where id = $1", task.id, 9 - n
        )
    await loom.fail((await loom.create("failed")).id, "no")
    assert [one.task.id for one in await loom.dead_letters()] == [task.id for task in dead]
    found = await loom.status()
    assert (found.dead_letters, found.retries_due) == (2, 1)


async def test_dead_work_does_not_hold_up_itself(loom: Loom) -> None:
    task = await loom.create("A")
    await kill(loom, task)
    assert [one.held_up for one in await loom.dead_letters()] == [[]]


async def test_agents_are_stale_in_the_last_third_of_a_lease_only(loom: Loom, clock: Clock) -> None:
    await loom.create("A")
    await loom.claim(lease_seconds=300)
    await clock(190)
    assert [one.stale for one in await loom.agents()] == [False]
    await clock(20)
    assert [one.stale for one in await loom.agents()] == [True]


async def test_a_heartbeat_without_ids_is_for_what_the_agent_itself_holds(open_loom: Opener) -> None:
    one, two = await open_loom("one"), await open_loom("two")
    mine, other = await one.create("mine"), await one.create("other")
    await one.claim(mine.id)
    await two.claim(other.id)
    assert [task.id for task in (await one.heartbeat()).tasks] == [mine.id]


async def test_unfinished_work_is_drawn_before_what_is_finished(loom: Loom) -> None:
    done, left = await loom.create("done"), await loom.create("left")
    await loom.done(done.id)
    assert [task.id for task in (await loom.graph(limit=1)).tasks] == [left.id]


async def test_only_ready_children_are_named_for_an_epic(loom: Loom) -> None:
    epic = await loom.create("epic", epic=True)
    ready, taken = await loom.create("ready", parent_id=epic.id), await loom.create("taken", parent_id=epic.id)
    await loom.claim(taken.id)
    with pytest.raises(TaskStateError) as refused:
        await loom.claim(epic.id)
    assert ready.id in str(refused.value)
    assert taken.id not in str(refused.value)


async def test_a_project_is_archived_once(loom: Loom, clock: Clock, pool: Pool) -> None:
    assert await loom.archive()
    before = await pool.fetchval("select archived_at from projects")
    await clock(60)
    assert not await loom.archive()
    assert await pool.fetchval("select archived_at from projects") == before


async def test_a_project_is_no_neighbour_of_itself(loom: Loom) -> None:
    assert loom.config.project_name not in await loom.neighbours()


# --- messages ---------------------------------------------------------------------------------------------------------


async def test_nobody_acknowledges_a_message_of_somebody_else(open_loom: Opener) -> None:
    alice, bob = await open_loom("alice"), await open_loom("bob")
    sent = await alice.send("bob", "hello")
    with pytest.raises(MessageNotFoundError):
        await alice.inbox(ack=[sent.id])
    assert [one.id for one in (await bob.inbox()).messages] == [sent.id]


async def test_a_message_is_acknowledged_when_it_first_was(open_loom: Opener, clock: Clock, pool: Pool) -> None:
    alice, bob = await open_loom("alice"), await open_loom("bob")
    sent, shared = await alice.send("bob", "hello"), await alice.send("*", "all")
    await bob.inbox(ack=[sent.id, shared.id])
    query = "select acked_at from messages where acked_at is not null union all select acked_at from message_acks"
    before = await pool.fetch(query)
    await clock(60)
    assert (await bob.inbox(ack=[sent.id, shared.id])).acked == [sent.id, shared.id]
    assert await pool.fetch(query) == before


async def test_what_one_has_acknowledged_others_still_see(open_loom: Opener) -> None:
    alice, bob, carol = await open_loom("alice"), await open_loom("bob"), await open_loom("carol")
    sent = await alice.send("*", "all")
    await bob.inbox(ack=[sent.id])
    assert (await bob.inbox()).messages == []
    assert [one.id for one in (await carol.inbox()).messages] == [sent.id]


async def test_an_inbox_is_no_outbox(open_loom: Opener) -> None:
    """What one has sent oneself shows in its thread only."""
    alice = await open_loom("alice")
    sent = await alice.send("bob", "hello")
    await alice.send("*", "all")
    assert (await alice.inbox(unread=False)).messages == []
    assert [one.id for one in (await alice.inbox(unread=False, thread_id=sent.thread_id)).messages] == [sent.id]


# --- ways to the database ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        {"C": asyncpg.DeadlockDetectedError.sqlstate},
        {"C": asyncpg.SerializationError.sqlstate},
        {"C": asyncpg.UniqueViolationError.sqlstate, "n": "tasks_pkey"},
    ],
)
async def test_a_conflict_is_tried_again_and_never_reaches_a_caller(pool: Pool, error: dict[str, str]) -> None:
    tries = 0

    async def work(connection: Any) -> int:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise asyncpg.PostgresError.new({"M": "as the server says it", **error})
        return tries

    assert await in_transaction(pool, work) == 4


async def test_an_id_that_is_taken_is_drawn_anew(loom: Loom, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = await loom.apply_plan({"tasks": [{"title": "A"}, {"title": "B"}]})
    real, drawn = secrets.token_hex, iter(["00000001", "00000001", "00000001"])
    monkeypatch.setattr(secrets, "token_hex", lambda size: next(drawn, None) or real(size))
    for task in tasks:
        await loom.escalate(task.id, "Which one?")
    assert next(drawn, None) is None
    assert len({one.id for one in await loom.escalations()}) == 2


async def test_what_is_there_twice_and_was_not_drawn_is_told_at_once(loom: Loom, pool: Pool) -> None:
    tries = 0

    async def work(connection: Any) -> None:
        nonlocal tries
        tries += 1
        await connection.execute("insert into projects (id, name) select id, name from projects")

    with pytest.raises(asyncpg.UniqueViolationError, match="projects_pkey"):
        await in_transaction(pool, work)
    assert tries == 1


async def test_each_constraint_that_keeps_what_is_drawn_apart_is_one_of_the_schema(pool: Pool) -> None:
    unique = await pool.fetch("select relname from pg_index join pg_class on oid = indexrelid where indisunique")
    assert {row["relname"] for row in unique} >= db._DRAWN


@pytest.mark.parametrize("way", [in_transaction, in_snapshot])
async def test_what_was_prepared_before_the_schema_came_forward_is_prepared_anew(pool: Pool, way: Any) -> None:
    async def columns() -> int:
        row = await way(pool, lambda connection: connection.fetchrow("select * from loom_migrations limit 1"))
        return len(row)

    before = await columns()
    await pool.execute("alter table loom_migrations add column of_the_next_version text")
    try:
        assert await columns() == before + 1
    finally:
        await pool.execute("alter table loom_migrations drop column of_the_next_version")


@pytest.mark.parametrize(
    ("statement", "perhaps"),
    [
        ("select pg_terminate_backend(pg_backend_pid())", True),
        ("do $$ begin raise disk_full; end $$", False),
        ("do $$ begin raise query_canceled; end $$", False),
    ],
)
async def test_what_may_have_been_carried_out_is_told_as_that(pool: Pool, statement: str, perhaps: bool) -> None:
    with pytest.raises(DatabaseUnavailableError) as caught:
        await in_transaction(pool, lambda connection: connection.execute(statement))
    assert ("may have been carried out" in str(caught.value)) is perhaps


async def test_a_conflict_without_end_is_told(pool: Pool) -> None:
    tries = 0

    async def work(connection: Any) -> None:
        nonlocal tries
        tries += 1
        raise asyncpg.DeadlockDetectedError("again")

    with pytest.raises(asyncpg.DeadlockDetectedError):
        await in_transaction(pool, work)
    assert tries == 8


async def test_a_snapshot_is_of_one_moment_and_only_for_looking(loom: Loom, pool: Pool) -> None:
    async with snapshot(pool) as connection:
        assert await connection.fetchval("select count(*) from tasks") == 0
        await loom.create("A")
        assert await connection.fetchval("select count(*) from tasks") == 0
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("delete from tasks")
