"""Deferrals: what is not to be done yet is held like by a question, and asks nobody."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loom import replies
from loom.exceptions import InvalidInputError, TaskStateError
from loom.graph.front import Loom
from loom.graph.importing import read
from loom.graph.model.task import TaskStatus
from loom.graph.store import diagnoses, escalations
from loom.graph.store.escalations import EscalationKind
from loom.orchestration.workers.left import left_over
from tests.graph.test_lifecycle import holds

PENDING, BLOCKED, CANCELLED = TaskStatus.PENDING, TaskStatus.BLOCKED, TaskStatus.CANCELLED


@pytest.fixture
async def ids(loom: Loom) -> dict[str, str]:
    """A deferred task with a dependent, and a deferred epic with two children, by title."""
    issues: list[dict[str, Any]] = [
        {"id": "later", "status": "deferred"},
        {"id": "after", "dependencies": ["later"]},
        {"id": "epic", "issue_type": "epic", "status": "blocked"},
        {"id": "epic.1"},
        {"id": "epic.2"},
    ]
    text = "\n".join(json.dumps({"title": issue["id"], "status": "open"} | issue) for issue in issues)
    done = await loom.import_tasks(read(text, "issues.jsonl"))
    return {task.title: task.id for task in done.tasks}


async def statuses(loom: Loom, ids: dict[str, str], *titles: str) -> list[TaskStatus]:
    return [(await loom.get(ids[title])).task.status for title in titles]


async def test_a_task_is_put_off_once(loom: Loom, ids: dict[str, str]) -> None:
    with pytest.raises(TaskStateError, match="is put off already"):
        await loom.defer(ids["later"])
    await loom.defer(ids["after"])
    assert len(await loom.deferrals()) == 3
    await holds(loom)


async def test_what_is_deferred_is_offered_to_nobody_and_asks_nobody(loom: Loom, ids: dict[str, str]) -> None:
    assert await loom.claim() is None
    assert await statuses(loom, ids, "later", "after", "epic.1") == [BLOCKED] * 3
    for title in ("later", "epic.1"):
        with pytest.raises(TaskStateError, match=r"waits for esc-\w+ \(deferred\)") as caught:
            await loom.claim(ids[title])
        assert "retry" in str(caught.value.next_step)
    (waits,) = (await loom.get(ids["epic.1"])).blockers
    assert (waits.question, waits.via) == ("deferred", ids["epic"])
    assert await loom.escalations() == []
    assert {(one.task_id, one.kind) for one in await loom.deferrals()} == {
        (ids[title], EscalationKind.DEFERRED) for title in ("later", "epic")
    }
    assert await loom.take_escalation() is None
    assert not await loom.look(lambda connection: diagnoses.any_pending(connection, loom.project_id))
    status = await loom.status()
    assert (status.open_escalations, status.deferred) == (0, 2)
    assert "2 deferred" in replies.nothing_ready(status)["waiting_for"]
    assert not (await loom.wait("escalation", timeout=0)).changed
    await holds(loom)


async def test_an_id_that_is_taken_is_drawn_anew(
    loom: Loom, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = (await loom.deferrals())[0].id.removeprefix("esc-")
    drawn = iter([taken, "0000000a", "0000000b"])
    monkeypatch.setattr("secrets.token_hex", lambda _: next(drawn))
    await loom.transact(lambda tx: escalations.defer(tx, {ids["epic.1"]: "one", ids["epic.2"]: "two"}, by=None))
    found = {one.id: one.message for one in await loom.deferrals()}
    assert (found["esc-0000000a"], found["esc-0000000b"]) == ("two", "one")


async def test_retry_puts_a_deferred_task_into_play(loom: Loom, ids: dict[str, str]) -> None:
    outcome = await loom.resolve(ids["later"], "retry", note="It is time.")
    assert (outcome.task.status, outcome.unblocked) == (PENDING, (ids["later"],))
    await loom.done(ids["later"])
    assert await statuses(loom, ids, "after") == [PENDING]
    assert [one.task_id for one in await loom.deferrals()] == [ids["epic"]]
    await holds(loom)


async def test_retry_of_a_deferred_epic_lets_its_children_go(loom: Loom, ids: dict[str, str]) -> None:
    (deferral,) = [one for one in await loom.deferrals() if one.task_id == ids["epic"]]
    outcome = await loom.resolve(deferral.id, "retry")
    assert outcome.task.status is TaskStatus.EPIC
    assert set(outcome.unblocked) == {ids["epic.1"], ids["epic.2"]}
    await holds(loom)


async def test_a_deferral_is_answered_by_nobody(loom: Loom, ids: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match="no open question"):
        await loom.resolve(ids["later"], "answer", note="Yes.")
    with pytest.raises(TaskStateError, match="is an epic"):
        await loom.resolve(ids["epic"], "reassign", agent_id="bob")
    given = await loom.resolve(ids["later"], "reassign", agent_id="bob")
    assert (given.task.status, given.task.assignee) == (TaskStatus.CLAIMED, "bob")
    await holds(loom)


async def test_cancelling_a_deferred_epic_ends_its_deferral(loom: Loom, ids: dict[str, str]) -> None:
    await loom.cancel(ids["epic"])
    assert await statuses(loom, ids, "epic", "epic.1", "epic.2") == [CANCELLED] * 3
    assert [one.task_id for one in await loom.deferrals()] == [ids["later"]]
    await holds(loom)


async def test_an_epic_that_closes_while_it_is_deferred_is_so_no_more(loom: Loom, ids: dict[str, str]) -> None:
    await loom.cancel(ids["epic.1"])
    await loom.cancel(ids["epic.2"])
    assert await statuses(loom, ids, "epic") == [CANCELLED]
    assert [one.task_id for one in await loom.deferrals()] == [ids["later"]]
    await holds(loom)


async def test_a_deferred_task_may_be_given_children(loom: Loom, ids: dict[str, str]) -> None:
    child = await loom.create("child", parent_id=ids["later"])
    assert child.status is BLOCKED
    outcome = await loom.resolve(ids["later"], "retry")
    assert outcome.unblocked == (child.id,)
    await holds(loom)


async def test_workers_end_where_only_deferred_work_is_left(loom: Loom, ids: dict[str, str]) -> None:
    left = await left_over(loom)
    assert left is not None
    why = {one.title: one.why for one in left}
    assert why["later"] == "deferred: Beads had it as deferred."
    assert why["epic"] == "deferred: Beads had it as blocked."
    assert why["after"] == f"waits for {ids['later']}"


async def test_an_export_keeps_what_holds_a_task(loom: Loom, ids: dict[str, str]) -> None:
    asked = await loom.create("asked")
    await loom.escalate(asked.id, "Which?")
    batch = read(json.dumps(await loom.export()), "export.json")
    assert {draft.title: draft.deferred for draft in batch.drafts if draft.deferred} == {
        "later": "Beads had it as deferred.",
        "epic": "Beads had it as blocked.",
        "asked": "It waited for an answer: Which?",
    }
