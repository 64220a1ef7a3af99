"""What waits for a yes on Now: workflows with what they show, and plans with their waves."""

from __future__ import annotations

import asyncio
import html
import re
from pathlib import Path

import pytest

from loom.bus.events import EventType
from loom.db.connection import Pool
from loom.exceptions import PlanError, TaskStateError
from loom.graph.cache import waiting
from loom.graph.front import Loom
from loom.graph.model.principals import Principal, Role
from loom.graph.store.glance import Need
from loom.skills import decomposer, tools
from loom.workflows import runs
from tests.skills.conftest import Model, directory, good_plan, home, model, shop
from tests.web.conftest import PATIENCE, Board
from tests.workflows.conftest import SKILL, begun, put

__all__ = ["directory", "home", "model", "shop"]

SHOWN = """
- id: agree
  type: confirm
  message: "Paint <it>?"
  show:
    waves: "{{ inputs.waves }}"
    why: {the_wall: [old, "<b>grey</b>"]}
- {id: pause, type: wait, seconds: 0}
"""
SHOUT = "- {id: shout, type: skill, skill: shout, inputs: {words: hello}}"
WAVES = [{"wave": 1, "count": 12, "tasks": ["t1 Sand <b>it</b>"]}, {"wave": 2, "count": 1, "tasks": ["t2 Paint it"]}]


async def asks(loom: Loom) -> str:
    run = await begun(loom, SHOWN, "waves: {type: array}", {"waves": WAVES})
    return run.id


def question_in(page: str) -> str:
    """What names the question that a page shows."""
    (found,) = re.findall(r'name="question" value="([^"]*)"', page)
    return html.unescape(found)


async def done(loom: Loom, run_id: str) -> None:
    """Waits until a run is done."""
    async with asyncio.timeout(PATIENCE):
        while (await runs.look(loom, run_id))[0].status != "done":  # noqa: ASYNC110 - only a look says so
            await asyncio.sleep(0.05)


async def test_a_workflow_shows_what_it_asks_about_and_goes_on_after_a_yes(web: Board, loom: Loom) -> None:
    run_id = await asks(loom)
    page = await web.get("/")
    for words in ("Yes or no", "Paint &lt;it&gt;?", "<b>Wave 1</b>", "t1 Sand &lt;b&gt;it&lt;/b&gt;", "and 11 more"):
        assert words in page
    for words in ("the wall", "&lt;b&gt;grey&lt;/b&gt;"):
        assert words in page
    question = question_in(page)
    answer = await web.post(f"/do/decide/{run_id}", way="yes", question=question, note="Go on.", back="/#needs")
    assert answer.headers["location"] == "/?said=yes#needs"
    await done(loom, run_id)
    too_late = await web.post(f"/do/decide/{run_id}", 409, way="no", question=question)
    assert "waits for no yes or no" in too_late.text


async def test_a_yes_counts_for_the_question_that_was_shown(web: Board, loom: Loom) -> None:
    run_id = await asks(loom)
    refused = await web.post(f"/do/decide/{run_id}", 409, way="yes", question="another 2026-11-26T00:00:00+00:00")
    assert "another was answered by somebody else" in refused.text
    before = question_in(await web.get("/"))
    await runs.advance(loom, run_id, from_step="agree")
    refused = await web.post(f"/do/decide/{run_id}", 409, way="yes", question=before)
    assert "agree was asked anew" in refused.text
    await web.post(f"/do/decide/{run_id}", way="no", question=question_in(await web.get("/")), note="Not grey.")
    run = (await runs.look(loom, run_id))[0]
    assert (run.status, "Not grey." in (run.error or "")) == ("failed", True)
    await web.post(f"/do/decide/{run_id}", 404, way="explode")


