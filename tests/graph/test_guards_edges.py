"""Edges that hold and edges that are waived: a waived one counts nowhere any more, whatever its target is."""

from __future__ import annotations

import pytest

from loom.db.connection import Pool
from loom.exceptions import DependencyCycleError, TaskStateError
from loom.graph import store
from loom.graph.front import Loom
from loom.graph.model.dependencies import epic_start
from loom.graph.rules import mending
from loom.graph.rules.mending import Diagnosis, Remedy
from loom.graph.store.blockers import blockers
from tests.graph.conftest import Rival, kill, row, soon, waive_edge
from tests.graph.test_lifecycle import holds, status

# --- waived edges -----------------------------------------------------------------------------------------------------


async def test_cancelling_downstream_stops_at_a_waived_edge(loom: Loom, pool: Pool) -> None:
    first = await loom.create("first")
    after, free = await loom.create("after", depends_on=[first.id]), await loom.create("free", depends_on=[first.id])
    await waive_edge(pool, free, first)
    assert set((await loom.cancel(first.id, downstream=True)).cancelled) == {first.id, after.id}
    assert await status(loom, free.id) == "pending"
    await holds(loom)


async def test_a_waived_edge_closes_no_cycle(loom: Loom, pool: Pool) -> None:
    first = await loom.create("first")
    free = await loom.create("free", depends_on=[first.id])
    last = await loom.create("last", depends_on=[free.id])
    with pytest.raises(DependencyCycleError):
        await loom.update(first.id, depends_on=[last.id])
    await waive_edge(pool, free, first)
    assert (await loom.update(first.id, depends_on=[last.id])).task.status == "blocked"
    await holds(loom)


async def test_a_waived_edge_closes_no_cycle_through_an_epic(loom: Loom, pool: Pool) -> None:
    """The way through the start of an epic."""
    first = await loom.create("first")
    epic = await loom.create("epic", epic=True, depends_on=[first.id])
    child = await loom.create("child", parent_id=epic.id)
    with pytest.raises(DependencyCycleError):
        await loom.update(first.id, depends_on=[child.id])
    await waive_edge(pool, epic, first)
    await pool.execute("update tasks set waiting = 0, status = 'pending', ready_at = now() where id = $1", child.id)
    assert (await loom.update(first.id, depends_on=[child.id])).task.status == "blocked"


async def test_over_a_waived_edge_nothing_is_counted_down_or_waited_for(loom: Loom, pool: Pool, rival: Rival) -> None:
    first, other = await loom.create("first"), await loom.create("other")
    task, after = await loom.create("task", depends_on=[first.id, other.id]), await loom.create("after")
    await loom.update(after.id, depends_on=[first.id])
    await waive_edge(pool, task, first)
    await rival.lock(task.id)
    assert (await soon(loom.done(first.id))).unblocked == (after.id,)
    await rival.commit()
    assert (await row(pool, task))["waiting"] == 1
    await holds(loom)
    assert (await loom.done(other.id)).unblocked == (task.id,)


async def test_a_waived_edge_is_not_counted_anew(loom: Loom, pool: Pool) -> None:
    """An edit, a requeue and a cancellation count from the definition."""
    first, other = await loom.create("first"), await loom.create("other")
    edited, dead, gone = [await loom.create(title, depends_on=[first.id]) for title in ("edited", "dead", "gone")]
    for task in (edited, dead, gone):
        await waive_edge(pool, task, first)
    assert (await loom.update(edited.id, depends_on=[first.id, other.id])).task.waiting == 1
    await kill(loom, dead)
    assert (await loom.resolve(dead.id, "retry")).task.status == "pending"
    assert (await loom.cancel(gone.id)).task.waiting == 0
    await holds(loom)


async def test_who_waits_over_a_waived_edge_is_not_named_as_held_up(loom: Loom, pool: Pool) -> None:
    first = await loom.create("first")
    task, free = await loom.create("task", depends_on=[first.id]), await loom.create("free", depends_on=[first.id])
    await waive_edge(pool, free, first)
    assert (await loom.escalate(first.id, "?")).held_up == (task.id,)
    assert [one.held_up for one in await loom.escalations()] == [1]
    await loom.resolve(first.id, "answer", note="so")
    assert (await loom.fail(first.id, "no", retry=False)).held_up == (task.id,)
    assert [one.held_up for one in await loom.dead_letters()] == [[task.id]]
    assert (await loom.cancel(first.id)).held_up == (task.id,)


