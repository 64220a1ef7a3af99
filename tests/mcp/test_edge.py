"""Where clients are hard on the server: calls that are cancelled, arguments that are nearly right, lines that are none.

Each over a real process, since what breaks there is what stands between the wire and a tool.
"""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import pytest

from loom.graph.front import Loom
from loom.mcp import lines
from tests.mcp.stdio import Server, started

# --- calls that are cancelled ---------------------------------------------------------------------------------------


CALLS: list[dict[str, Any]] = [
    {"method": "tools/call", "name": "loom_decompose", "arguments": {"goal": "Add sign-in"}},
    {"method": "tools/call", "name": "loom_skill", "arguments": {"name": "define_done", "inputs": {"task": {}}}},
    {"method": "tools/call", "name": "loom_workflow", "arguments": {"action": "list"}},
    {"method": "tools/call", "name": "loom_wait", "arguments": {"timeout": 30}},
    {"method": "prompts/list"},
]


async def test_a_cancelled_call_ends_itself_and_nothing_else(place: dict[str, str], loom: Loom) -> None:
    async with started(**place) as server:
        await server.initialize()
        await server.call("loom_status")
        for call in CALLS:
            for pause in [0.005] * 9 + [0.001 * turn for turn in range(9)]:
                number = await server.request(**call)
                await asyncio.sleep(pause)
                await server.cancel(number)
            assert "counts" in await server.call("loom_status"), call
        assert server.process.returncode is None


async def test_no_claim_that_was_cancelled_outlives_a_clean_end(place: dict[str, str], loom: Loom) -> None:
    """Whatever the moment: a claim that nobody was told of is given back, and costs no attempt."""
    tasks = [(await loom.create(f"Task {number}")).id for number in range(24)]
    async with started(**place) as server:
        await server.initialize()
        await server.call("loom_status")
        for turn in range(24):
            number = await server.request("tools/call", name="loom_claim", arguments={})
            await asyncio.sleep(0.0005 * turn)
            await server.cancel(number)
        assert server.process.stdin is not None
        server.process.stdin.close()
        await server.left()
        assert server.process.returncode == 0
    for task in [(await loom.get(task_id)).task for task_id in tasks]:
        assert (task.status, task.attempt) == ("pending", 0)


async def test_a_claim_that_was_cancelled_is_given_back_at_once(loom: Loom) -> None:
    tasks = [(await loom.create(f"Task {number}")).id for number in range(40)]
    await loom.status()
    for turn in range(40):
        claiming = asyncio.create_task(loom.claim())
        await asyncio.sleep(0.0004 * turn)
        if not claiming.cancel():  # it has its answer
            await loom.release((await claiming).task.id)  # type: ignore[union-attr]
        await asyncio.wait([claiming])
    await loom.end_session()  # returns when what goes on is at its end
    for task in [(await loom.get(task_id)).task for task_id in tasks]:
        assert (task.status, task.attempt) == ("pending", 0)


async def test_a_mutation_that_was_cancelled_is_done_whole_or_not_at_all(loom: Loom) -> None:
    """Whatever the moment, the mirror has what was committed, and nothing is left half done."""
    for turn in range(30):
        creating = asyncio.create_task(loom.create(f"Task {turn}"))
        await asyncio.sleep(0.0004 * turn)
        creating.cancel()
        await asyncio.wait([creating])
    await loom.end_session()
    assert [verdict for verdict in await loom.doctor() if not verdict.holds] == []


async def test_what_becomes_of_a_mutation_that_was_cancelled_is_nobodys_error(loom: Loom) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    done = (await loom.create("a task")).id
    await loom.cancel(done)
    for turn in range(30):
        refused = asyncio.create_task(loom.cancel(done))
        await asyncio.sleep(0.0004 * turn)
        refused.cancel()
        await asyncio.wait([refused])
    await loom.end_session()
    gc.collect()
    assert told == []


# --- arguments that are nearly right --------------------------------------------------------------------------------


async def test_arguments_are_taken_as_they_are_meant(place: dict[str, str], loom: Loom) -> None:
    async with started(**place) as server:
        await server.initialize()
        await _json_text(server, loom)
        await _null(server, loom)


async def _json_text(server: Server, loom: Loom) -> None:
    """An object or a list may come as JSON text."""
    first = (await loom.create("First")).id
    made = await server.call("loom_create", title="Second", context='{"a": [1]}', depends_on=f'["{first}"]')
    assert (await loom.get(made["id"])).task.context == {"a": [1]}
    assert (await loom.get(made["id"])).task.depends_on == (first,)
    claim = await server.call("loom_claim", task_id=first)
    assert (await server.call("loom_heartbeat", task_ids=json.dumps([first])))["count"] == 1
    done = await server.call("loom_done", task_id=first, token=claim["token"], output='{"files": ["a.py"]}')
    assert done["status"] == "done"
    assert (await loom.get(first)).task.output == {"files": ["a.py"]}
    sent = await server.call("loom_message", to="one", message="{}", agent_id="two")
    read = await server.call("loom_inbox", agent_id="one", ack=json.dumps([sent["id"]]))
    assert read["acked"] == [sent["id"]]
    plan = json.dumps({"tasks": [{"title": "Write it", "done_when": "It is written."}]})
    proposed = await server.call("loom_decompose", plan=plan)
    assert proposed.get("status") in ("preview", "sent_back"), proposed
    for wrong in ("[1]", "{", '"text"', "null", "[" * 100_000):
        assert "error" in await server.call("loom_create", title="T", context=wrong), wrong
    assert (await server.call("loom_status"))["counts"]["pending"] == 1


