"""Whoever comes to the hub is served as by a process of his own, and nobody is hurt by what another does."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from loom import bridge
from loom.graph.front import Loom
from loom.graph.model.task import TaskStatus
from loom.hub import door
from loom.hub.door import Hub
from loom.hub.sessions import Sessions
from loom.mcp import lines, wire
from loom.mcp.server import Application
from tests.conftest import Opener
from tests.hub.conftest import Knock, knock, serving
from tests.waiting import until, until_renewed


@pytest.fixture
async def hub(root: Path, home: dict[str, str]) -> AsyncIterator[Hub]:
    async with serving(root, grace=30.0) as hub:
        yield hub


async def test_each_connection_is_somebody_with_claims_of_his_own(hub: Hub, come: Knock, loom: Loom) -> None:
    for title in ("One", "Two"):
        await loom.create(title)
    ann, bob = await come(LOOM_AGENT_ID="ann"), await come(CLAUDE_CODE_SESSION_ID="87654321-0")
    one, two = await ann.call("loom_claim"), await bob.call("loom_claim")
    assert {one["title"], two["title"]} == {"One", "Two"}
    agents = {agent.agent: [held.id for held in agent.tasks] for agent in await loom.agents()}
    assert agents == {"ann": [one["id"]], "claude-87654321": [two["id"]]}
    assert "claim_conflict" in (await ann.call("loom_done", task_id=two["id"]))["error"]
    assert (await ann.call("loom_done", task_id=one["id"]))["status"] == "done"


async def test_claims_wait_for_another_connection_of_their_session(hub: Hub, come: Knock, loom: Loom) -> None:
    task = await loom.create("One")
    first = await come(CLAUDE_CODE_SESSION_ID="12345678-0")
    claimed = await first.call("loom_claim")
    await first.hang_up()
    await until(lambda: len(hub.sessions) == 0)
    stranger = await come(CLAUDE_CODE_SESSION_ID="99999999-0")
    assert (await stranger.call("loom_claim"))["status"] == "nothing_ready"
    second = await come(CLAUDE_CODE_SESSION_ID="12345678-0")
    assert (await loom.get(task.id)).task.claim_token == claimed["token"]
    assert (await second.call("loom_done", task_id=task.id))["status"] == "done"


async def test_claims_that_nobody_takes_over_are_given_back_refunded(root: Path, come: Knock, loom: Loom) -> None:
    task = await loom.create("One")

    async def is_back() -> bool:
        return (await loom.get(task.id)).task.status is TaskStatus.PENDING

    async with serving(root, grace=0.3):
        gone = await come(CLAUDE_CODE_SESSION_ID="12345678-0")
        await gone.call("loom_claim")
        await gone.hang_up()
        await until(is_back)
        assert (await loom.get(task.id)).task.attempt == 0
        other = await come(LOOM_AGENT_ID="other")
        await other.call("loom_claim")
        assert "status" in await other.call("loom_release", task_id=task.id)
        assert await is_back()  # at once


async def test_a_hub_that_ends_gives_all_claims_back(root: Path, come: Knock, loom: Loom) -> None:
    for title in ("One", "Two"):
        await loom.create(title)
    async with serving(root, grace=30.0):
        here, gone = await come(LOOM_AGENT_ID="ann"), await come(LOOM_AGENT_ID="bob")
        assert (await here.call("loom_claim"))["token"]
        assert (await gone.call("loom_claim"))["token"]
        await gone.hang_up()
    assert (await loom.status()).counts["pending"] == 2
    assert not (root / bridge.SOCKET).exists()
    assert list((root / "hubs").iterdir()) == []


async def test_a_hub_one_part_of_which_cannot_be_closed_closes_the_others(
    root: Path, come: Knock, loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_: Sessions) -> None:
        raise RuntimeError("it cannot")

    monkeypatch.setattr(Sessions, "close", fails)
    hub = Hub(root, grace=0.0)
    assert await hub.begin()
    ending = asyncio.create_task(hub.ended())
    await (await come(LOOM_AGENT_ID="ann")).call("loom_status")
    assert len(hub.projects) == 1
    hub.end()
    with pytest.raises(RuntimeError, match="it cannot"):
        await ending
    assert len(hub.projects) == 0
    assert list((root / "hubs").iterdir()) == []


async def test_a_session_that_takes_its_time_to_leave_gives_its_claims_back_too(
    root: Path, come: Knock, loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose checks have to be ended first."""
    rest = Application.rest

    async def slowly(application: Application) -> Loom | None:
        await asyncio.sleep(0.5)
        return await rest(application)

    monkeypatch.setattr(Application, "rest", slowly)
    await loom.create("One")
    async with serving(root, grace=30.0):
        here = await come(LOOM_AGENT_ID="ann")
        assert (await here.call("loom_claim"))["token"]
    assert (await loom.status()).counts["pending"] == 1


