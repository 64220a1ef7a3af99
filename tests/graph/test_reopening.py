"""The way back from what is finished: what waits again, what goes on, what opens, and nobody who is missed."""

from __future__ import annotations

from typing import Any

import pytest

from loom.bus import channels
from loom.db.connection import Pool
from loom.exceptions import ClaimConflictError, DependencyCycleError, TaskStateError
from loom.graph.cache import mirror
from loom.graph.front import Loom
from loom.graph.store.transaction import Change
from tests.conftest import Opener
from tests.graph.conftest import Gate, begun, kill, row, soon, waits
from tests.graph.test_lifecycle import holds, status
from tests.graph.test_mirror import synced


async def test_what_has_not_begun_waits_again_and_what_has_goes_on(loom: Loom, pool: Pool) -> None:
    task = await loom.create("task")
    ready, held, over = [await loom.create(title, depends_on=[task.id]) for title in ("ready", "held", "over")]
    gone = await loom.create("gone", depends_on=[task.id])
    await loom.done(task.id, {"answer": 42})
    await loom.claim(held.id)
    await loom.done(over.id)
    await loom.cancel(gone.id)
    outcome = await loom.reopen(task.id, reason="it was wrong")
    assert (outcome.task.status, outcome.task.output, outcome.task.done_at) == ("pending", None, None)
    assert (outcome.unblocked, outcome.held_up) == ((task.id,), (ready.id,))
    assert set(outcome.waived) == {held.id, over.id}
    event = (await loom.history(task.id))[-1]
    assert event.data == {
        "was": "done", "reason": "it was wrong", "output": {"answer": 42}, "waived": sorted([held.id, over.id]),
    }  # fmt: skip
    reason = await pool.fetchval("select waive_reason from task_deps where task_id = $1", held.id)
    assert (event.type, reason, await status(loom, ready.id)) == ("task.reopened", "reopened", "blocked")
    await loom.done(held.id)
    assert (await loom.done(task.id)).unblocked == (ready.id,)
    await holds(loom)


async def test_attempts_start_anew_and_an_old_report_counts_no_more(loom: Loom) -> None:
    task = await loom.create("task", checks=[])
    claim = await loom.claim(task.id)
    assert claim is not None
    first = await loom.done(task.id, {"first": True})
    await loom.reopen(task.id)
    with pytest.raises(ClaimConflictError, match="held by nobody now"):
        await loom.done(task.id, {"late": True}, token=claim.task.claim_token)
    again = await loom.claim(task.id)
    assert again is not None
    assert (again.task.attempt, again.task.claim_token) == (1, claim.task.claim_token + 1)
    after = await loom.create("after", depends_on=[task.id])
    assert first.unblocked == ()
    second = await loom.done(task.id, token=again.task.claim_token)
    assert second.unblocked == (after.id,)
    assert (await loom.done(task.id, token=again.task.claim_token)).unblocked == (after.id,)
    await holds(loom)


async def test_closed_epics_above_open_again_and_close_again(loom: Loom) -> None:
    whole = await loom.create("whole", epic=True)
    part = await loom.create("part", epic=True, parent_id=whole.id)
    task, other = await loom.create("task", parent_id=part.id), await loom.create("other", parent_id=part.id)
    after, late = await loom.create("after", depends_on=[part.id]), await loom.create("late", depends_on=[whole.id])
    await loom.done(other.id)
    assert (await loom.done(task.id)).closed == (part.id, whole.id)
    await loom.claim(late.id)
    with pytest.raises(TaskStateError, match="is an epic, which opens again") as caught:
        await loom.reopen(part.id)
    assert task.id in str(caught.value)
    outcome = await loom.reopen(task.id)
    assert (outcome.opened, outcome.waived) == ((part.id, whole.id), (late.id,))
    assert await status(loom, after.id) == "blocked"
    assert (await loom.done(task.id)).unblocked == (after.id,)
    assert await status(loom, whole.id) == "done"
    await holds(loom)


