"""Carrying runs on: what steps come to, what is waited for, what happens to who carries them, and what is done once."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from loom import texts
from loom.bus import channels
from loom.config import LoomConfig, trust
from loom.db.connection import Pool
from loom.exceptions import (
    AnswerError,
    ClaimConflictError,
    DatabaseUnavailableError,
    InvalidInputError,
    LoomError,
    PlanError,
    RunLostError,
    RunNotFoundError,
    WorkflowError,
    WorkflowStateError,
)
from loom.graph.cache import waiting
from loom.graph.front import Loom
from loom.graph.store import skill_runs, workflow_runs
from loom.graph.store.workflow_runs import WorkflowRun, WorkflowRunStatus
from loom.skills import loader as skills
from loom.skills import tools as skill_faces
from loom.workflows import actions, loader, runs, tools
from loom.workflows.record import Record, StepProgress
from tests.conftest import Opener
from tests.graph import test_landings as landing
from tests.graph.test_lifecycle import holds
from tests.skills.conftest import good_plan
from tests.waiting import alive, pids, until
from tests.workflows.conftest import SKILL, Clock, Model, Told, begun, flow, outputs, put, rows, source

ASK = "- {id: ask, type: confirm, message: Go on?}"
MAKE = "- {id: make, type: action, action: create_tasks, inputs: {tasks: [{title: Made}]}}"
SHOUT = "- {id: shout, type: skill, skill: shout, inputs: {words: '{{ inputs.words | default(''hello'') }}'}}"
LOUD = {"said": "HELLO"}


def say(step: str, words: str) -> str:
    return f'- {{id: {step}, type: action, action: send_message, inputs: {{to: reader, message: "{words}"}}}}'


def wait_for(task_id: str, more: str = "") -> str:
    return f"- {{id: work, type: wait, tasks: [{task_id}]{more}}}"


def command(words: str, more: str = "") -> str:
    return f"- {{id: run, type: action, action: run_command, inputs: {{words: {words}{more}}}}}"


async def statuses(loom: Loom, run: WorkflowRun) -> dict[str, str]:
    return {name: row.status for name, row in (await rows(loom, run)).items()}


async def waits(loom: Loom, run: WorkflowRun) -> dict[str, Any]:
    return await runs.waits_for(loom, *await runs.look(loom, run.id))


# --- values and conditions ------------------------------------------------------------------------------------------


async def test_values_keep_their_types(loom: Loom) -> None:
    steps = """
- {id: say, type: action, action: send_message, inputs: {to: reader, message: "{{ inputs.n }} of {{ inputs.many }}"}}
- id: ask
  type: confirm
  message: "{{ inputs.n }}?"
  show:
    whole: "{{ inputs.n }}"
    many: " {{ inputs.many }} "
    deep: ["{{ inputs.thing.a.b }}", {key: "{{ inputs.thing['a'] }}"}, 7, null]
    text: "n is {{ inputs.n }}, it is {{ inputs.sure }}, {{ inputs.thing }}"
    seen: "{{ steps.say.message_id }}"
    length: "{{ inputs.many | length }}"
    else: "{{ inputs.thing.missing | default('none') }}"
    braces: "}} is no expression"