async def test_who_is_finished_is_not_named_as_held_up(loom: Loom) -> None:
    first = await loom.create("first")
    task, gone = await loom.create("task", depends_on=[first.id]), await loom.create("gone", depends_on=[first.id])
    await loom.cancel(gone.id)
    assert (await loom.fail(first.id, "no", retry=False)).held_up == (task.id,)
    assert [one.held_up for one in await loom.escalations()] == [1]
    assert [one.held_up for one in await loom.dead_letters()] == [[task.id]]


async def test_what_dead_work_holds_up_is_found_through_epics(loom: Loom) -> None:
    epic = await loom.create("epic", epic=True)
    dead = await loom.create("dead", parent_id=epic.id)
    after = await loom.create("after", depends_on=[epic.id])
    await kill(loom, dead)
    assert [one.held_up for one in await loom.dead_letters()] == [sorted([epic.id, after.id])]


async def test_a_waived_or_finished_dependency_is_not_named_as_waited_for(loom: Loom, pool: Pool) -> None:
    first, other, done = await loom.create("first"), await loom.create("other"), await loom.create("done")
    task = await loom.create("task", depends_on=[first.id, other.id, done.id])
    await loom.done(done.id)
    await waive_edge(pool, task, first)
    with pytest.raises(TaskStateError) as refused:
        await loom.claim(task.id)
    assert other.id in str(refused.value)
    assert first.id not in str(refused.value)
    assert done.id not in str(refused.value)


async def test_a_few_of_what_is_waited_for_are_named_and_no_question_that_was_answered(loom: Loom, pool: Pool) -> None:
    task = await loom.create("task")
    await loom.escalate(task.id, "?")
    (question,) = await loom.escalations()
    before = [await loom.create(f"T{n}") for n in range(7)]
    await loom.update(task.id, depends_on=[one.id for one in before])
    async with pool.acquire() as connection:
        named = (await blockers(connection, loom.project_id, [task.id]))[task.id]
        assert [one.id for one in named] == [*sorted(one.id for one in before)[:5], question.id]
        await loom.resolve(task.id, "answer", note="so")
        named = (await blockers(connection, loom.project_id, [task.id]))[task.id]
        assert question.id not in [one.id for one in named]
        await kill(loom, before[0])
        assert await blockers(connection, loom.project_id, [before[0].id]) == {}, "it is dead, and waits for nothing"


async def test_a_child_names_what_its_epic_waits_for(loom: Loom) -> None:
    first = await loom.create("first")
    epic = await loom.create("epic", epic=True, depends_on=[first.id])
    child = await loom.create("child", parent_id=epic.id)
    with pytest.raises(TaskStateError, match=f"waits for {first.id}"):
        await loom.claim(child.id)


async def test_what_was_waived_once_is_not_waived_again(loom: Loom, pool: Pool) -> None:
    task = await loom.create("task")
    after = await loom.create("after", depends_on=[task.id])
    await kill(loom, task)
    version = (await loom.resolve(task.id, "waive", by="first", note="not needed")).task.version
    assert (await loom.resolve(task.id, "waive", by="second")).task.version == version
    edge = await pool.fetchrow("select waived_by, waive_reason from task_deps where task_id = $1", after.id)
    assert dict(edge or {}) == {"waived_by": "first", "waive_reason": "not needed"}
    told = await pool.fetch("select data ->> 'dependents' as dependents from events where type = 'task.waived'")
    assert [one["dependents"] for one in told] == [f'["{after.id}"]', "[]"]
    await holds(loom)


async def test_only_waived_edges_are_exported_as_waived(loom: Loom) -> None:
    done, dead = await loom.create("done"), await loom.create("dead")
    after = await loom.create("after", depends_on=[done.id, dead.id])
    await kill(loom, dead)
    await loom.resolve(dead.id, "waive")
    (exported,) = [one for one in (await loom.export())["tasks"] if one["id"] == after.id]
    assert exported["waived"] == [dead.id]


@pytest.mark.parametrize("what", ["claimed", "done", "epic"])
async def test_only_work_that_nobody_does_is_waived(loom: Loom, what: str) -> None:
    task = await loom.create("A", epic=what == "epic")
    if what == "claimed":
        await loom.claim(task.id)
    elif what == "done":
        await loom.done(task.id)
    with pytest.raises(TaskStateError, match=f"is {what} and cannot be waived"):
        await loom.resolve(task.id, "waive")
    assert await status(loom, task.id) == what
    await holds(loom)


# --- cycles and cancelled targets -------------------------------------------------------------------------------------


