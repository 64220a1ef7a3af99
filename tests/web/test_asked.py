"""What waits for a yes on Now: workflows with what they show, and plans with their waves."""

from __future__ import annotations

import asyncio

import pytest

from loom.exceptions import PlanError, TaskStateError
from loom.graph.front import Loom
from loom.graph.model.principals import Principal, Role
from loom.skills import decomposer, tools
from loom.workflows import runs
from tests.skills.conftest import good_plan
from tests.web.conftest import Board
from tests.workflows.conftest import begun

SHOWN = """
- id: agree
  type: confirm
  message: "Paint <it>?"
  show:
    waves: "{{ inputs.waves }}"
    why: {the_wall: [old, "<b>grey</b>"]}
- {id: pause, type: wait, seconds: 0}
"""
WAVES = [{"wave": 1, "count": 12, "tasks": ["t1 Sand <b>it</b>"]}, {"wave": 2, "count": 1, "tasks": ["t2 Paint it"]}]


async def asks(loom: Loom) -> str:
    run = await begun(loom, SHOWN, "waves: {type: array}", {"waves": WAVES})
    return run.id


async def test_a_workflow_shows_what_it_asks_about_and_goes_on_after_a_yes(web: Board, loom: Loom) -> None:
    run_id = await asks(loom)
    page = await web.get("/")
    for words in ("Yes or no", "Paint &lt;it&gt;?", "<b>Wave 1</b>", "t1 Sand &lt;b&gt;it&lt;/b&gt;", "and 11 more"):
        assert words in page
    for words in ("the wall", "&lt;b&gt;grey&lt;/b&gt;", 'name="step" value="agree"'):
        assert words in page
    answer = await web.post(f"/do/decide/{run_id}", way="yes", step="agree", note="Go on.", back="/#needs")
    assert answer.headers["location"] == "/?said=yes#needs"
    assert (await runs.look(loom, run_id))[0].status == "done"
    too_late = await web.post(f"/do/decide/{run_id}", 409, way="no", step="agree")
    assert "waits for no yes or no" in too_late.text


async def test_a_yes_counts_for_the_question_that_was_shown(web: Board, loom: Loom) -> None:
    run_id = await asks(loom)
    refused = await web.post(f"/do/decide/{run_id}", 409, way="yes", step="another")
    assert "was answered by somebody else" in refused.text
    await web.post(f"/do/decide/{run_id}", way="no", note="Not grey.")
    run = (await runs.look(loom, run_id))[0]
    assert (run.status, "Not grey." in (run.error or "")) == ("failed", True)
    await web.post(f"/do/decide/{run_id}", 404, way="explode")


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


async def test_of_each_goal_the_newest_plan_waits_and_none_that_a_workflow_asks_about(web: Board, loom: Loom) -> None:
    first, second, other = [
        (await decomposer.propose(loom, good_plan(), goal=goal))["plan_id"] for goal in ("Sign-in", "Sign-in", "Else")
    ]
    assert [one.id for one in await decomposer.proposed(loom)] == [other, second]
    assert f"ask-{first}" not in await web.get("/")
    older = "update plans set created_at = created_at - interval '8 days' where id = $1"
    await loom.look(lambda connection: connection.execute(older, other))
    assert [one.id for one in await decomposer.proposed(loom)] == [second]
    web.let_in[""] = loom.beside(principal=Principal("eve", Role.WORKER))
    assert f"ask-{second}" not in await web.get("/")
    await web.post(f"/do/decide/{second}", 403, way="write")
    await asks(loom)
    shown = "status = 'done', finished_at = now(), output = jsonb_build_object('plan_id', $1::text)"
    await loom.look(lambda connection: connection.execute(f"update workflow_steps set {shown}", second))
    assert await decomposer.proposed(loom) == []