"""
    inputs = "n: {type: integer}\nmany: {type: array}\nthing: {type: object}\nsure: {type: boolean}"
    given = {"n": 3, "many": [1, "two"], "thing": {"a": {"b": 1.5}}, "sure": True}
    run = await begun(loom, steps, inputs, given)
    assert run.status == "waiting", run.error
    shown = await waits(loom, run)
    assert shown["message"] == "3?"
    assert isinstance(shown["show"].pop("seen"), int)
    assert shown["show"] == {
        "whole": 3,
        "many": [1, "two"],
        "deep": [1.5, {"key": {"b": 1.5}}, 7, None],
        "text": 'n is 3, it is true, {"a": {"b": 1.5}}',
        "length": 2,
        "else": "none",
        "braces": "}} is no expression",
    }
    (sent,) = (await loom.inbox(agent_id="reader")).messages
    assert sent.body == '3 of [1, "two"]'


SAY = say("say", "hello")
STEPS = f"""
- {{id: choose, type: condition, if: 'inputs.n > 1 and inputs.n in [2, 3]', then: last, else: end}}
- {{id: check, type: condition, if: inputs.n == 9, else: fail, message: "There is only {{{{ inputs.n }}}}."}}
{SAY}
{say("last", "{{ steps.say | default('no') }}")}
"""


async def test_conditions_jump_ahead_end_and_fail(loom: Loom) -> None:
    told = Told()
    run = await begun(loom, STEPS, "n: {type: integer}", {"n": 2}, tell=told)
    assert (run.status, await statuses(loom, run)) == (
        "done",
        {"choose": "done", "check": "skipped", "say": "skipped", "last": "done"},
    )
    assert told.brief == ["choose done", "check skipped", "say skipped", "last begun", "last done"]
    assert [one.body for one in (await loom.inbox(agent_id="reader")).messages] == ["no"]
    run = await begun(loom, STEPS, "n: {type: integer}", {"n": 1})
    assert (run.status, set((await statuses(loom, run)).values())) == ("done", {"done", "skipped"})
    run = await begun(
        loom, STEPS.partition("\n- {id: check")[2].join(["- {id: check", ""]), "n: {type: integer}", {"n": 5}
    )
    assert (run.status, run.error) == ("failed", "check: There is only 5.")
    run = await runs.advance(loom, run.id)
    assert (run.status, (await rows(loom, run))["check"].attempt) == ("failed", 2)


WRONG = (
    ("- {id: a, type: confirm, message: '{{ inputs.x.nothing }}'}", "step a, `message`: the expression fails"),
    ("- {id: a, type: condition, if: inputs.x > 1, then: end}", "step a, `if`: the expression cannot be filled in"),
    ("- {id: a, type: wait, seconds: '{{ inputs.x }}'}", "seconds must be a number"),
    ("- {id: a, type: wait, tasks: '{{ inputs.x }}'}", "tasks “text” is not a task id"),
    ("- {id: a, type: wait, tasks: loom-00000000}", "This project has no loom-00000000 to wait for"),
    ("- {id: a, type: action, action: load_failure, inputs: {task_id: '{{ inputs.x }}'}}", "is not a task id"),
    ("- {id: a, type: action, action: load_results, inputs: {tasks: '{{ inputs.x }}'}}", "must be of type array"),
    ("- {id: a, type: action, action: resolve, inputs: {id: '{{ inputs.x }}', action: assign}}", "cannot be used"),
    ("- {id: a, type: action, action: create_tasks, inputs: {tasks: [{titel: x}]}}", "titel"),
    ("- {id: a, type: action, action: mend, inputs: {task_id: loom-00000000, diagnosis: {}}}", "There is no task"),
    ("- {id: a, type: action, action: mend, inputs: {task_id: '{{ inputs.task }}', diagnosis: {}}}", "not what debug"),
)  # fmt: skip


async def test_what_cannot_be_done_fails_the_run_and_nothing_else(loom: Loom) -> None:
    task = await loom.create("broken")
    await loom.fail(task.id, "no key", retry=False)
    for step, told in WRONG:
        inputs = {"x": "text", "task": task.id}
        run = await begun(loom, f"{SAY}\n{step}", "x: {type: string}\ntask: {type: string}", inputs)
        assert (run.status, run.position) == ("failed", 1), step
        assert run.error is not None
        assert run.error.startswith("a: ")
        assert told in run.error
        assert "unexpected" not in run.error
    assert await runs.movable(loom) == []
    assert (await loom.get(task.id)).task.dead
    assert len((await loom.inbox(agent_id="reader", limit=100)).messages) == len(WRONG)


# --- waiting --------------------------------------------------------------------------------------------------------


async def test_a_run_waits_for_tasks_held_by_nobody(loom: Loom) -> None:
    one, two = await loom.create("one"), await loom.create("two")
    run = await begun(loom, f"- {{id: work, type: wait, tasks: [{one.id}, {two.id}, {one.id}]}}\n{SAY}")
    assert (run.status, run.lease_expires_at) == ("waiting", None)
    assert await waits(loom, run) == {"waits_for": "tasks", "finished": 0, "open": 2, "dead": []}
    await loom.done(one.id)
    assert await runs.movable(loom) == []
    assert (await runs.advance(loom, run.id)).status == "waiting"
    await loom.fail(two.id, "broken", retry=False)
    assert (await waits(loom, run))["dead"] == [two.id]
    assert await runs.movable(loom) == [], "it is not asked to fail over dead work"
    await loom.resolve(two.id, "cancel")
    assert await runs.movable(loom) == [run.id]
    run = await runs.advance(loom, run.id)
    assert (run.status, (await outputs(loom, run))["work"]) == ("done", {"finished": 2})


async def test_who_is_patient_goes_on_at_once_when_the_last_task_is_done(
    loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_FIRST_LOOK", 60.0)  # so that only a notice can wake it in time
    await (await loom.relay()).step()  # so that there are notices
    task = await loom.create("one")
    told = Told()
    going = asyncio.create_task(begun(loom, wait_for(task.id), patient=True, tell=told))
    await until(lambda: "work waiting" in told.brief)
    await asyncio.sleep(0.2)  # it listens
    await loom.done(task.id)
    async with asyncio.timeout(30):
        assert (await going).status == "done"


async def test_what_is_done_just_before_it_listens_is_not_slept_through(loom: Loom, config: LoomConfig) -> None:
    task = await loom.create("one")

    async def finish() -> None:
        async with Loom(config, agent="worker") as other:
            await other.done(task.id)

    def tell(progress: StepProgress) -> None:
        if progress.phase == "waiting":  # it has looked, and is about to listen
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, finish()).result()

    async with asyncio.timeout(30):
        assert (await begun(loom, wait_for(task.id), patient=True, tell=tell)).status == "done"


async def test_dead_work_and_time_end_a_wait(loom: Loom, clock: Clock) -> None:
    task = await loom.create("one")
    run = await begun(loom, wait_for(task.id, ", dead: fail, timeout: 100"))
    assert await runs.movable(loom) == []
    await loom.fail(task.id, "broken")
    assert await runs.movable(loom) == [], "what is tried again is not dead"
    assert (await runs.advance(loom, run.id)).status == "waiting"
    await loom.resolve(task.id, "retry")
    await loom.fail(task.id, "broken", retry=False)
    assert await runs.movable(loom) == [run.id]
    run = await runs.advance(loom, run.id)
    assert (run.status, run.error) == ("failed", f"work: It waits for dead work: {task.id}.")
    await loom.resolve(task.id, "retry")
    assert (await runs.advance(loom, run.id)).status == "waiting"
    await clock(99)
    assert await runs.movable(loom) == []
    await clock(2)
    assert await runs.movable(loom) == [run.id]
    run = await runs.advance(loom, run.id)
    assert (run.status, run.error) == ("failed", "work: It waited longer than its timeout, 100 seconds.")
    run = await runs.advance(loom, run.id)
    assert (run.status, (await rows(loom, run))["work"].attempt) == ("waiting", 3), "its time begins anew"


async def test_a_pause_is_over_by_the_clock_of_the_database(loom: Loom, clock: Clock) -> None:
    run = await begun(
        loom, f"- {{id: pause, type: wait, seconds: '{{{{ inputs.n }}}}'}}\n{SAY}", "n: {type: integer}", {"n": 60}
    )
    assert (await waits(loom, run))["waits_for"] == "time"
    await clock(59)
    assert (await runs.advance(loom, run.id)).status == "waiting"
    assert await runs.movable(loom) == []
    await clock(2)
    assert await runs.movable(loom) == [run.id]
    assert (await runs.advance(loom, run.id)).status == "done"
    assert (await begun(loom, "- {id: pause, type: wait, seconds: 0.2}", patient=True)).status == "done"
    long = await begun(loom, "- {id: pause, type: wait, seconds: 700000}")
    await clock(650_000)
    assert (await runs.advance(loom, long.id)).status == "waiting", "longer than tasks are waited for"
    await clock(60_000)
    assert (await runs.advance(loom, long.id)).status == "done"


async def test_a_yes_goes_on_and_a_no_fails_until_it_is_asked_again(loom: Loom) -> None:
    run = await begun(
        loom,
        f"{ASK}\n{say('say', '{{ steps.ask.by }}: {{ steps.ask.note }}')}",
    )
    assert await runs.movable(loom) == []
    shown = (await rows(loom, run))["ask"].question
    run = await runs.confirm(loom, run.id, yes=False, question=shown, note="not yet")
    assert (run.status, run.error) == ("failed", "ask: tester said no: not yet")
    with pytest.raises(WorkflowStateError, match="waits for no yes or no; it is failed at ask"):
        await runs.confirm(loom, run.id, yes=True)
    assert (await runs.advance(loom, run.id)).status == "waiting"
    with pytest.raises(WorkflowStateError, match="ask was asked anew"):
        await runs.confirm(loom, run.id, yes=True, question=shown)
    await runs.confirm(loom.beside(agent="boss"), run.id, yes=True, note=" now ")
    with pytest.raises(WorkflowStateError):
        await runs.confirm(loom, run.id, yes=True)
    assert (await runs.advance(loom, run.id)).status == "done"
    assert (await loom.inbox(agent_id="reader")).messages[0].body == "boss: now"


async def test_agents_answer_only_where_they_may(loom: Loom) -> None:
    run = await begun(loom, ASK)
    with pytest.raises(WorkflowStateError, match="answered by a person"):
        await tools.workflow(loom, "resume", run_id=run.id, inputs={"yes": True})
    assert (await runs.look(loom, run.id))[0].status == "waiting"
    run = await begun(loom, ASK.replace("}", ", agents: true}"))
    refused = await tools.workflow(loom, "resume", run_id=run.id, inputs={"yes": False, "note": "too early"})
    assert (refused["status"], refused["error"]) == ("failed", "ask: tester said no: too early")
    assert (await tools.workflow(loom, "resume", run_id=run.id))["waits_for"] == "confirm", "it is asked anew"
    with pytest.raises(InvalidInputError, match="waits for a yes or no"):
        await tools.workflow(loom, "resume", run_id=run.id, inputs={"yes": "yes"})
    assert (await tools.workflow(loom, "resume", run_id=run.id, inputs={"yes": True}))["status"] == "done"


async def test_the_time_for_an_answer_ends(loom: Loom, clock: Clock) -> None:
    run = await begun(loom, ASK.replace("}", ", timeout: 60}"))
    await clock(61)
    with pytest.raises(
        WorkflowStateError, match=f"The time to answer ask is over. .* `loom workflow resume {run.id} --step ask`"
    ):
        await runs.confirm(loom, run.id, yes=True)
    assert (await waits(loom, run))["until"].startswith("20")
    assert await runs.movable(loom) == [run.id]
    run = await runs.advance(loom, run.id)
    assert (run.status, run.error) == ("failed", "ask: Nobody answered in time. Resume it to ask again.")
    assert (await runs.advance(loom, run.id)).status == "waiting"
    assert (await runs.confirm(loom, run.id, yes=True)).status == "running"


async def test_the_time_of_an_agent_to_answer_ends_where_that_is_said(
    bare_shop: Loom, directory: Path, clock: Clock
) -> None:
    put(directory, SKILL, "shout.md", "skills")
    words = "words: {type: string, default: hi}"
    unhurried = await begun(bare_shop, SHOUT, words)
    run = await begun(bare_shop, SHOUT[:-1] + ", timeout: 60}", words)
    await clock(61)
    with pytest.raises(WorkflowStateError, match="The time to answer shout is over"):
        await runs.answer(bare_shop, run.id, LOUD)
    assert await runs.movable(bare_shop) == [run.id]
    run = await runs.advance(bare_shop, run.id)
    assert (run.status, run.error) == ("failed", "shout: Nobody answered in time. Resume it to ask again.")
    assert (await runs.advance(bare_shop, run.id)).status == "waiting"
    assert (await runs.answer(bare_shop, run.id, LOUD)).status == "running"
    assert (await runs.answer(bare_shop, unhurried.id, LOUD)).status == "running"


# --- failing and going back -----------------------------------------------------------------------------------------


async def test_a_failed_run_goes_on_with_the_step_that_failed(
    shop: Loom, directory: Path, model: Model, pool: Pool
) -> None:
    put(directory, SKILL, "shout.md", "skills")
    model.answers("no", "no", LOUD)
    run = await begun(shop, f"{MAKE}\n{SHOUT}\n{ASK}", "words: {type: string, default: hi}")
    assert run.status == "failed"
    assert run.error is not None
    assert "not what shout asks for" in run.error
    told = Told()
    run = await runs.advance(shop, run.id, tell=told)
    assert (run.status, run.error, run.finished_at) == ("waiting", None, None)
    assert told.brief == ["shout begun", "shout done", "ask begun", "ask waiting"]
    seen = await rows(shop, run)
    assert (seen["shout"].attempt, seen["make"].attempt, seen["shout"].output) == (2, 1, LOUD)
    assert await pool.fetchval("select count(*) from tasks") == 1


async def test_going_back_never_does_twice_what_changed_the_graph(loom: Loom, pool: Pool) -> None:
    results = "- {id: see, type: action, action: load_results, inputs: {tasks: '{{ steps.make.ids }}'}}"
    check = "- {id: check, type: condition, if: 'inputs.n == 1', then: end, else: fail, message: Not so}"
    run = await begun(loom, f"{ASK}\n{MAKE}\n{results}\n{check}", "n: {type: integer}", {"n": 2})
    with pytest.raises(WorkflowStateError, match="has not come to make yet"):
        await runs.advance(loom, run.id, from_step="make")
    with pytest.raises(WorkflowError, match=r"no step “mak”. It has ask, make, see, check"):
        await runs.advance(loom, run.id, from_step="mak")
    await runs.confirm(loom, run.id, yes=True)
    run = await runs.advance(loom, run.id)
    assert run.error == "check: Not so"
    for step in ("ask", "make"):
        with pytest.raises(WorkflowStateError, match="make has changed the graph already and is not done twice"):
            await runs.advance(loom, run.id, from_step=step)
    assert (await runs.look(loom, run.id))[0].status == "failed", "a refusal changes nothing"
    told = Told()
    await runs.advance(loom, run.id, from_step="see", tell=told)
    assert told.brief == ["see begun", "see done", "check failed"]
    assert await pool.fetchval("select count(*) from tasks") == 1
    for nowhere in ("end", ""):
        with pytest.raises(LoomError):
            await runs.advance(loom, run.id, from_step=nowhere)
    past = "- {id: past, type: condition, if: 'inputs.n == 2', then: check}"
    run = await begun(loom, f"{past}\n{MAKE}\n{check}", "n: {type: integer}", {"n": 2})
    assert await statuses(loom, run) == {"past": "done", "make": "skipped", "check": "failed"}
    run = await runs.advance(loom, run.id, from_step="past")
    assert run.error == "check: Not so", "what was passed by has changed nothing"


async def test_a_run_that_is_cancelled_stays_cancelled_and_what_it_made_stays(
    loom: Loom, bare_shop: Loom, directory: Path, pool: Pool
) -> None:
    waiting = await begun(loom, f"{MAKE}\n{ASK}")
    failed = await begun(loom, "- {id: no, type: condition, if: 1 == 2, else: fail, message: Not so}")
    done = await begun(loom, SAY)
    run = await runs.cancel(loom, waiting.id, note="the goal has changed")
    assert (run.status, run.error) == ("cancelled", "tester cancelled it: the goal has changed")
    assert await statuses(loom, run) == {"make": "done", "ask": "failed"}
    assert (await runs.cancel(loom, failed.id)).error == "tester cancelled it."
    assert (await rows(loom, failed))["no"].error == "Not so", "why it had failed stays"
    for one, told in ((waiting, "is cancelled already"), (done, "is done already")):
        with pytest.raises(WorkflowStateError, match=told):
            await runs.cancel(loom, one.id)
    with pytest.raises(RunNotFoundError):
        await runs.cancel(loom, "wf-00000000")
    for step in (None, "make", "ask"):
        with pytest.raises(WorkflowStateError, match=r"is cancelled\. Start the workflow again"):
            await runs.advance(loom, waiting.id, from_step=step)
    with pytest.raises(WorkflowStateError):
        await runs.confirm(loom, waiting.id, yes=True)
    assert await runs.movable(loom) == []
    assert (await loom.status()).open_workflows == 0
    assert await pool.fetchval("select count(*) from tasks") == 1
    types = await pool.fetch("select type from events where type = 'workflow.cancelled'")
    assert len(types) == 2


async def test_who_carries_on_what_was_cancelled_has_lost_it(shop: Loom, directory: Path, model: Model) -> None:
    put(directory, SKILL, "shout.md", "skills")
    model.answers(LOUD).hold()
    run = await runs.start(shop, flow(f"{SHOUT}\n{SAY}", "words: {type: string, default: hi}"), {})
    carrying = asyncio.create_task(runs.advance(shop, run.id))
    await until(lambda: bool(model.prompts))
    await runs.cancel(shop, run.id)
    model.go_on()
    with pytest.raises(RunLostError, match="taken over or cancelled"):
        await carrying
    assert (await runs.look(shop, run.id))[0].status == "cancelled"
    assert (await shop.inbox(agent_id="reader")).messages == []


async def test_a_run_that_is_done_stays_done(loom: Loom) -> None:
    run = await begun(loom, SAY)
    with pytest.raises(WorkflowStateError, match=r"is done\. Start the workflow again"):
        await runs.advance(loom, run.id)
    with pytest.raises(WorkflowStateError, match="say has changed the graph"):
        await runs.advance(loom, run.id, from_step="say")
    with pytest.raises(RunNotFoundError):
        await runs.advance(loom, "wf-00000000")
    with pytest.raises(InvalidInputError):
        await runs.advance(loom, "wf-1' or true")


# --- answers of the calling agent -----------------------------------------------------------------------------------


async def test_the_calling_agent_answers_or_answers_the_skill_itself(bare_shop: Loom, directory: Path) -> None:
    put(directory, SKILL, "shout.md", "skills")
    run = await begun(bare_shop, f"{SHOUT}\n{ASK}", "words: {type: string, default: hi}")
    asked = await waits(bare_shop, run)
    assert asked["waits_for"] == "answer"
    assert "Say it louder" in asked["prompt"]
    assert asked["expects"]["required"] == ["said"]
    with pytest.raises(AnswerError):
        await runs.answer(bare_shop, run.id, {"sad": "x"})
    with pytest.raises(WorkflowStateError, match="waits for no yes or no"):
        await runs.confirm(bare_shop, run.id, yes=True)
    assert await runs.movable(bare_shop) == []
    run = await runs.answer(bare_shop, run.id, LOUD)
    with pytest.raises(WorkflowStateError, match="waits for no answer"):
        await runs.answer(bare_shop, run.id, {"said": "again"})
    assert (await runs.advance(bare_shop, run.id)).position == 1
    assert await outputs(bare_shop, run) == {"shout": LOUD}

    other = await begun(bare_shop, f"{SHOUT}\n{ASK}", "words: {type: string, default: hi}")
    skill_run = (await rows(bare_shop, other))["shout"].skill_run_id
    await skill_faces.skill(bare_shop, None, run_id=skill_run, output=LOUD)
    assert await runs.movable(bare_shop) == [other.id], "that is enough for the supervisor"
    assert (await runs.advance(bare_shop, other.id)).position == 1
    assert await outputs(bare_shop, other) == {"shout": LOUD}


async def test_who_interrupts_a_provider_leaves_a_step_that_an_agent_can_answer(
    shop: Loom, bare_shop: Loom, directory: Path, model: Model
) -> None:
    put(directory, SKILL, "shout.md", "skills")
    plan = "- {id: plan, type: action, action: plan, inputs: {goal: Sign-in}}"
    for steps, answer in ((SHOUT, LOUD), (plan, good_plan())):
        model.answers(answer).hold()
        before = len(model.prompts)
        going = asyncio.create_task(begun(shop, steps, "words: {type: string, default: hi}"))
        await until(lambda before=before: len(model.prompts) > before)  # type: ignore[misc]
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        (run,) = [one for one in await runs.newest(shop) if one.status == "running"]
        assert run.lease_expires_at is None, "it was given back"
        told = Told()
        run = await runs.advance(bare_shop, run.id, tell=told)
        assert told.brief[0].endswith(" again")
        assert (await waits(bare_shop, run))["waits_for"] == "answer"
        assert await runs.movable(bare_shop) == [], "nobody can go on without the answer"
        await runs.answer(bare_shop, run.id, answer)
        assert (await runs.advance(bare_shop, run.id)).status == "done"


async def test_a_skill_that_is_gone_or_changed_meanwhile(bare_shop: Loom, directory: Path) -> None:
    file = put(directory, SKILL, "shout.md", "skills")
    run = await begun(bare_shop, SHOUT, "words: {type: string, default: hi}")
    file.unlink()
    shown = await tools.workflow(bare_shop, "status", run_id=run.id)
    assert "There is no skill “shout”" in shown["trouble"]
    run = await runs.advance(bare_shop, run.id)
    assert (run.status, run.error) == ("failed", "shout: There is no skill “shout”. There are " + ", ".join(
        skills.load(bare_shop.config).all) + ".")  # fmt: skip
    put(directory, SKILL.replace("said", "cried"), "shout.md", "skills")
    run = await runs.advance(bare_shop, run.id)
    assert (await waits(bare_shop, run))["expects"]["required"] == ["cried"], "a new attempt asks the new one"
    file.unlink()
    with pytest.raises(WorkflowError, match=r"step shout, `skill`: There is no skill"):
        await runs.start(bare_shop, flow(SHOUT, "words: {default: hi}"), {})


PLAN = """
- {id: plan, type: action, action: plan, inputs: {goal: "{{ inputs.goal }}"}}
- {id: agree, type: confirm, message: "Write {{ steps.plan.count }} tasks?", show: {waves: "{{ steps.plan.waves }}"}}
- {id: write, type: action, action: write_plan, inputs: {plan_id: "{{ steps.plan.plan_id }}"}}
- {id: again, type: action, action: write_plan, inputs: {plan_id: "{{ steps.plan.plan_id }}"}}
- {id: work, type: wait, tasks: "{{ steps.write.ids }}"}
- {id: see, type: action, action: load_results, inputs: {tasks: "{{ steps.write.ids }}"}}
"""


async def test_a_plan_by_the_agent_is_sent_back_and_then_written_once(bare_shop: Loom, pool: Pool) -> None:
    run = await begun(bare_shop, PLAN, "goal: {type: string}", {"goal": "Sign-in"})
    asked = await waits(bare_shop, run)
    assert "Sign-in" in asked["prompt"]
    bad = good_plan()
    bad["tasks"][2]["depends_on"] = ["nothing"]
    with pytest.raises(PlanError):
        await runs.answer(bare_shop, run.id, bad)
    back = await tools.workflow(bare_shop, "resume", run_id=run.id, inputs=bad)
    assert (back["status"], back["run_id"]) == ("sent_back", run.id)
    assert "nothing" in back["problems"][0]
    shown = await tools.workflow(bare_shop, "resume", run_id=run.id, inputs=good_plan())
    assert (shown["waits_for"], shown["message"]) == ("confirm", "Write 4 tasks?")
    assert [wave["count"] for wave in shown["show"]["waves"]] == [1, 2, 1]
    assert await pool.fetchval("select count(*) from tasks") == 0
    await runs.confirm(bare_shop, run.id, yes=True)
    run = await runs.advance(bare_shop, run.id)
    seen = await outputs(bare_shop, run)
    assert seen["again"] == seen["write"], "the same plan again is the same answer"
    assert await pool.fetchval("select count(*) from tasks") == len(seen["write"]["ids"]) == 5
    while (claim := await bare_shop.claim()) is not None:
        await bare_shop.done(claim.task.id, {"did": claim.task.title})
    run = await runs.advance(bare_shop, run.id)
    assert run.status == "done"
    assert "Add the table users" in (await outputs(bare_shop, run))["see"]["text"]
    await holds(bare_shop)


# --- actions --------------------------------------------------------------------------------------------------------


async def test_actions_on_the_graph(loom: Loom) -> None:
    dead = await loom.create("dead")
    await loom.fail(dead.id, "broken", retry=False)
    steps = f"""
