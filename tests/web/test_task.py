"""A task's page, of work that workers have really done: its parts, what it used, printed and changed, and what was said
about it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from loom.bus.events import Event, EventType
from loom.graph.front import Loom
from loom.graph.model.principals import Principal, Role
from loom.graph.store.proofs import Proof
from loom.web import task
from loom.web.attempts import attempts, together
from tests.orchestration.conftest import Project, project_loom
from tests.orchestration.test_ends import Agent, Shift, claude, place
from tests.orchestration.test_landing import Shop, landing, shop
from tests.orchestration.test_runners import result
from tests.web.conftest import Board

__all__ = ["claude", "place", "project_loom", "shop"]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
async def loom(shop: Shop, project_loom: Project) -> Loom:
    """A project in a repository whose work lands once its check is green."""
    return landing(project_loom("you"))


async def test_work_that_has_landed_is_told_with_what_it_used_printed_and_changed(
    web: Board, loom: Loom, claude: Agent, project_loom: Project
) -> None:
    epic = await loom.create("Numbers & more", epic=True)
    one = await loom.create("Make one", parent_id=epic.id)
    claude.plays(
        {"events": [result(result='Red.\n{"a": 1}')], "run": "touch one.bug"},
        {"events": [result(result='Green.\n{"a": 2}')], "run": "rm one.bug; echo 1 > one.txt"},
    )
    async with asyncio.timeout(60):
        await Shift(landing(project_loom()), "claude", land=True).workers.run()
    assert (await loom.get(one.id)).task.status == "done"
    page = await web.get(f"/tasks/{one.id}")
    assert f'in <a href="/tasks/{epic.id}" dir="auto">Numbers &amp; more</a>' in page
    for words in ("12,240 tokens in", "600 tokens out", "$0.03", "<dt>Used</dt>", "large"):
        assert words in page, words
    for part in ("queued", "running", "proving", "landing"):
        assert f'<i class="dot {part}"></i>' in page
    assert 'aria-label="The end of the log"' in page
    assert "numbers is red" in page
    changed = await web.get(f"/tasks/{one.id}/diff")
    assert '<span class="add">+1</span>' in changed
    assert '<span class="file">diff --git a/one.txt b/one.txt</span>' in changed
    assert '<span class="add">+++' not in changed
    assert "attempt.ended" in await web.get("/events")


async def test_what_agents_wrote_to_each_other_about_it_is_read_by_whoever_may(web: Board, loom: Loom) -> None:
    made = await loom.create("Paint the <wall>")
    await loom.send("ada", "Which <b>colour</b>?", thread_id=made.id, agent_id="bob")
    await loom.note(made.id, "The left one.")
    page = await web.get(f"/tasks/{made.id}")
    assert "bob to ada" in page
    assert "Which &lt;b&gt;colour&lt;/b&gt;?" in page
    events = await web.get("/events")
    assert "bob to ada" in events.replace(" \n", " ")
    assert "Paint the &lt;wall&gt;</a>" in events
    sent, *_ = [row for row in (await web.client.get("/events.json")).json()["events"] if row["type"] == "message.sent"]
    assert sent["message"]["text"] == "Which <b>colour</b>?"
    assert "Which &lt;b&gt;colour" in await web.get(f"/events?at={sent['position']}")
    web.let_in[""] = loom.beside(principal=Principal("eve", Role.PLANNER))
    for path in (f"/tasks/{made.id}", "/events", "/events.json", f"/events?at={sent['position']}"):
        assert "colour" not in await web.get(path)


def event(kind: EventType, minute: float, status: str | None = None, token: int | None = None, **data: Any) -> Event:
    at = NOON + timedelta(minutes=minute)
    return Event(kind, "loom-00000001", status, token=token, agent="ada", data=data, created_at=at)


def proof(begun: float, ended: float) -> Proof:
    values = dict.fromkeys(Proof.__slots__)
    times = {"started_at": NOON + timedelta(minutes=begun), "ended_at": NOON + timedelta(minutes=ended)}
    return Proof(**values | times)  # type: ignore[arg-type]


def test_an_attempt_that_was_sent_back_is_told_part_by_part() -> None:
    history = [
        event(EventType.TASK_CREATED, 0, "pending"),
        event(EventType.TASK_UPDATED, 1, "pending"),
        event(EventType.TASK_CLAIMED, 2, "claimed", 1),
        event(EventType.CLAIM_EXPIRED, 4, "pending", 1),
        event(EventType.TASK_CLAIMED, 5, "claimed", 2),
        event(EventType.TASK_LANDING, 10, "claimed", 2),
        event(EventType.LANDING_SENT_BACK, 12, "claimed", 2),
        event(EventType.TASK_LANDING, 20, "claimed", 2),
        event(EventType.TASK_DONE, 21, "done", 2),
        event(EventType.ATTEMPT_ENDED, 21, token=2, usage={"input_tokens": 5, "cost_usd": 0.5, "model": "m"}),
    ]
    first, second = attempts(history, [proof(18, 20), proof(8, 10)], NOON)
    assert [(one.kind, one.seconds / 60) for one in first.spans] == [("queued", 2), ("running", 2)]
    assert (first.ended, first.used) == ("lapsed", {})
    assert [(one.kind, one.seconds / 60) for one in second.spans] == [
        ("queued", 1), ("running", 3), ("proving", 2), ("landing", 2), ("running", 6), ("proving", 2), ("landing", 1),
    ]  # fmt: skip
    assert second.ended == "done"
    assert together([first.used, second.used, {"input_tokens": 3}]) == {"input_tokens": 8, "cost_usd": 0.5}


def test_a_sign_before_the_first_hunk_of_a_file_is_no_line_of_it() -> None:
    told = list(task.diff_lines("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n c\n"))
    assert [kind for kind, _ in told] == ["file", "", "", "place", "cut-out", "add", ""]
