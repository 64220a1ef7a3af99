"""Calls at random, made up from the tools' own schemas, to a server, and lines that are no calls among them.

    uv run python -m tests.fuzz --seed 1 --calls 10000 --over stdio|hub|http

Half of the calls are cancelled at random moments. All through it the process must live, every request be answered once
(unless it was cancelled, which leaves that open), and nothing change over a call that is refused. At the end nobody
holds a claim (over HTTP claims outlive whoever serves), every invariant holds, and the process has not grown. The same
seed makes the same calls.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from loom import bridge, services
from loom.config import load_config
from loom.graph.front import Loom
from loom.hub import running
from loom.hub.sessions import GRACE
from loom.services.instance import instance_dir
from tests import games
from tests.mcp import posting
from tests.mcp.stdio import Server, started

Play = Callable[..., Awaitable[list[str]]]

GROWTH = 1.05
_TOGETHER = 8  # calls in flight
_PATIENCE = 60.0  # seconds for an answer
_LOOK_EVERY = 12  # calls between two that are made alone, to see what they change
_TEXTS = (
    "", " ", "Write it", "a\nb", "größer", "\u202eright to left", "x" * 600, "y" * 40_000, "{}", "[1]", "null", "nul\0",
    "\ud83e", "../../etc/passwd", "'; drop table tasks; --", "{{ 7 * 7 }}", "loom-00000000", "esc-0000", "\U0001f9f5",
)  # fmt: skip
_AGENTS = ("w1", "w2", "orchestrator", "*", "a b")
# What no caller has asked for: the passing of time, and what a report keeps that came too late.
# Claims that no `reassign` made, which are nobody's session's.
_HELD = """
select count(*) from tasks t where status = 'claimed' and not exists (
    select from events c join events r on r.xid = c.xid and r.task_id = c.task_id and r.data ->> 'action' = 'reassign'
     where c.task_id = t.id and c.type = 'task.claimed' and c.version = t.version)
"""
_UNASKED = "type in ('task.retried', 'claim.expired', 'project.complete') or data ? 'refused'"


@dataclass
class Run:
    """What was sent and what came back. `open`: requests whose answers must come; `free`: whose may stay away."""

    server: Server
    rng: random.Random
    tools: list[dict[str, Any]] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    free: set[int] = field(default_factory=set)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    known: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    last: int = 1_000

    async def listen(self) -> None:
        """Takes in what the server says until it says no more."""
        while line := await self.server.written.readline():
            # What is not answered within the last thousand is not remembered.
            self.free = {number for number in self.free if number > self.last - 1_000}
            message = json.loads(line)
            number = message.get("id")
            if "method" in message or number is None:
                continue
            if number not in self.open | self.free:
                self.problems.append(f"an answer that nobody waits for: {line[:200]!r}")
            self.open.discard(number)
            self.free.discard(number)
            self.heard.set()
            if b"internal_error" in line or message.get("error", {}).get("code") == 0:
                self.problems.append(f"an error that nobody has foreseen: {line[:300]!r}")
            self.results[number] = message
            self._learn(message)
        self.heard.set()

    def _learn(self, message: Mapping[str, Any]) -> None:
        reply = (message.get("result") or {}).get("structuredContent") or {}
        for name in ("id", "plan_id", "run_id", "escalation", "token", "since"):
            if name in reply:
                self.known = [*self.known[-60:], reply[name]]

    async def send(self, line: str, number: int | None = None, *, may_stay_away: bool = False) -> None:
        """Sends a line; `number`: of the answer that it must have."""
        if number is not None:
            (self.free if may_stay_away else self.open).add(number)
        with suppress(ConnectionError):
            await self.server.send(line.encode("utf-8", "surrogatepass"))

    def next(self) -> int:
        """A number for a request."""
        self.last += 1
        return self.last

    async def settled(self, most: int = 0) -> None:
        """Waits until so many requests at most have no answer that must have one."""
        while len(self.open) > most and self.server.process.returncode is None:
            self.heard.clear()
            await asyncio.wait_for(self.heard.wait(), _PATIENCE)


async def play(
    server: Server, database_url: str, seed: int, calls: int, *, pid: int | None = None, held_for: float | None = 0.0
) -> list[str]:
    """Makes so many calls to a server that was just started, and returns what is wrong. Afterwards it has left.

    Args:
        pid: the process that does the work; default: that which was started.
        held_for: seconds after the end for which claims may still be held; None: as long as their leases.
    """
    pid = pid or server.process.pid
    run = Run(server, random.Random(seed))
    await server.initialize()
    run.tools = (await server.ask("tools/list"))["result"]["tools"]
    listening = asyncio.create_task(run.listen())
    connection = await asyncpg.connect(database_url)
    cancelling: set[asyncio.Task[None]] = set()
    before = 0
    try:
        for turn in range(calls):
            if turn == calls // 5:
                before = _memory(pid)
            if turn % _LOOK_EVERY == 0:
                await _look(run, connection)
            elif run.rng.random() < 0.1:
                await _hostile(run)
            else:
                number = run.next()
                cancelled = run.rng.random() < 0.5
                await run.send(_call(run, number), number, may_stay_away=cancelled)
                if cancelled:
                    cancelling.add(task := asyncio.create_task(_cancel(run, number, run.rng.random() * 0.02)))
                    task.add_done_callback(cancelling.discard)
            await run.settled(_TOGETHER)
            if server.process.returncode is not None:
                return [*run.problems, f"the server has ended with {server.process.returncode} at call {turn}"]
        await run.settled()
        if (after := _memory(pid)) > before * GROWTH and calls >= 5_000:
            run.problems.append(f"the process has grown from {before / 1e6:.0f} to {after / 1e6:.0f} MB")
        await server.leave()
        if server.process.returncode not in (0, -signal.SIGTERM):
            run.problems.append(f"the server has left with {server.process.returncode}")
        if held_for is not None and (held := await _held(connection, held_for)):
            run.problems.append(f"{held} claims have outlived a clean end")
    except TimeoutError:
        run.problems.append(f"no answer to {sorted(run.open)[:5]}")
    finally:
        listening.cancel()
        await asyncio.gather(listening, *cancelling, return_exceptions=True)
        await connection.close()
    return run.problems


async def _held(connection: asyncpg.Connection[asyncpg.Record], seconds: float) -> int:
    """How many claims are held, once there are none or so many seconds are over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while await connection.fetchval(_HELD):  # noqa: ASYNC110 - the database says it no other way
                await asyncio.sleep(1)
    return int(await connection.fetchval(_HELD))


