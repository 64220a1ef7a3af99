"""Which edges hold, how far a change reaches, and in which order a task's events stand."""

from __future__ import annotations

import pytest

from loom.db.connection import Pool
from loom.exceptions import DependencyCycleError, TaskStateError
from loom.graph.front import Loom
from loom.graph.model.task import TaskStatus
from tests.conftest import Opener
from tests.graph.conftest import Rival, begun, soon, waits
from tests.graph.test_lifecycle import holds


async def test_what_was_waived_or_cancelled_closes_no_cycle(loom: Loom) -> None:
    x = await loom.create("X")
    c = await loom.create("C", depends_on=[x.id])
    d = await loom.create("D", depends_on=[c.id])
    await loom.resolve(c.id, "waive")
    await loom.update(x.id, depends_on=[d.id])
    await holds(loom)


async def test_an_epic_may_be_waited_for_by_what_its_cancelled_child_waited_for(loom: Loom) -> None:
    x = await loom.create("X")
    epic = await loom.create("E", epic=True)
    child = await loom.create("K", parent_id=epic.id, depends_on=[x.id])
    other = await loom.create("L", parent_id=epic.id)
    await loom.cancel(child.id)
    await loom.done(other.id)
    await loom.update(x.id, depends_on=[epic.id])
    await holds(loom)


async def test_an_edge_that_holds_still_closes_a_cycle(loom: Loom) -> None:
    x = await loom.create("X")
    c = await loom.create("C", depends_on=[x.id])
    with pytest.raises(DependencyCycleError):
        await loom.update(x.id, depends_on=[c.id])


async def test_nothing_is_held_up_by_way_of_cancelled_work(loom: Loom) -> None:
    dead = await loom.create("dead")
    gone = await loom.create("gone", depends_on=[dead.id])
    await loom.create("behind it", depends_on=[gone.id])
    waits = await loom.create("waits", depends_on=[dead.id])
    await loom.fail(dead.id, "no", retry=False)
    await loom.cancel(gone.id)
    (letter,) = await loom.dead_letters()
    assert letter.held_up == [waits.id]


async def test_children_given_to_an_epic_while_it_is_cancelled_are_cancelled_with_it(
    loom: Loom, pool: Pool, rival: Rival
) -> None:
    epic = await loom.create("E", epic=True)
    first = await loom.create("first", parent_id=epic.id)
    await rival.lock(epic.id)  # as who adds a child holds it
    await rival.execute(
        "insert into tasks (project_id, id, title, status, priority, max_attempts, waiting, parent_id, ready_at)"
        " select project_id, 'loom-0c0c0c0c', 'late', status, priority, max_attempts, 0, parent_id, ready_at"
        " from tasks where id = $1",
        first.id,
    )
    async with begun(loom.cancel(epic.id)) as cancelling:
        await waits(pool, cancelling)
        await rival.commit()
        outcome = await soon(cancelling)
    assert outcome.task.status is TaskStatus.CANCELLED
    assert "loom-0c0c0c0c" in outcome.cancelled


async def test_an_epic_gains_no_dependency_while_a_grandchild_that_came_meanwhile_is_claimed(
    loom: Loom, open_loom: Opener, pool: Pool, rival: Rival
) -> None:
    top = await loom.create("top", epic=True)
    inner = await loom.create("inner", epic=True, parent_id=top.id)
    first = await loom.create("first", parent_id=inner.id)
    other = await loom.create("other")
    await rival.lock(inner.id)
    await rival.execute(
        "insert into tasks (project_id, id, title, status, priority, max_attempts, waiting, parent_id, attempt,"
        " claim_token, assignee, lease_seconds, claimed_at, lease_expires_at, deadline_at)"
        " select project_id, 'loom-0d0d0d0d', 'late', 'claimed', priority, max_attempts, 0, parent_id, 1, 1, 'w', 600,"
        " loom_now(), loom_now() + interval '600 s', loom_now() + interval '600 s' from tasks where id = $1",
        first.id,
    )
    async with begun((await open_loom("other")).update(top.id, depends_on=[other.id])) as updating:
        await waits(pool, updating)
        await rival.commit()
        with pytest.raises(TaskStateError, match="loom-0d0d0d0d"):
            await soon(updating)


async def test_events_of_a_task_stand_in_the_order_of_its_versions(loom: Loom, pool: Pool) -> None:
    task = await loom.create("A")
    await loom.claim(task.id)
    await loom.escalate(task.id, "which way?")
    await loom.resolve(task.id, "reassign", agent_id="other")
    await loom.fail(task.id, "no", agent_id="other")
    versions = await pool.fetch(
        "select version from events where task_id = $1 and version is not null order by id", task.id
    )
    found = [row["version"] for row in versions]
    assert found == sorted(found)
    assert len(found) >= 5
    await holds(loom)