- {{id: make, type: action, action: create_tasks, inputs: {{tasks: [{{key: a, title: "First of {{{{ inputs.n }}}}"}}, {{title: Then, depends_on: [a]}}]}}}}
- {{id: why, type: action, action: load_failure, inputs: {{task_id: {dead.id}}}}}
- {{id: mend, type: action, action: resolve, inputs: {{id: {dead.id}, action: retry, note: "see {{{{ steps.make.ids | first }}}}"}}}}
- {{id: tell, type: action, action: send_message, inputs: {{to: "*", message: done}}}}
- {{id: see, type: action, action: load_results, inputs: {{tasks: ["{{{{ steps.make.ids | last }}}}", loom-00000000]}}}}
"""  # noqa: E501
    run = await begun(loom, steps, "n: {type: integer}", {"n": 2})
    assert run.status == "done", run.error
    seen = await outputs(loom, run)
    first, then = [(await loom.get(one)).task for one in seen["make"]["ids"]]
    assert (first.title, then.depends_on, seen["make"]["count"]) == ("First of 2", (first.id,), 2)
    assert seen["why"]["failures"][0]["message"] == "broken"
    assert seen["mend"] == {"id": dead.id, "status": "pending"}
    assert [one.text for one in (await loom.get(dead.id)).notes] == [f"see {first.id}"]
    assert seen["see"]["count"] == 1
    assert seen["see"]["text"] == f"1 blocked\n\n{then.id} (blocked) Then\nnull"
    await holds(loom)


async def test_work_that_lands_is_waited_for_until_it_has(loom: Loom) -> None:
    steps = """
