"""Bounds: how long, how many, how large."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from loom.bus import channels
from loom.config import LoomConfig
from loom.db.connection import Pool
from loom.exceptions import InvalidInputError, TaskStateError
from loom.graph.front import Loom
from loom.graph.model import plan
from loom.graph.model.task import Task
from loom.graph.rules import claims, diagnoses, mending
from loom.graph.rules.mending import Diagnosis, Remedy
from loom.graph.session import Session
from loom.graph.store import diagnoses as rows
from tests.conftest import Opener
from tests.graph.conftest import kill
from tests.graph.test_lifecycle import Clock, holds, status
from tests.graph.test_mirror import synced

# --- time -------------------------------------------------------------------------------------------------------------


async def test_a_lease_ends_at_its_deadline_at_the_latest(open_loom: Opener, pool: Pool) -> None:
    """From the claim on, and where a task is handed over."""
    loom = await open_loom(deadline_seconds=100)
    task = await loom.create("A")
    claim = await loom.claim(task.id, lease_seconds=600)
    assert claim is not None
    assert claim.task.lease_expires_at == claim.task.deadline_at
    assert claim.task.claimed_at is not None
    assert claim.task.deadline_at == claim.task.claimed_at + timedelta(seconds=100)
    await loom.escalate(task.id, "?")
    handed = (await loom.resolve(task.id, "reassign", agent_id="b")).task
    assert handed.lease_expires_at == handed.deadline_at


async def test_a_renewal_ends_at_the_deadline_at_the_latest(open_loom: Opener, pool: Pool, clock: Clock) -> None:
    loom = await open_loom(deadline_seconds=1000)
    task = await loom.create("A")
    await loom.claim(task.id, lease_seconds=600)
    await clock(500)
    assert await loom.renew() == []
    (held,) = (await loom.heartbeat([task.id])).tasks
    assert held.lease_expires_at == held.deadline_at


def test_a_call_is_a_sign_of_life_of_whoever_makes_it_and_of_nobody_else() -> None:
    session = Session("ann")
    session.hand_out("own", "ann", 1, 600, 0.0, named=False)
    session.hand_out("other", "scout", 2, 600, 0.0, named=True)
    for held in session._held.values():
        held.touched -= 100
    assert session.wanted(50) == {}
    session.name(None)
    assert session.wanted(50) == {"own": 1}
    session.name("scout")
    assert session.wanted(50) == {"own": 1, "other": 2}


def test_a_session_remembers_those_who_hold_something_and_of_the_others_so_many() -> None:
    session = Session("ann")
    session.hand_out("kept", "ann", 1, 600, 0.0, named=False)
    for number in range(2_500):
        session.hand_out("passing", f"agent-{number}", 2, 600, 0.0, named=True)
        session.forget("passing")
    assert len(session._agents) <= 1_000
    session._held["kept"].touched -= 100
    session.name(None)
    assert session.wanted(50) == {"kept": 1}


def test_what_is_taken_over_is_wanted_as_before_and_by_each_later_call() -> None:
    session, other = Session("ann"), Session("ann")
    other.hand_out("early", "ann", 1, 600, 0.0, named=False)
    for held in other._held.values():
        held.touched -= 100
    other.name(None)
    session.take_over(other)
    assert session.wanted(50) == {"early": 1}
    for held in session._held.values():
        held.by.called -= 100
    assert session.wanted(50) == {}
    session.name(None)
    assert session.wanted(50) == {"early": 1}


async def test_only_claims_that_somebody_asked_about_lately_are_renewed(
    open_loom: Opener, pool: Pool, clock: Clock
) -> None:
    loom = await open_loom(idle_limit_seconds=0)
    task = await loom.create("A")
    claim = await loom.claim(task.id)
    assert claim is not None
    await clock(10)
    await loom.renew()
    assert (await loom.get(task.id)).task.lease_expires_at == claim.task.lease_expires_at


async def test_a_broadcast_is_shown_for_a_day(open_loom: Opener, clock: Clock) -> None:
    alice, bob = await open_loom("alice"), await open_loom("bob")
    await alice.send("*", "all")
    await clock(24 * 3600 - 60)
    assert len((await bob.inbox()).messages) == 1
    await clock(120)
    assert (await bob.inbox()).messages == []
    assert (await bob.inbox(unread=False)).messages == []


async def test_attempts_end(open_loom: Opener, clock: Clock) -> None:
    """Those that fail, and those that lapse; no attempt is given on top."""
    loom = await open_loom(max_retries=1)
    failing, lapsing = await loom.create("failing"), await loom.create("lapsing")
    for dead in (False, True):
        await loom.claim(failing.id)
        await loom.claim(lapsing.id)
        assert (await loom.fail(failing.id, "no")).task.dead == dead
        await clock(601)
        await loom.sweep()
        assert (await loom.get(lapsing.id)).task.dead == dead
    await holds(loom)


async def test_a_failure_that_is_not_to_be_retried_is_final(loom: Loom) -> None:
    task = await loom.create("A")
    assert (await loom.fail(task.id, "no", retry=False)).task.dead


# --- numbers ----------------------------------------------------------------------------------------------------------


async def test_the_newest_twenty_notes_of_a_task_are_shown(loom: Loom) -> None:
    task = await loom.create("A")
    for n in range(22):
        await loom.claim(task.id)
        await loom.release(task.id, note=f"note {n}")
    notes = (await loom.get(task.id)).notes
    assert [note.text for note in notes] == [f"note {n}" for n in range(2, 22)]
    claim = await loom.claim(task.id)
    assert claim is not None
    assert claim.notes == tuple(notes)


async def test_the_stream_is_trimmed(loom: Loom, config: LoomConfig, redis_conn: Redis, project: str) -> None:
    """To whole nodes of a hundred entries."""
    short = replace(config, redis=replace(config.redis, stream_maxlen=10))
    async with Loom(short, agent="short") as one:
        await synced(one)
        for _ in range(4):
            await one.apply_plan({"tasks": [{"title": f"T{n}"} for n in range(100)]})
            await synced(one)
    assert 10 <= await redis_conn.xlen(channels.event_stream(project)) <= 110


async def test_a_claim_brings_a_bounded_part_of_what_its_dependencies_left(loom: Loom, pool: Pool) -> None:
    epic = await loom.create("epic", epic=True)
    children = [await loom.create(f"C{n:02}", parent_id=epic.id) for n in range(25)]
    others = [await loom.create(f"T{n}") for n in range(52)]
    for n, task in enumerate([*children, *others]):
        await loom.done(task.id, {"text": "x" * (9000 if n % 2 else 10)})
    after = await loom.create("after", depends_on=[epic.id])
    last = await loom.create("last", depends_on=[task.id for task in others])
    claim = await loom.claim(after.id)
    assert claim is not None
    assert len(claim.inputs[0]["children"]) == 20
    claim = await loom.claim(last.id)
    assert claim is not None
    assert [one["id"] for one in claim.inputs] == sorted(task.id for task in others)[:50]
    assert max(len(one["output"]) for one in claim.inputs) == 8001


async def test_a_sweep_takes_so_many_at_a_time(loom: Loom, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_SWEPT", 2)
    for n in range(5):
        await loom.create(f"T{n}")
        await loom.claim()
    await clock(601)
    assert [len((await loom.sweep())[0].expired) for _ in range(4)] == [2, 2, 1, 0]


async def test_a_refusal_names_some_of_what_has_begun(loom: Loom) -> None:
    first, epic = await loom.create("first"), await loom.create("epic", epic=True)
    for n in range(6):
        await loom.claim((await loom.create(f"T{n}", parent_id=epic.id)).id)
    with pytest.raises(TaskStateError) as refused:
        await loom.update(epic.id, depends_on=[first.id])
    assert str(refused.value).count("(claimed)") == 3


async def test_fixes_count_among_the_dependencies_of_a_task(loom: Loom, pool: Pool) -> None:
    task = await loom.create("A")
    await kill(loom, task)
    await loom.apply_plan({"tasks": [{"title": f"T{n}"} for n in range(999)]})
    await pool.execute(
        "insert into task_deps (project_id, task_id, depends_on) select project_id, $1, id from tasks where id <> $1",
        task.id,
    )
    fixes: Any = [{"title": f"F{n}", "done_when": "It works.", "depends_on": ()} for n in range(2)]
    finding = Diagnosis("a cause", "high", Remedy.FIX_FIRST, "a note", fix_tasks=tuple(fixes))
    with pytest.raises(InvalidInputError, match="1,001 tasks; the limit is 1,000"):
        await loom.transact(lambda tx: mending.mend(tx, task.id, finding, agent="a", max_attempts=4))
    assert sum((await loom.status()).counts.values()) == 1000


def test_a_plan_has_at_most_ten_thousand_tasks() -> None:
    tasks = [{"title": f"T{n}"} for n in range(plan.PLAN_TASKS)]
    assert len(plan.parse({"tasks": tasks})) == 10_000


# --- models that are asked --------------------------------------------------------------------------------------------


async def take(loom: Loom, *, per_hour: int = 100, fix_depth: int = 2, seconds: float = 60) -> Any:
    return await loom.transact(
        lambda tx: diagnoses.take(tx, loom.agent, seconds, per_hour=per_hour, fix_depth=fix_depth)
    )


async def left(loom: Loom) -> str | None:
    """Takes an escalation; why it is left to a person."""
    case = await take(loom)
    assert isinstance(case, diagnoses.Case)
    return case.left


async def mended(loom: Loom, task: Task, finding: Diagnosis) -> mending.Mended:
    return await loom.transact(lambda tx: mending.mend(tx, task.id, finding, agent="a", max_attempts=4))


async def test_models_are_asked_so_many_times_an_hour(loom: Loom, clock: Clock) -> None:
    for n in range(3):
        await kill(loom, await loom.create(f"T{n}"))
    assert isinstance(await take(loom, per_hour=2), diagnoses.Case)
    await clock(1800)
    assert isinstance(await take(loom, per_hour=2), diagnoses.Case)
    assert not isinstance(await take(loom, per_hour=2), diagnoses.Case | None)
    await clock(1801)
    assert isinstance(await take(loom, per_hour=2), diagnoses.Case)


async def test_a_model_is_asked_three_times_about_one_escalation(loom: Loom, clock: Clock) -> None:
    await kill(loom, await loom.create("A"))
    told = []
    for _ in range(4):
        told.append(await left(loom))
        await clock(61)
    assert told == [None, None, None, "A model was asked about it 3 times and did not answer."]
    assert await take(loom) is None, "what is left to a person is diagnosed"


async def test_an_escalation_is_asked_about_by_one_at_a_time_the_oldest_first(
    loom: Loom, pool: Pool, clock: Clock
) -> None:
    tasks = [await loom.create(f"T{n}") for n in range(3)]
    for n, task in enumerate(tasks):
        await kill(loom, task)
        await pool.execute(
            "update escalations set raised_at = loom_now() - make_interval(mins => $2) where task_id = $1",
            task.id,
            9 - n,
        )
    await loom.resolve(tasks[0].id, "retry")
    taken = [await take(loom) for _ in range(3)]
    assert [case and case.escalation.task_id for case in taken] == [tasks[1].id, tasks[2].id, None]
    await clock(61)
    assert (await take(loom)).escalation.task_id == tasks[1].id, "who had it has died"


async def test_only_who_has_an_escalation_gives_it_back(open_loom: Opener, clock: Clock) -> None:
    one, two = await open_loom("one"), await open_loom("two")
    await kill(one, await one.create("A"))
    case = await take(one)
    await clock(61)
    assert await take(two) is not None
    await one.transact(lambda tx: rows.give_back(tx, case.escalation.id, "one"))
    assert await take(one) is None


async def test_a_task_is_mended_twice_and_fixes_of_fixes_have_an_end(loom: Loom) -> None:
    task = await loom.create("A")
    retry = Diagnosis("a cause", "high", Remedy.RETRY, "a note")
    for _ in range(2):
        await kill(loom, task)
        assert await left(loom) is None
        await mended(loom, task, retry)
    await kill(loom, task)
    assert str(await left(loom)).startswith("2 diagnoses of it were carried out")
    deep = await loom.create("B")
    fix = {"title": "Mend it", "done_when": "It works.", "depends_on": ()}
    mend = Diagnosis("a cause", "high", Remedy.FIX_FIRST, "a note", fix_tasks=(fix,))
    told = []
    for _ in range(3):
        await kill(loom, deep)
        told.append(await left(loom))
        if told[-1] is None:
            deep = (await loom.get((await mended(loom, deep, mend)).fixes[0])).task
    assert told == [None, None, "It is a fix of a fix, and orchestration.fix_depth is 2."]


async def test_what_was_left_to_a_person_does_not_count_as_mended(loom: Loom) -> None:
    task = await loom.create("A")
    for _ in range(2):
        await kill(loom, task)
        await mended(loom, task, Diagnosis("a cause", "low", Remedy.ASK_PERSON, "a note"))
        await loom.resolve(task.id, "retry")
    await kill(loom, task)
    assert await left(loom) is None


async def test_a_diagnosis_is_of_the_question_though_its_task_is_put_off_since(loom: Loom) -> None:
    """Else the question would be given to a model again and again."""
    task = await loom.create("A")
    await loom.escalate(task.id, "Which one?")
    case = await take(loom)
    await loom.defer(task.id)
    made = await mended(loom, task, Diagnosis("a cause", "low", Remedy.ASK_PERSON, "a note"))
    assert made.escalation == case.escalation.id


async def test_a_diagnosis_that_came_meanwhile_is_not_carried_out_again(loom: Loom) -> None:
    task = await loom.create("A")
    await kill(loom, task)
    case = await take(loom)
    ask = Diagnosis("a cause", "low", Remedy.ASK_PERSON, "a note")
    await mended(loom, task, ask)
    assert not await loom.transact(lambda tx: diagnoses.still_open(tx, case.escalation))
    assert await status(loom, task.id) == "failed"
