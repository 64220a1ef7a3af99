"""Work that lands: kept, queued, held by the queue, landed or sent back, and what takes it out."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from loom import read_batch, replies
from loom.bus import channels
from loom.bus.events import EventType
from loom.db.connection import Pool
from loom.exceptions import ClaimConflictError, LoomError, TaskStateError
from loom.graph.front import Loom
from loom.graph.model.task import Task, TaskStatus
from loom.graph.rules import landings
from loom.graph.rules.holding import Holder
from loom.graph.store import Claim, landing_intents, landing_targets
from loom.graph.store import landings as rows
from loom.graph.store.landings import Landing, LandingState
from tests.conftest import Opener
from tests.graph.conftest import Gate, Rival, row, waits
from tests.graph.conftest import begun as begun_work
from tests.graph.test_guards_locks import locked_upwards
from tests.graph.test_lifecycle import holds

PENDING, CLAIMED, DONE = TaskStatus.PENDING, TaskStatus.CLAIMED, TaskStatus.DONE
TARGET, TIP, MERGED = "loom/landed", "a" * 40, "b" * 40
Clock = Callable[[float], Awaitable[None]]


async def begun(loom: Loom, title: str = "A", **given: Any) -> Claim:
    """A claim that lands."""
    task = await loom.create(title, **given)
    claim = await loom.claim(task.id)
    assert claim is not None
    await begin(loom, claim)
    return claim


async def begin(loom: Loom, claim: Claim) -> Landing:
    task = claim.task
    holder = Holder(task.assignee or "", task.claim_token)
    return await loom.transact(lambda tx: landings.begin(tx, task.id, holder, target=TARGET, branch=f"loom/{task.id}"))


async def enter(loom: Loom, task: Task, commit: str = TIP, **given: Any) -> Landing:
    return await loom.transact(
        lambda tx: landings.enter(tx, task.id, task.claim_token, commit_id=commit, base="0" * 40, **given)
    )


async def queued(loom: Loom, title: str = "A", **given: Any) -> tuple[Task, Landing]:
    """Work that waits to be landed."""
    claim = await begun(loom, title, **given)
    await loom.done(claim.task.id, {"n": 1})
    landing = await enter(loom, claim.task)
    return (await loom.get(claim.task.id)).task, landing


async def intend(loom: Loom, *found: Landing, commit: str = MERGED, target: str = TARGET) -> list[Landing]:
    ids = [one.id for one in found]
    return await loom.transact(lambda tx: landings.intend(tx, ids, commit_id=commit, target=target, old="0" * 40))


async def land(loom: Loom, *found: Landing, commit: str = MERGED) -> list[Any]:
    """As a lander does whose target has moved."""
    assert await intend(loom, *found, commit=commit) == list(found)
    return [await landed(loom, one, commit) for one in found]


async def landed(loom: Loom, landing: Landing, commit: str = MERGED) -> Any:
    return await loom.transact(lambda tx: landings.landed(tx, landing.id, commit_id=commit))


async def send_back(loom: Loom, landing: Landing, reason: str = "unit is red.", note: str | None = "E 1 != 2") -> Task:
    return await loom.transact(lambda tx: landings.send_back(tx, landing.id, reason, note))


async def landing_of(loom: Loom, task_id: str) -> Landing:
    found = await loom.look(lambda connection: rows.of_task(connection, loom.project_id, task_id))
    assert found is not None
    return found


async def events_of(pool: Pool, task_id: str, kind: EventType) -> list[Any]:
    return list(await pool.fetch("select * from events where task_id = $1 and type = $2 order by id", task_id, kind))


async def test_what_is_not_there_any_more_is_not_landed_with_others(loom: Loom) -> None:
    _, landing = await queued(loom)
    ids = [landing.id, landing.id + 1]
    assert await loom.transact(lambda tx: landings.intend(tx, ids, commit_id=MERGED, target=TARGET, old="0" * 40)) == []
    assert await intend(loom, landing) == [landing]


async def test_what_has_landed_and_is_reopened_is_not_taken_to_land(loom: Loom) -> None:
    task, landing = await queued(loom)
    assert (await land(loom, landing))[0].task.lands
    assert not (await loom.reopen(task.id)).task.lands
    await holds(loom)


async def test_a_report_of_what_lands_is_kept_until_it_has(loom: Loom, pool: Pool, clock: Clock) -> None:
    epic = await loom.create("E", epic=True)
    claim = await begun(loom, parent_id=epic.id)
    after = await loom.create("after", depends_on=[claim.task.id])
    kept = await loom.done(claim.task.id, {"n": 1})
    assert (kept.task.status, kept.landing and kept.landing.state) == (CLAIMED, LandingState.REPORTED)
    assert replies.outcome(kept)["status"] == "landing"
    assert set(replies.outcome(kept)) == {"id", "status", "next"}
    again = await loom.done(claim.task.id, {"n": 2})
    assert again.landing == kept.landing
    landing = await enter(loom, claim.task)
    assert (landing.state, landing.output) == (LandingState.QUEUED, {"n": 1})
    assert (await loom.done(claim.task.id)).landing == landing
    assert (await loom.get(after.id)).task.status == "blocked"
    await holds(loom)
    await clock(2.5)
    (outcome,) = await land(loom, landing)
    assert (outcome.task.status, outcome.task.output) == (DONE, {"n": 1})
    assert (outcome.unblocked, outcome.closed) == ((after.id,), (epic.id,))
    (event,) = await events_of(pool, claim.task.id, EventType.TASK_LANDED)
    told = json.loads(event["data"])
    assert (told["target"], told["commit"], told["milliseconds"] >= 2500) == (TARGET, MERGED, True)
    assert await landed(loom, landing) == outcome
    assert len(await events_of(pool, claim.task.id, EventType.TASK_LANDED)) == 1
    first = await loom.done(claim.task.id, {"n": 3}, token=claim.task.claim_token)
    assert (first.task.output, first.unblocked, first.closed) == ({"n": 1}, (after.id,), (epic.id,))
    await holds(loom)


async def test_neither_time_nor_the_end_of_a_session_touches_what_is_queued(
    loom: Loom, open_loom: Opener, pool: Pool, clock: Clock
) -> None:
    worker = await open_loom("worker")
    task, landing = await queued(worker)
    assert (task.queued, task.lease_expires_at, task.deadline_at) == (True, None, None)
    assert await worker.renew() == []
    await clock(10 * 86400)
    assert await worker.renew() == []
    assert (await loom.sweep())[0].expired == ()
    leaving = await open_loom("leaving")  # before it has heard of the queue
    left, _ = await queued(leaving, "left")
    assert await leaving.end_session() == []
    assert (await loom.get(left.id)).task.queued
    with pytest.raises(ClaimConflictError, match="waits in the landing queue"):
        await loom.claim(task.id)
    renewal = await worker.heartbeat([task.id])
    assert [one.queued for one in renewal.tasks] == [True]
    assert str((await row(pool, task))["lease_expires_at"]).startswith("9999")
    changed = await loom.update(task.id, title="B", priority="p0")
    assert changed.task.queued
    assert await pool.fetchval("select lease_expires_at = 'infinity' from tasks where id = $1", task.id)
    await holds(loom)
    await land(loom, landing)
    assert await worker.renew() == []
    await holds(loom)


@pytest.mark.parametrize("end", ["release", "fail", "escalate", "cancel", "cancel epic", "waive", "reassign"])
@pytest.mark.parametrize("far", ["begun", "reported", "queued", "sent back"])
async def test_however_its_claim_ends_the_work_leaves_the_queue(loom: Loom, far: str, end: str) -> None:
    epic = await loom.create("E", epic=True)
    claim = await begun(loom, parent_id=epic.id)
    task = claim.task
    if far != "begun":
        await loom.done(task.id)
    if far in ("queued", "sent back"):
        landing = await enter(loom, task)
        if far == "sent back":
            await send_back(loom, landing)
    before = await landing_of(loom, task.id)

    ends: dict[str, Callable[[], Awaitable[Any]]] = {
        "release": lambda: loom.release(task.id, note="later"),
        "fail": lambda: loom.fail(task.id, "no"),
        "escalate": lambda: loom.escalate(task.id, "which?"),
        "cancel": lambda: loom.cancel(task.id),
        "cancel epic": lambda: loom.cancel(epic.id),
        "waive": lambda: loom.resolve(task.id, "waive"),
        "reassign": lambda: loom.resolve(task.id, "reassign", agent_id="other"),
    }
    if end in ("waive", "reassign") and far != "queued":
        with pytest.raises(TaskStateError):
            await ends[end]()
        return
    if far == "queued":
        (chosen,) = await intend(loom, before)
        with pytest.raises(TaskStateError, match=f"{task.id} is being landed on {TARGET}") as caught:
            await ends[end]()
        assert "loom land" in str(caught.value.next_step)
        assert await landing_of(loom, task.id) == chosen
        await loom.transact(lambda tx: landings.withdraw(tx, [before.id], MERGED))
    await ends[end]()
    after = await landing_of(loom, task.id)
    assert (after.state, bool(after.dropped_for)) == (LandingState.DROPPED, True)
    assert await waiting(loom) == []
    assert await intend(loom, before) == []
    with pytest.raises(TaskStateError, match="not about to be landed"):
        await landed(loom, before)
    now = (await loom.get(task.id)).task
    assert not now.queued
    if end == "release":
        notes = [one.text for one in (await loom.get(task.id)).notes]
        assert notes == (["unit is red.\nE 1 != 2", "later"] if far == "sent back" else ["later"])
    await holds(loom)


async def waiting(loom: Loom, target: str = TARGET) -> list[Landing]:
    return await loom.look(lambda connection: rows.waiting(connection, loom.project_id, target))


async def test_what_is_sent_back_goes_on_under_its_claim(loom: Loom, pool: Pool, clock: Clock) -> None:
    claim = await begun(loom)
    task = claim.task
    await loom.done(task.id, {"n": 1})
    await clock(3600)
    assert task.deadline_at is not None
    landing = await enter(loom, task)
    await clock(5 * 3600)
    back = await send_back(loom, landing)
    assert (back.status, back.claim_token, back.queued) == (CLAIMED, task.claim_token, False)
    now = await pool.fetchval("select loom_now()")
    assert back.lease_expires_at is not None
    assert 500 < (back.lease_expires_at - now).total_seconds() <= 600
    assert back.deadline_at is not None
    assert 3 * 3600 - 60 < (back.deadline_at - now).total_seconds() <= 3 * 3600  # of four hours one was over
    assert await send_back(loom, landing, "again") == back
    (event,) = await events_of(pool, task.id, EventType.LANDING_SENT_BACK)
    assert json.loads(event["data"])["reason"] == "unit is red."
    assert (await landing_of(loom, task.id)).times_sent == 1
    await holds(loom)

    assert (await begin(loom, claim)).state is LandingState.BEGUN
    await loom.done(task.id, {"n": 2})
    await land(loom, await enter(loom, task, "c" * 40))
    assert (await loom.get(task.id)).task.output == {"n": 2}
    await holds(loom)


async def test_nobodys_lapse_of_what_was_sent_back_is_refunded_and_tells_why(loom: Loom, clock: Clock) -> None:
    task, landing = await queued(loom)
    await send_back(loom, landing)
    await clock(700)
    assert [one.id for one in (await loom.sweep())[0].expired] == [task.id]
    now = (await loom.get(task.id)).task
    assert (now.status, now.attempt, now.lapsed) == (PENDING, 0, True)
    (note,) = (await loom.get(task.id)).notes
    assert (note.by, note.text) == ("landing", "unit is red.\nE 1 != 2")
    assert (await landing_of(loom, task.id)).state is LandingState.DROPPED
    await holds(loom)


async def test_the_lapse_of_who_took_it_up_again_counts(loom: Loom, clock: Clock) -> None:
    claim = await begun(loom)
    await send_back(loom, await enter(loom, claim.task))
    await begin(loom, claim)
    await clock(700)
    await loom.sweep()
    now = (await loom.get(claim.task.id)).task
    assert (now.status, now.attempt) == (PENDING, 1)
    assert (await loom.get(claim.task.id)).notes[0].text.startswith("unit is red.")


async def test_refunds_of_what_is_sent_back_have_an_end(open_loom: Opener, clock: Clock) -> None:
    loom = await open_loom(max_retries=1)
    task = await loom.create("A")
    for expected in (0, 0, 1):
        claim = await loom.claim(task.id)
        assert claim is not None
        await begin(loom, claim)
        await send_back(loom, await enter(loom, claim.task))
        await clock(700)
        await loom.sweep()
        assert (await loom.get(task.id)).task.attempt == expected


@pytest.mark.parametrize("dead", [False, True])
async def test_a_late_report_of_what_lands_takes_its_claim_up_again(
    open_loom: Opener, pool: Pool, clock: Clock, dead: bool
) -> None:
    loom = await open_loom(max_retries=0 if dead else 3)
    claim = await begun(loom)
    task = claim.task
    await clock(5 * 3600)
    await loom.sweep()
    assert (await loom.get(task.id)).task.dead == dead
    kept = await loom.done(task.id, {"n": 1}, token=task.claim_token)
    assert kept.landing is not None
    assert (kept.landing.state, kept.landing.dropped_for) == (LandingState.REPORTED, None)
    assert (kept.task.status, kept.task.claim_token, kept.task.attempt) == (CLAIMED, task.claim_token, 1)
    assert await loom.escalations() == []
    now = await pool.fetchval("select loom_now()")
    assert kept.task.lease_expires_at is not None
    assert kept.task.deadline_at is not None
    assert now < kept.task.lease_expires_at <= kept.task.deadline_at
    await holds(loom)
    await land(loom, await enter(loom, task))
    await holds(loom)


async def test_work_is_queued_late_while_nothing_has_moved_on(loom: Loom, open_loom: Opener, clock: Clock) -> None:
    claims = [await begun(loom, title) for title in "AB"]
    await clock(700)
    await loom.sweep()
    other = await open_loom("other")
    await other.claim(claims[1].task.id)
    landing = await enter(loom, claims[0].task, output={"n": 1}, outside=["b.py"], usage={"cost_usd": 0.5})
    assert (landing.state, landing.output, landing.outside) == (LandingState.QUEUED, {"n": 1}, ("b.py",))
    assert landing.usage == {"cost_usd": 0.5}
    assert await enter(loom, claims[0].task) == landing
    with pytest.raises(ClaimConflictError, match="was lost"):
        await enter(loom, claims[1].task)
    await holds(loom)
    await land(loom, landing)
    assert (await enter(loom, claims[0].task)).state is LandingState.LANDED
    with pytest.raises(TaskStateError, match="already done"):
        await enter(loom, claims[0].task, "d" * 40)
    assert (await loom.get(claims[1].task.id)).task.assignee == "other"


async def forgo(loom: Loom, task: Task, output: dict[str, Any]) -> Any:
    return await loom.transact(lambda tx: landings.forgo(tx, task.id, task.claim_token, output=output))


async def test_what_brings_its_target_nothing_is_done_without_landing(
    loom: Loom, open_loom: Opener, clock: Clock
) -> None:
    epic = await loom.create("E", epic=True)
    claim = await begun(loom, parent_id=epic.id)
    after = await loom.create("After", depends_on=[claim.task.id])
    outcome = await forgo(loom, claim.task, {"saw": 1})
    assert (outcome.task.status, outcome.task.output) == (DONE, {"saw": 1})
    assert (outcome.unblocked, outcome.closed) == ((after.id,), (epic.id,))
    assert (await landing_of(loom, claim.task.id)).state is LandingState.DROPPED
    again = await forgo(loom, claim.task, {"saw": 2})
    assert (again.task.output, again.unblocked) == ({"saw": 1}, (after.id,))
    await holds(loom)

    late, lost = await begun(loom, "Late"), await begun(loom, "Lost")
    await clock(700)
    await loom.sweep()
    other = await open_loom("other")
    await other.claim(lost.task.id)
    assert (await forgo(loom, late.task, {})).task.status == DONE
    with pytest.raises(ClaimConflictError, match="was lost"):
        await forgo(loom, lost.task, {})
    await holds(loom)


async def test_what_is_about_to_land_is_not_done_without(loom: Loom) -> None:
    task, landing = await queued(loom)
    await intend(loom, landing)
    with pytest.raises(TaskStateError, match="is being landed"):
        await forgo(loom, task, {})
    plain = await loom.create("Plain")
    claim = await loom.claim(plain.id)
    assert claim is not None
    with pytest.raises(ClaimConflictError):
        await forgo(loom, claim.task, {})


async def test_what_was_not_begun_as_landing_is_not_queued(loom: Loom) -> None:
    task = await loom.create("A")
    claim = await loom.claim(task.id)
    assert claim is not None
    with pytest.raises(TaskStateError, match="was not begun as one that lands"):
        await enter(loom, claim.task)
    assert (await loom.done(task.id)).task.status == DONE


async def test_a_claim_that_is_not_ones_own_is_not_begun(loom: Loom, open_loom: Opener) -> None:
    task = await loom.create("A")
    claim = await (await open_loom("other")).claim(task.id)
    assert claim is not None
    for holder in (Holder("tester"), Holder("other", claim.task.claim_token + 1)):
        with pytest.raises(ClaimConflictError):
            await loom.transact(partial(landings.begin, task_id=task.id, holder=holder, target=TARGET, branch="x"))
    await begin(loom, claim)
    await enter(loom, claim.task)
    with pytest.raises(TaskStateError, match="waits in the landing queue"):
        await begin(loom, claim)


async def test_the_next_claim_of_a_task_that_landed_nothing_is_as_any_other(loom: Loom) -> None:
    claim = await begun(loom)
    await loom.release(claim.task.id)
    await loom.claim(claim.task.id)
    assert (await loom.done(claim.task.id)).task.status == DONE
    assert (await landing_of(loom, claim.task.id)).state is LandingState.DROPPED
    await holds(loom)


async def test_work_is_taken_from_the_queue_in_the_order_in_which_it_came(loom: Loom, clock: Clock) -> None:
    found = []
    for title in "ABC":
        found.append((await queued(loom, title))[1])
        await clock(1)
    assert await waiting(loom) == found
    assert await waiting(loom, "main") == []
    one, two, three = found
    assert await intend(loom, one, target="main") == []
    assert await intend(loom, three, one) == [three, one]
    assert len(await loom.look(lambda connection: landing_intents.still_open(connection, loom.project_id, TARGET))) == 2
    await loom.transact(lambda tx: landings.withdraw(tx, [one.id, three.id], MERGED))
    await loom.cancel(two.task_id)
    assert await intend(loom, one, two, three) == []
    assert await loom.look(lambda connection: landing_intents.still_open(connection, loom.project_id)) == []
    await land(loom, one, three)
    assert await waiting(loom) == []
    await holds(loom)


async def test_an_intent_that_was_withdrawn_and_has_landed_all_the_same_counts(loom: Loom) -> None:
    _, landing = await queued(loom)
    await intend(loom, landing)
    await loom.transact(lambda tx: landings.withdraw(tx, [landing.id], MERGED))
    assert (await landed(loom, landing)).task.status == DONE


async def test_a_commit_that_no_intent_names_lands_nothing(loom: Loom) -> None:
    task, landing = await queued(loom)
    await intend(loom, landing)
    with pytest.raises(TaskStateError, match="not about to be landed by " + TIP):
        await landed(loom, landing, TIP)
    with pytest.raises(TaskStateError, match="is being landed"):
        await send_back(loom, landing)
    with pytest.raises(TaskStateError, match="is being landed"):
        await enter(loom, task, "c" * 40)
    await landed(loom, landing)
    with pytest.raises(TaskStateError, match="has landed"):
        await send_back(loom, landing)
    with pytest.raises(TaskStateError, match="There is no landing 999"):
        await loom.transact(lambda tx: landings.send_back(tx, 999, "x"))


async def test_work_that_needs_a_yes_waits_for_it(loom: Loom, pool: Pool) -> None:
    claim = await begun(loom)
    landing = await enter(loom, claim.task, needs_yes=True)
    assert landing.waits_for_yes
    assert await waiting(loom) == []
    assert await intend(loom, landing) == []
    approved = await loom.transact(lambda tx: landings.approve(tx, claim.task.id, "ann"))
    assert (approved.approved_by, approved.waits_for_yes) == ("ann", False)
    assert await loom.transact(lambda tx: landings.approve(tx, claim.task.id, "bob")) == approved
    assert await waiting(loom) == [approved]
    back = await loom.transact(lambda tx: landings.refuse(tx, claim.task.id, "bob", "Not like that."))
    assert (back.status, back.queued) == (CLAIMED, False)
    now = await landing_of(loom, claim.task.id)
    assert (now.reason, now.note) == ("bob refused it.", "Not like that.")
    again = await enter(loom, claim.task, "c" * 40, needs_yes=True)
    assert again.waits_for_yes
    plain, _ = await queued(loom, "B")
    for other in (plain.id, (await loom.create("C")).id):
        with pytest.raises(TaskStateError, match="does not wait for anybody's yes"):
            await loom.transact(partial(landings.approve, task_id=other, by="ann"))
    states = [json.loads(one["data"])["state"] for one in await events_of(pool, claim.task.id, EventType.TASK_LANDING)]
    assert states == ["queued", "approved", "queued"]
    await holds(loom)


async def test_one_lands_on_a_target_at_a_time_until_his_time_is_over(loom: Loom, clock: Clock) -> None:
    async def take(target: str, holder: str) -> bool:
        return await loom.transact(lambda tx: landing_targets.take_lease(tx, target, holder, 30))

    assert await take(TARGET, "one")
    assert not await take(TARGET, "two")
    assert await take("main", "two")
    assert await take(TARGET, "one")
    await loom.transact(lambda tx: landing_targets.give_lease(tx, TARGET, "two"))
    assert not await take(TARGET, "two")
    await clock(31)
    assert await take(TARGET, "two")
    await loom.transact(lambda tx: landing_targets.give_lease(tx, TARGET, "two"))
    assert await take(TARGET, "one")


async def test_what_is_on_its_way_goes_to_the_target_that_the_project_has_now(loom: Loom) -> None:
    _, first = await queued(loom, "A")
    _, second = await queued(loom, "B")
    third = await begun(loom, "C")
    await intend(loom, second)
    await loom.transact(lambda tx: landings.redirect(tx, "other", "It is checked out."))
    assert [one.id for one in await waiting(loom, "other")] == [first.id]  # the second may have landed where it was
    assert await intend(loom, first, second, target="other") == []
    assert (await landing_of(loom, third.task.id)).target == "other"
    found = await loom.look(lambda connection: landing_targets.recorded(connection, loom.project_id))
    assert found is not None
    assert (found.target, found.why) == ("other", "It is checked out.")
    await landed(loom, second)
    assert (await landing_of(loom, second.task_id)).target == TARGET
    await loom.transact(lambda tx: landings.redirect(tx, TARGET, None))
    assert await loom.look(lambda connection: landing_targets.recorded(connection, loom.project_id)) is None
    assert [one.id for one in await waiting(loom)] == [first.id]


async def test_what_is_queued_leaves_as_claimed_work_and_comes_in_as_ready(loom: Loom) -> None:
    task, _ = await queued(loom)
    _, done = await queued(loom, "B")
    await land(loom, done)
    exported = json.dumps(await loom.export())
    assert {one["title"]: one["status"] for one in json.loads(exported)["tasks"]} == {"A": "claimed", "B": "done"}
    batch = read_batch(exported.replace(task.id, "loom-0000aaaa").replace(done.task_id, "loom-0000bbbb"), "export.json")
    made = (await loom.import_tasks(batch)).tasks
    assert {one.title: (one.status, one.lands) for one in made} == {"A": (PENDING, False), "B": (DONE, False)}
    await holds(loom)


async def test_the_mirror_knows_what_the_queue_holds(loom: Loom, redis_conn: Redis) -> None:
    await holds(loom)
    task, landing = await queued(loom)
    key = channels.task_key(loom.project_id, task.id)
    assert await redis_conn.hget(key, "queued") == "1"
    assert all(one.holds for one in await loom.doctor(deep=True))
    assert await redis_conn.hget(key, "queued") == "1"
    await send_back(loom, landing)
    assert await redis_conn.hget(key, "queued") is None
    await holds(loom)


# --- at the same time -------------------------------------------------------------------------------------------------


async def test_what_two_have_landed_at_once_is_landed_once(
    loom: Loom, open_loom: Opener, pool: Pool, gate: Gate
) -> None:
    other = await open_loom("other")
    _, landing = await queued(loom)
    after = await loom.create("after", depends_on=[landing.task_id])
    await intend(loom, landing)
    await intend(loom, landing, commit="c" * 40)  # of whoever lost the race for the target
    await gate.shut("new.type = 'task.landed'")
    async with begun_work(landed(loom, landing)) as first:
        await waits(pool, first)
        async with begun_work(landed(other, landing)) as second:
            await waits(pool, second, 2)
            await gate.open()
            assert (await first).unblocked == (after.id,)
            assert await second == await first
    assert len(await events_of(pool, landing.task_id, EventType.TASK_LANDED)) == 1
    await holds(loom)


@pytest.mark.parametrize("end", ["release", "cancel", "cancel epic", "lands"])
async def test_what_leaves_the_queue_meanwhile_is_not_landed(
    loom: Loom, open_loom: Opener, pool: Pool, gate: Gate, end: str
) -> None:
    """Whoever lands waits for the end that was first, and finds nothing to land."""
    lander = await open_loom("lander")
    epic = await loom.create("E", epic=True)
    task, landing = await queued(loom, parent_id=epic.id)
    _, beside = await queued(loom, "B")
    await intend(loom, landing, commit="c" * 40)
    ends: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "release": lambda: loom.release(task.id),
        "cancel": lambda: loom.cancel(task.id),
        "cancel epic": lambda: loom.cancel(epic.id),
        "lands": lambda: landed(loom, landing, "c" * 40),
    }
    if end != "lands":
        await loom.transact(lambda tx: landings.withdraw(tx, [landing.id], "c" * 40))
    await gate.shut("new.type in ('task.released', 'task.cancelled', 'task.landed')")
    async with begun_work(ends[end]()) as ending:
        await waits(pool, ending)
        async with begun_work(intend(lander, beside, landing)) as intending:
            await waits(pool, intending, 2)
            await gate.open()
            await ending
            assert await intending == []
    assert await loom.look(lambda connection: landing_intents.still_open(connection, loom.project_id)) == []
    await holds(loom)


@pytest.mark.parametrize("end", ["release", "fail", "cancel", "cancel epic", "send back", "refuse", "enter"])
async def test_what_is_about_to_be_landed_meanwhile_is_not_taken_out(
    loom: Loom, pool: Pool, rival: Rival, end: str
) -> None:
    """Whoever ends the claim waits for the intent that was first, and is refused."""
    epic = await loom.create("E", epic=True)
    claim = await begun(loom, parent_id=epic.id)
    task, landing = claim.task, await enter(loom, claim.task, needs_yes=True)
    await loom.transact(lambda tx: landings.approve(tx, task.id, "ann"))
    ends: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "release": lambda: loom.release(task.id),
        "fail": lambda: loom.fail(task.id, "no"),
        "cancel": lambda: loom.cancel(task.id),
        "cancel epic": lambda: loom.cancel(epic.id),
        "send back": lambda: send_back(loom, landing),
        "refuse": lambda: loom.refuse(task.id),
        "enter": lambda: enter(loom, task, "c" * 40),
    }
    await rival.lock(task.id)
    await rival.execute(
        "insert into landing_intents (project_id, landing_id, task_id, commit_id, target, old)"
        " values ($1, $2, $3, $4, $5, $6)",
        *(loom.project_id, landing.id, task.id, MERGED, TARGET, "0" * 40),
    )
    async with begun_work(ends[end]()) as ending:
        await waits(pool, ending)
        await rival.commit()
        with pytest.raises(TaskStateError, match="is being landed"):
            await ending
    assert (await landed(loom, landing)).task.status == DONE
    await holds(loom)


async def test_a_report_and_the_queue_at_once_keep_the_report(
    loom: Loom, open_loom: Opener, pool: Pool, gate: Gate
) -> None:
    """Whoever enters the work waits for the report, and queues what it said."""
    other = await open_loom("other")
    claim = await begun(loom)
    await gate.shut("new.data ->> 'state' = 'reported'")
    async with begun_work(loom.done(claim.task.id, {"n": 1})) as reporting:
        await waits(pool, reporting)
        async with begun_work(enter(other, claim.task)) as entering:
            await waits(pool, entering, 2)
            await gate.open()
            await reporting
            assert (await entering).output == {"n": 1}
    await holds(loom)


async def test_a_renewal_that_waited_for_the_queue_leaves_its_hold(loom: Loom, pool: Pool, gate: Gate) -> None:
    claim = await begun(loom)
    await gate.shut("new.data ->> 'state' = 'queued'")
    async with begun_work(enter(loom, claim.task)) as entering:
        await waits(pool, entering)
        async with begun_work(loom.heartbeat([claim.task.id])) as renewing:
            await waits(pool, renewing, 2)
            async with begun_work(loom.renew()) as again:
                await waits(pool, again, 3)
                await gate.open()
                assert [one.queued for one in (await renewing).tasks] == [True]
                assert await again == []
    assert await pool.fetchval("select lease_expires_at = 'infinity' from tasks where id = $1", claim.task.id)
    await holds(loom)


@pytest.mark.usefixtures("downwards")
@pytest.mark.parametrize("what", ["intend", "redirect"])
async def test_what_is_landed_together_is_locked_in_the_order_of_the_ids(
    loom: Loom, pool: Pool, rival: Rival, what: str
) -> None:
    found = [(await queued(loom, f"T{number}"))[1] for number in range(4)]
    work: Callable[[], Coroutine[Any, Any, Any]] = (
        (lambda: intend(loom, *found))
        if what == "intend"
        else (lambda: loom.transact(lambda tx: landings.redirect(tx, "other", "so")))
    )
    await locked_upwards(pool, rival, [one.task_id for one in found], work)
    await holds(loom)


async def test_landers_and_those_who_take_work_back_at_once_deadlock_with_nobody(
    loom: Loom, open_loom: Opener, pool: Pool
) -> None:
    """Three landers, groups of four, against releases, cancellations and claims; each task ends once, and no intent of
    what was taken back stays open."""
    rng = random.Random(3)
    epic = await loom.create("E", epic=True)
    landers = [await open_loom(f"l{number}") for number in range(3)]
    found = []
    for number in range(24):
        parent = epic.id if number % 2 else None
        found.append((await queued(loom, f"T{number}", parent_id=parent))[1])
        await loom.create(f"after {number}", depends_on=[found[-1].task_id], parent_id=parent)

    async def lands(lander: Loom, commit: str) -> None:
        for round_ in range(8):
            some = rng.sample(await waiting(lander), k=min(4, len(await waiting(lander))))
            name = f"{commit}{round_}"
            for one in await intend(lander, *some, commit=name):
                with suppress(TaskStateError):
                    await landed(lander, one, name)
            await lander.transact(partial(landings.withdraw, landing_ids=[one.id for one in some], commit_id=name))

    async def takes_back() -> None:
        for one in rng.sample(found, 12):
            acts: list[Callable[[str], Awaitable[Any]]] = [loom.release, loom.cancel, partial(loom.fail, reason="no")]
            with suppress(LoomError):
                await rng.choice(acts)(one.task_id)

    await asyncio.gather(*(lands(lander, f"m{number}") for number, lander in enumerate(landers)), takes_back())
    for one in await loom.look(lambda connection: landing_intents.still_open(connection, loom.project_id)):
        with suppress(TaskStateError):
            await landed(loom, (await landing_of(loom, one.task_id)), one.commit_id)
    counted = await pool.fetch("select task_id, count(*) from events where type = 'task.landed' group by 1")
    done = await pool.fetch("select task_id from landings where state = 'landed'")
    assert {one["task_id"]: one["count"] for one in counted} == {one["task_id"]: 1 for one in done}
    assert len(done) > 4
    await holds(loom)


# --- what the invariants see ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("update landings set state = 'dropped', ended_at = now()", "a lease has no end"),
        ("update tasks set lease_expires_at = now() + interval '1 hour'", "a lease has no end"),
        ("update landings set token = token + 1", "what is on its way"),
        ("update landings set state = 'landed', ended_at = now(), landed_commit = 'x'", "and what has landed is done"),
        ("update landings set state = 'reported'; insert into landing_intents (project_id, landing_id, task_id,"
         " commit_id, target, old) select project_id, id, task_id, 'm', 't', 'o' from landings", "is being landed"),
    ],
)  # fmt: skip
async def test_a_queue_that_is_not_as_it_should_be_is_seen(loom: Loom, pool: Pool, change: str, rule: str) -> None:
    task, _ = await queued(loom)
    await holds(loom)
    await pool.execute(change)
    broken = [one for one in await loom.doctor() if not one.holds]
    assert any(rule in one.rule and task.id in str(one.found) for one in broken), broken


async def test_a_lease_without_an_end_is_the_queues_alone(loom: Loom, pool: Pool) -> None:
    task = await loom.create("A")
    await loom.claim(task.id)
    with pytest.raises(asyncpg.CheckViolationError, match="only_what_lands_is_held_for_ever"):
        await pool.execute("update tasks set lease_expires_at = 'infinity'")