- {id: make, type: action, action: create_tasks, inputs: {tasks: [{title: A}]}}
- {id: work, type: wait, tasks: "{{ steps.make.ids }}"}
- {id: see, type: action, action: load_results, inputs: {tasks: "{{ steps.make.ids }}"}}
"""
    run = await begun(loom, steps)
    claim = await loom.claim()
    assert claim is not None
    await landing.begin(loom, claim)
    await loom.done(claim.task.id, {"n": 1})
    entered = await landing.enter(loom, claim.task)
    assert (await runs.advance(loom, run.id)).status == "waiting"
    await landing.land(loom, entered)
    run = await runs.advance(loom, run.id)
    assert run.status == "done"
    told = (await outputs(loom, run))["see"]["text"]
    assert f"(done, landed on {landing.TARGET} as {landing.MERGED}) A" in told


async def test_results_that_are_too_many_are_counted(loom: Loom) -> None:
    made = await loom.apply_plan({"tasks": [{"title": f"One of many tasks, number {n}"} for n in range(3_000)]})
    await loom.done(made[0].id, {"text": "x" * 1_000})
    see = "- {id: see, type: action, action: load_results, inputs: {tasks: '{{ inputs.ids }}'}}"
    run = await begun(loom, see, "ids: {type: array}", {"ids": [one.id for one in made]})
    seen = (await outputs(loom, run))["see"]
    parts = seen["text"].split("\n\n")
    assert seen["count"] == 3_000
    assert parts[0] == "1 done, 2,999 pending"
    assert parts[1].endswith("xx… (1,012 characters)")
    assert len(parts[1]) < 200
    shown = parts[1:-1]
    assert all(task.id in part and task.title in part for task, part in zip(made, shown, strict=False))
    assert parts[-1] == f"… and {3_000 - len(shown):,} tasks more, which are not shown."
    assert 100_000 < len(seen["text"]) < 121_000


async def test_a_change_that_is_refused_leaves_nothing_behind(loom: Loom, pool: Pool) -> None:
    tasks = "[{title: One}, {title: Two, depends_on: [loom-00000000]}]"
    run = await begun(loom, f"- {{id: make, type: action, action: create_tasks, inputs: {{tasks: {tasks}}}}}")
    assert run.status == "failed"
    assert "loom-00000000" in str(run.error)
    assert await pool.fetchval("select count(*) from tasks") == 0


async def started_here(loom: Loom, directory: Path, steps: str, inputs: str = "", **given: Any) -> WorkflowRun:
    """A run of a workflow that is a trusted file of the project."""
    put(directory, source(steps, inputs))
    trust(directory)
    run = await runs.start(loom, loader.load(loom.config).get("trial"), given)
    return await runs.advance(loom, run.id)


async def test_commands(bare_shop: Loom, directory: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_SKILLS_API_KEY", "s3cret")
    script = 'cat; echo "$1" ${LOOM_SKILLS_API_KEY:-none} >&2; pwd; exit 3'
    words = f"[sh, -c, {json.dumps(script)}, sh, '{{{{ inputs.x }}}}']"
    hostile = "$(touch /tmp/never); `id` \x1b[31m"
    run = await started_here(
        bare_shop, directory, command(words, ", text: '{{ inputs.x }}', must_succeed: false"), "x: {}", x=hostile
    )
    assert run.status == "done", run.error
    seen = (await outputs(bare_shop, run))["run"]
    assert seen == {
        "status": 3,
        "out": f"$(touch /tmp/never); `id` [31m{directory.resolve()}",
        "err": "$(touch /tmp/never); `id` [31m none",
    }
    for failing, told in {
        "[sh, -c, echo this; echo that >&2; exit 3]": "The command sh ended with status 3: that",
        "[/no/such/program]": "The command /no/such/program cannot be started: No such file or directory",
        "['yes']": "The command yes was stopped: it printed more than 100,000 bytes",
        "[sh, -c, '{{ inputs.n }}']": "words must be a command and its arguments, each a text",
    }.items():
        run = await started_here(bare_shop, directory, command(failing), "n: {type: integer, default: 1}")
        assert run.status == "failed"
        assert told in str(run.error)


async def test_a_step_that_takes_too_long_fails_and_is_ended(bare_shop: Loom, directory: Path) -> None:
    words = "[sh, -c, 'sleep 60 & echo $$ $! > pids; wait']"
    run = await started_here(bare_shop, directory, command(words).replace("}}", "}, timeout: 2}"))
    assert (run.status, run.error) == ("failed", "run: It took longer than its timeout, 2 seconds.")
    assert [alive(pid) for pid in pids(directory / "pids")] == [False, False]


async def test_only_the_command_that_stands_here_is_run(bare_shop: Loom, directory: Path, pool: Pool) -> None:
    steps = f"{ASK}\n{command('[touch, here]')}"
    run = await started_here(bare_shop, directory, steps)
    put(directory, source(steps.replace("here", "there")))
    trust(directory)
    await runs.confirm(bare_shop, run.id, yes=True)
    run = await runs.advance(bare_shop, run.id)
    assert "is not the one that this run began with" in str(run.error)
    put(directory, source(steps))
    run = await runs.advance(bare_shop, run.id)
    assert "is not the one that this run began with" in str(run.error), "changed, it must be trusted anew"
    await pool.execute(
        "update workflow_runs set definition = replace(definition::text, 'here', 'injected')::jsonb where id = $1",
        run.id,
    )
    trust(directory)
    run = await runs.advance(bare_shop, run.id)
    assert "is not the one that this run began with" in str(run.error)
    assert not [name for name in ("here", "there", "injected") if (directory / name).exists()]
    await pool.execute(
        "update workflow_runs set definition = replace(definition::text, 'injected', 'here')::jsonb where id = $1",
        run.id,
    )
    assert (await runs.advance(bare_shop, run.id)).status == "done"
    assert (directory / "here").exists()


async def test_a_run_keeps_the_definition_that_it_began_with(bare_shop: Loom, directory: Path) -> None:
    run = await started_here(bare_shop, directory, f"{ASK}\n{SAY}")
    put(directory, source("- {id: other, type: confirm, message: Other?}"))
    await runs.confirm(bare_shop, run.id, yes=True)
    assert (await runs.advance(bare_shop, run.id)).status == "done"
    assert [one.body for one in (await bare_shop.inbox(agent_id="reader")).messages] == ["hello"]


async def test_characters_that_nobody_can_store_or_see(shop: Loom, directory: Path, model: Model) -> None:
    put(directory, SKILL, "shout.md", "skills")
    for said in ("\\ud800", "\\u0000", "\x1b[2J\u202e"):
        model.answers(f'{{"said": "{said}", "{said}": 1}}')
        run = await begun(shop, SHOUT, "words: {type: string, default: hi}")
        assert run.status == "failed"
        assert "unexpected" not in str(run.error)
        assert not texts.UNSEEN.search(str(run.error))


async def test_an_output_has_a_limit(shop: Loom, directory: Path, model: Model) -> None:
    put(directory, SKILL, "shout.md", "skills")
    model.answers({"said": "x" * 1_000_001})
    run = await begun(shop, SHOUT, "words: {type: string, default: hi}")
    assert run.status == "failed"
    assert "the limit is 1,000,000" in str(run.error)


# --- who carries it on ----------------------------------------------------------------------------------------------


async def test_a_run_is_carried_on_by_one(shop: Loom, open_loom: Opener, directory: Path, model: Model) -> None:
    put(directory, SKILL, "shout.md", "skills")
    model.answers(LOUD).hold()
    going = asyncio.create_task(begun(shop, f"{SHOUT}\n{MAKE}", "words: {default: hi}"))
    await until(lambda: bool(model.prompts))
    (run,) = await runs.newest(shop)
    other = await open_loom("other")
    assert run.lease_expires_at is not None
    with pytest.raises(ClaimConflictError) as caught:
        await runs.advance(other, run.id)
    assert f"{run.id} is carried on by planner, whose lease ends at" in str(caught.value)
    assert (caught.value.exit_code, caught.value.code) == (3, "claim_conflict")
    with pytest.raises(ClaimConflictError):
        await runs.advance(other, run.id, from_step="shout")
    model.go_on()
    assert (await going).status == "done"


async def test_who_has_lost_the_lease_stops_without_writing(
    shop: Loom, directory: Path, model: Model, clock: Clock, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    put(directory, SKILL, "shout.md", "skills")
    model.answers(LOUD).hold()
    late = asyncio.create_task(begun(shop, f"{SHOUT}\n{MAKE}\n{MAKE.replace('make', 'more')}", "words: {default: hi}"))
    await until(lambda: len(model.prompts) == 1)
    (run,) = await runs.newest(shop)
    await clock(31)
    assert await runs.movable(shop) == [run.id]
    told = Told()
    newer = asyncio.create_task(runs.advance(shop.beside(agent="newer"), run.id, tell=told))
    await until(lambda: len(model.prompts) == 2)
    model.go_on()
    with pytest.raises(RunLostError, match="was taken over or cancelled by somebody else"):
        await late
    run = await newer
    assert run.status == "done"
    assert told[0].phase == "again"
    assert "it was interrupted before" in told[0].note
    seen = await rows(shop, run)
    assert {row.agent for row in seen.values()} == {"newer"}
    assert [row.attempt for row in seen.values()] == [2, 1, 1]
    assert await pool.fetchval("select count(*) from tasks") == 2
    assert not caplog.records, "to lose a lease is nothing to be logged"


async def test_a_lease_is_renewed_only_by_who_has_it(loom: Loom, clock: Clock) -> None:
    """Not by a holder before, not after it was given back, and not when the run was cancelled."""
    run = await runs.start(loom, flow(ASK), {})
    first = await loom.transact(lambda tx: workflow_runs.acquire(tx, run, "a", None, 30))
    second = await loom.transact(lambda tx: workflow_runs.acquire(tx, run, "a", None, 30))
    with pytest.raises(RunLostError):
        await loom.transact(lambda tx: workflow_runs.held(tx, first))
    await clock(10)
    assert not await loom.transact(lambda tx: workflow_runs.renew(tx, first, 30))
    assert (await runs.look(loom, run.id))[0].lease_expires_at == second.lease_expires_at
    assert await loom.transact(lambda tx: workflow_runs.renew(tx, second, 30))
    assert (await runs.look(loom, run.id))[0].lease_expires_at != second.lease_expires_at
    await loom.transact(lambda tx: workflow_runs.move(tx, second, status=WorkflowRunStatus.RUNNING, free=True))
    assert await loom.transact(lambda tx: workflow_runs.renew(tx, second, 30))
    assert (await runs.look(loom, run.id))[0].lease_expires_at is None
    await loom.transact(lambda tx: workflow_runs.move(tx, second, status=WorkflowRunStatus.WAITING))
    with pytest.raises(RunLostError):
        await loom.transact(lambda tx: workflow_runs.held(tx, second))
    await runs.cancel(loom, run.id)
    assert not await loom.transact(lambda tx: workflow_runs.renew(tx, second, 30)), "it learns of that at once"


async def test_a_step_that_is_done_is_not_done_again_by_who_has_not_heard_of_it(loom: Loom) -> None:
    """Its answer was lost on the way, and the lease is still his."""
    run = await runs.start(loom, flow(f"{SAY}\n{ASK}"), {})
    taken = await loom.transact(lambda tx: workflow_runs.acquire(tx, run, "a", None, 30))
    first, again = (Record(loom, taken, "a", Told()) for _ in range(2))
    step = runs.step_at(taken)
    assert step is not None
    await first.begin(step, {})
    await first.finish(step, {})
    for write in (
        lambda: again.begin(step, {}),
        lambda: again.finish(step, {}),
        lambda: again.fail(step, "no"),
        again.complete,
    ):
        with pytest.raises(RunLostError):
            await write()
    assert await statuses(loom, run) == {"say": "done"}
    assert first.run.position == (await runs.look(loom, run.id))[0].position == 1


async def test_what_was_just_begun_is_left_to_who_began_it(loom: Loom, clock: Clock) -> None:
    run = await runs.start(loom, flow(ASK), {})
    assert await runs.movable(loom) == []
    await clock(6)
    assert await runs.movable(loom) == [run.id]


async def test_a_run_of_a_skill_ends_once(loom: Loom) -> None:
    begun_run = await loom.transact(
        lambda tx: skill_runs.begin(
            tx,
            skill="s",
            version="1",
            provider="p",
            model=None,
            agent="a",
            status=skill_runs.SkillRunStatus.RUNNING,
            inputs="{}",
            expects={},
        )
    )
    assert await loom.transact(lambda tx: skill_runs.finish(tx, begun_run.id, output='{"n": 1}')) is not None
    assert await loom.transact(lambda tx: skill_runs.finish(tx, begun_run.id, error="late")) is None


async def test_who_only_lost_time_goes_on(shop: Loom, directory: Path, model: Model, clock: Clock) -> None:
    """A lease that ran out and that nobody took counts still."""
    put(directory, SKILL, "shout.md", "skills")
    model.answers(LOUD).hold()
    late = asyncio.create_task(begun(shop, f"{SHOUT}\n{MAKE}", "words: {default: hi}"))
    await until(lambda: len(model.prompts) == 1)
    await clock(31)
    model.go_on()
    assert (await late).status == "done"


async def test_sixteen_at_once_and_each_action_is_done_once(open_loom: Opener, pool: Pool) -> None:
    looms = [await open_loom(f"agent-{number}") for number in range(4)]
    steps = "\n".join(MAKE.replace("make", f"make{number}").replace("Made", f"Made {number}") for number in range(5))
    run = await runs.start(looms[0], flow(steps), {})

    async def carry(number: int) -> str:
        try:
            return (await runs.advance(looms[number % 4], run.id)).status
        except (ClaimConflictError, WorkflowStateError) as error:
            return error.code

    ended = await asyncio.gather(*(carry(number) for number in range(16)))
    assert ended.count("done") == 1
    assert set(ended) <= {"done", "claim_conflict", "workflow_state"}
    assert await pool.fetchval("select count(*) from tasks") == 5
    assert await pool.fetchval("select count(*) from events where type = 'workflow.step_completed'") == 5
    await holds(looms[0])


async def test_connections_that_break_make_nothing_twice(loom: Loom, pool: Pool, clock: Clock) -> None:
    steps = "\n".join(MAKE.replace("make", f"make{number}").replace("Made", f"Made {number}") for number in range(30))
    run = await runs.start(loom, flow(steps), {})
    breaking = True

    async def breaks() -> None:
        while breaking:
            await asyncio.sleep(0.03)
            await pool.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1",
                f"loom/{loom.project_id}",
            )

    other = asyncio.create_task(breaks())
    broken = 0
    while run.status != "done":
        try:
            run = await runs.advance(loom, run.id)
        except DatabaseUnavailableError:
            broken += 1
            breaking = broken < 5
        except ClaimConflictError:  # the lease could not be given back
            await clock(31)
    breaking = False
    await other
    assert broken
    assert (
        await pool.fetchval("select count(*) from tasks")
        == await pool.fetchval("select count(distinct title) from tasks")
        == 30
    )
    await holds(loom)


async def test_runs_and_workers_side_by_side(open_loom: Opener) -> None:
    loom = await open_loom()
    epic = await loom.create("Epic", epic=True)
    steps = f"""
