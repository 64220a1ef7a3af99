"""What does not go on by itself: each kind, what it holds up, the way out, and what it costs to look."""

from __future__ import annotations

import pytest

from loom import replies
from loom.cli.wording import people
from loom.db.connection import Pool
from loom.graph.front import Loom
from loom.graph.store import reading, sticking
from loom.graph.store.sticking import Cause
from loom.wording import worded
from tests.graph.test_landings import begun, enter
from tests.graph.test_scale import buffers, fill


async def test_each_kind_with_what_it_holds_up_and_the_way_out(loom: Loom) -> None:
    dead, asks, gone, off = [await loom.create(title) for title in ("dead", "asks", "gone", "off")]
    empty, alone = await loom.create("empty", epic=True), await loom.create("alone", epic=True)
    after = [await loom.create(f"after {one.title}", depends_on=[one.id]) for one in (dead, gone, empty)]
    await loom.create("later", depends_on=[after[0].id])
    await loom.fail(dead.id, "no way", retry=False)
    await loom.escalate(asks.id, "which?")
    await loom.cancel(gone.id)
    await loom.defer(off.id, reason="next month")
    lands = (await begun(loom, "lands")).task
    await enter(loom, lands, needs_yes=True)
    found = await loom.stuck()
    assert {(one.cause, one.id, one.text, one.held_up) for one in found} == {
        (Cause.DEAD, dead.id, "no way", 2),
        (Cause.CANCELLED, gone.id, "", 1),
        (Cause.CHILDLESS, empty.id, "", 1),
        (Cause.QUESTION, asks.id, "which?", 0),
        (Cause.DEFERRED, off.id, "next month", 0),
        (Cause.LANDING, lands.id, "", 0),
    }, f"nothing waits for {alone.id}"
    assert found[0].id == dead.id, "what holds up most stands first"
    ways = {one.cause: worded(one.way_out, people()) for one in found}
    escalations = {one.cause: one.escalation for one in found}
    assert ways == {
        Cause.DEAD: f"`loom resolve {dead.id} retry`",
        Cause.CANCELLED: f"`loom resolve {gone.id} waive`",
        Cause.CHILDLESS: f"`loom create TITLE --parent {empty.id}`",
        Cause.QUESTION: f"`loom resolve {escalations[Cause.QUESTION]} answer --note TEXT`",
        Cause.DEFERRED: f"`loom resolve {escalations[Cause.DEFERRED]} retry`",
        Cause.LANDING: f"`loom landing approve {lands.id}`",
    }
    for one in found:
        if one.cause in (Cause.DEAD, Cause.DEFERRED, Cause.CANCELLED):
            await loom.resolve(one.escalation or one.id, "waive" if one.cause is Cause.CANCELLED else "retry")
    await loom.create("a child", parent_id=empty.id)
    assert {one.cause for one in await loom.stuck()} == {Cause.QUESTION, Cause.LANDING}
    await loom.approve(lands.id)
    assert [one.cause for one in await loom.stuck()] == [Cause.QUESTION]


async def test_an_epic_that_is_put_off_holds_up_what_is_in_it(loom: Loom) -> None:
    first = await loom.create("first")
    epic = await loom.create("E", epic=True, depends_on=[first.id])
    await loom.create("child", parent_id=epic.id)
    await loom.fail(first.id, "no", retry=False)
    (root,) = await loom.stuck()
    assert (root.id, root.held_up) == (first.id, 2)


async def test_nothing_is_stuck(loom: Loom) -> None:
    await loom.create("goes on")
    assert replies.stuck(await loom.stuck())["note"] == "Everything goes on by itself."


async def test_of_very_many_that_wait_so_many_are_looked_at(loom: Loom, pool: Pool) -> None:
    await fill(loom, pool, 30_000)
    await pool.execute(
        "update tasks set status = 'failed', waiting = 0, dead_reason = 'no' where id in"
        " (select id from tasks where status = 'pending' limit 1000)"
    )
    await pool.execute("vacuum analyze tasks")
    read = await buffers(
        pool, sticking.ROOTS, loom.project_id, 20, sticking._LOOKED_AT, sticking.COUNTED, sticking._KNOWN
    )
    assert read <= 60_000


async def test_of_what_is_held_up_so_many_are_counted(loom: Loom, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = await loom.create("dead")
    for number in range(5):
        await loom.create(f"T{number}", depends_on=[dead.id])
    await loom.fail(dead.id, "no", retry=False)
    monkeypatch.setattr(sticking, "COUNTED", 3)
    monkeypatch.setattr(reading, "_HELD_UP", 2)
    assert [one.held_up for one in await loom.stuck()] == [3]
    assert [one.held_up_count for one in await loom.dead_letters()] == [2]