async def test_for_a_cycle_only_what_is_open_is_read_and_over_edges_that_hold(loom: Loom, pool: Pool) -> None:
    """However much a project has done."""
    epic = await loom.create("epic", epic=True)
    done, _ = await loom.create("done", parent_id=epic.id), await loom.create("left", parent_id=epic.id)
    waived = await loom.create("waived")
    await loom.done(done.id)
    task = await loom.create("task", depends_on=[done.id, waived.id])
    await waive_edge(pool, task, waived)
    graph = await loom.transact(lambda tx: store.upstream(tx, [task.id]))
    assert graph == {task.id: [epic_start(task.id)], epic_start(task.id): [done.id]}


async def test_a_child_is_on_the_way_from_its_epic_to_a_cycle(loom: Loom) -> None:
    epic = await loom.create("epic", epic=True)
    child = await loom.create("child", parent_id=epic.id)
    after = await loom.create("after", depends_on=[epic.id])
    with pytest.raises(DependencyCycleError):
        await loom.update(child.id, depends_on=[after.id])
    assert (await loom.get(child.id)).task.depends_on == ()


async def test_nothing_comes_to_depend_on_what_was_cancelled(loom: Loom) -> None:
    gone, task = await loom.create("gone"), await loom.create("task")
    await loom.cancel(gone.id)
    with pytest.raises(TaskStateError, match=f"{gone.id}, which was cancelled"):
        await loom.create("new", depends_on=[gone.id])
    with pytest.raises(TaskStateError, match=f"{gone.id}, which was cancelled"):
        await loom.update(task.id, depends_on=[gone.id])
    with pytest.raises(TaskStateError, match=f"{gone.id}, which was cancelled"):
        await loom.apply_plan({"tasks": [{"title": "new", "depends_on": [gone.id]}]})
    assert sum((await loom.status()).counts.values()) == 2


async def test_what_depends_on_cancelled_work_can_be_edited(loom: Loom) -> None:
    gone, other = await loom.create("gone"), await loom.create("other")
    task = await loom.create("task", depends_on=[gone.id])
    await loom.cancel(gone.id)
    assert (await loom.update(task.id, depends_on=[gone.id, other.id])).task.waiting == 2


async def test_nothing_depends_on_itself(loom: Loom) -> None:
    task = await loom.create("A")
    with pytest.raises(DependencyCycleError, match="cannot depend on itself"):
        await loom.update(task.id, depends_on=[task.id])


# --- what counts, and how far it goes ---------------------------------------------------------------------------------


async def test_cancelling_stops_at_what_is_finished(loom: Loom) -> None:
    first = await loom.create("first")
    epic = await loom.create("epic", epic=True)
    done, left = await loom.create("done", parent_id=epic.id), await loom.create("left", parent_id=epic.id)
    after = await loom.create("after", depends_on=[first.id])
    last = await loom.create("last", depends_on=[after.id])
    await loom.done(done.id)
    await loom.cancel(after.id)
    assert (await loom.cancel(epic.id)).cancelled == (left.id,)
    assert await status(loom, epic.id) == "done", "one of its children is"
    assert (await loom.cancel(first.id, downstream=True)).cancelled == (first.id,), "the way beyond was cut before"
    assert await status(loom, last.id) == "blocked"
    await holds(loom)


async def test_cancelling_takes_nothing_along_unasked(loom: Loom) -> None:
    first = await loom.create("first")
    after = await loom.create("after", depends_on=[first.id])
    assert (await loom.cancel(first.id)).cancelled == (first.id,)
    assert await status(loom, after.id) == "blocked"
    with pytest.raises(TaskStateError, match="already cancelled"):
        await loom.cancel(first.id)


async def test_an_epic_passes_on_only_that_it_begins_or_ceases_to_wait(loom: Loom, pool: Pool) -> None:
    one, two = await loom.create("one"), await loom.create("two")
    epic = await loom.create("epic", epic=True, depends_on=[one.id])
    child = await loom.create("child", parent_id=epic.id)
    await loom.update(epic.id, depends_on=[one.id, two.id])
    assert (await row(pool, child))["waiting"] == 1
    await loom.update(epic.id, title="still an epic that waits", depends_on=[two.id])
    assert (await row(pool, child))["waiting"] == 1
    assert (await loom.done(one.id)).unblocked == ()
    assert (await loom.done(two.id)).unblocked == (child.id,)
    await holds(loom)


async def test_an_epic_that_still_waits_lets_nobody_go(loom: Loom, pool: Pool) -> None:
    one, two = await loom.create("one"), await loom.create("two")
    epic = await loom.create("epic", epic=True, depends_on=[one.id, two.id])
    child = await loom.create("child", parent_id=epic.id)
    assert (await loom.done(one.id)).unblocked == ()
    assert (await row(pool, child))["waiting"] == 1
    await holds(loom)