async def test_a_yes_is_answered_at_once_however_long_the_next_step_thinks(
    web: Board, shop: Loom, model: Model, directory: Path
) -> None:
    web.let_in[""] = shop
    put(directory, SKILL, "shout.md", "skills")
    model.answers({"said": "HELLO"}).hold()
    steps = f"- {{id: agree, type: confirm, message: Go on?}}\n{SHOUT}"
    run_id = (await begun(shop, steps)).id
    try:
        answer = await web.post(f"/do/decide/{run_id}", way="yes", step="agree", back="/#needs")
        assert answer.headers["location"] == "/?said=yes#needs"
        page = await web.get("/")
        assert f"ask-{run_id}" not in page
        assert '<h2 id="flows">Workflows</h2>' in page
    finally:
        model.go_on()
    await done(shop, run_id)
    assert "Workflows</h2>" not in await web.get("/")


async def test_a_workflow_that_has_failed_is_shown_and_tried_again(
    web: Board, shop: Loom, model: Model, directory: Path, pool: Pool
) -> None:
    web.let_in[""] = shop
    put(directory, SKILL, "shout.md", "skills")
    model.answers("No <b>JSON</b>.")
    run = await begun(shop, SHOUT)
    refused = await begun(shop, "- {id: sure, type: confirm, message: Go on?}")
    await runs.confirm(shop, refused.id, yes=False)
    assert run.status == "failed"
    page = await web.get("/")
    assert page.count("Try again") == 1, "what somebody said no to has ended"
    assert "trial" in page[page.index("Workflows</h2>") :]
    await pool.execute("update workflow_runs set updated_at = updated_at - interval '25 hours'")
    assert "Try again" not in await web.get("/"), "that it has failed is told for a day"
    model.answers({"said": "HELLO"})
    await web.post(f"/do/resume/{run.id}")
    await done(shop, run.id)


async def test_a_plan_waits_with_its_waves_and_is_written_once(web: Board, loom: Loom) -> None:
    plan_id = (await decomposer.propose(loom.beside(agent="ada"), good_plan(), goal="<b>Sign-in</b>"))["plan_id"]
    page = await web.get("/")
    for words in ("(1) Now", "ada proposed it", "&lt;b&gt;Sign-in&lt;/b&gt;", "<b>Wave 1</b>", "steps</summary>"):
        assert words in page
    forms = [web.client.post(f"/do/decide/{plan_id}", data={"way": "write"}) for _ in range(2)]
    assert {answer.status_code for answer in await asyncio.gather(*forms)} == {303}
    assert (await loom.status()).counts["pending"] > 0
    assert plan_id not in await web.get("/")
    with pytest.raises(TaskStateError, match="written already"):
        await decomposer.refuse(loom, plan_id)


async def test_whoever_proposed_a_plan_has_the_answer_in_his_inbox(web: Board, loom: Loom) -> None:
    refused, written, own = [
        (await decomposer.propose(loom.beside(agent=agent), good_plan(), goal=goal))["plan_id"]
        for goal, agent in (("one", "ada"), ("two", "ada"), ("three", loom.agent))
    ]
    await web.post(f"/do/decide/{refused}", way="decline", note="Begin with the table.")
    await web.post(f"/do/decide/{written}", way="write")
    await web.post(f"/do/decide/{written}", way="write")
    await web.post(f"/do/decide/{own}", way="decline")
    assert [(one.thread_id, one.sender, one.body) for one in (await loom.inbox(agent_id="ada")).messages] == [
        (refused, loom.agent, f"Answer on {refused}: refused: Begin with the table."),
        (written, loom.agent, f"Answer on {written}: written, 5 tasks."),
    ]
    assert (await loom.inbox()).messages == [], "nobody writes to himself"