- {{id: make, type: action, action: create_tasks, inputs: {{tasks: [{{key: a, title: "A {{{{ inputs.n }}}}", parent: {epic.id}}}, {{title: "B {{{{ inputs.n }}}}", depends_on: [a], parent: {epic.id}}}]}}}}
- {{id: tell, type: action, action: send_message, inputs: {{to: "*", message: made}}}}
- {{id: work, type: wait, tasks: "{{{{ steps.make.ids }}}}", dead: fail}}
"""  # noqa: E501

    async def work(agent: str) -> None:
        while not over:
            if (claim := await loom.claim(agent_id=agent)) is None:
                await asyncio.sleep(0.01)
            else:
                await loom.done(claim.task.id, {"by": agent}, token=claim.task.claim_token)

    over: list[bool] = []
    workers = [asyncio.create_task(work(f"worker-{number}")) for number in range(3)]
    runs = [begun(loom, steps, "n: {type: integer}", {"n": number}, patient=True) for number in range(6)]
    ended = await asyncio.gather(*runs)
    over.append(True)
    await asyncio.gather(*workers)
    assert [run.status for run in ended] == ["done"] * 6
    await holds(loom)


async def test_events_are_recorded_and_announced(loom: Loom, redis_conn: Redis, pool: Pool) -> None:
    async with redis_conn.pubsub() as heard:
        await (await loom.relay()).rebuild_cache()
        await heard.subscribe(channels.workflow_channel(loom.project_id))
        run = await begun(loom, f"{SAY}\n{ASK}")
        await runs.confirm(loom, run.id, yes=False)
        await runs.advance(loom, run.id)
        await runs.confirm(loom, run.id, yes=True)
        await runs.advance(loom, run.id)
        told: list[dict[str, Any]] = []
        async with asyncio.timeout(30):
            while not told or told[-1].get("type") != "workflow.completed":
                message = await heard.get_message(ignore_subscribe_messages=True, timeout=1)
                told += [] if message is None else [json.loads(message["data"])]
    kinds = ["started", "step_completed", "waiting", "failed", "waiting", "step_completed", "completed"]
    assert [one["type"] for one in told] == [f"workflow.{kind}" for kind in kinds]
    assert {(one["run"], one["workflow"]) for one in told} == {(run.id, "trial")}
    assert [one["waits"] for one in told if "waits" in one] == ["for a yes"] * 2
    records = await pool.fetch("select type, agent, data from events where type like 'workflow.%' order by id")
    assert [record["type"] for record in records] == [f"workflow.{kind}" for kind in kinds]
    assert {record["agent"] for record in records} == {"tester"}
    assert json.loads(records[3]["data"])["error"] == "tester said no."


async def test_every_action_is_named_where_it_is_needed() -> None:
    assert {name for name, one in actions.ACTIONS.items() if one.change and one.look} == set()
    assert {name for name, one in actions.ACTIONS.items() if not one.change and not one.look} == {"plan"}
