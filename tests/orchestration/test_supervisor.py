"""The supervisor: what it does and says, alone and beside others; and escalations, one handler at a time."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import yaml
from redis.asyncio import Redis

from loom.bus import channels
from loom.config import LoomConfig
from loom.db.connection import Pool
from loom.exceptions import DatabaseUnavailableError, ServersError
from loom.graph.front import Loom
from loom.graph.store import landing_targets
from loom.orchestration.supervisor import loop
from loom.orchestration.supervisor.loop import Supervisor
from tests.cli.conftest import Cli
from tests.conftest import Opener
from tests.graph.test_landings import TARGET, begin, begun, enter, land, queued, send_back
from tests.graph.test_lifecycle import holds
from tests.proxy import Door
from tests.waiting import until

Clock = Callable[[float], Awaitable[None]]


async def test_it_sweeps_retries_and_says_what_waits_for_a_person(loom: Loom, clock: Clock) -> None:
    supervisor = Supervisor(loom)
    lapsing, failing, asking = [await loom.create(title) for title in ("lapsing", "failing", "asking")]
    await loom.claim(lapsing.id)
    await loom.fail(failing.id, "not yet")
    await loom.escalate(asking.id, "Which one?")
    turn = await supervisor.turn()
    assert [one.message for one in turn.escalations] == ["Which one?"]
    assert not turn.swept.expired
    assert not turn.complete
    await clock(601)
    turn = await supervisor.turn()
    assert [task.id for task in turn.swept.expired] == [lapsing.id]
    assert [task.id for task in turn.swept.retried] == [failing.id]
    assert turn.escalations == ()  # told before
    await holds(loom)


async def test_it_flags_agents_that_do_not_renew(loom: Loom, clock: Clock) -> None:
    supervisor = Supervisor(loom)
    await loom.create("A")
    await loom.claim(agent_id="sleepy")
    assert (await supervisor.turn()).stale == ()
    await clock(450)
    assert [agent.agent for agent in (await supervisor.turn()).stale] == ["sleepy"]
    assert (await supervisor.turn()).stale == ()


async def test_it_says_once_what_does_not_land_by_itself(loom: Loom, clock: Clock) -> None:
    supervisor = Supervisor(loom)

    async def told() -> list[tuple[str, str]]:
        return [(one.title, one.trouble) for one in (await supervisor.turn()).stuck]

    _, waits = await queued(loom, "waits")
    asks = (await begun(loom, "asks")).task
    await enter(loom, asks, needs_yes=True)
    back = await begun(loom, "back")
    for _ in range(2):
        await begin(loom, back)
        await send_back(loom, await enter(loom, back.task, needs_yes=True))
    assert await told() == [("asks", "asks"), ("back", "comes_back")]
    assert await told() == []
    await clock(301)
    await loom.transact(lambda tx: landing_targets.take_lease(tx, TARGET, "here", 60))
    assert await told() == []
    await clock(61)
    assert await told() == [("waits", "nobody_lands")]
    await loom.approve(asks.id)
    await land(loom, waits)
    assert await told() == []
    await clock(301)
    assert await told() == [("asks", "nobody_lands")]


async def test_a_person_is_told_what_does_not_land(cli: Cli, config: LoomConfig) -> None:
    known = yaml.safe_load((cli.directory / ".loom" / "config.yaml").read_text())["project_id"]
    async with Loom(replace(config, project_id=known), agent="worker") as loom:
        task = (await begun(loom)).task
        await enter(loom, task, needs_yes=True)
    assert f"loom landing approve {task.id}" in cli.inside("orchestrate", "--once").out
    (told,) = cli.ok("orchestrate", "--once")["landing"]
    assert (told["id"], told["trouble"], told["target"]) == (task.id, "asks", TARGET)


async def test_what_it_began_ends_where_one_of_it_cannot_be_ended(loom: Loom, monkeypatch: pytest.MonkeyPatch) -> None:
    before, supervisor = asyncio.all_tasks(), Supervisor(loom)

    async def fails() -> None:
        raise RuntimeError("it cannot")

    monkeypatch.setattr(supervisor._flows, "stop", fails)
    turns = supervisor.run()
    await anext(turns)
    with pytest.raises(RuntimeError, match="it cannot"):
        await turns.aclose()
    assert not [one for one in asyncio.all_tasks() - before if one.get_name().startswith("loom house")]


async def test_the_end_is_announced_once_by_many(loom: Loom, open_loom: Opener, pool: Pool) -> None:
    supervisors = [Supervisor(await open_loom(f"s{n}")) for n in range(6)]
    task = await loom.create("A")
    await loom.done(task.id)
    turns = await asyncio.gather(*(supervisor.turn() for supervisor in supervisors))
    assert sum(turn.swept.completed for turn in turns) == 1
    assert all(turn.complete for turn in turns)
    assert await pool.fetchval("select count(*) from events where type = 'project.complete'") == 1


async def test_many_sweeps_at_once_do_no_harm(loom: Loom, open_loom: Opener, clock: Clock, pool: Pool) -> None:
    sweepers = [await open_loom(f"s{n}") for n in range(6)]
    await loom.apply_plan({"tasks": [{"title": f"T{n}"} for n in range(60)]})
    while await loom.claim() is not None:
        pass
    await clock(601)
    swept = await asyncio.gather(*(sweeper.sweep() for sweeper in sweepers))
    assert sum(len(one.expired) for one, _ in swept) == 60
    assert await pool.fetchval("select count(*) from events where type = 'claim.expired'") == 60
    await holds(loom)


async def heard(loom: Loom) -> list[str]:
    """The statements from now on, on the connection that was used last and is used next."""
    said: list[str] = []
    async with (await loom.links.pool()).acquire() as connection:
        connection.add_query_logger(lambda record: said.append(record.query))
    return said


async def test_an_idle_sweep_is_one_query(loom: Loom, pool: Pool) -> None:
    await loom.create("A")
    said = await heard(loom)
    await loom.sweep()
    await asyncio.sleep(0)  # the driver tells of a statement a moment after it
    assert len(said) == 1


async def test_it_runs_and_wakes_for_what_happens(loom: Loom, open_loom: Opener) -> None:
    worker = await open_loom("worker")
    task = await worker.create("A")
    turns = Supervisor(loom).run()
    assert not (await anext(turns)).complete
    await worker.done(task.id)
    turn = await asyncio.wait_for(anext(turns), 30)
    while not turn.complete:
        turn = await asyncio.wait_for(anext(turns), 30)
    await turns.aclose()


# --- a database that is away ----------------------------------------------------------------------------------------


async def test_it_outlives_a_database_that_is_away(
    loom: Loom, door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_PAUSES", (0.05, 0.1))
    away = replace(loom.config, database=replace(loom.config.database, url=door.url))
    async with Loom(away, agent="supervisor") as other:
        turns = Supervisor(other).run()
        await anext(turns)

        def told() -> list[str]:
            return [said for said in caplog.messages if said.startswith("Supervising")]

        for times in (1, 2):
            await loom.create("B")
            await anext(turns)  # so it has waited in peace
            door.shut()
            going = asyncio.create_task(anext(turns))
            await until(lambda times=times: len(told()) == times)  # type: ignore[misc]
            await loom.escalate((await loom.create("A")).id, f"question {times}")
            await asyncio.sleep(1)  # some ten tries
            assert not going.done()
            assert len(told()) == times
            door.open()
            turn = await asyncio.wait_for(going, 30)
            assert [one.message for one in turn.escalations] == [f"question {times}"]
        assert told()[0].startswith("Supervising has to wait: PostgreSQL")
        await turns.aclose()


async def test_it_fails_where_there_was_no_database_to_begin_with(loom: Loom, door: Door) -> None:
    door.shut()
    async with Loom(replace(loom.config, database=replace(loom.config.database, url=door.url)), agent="s") as other:
        for look in (Supervisor(other).turn(whole=True), anext(Supervisor(other).run())):
            with pytest.raises((DatabaseUnavailableError, ServersError)):
                await look


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_while_the_database_is_away(cli: Cli, door: Door, sent: signal.Signals) -> None:
    cli.env["LOOM_DATABASE_URL"] = door.url
    await asyncio.to_thread(cli.ok, "escalate", await asyncio.to_thread(cli.create), "Which one?")
    supervisor = cli.start("orchestrate")
    assert supervisor.stdout
    assert supervisor.stderr
    try:
        assert "Which one?" in await asyncio.to_thread(supervisor.stdout.readline)
        door.shut()
        said = ""
        while "Supervising has to wait: " not in said:
            said += (more := await asyncio.to_thread(supervisor.stderr.readline))
            assert more, said
        supervisor.send_signal(sent)
        said += await asyncio.to_thread(supervisor.stderr.read)
        assert await asyncio.to_thread(supervisor.wait, 30) == 128 + sent
    finally:
        supervisor.kill()
        for pipe in (supervisor.stdout, supervisor.stderr):
            pipe.close()
    assert "Traceback" not in said
    failed = await asyncio.to_thread(cli, "orchestrate", "--once")
    assert (failed.code, failed.out) == (1, "")
    assert "PostgreSQL" in failed.err


async def test_an_escalation_is_looked_at_by_one_handler_at_a_time(
    loom: Loom, open_loom: Opener, clock: Clock, redis_conn: Redis, project: str
) -> None:
    await (await loom.relay()).step()
    for n in range(5):
        await loom.escalate((await loom.create(f"T{n}")).id, f"question {n}")
    queue = channels.escalation_channel(project)
    assert await redis_conn.lrange(queue, 0, -1) == [one.id for one in await loom.escalations()]
    handlers = [await open_loom(f"h{n}") for n in range(8)]
    taken = await asyncio.gather(*(handler.take_escalation(seconds=60) for handler in handlers))
    got = [one for one in taken if one is not None]
    assert len({one.id for one in got}) == len(got) == 5
    await clock(61)  # all handlers have died; none is lost
    again = await handlers[0].take_escalation()
    assert again is not None
    assert again.message == "question 0"
    await loom.resolve(again.id, "answer", note="yes")
    assert await redis_conn.llen(queue) == 4
    await (await loom.relay()).step()
    assert await redis_conn.llen(queue) == 4
    await holds(loom)


async def test_a_thousand_leases_are_renewed_in_one_statement(loom: Loom, pool: Pool, clock: Clock) -> None:
    await loom.apply_plan({"tasks": [{"title": f"T{n}"} for n in range(1000)]})
    while await loom.claim() is not None:
        pass
    await clock(500)
    said = await heard(loom)
    assert await loom.renew() == []
    await asyncio.sleep(0)  # the driver tells of a statement a moment after it
    assert len(said) == 1
    await clock(300)
    assert not (await loom.sweep())[0].expired


async def test_an_open_escalation_says_what_it_holds_up(loom: Loom) -> None:
    task = await loom.create("A")
    waiting = [await loom.create(f"after {n}", depends_on=[task.id]) for n in range(3)]
    await loom.cancel(waiting[0].id)
    await loom.escalate(task.id, "Which one?")
    (raised,) = await loom.escalations()
    assert raised.held_up == 2