async def _cancel(run: Run, number: int, after: float) -> None:
    await asyncio.sleep(after)
    with suppress(ConnectionError):
        await run.server.cancel(number)


async def _look(run: Run, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Makes one call while no other goes on. If it is refused, nothing was changed by it."""
    await run.settled()
    await asyncio.sleep(0.1)  # what was cancelled goes on to its end
    newest = await connection.fetchval("select coalesce(max(id), 0) from events")
    number = run.next()
    line = _call(run, number)
    await run.send(line, number)
    await run.settled()
    answer = run.results.get(number, {})
    if "error" in answer or answer.get("result", {}).get("isError"):
        changed = await connection.fetch(f"select type from events where id > $1 and not ({_UNASKED})", newest)
        if changed:
            said = json.dumps(answer)[:300]
            run.problems.append(f"refused, and yet {[row[0] for row in changed]}: {line[:300]} {said}")
    run.results.clear()


# --- what is sent ---------------------------------------------------------------------------------------------------


def _call(run: Run, number: int) -> str:
    tool = run.rng.choice(run.tools)
    schema = tool["inputSchema"]
    required = schema.get("required", ())
    arguments = {
        name: _value(run, name, one)
        for name, one in schema["properties"].items()
        if run.rng.random() < (0.97 if name in required else 0.35)
    }
    if tool["name"] == "loom_wait":
        arguments["timeout"] = run.rng.choice((0, 0.05, 0.2))
    if run.rng.random() < 0.03:
        arguments["unheard_of"] = 1
    return _request(number, "tools/call", {"name": tool["name"], "arguments": arguments})


def _request(number: Any, method: str, params: object) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


def _value(run: Run, name: str, schema: Mapping[str, Any]) -> Any:
    """A value for an argument: mostly one that fits, sometimes one that is near, sometimes one that is not."""
    rng = run.rng
    if rng.random() < 0.06:
        return rng.choice((None, True, -1, 10**30, 1.5, [], {}, "x", [["x"]], {"a": {"b": [None]}}))
    if "enum" in schema:
        return rng.choice(schema["enum"])
    match schema.get("type"):
        case "boolean":
            return rng.random() < 0.5
        case "integer" | "number":
            return rng.choice((schema.get("minimum", 1), schema.get("maximum", 3), 1, 2, 600, 0, -5, 2**63))
        case "array":
            items = [_value(run, name, schema.get("items", {"type": "string"})) for _ in range(rng.randrange(3))]
            return items if rng.random() < 0.8 else json.dumps(items)
        case "object":
            found = rng.choice((_plan(rng), {}, {"yes": True}, {"task": {"title": "T"}}, {"text": rng.choice(_TEXTS)}))
            return found if rng.random() < 0.8 else json.dumps(found)
    if name in ("agent_id", "to"):
        return rng.choice(_AGENTS)
    if name in ("title", "goal", "message", "reason", "note", "done_when") and rng.random() < 0.6:
        return f"Do {rng.randrange(1_000)}"
    if run.known and rng.random() < 0.7:
        return rng.choice(run.known)
    return rng.choice(_TEXTS)


def _plan(rng: random.Random) -> dict[str, Any]:
    tasks = [{"title": f"Write part {rng.randrange(10**6)}", "done_when": "It is written."} for _ in range(3)]
    return {"tasks": tasks}


async def _hostile(run: Run) -> None:
    """A line that is no call, or hardly one."""
    rng, number = run.rng, run.next()
    call = _call(run, number)
    lines: list[tuple[str, bool]] = [  # whether it has an id that can be read
        (_request(number, "tools/call", {"name": "loom_create", "arguments": {"title": "\ud83e"}}), True),
        (_request(number, "tools/call", [1]), True),
        (_request(number, "tools/call", {"name": "rm", "arguments": 7}), True),
        (_request(number, "no/such", {}), True),
        (_request(number, "prompts/get", {"name": rng.choice(_TEXTS), "arguments": {"task": "x"}}), True),
        (_request(number, "prompts/list", {}), True),
        (_request(number, "tools/list", {"cursor": "x"}), True),
        (f'{{"jsonrpc":"2.0","id":{number},"method":"ping","params":{{"n":{"9" * 5_000}}}}}', True),
        (f'{{"jsonrpc":"2.0","id":{number},"method":"ping","params":{"[" * 300}{"]" * 300}}}', True),
        (f'{{"jsonrpc":"2.0","id":{number},"method":"ping","params":{"[" * 5_000}', True),
        (f"[{call}]", False),
        ("", False),
        ("not json", False),
        ("\0\0", False),
        (call[: len(call) // 3], False),
        ('{"jsonrpc":"2.0","id":null,"method":"ping"}', False),
        ('{"jsonrpc":"2.0","id":1.5,"method":"ping"}', False),
        ('{"jsonrpc":"2.0","id":77,"result":{}}', False),
        ('{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":99999}}', False),
        ('{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":{}}}', False),
        (json.dumps({"jsonrpc": "2.0", "method": "x" * 100_000}), False),
    ]
    line, has_id = rng.choice(lines)
    # A line that was cut off may still show its id; whether it does is the server's business.
    await run.send(line, number, may_stay_away=not has_id)


def _memory(pid: int) -> int:
    """Bytes of memory that the process has; 0 where the machine does not tell."""
    with suppress(OSError):
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0


# --- by hand --------------------------------------------------------------------------------------------------------


async def _by_hand(seed: int, calls: int, over: str, place: Path) -> list[str]:
    project = place / "project"
    (project / ".loom").mkdir(parents=True)
    (project / ".loom" / "config.yaml").write_text(f"project_name: fuzz\nproject_id: {uuid.uuid4()}\n")
    config = load_config(project)
    await asyncio.to_thread(services.up, config)
    try:
        async with Loom(config, agent="judge") as loom:
            await loom.connect()
            problems = await _WAYS[over](loom, project, partial(play, seed=seed, calls=calls))
            return problems + [f"{one.rule}: {one.found}" for one in await loom.doctor() if not one.holds]
    finally:
        await asyncio.to_thread(running.end, config)
        await asyncio.to_thread(services.down, config)


async def _over_stdio(loom: Loom, project: Path, play: Play) -> list[str]:
    async with started(LOOM_PROJECT_DIR=str(project), LOOM_DATA_DIR=os.environ["LOOM_DATA_DIR"]) as server:
        return await play(server, services.endpoints(loom.config).database_url)


async def _over_the_hub(loom: Loom, project: Path, play: Play) -> list[str]:
    assert await asyncio.to_thread(running.start, loom.config)
    pid = _pid_of_the_hub(loom)
    environment = {"LOOM_PROJECT_DIR": str(project), "LOOM_DATA_DIR": os.environ["LOOM_DATA_DIR"]}
    async with started("-m", "loom", "mcp", **environment, LOOM_MCP_HUB="auto") as server:
        problems = await play(server, services.endpoints(loom.config).database_url, pid=pid, held_for=GRACE + _PATIENCE)
    if _pid_of_the_hub(loom) != pid:
        problems.append("the hub has ended")
    return problems


def _pid_of_the_hub(loom: Loom) -> int:
    found = bridge.ask(str(instance_dir(loom.config)), "status")
    if found is None:
        return 0
    found[0].close()
    return int(found[1]["pid"])


async def _over_http(loom: Loom, project: Path, play: Play) -> list[str]:
    token = (await loom.add_token("w1", "admin")).secret
    async with posting.started(project, token) as server:
        return await play(server, services.endpoints(loom.config).database_url, held_for=None)


_WAYS = {"stdio": _over_stdio, "hub": _over_the_hub, "http": _over_http}


def main() -> int:
    """Reads the command line, plays once, and says what was wrong; exit status 1 if anything was."""
    parser = argparse.ArgumentParser(description="Calls at random to the MCP server.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--over", choices=tuple(_WAYS), default="stdio")
    chosen = parser.parse_args()
    with games.place("fuzz") as place:
        os.environ |= {"LOOM_DATA_DIR": str(place), "HOME": str(place)}
        return games.conclude(asyncio.run(_by_hand(chosen.seed, chosen.calls, chosen.over, place)))


if __name__ == "__main__":
    sys.exit(main())