async def _null(server: Server, loom: Loom) -> None:
    """Null for an argument that may be left out is no argument, in every tool."""
    task = (await loom.create("Task")).id
    needed = {
        "task_id": task, "id": task, "title": "Title", "reason": "why", "message": "text", "to": "somebody",
        "action": "list",
    }  # fmt: skip
    tools = (await server.ask("tools/list"))["result"]["tools"]
    for tool in tools:
        schema = tool["inputSchema"]
        required = schema.get("required", ())
        nulls = {name: None for name in schema["properties"] if name not in required}
        without = {name: needed[name] for name in required}
        if tool["name"] == "loom_resolve":
            without["action"] = "retry"
        reply = await server.call(
            tool["name"], **(without | nulls | ({"timeout": 0} if "wait" in tool["name"] else {}))
        )
        assert not reply.get("error", "").startswith("invalid_input: ") or "should" not in reply["error"], reply
    error = (await server.call("loom_create", title=None))["error"]
    assert error.startswith("invalid_input: title should be a valid string")


# --- who reports ----------------------------------------------------------------------------------------------------


async def test_agents_that_share_a_server_are_not_taken_for_each_other(place: dict[str, str], loom: Loom) -> None:
    """A report without a name is about a claim that was made without one."""
    for number in range(2):
        await loom.create(f"Task {number}")
    async with started(**place) as server:
        await server.initialize()
        mine, theirs = await server.call("loom_claim"), await server.call("loom_claim", agent_id="w1")
        for tool, more in (
            ("loom_done", {}),
            ("loom_fail", {"reason": "no"}),
            ("loom_escalate", {"message": "?"}),
            ("loom_release", {}),
            ("loom_heartbeat", {"task_ids": [theirs["id"]]}),
        ):
            which = {} if tool == "loom_heartbeat" else {"task_id": theirs["id"]}
            error = (await server.call(tool, **which, **more))["error"]
            assert error.startswith("claim_conflict: ")
            assert "w1" not in error
            assert "token" in error
        assert (await loom.get(theirs["id"])).task.status == "claimed"
        assert (await server.call("loom_done", task_id=mine["id"]))["status"] == "done"
        assert (await server.call("loom_done", task_id=theirs["id"], agent_id="w1"))["status"] == "done"


async def test_each_lease_that_stands_is_renewed_and_the_lost_ones_are_named(place: dict[str, str], loom: Loom) -> None:
    ids = [(await loom.create(f"Task {number}")).id for number in range(3)]
    async with started(**place) as server:
        await server.initialize()
        for task_id in ids:
            await server.call("loom_claim", task_id=task_id)
        await loom.resolve(ids[1], "cancel")
        for arguments in ({"task_ids": ids}, {}):
            reply = await server.call("loom_heartbeat", **arguments)
            assert sorted(one["id"] for one in reply["claims"]) == sorted([ids[0], ids[2]])
            assert [one["id"] for one in reply["lost"]] == [ids[1]]
            assert "cancelled" in reply["lost"][0]["why"]
        assert (await server.call("loom_heartbeat", task_ids=[ids[1]]))["error"].startswith("task_state: ")


# --- lines that are no messages -------------------------------------------------------------------------------------

CALL = '{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":"loom_create","arguments":{"title":%s}}}'


@pytest.mark.parametrize(
    ("line", "code", "request_id"),
    [
        (CALL % (1, r'"\ud83e"'), -32700, 1),
        (CALL % (2, "9" * 5000), -32700, 2),
        (CALL % (3, "[" * 300 + "]" * 300), -32700, 3),
        (CALL % (4, "[" * 100_000), -32700, 4),
        (CALL % ('"five"', '"'), -32700, "five"),
        (CALL % ("9" * 5000, '"T"'), -32700, None),
        ("[" + CALL % (6, '"T"') + "]", -32600, None),
        ('{"jsonrpc":"2.0","id":7,"method":"tools/call","params":[1]}', -32600, 7),
        ('{"jsonrpc":"2.0","id":"eight","method":7}', -32600, "eight"),
        ('{"id":9,"method":"tools/list"}', -32600, 9),
        (CALL % (1.5, '"T"'), -32600, None),
        (CALL % ("true", '"T"'), -32600, None),
        ('{"method":"x","params":{"id":10},"id":', -32700, None),
        ("7", -32600, None),
        ("not json", -32700, None),
        ("", None, None),
        ('{"jsonrpc":"2.0","method":"notifications/progress","params":[1]}', None, None),
        (CALL % (11, '"T"'), None, None),
    ],
)
def test_a_line_that_is_no_message_is_answered_under_its_id(
    line: str, code: int | None, request_id: str | int | None
) -> None:
    found = lines.parsed(line)
    error = found.answer if isinstance(found, lines.Fault) else None
    if code is None:
        assert error is None
        return
    assert error is not None
    assert (error.error.code, error.id) == (code, request_id)
    assert error.error.message.endswith(".")


async def test_who_sends_a_line_that_is_no_message_is_not_left_waiting(place: dict[str, str], loom: Loom) -> None:
    async with started(**place) as server:
        await server.initialize()
        for number, value in ((901, r'"\ud83e"'), (902, "9" * 5000), (903, "[" * 300 + "]" * 300)):
            await server.send((CALL % (number, value)).encode())
            assert (await server.answer(number))["error"]["code"] == -32700
        await server.send(b'{"jsonrpc":"2.0","id":904,"method":"tools/call","params":[1]}')
        assert (await server.answer(904))["error"]["code"] == -32600
        assert sum((await server.call("loom_status"))["counts"].values()) == 0
