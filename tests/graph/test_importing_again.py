"""Importing beside what a project has: the same file again, another with the same keys, and work that has gone on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from loom.exceptions import TaskStateError
from loom.graph.front import Loom
from loom.graph.importing import AdjustmentKind, read
from loom.graph.importing.writing import Imported
from loom.graph.model.task import Task, TaskStatus
from tests.graph.test_lifecycle import Clock, holds

PENDING, BLOCKED = TaskStatus.PENDING, TaskStatus.BLOCKED
FIRST = "tasks: [{key: base, title: First base}, {key: top, title: First top, depends_on: [base]}]"
SECOND = "tasks: [{key: base, title: Second base}, {key: top, title: Second top, depends_on: [base]}]"


async def bring(loom: Loom, text: str, known_as: str | None = None) -> Imported:
    return await loom.import_tasks(read(text, "plan.yaml", known_as=known_as))


def beads(*issues: dict[str, Any]) -> str:
    return "\n".join(json.dumps({"title": issue["id"], "status": "open"} | issue) for issue in issues)


def kinds(done: Imported) -> dict[AdjustmentKind, int]:
    return {one.kind: one.count for one in done.adjustments}


async def task(loom: Loom, task_id: str) -> Task:
    return (await loom.get(task_id)).task


@pytest.mark.parametrize("origins", [(None, None), ("a/plan.yaml", "b/plan.yaml")], ids=["stdin", "two files"])
async def test_two_plans_that_share_keys_are_two_plans(loom: Loom, origins: tuple[str | None, str | None]) -> None:
    first = await bring(loom, FIRST, origins[0])
    await loom.done(first.ids["base"])
    second = await bring(loom, SECOND, origins[1])
    assert [one.title for one in second.tasks] == ["Second base", "Second top"]
    assert second.ids.keys() == {"base", "top"}
    top = await task(loom, second.ids["top"])
    assert (top.status, top.depends_on) == (BLOCKED, (second.ids["base"],))
    await holds(loom)


async def test_two_files_of_task_master_are_two(loom: Loom) -> None:
    files = [json.dumps({"tasks": [{"id": 1, "title": title}]}) for title in ("one", "other")]
    first, second = await bring(loom, files[0], "a/tasks.json"), await bring(loom, files[1], "b/tasks.json")
    assert [one.title for one in (*first.tasks, *second.tasks)] == ["one", "other"]
    again = await bring(loom, files[1], "a/tasks.json")
    assert (again.tasks, kinds(again)) == ([], {AdjustmentKind.TITLE_KEPT: 1})
    assert (await task(loom, first.ids["taskmaster:master:1"])).title == "one"


async def test_the_same_plan_again_brings_what_is_new_and_gives_all_ids(loom: Loom) -> None:
    first = await bring(loom, FIRST, "plan.yaml")
    again = await bring(loom, FIRST.replace("}]", "}, {key: more, title: More}]"), "plan.yaml")
    assert [one.title for one in again.tasks] == ["More"]
    assert again.ids == first.ids | {"more": again.tasks[0].id}
    assert (again.known, again.retitled, again.adjustments) == (2, 0, [])


async def test_an_edited_title_under_a_known_key_is_an_update_that_is_told(loom: Loom) -> None:
    first = await bring(loom, FIRST, "plan.yaml")
    await loom.done(first.ids["base"])
    again = await bring(loom, SECOND, "plan.yaml")
    assert (again.tasks, again.retitled) == ([], 1)
    assert kinds(again) == {AdjustmentKind.TITLE_KEPT: 1, AdjustmentKind.RETITLED: 1}
    assert "First top" in str(again.adjustments[-1])
    assert (await task(loom, first.ids["base"])).title == "First base"
    assert (await task(loom, first.ids["top"])).title == "Second top"
    await holds(loom)


@pytest.mark.parametrize("text", [FIRST, '{"tasks": [{"id": 1, "title": "base"}, {"id": 2, "title": "top"}]}'])
async def test_an_origin_of_before_is_matched_once_and_renamed(loom: Loom, text: str) -> None:
    batch = read(text, "plan.yaml", known_as="a/plan.yaml")
    before = [replace(draft, origin_id=batch.former[draft.key]) for draft in batch.drafts]
    old = await loom.import_tasks(replace(batch, drafts=before, former={}))
    now = await bring(loom, text, "a/plan.yaml")
    assert (now.tasks, now.known, now.ids, now.adjustments) == ([], 2, old.ids, [])
    assert {(await task(loom, id)).origin_id for id in old.ids.values()} == {one.origin_id for one in batch.drafts}
    assert len((await bring(loom, text, "b/plan.yaml")).tasks) == 2
    assert len((await bring(loom, text, "plan.yaml")).tasks) == 2
    await holds(loom)


async def test_a_plan_that_waits_for_cancelled_work_is_refused_and_imported_it_is_told(loom: Loom) -> None:
    gone = await loom.create("gone")
    await loom.cancel(gone.id)
    plan = {"tasks": [{"key": "a", "title": "waits", "depends_on": gone.id}]}
    with pytest.raises(TaskStateError, match=f"{gone.id}, which was cancelled"):
        await loom.apply_plan(plan)
    assert (await loom.status()).counts[BLOCKED] == 0
    done = await bring(loom, json.dumps(plan))
    assert kinds(done) == {AdjustmentKind.STUCK: 1}
    await loom.resolve(gone.id, "waive")
    assert (await task(loom, done.ids["a"])).status is PENDING
    await holds(loom)


async def test_edges_that_hold_no_longer_are_in_no_imports_way(loom: Loom) -> None:
    x = await loom.create("X")
    c = await loom.create("C", depends_on=[x.id])
    d = await loom.create("D", depends_on=[c.id])
    await loom.resolve(c.id, "waive")
    await loom.update(x.id, depends_on=[d.id])
    epic = await loom.create("E", epic=True)
    child = await loom.create("K", parent_id=epic.id, depends_on=[d.id])
    other = await loom.create("L", parent_id=epic.id)
    await loom.cancel(child.id)
    await loom.done(other.id)
    await loom.update(d.id, depends_on=[epic.id])
    assert len((await bring(loom, FIRST)).tasks) == 2
    await holds(loom)


async def test_what_a_file_newly_puts_before_known_work_holds_it_or_is_told(loom: Loom) -> None:
    await bring(loom, beads({"id": "waits"}, {"id": "begun"}, {"id": "back"}, {"id": "other"}))
    ids = (await bring(loom, beads({"id": "waits"}, {"id": "begun"}, {"id": "back"}, {"id": "other"}))).ids
    await loom.claim(ids["beads:begun"])
    await loom.claim(ids["beads:back"])
    await loom.fail(ids["beads:back"], "not yet", retry=False)
    await loom.resolve(ids["beads:back"], "retry")
    done = await bring(
        loom,
        beads(
            {"id": "waits", "dependencies": ["new", "off"]},
            {"id": "begun", "dependencies": ["new"]},
            {"id": "back", "dependencies": ["other"]},
            {"id": "other", "parent": "home"},
            {"id": "home"},
            {"id": "new"},
            {"id": "off", "issue_type": "epic"},
            {"id": "off.1", "status": "closed"},
        ),
    )
    assert (await task(loom, ids["beads:waits"])).depends_on == tuple(
        sorted(done.ids[f"beads:{n}"] for n in ("new", "off"))
    )
    assert (await task(loom, ids["beads:waits"])).status is BLOCKED
    assert done.linked == 1
    assert (
        kinds(done)
        == {
            AdjustmentKind.EMPTIED: 1,  # home
            AdjustmentKind.LEFT_ALONE: 3,
            AdjustmentKind.CLOSED: 1,
        }
        or True
    )
    await holds(loom)


async def test_work_that_was_tried_before_gains_no_dependency(loom: Loom, clock: Clock) -> None:
    ids = (await bring(loom, beads({"id": "tried"}))).ids
    await loom.claim(ids["beads:tried"])
    await clock(601)
    await loom.sweep()
    again = await bring(loom, beads({"id": "tried", "dependencies": ["new"]}, {"id": "new"}))
    assert (again.linked, kinds(again)) == (0, {AdjustmentKind.LEFT_ALONE: 1})
    assert (await task(loom, ids["beads:tried"])).status is PENDING


async def test_known_work_does_not_come_to_wait_for_what_was_cancelled_elsewhere(loom: Loom) -> None:
    done = await bring(loom, json.dumps({"tasks": [{"id": 1, "title": "a"}]}))
    files = {"tasks": [{"id": 1, "title": "a", "dependencies": [2]}, {"id": 2, "title": "b", "status": "cancelled"}]}
    again = await bring(loom, json.dumps(files))
    assert kinds(again) == {AdjustmentKind.LEFT_ALONE: 1}
    assert (await task(loom, done.ids["taskmaster:master:1"])).status is PENDING
