"""A project at a glance: what waits for a person, who is at what, how far it is, when it may end, and what it costs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from loom import replies
from loom.cli.wording import people
from loom.db.connection import Pool
from loom.graph.front import Loom
from loom.graph.store import glance, proofs
from loom.graph.store.glance import Need, Phase
from loom.skills import decomposer
from loom.wording import worded
from tests.graph.test_landings import begun, enter, queued
from tests.graph.test_scale import buffers, fill
from tests.skills.conftest import good_plan

Advance = Callable[[float], Awaitable[None]]


async def test_what_waits_for_a_person_comes_with_the_command_that_answers_it(loom: Loom, pool: Pool) -> None:
    asks, dies = [await loom.create(title) for title in ("asks", "dies")]
    for one in (asks, dies):
        await loom.create(f"after {one.title}", depends_on=[one.id])
    await loom.escalate(asks.id, "which network?")
    await loom.fail(dies.id, "no way", retry=False)
    lands = (await begun(loom, "lands")).task
    await enter(loom, lands, needs_yes=True)
    await pool.execute(
        """
        with run as (insert into workflow_runs (project_id, id, workflow, version, definition, inputs, status, agent)
                     values ($1, 'wf-00000001', 'ship', '1', '{}', '{}', 'waiting', 'ada') returning id)
        insert into workflow_steps (project_id, run_id, position, step, type, status, inputs, agent)
        select $1, id, 0, 'sure', 'confirm', 'waiting', '{"message": "Ship it?"}', 'ada' from run
        """,
        loom.project_id,
    )
    preview = await decomposer.propose(loom.beside(agent="ada"), good_plan(), goal="Sign-in")
    (question,) = [one for one in await loom.escalations() if one.kind == "question"]
    found = await loom.glance()
    assert [(one.need, one.id, one.text, one.held_up) for one in found.needs_you] == [
        (Need.QUESTION, question.id, "which network?", 1),
        (Need.CONFIRM, "wf-00000001", "Ship it?", 0),
        (Need.LANDING, lands.id, "", 0),
        (Need.PLAN, preview["plan_id"], "", 0),
        (Need.DEAD, dies.id, "no way", 1),
    ]
    assert [worded(one.answer, people()) for one in found.needs_you] == [
        f"`loom resolve {question.id} answer --note TEXT`",
        "`loom workflow resume wf-00000001 --yes`",
        f"`loom landing approve {lands.id}`",
        f"`loom decompose --plan {preview['plan_id']}`",
        f"`loom resolve {dies.id} retry`",
    ]
    assert found.needs_you_count == 5
    assert replies.overview(found.status)["open_plans"] == 1, "agents are told too"
    few = await loom.glance(limit=1)
    assert (len(few.needs_you), few.needs_you_count) == (5, 5), "one of each kind"


async def test_of_each_goal_the_newest_plan_waits_and_each_that_has_no_goal(loom: Loom) -> None:
    plans = [(await decomposer.propose(loom, good_plan(), goal=goal))["plan_id"] for goal in ("", "A", "B", "A", "")]
    assert [one.id for one in (await loom.glance()).needs_you] == [plans[0], *plans[2:]]
    assert replies.overview((await loom.glance()).status)["open_plans"] == 4


async def test_who_is_at_what_since_when_and_when_he_was_heard_of(loom: Loom, clock: Advance, pool: Pool) -> None:
    works, proves = [await loom.create(title) for title in ("works", "proves")]
    await loom.claim(works.id, agent_id="works")
    claim = await loom.claim(proves.id, agent_id="proves")
    assert claim is not None
    token = claim.task.claim_token
    lands, _ = await queued(loom, "lands")
    await clock(300)
    await loom.heartbeat([works.id], agent_id="works")
    await loom.transact(
        lambda tx: proofs.begin(tx, "unit", "hash", agent="proves", tree="t", task_id=proves.id, token=token)
    )
    found = (await loom.glance()).in_progress
    assert [(one.id, one.agent, one.phase) for one in found] == [
        (works.id, "works", Phase.WORKING),
        (proves.id, "proves", Phase.PROVING),
        (lands.id, "tester", Phase.LANDING),
    ]
    assert all(one.last_sign - one.since >= timedelta(seconds=299) for one in found[:2])
    assert found[2].lease_expires_at is None
    await clock(450)
    assert [one.stale for one in (await loom.glance()).in_progress[:1]] == [True]
    assert [one.id for one in (await loom.glance(limit=1)).in_progress] == [works.id]


async def test_epics_are_told_with_how_much_of_them_is_done(loom: Loom) -> None:
    epic = await loom.create("E", epic=True, priority="p0")
    inner = await loom.create("I", parent_id=epic.id, epic=True)
    children = [await loom.create(f"T{n}", parent_id=epic.id) for n in range(3)]
    await loom.create("deep", parent_id=inner.id)
    other = await loom.create("O", epic=True)
    await loom.done(children[0].id)
    await loom.cancel(children[1].id)
    found = await loom.glance()
    assert [(one.id, one.done, one.of) for one in found.epics] == [(epic.id, 1, 3), (other.id, 0, 0)]
    few = await loom.glance(limit=1)
    assert ([one.id for one in few.epics], few.more_epics) == ([epic.id], True)


async def test_when_it_may_end_follows_the_pace_of_late(loom: Loom, clock: Advance) -> None:
    tasks = [await loom.create(f"T{n}") for n in range(12)]
    for one in tasks[:4]:
        await loom.claim(one.id)
        await clock(60)
        await loom.done(one.id)
    assert (await loom.glance()).estimate is None, "four say too little"
    await loom.claim(tasks[4].id)
    await clock(60)
    await loom.done(tasks[4].id)
    found = (await loom.glance()).estimate
    assert found is not None
    assert (found.left, found.done, round(found.seconds / 10)) == (7, 5, 30), "since the first claim, not in an hour"
    reply = replies.glance(await loom.glance())
    assert reply["may_end"]["left"] == 7
    await clock(86400)
    later = (await loom.glance()).estimate
    assert later is not None
    assert later.seconds > 86400
    await clock(7 * 86400)
    assert (await loom.glance()).estimate is None, "nothing was done lately"


async def test_what_was_done_without_a_claim_says_nothing_of_a_pace(loom: Loom, pool: Pool) -> None:
    for number in range(6):
        await loom.create(f"T{number}")
    await pool.execute(
        "update tasks set status = 'done', done_at = loom_now() where title <> 'T0' and project_id = $1",
        loom.project_id,
    )
    assert (await loom.glance()).estimate is None
    await loom.done((await loom.ready()).tasks[0].id)
    assert (await loom.glance()).estimate is None, "nothing is left"


async def test_a_glance_at_very_many_tasks_reads_little_more_than_it_shows(loom: Loom, pool: Pool) -> None:
    await fill(loom, pool, 30_000)
    project = loom.project_id
    await pool.execute(
        "update tasks set status = 'epic' where id in (select id from tasks where status = 'blocked' limit 3)"
    )
    await pool.execute(
        "update tasks set parent_id = (select min(id) from tasks where status = 'epic') where status = 'blocked'"
    )
    await pool.execute("vacuum analyze tasks")
    for query, arguments, most in (
        (glance.NEEDS_YOU, (project, 5, glance.COUNTED), 60),
        (glance.IN_PROGRESS, (project, 5), 30),
        (glance.EPICS, (project, 5, glance.COUNTED), 500),
        (glance.PACE, (project, [1, 6, 24, 168], 2_000), 2_500),
    ):
        assert await buffers(pool, query, *arguments) <= most, query
