"""Idempotency keys: what is made under one is made once, also by two at once."""

from __future__ import annotations

import asyncio

import pytest

from loom.db.connection import Pool
from loom.exceptions import InvalidInputError
from loom.graph.front import Loom
from tests.conftest import Opener
from tests.graph.conftest import Gate, begun, waits
from tests.graph.test_lifecycle import holds, status


async def test_the_same_key_is_the_same_task(loom: Loom) -> None:
    first = await loom.create("first")
    task = await loom.create("task", key="k", depends_on=[first.id])
    await loom.done(first.id)
    again = await loom.create("another", key="k")
    assert (again.id, again.title, again.status) == (task.id, "task", "pending")
    assert (await loom.create("task", key="l")).id != task.id
    assert await loom.id_of("k") == task.id
    for wrong in ("", "x" * 151, "a\nb"):
        with pytest.raises(InvalidInputError, match="key"):
            await loom.create("task", key=wrong)
    with pytest.raises(InvalidInputError, match="limit is 150"):
        await loom.create("task", key="x" * 501)
    await holds(loom)


async def test_two_at_once_make_one_task(loom: Loom, open_loom: Opener, gate: Gate, pool: Pool) -> None:
    await gate.shut("new.type = 'task.created'")
    other = await open_loom()
    async with begun(loom.create("task", key="k")) as first:
        await waits(pool, first)
        async with begun(other.create("task", key="k")) as second:
            await waits(pool, second, 2)
            await gate.open()
            assert (await first).id == (await second).id
    await holds(loom)


async def test_a_plan_brings_only_what_was_added_to_it(loom: Loom, open_loom: Opener) -> None:
    plan = [{"key": "a", "title": "A"}, {"title": "B", "depends_on": ["a"]}]
    first = await loom.apply_plan({"tasks": plan}, key="k")
    await loom.done(first[0].id)
    longer = [*plan, {"title": "C", "depends_on": ["B", "a"]}]
    both = await asyncio.gather(*(one.apply_plan({"tasks": longer}, key="k") for one in (loom, await open_loom())))
    assert [one.id for one in both[0]] == [one.id for one in both[1]]
    assert [one.id for one in both[0][:2]] == [one.id for one in first]
    assert both[0][2].depends_on == tuple(sorted(one.id for one in first))
    assert await status(loom, both[0][2].id) == "blocked"
    assert len(await loom.apply_plan({"tasks": plan})) == 2
    assert len((await loom.find("")).tasks) == 5
    await holds(loom)


async def test_a_plan_brings_more_into_an_epic_that_it_has_made(loom: Loom) -> None:
    plan = [{"key": "e", "title": "E", "type": "epic"}, {"title": "A", "parent": "e"}]
    epic, _ = await loom.apply_plan({"tasks": plan}, key="k")
    longer = await loom.apply_plan({"tasks": [*plan, {"title": "B", "parent": "e"}]}, key="k")
    assert [one.parent_id for one in longer] == [None, epic.id, epic.id]
    await holds(loom)
