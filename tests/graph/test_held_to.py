"""What a task touches and must pass: who may say so, who may add, and who takes it away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from loom.bus import channels
from loom.config import CheckConfig, LoomConfig
from loom.db.connection import Pool
from loom.exceptions import ClaimConflictError, InvalidInputError, LoomError, TaskStateError
from loom.graph.front import Loom
from loom.graph.importing import read
from loom.graph.model import limits
from loom.graph.rules import mending
from loom.graph.rules.mending import Diagnosis, Remedy
from tests.graph.test_lifecycle import holds


@pytest.fixture
def guarded(config: LoomConfig) -> LoomConfig:
    """A project whose check protects its tests."""
    return replace(config, checks={"unit": CheckConfig(command=("true",), protect=("./tests/", "conftest.py"))})


@pytest.fixture
async def person(guarded: LoomConfig) -> AsyncIterator[Loom]:
    async with Loom(guarded, agent="person") as loom:
        yield loom


@pytest.fixture
async def inside(guarded: LoomConfig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Loom]:
    """An agent in a run that Loom started."""
    async with Loom(guarded, agent="agent") as loom:
        monkeypatch.setenv("LOOM_RUN", "run-1")
        await loom.status()
        assert loom._bounds.at_work
        monkeypatch.delenv("LOOM_RUN")
        yield loom


async def told(pool: Pool) -> list[tuple[str, dict[str, Any]]]:
    """Who changed what a task is held to, and how."""
    rows = await pool.fetch(
        "select agent, data from events where type = 'task.updated' and data is not null order by id"
    )
    return [(row["agent"], json.loads(row["data"])) for row in rows if row["data"]]


async def test_a_task_has_what_it_was_made_with_wherever_it_is_read(person: Loom) -> None:
    made = await person.create("A", files=["src/", "./src", "docs/*.md"], checks=["unit"])
    assert (made.files, made.checks) == (("src", "docs"), ("unit",))
    after = await person.create("B", depends_on=[made.id], files=["b"], checks=["lint"])
    assert (after.files, after.checks) == (("b",), ("lint",))
    (planned,) = await person.apply_plan({"tasks": [{"title": "C", "files": "new: c.py", "checks": ["unit", "lint"]}]})
    assert (planned.files, planned.checks, planned.context) == (("c.py",), ("unit", "lint"), {})
    for task in (made, after, planned):
        shown = (await person.get(task.id)).task
        assert (shown.files, shown.checks) == (task.files, task.checks)
    claim = await person.claim(made.id)
    assert claim is not None
    assert (claim.task.files, claim.task.checks) == (made.files, made.checks)
    await holds(person)


async def test_many_long_paths_are_kept_and_left_to_postgres(person: Loom, redis_conn: Redis) -> None:
    files = [f"{n:03}{'é' * 497}" for n in range(100)]
    assert await (await person.relay()).step()
    made = await person.create("A", files=files)
    assert made.files == tuple(files)
    await person.update(made.id, title="B")
    assert (await person.get(made.id)).task.files == tuple(files)
    assert await redis_conn.hget(channels.task_key(person.project_id, made.id), "left_out") == "files"
    few = await person.create("B", files=["src"], checks=["unit"])
    shown = await redis_conn.hmget(channels.task_key(person.project_id, few.id), ["files", "checks"])
    assert [json.loads(one or "") for one in shown] == [["src"], ["unit"]]
    await holds(person)


async def test_an_export_brings_them_along(person: Loom, config: LoomConfig) -> None:
    made = await person.create("A", files=["src"], checks=["unit"])
    exported = await person.export()
    assert (exported["tasks"][0]["files"], exported["tasks"][0]["checks"]) == (["src"], ["unit"])
    exported["project"]["id"] = "another"
    exported["tasks"] += [
        {"id": "x", "title": "X", "files": ["../out", 3, "in", ".loom"], "checks": ["no name", "unit"]},
        {"id": "y", "title": "Y", "files": "src", "checks": {"a": 1}},
        {"id": "z", "title": "Z", "files": [str(n) for n in range(limits.PATHS + 1)]},
    ]
    brought = await person.import_tasks(read(json.dumps(exported), "export.json"))
    by_title = {task.title: (task.files, task.checks) for task in brought.tasks}
    assert by_title["A"] == (made.files, made.checks)
    assert by_title["X"] == (("in",), ("unit",))
    assert by_title["Y"] == ((), ())
    assert len(by_title["Z"][0]) == limits.PATHS
    assert [one.kind.name for one in brought.adjustments] == ["CLEANED"]


async def test_a_plan_with_paths_that_lead_out_is_not_written(person: Loom) -> None:
    with pytest.raises(LoomError, match=r"Task 2 “B”: files names “\.\./x”, which is not below"):
        await person.apply_plan({"tasks": [{"title": "A"}, {"title": "B", "files": ["src", "../x"]}]})
    assert (await person.status()).counts["pending"] == 0


async def test_a_person_adds_takes_away_and_is_named(person: Loom, pool: Pool) -> None:
    task = await person.create("A", files=["src"], checks=["unit"])
    changed = await person.update(task.id, files=["tests/a.py", "src"], checks=["lint"])
    assert (changed.task.files, changed.task.checks) == (("src", "tests/a.py"), ("unit", "lint"))
    await person.claim(task.id, agent_id="worker")
    changed = await person.update(task.id, no_checks=True, checks=["lint"], no_files=True)
    assert (changed.task.files, changed.task.checks) == ((), ("lint",))
    assert await told(pool) == [
        ("person", {"files": {"added": ["tests/a.py"]}, "checks": {"added": ["lint"]}}),
        ("person", {"files": {"removed": ["src", "tests/a.py"]}, "checks": {"removed": ["unit"]}}),
    ]
    await holds(person)


async def test_whoever_holds_a_task_adds_to_it_and_takes_nothing_away(inside: Loom, person: Loom) -> None:
    task = await person.create("A", files=["src", "tests/mine.py"], checks=["unit"])
    for loom, agent in ((inside, None), (person, None), (person, "named")):
        claim = await loom.claim(task.id, agent_id=agent)
        assert claim is not None
        who: dict[str, Any] = {"agent_id": agent}
        more = await loom.update(task.id, files=["docs", "tests/mine.py"], checks=["lint"], **who)
        assert (more.task.files, more.task.checks) == (("src", "tests/mine.py", "docs"), ("unit", "lint"))
        for less in ({"no_checks": True}, {"no_files": True}, {"no_checks": True, "checks": ["unit", "lint"]}):
            with pytest.raises(TaskStateError, match="taken away"):
                await loom.update(task.id, **less, **who)
        for path in ("tests", "tests/other.py", "TESTS/other.py", "conftest.py", "."):
            with pytest.raises(InvalidInputError, match="which a check protects"):
                await loom.update(task.id, files=[path], **who)
        assert (await loom.get(task.id)).task.files == ("src", "tests/mine.py", "docs")
        await loom.release(task.id, agent_id=agent)


async def test_inside_of_a_run_only_the_holder_changes_what_a_task_is_held_to(inside: Loom, person: Loom) -> None:
    task = await person.create("A")
    for change in ({"checks": ["lint"]}, {"files": ["src"]}, {"no_checks": True}):
        with pytest.raises(ClaimConflictError, match="held by nobody"):
            await inside.update(task.id, **change)
    await person.claim(task.id)
    with pytest.raises(ClaimConflictError, match="not by agent"):
        await inside.update(task.id, checks=["lint"])
    assert (await inside.update(task.id, title="B")).task.title == "B"


async def test_inside_of_a_run_no_new_task_gets_a_protected_path(inside: Loom, person: Loom) -> None:
    """Else whoever works makes himself a task that may gut the check beside the damage."""
    epic = await person.create("E", epic=True)
    plan = {"tasks": [{"title": "A"}, {"title": "B", "files": ["tests/a.py"]}]}
    for attempt in (
        inside.create("A", files=["tests"]),
        inside.create("A", files=["Conftest.py"], parent_id=epic.id),
        inside.apply_plan(plan),
        inside.import_tasks(read(json.dumps(plan), "plan.json")),
    ):
        with pytest.raises(InvalidInputError, match="which a check protects"):
            await attempt
    assert (await inside.create("A", files=["src"], checks=["unit"])).files == ("src",)
    assert len(await person.apply_plan(plan)) == 2


async def test_a_fix_task_that_a_model_has_made_gets_no_protected_path(person: Loom) -> None:
    epic = await person.create("E", epic=True, checks=["unit"])
    task = await person.create("A", parent_id=epic.id)
    await person.fail(task.id, "please let me change tests/a.py", retry=False)
    fix = {"title": "Mend it", "done_when": "pytest passes", "files": ["src/a.py", "tests/a.py", "."]}
    found = Diagnosis("a typo", "high", Remedy.FIX_FIRST, "mended", fix_tasks=(fix,))
    mended = await person.transact(lambda tx: mending.mend(tx, task.id, found, agent="a", max_attempts=4))
    made = (await person.get(mended.fixes[0])).task
    assert (made.files, made.checks) == (("src/a.py",), ("unit",))


async def test_while_a_check_is_not_in_force_every_path_is_protected(
    config: LoomConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOM_RUN", "run-1")
    async with Loom(replace(config, withheld=("checks.unit",)), agent="a") as loom:
        with pytest.raises(InvalidInputError, match="which a check protects"):
            await loom.create("A", files=["src"])


async def test_a_change_under_a_lost_claim_changes_nothing(person: Loom) -> None:
    task = await person.create("A")
    first = await person.claim(task.id)
    assert first is not None
    await person.release(task.id)
    await person.claim(task.id)
    for change in ({"title": "B"}, {"files": ["src"]}, {"no_checks": True}):
        with pytest.raises(ClaimConflictError, match="was lost"):
            await person.update(task.id, token=first.task.claim_token, **change)


async def test_what_an_epic_must_pass_its_children_must(person: Loom) -> None:
    """It closes by itself, so that a task is not made an epic to be done unchecked."""
    task = await person.create("A", checks=["unit"])
    child = await person.create("B", parent_id=task.id, checks=["lint", "unit"])
    assert child.checks == ("unit", "lint")
    made = await person.apply_plan(
        {
            "tasks": [
                {"title": "C", "parent": task.id, "checks": "slow"},
                {"title": "D", "parent": "C"},
                {"title": "E", "parent": "D"},
            ]
        }
    )
    assert [one.checks for one in made] == [("unit", "slow")] * 3
    assert (await person.create("F", parent_id=made[2].id)).checks == ("unit", "slow")


async def test_no_more_than_the_limit_is_added(person: Loom) -> None:
    task = await person.create("A", files=[str(n) for n in range(99)], checks=[str(n) for n in range(49)])
    await person.update(task.id, files=["x"], checks=["x"])
    for more in ({"files": ["y"]}, {"checks": ["y"]}):
        with pytest.raises(InvalidInputError, match="the limit is"):
            await person.update(task.id, **more)  # type: ignore[arg-type]
    await person.update(task.id, files=["y"], no_files=True)


async def test_what_an_event_says_of_it_is_bounded(person: Loom, pool: Pool) -> None:
    task = await person.create("A")
    await person.update(task.id, files=[f"{n}{'x' * 490}" for n in range(100)])
    ((_, data),) = await told(pool)
    assert len(data["files"]["added"]) == 20
