"""Notes: messages whose recipient is a task, shown with it, found by their words, and told to who waits for it."""

from __future__ import annotations

import asyncio
import json

import pytest

from loom import replies
from loom.config import LoomConfig
from loom.db.connection import Pool
from loom.exceptions import InvalidInputError, TaskNotFoundError
from loom.graph.front import Loom
from loom.graph.importing import read
from tests.conftest import Opener
from tests.graph.test_lifecycle import holds

OLD = {"at": "2026-01-02T03:04:05+00:00", "by": "ann", "text": "see a.py"}


async def test_a_note_is_shown_with_its_task_and_with_its_claim(loom: Loom) -> None:
    task = await loom.create("A", context={"k": 1})
    sent = await loom.note(task.id[5:], "look in b.py", agent_id="ann")
    assert (sent.recipient, sent.thread_id, sent.sender) == (task.id, task.id, "ann")
    await loom.send(task.id, "and in c.py")
    claim = await loom.claim(task.id)
    assert claim is not None
    told = replies.claimed(claim)
    assert [(one["by"], one["text"]) for one in told["notes"]] == [("ann", "look in b.py"), ("tester", "and in c.py")]
    found = await loom.get(task.id)
    assert replies.detail(found)["notes"] == told["notes"]
    assert [one.type for one in found.history[1:3]] == ["task.noted", "task.noted"]
    assert found.history[2].data == {"message": sent.id, "text": "look in b.py"}
    await loom.done(task.id)
    await loom.note(task.id, "well done")
    assert [one.text for one in (await loom.get(task.id)).notes][-1] == "well done"
    await holds(loom)


async def test_what_is_no_task_gets_no_note(loom: Loom) -> None:
    for refused in (loom.note("loom-00000000", "hello"), loom.send("loom-00000000", "hello")):
        with pytest.raises(TaskNotFoundError):
            await refused
    task = await loom.create("A")
    with pytest.raises(InvalidInputError):
        await loom.note(task.id, " ")


async def test_nobody_is_named_like_a_task(loom: Loom, config: LoomConfig) -> None:
    task = await loom.create("A")
    for name in (task.id, task.id.upper()):
        with pytest.raises(InvalidInputError, match="is a task's id, which no agent is named like"):
            await loom.claim(task.id, agent_id=name)
        with pytest.raises(InvalidInputError, match="which no agent is named like"):
            Loom(config, agent=name)
    assert (await loom.inbox(thread_id=task.id)).messages == []


async def test_notes_that_an_earlier_version_kept_in_the_context_are_read_on(loom: Loom) -> None:
    task = await loom.create("A", context={"k": 1, "notes": [OLD]})
    other = await loom.create("B", context={"notes": "as Beads has them"})
    await loom.note(task.id, "and b.py")
    told = replies.detail(await loom.get(task.id))
    assert [one["text"] for one in told["notes"]] == ["see a.py", "and b.py"]
    assert told["context"] == {"k": 1}
    assert "notes" not in replies.detail(await loom.get(other.id))
    assert replies.detail(await loom.get(other.id))["context"] == {"notes": "as Beads has them"}


async def test_notes_are_searched_and_go_along_with_an_export(loom: Loom, open_loom: Opener) -> None:
    task = await loom.create("A")
    assert (await loom.find("turnips")).tasks == []
    await loom.note(task.id, "the turnips are in the cellar")
    assert [one.id for one in (await loom.find("turnip")).tasks] == [task.id]
    text = json.dumps(await loom.export())
    assert "turnips" in text
    batch = read(text.replace(loom.project_id, "elsewhere"), "export.json")
    (brought,) = (await loom.import_tasks(batch)).tasks
    assert [one.text for one in (await loom.get(brought.id)).notes] == ["the turnips are in the cellar"]


async def test_who_waits_for_a_task_is_told_of_a_note(loom: Loom, open_loom: Opener) -> None:
    task = await loom.create("A")
    since = (await loom.wait("task", task_id=task.id, timeout=0)).since
    waiting = asyncio.create_task(loom.wait("task", task_id=task.id, since=since, timeout=30))
    await (await open_loom("other")).note(task.id, "hello")
    seen = await waiting
    assert [one.type for one in seen.events] == ["task.noted"]
    assert (await loom.inbox()).messages == []


async def test_notes_written_at_once_are_all_kept(open_loom: Opener, pool: Pool) -> None:
    looms = [await open_loom(name) for name in ("ann", "bob")]
    task = await looms[0].create("A")
    await asyncio.gather(*(one.note(task.id, f"{number}") for number in range(4) for one in looms))
    assert len((await looms[0].get(task.id)).notes) == 8