async def test_a_claim_is_renewed_while_its_connection_lives_and_after_a_hub_has_died(
    hub: Hub, come: Knock, loom: Loom, open_loom: Opener
) -> None:
    task = await loom.create("One")
    before = await open_loom("claude-12345678")  # as a hub that was killed would have left it
    claim = await before.claim(task.id, lease_seconds=6)
    assert claim is not None
    again = await come(CLAUDE_CODE_SESSION_ID="12345678-0")
    await until_renewed(loom, claim.task)
    await again.hang_up()
    await until(lambda: len(hub.sessions) == 0)
    assert (await loom.get(task.id)).task.status is TaskStatus.CLAIMED  # it may be somebody else's too


async def test_what_agents_hold_that_share_a_session_is_renewed_once_they_call_after_a_hub_has_died(
    hub: Hub, come: Knock, loom: Loom, open_loom: Opener
) -> None:
    tasks = [await loom.create(title) for title in ("One", "Two")]
    before = await open_loom("claude-12345678")  # as a hub that was killed would have left it
    claims = [
        await before.claim(task.id, agent_id=name, lease_seconds=8)
        for task, name in zip(tasks, ("scout", "other"), strict=True)
    ]
    again = await come(CLAUDE_CODE_SESSION_ID="12345678-0")
    await again.call("loom_inbox", agent_id="scout")

    async def renewed() -> list[bool]:
        now = [(await loom.get(task.id)).task.lease_expires_at for task in tasks]
        return [end != claim.task.lease_expires_at for end, claim in zip(now, claims, strict=True) if claim]

    async def is_renewed() -> bool:
        return (await renewed())[0]

    await until(is_renewed)
    assert await renewed() == [True, False], "and nothing of who has not called"


async def test_all_share_one_pool_and_it_is_closed_when_nobody_has_used_it_for_a_while(
    root: Path, come: Knock, loom: Loom, home: dict[str, str]
) -> None:
    url = home["LOOM_DATABASE_URL"]

    async def connections() -> int:
        admin = await asyncpg.connect(url)
        try:
            return int(
                await admin.fetchval(
                    "select count(*) from pg_stat_activity where datname = current_database()"
                    " and application_name = $1",
                    f"loom/{loom.project_id}",
                )
            )
        finally:
            await admin.close()

    async def are_as_before() -> bool:
        return await connections() == before

    before = await connections()
    async with serving(root, grace=0.0, idle=1.0) as hub:
        many = [await come(LOOM_AGENT_ID=f"agent-{number}") for number in range(8)]
        for _ in range(5):
            await asyncio.gather(*(one.call("loom_status") for one in many))
        assert len(hub.projects) == 1
        assert before < await connections() <= before + 10
        await asyncio.sleep(1.5)
        assert len(hub.projects) == 1  # somebody has it open
        for one in many:
            await one.hang_up()
        await until(lambda: len(hub.projects) == 0)
        await until(are_as_before)
        again = await come()
        assert "counts" in await again.call("loom_status")


async def test_a_changed_configuration_counts_from_the_next_connection(
    hub: Hub, come: Knock, loom: Loom, home: dict[str, str]
) -> None:
    await loom.create("One")
    before = await come(LOOM_AGENT_ID="before")
    assert "counts" in await before.call("loom_status")
    file = Path(home["LOOM_PROJECT_DIR"]) / ".loom" / "config.yaml"
    file.write_text(file.read_text() + "  claim_ttl_seconds: 77\n")
    after = await come(LOOM_AGENT_ID="after")
    claimed = await after.call("loom_claim")
    end = (await loom.get(claimed["id"])).task.lease_expires_at
    assert end is not None
    claimed_at = (await loom.get(claimed["id"])).task.claimed_at
    assert claimed_at is not None
    assert (end - claimed_at).total_seconds() == pytest.approx(77, abs=1)
    assert "counts" in await before.call("loom_status")


async def test_a_project_whose_directory_is_removed_is_served_to_its_end(
    hub: Hub, come: Knock, root: Path, loom: Loom, home: dict[str, str]
) -> None:
    await loom.create("One")
    before = await come(LOOM_AGENT_ID="before")
    shutil.rmtree(home["LOOM_PROJECT_DIR"])
    claimed = await before.call("loom_claim")
    assert (await before.call("loom_done", task_id=claimed["id"]))["status"] == "done"
    after = await come(LOOM_AGENT_ID="after")
    assert "project_not_found" in (await after.call("loom_status"))["error"]
    assert "counts" in await before.call("loom_status")


async def test_one_that_fails_or_lies_hurts_nobody(
    hub: Hub, come: Knock, root: Path, home: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "loom.hub")
    good = await come()
    for line in (b"", b"not json\n", b"[]\n", b"7\n", b'{"want":"mcp","environ":7}\n', b'{"want":"mcp"', b"\xff\n"):
        _, writer = await asyncio.open_unix_connection(root / bridge.SOCKET)
        writer.write(line)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    await until(lambda: sum("ended before it began" in one for one in caplog.messages) == 7)
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR], "these are no faults of the hub's"
    unknown = await knock(root, home, "everything")
    assert unknown.said["error"]["code"] == "unknown"
    await unknown.hang_up()
    broken = await come()
    for line in (
        b"\xff\xfe",
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"loom_ready"',
        b"[" * 9999,
    ):
        await broken.send(line)
    await broken.request("tools/call", name="loom_wait", arguments={"timeout": 30})
    broken.writer.transport.abort()
    assert "counts" in await good.call("loom_status")
    asked = await knock(root, home, "status")
    assert asked.said["sessions"] == 1
    await asked.hang_up()
    hub.answers["status"] = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="Expecting value"):
        await knock(root, home, "status")
    assert "A connection failed" in caplog.messages


