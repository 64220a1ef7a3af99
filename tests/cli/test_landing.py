"""What people see of work that lands, and their yes or no to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
import yaml

from loom import replies
from loom.config import LoomConfig
from loom.graph.front import Loom
from loom.graph.rules import landings
from loom.graph.store import landing_targets
from tests.cli.conftest import Cli
from tests.graph.test_landings import MERGED, TARGET, TIP, begun, enter, intend, land, queued, send_back

Clock = Callable[[float], Awaitable[None]]


@pytest.fixture
async def loom(cli: Cli, config: LoomConfig) -> AsyncIterator[Loom]:
    """The project of the command line, as a worker has it."""
    known = yaml.safe_load((cli.directory / ".loom" / "config.yaml").read_text())["project_id"]
    async with Loom(replace(config, project_id=known), agent="worker") as loom:
        yield loom


async def test_the_queue_is_shown_with_what_went_back_and_what_has_landed(cli: Cli, loom: Loom, clock: Clock) -> None:
    empty = cli.ok("landing")
    assert (empty["queue"], "loom work --land" in empty["note"]) == ([], True)
    assert "landing" not in cli.ok("status")
    landed, first = await queued(loom, "landed")
    await clock(3)
    await land(loom, first)
    waits, second = await queued(loom, "waits")
    back, third = await queued(loom, "back")
    await send_back(loom, third)
    gated = await begun(loom, "gated")
    await enter(loom, gated.task, needs_yes=True, outside=["other.py"])
    fresh = (await begun(loom, "fresh")).task

    shown = cli.ok("landing")
    assert [one["id"] for one in shown["queue"]] == [waits.id, gated.task.id]
    plain, asks = shown["queue"]
    assert (plain["state"], plain["target"], plain["commit"], plain["agent"]) == ("queued", TARGET, TIP, "worker")
    assert (asks["waits_for_yes"], asks["outside"]) == (True, ["other.py"])
    assert [(one["id"], one["state"]) for one in shown["working"]] == [(fresh.id, "begun")]
    (sent,) = shown["sent_back"]
    assert (sent["id"], sent["sent_back"], sent["reason"], sent["note"]) == (back.id, 1, "unit is red.", "E 1 != 2")
    (done,) = shown["landed"]
    assert (done["id"], done["commit"], done["target"], done["seconds"] >= 3) == (landed.id, MERGED, TARGET, True)
    assert (shown["count"], shown["landed_count"]) == (2, 1)
    assert "loom land" in shown["note"]

    await intend(loom, second)
    await loom.transact(lambda tx: landing_targets.take_lease(tx, TARGET, "here:1", 60))
    text = cli.inside("landing").out
    assert f"here:1 lands on {TARGET} until" in text
    for part in (
        f"loom landing approve {gated.task.id}",
        "being landed",
        "unit is red.",
        "E 1 != 2",
        MERGED[:12],
        "fresh",
    ):
        assert part in text, part
    glance = cli.ok("status")["landing"]
    assert glance == {"landed": 1, "of": 5, "queued": 2, "waits_for_yes": 1}
    assert "1 of 5 landed, 2 queued, 1 of them for a yes" in cli.inside("status").out
    assert "until it has landed" in cli.inside("status").out
    await loom.transact(lambda tx: landings.redirect(tx, "other", "main is checked out."))
    assert cli.ok("status")["landing"]["target"] == "other"
    assert "landing on other: main is checked out." in cli.inside("status").out
    assert "Landing on other since" in cli.inside("landing").out


async def test_a_task_says_where_it_landed_and_why_it_has_not(cli: Cli, loom: Loom) -> None:
    task, landing = await queued(loom)
    shown = cli.ok("status", task.id)
    assert (shown["status"], shown["held_by"], "lease_expires_at" in shown) == ("claimed", "landing", False)
    assert (shown["landing"]["state"], shown["landing"]["commit"]) == ("queued", TIP)
    assert shown["reason"] == "It is proven and waits to be landed."
    assert "held by" in cli.inside("status", task.id).out
    assert cli.inside("heartbeat", task.id, "--agent", "worker").out.count("until it has landed") == 1
    refused = cli.inside("claim", task.id)
    assert (refused.code, "waits in the landing queue" in refused.err) == (3, True)
    assert "1 waiting to be landed" in cli.ok("claim")["waiting_for"]
    again = cli.inside("done", task.id, "--agent", "worker")
    assert "Nothing is left to do" in again.out
    await land(loom, landing)
    shown = cli.ok("status", task.id)
    assert (shown["landed"]["target"], shown["landed"]["commit"]) == (TARGET, MERGED)
    assert {"landing", "reason", "held_by"} & set(shown) == set()
    assert f"on {TARGET} as {MERGED[:12]}" in cli.inside("status", task.id).out

    failed = (await begun(loom, "B")).task
    await loom.fail(failed.id, "no way")
    shown = cli.ok("status", failed.id)
    assert (shown["reason"], shown["landing"]["state"]) == ("no way", "dropped")
    after = await loom.create("C", depends_on=[failed.id])
    assert cli.ok("status", after.id)["reason"] == f"It waits for {failed.id} (retry)."


async def test_what_landed_and_what_was_sent_back_stand_newest_last(cli: Cli, loom: Loom, clock: Clock) -> None:
    landed, back = [], []
    for number in range(2):
        task, landing = await queued(loom, f"Good {number}")
        await clock(1)
        await land(loom, landing)
        landed.append(task.id)
        task, landing = await queued(loom, f"Bad {number}")
        await send_back(loom, landing)
        back.append(task.id)
    shown = cli.ok("landing")
    assert [one["id"] for one in shown["landed"]] == landed
    assert [one["id"] for one in shown["sent_back"]] == back
    assert [one["id"] for one in cli.ok("landing", "--limit", "1")["landed"]] == landed[1:]


async def test_a_persons_yes_or_no(cli: Cli, loom: Loom) -> None:
    task = (await begun(loom)).task
    await enter(loom, task, needs_yes=True)
    assert cli.ok("status", task.id)["reason"] == "It waits for a person's yes."
    for words in (["approve"], ["refuse", "--note", "no"]):
        inside = cli.inside("landing", words[0], task.id, *words[1:], LOOM_RUN="1")
        assert (inside.code, "not decided from inside a run" in inside.err) == (1, True)
    assert cli.ok("landing", "approve", task.id) == {
        "schema": 1,
        "id": task.id,
        "status": "landing",
        "target": TARGET,
        "approved_by": "tester",
    }
    assert cli.ok("landing")["queue"][0]["approved_by"] == "tester"
    back = cli.inside("landing", "refuse", task.id, "--note", "Not like that.", "--agent", "ann")
    assert back.out == f"{task.id}  sent back to worker\n"
    shown = cli.ok("status", task.id)
    assert (shown["reason"], shown["landing"]["note"]) == ("ann refused it.", "Not like that.")
    assert json.loads(cli.inside("landing", "approve", task.id, "--json").out)["error"]["code"] == "task_state"
    assert "approve" in cli.inside("landing", "--help").out


async def test_agents_are_told_of_the_queue_in_few_words(loom: Loom) -> None:
    for number in range(60):
        one, _ = await queued(loom, f"T{number} {'x' * 400}")
    assert len(json.dumps(replies.fit(replies.landings(await loom.landings(limit=500))))) < replies.REPLY_CHARACTERS
    assert len(json.dumps(replies.landings(await loom.landings()))) < 20_000
    assert len(json.dumps(replies.overview(await loom.status()))) < 1_000
    assert one.queued
