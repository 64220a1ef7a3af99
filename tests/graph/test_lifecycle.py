"""The life of a task: created, claimed, reported on, given back; and what each step leads to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from loom.db.connection import Pool
from loom.exceptions import (
    ClaimConflictError,
    DependencyCycleError,
    EscalationNotFoundError,
    InvalidInputError,
    TaskNotFoundError,
    TaskStateError,
)
from loom.graph.front import Loom
from loom.graph.model.task import TaskStatus
from loom.replies import drawing
from tests.conftest import Opener, horizon_passed

Clock = Callable[[float], Awaitable[None]]


async def holds(loom: Loom) -> None:
    """Every invariant holds, Redis included."""
    await horizon_passed(loom)
    assert [one for one in await loom.doctor() if not one.holds] == []


async def status(loom: Loom, task_id: str) -> TaskStatus:
    return (await loom.get(task_id)).task.status


async def test_equal_tasks_of_a_plan_are_claimed_in_its_order(loom: Loom) -> None:
    await loom.apply_plan({"tasks": [{"title": f"T{number}"} for number in range(9)]})
    claims = [await loom.claim() for _ in range(9)]
    assert [claim.task.title for claim in claims if claim] == [f"T{number}" for number in range(9)]


async def test_what_was_cancelled_still_counts_down(loom: Loom) -> None:
    first = await loom.create("first")
    epic = await loom.create("epic", epic=True, depends_on=[first.id])
    inner = await loom.create("inner", parent_id=epic.id, epic=True)
    child = await loom.create("child", parent_id=inner.id)
    await loom.cancel(epic.id)
    await holds(loom)
    await loom.done(first.id)
    assert (await loom.get(child.id)).task.waiting == 0
    await holds(loom)


async def test_a_plan_that_waits_for_what_was_cancelled_is_refused(loom: Loom) -> None:
    gone = await loom.create("gone")
    await loom.cancel(gone.id)
    with pytest.raises(TaskStateError, match="will never be done"):
        await loom.apply_plan({"tasks": [{"title": "first"}, {"title": "second", "depends_on": [gone.id]}]})
    assert (await loom.status()).counts["pending"] == 0


async def test_a_task_waits_for_all_its_dependencies(loom: Loom) -> None:
    a, b = await loom.create("A"), await loom.create("B")
    c = await loom.create("C", depends_on=[a.id, b.id])
    assert c.status == "blocked"
    assert (await loom.done(a.id)).unblocked == ()
    assert await status(loom, c.id) == "blocked"
    assert (await loom.done(b.id)).unblocked == (c.id,)
    assert await status(loom, c.id) == "pending"
    await holds(loom)


async def test_the_best_ready_task_is_the_most_urgent_then_the_oldest(loom: Loom) -> None:
    late = await loom.create("late")
    urgent = await loom.create("urgent", priority="p0")
    idle = await loom.create("idle", priority="p2")
    later = await loom.create("later")
    wanted = [urgent.id, late.id, later.id, idle.id]
    assert [task.id for task in (await loom.ready()).tasks] == wanted
    claimed = []
    while (claim := await loom.claim()) is not None:
        claimed.append(claim.task.id)
    assert claimed == wanted


async def test_a_claim_brings_what_its_dependencies_left(loom: Loom) -> None:
    a = await loom.create("A")
    await loom.done(a.id, {"path": "a.py"})
    epic = await loom.create("E", epic=True)
    child = await loom.create("child", parent_id=epic.id)
    b = await loom.create("B", depends_on=[a.id, epic.id], done_when="it works", context={"k": 1})
    await loom.done(child.id)
    claim = await loom.claim(b.id)
    assert claim is not None
    assert claim.task.done_when == "it works"
    assert claim.task.context == {"k": 1}
    by_id = {one["id"]: one for one in claim.inputs}
    assert by_id[a.id]["output"] == '{"path": "a.py"}'
    assert by_id[epic.id]["children"] == ["child"]


async def test_losing_a_claim_names_the_holder(open_loom: Opener) -> None:
    one, two = await open_loom("one"), await open_loom("two")
    task = await one.create("A")
    await one.claim(task.id)
    with pytest.raises(ClaimConflictError, match="claimed by one until"):
        await two.claim(task.id)
    with pytest.raises(ClaimConflictError, match="already claimed under your name"):
        await one.claim(task.id)
    assert await two.claim() is None


async def test_only_the_holder_reports(open_loom: Opener) -> None:
    one, two = await open_loom("one"), await open_loom("two")
    task = await one.create("A")
    claim = await one.claim(task.id)
    assert claim is not None
    with pytest.raises(ClaimConflictError, match="claimed, and not by two"):
        await two.done(task.id)
    assert (await two.done(task.id, {"by": "token"}, token=claim.task.claim_token)).task.status == "done"


async def test_a_report_without_a_name_is_about_a_claim_without_one(loom: Loom) -> None:
    mine, theirs = await loom.create("A"), await loom.create("B")
    await loom.claim(mine.id)
    await loom.claim(theirs.id, agent_id="sub-1")
    assert (await loom.done(mine.id)).task.status == "done"
    with pytest.raises(ClaimConflictError, match="claimed, and not by tester") as refused:
        await loom.done(theirs.id)
    assert "sub-1" not in str(refused.value)
    assert (await loom.done(theirs.id, agent_id="sub-1")).task.assignee == "sub-1"


async def test_done_claims_what_nobody_holds(loom: Loom, pool: Pool) -> None:
    task = await loom.create("A")
    finished = (await loom.done(task.id, {"n": 1})).task
    assert (finished.status, finished.attempt, finished.claim_token) == ("done", 1, 1)
    types = await pool.fetch("select type from events where task_id = $1 order by id", task.id)
    assert [row["type"] for row in types] == ["task.created", "task.claimed", "task.done"]


async def test_the_same_token_gets_the_first_answer_again(loom: Loom) -> None:
    task = await loom.create("A")
    after = await loom.create("B", depends_on=[task.id])
    claim = await loom.claim(task.id)
    assert claim is not None
    first = await loom.done(task.id, {"n": 1}, token=claim.task.claim_token)
    again = await loom.done(task.id, {"n": 2}, token=claim.task.claim_token)
    assert again == first
    assert again.unblocked == (after.id,)
    assert again.task.output == {"n": 1}


async def test_an_epic_closes_with_its_children_and_lets_its_dependents_go(loom: Loom) -> None:
    outer = await loom.create("outer", epic=True)
    inner = await loom.create("inner", parent_id=outer.id)
    first = await loom.create("first", parent_id=inner.id)
    second = await loom.create("second", parent_id=inner.id)
    after = await loom.create("after", depends_on=[outer.id])
    assert await status(loom, inner.id) == "epic"
    await loom.done(first.id)
    assert await status(loom, outer.id) == "epic"
    outcome = await loom.done(second.id)
    assert outcome.closed == (inner.id, outer.id)
    assert outcome.unblocked == (after.id,)
    await holds(loom)


async def test_an_epics_dependencies_hold_its_children(loom: Loom) -> None:
    first = await loom.create("first")
    outer = await loom.create("outer", epic=True, depends_on=[first.id])
    inner = await loom.create("inner", epic=True, parent_id=outer.id)
    leaf = await loom.create("leaf", parent_id=inner.id)
    assert leaf.status == "blocked"
    assert (await loom.done(first.id)).unblocked == (leaf.id,)
    await holds(loom)


async def test_an_epic_is_not_claimed_and_names_its_ready_children(loom: Loom) -> None:
    epic = await loom.create("E", epic=True)
    child = await loom.create("C", parent_id=epic.id)
    with pytest.raises(TaskStateError, match=child.id):
        await loom.claim(epic.id)
    with pytest.raises(TaskStateError, match="closes by itself"):
        await loom.done(epic.id)


async def test_an_epic_of_cancelled_children_is_cancelled(loom: Loom) -> None:
    epic = await loom.create("E", epic=True)
    children = [await loom.create(f"C{n}", parent_id=epic.id) for n in range(3)]
    outcome = await loom.cancel(epic.id, reason="not wanted")
    assert set(outcome.cancelled) == {child.id for child in children}
    assert await status(loom, epic.id) == "cancelled"
    with pytest.raises(TaskStateError, match="takes no children"):
        await loom.create("late", parent_id=epic.id)
    await holds(loom)


async def test_cancelling_names_what_it_holds_up_or_takes_it_along(loom: Loom) -> None:
    a = await loom.create("A")
    b = await loom.create("B", depends_on=[a.id])
    c = await loom.create("C", depends_on=[b.id])
    other = await loom.create("D")
    d = await loom.create("E", depends_on=[other.id])
    assert (await loom.cancel(other.id)).held_up == (d.id,)
    assert set((await loom.cancel(a.id, downstream=True)).cancelled) == {a.id, b.id, c.id}
    await holds(loom)


async def test_failing_backs_off_then_dies(loom: Loom, clock: Clock) -> None:
    task = await loom.create("A")
    after = await loom.create("B", depends_on=[task.id])
    for attempt in range(1, 4):
        await loom.claim(task.id)
        failed = (await loom.fail(task.id, f"reason {attempt}")).task
        assert failed.status == "failed"
        assert failed.retry_at is not None
        await loom.sweep()
        assert await status(loom, task.id) == "failed"
        await clock(60 * 2 ** (attempt - 1) * 1.2 + 1)
        await loom.sweep()
        assert await status(loom, task.id) == "pending"
    await loom.claim(task.id)
    outcome = await loom.fail(task.id, "reason 4")
    assert outcome.task.dead
    assert outcome.held_up == (after.id,)
    (dead,) = await loom.dead_letters()
    assert (dead.reason, dead.held_up) == ("reason 4", [after.id])
    recorded = (await loom.get(task.id)).escalations
    assert [one.message for one in recorded] == ["reason 4", "reason 3", "reason 2", "reason 1"]
    assert [one.resolution is None for one in recorded] == [True, False, False, False]
    await holds(loom)


async def test_dead_work_is_requeued_waived_or_cancelled(loom: Loom) -> None:
    tasks = [await loom.create(f"T{n}") for n in range(3)]
    after = [await loom.create(f"after {n}", depends_on=[task.id]) for n, task in enumerate(tasks)]
    for task in tasks:
        await loom.fail(task.id, "no", retry=False)
    requeued = await loom.resolve(tasks[0].id, "retry", note="look in b.py")
    assert requeued.task.status == "pending"
    assert requeued.task.attempt == 0
    assert [one.text for one in (await loom.get(tasks[0].id)).notes] == ["look in b.py"]
    waived = await loom.resolve(tasks[1].id, "waive", note="not needed")
    assert waived.task.status == "cancelled"
    assert waived.unblocked == (after[1].id,)
    cancelled = await loom.resolve(tasks[2].id, "cancel")
    assert cancelled.held_up == (after[2].id,)
    assert await loom.dead_letters() == []
    assert await loom.escalations() == []
    assert (await loom.resolve(tasks[2].id, "waive")).unblocked == (after[2].id,)
    with pytest.raises(TaskStateError, match="no open escalation"):
        await loom.resolve(after[1].id, "retry")
    await holds(loom)


async def test_a_question_blocks_until_it_is_answered(open_loom: Opener) -> None:
    worker, boss = await open_loom("worker"), await open_loom("boss")
    task = await worker.create("A")
    await worker.claim(task.id)
    asked = await worker.escalate(task.id, "Which port?")
    assert asked.task.status == "blocked"
    (question,) = await boss.escalations()
    answered = await boss.resolve(question.id, "answer", note="8080")
    assert answered.task.status == "pending"
    assert [one.text for one in (await boss.get(task.id)).notes] == ["8080"]
    assert "8080" in (await worker.inbox()).messages[0].body
    with pytest.raises(TaskStateError, match="already resolved: answer, by boss"):
        await boss.resolve(question.id, "retry")
    with pytest.raises(EscalationNotFoundError):
        await boss.resolve("esc-00000000", "retry")
    await holds(boss)


async def test_reassigning_claims_for_another_agent_and_tells_it(open_loom: Opener) -> None:
    worker, boss, other = await open_loom("worker"), await open_loom("boss"), await open_loom("other")
    task = await worker.create("A")
    await worker.escalate(task.id, "Too hard")
    outcome = await boss.resolve(task.id, "reassign", agent_id="other", note="you know this")
    assert (outcome.task.status, outcome.task.assignee, outcome.task.attempt) == ("claimed", "other", 1)
    assert task.id in (await other.inbox()).messages[0].body
    assert (await other.done(task.id)).task.status == "done"
    await holds(boss)


async def test_releasing_refunds_the_attempt_and_lapsing_does_not(loom: Loom, clock: Clock) -> None:
    task = await loom.create("A")
    await loom.claim(task.id)
    released = (await loom.release(task.id, note="half done in x.py")).task
    assert (released.status, released.attempt) == ("pending", 0)
    assert [one.by for one in (await loom.get(task.id)).notes] == ["tester"]
    await loom.claim(task.id)
    await clock(601)
    await loom.sweep()
    detail = await loom.get(task.id)
    assert (detail.task.status, detail.task.attempt) == ("pending", 1)
    assert detail.history[0].type == "claim.expired"
    await holds(loom)


async def test_a_task_that_kills_its_agents_becomes_a_dead_letter(open_loom: Opener, clock: Clock) -> None:
    loom = await open_loom(max_retries=1)
    task = await loom.create("A")
    for _ in range(2):
        assert await loom.claim() is not None
        await clock(601)
        await loom.sweep()
    (dead,) = await loom.dead_letters()
    assert dead.reason == "its lease expired in attempt 2 of 2"
    assert (await loom.escalations())[0].task_id == task.id
    await holds(loom)


async def test_a_late_report_counts_while_its_token_is_the_newest(open_loom: Opener, clock: Clock, pool: Pool) -> None:
    one, two = await open_loom("one"), await open_loom("two")
    task = await one.create("A")
    await one.claim(task.id)
    await clock(601)
    await two.sweep()
    await one.done(task.id, {"late": True})
    assert await status(one, task.id) == "done"

    task = await one.create("B")
    await one.claim(task.id)
    await clock(601)
    await two.sweep()
    await two.claim(task.id)
    with pytest.raises(ClaimConflictError, match="was lost"):
        await one.done(task.id, {"kept": 1})
    kept = await pool.fetchval("select data from events where task_id = $1 and data ? 'refused'", task.id)
    assert '"kept": 1' in kept
    assert (await two.done(task.id)).task.status == "done"
    await holds(two)


async def test_a_dead_letter_by_lapse_takes_a_late_result(open_loom: Opener, clock: Clock) -> None:
    loom = await open_loom(max_retries=0)
    task = await loom.create("A")
    await loom.claim(task.id)
    await clock(601)
    await loom.sweep()
    assert len(await loom.dead_letters()) == 1
    assert (await loom.done(task.id, {"late": True})).task.status == "done"
    assert await loom.escalations() == []
    await holds(loom)


async def test_a_session_that_ends_gives_its_claims_back(open_loom: Opener) -> None:
    one, two = await open_loom("one"), await open_loom("two")
    task = await one.create("A")
    for _ in range(task.max_attempts + 1):  # such an end is nobody's failure
        await one.claim(agent_id="sub-1")
        assert [given.id for given in await one.end_session()] == [task.id]
    claim = await two.claim()
    assert claim is not None
    assert claim.task.attempt == 1


async def test_leases_are_renewed_together_and_never_past_the_deadline(open_loom: Opener, clock: Clock) -> None:
    loom = await open_loom(deadline_seconds=1000)
    tasks = [await loom.create(f"T{n}") for n in range(5)]
    for _ in tasks:
        await loom.claim()
    await clock(500)
    assert await loom.renew() == []
    await clock(300)
    await loom.sweep()
    assert {(await loom.get(task.id)).task.status for task in tasks} == {TaskStatus.CLAIMED}
    await loom.renew()
    await clock(201)
    await loom.sweep()
    assert {(await loom.get(task.id)).task.status for task in tasks} == {TaskStatus.PENDING}
    await holds(loom)


async def test_idle_claims_are_not_renewed(open_loom: Opener, clock: Clock) -> None:
    loom = await open_loom(idle_limit_seconds=0)
    task = await loom.create("A")
    await loom.claim()
    await clock(500)
    await loom.renew()
    await clock(101)
    await loom.sweep()
    assert await status(loom, task.id) == "pending"


async def test_heartbeats_renew_and_tell_of_lost_claims(open_loom: Opener, clock: Clock) -> None:
    one, two = await open_loom("one"), await open_loom("two")
    task = await one.create("A")
    await one.claim()
    await clock(500)
    (renewed,) = (await one.heartbeat()).tasks
    await clock(500)
    await two.sweep()
    assert renewed.id == task.id
    await clock(200)
    await two.sweep()
    await two.claim()
    with pytest.raises(ClaimConflictError, match="was lost"):
        await one.heartbeat([task.id])
    of_all = await one.heartbeat()
    assert of_all.tasks == []
    assert [*of_all.lost] == [task.id]


async def test_updating_dependencies_blocks_and_readies(loom: Loom) -> None:
    a, b = await loom.create("A"), await loom.create("B")
    blocked = await loom.update(b.id, depends_on=[a.id])
    assert blocked.task.status == "blocked"
    readied = await loom.update(b.id, depends_on=[])
    assert (readied.task.status, readied.unblocked) == ("pending", (b.id,))
    await loom.claim(b.id)
    with pytest.raises(TaskStateError, match="gains no dependency"):
        await loom.update(b.id, depends_on=[a.id])
    await loom.done(b.id)
    with pytest.raises(TaskStateError, match="already done"):
        await loom.update(b.id, title="x")
    await holds(loom)


async def test_an_epic_gains_dependencies_only_before_its_work_begins(loom: Loom) -> None:
    first = await loom.create("first")
    epic = await loom.create("E", epic=True)
    inner = await loom.create("inner", epic=True, parent_id=epic.id)
    leaf = await loom.create("leaf", parent_id=inner.id)
    await loom.update(epic.id, depends_on=[first.id])
    assert await status(loom, leaf.id) == "blocked"
    assert (await loom.update(epic.id, depends_on=[])).unblocked == (leaf.id,)
    await loom.claim(leaf.id)
    with pytest.raises(TaskStateError, match="has begun"):
        await loom.update(epic.id, depends_on=[first.id])
    await holds(loom)


async def test_cycles_are_refused_through_epics_too(loom: Loom) -> None:
    a = await loom.create("A")
    b = await loom.create("B", depends_on=[a.id])
    epic = await loom.create("E", epic=True)
    child = await loom.create("C", parent_id=epic.id)
    for task, targets in ((a, [b.id]), (a, [a.id]), (child, [epic.id]), (epic, [child.id])):
        with pytest.raises(DependencyCycleError):
            await loom.update(task.id, depends_on=targets)
    with pytest.raises(DependencyCycleError):
        await loom.create("D", parent_id=epic.id, depends_on=[epic.id])
    after = await loom.create("after", depends_on=[epic.id])
    with pytest.raises(DependencyCycleError, match=after.id):
        await loom.create("D", parent_id=epic.id, depends_on=[after.id])
    with pytest.raises(DependencyCycleError, match=after.id):
        await loom.apply_plan({"tasks": [{"title": "D", "parent": epic.id, "depends_on": [after.id]}]})
    assert (await loom.status()).counts["blocked"] == 2
    await holds(loom)


async def test_unknown_and_foreign_ids_are_refused_by_name(loom: Loom, open_loom: Opener) -> None:
    for wrong in ("loom-00000000", "LOOM-1", "'; drop table tasks; --", "loom-0000000g", ""):
        with pytest.raises((TaskNotFoundError, InvalidInputError)):
            await loom.done(wrong)
        with pytest.raises((TaskNotFoundError, InvalidInputError)):
            await loom.create("A", depends_on=[wrong])
    with pytest.raises(TaskNotFoundError, match="loom-00000000"):
        await loom.create("A", parent_id="loom-00000000")
    assert sum((await loom.status()).counts.values()) == 0


async def test_a_plan_is_written_whole_or_not_at_all(loom: Loom) -> None:
    tasks = await loom.apply_plan(
        {
            "tasks": [
                {"key": "e", "title": "Epic", "type": "epic"},
                {"key": "a", "title": "A", "parent": "e"},
                {"key": "b", "title": "B", "parent": "e", "depends_on": ["a"], "priority": "p0"},
                {"title": "C", "depends_on": ["Epic"]},
            ]
        }
    )
    assert {task.title: str(task.status) for task in tasks} == {
        "Epic": "epic",
        "A": "pending",
        "B": "blocked",
        "C": "blocked",
    }
    known = next(task for task in tasks if task.title == "C")
    with pytest.raises(TaskNotFoundError):
        await loom.apply_plan({"tasks": [{"title": "D"}, {"title": "E", "depends_on": [known.id, "loom-00000000"]}]})
    assert sum((await loom.status()).counts.values()) == 4
    await holds(loom)


async def test_a_complete_project_is_announced_once_and_again_after_more(loom: Loom, pool: Pool) -> None:
    async def announced() -> int:
        await loom.sweep()
        await loom.sweep()
        count: int = await pool.fetchval("select count(*) from events where type = 'project.complete'")
        return count

    assert await announced() == 0
    task = await loom.create("A")
    assert await announced() == 0
    await loom.done(task.id)
    assert await announced() == 1
    await loom.done((await loom.create("B")).id)
    assert await announced() == 2


async def test_the_graph_names_what_is_stuck_behind_dead_work(loom: Loom) -> None:
    dead, dropped = await loom.create("dead"), await loom.create("dropped")
    epic = await loom.create("E", epic=True, depends_on=[dead.id])
    child = await loom.create("C", parent_id=epic.id)
    other = await loom.create("other", depends_on=[dropped.id])
    await loom.fail(dead.id, "no", retry=False)
    await loom.cancel(dropped.id)
    summary = drawing.summary(await loom.graph())
    assert summary["held_up_by_dead_work"] == {dead.id: [epic.id], dropped.id: [other.id]}
    assert child.status == "blocked"