@pytest.mark.parametrize("left", ["pending", "blocked", "claimed", "failed", "dead", "epic"])
async def test_an_epic_stays_open_while_a_child_is_anything_but_finished(loom: Loom, left: str) -> None:
    epic = await loom.create("epic", epic=True)
    first = await loom.create("first", parent_id=epic.id)
    before = await loom.create("before")
    child = await loom.create(
        "child", parent_id=epic.id, epic=left == "epic", depends_on=[before.id] if left == "blocked" else []
    )
    match left:
        case "claimed":
            await loom.claim(child.id)
        case "failed":
            await loom.fail(child.id, "no")
        case "dead":
            await kill(loom, child)
    assert (await loom.done(first.id)).closed == ()
    assert await status(loom, epic.id) == "epic"
    await holds(loom)


async def test_a_closed_epic_is_not_closed_again(loom: Loom, pool: Pool) -> None:
    """A child that was waived after its epic had closed is finished a second time."""
    epic = await loom.create("epic", epic=True)
    child = await loom.create("child", parent_id=epic.id)
    assert (await loom.cancel(child.id)).closed == (epic.id,)
    before = (await row(pool, epic))["version"]
    assert (await loom.resolve(child.id, "waive")).closed == ()
    assert (await row(pool, epic))["version"] == before
    await holds(loom)


async def test_an_epic_without_children_stays_open(loom: Loom) -> None:
    epic = await loom.create("epic", epic=True)
    assert await loom.transact(lambda tx: store.close_epic(tx, epic.id)) is None


async def test_a_cancelled_epic_lets_no_dependent_go(loom: Loom) -> None:
    epic = await loom.create("epic", epic=True)
    child, after = await loom.create("child", parent_id=epic.id), await loom.create("after", depends_on=[epic.id])
    outcome = await loom.cancel(child.id)
    assert (outcome.closed, outcome.unblocked) == ((epic.id,), ())
    assert await status(loom, after.id) == "blocked"
    await holds(loom)


# --- mending ----------------------------------------------------------------------------------------------------------


async def test_only_failed_or_escalated_work_is_mended(loom: Loom) -> None:
    task = await loom.create("A")
    await loom.fail(task.id, "no", retry=False)
    await loom.resolve(task.id, "retry")
    finding = Diagnosis("a cause", "high", Remedy.RETRY, "a note")
    with pytest.raises(TaskStateError, match="is ready and has no open question"):
        await loom.transact(lambda tx: mending.mend(tx, task.id, finding, agent="a", max_attempts=4))


async def test_what_is_left_to_a_person_makes_no_task(loom: Loom) -> None:
    task = await loom.create("A")
    await kill(loom, task)
    fix = {"title": "Mend it", "done_when": "It works.", "depends_on": ()}
    finding = Diagnosis("a cause", "high", Remedy.ASK_PERSON, "a note", fix_tasks=(fix,))
    mended = await loom.transact(lambda tx: mending.mend(tx, task.id, finding, agent="a", max_attempts=4))
    assert (mended.fixes, await status(loom, task.id)) == ((), "failed")
    assert sum((await loom.status()).counts.values()) == 1


async def test_a_diagnosis_is_kept_with_the_open_escalation_of_its_task(loom: Loom, pool: Pool) -> None:
    """Where there is a newer one, too."""
    task = await loom.create("A")
    await loom.escalate(task.id, "?")
    (question,) = await loom.escalations()
    await pool.execute(
        "insert into escalations (project_id, id, task_id, kind, message, attempt, raised_at, resolution, resolved_at)"
        " values ($1, 'esc-00000000', $2, 'failure', 'no', 1, loom_now() + interval '1 s', 'retry', loom_now())",
        loom.project_id,
        task.id,
    )
    finding = Diagnosis("a cause", "high", Remedy.RETRY, "a note")
    mended = await loom.transact(lambda tx: mending.mend(tx, task.id, finding, agent="a", max_attempts=4))
    assert mended.escalation == question.id


async def test_a_diagnosis_of_what_failed_again_is_kept_with_its_newest_failure(loom: Loom, pool: Pool) -> None:
    task = await loom.create("A")
    await loom.fail(task.id, "no")
    newest = await pool.fetchval("select id from escalations")
    await pool.execute(
        "insert into escalations (project_id, id, task_id, kind, message, attempt, raised_at, resolution, resolved_at)"
        " values ($1, 'esc-00000000', $2, 'failure', 'no', 1, loom_now() - interval '1 h', 'retry', loom_now())",
        loom.project_id,
        task.id,
    )
    finding = Diagnosis("a cause", "high", Remedy.RETRY, "a note")
    mended = await loom.transact(lambda tx: mending.mend(tx, task.id, finding, agent="a", max_attempts=4))
    assert mended.escalation == newest
