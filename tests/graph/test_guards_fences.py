"""Each fence between two claims of one task, most of them of one agent, so that only the token tells them apart."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime

import pytest

from loom.db.connection import Pool
from loom.exceptions import ClaimConflictError, TaskStateError
from loom.graph.front import Loom
from loom.graph.model.task import Task
from loom.graph.session import Session
from tests.conftest import Opener
from tests.graph.conftest import begun, row, soon
from tests.graph.test_lifecycle import Clock, holds, status


async def token_of(loom: Loom, task: Task) -> int:
    """Claims a task, and returns the claim's token."""
    claim = await loom.claim(task.id)
    assert claim is not None
    return claim.task.claim_token


async def lapsed(loom: Loom, clock: Clock) -> tuple[Task, int]:
    """A task whose claim has lapsed, and the token of that claim."""
    task = await loom.create("A")
    token = await token_of(loom, task)
    await clock(601)
    await loom.sweep()
    return task, token


async def lease_of(pool: Pool, task: Task) -> datetime:
    lease: datetime = (await row(pool, task))["lease_expires_at"]
    return lease


# --- renewals ---------------------------------------------------------------------------------------------------------


async def test_a_lease_is_not_renewed_by_a_lost_claim_of_the_same_agent(
    open_loom: Opener, clock: Clock, pool: Pool
) -> None:
    first, second = await open_loom("a"), await open_loom("a")
    task, _ = await lapsed(first, clock)
    await token_of(second, task)
    lease = await lease_of(pool, task)
    await clock(100)
    assert await first.renew() == [task.id]
    assert await lease_of(pool, task) == lease
    assert await second.renew() == []
    assert await lease_of(pool, task) > lease


async def test_a_task_that_is_done_is_not_renewed(open_loom: Opener) -> None:
    first, second = await open_loom("a"), await open_loom("b")
    task = await first.create("A")
    await second.done(task.id, token=await token_of(first, task))
    assert await first.renew() == [task.id]
    assert await first.renew() == [], "what is lost is forgotten"
    await holds(first)


def test_a_claim_made_anew_while_an_old_one_is_found_lost_is_remembered() -> None:
    session = Session("a")
    session.hand_out("loom-00000001", "a", 1, 600, 0.0, named=False)
    asked = session.wanted(60)
    session.hand_out("loom-00000001", "a", 2, 600, 0.0, named=False)
    session.lose(asked, ["loom-00000001"])
    assert session.wanted(60) == {"loom-00000001": 2}


async def test_whoever_waits_for_a_renewal_is_woken_by_a_claim_that_is_due_sooner_and_by_no_other() -> None:
    session, now = Session("a"), time.monotonic()
    async with begun(session.until_renewal(60)) as waiting:
        await asyncio.sleep(0)
        session.hand_out("loom-00000001", "a", 1, 600, now + 1, named=False)
        assert not session._more.is_set()
        session.hand_out("loom-00000002", "a", 1, 600, now - 60, named=False)
        await soon(waiting)


# --- reports ----------------------------------------------------------------------------------------------------------


async def test_an_old_token_of_the_same_agent_finishes_nothing(open_loom: Opener, clock: Clock) -> None:
    loom = await open_loom("a")
    task, old = await lapsed(loom, clock)
    await token_of(loom, task)
    for report in (loom.done(task.id, token=old), loom.fail(task.id, "no", token=old)):
        with pytest.raises(ClaimConflictError, match=f"Claim {old} of {task.id} was lost"):
            await report
    for told in (loom.release(task.id, token=old), loom.escalate(task.id, "?", token=old)):
        with pytest.raises(ClaimConflictError, match="was lost"):
            await told
    assert await status(loom, task.id) == "claimed"
    await holds(loom)


async def test_an_old_token_of_the_same_agent_gets_neither_an_answer_nor_a_late_result(
    open_loom: Opener, clock: Clock
) -> None:
    loom = await open_loom("a")
    task, old = await lapsed(loom, clock)
    token = await token_of(loom, task)
    await clock(601)
    await loom.sweep()
    with pytest.raises(ClaimConflictError, match=f"Claim {old} of {task.id} was lost"):
        await loom.done(task.id, token=old)
    await loom.done(task.id, token=token)
    with pytest.raises(ClaimConflictError, match=f"Claim {old} of {task.id} was lost"):
        await loom.done(task.id, token=old)


async def test_the_newest_token_does_not_finish_what_was_given_back_on_purpose(loom: Loom, clock: Clock) -> None:
    """Nor where an earlier claim had lapsed."""
    task, _ = await lapsed(loom, clock)
    token = await token_of(loom, task)
    await loom.release(task.id, token=token)
    with pytest.raises(ClaimConflictError, match="held by nobody"):
        await loom.done(task.id, token=token)
    assert await status(loom, task.id) == "pending"


async def test_only_done_is_taken_late(loom: Loom, clock: Clock) -> None:
    task, token = await lapsed(loom, clock)
    for report in (loom.fail(task.id, "no", token=token), loom.escalate(task.id, "?", token=token)):
        with pytest.raises(ClaimConflictError, match="held by nobody"):
            await report
    assert await status(loom, task.id) == "pending"
    await holds(loom)


@pytest.mark.parametrize("became", ["cancelled", "epic", "blocked"])
async def test_a_late_result_of_what_became_something_else_is_refused(loom: Loom, clock: Clock, became: str) -> None:
    task, token = await lapsed(loom, clock)
    match became:
        case "cancelled":
            await loom.cancel(task.id)
        case "epic":
            await loom.create("child", parent_id=task.id)
        case _:
            await loom.update(task.id, depends_on=[(await loom.create("before")).id])
    with pytest.raises(TaskStateError, match=became if became != "epic" else "is an epic"):
        await loom.done(task.id, token=token)
    assert await status(loom, task.id) == became
    await holds(loom)


