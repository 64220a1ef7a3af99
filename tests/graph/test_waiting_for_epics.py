"""Whoever waits for an epic is told when a child of it ends."""

from __future__ import annotations

import asyncio

import pytest

from loom.config import LoomConfig
from loom.graph.front import Loom
from tests.conftest import Opener
from tests.graph.test_mirror import synced


@pytest.mark.parametrize("end", ["done", "cancelled", "dead_letter"])
async def test_a_childs_end_wakes_who_waits_for_its_epic(loom: Loom, open_loom: Opener, end: str) -> None:
    epic = await loom.create("epic", epic=True)
    task, _ = await loom.create("task", parent_id=epic.id), await loom.create("other", parent_id=epic.id)
    free = await loom.create("free")
    await synced(loom)
    since = (await loom.wait("task", task_id=epic.id, timeout=0)).since
    waiting = asyncio.create_task(loom.wait("task", task_id=epic.id, since=since, timeout=30))
    other = await open_loom("other")
    await other.done(free.id)
    await other.claim(task.id)
    assert not waiting.done()
    match end:
        case "done":
            await other.done(task.id)
        case "cancelled":
            await other.cancel(task.id)
        case _:
            await other.fail(task.id, "no", retry=False)
    seen = await waiting
    assert [(event.type, event.task_id) for event in seen.events] == [(f"task.{end}", task.id)]
    assert seen.task is not None
    assert (seen.task.id, seen.task.status) == (epic.id, "epic")


async def test_a_childs_end_is_worth_a_look_at_once(loom: Loom, config: LoomConfig) -> None:
    """Not only when it is looked again anyway."""
    from loom.bus import channels
    from loom.graph.cache.waiting import Awaited, Wait

    project = config.project_id or loom.project_id
    notice = '{"id": "loom-00000001", "status": "done", "version": 2}'
    for epic in (True, False):
        wanted = Wait(Awaited.TASK, "ann", "loom-00000002", epic)
        assert wanted.interest(project)(channels.updates_channel(project), notice) is epic
