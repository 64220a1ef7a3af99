"""What work has changed and printed, and a person's yes or no to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from loom.config import logs_dir
from loom.web.app import board
from tests.landing.conftest import place, state, yard
from tests.landing.yard import Yard
from tests.web.conftest import PATIENCE, Board, letting_in, served

__all__ = ["place", "state", "yard"]


@pytest.fixture
async def web(yard: Yard) -> AsyncIterator[Board]:
    """The board of a project in a repository."""
    async with (
        served(letting_in(board(), lambda: yard.loom)) as address,
        httpx2.AsyncClient(base_url=address, timeout=PATIENCE) as client,
    ):
        yield Board(address, client)


async def test_work_that_waits_for_a_yes_is_shown_with_its_diff_and_gets_it(web: Board, yard: Yard) -> None:
    task = await yard.queued({"one.txt": "<b>1</b>\n"}, "Make one", needs_yes=True, outside=["two.txt"])
    page = await web.get("/")
    for words in ("To land", "Make one", "two.txt", f'href="/tasks/{task.id}/diff"'):
        assert words in page
    diff = await web.get(f"/tasks/{task.id}/diff")
    assert '<span class="add">+&lt;b&gt;1&lt;/b&gt;</span>' in diff
    await web.post(f"/do/approve/{task.id}", back="/")
    assert "To land" not in await web.get("/")
    [queued] = (await yard.loom.landings()).queue
    assert queued.landing.approved_by == yard.loom.agent


async def test_work_is_sent_back_with_a_note(web: Board, yard: Yard) -> None:
    task = await yard.queued({"one.txt": "1\n"}, "Make one", needs_yes=True)
    await web.post(f"/do/refuse/{task.id}", note="Make two.", back=f"/tasks/{task.id}")
    [back] = (await yard.loom.landings()).sent_back
    assert "Make two." in f"{back.landing.reason} {back.landing.note}"
    assert "Sent back" in await web.get("/events")


async def test_what_a_command_printed_is_shown_as_text(web: Board, yard: Yard) -> None:
    task = await yard.loom.create("Work")
    await web.get(f"/tasks/{task.id}/log", 503)
    await web.get("/tasks/loom-00000000/log", 404)
    directory = logs_dir(yard.loom.config)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{task.id}-1.log").write_bytes(b"\x1b[31m<b>red</b>\x1b[0m postgres://me:secret@host\n")
    page = await web.get(f"/tasks/{task.id}/log")
    assert "&lt;b&gt;red&lt;/b&gt; postgres://me:***@host" in page
    await web.get(f"/tasks/{task.id}/diff", 503)


async def test_each_attempt_has_the_way_to_what_its_command_printed(web: Board, yard: Yard) -> None:
    task = await yard.loom.create("Work")
    directory = logs_dir(yard.loom.config)
    directory.mkdir(parents=True, exist_ok=True)
    tokens = []
    for words in ("first", "second", "none"):
        claim = await yard.loom.claim(task.id)
        assert claim is not None
        tokens.append(claim.task.claim_token)
        if words != "none":
            (directory / f"{task.id}-{claim.task.claim_token}.log").write_text(f"the {words} words\n")
        await yard.loom.release(task.id)
    page = await web.get(f"/tasks/{task.id}")
    linked = [f'href="/tasks/{task.id}/log?claim={token}"' in page for token in tokens]
    assert linked == [True, True, False]
    first = await web.get(f"/tasks/{task.id}/log?claim={tokens[0]}")
    assert "the first words" in first
    assert "the second words" not in first
    assert "the second words" in await web.get(f"/tasks/{task.id}/log"), "by default the newest that has one"
    await web.get(f"/tasks/{task.id}/log?claim={tokens[2]}", 503)
    await web.get(f"/tasks/{task.id}/log?claim=../../config", 422)