async def test_claims_are_taken_over_under_another_name_or_in_another_project_by_nobody(
    hub: Hub, come: Knock, loom: Loom, tmp_path: Path
) -> None:
    task = await loom.create("One")
    mine = {"LOOM_AGENT_ID": "ann", "CLAUDE_CODE_SESSION_ID": "87654321-0"}
    first = await come(**mine)
    await first.call("loom_claim")
    await first.hang_up()
    await until(lambda: len(hub.sessions._left) == 1)
    other = tmp_path / "other" / ".loom"
    other.mkdir(parents=True)
    (other / "config.yaml").write_text(f"project_name: other\nproject_id: {uuid.uuid4()}\n")
    for changed in ({"LOOM_AGENT_ID": "bob"}, {"LOOM_PROJECT_DIR": str(other.parent)}):
        await (await come(**mine | changed)).call("loom_status")
    assert len(hub.sessions._left) == 1
    await (await come(**mine)).call("loom_status")
    await until(lambda: not hub.sessions._left)
    assert (await loom.get(task.id)).task.status is TaskStatus.CLAIMED, "it was taken over, not given back"


async def test_who_does_not_say_what_he_wants_is_let_go(hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_FIRST_LINE_WITHIN", 0.2)
    reader, writer = await asyncio.open_unix_connection(root / bridge.SOCKET)
    writer.write(b'{"want": ')
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()


async def test_who_is_of_another_home_or_instance_is_sent_elsewhere(hub: Hub, root: Path, home: dict[str, str]) -> None:
    config = Path(home["LOOM_PROJECT_DIR"]) / ".loom" / "config.yaml"
    for environ, said in ((home | {"HOME": "/nowhere"}, "another home"), (home, "of the instance default")):
        refused = await knock(root, environ)
        assert (refused.said["error"]["code"], said in refused.said["error"]["cause"]) == ("direct", True)
        await refused.hang_up()
        config.write_text(config.read_text() + "servers: {instance: other}\n")


async def test_who_reaches_his_own_postgres_by_more_than_its_address_is_sent_elsewhere(
    hub: Hub, root: Path, home: dict[str, str]
) -> None:
    """The hub has none of his variables, and would come to another server, or be refused."""
    refused = await knock(root, home | {"PGPASSFILE": "/home/ann/passwords"})
    assert (refused.said["error"]["code"], "by which PostgreSQL is reached" in refused.said["error"]["cause"]) == (
        "direct",
        True,
    )
    await refused.hang_up()


async def test_a_line_that_is_too_long_is_answered_and_passed_by(hub: Hub, come: Knock) -> None:
    one = await come()
    call = b'{"jsonrpc":"2.0","id":700,"method":"tools/call","params":{"name":"loom_create","arguments":{"title":"'
    await one.send(call + b"x" * (lines.LONGEST + 1) + b'"}}}')
    error = (await one.answer(700))["error"]
    assert error == {"code": -32600, "message": "Invalid request: A line has at most 8 MB."}
    assert sum((await one.call("loom_status"))["counts"].values()) == 0
    await one.send(call + b"x" * 600 + b'"}}}')
    assert "invalid_input" in json.dumps(await one.answer(700))


async def test_calls_at_a_time_are_bounded(hub: Hub, come: Knock) -> None:
    one = await come()
    waits = [
        await one.request("tools/call", name="loom_wait", arguments={"what": "escalation", "timeout": 60})
        for _ in range(wire.MOST_CALLS)
    ]
    refused = await one.ask("tools/call", name="loom_status", arguments={})
    assert refused["error"]["message"].startswith("Invalid request: 256 calls go on already")
    await one.cancel(waits[0])
    assert "counts" in await one.call("loom_status")
    other = await come()
    assert "counts" in await other.call("loom_status")


async def test_who_does_not_read_is_not_read_from_for_ever(hub: Hub, come: Knock, loom: Loom) -> None:
    await loom.create("One", context={"text": "x" * 20_000})
    deaf = await come()
    deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
    line = b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"loom_graph","arguments":{}}}\n'
    sent = 0
    with suppress(TimeoutError):
        while sent < 500_000:  # until the hub takes nothing more
            deaf.writer.write(line % (sent + 1_000))
            sent += 1
            await asyncio.wait_for(deaf.writer.drain(), 2)
    assert sent < 500_000
    other = await come()
    assert "counts" in await other.call("loom_status")
    deaf.writer.transport.abort()
