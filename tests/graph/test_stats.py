"""How a project went lately: what is counted, how long it took, by what it is told apart, and what that costs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from loom import replies
from loom.db.connection import Pool
from loom.exceptions import InvalidInputError
from loom.graph.front import Loom
from loom.graph.store import proofs, stats
from tests.graph.test_landings import begun, enter, land
from tests.graph.test_scale import buffers, fill

Advance = Callable[[float], Awaitable[None]]


async def work_on(loom: Loom, title: str, agent: str, clock: Advance, **given: str) -> str:
    """A task that waits for a minute and takes two."""
    task = await loom.create(title, **given)  # type: ignore[arg-type]
    await clock(60)
    await loom.claim(task.id, agent_id=agent)
    await clock(120)
    return task.id


async def test_how_much_was_done_and_how_long_it_took(loom: Loom, clock: Advance) -> None:
    for number in range(3):
        await loom.done(await work_on(loom, f"T{number}", "ada", clock), agent_id="ada")
    await loom.fail(await work_on(loom, "fails", "bob", clock), "no", agent_id="bob")
    epic = await loom.create("E", epic=True)
    await loom.done(await work_on(loom, "child", "bob", clock, parent_id=epic.id), agent_id="bob")
    found = await loom.stats(seconds=86400)
    assert (found.total.done, found.total.failed, found.total.failure_rate) == (4, 1, 0.2), "an epic is no work"
    assert found.total.per_day == pytest.approx(4)
    assert found.total.waiting == pytest.approx(60, abs=5)
    assert found.total.working == pytest.approx(120, abs=5)
    assert (found.total.proving, found.total.landing, found.groups, found.partly) == (None, None, [], False)
    agents = (await loom.stats(by="agent")).groups
    assert [(one.group, one.done, one.failed) for one in agents] == [("ada", 3, 0), ("bob", 1, 1)]
    assert [(one.group, one.title, one.done, one.failed) for one in (await loom.stats(by="epic")).groups] == [
        ("", "", 3, 1),
        (epic.id, "E", 1, 0),
    ]
    await clock(30 * 86400)
    assert (await loom.stats()).total == stats.NOTHING
    assert (await loom.stats(seconds=40 * 86400)).total.done == 4


async def test_checks_and_the_queue_are_told_apart_from_the_work(loom: Loom, clock: Advance) -> None:
    claim = await begun(loom)
    task = claim.task
    await clock(600)
    number = await loom.transact(
        lambda tx: proofs.begin(tx, "unit", "hash", agent="a", tree="t", task_id=task.id, token=task.claim_token)
    )
    await loom.transact(lambda tx: proofs.close(tx, number, exit_status=0, seconds=200.0, tail=""))
    await loom.done(task.id)
    landing = await enter(loom, task)
    await clock(300)
    await land(loom, landing)
    total = (await loom.stats()).total
    assert total.done == 1
    assert total.working == pytest.approx(400, abs=5)
    assert total.proving == pytest.approx(200)
    assert total.landing == pytest.approx(300, abs=5)


async def test_by_runner_and_by_day(loom: Loom, clock: Advance) -> None:
    for runner, fails in (("claude", False), ("codex", False), ("codex", True)):
        task_id = await work_on(loom, runner, "ada", clock)
        token = (await loom.get(task_id)).task.claim_token
        await (loom.fail(task_id, "no", agent_id="ada") if fails else loom.done(task_id, agent_id="ada"))
        await loom.note_attempt(task_id, token, {"runner": runner}, agent_id="ada")
        await clock(86400)
    await loom.done(await work_on(loom, "by hand", "eve", clock), agent_id="eve")
    runners = {one.group: (one.done, one.failed) for one in (await loom.stats(by="runner")).groups}
    assert runners == {"claude": (1, 0), "codex": (1, 1), "": (1, 0)}
    days = (await loom.stats(by="day")).groups
    assert [one.done for one in days] == [1, 1, 0, 1]
    assert [one.group for one in days] == sorted(one.group for one in days), "the newest last"
    assert days[0].per_day == 1
    assert [one.group for one in (await loom.stats(by="day", limit=1)).groups] == [days[-1].group]
    shifted = (await loom.stats(by="day", offset=86400)).groups
    assert shifted[0].group == days[1].group
    assert replies.stats(await loom.stats(by="day", limit=1), "day")["groups"][0]["day"] == days[-1].group


async def test_only_what_there_is_to_tell_apart_by(loom: Loom) -> None:
    with pytest.raises(InvalidInputError, match="Use epic, agent, runner, day"):
        await loom.stats(by="colour")
    with pytest.raises(InvalidInputError, match="since"):
        await loom.stats(seconds=0)


async def test_of_very_many_the_newest_are_looked_at(loom: Loom, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(loom, pool, 20_000)
    await pool.execute(
        "update tasks set claimed_at = created_at, assignee = 'ada', done_at = loom_now() - make_interval(secs => n)"
        "  from (select id, row_number() over (order by id) as n from tasks where status = 'done') d"
        " where tasks.id = d.id"
    )
    await pool.execute("vacuum analyze tasks")
    monkeypatch.setattr(stats, "LOOKED_AT", 500)
    found = await loom.stats(seconds=86400, by="agent")
    assert (found.total.done, found.partly) == (500, True)
    assert (found.until - found.since).total_seconds() == pytest.approx(500, abs=5)
    query = stats.STATS.format(group="''", failed_group="''", order="f.name")
    assert await buffers(pool, query, loom.project_id, found.since, found.until, 500, 50) <= 500 * 6
    assert await buffers(pool, stats.SPAN, loom.project_id, 86400.0, 500) <= 60
