"""Every view says what a task waits for."""

from __future__ import annotations

import pytest

from loom import replies
from loom.exceptions import TaskStateError
from loom.graph.front import Loom
from loom.replies import drawing


async def why(loom: Loom, task_id: str) -> list[str]:
    return list(replies.detail(await loom.get(task_id)).get("waits_for", []))


async def test_its_own_dependencies_before_those_of_its_epics(loom: Loom) -> None:
    first, above = await loom.create("first"), await loom.create("above")
    epic = await loom.create("E", epic=True, depends_on=[above.id])
    inner = await loom.create("I", epic=True, parent_id=epic.id)
    task = await loom.create("T", parent_id=inner.id, depends_on=[first.id])
    told = [f"{first.id} (ready)", f"{above.id} (ready), as its epic {epic.id} does"]
    assert await why(loom, task.id) == told
    with pytest.raises(TaskStateError, match=f"{first.id} \\(ready\\), {above.id} \\(ready\\)"):
        await loom.claim(task.id)
    await loom.done(first.id)
    assert await why(loom, task.id) == told[1:]
    overview = replies.overview(await loom.status())
    assert [one["waits_for"] for one in overview["blocked"]] == [told[1:]]
    summary = drawing.summary(await loom.graph(root=task.id))
    assert above.id in summary["waves"][0]["tasks"][0]
    rows = drawing.rows(await loom.graph(root=task.id))
    assert rows["tasks"][0]["waits_for"] == told[1:]


async def test_a_question_and_the_time_of_a_retry(loom: Loom) -> None:
    asks, fails = await loom.create("asks"), await loom.create("fails")
    await loom.escalate(asks.id, "which?")
    (question,) = await loom.escalations()
    assert await why(loom, asks.id) == [f"{question.id} (question)"]
    outcome = await loom.fail(fails.id, "no")
    assert outcome.task.retry_at is not None
    (told,) = await why(loom, fails.id)
    assert told.startswith(str(outcome.task.retry_at.year))
    assert told.endswith("(tried again)")


async def test_an_epic_without_children_is_named_as_such(loom: Loom) -> None:
    epic = await loom.create("E", epic=True)
    task = await loom.create("T", depends_on=[epic.id])
    assert await why(loom, task.id) == [f"{epic.id} (epic, without children)"]
    child = await loom.create("C", parent_id=epic.id)
    assert await why(loom, task.id) == [f"{epic.id} (epic)"]
    assert await why(loom, child.id) == []


async def test_what_was_waived_is_waited_for_no_more(loom: Loom) -> None:
    gone, left = await loom.create("gone"), await loom.create("left")
    task = await loom.create("T", depends_on=[gone.id, left.id])
    await loom.resolve(gone.id, "waive")
    assert await why(loom, task.id) == [f"{left.id} (ready)"]


async def test_of_many_the_first_few(loom: Loom) -> None:
    many = [await loom.create(f"D{n}") for n in range(9)]
    task = await loom.create("T", depends_on=[one.id for one in many])
    assert len(await why(loom, task.id)) == 5


async def test_what_is_shown_beside_a_task_says_it_too(loom: Loom) -> None:
    first = await loom.create("first")
    epic = await loom.create("E", epic=True)
    child = await loom.create("C", parent_id=epic.id, depends_on=[first.id])
    last = await loom.create("last", depends_on=[child.id])
    waits = [f"{first.id} (ready)"]
    assert [one["waits_for"] for one in replies.detail(await loom.get(epic.id))["children"]] == [waits]
    assert [one["waits_for"] for one in replies.detail(await loom.get(last.id))["dependencies"]] == [waits]
    assert await loom.blockers([child.id[5:], first.id]) == {child.id: (await loom.get(child.id)).blockers}


async def test_the_waves_name_what_each_task_waits_for(loom: Loom) -> None:
    many = [await loom.create(f"D{n}") for n in range(5)]
    task = await loom.create("T", depends_on=[one.id for one in many])
    (line,) = drawing.summary(await loom.graph())["waves"][1]["tasks"]
    ids = sorted(one.id for one in many)
    assert line == f"{task.id} blocked: T (waits for {'; '.join(f'{one} (ready)' for one in ids[:3])}; and 2 more)"


async def test_an_epic_that_waits_says_so_at_a_glance(loom: Loom) -> None:
    first = await loom.create("first")
    epic = await loom.create("E", epic=True, depends_on=[first.id])
    (shown,) = replies.glance(await loom.glance())["epics"]
    assert (shown["id"], shown["waits_for"]) == (epic.id, [f"{first.id} (ready)"])
