"""Running skills: by a command that plays a model, by the calling agent, over MCP and on the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client

from loom import replies
from loom.config import LoomConfig
from loom.db.connection import Pool
from loom.exceptions import (
    AnswerError,
    ForbiddenError,
    InvalidInputError,
    LoomError,
    ProviderError,
    RunLostError,
    RunNotFoundError,
)
from loom.graph.front import Loom
from loom.graph.model.principals import Principal, Role
from loom.mcp.server import build
from loom.skills import answers, asking, loader, tools
from loom.skills.commands import CommandProvider
from loom.workflows.asking import begun_before
from tests.cli.conftest import Cli
from tests.skills.conftest import Model
from tests.waiting import until

TASK = {"task": {"title": "Add POST /login"}}
GOOD = {"done_when": "a wrong password gets 401", "checks": [{"check": "POST /login", "expect": "401"}]}


# --- providers ------------------------------------------------------------------------------------------------------


async def test_an_answer_is_checked_and_recorded(shop: Loom, model: Model, pool: Pool) -> None:
    model.answers(GOOD)
    reply = await tools.skill(shop, "define_done", TASK)
    assert (reply["status"], reply["output"]) == ("done", GOOD)
    (row,) = await pool.fetch("select * from skill_runs")
    assert row["id"] == reply["run_id"]
    assert json.loads(row["inputs"])["task"] == TASK["task"]
    assert (row["status"], row["agent"], row["asked"], row["skill_version"]) == ("done", "planner", 1, "1.0.0")
    assert row["seconds"] > 0
    assert "Add POST /login" in model.prompts[0]


async def test_a_wrong_answer_goes_back_once_with_what_was_wrong(shop: Loom, model: Model, pool: Pool) -> None:
    model.answers({"done_when": "short", "extra": 1}, f"```json\n{json.dumps(GOOD)}\n```")
    assert (await tools.skill(shop, "define_done", TASK))["output"] == GOOD
    second = model.prompts[1]
    for part in ("'checks' is a required property", "output.done_when", "extra", "your answer"):
        assert part in second
    assert await pool.fetchval("select asked from skill_runs") == 2


async def test_two_wrong_answers_are_an_error(shop: Loom, model: Model, pool: Pool) -> None:
    bad = ("", "I cannot do that.", '{"done_when": ', "[1, 2]", '{"done_when": "x"}', "{" * 5000)
    for said in bad:
        model.answers(said)
        with pytest.raises(AnswerError, match="not what define_done asks for") as caught:
            await tools.skill(shop, "define_done", TASK)
        assert caught.value.next_step == "Run it again, or choose another model."
    rows = await pool.fetch("select status, error, asked from skill_runs")
    assert [(row["status"], row["asked"]) for row in rows] == [("failed", 2)] * len(bad)
    assert all("not what define_done asks for" in row["error"] for row in rows)


async def test_a_provider_that_fails_is_recorded(shop: Loom, pool: Pool, tmp_path: Path) -> None:
    skill = loader.load(shop.config).get("define_done")
    with pytest.raises(ProviderError):
        await asking.run(shop, skill, TASK, CommandProvider("false"))
    with pytest.raises(ProviderError, match="5 MB"):
        await asking.run(shop, skill, TASK, CommandProvider("yes"))
    slow = asyncio.create_task(
        asking.run(shop, skill, TASK, CommandProvider(f"sh -c 'touch {tmp_path}/asked; sleep 60'"))
    )
    await until((tmp_path / "asked").exists)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    rows = await pool.fetch("select status, error from skill_runs order by created_at")
    assert [row["status"] for row in rows] == ["failed"] * 3
    assert "interrupted" in rows[2]["error"]


async def test_an_answer_to_a_run_that_somebody_has_ended_is_told_and_not_recorded(
    shop: Loom, model: Model, pool: Pool
) -> None:
    """As whoever takes a workflow over does with what its holder had begun."""
    model.answers(GOOD).hold()
    asked = asyncio.create_task(tools.skill(shop, "define_done", TASK))
    await until(lambda: model.prompts)
    run_id = await pool.fetchval("select id from skill_runs")
    with pytest.raises(RunNotFoundError, match=f"{run_id} is running and takes no answer"):
        await tools.skill(shop, None, run_id=run_id, output=GOOD)
    ended = await begun_before(shop, run_id)
    with pytest.raises(RunNotFoundError, match=f"{run_id} is failed and takes no answer"):
        await tools.skill(shop, None, run_id=run_id, output=GOOD)
    model.go_on()
    with pytest.raises(RunLostError, match=f"{run_id} was taken for interrupted"):
        await asked
    assert await asking.get(shop, run_id) == ended
    assert (ended.status, ended.error) == ("failed", "It was interrupted.")


async def test_a_missing_input_is_refused_before_anything_is_asked(shop: Loom, model: Model, pool: Pool) -> None:
    with pytest.raises(InvalidInputError, match="needs the input task"):
        await tools.skill(shop, "define_done", {})
    assert model.prompts == []
    assert await pool.fetchval("select count(*) from skill_runs") == 0


# --- the calling agent ----------------------------------------------------------------------------------------------


async def test_the_calling_agent_answers_over_mcp(bare_shop: Loom, pool: Pool) -> None:
    async with Client(build(bare_shop)) as client:

        async def call(**arguments: Any) -> dict[str, Any]:
            return dict((await client.call_tool("loom_skill", arguments)).structured_content or {})

        listed = await call()
        assert listed["count"] == 10
        opened = await call(name="define_done", inputs=TASK)
        assert opened["status"] == "open"
        assert "Add POST /login" in opened["prompt"]
        assert opened["expects"]["required"] == ["done_when", "checks"]
        refused = await client.call_tool(
            "loom_skill", {"run_id": opened["run_id"], "output": {"done_when": "x"}}, raise_on_error=False
        )
        assert refused.is_error
        answered = await call(run_id=opened["run_id"], output=GOOD)
        assert (answered["status"], answered["output"]) == ("done", GOOD)
        other = {**GOOD, "done_when": "something else entirely"}
        refused = await client.call_tool(
            "loom_skill", {"run_id": opened["run_id"], "output": other}, raise_on_error=False
        )
        assert refused.is_error
        assert f"{opened['run_id']} has its answer already; this one was not recorded." in str(refused.content)
        assert await call(run_id=opened["run_id"], output=GOOD) == answered, "the same one again is no other"
        assert (await call(run_id=opened["run_id"]))["status"] == "done"
    (row,) = await pool.fetch("select provider, status, asked from skill_runs")
    assert tuple(row) == ("agent", "done", 1)


async def test_of_answers_given_at_once_one_is_recorded_and_the_others_are_told(bare_shop: Loom) -> None:
    run_id = (await tools.skill(bare_shop, "define_done", TASK))["run_id"]
    given = [{**GOOD, "done_when": f"a wrong password gets 40{n} at once"} for n in range(6)]
    replies = await asyncio.gather(
        *(tools.skill(bare_shop, None, run_id=run_id, output=one) for one in given), return_exceptions=True
    )
    (stands,) = [reply for reply in replies if isinstance(reply, dict)]
    assert (await tools.skill(bare_shop, None, run_id=run_id))["output"] == stands["output"]
    assert all("not recorded" in str(reply) for reply in replies if reply is not stands)


async def test_a_principal_answers_only_runs_that_its_agents_began(bare_shop: Loom) -> None:
    ann = bare_shop.beside(principal=Principal("ann", Role.WORKER))
    for theirs in (bare_shop, bare_shop.beside(principal=Principal("bob", Role.PLANNER))):
        run_id = (await tools.skill(theirs, "define_done", TASK))["run_id"]
        with pytest.raises(ForbiddenError, match=f"was begun by {theirs.agent}"):
            await tools.skill(ann, None, run_id=run_id, output=GOOD)
        assert (await tools.skill(ann, None, run_id=run_id))["status"] == "open"
    own = (await tools.skill(ann, "define_done", TASK))["run_id"]
    assert (await tools.skill(ann, None, run_id=own, output=GOOD))["status"] == "done"


async def test_an_agent_gets_the_whole_prompt(bare_shop: Loom) -> None:
    """What the agent has passed itself is shortened, so that nothing of what it must do is."""
    for name in loader.load(bare_shop.config).all:
        skill = loader.load(bare_shop.config).get(name)
        long = {"string": "word " * 20_000, "object": {"title": "T"}, "array": [], "integer": 1}
        opened = await asking.start(bare_shop, skill, {one.name: long[one.type] for one in skill.inputs})
        assert len(opened.prompt) < replies.FIELD_CHARACTERS, name
        assert len(opened.run.inputs) == len(skill.inputs)


async def test_runs_that_are_not_there(bare_shop: Loom) -> None:
    with pytest.raises(RunNotFoundError):
        await asking.answer(bare_shop, "run-0000000000000000", GOOD)
    with pytest.raises(InvalidInputError, match="not the id of a run"):
        await asking.answer(bare_shop, "x", GOOD)
    with pytest.raises(InvalidInputError, match="no run_id"):
        await tools.skill(bare_shop, "define_done", TASK, output=GOOD)


async def test_skills_are_prompts(bare_shop: Loom) -> None:
    async with Client(build(bare_shop)) as client:
        prompts = {prompt.name: prompt for prompt in await client.list_prompts()}
        assert {"worker", "orchestrator", "define_done", "write_spec"} <= prompts.keys()
        arguments = {one.name: one.required for one in prompts["define_done"].arguments or ()}
        assert arguments == {"task": True, "commands": False, "goal": False}
        got = await client.get_prompt("define_done", {"task": json.dumps({"title": "Add it"})})
        assert "Add it" in got.messages[0].content.text


# --- reading answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        '{"a": 1}',
        '\ufeff \n{"a": 1}\n',
        'Sure!\n```json\n{"a": 1}\n```\nDone.',
        'Use {braces}:\n```\n{"a": 1}\n```',
        'The answer is {"a": 1}, as you asked.',
    ],
)
def test_answers_are_found_in_what_is_said(said: str) -> None:
    assert answers.read(said) == {"a": 1}


def test_answers_that_are_none() -> None:
    for said in ("", "no", "[1]", "{", '{"a": }', "{" * 100_000, '{"a": ' + "[" * 100_000, '{"a": ' + "9" * 5000 + "}"):
        with pytest.raises(AnswerError):
            answers.read(said)
    with pytest.raises(AnswerError, match="5 MB"):
        answers.read('{"a": "' + "x" * 5_000_000 + '"}')
    assert answers.problems({"a": float("nan")}, {"type": "object"})
    assert answers.problems({"a": "\x00"}, {"type": "object"})
    many = answers.problems({"a": ["x"] * 100}, {"properties": {"a": {"items": {"type": "integer"}}}})
    assert len(many) == answers.PROBLEMS_TOLD
    hostile = answers.problems({"a": "\x1b\u202e" + "x" * 9000}, {"properties": {"a": {"type": "integer"}}})
    assert len(hostile[0]) < 400
    assert "\u202e" not in hostile[0]


# --- the command line -----------------------------------------------------------------------------------------------


def test_skills_on_the_command_line(cli: Cli, tmp_path: Path) -> None:
    assert cli.ok("skill", "list")["count"] == 10
    assert "define_done" in cli.inside("skill", "list").out
    assert cli.ok("skill", "show", "define_done")["source"] == "built-in"
    assert "done_when" in cli.inside("skill", "show", "define_done").out
    (tmp_path / "task.json").write_text(json.dumps(TASK["task"]))
    opened = cli.ok(
        "skill", "run", "define_done", "--input", f"task=@{tmp_path / 'task.json'}", "--input", "goal=Sign-in"
    )
    assert "Sign-in" in opened["prompt"]
    wrong = cli.inside("skill", "run", opened["run_id"], "--output", "{}")
    assert wrong.code == 1
    assert "required property" in wrong.err
    assert "next: Correct it and answer again." in wrong.err
    for _ in range(2):
        assert cli.ok("skill", "run", opened["run_id"], "--output", json.dumps(GOOD))["status"] == "done"
    other = cli.inside("skill", "run", opened["run_id"], "--output", json.dumps({**GOOD, "done_when": "all is green"}))
    assert other.code == 1
    assert "not recorded" in other.err
    assert "all is green" not in json.dumps(cli.ok("skill", "run", opened["run_id"]))
    assert cli.inside("skill", "run", "nope").code == 1
    shown = cli.inside("skill", "run", opened["run_id"])
    assert "401" in shown.out


async def test_why_a_run_has_failed_is_shown(cli: Cli, pool: Pool) -> None:
    cli.ok("config", "set", "skills.command", "sh -c 'echo no key >&2; exit 3'")
    failed = cli.inside("skill", "run", "define_done", "--input", f"task={json.dumps(TASK['task'])}")
    assert (failed.code, "no key" in failed.err) == (1, True)
    shown = cli.inside("skill", "run", await pool.fetchval("select id from skill_runs")).out
    assert "failed" in shown.splitlines()[0]
    assert "no key" in shown.splitlines()[1]


def test_a_person_is_told_what_an_answer_must_look_like_and_how_to_give_inputs(cli: Cli) -> None:
    task = json.dumps(TASK["task"])
    opened = cli.inside("skill", "run", "define_done", "--input", f"task={task}").out
    schema = loader.load(LoomConfig()).get("define_done").outputs
    assert json.dumps(schema, separators=(",", ":"), ensure_ascii=False) in opened.splitlines()
    assert "--output JSON" in opened.splitlines()[-1]
    missing = cli.inside("skill", "run", "define_done")
    assert missing.err.splitlines()[0].endswith("needs the input task (object): The task: title, context.")
    assert missing.err.splitlines()[1] == "next: Pass --input task=VALUE."


async def test_errors_have_two_sentences(bare_shop: Loom) -> None:
    with pytest.raises(LoomError) as caught:
        await tools.skill(bare_shop, "no_such_skill")
    assert caught.value.code == "skill_not_found"
    assert caught.value.next_step


async def test_an_error_shows_an_agent_nothing_that_it_cannot_see(bare_shop: Loom, directory: Path) -> None:
    (directory / ".loom" / "skills").mkdir()
    (directory / ".loom" / "skills" / "greet.md").write_text(
        '---\nname: greet\ndescription: Greets.\ninputs: {who: {type: string, description: "Who\u202eever"}}\n'
        "outputs: {type: object}\n---\nHello {{ who }}\n"
    )
    async with Client(build(bare_shop)) as client:
        refused = await client.call_tool("loom_skill", {"name": "greet"}, raise_on_error=False)
    assert "needs the input who (string): Whoever. Pass who in inputs." in str(refused.content)