async def test_a_late_result_of_dead_work_that_waits_now_is_refused(open_loom: Opener, clock: Clock) -> None:
    loom = await open_loom(max_retries=0)
    task, token = await lapsed(loom, clock)
    before = await loom.create("before")
    await loom.update(task.id, depends_on=[before.id])
    with pytest.raises(TaskStateError, match="is a dead letter"):
        await loom.done(task.id, token=token)
    await loom.done(before.id)
    assert (await loom.done(task.id, token=token)).task.status == "done"
    await holds(loom)


async def test_a_late_result_leaves_nothing_of_the_lapse_behind(open_loom: Opener, clock: Clock) -> None:
    loom, other = await open_loom(max_retries=0), await open_loom()
    for one in (loom, other):
        task, token = await lapsed(one, clock)
        done = (await one.done(task.id, token=token)).task
        assert (done.status, done.lapsed, done.dead_reason, done.ready_at) == ("done", False, None, None)
    assert await loom.escalations() == []


async def test_a_late_result_told_twice_gets_the_first_answer(loom: Loom, clock: Clock) -> None:
    task, token = await lapsed(loom, clock)
    after = [await loom.create(title, depends_on=[task.id]) for title in ("first", "second")]
    first = await loom.done(task.id, {"n": 1}, token=token)
    assert first.unblocked == tuple(sorted(one.id for one in after))
    assert await loom.done(task.id, {"n": 2}, token=token) == first


async def test_a_late_result_of_what_was_requeued_is_refused(open_loom: Opener, clock: Clock) -> None:
    """Whoever requeued it has decided about that claim."""
    loom = await open_loom(max_retries=0)
    task, token = await lapsed(loom, clock)
    await loom.resolve(task.id, "retry")
    assert not (await loom.get(task.id)).task.lapsed
    with pytest.raises(ClaimConflictError, match="held by nobody"):
        await loom.done(task.id, token=token)


async def test_a_result_by_token_of_dead_work_that_did_not_lapse_is_refused(loom: Loom) -> None:
    task = await loom.create("A")
    token = await token_of(loom, task)
    await loom.fail(task.id, "no", retry=False, token=token)
    with pytest.raises(TaskStateError, match="is a dead letter"):
        await loom.done(task.id, token=token)


async def test_nobody_reports_by_name_on_what_another_agent_holds(open_loom: Opener) -> None:
    one, two = await open_loom("one"), await open_loom("two")
    task = await one.create("A")
    await token_of(one, task)
    for report in (two.done(task.id), two.fail(task.id, "no"), two.escalate(task.id, "?"), two.release(task.id)):
        with pytest.raises(ClaimConflictError, match="claimed, and not by two"):
            await report
    with pytest.raises(ClaimConflictError, match="claimed, and not by two"):
        await two.heartbeat([task.id])
    assert await status(one, task.id) == "claimed"


async def test_what_is_done_is_not_given_back_or_failed_with_its_token(loom: Loom) -> None:
    task = await loom.create("A")
    token = await token_of(loom, task)
    await loom.done(task.id, token=token)
    with pytest.raises(TaskStateError, match="already done"):
        await loom.release(task.id, token=token)
    with pytest.raises(TaskStateError, match="already done"):
        await loom.fail(task.id, "no", token=token)
    assert await status(loom, task.id) == "done"


async def test_a_refused_result_is_kept(open_loom: Opener, clock: Clock) -> None:
    loom = await open_loom("a")
    task, old = await lapsed(loom, clock)
    await token_of(loom, task)
    with pytest.raises(ClaimConflictError):
        await loom.done(task.id, {"found": 7}, token=old)
    (kept,) = [event for event in (await loom.get(task.id)).history if event.data and "refused" in event.data]
    assert kept.data is not None
    assert (kept.data["token"], kept.data["output"]) == (old, {"found": 7})


# --- ends of sessions -------------------------------------------------------------------------------------------------


async def test_a_session_gives_back_no_claim_that_somebody_else_has_by_now(open_loom: Opener, clock: Clock) -> None:
    first, second = await open_loom("a"), await open_loom("a")
    task, _ = await lapsed(first, clock)
    token = await token_of(second, task)
    assert await first.end_session() == []
    assert await status(second, task.id) == "claimed"
    assert (await second.done(task.id, token=token)).task.status == "done"


async def test_a_session_gives_back_nothing_that_is_finished(open_loom: Opener) -> None:
    first, second = await open_loom("a"), await open_loom("b")
    task = await first.create("A")
    await second.done(task.id, token=await token_of(first, task))
    assert await first.end_session() == []
    assert await status(first, task.id) == "done"
    await holds(first)


async def test_a_process_remembers_no_claim_that_it_has_reported_on(loom: Loom, open_loom: Opener) -> None:
    """Else its next report without a name would be on a claim of long ago."""
    other = await open_loom("other")
    task = await loom.create("A")
    token = await token_of(loom, task)
    await loom.fail(task.id, "no", retry=False, token=token)
    assert await loom.renew() == []
    await other.resolve(task.id, "retry")
    assert (await loom.done(task.id)).task.status == "done", "it is claimed anew"


async def test_a_process_remembers_no_claim_after_its_session_has_ended(loom: Loom) -> None:
    task = await loom.create("A")
    await token_of(loom, task)
    assert [one.id for one in await loom.end_session()] == [task.id]
    assert await loom.end_session() == []
    assert await loom.renew() == []
    assert (await loom.done(task.id)).task.status == "done", "it is claimed anew"