async def test_a_plan_that_is_proposed_or_refused_is_told_to_every_page(
    web: Board, loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = (await loom.wait(timeout=0)).since
    plan_id = (await decomposer.propose(loom.beside(agent="ada"), good_plan(), goal="<b>Sign-in</b>"))["plan_id"]
    seen = await loom.wait(since=since, timeout=0)
    await web.post(f"/do/decide/{plan_id}", way="decline", note="No.")
    later = await loom.wait(since=seen.since, timeout=0)
    assert [(one.type, one.agent, one.data) for one in (*seen.events, *later.events)][:2] == [
        ("plan.proposed", "ada", {"plan_id": plan_id, "tasks": 5, "goal": "<b>Sign-in</b>"}),
        ("plan.refused", loom.agent, {"plan_id": plan_id, "note": "No."}),
    ]
    page = await web.get("/events?kind=plan")
    for words in ("plan.proposed", "plan.refused", "&lt;b&gt;Sign-in&lt;/b&gt;"):
        assert words in page
    monkeypatch.setattr(waiting, "_FIRST_LOOK", 60.0)  # so that only a notice can end it in time
    going = asyncio.create_task(loom.wait(since=later.since, timeout=60))
    await asyncio.sleep(0.3)
    await decomposer.propose(loom, good_plan(), goal="Else")
    assert (await asyncio.wait_for(going, PATIENCE)).changed, "who waits is woken"


async def test_whoever_confirms_a_plan_that_was_refused_is_told_why(web: Board, loom: Loom) -> None:
    plan_id = (await decomposer.propose(loom, good_plan(), goal="Sign-in"))["plan_id"]
    await web.post(f"/do/decide/{plan_id}", way="decline", note="Begin with the table.")
    assert plan_id not in await web.get("/")
    for confirm in (True, False):
        told = await tools.decompose(loom, plan_id=plan_id, confirm=confirm)
        assert told["status"] == "sent_back"
        assert "has refused it: Begin with the table." in told["problems"][0]
    with pytest.raises(PlanError, match="has refused it"):
        await decomposer.refuse(loom, plan_id)
    assert sum((await loom.status()).counts.values()) == 0


async def test_a_workflow_that_waits_is_shown_however_many_have_ended_since(web: Board, loom: Loom, pool: Pool) -> None:
    waiting = await begun(loom, "- {id: nap, type: wait, seconds: 3600}")
    assert waiting.status == "waiting"
    await pool.execute(
        """
        insert into workflow_runs (project_id, id, workflow, version, definition, inputs, status, agent, finished_at)
        select project_id, 'wf-' || to_hex(n), 'ended', version, definition, inputs, 'done', agent, loom_now()
          from workflow_runs, generate_series(1, 300) n
        """
    )
    page = await web.get("/")
    flows = page[page.index("Workflows</h2>") :]
    assert "trial" in flows
    assert "nap" in flows
    assert "ended" not in flows


async def test_of_each_goal_the_newest_plan_waits_and_none_that_a_workflow_asks_about(web: Board, loom: Loom) -> None:
    async def waiting() -> list[str]:
        found = await loom.glance(limit=20)
        plans = [one.id for one in found.needs_you if one.need is Need.PLAN]
        assert found.needs_you_count == found.status.open_plans == len(plans)
        return plans

    first, second, other = [
        (await decomposer.propose(loom, good_plan(), goal=goal))["plan_id"] for goal in ("Sign-in", "Sign-in", "Else")
    ]
    for goal in ("Asked about", "Else"):
        await decomposer.propose(loom, good_plan(), goal=goal, of_workflow=True)
    assert await waiting() == [second, other]
    assert f"ask-{first}" not in await web.get("/")
    older = "update plans set created_at = created_at - interval '8 days' where id = $1"
    await loom.look(lambda connection: connection.execute(older, other))
    assert await waiting() == [second]
    without = [(await decomposer.propose(loom, good_plan()))["plan_id"] for _ in range(2)]
    assert {*await waiting()} == {second, *without}, "of which nobody knows whether they have one goal"
    web.let_in[""] = loom.beside(principal=Principal("eve", Role.WORKER))
    page = await web.get("/")
    assert f"ask-{second}" in page
    assert f"/do/decide/{second}" not in page
    await web.post(f"/do/decide/{second}", 403, way="write")


async def test_a_plan_that_a_workflow_has_made_waits_there_alone(web: Board, shop: Loom, model: Model) -> None:
    model.answers(good_plan())
    plans = "- {id: plan, type: action, action: plan, inputs: {goal: Sign-in}}"
    run = await begun(shop, f"{plans}\n- {{id: sure, type: confirm, message: Sure?}}")
    assert run.status == "waiting", run.error
    assert [one.need for one in (await shop.glance()).needs_you] == [Need.CONFIRM]
    [told] = await shop.events(types=[EventType.PLAN_PROPOSED])
    assert (told.data or {})["workflow"] is True