async def test_what_was_cancelled_comes_back_to_those_who_wait_for_it(loom: Loom) -> None:
    epic = await loom.create("epic", epic=True)
    task = await loom.create("task", parent_id=epic.id)
    after, free = await loom.create("after", depends_on=[task.id]), await loom.create("free", depends_on=[task.id])
    await kill(loom, task)
    await loom.cancel(task.id)
    assert await status(loom, epic.id) == "cancelled"
    assert (await loom.reopen(task.id)).opened == (epic.id,)
    await kill(loom, task)
    await loom.resolve(task.id, "waive")
    await loom.claim(free.id)
    outcome = await loom.reopen(task.id)
    assert (outcome.held_up, outcome.waived) == ((), ())  # those edges were waived
    assert await status(loom, after.id) == "pending"
    await holds(loom)


async def test_an_epic_waits_again_only_where_nothing_in_it_has_begun(loom: Loom) -> None:
    task = await loom.create("task")
    fresh, begun_one = [await loom.create(name, epic=True, depends_on=[task.id]) for name in ("fresh", "begun")]
    child, held = await loom.create("child", parent_id=fresh.id), await loom.create("held", parent_id=begun_one.id)
    below = await loom.create("below", parent_id=child.id)
    await loom.done(task.id)
    await loom.claim(held.id)
    assert (await loom.reopen(task.id)).waived == (begun_one.id,)
    assert [await status(loom, one.id) for one in (below, held)] == ["blocked", "claimed"]
    assert (await loom.done(task.id)).unblocked == (below.id,)
    await holds(loom)


