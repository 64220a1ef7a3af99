"""Tasks that are moved from one epic into another: what they wait for, what closes, and what they are held to."""

from __future__ import annotations

import pytest

from loom.db.connection import Pool
from loom.exceptions import DependencyCycleError, TaskNotFoundError, TaskStateError
from loom.graph.front import Loom
from tests.conftest import Opener
from tests.graph.conftest import Gate, begun, waits
from tests.graph.test_lifecycle import holds, status


async def test_a_task_that_is_moved_waits_with_the_epic_that_it_comes_into(loom: Loom) -> None:
    first = await loom.create("first")
    later, free = await loom.create("later", epic=True, depends_on=[first.id]), await loom.create("free", epic=True)
    task = await loom.create("task", parent_id=free.id)
    moved = await loom.update(task.id, parent_id=later.id)
    assert (moved.task.parent_id, moved.task.status) == (later.id, "blocked")
    event = (await loom.history(task.id))[-1]
    assert (event.type, event.data) == ("task.blocked", {"parent_id": {"from": free.id, "to": later.id}})
    assert await status(loom, free.id) == "epic"  # without children it stays open
    back = await loom.update(task.id, parent_id="")
    assert (await loom.history(task.id))[-1].data == {"parent_id": {"from": later.id}}
    assert (back.task.parent_id, back.task.status, back.unblocked) == (None, "pending", (task.id,))
    await holds(loom)


async def test_an_epic_that_its_last_open_child_leaves_closes(loom: Loom) -> None:
    epic = await loom.create("epic", epic=True)
    done, task = await loom.create("done", parent_id=epic.id), await loom.create("task", parent_id=epic.id)
    after = await loom.create("after", depends_on=[epic.id])
    await loom.done(done.id)
    moved = await loom.update(task.id, parent_id="")
    assert (moved.closed, moved.unblocked) == ((epic.id,), (after.id,))
    await holds(loom)


async def test_an_epic_is_moved_with_all_that_is_in_it(loom: Loom) -> None:
    first = await loom.create("first")
    later = await loom.create("later", epic=True, depends_on=[first.id], checks=["unit"])
    epic = await loom.create("epic", epic=True)
    child, gone = await loom.create("child", parent_id=epic.id), await loom.create("gone", parent_id=epic.id)
    await loom.cancel(gone.id)
    await loom.update(epic.id, parent_id=later.id, checks=["lint"])
    found = (await loom.get(child.id)).task
    assert (found.status, found.checks) == ("blocked", ("unit",))
    assert (await loom.get(epic.id)).task.checks == ("unit", "lint")
    assert (await loom.get(gone.id)).task.checks == ()
    assert (await loom.done(first.id)).unblocked == (child.id,)
    await holds(loom)


async def test_what_is_in_work_is_not_moved_to_where_it_would_wait(loom: Loom) -> None:
    first = await loom.create("first")
    later, free = await loom.create("later", epic=True, depends_on=[first.id]), await loom.create("free", epic=True)
    epic = await loom.create("epic", epic=True)
    task = await loom.create("task", parent_id=epic.id)
    await loom.claim(task.id)
    for one in (task, epic):
        with pytest.raises(TaskStateError, match="gains no dependency"):
            await loom.update(one.id, parent_id=later.id)
    assert (await loom.update(task.id, parent_id=free.id)).task.status == "claimed"
    await holds(loom)


async def test_nothing_is_moved_into_itself(loom: Loom) -> None:
    epic = await loom.create("epic", epic=True)
    child = await loom.create("child", parent_id=epic.id)
    with pytest.raises(DependencyCycleError, match="cannot be in itself"):
        await loom.update(epic.id, parent_id=epic.id)
    with pytest.raises(DependencyCycleError, match=epic.id):
        await loom.update(epic.id, parent_id=child.id)
    waiting = await loom.create("waiting", depends_on=[epic.id])
    with pytest.raises(DependencyCycleError, match="wait for itself"):
        await loom.update(waiting.id, parent_id=epic.id)
    with pytest.raises(TaskNotFoundError, match="to be the parent"):
        await loom.update(child.id, parent_id="loom-00000000")
    assert (await loom.get(child.id)).task.status == "pending"  # a refusal makes no epic of it
    await holds(loom)


async def test_a_move_that_closes_a_cycle_with_another_edge_is_not_made(
    loom: Loom, open_loom: Opener, gate: Gate, pool: Pool
) -> None:
    """Each alone is in order, and they lock no row in common."""
    last, task = await loom.create("last"), await loom.create("task")
    epic = await loom.create("epic", epic=True, depends_on=[last.id])
    between = await loom.create("between", depends_on=[task.id])
    await gate.shut(f"new.task_id = '{last.id}'")
    async with begun(loom.update(last.id, depends_on=[between.id])) as first:
        await waits(pool, first)
        async with begun((await open_loom()).update(task.id, parent_id=epic.id)) as second:
            await waits(pool, second, 2)
            await gate.open()
            assert (await first).task.status == "blocked"
            with pytest.raises(DependencyCycleError):
                await second
    await holds(loom)