async def test_only_what_is_finished_is_reopened_and_by_nobody_inside_a_run(
    loom: Loom, open_loom: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await loom.create("task")
    with pytest.raises(TaskStateError, match="nothing to reopen"):
        await loom.reopen(task.id)
    await loom.done(task.id)
    monkeypatch.setenv("LOOM_RUN", "1")
    with pytest.raises(TaskStateError, match="inside a run"):
        await (await open_loom()).reopen(task.id)
    assert await status(loom, task.id) == "done"


async def test_a_project_is_complete_again_after_what_was_reopened(loom: Loom) -> None:
    task = await loom.create("task")
    await loom.done(task.id)
    assert (await loom.sweep())[0].completed
    await loom.reopen(task.id)
    assert not (await loom.sweep())[0].completed
    await loom.done(task.id)
    assert (await loom.sweep())[0].completed


# --- at once with others ----------------------------------------------------------------------------------------------


async def test_a_dependent_that_is_claimed_meanwhile_goes_on(
    loom: Loom, open_loom: Opener, gate: Gate, pool: Pool
) -> None:
    task = await loom.create("task")
    after = await loom.create("after", depends_on=[task.id])
    await loom.done(task.id)
    await gate.shut("new.type = 'task.claimed'")
    async with begun((await open_loom()).claim(after.id)) as claim:
        await waits(pool, claim)
        async with begun(loom.reopen(task.id)) as reopening:
            await waits(pool, reopening, 2)
            await gate.open()
            assert await claim is not None
            assert (await reopening).waived == (after.id,)
    await holds(loom)


async def test_what_is_reopened_meanwhile_is_not_claimed_by_who_waits_for_it(
    loom: Loom, open_loom: Opener, gate: Gate, pool: Pool
) -> None:
    task = await loom.create("task")
    after = await loom.create("after", depends_on=[task.id])
    await loom.done(task.id)
    await gate.shut("new.type = 'task.reopened'")
    async with begun(loom.reopen(task.id)) as reopening:
        await waits(pool, reopening)
        other = await open_loom()
        assert await soon(other.claim()) is None
        async with begun(other.claim(after.id)) as claim:
            await waits(pool, claim, 2)
            await gate.open()
            assert (await reopening).held_up == (after.id,)
            with pytest.raises(TaskStateError, match="is blocked"):
                await claim
    await holds(loom)


async def test_an_epic_whose_child_is_claimed_meanwhile_goes_on(
    loom: Loom, open_loom: Opener, gate: Gate, pool: Pool
) -> None:
    task = await loom.create("task")
    epic = await loom.create("epic", epic=True, depends_on=[task.id])
    child = await loom.create("child", parent_id=epic.id)
    await loom.done(task.id)
    await gate.shut("new.type = 'task.claimed'")
    async with begun((await open_loom()).claim(child.id)) as claim:
        await waits(pool, claim)
        async with begun(loom.reopen(task.id)) as reopening:
            await waits(pool, reopening, 2)
            await gate.open()
            assert await claim is not None
            assert (await reopening).waived == (epic.id,)
    await holds(loom)


async def test_an_epic_is_not_closed_over_a_child_that_is_reopened_meanwhile(
    loom: Loom, open_loom: Opener, gate: Gate, pool: Pool
) -> None:
    epic = await loom.create("epic", epic=True)
    task, last = await loom.create("task", parent_id=epic.id), await loom.create("last", parent_id=epic.id)
    await loom.done(task.id)
    await gate.shut("new.type = 'task.reopened'")
    async with begun(loom.reopen(task.id)) as reopening:
        await waits(pool, reopening)
        async with begun((await open_loom()).done(last.id)) as done:
            await waits(pool, done, 2)
            await gate.open()
            assert (await reopening).opened == ()
            assert (await done).closed == ()
    assert await status(loom, epic.id) == "epic"
    await holds(loom)


async def test_an_epic_that_closes_meanwhile_is_opened_again(
    loom: Loom, open_loom: Opener, gate: Gate, pool: Pool
) -> None:
    epic = await loom.create("epic", epic=True)
    task, last = await loom.create("task", parent_id=epic.id), await loom.create("last", parent_id=epic.id)
    after = await loom.create("after", depends_on=[epic.id])
    await loom.done(task.id)
    await gate.shut(f"new.type = 'task.done' and new.task_id = '{epic.id}'")
    async with begun((await open_loom()).done(last.id)) as done:
        await waits(pool, done)
        async with begun(loom.reopen(task.id)) as reopening:
            await waits(pool, reopening, 2)
            await gate.open()
            assert (await done).unblocked == (after.id,)
            assert (await reopening).opened == (epic.id,)
    assert await status(loom, after.id) == "blocked"
    await holds(loom)


async def test_who_begins_to_wait_for_it_meanwhile_is_not_missed(
    loom: Loom, open_loom: Opener, gate: Gate, pool: Pool
) -> None:
    task = await loom.create("task")
    await loom.done(task.id)
    await gate.shut("new.type = 'task.created'")
    async with begun((await open_loom()).create("after", depends_on=[task.id])) as created:
        await waits(pool, created)
        async with begun(loom.reopen(task.id)) as reopening:
            await waits(pool, reopening, 2)
            await gate.open()
            after = await created
            assert (after.status, (await reopening).held_up) == ("pending", (after.id,))
    assert (await row(pool, after))["status"] == "blocked"
    await holds(loom)


async def test_what_is_reopened_twice_at_once_is_reopened_once(
    loom: Loom, open_loom: Opener, gate: Gate, pool: Pool
) -> None:
    task = await loom.create("task")
    await loom.done(task.id)
    await gate.shut("new.type = 'task.reopened'")
    async with begun(loom.reopen(task.id)) as first, begun((await open_loom()).reopen(task.id)) as second:
        await waits(pool, first, 2)
        await gate.open()
        done = [one for one in (first, second) if not (await _ended(one))]
    assert len(done) == 1
    await holds(loom)


async def _ended(one: Any) -> bool:
    """Whether it was refused."""
    try:
        await one
    except TaskStateError:
        return True
    return False


async def test_what_would_wait_for_itself_is_not_reopened(
    loom: Loom, open_loom: Opener, gate: Gate, pool: Pool
) -> None:
    """The edge that closes the cycle is in order while the task is cancelled, and locks no row in common."""
    last = await loom.create("last")
    task = await loom.create("task", depends_on=[last.id])
    between = await loom.create("between", depends_on=[task.id])
    await loom.cancel(task.id)
    await gate.shut(f"new.task_id = '{last.id}'")
    async with begun(loom.update(last.id, depends_on=[between.id])) as edit:
        await waits(pool, edit)
        async with begun((await open_loom()).reopen(task.id)) as reopening:
            await waits(pool, reopening, 2)
            await gate.open()
            assert (await edit).task.status == "blocked"
            with pytest.raises(DependencyCycleError):
                await reopening
    assert await status(loom, task.id) == "cancelled"
    await holds(loom)


# --- the mirror -------------------------------------------------------------------------------------------------------


async def test_what_is_reopened_is_mirrored_whether_its_hash_has_expired_or_not(
    loom: Loom, redis_conn: Any, project: str
) -> None:
    await synced(loom)
    task = await loom.create("A")
    finished = channels.finished_versions(project)
    done = (await loom.done(task.id)).task
    assert await redis_conn.hget(finished, task.id) == str(done.version)
    await redis_conn.delete(channels.task_key(project, task.id))
    again = (await loom.reopen(task.id)).task
    assert [one.id for one in (await loom.ready()).tasks] == [task.id]
    assert not await redis_conn.hexists(finished, task.id)
    assert await redis_conn.ttl(channels.task_key(project, task.id)) == -1
    await (await loom._links.cache()).sync(Change(tasks=(done,)))  # late
    assert await redis_conn.hget(channels.task_key(project, task.id), "status") == "pending"
    last = (await loom.cancel(task.id)).task
    await redis_conn.delete(channels.task_key(project, task.id))
    await (await loom._links.cache()).sync(Change(tasks=(again,)))  # late, and its hash has expired
    assert await redis_conn.zcard(channels.ready_queue(project)) == 0
    assert await redis_conn.hget(finished, task.id) == str(last.version)
    await holds(loom)


async def test_processes_of_two_layouts_leave_each_others_mirror_alone(
    loom: Loom, open_loom: Opener, redis_conn: Any, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await loom.create("A")
    monkeypatch.setattr(mirror, "LAYOUT", "2")
    await synced(loom)
    assert await redis_conn.hget(channels.mirror_key(project), "layout") == "2"
    monkeypatch.undo()
    await loom.done(task.id)
    newer = await open_loom()
    await synced(newer)  # builds it anew
    generation = await redis_conn.hget(channels.mirror_key(project), "generation")
    monkeypatch.setattr(mirror, "LAYOUT", "2")
    await loom.create("B")
    relay = await loom.relay()
    assert not await relay.step()
    assert not await relay.rebuild_cache(), "whatever doctor wants"
    assert [one.title for one in (await loom.ready()).tasks] == ["B"]
    monkeypatch.undo()
    assert await redis_conn.hget(channels.mirror_key(project), "generation") == generation
    await synced(newer)
    assert [one.title for one in (await newer.ready()).tasks] == ["B"]
    await holds(newer)


async def test_an_epic_of_which_something_is_done_goes_on(loom: Loom) -> None:
    task = await loom.create("task")
    epic = await loom.create("epic", epic=True, depends_on=[task.id])
    first, _ = [await loom.create(title, parent_id=epic.id) for title in ("first", "second")]
    await loom.done(task.id)
    await loom.done(first.id)
    assert (await loom.reopen(task.id)).waived == (epic.id,)
    await holds(loom)


async def test_what_was_cancelled_lets_nobody_go_who_waited_for_it(loom: Loom, pool: Pool) -> None:
    """Not even an epic of which something is done, as one that was imported."""
    task = await loom.create("task")
    epic = await loom.create("epic", epic=True, depends_on=[task.id])
    first, _ = [await loom.create(title, parent_id=epic.id) for title in ("first", "second")]
    await pool.execute("update tasks set status = 'done', done_at = loom_now() where id = $1", first.id)
    await loom.cancel(task.id)
    assert (await loom.reopen(task.id)).waived == ()
    assert await pool.fetchval("select waiting from tasks where id = $1", epic.id) == 1
