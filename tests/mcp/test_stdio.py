"""The server as a process: what its client sees on stdout, how fast it answers, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from loom.graph.front import Loom
from tests.mcp.stdio import Server, started

NO_OP = """
from fastmcp import FastMCP
server = FastMCP("empty")
@server.tool(output_schema=None)
async def nothing(task_id: str = "") -> dict[str, str]:
    return {"status": "done"}
server.run(transport="stdio", show_banner=False)
"""


async def test_what_a_cloned_project_says_stays_in_its_log_on_one_line(place: dict[str, str], tmp_path: Path) -> None:
    """A key with a line break, and a log that leads to a file of its reader's: a command would be in that."""
    mine, project = tmp_path / ".bashrc", tmp_path / "project"
    mine.write_text("# mine\n")
    logs = project / ".loom" / "logs"
    logs.mkdir()
    (logs / "mcp.log").symlink_to(mine)
    with (project / ".loom" / "config.yaml").open("a") as file:
        file.write('"x\\ntouch owned\\n": 1\n')
    async with started(**place) as server:
        await server.initialize()
        await server.call("loom_ready")
        server.process.send_signal(signal.SIGINT)
        await server.left()
        assert server.process.stderr is not None
        said = (await server.process.stderr.read()).decode()
    assert mine.read_text() == "# mine\n"
    assert f"No log is kept in {logs}: " in said
    assert "touch owned" not in said.split("\n")
    (logs / "mcp.log").unlink()
    async with started(**place) as server:
        await server.initialize()
        await server.call("loom_ready")
    lines = (logs / "mcp.log").read_text().splitlines()
    assert r"x\ntouch owned\n" in "".join(lines)
    assert "touch owned" not in lines
    assert (logs / "mcp.log").stat().st_mode & 0o777 == 0o600


async def test_without_a_database_it_answers_and_says_what_to_run(place: dict[str, str], tmp_path: Path) -> None:
    hostile = tmp_path / "project" / ".env"
    hostile.write_text("FASTMCP_TRANSPORT=http\nFASTMCP_LOG_LEVEL=nonsense\n")
    nowhere = place | {"LOOM_DATABASE_URL": "postgresql://loom:s3cret@127.0.0.1:1/loom"}
    async with started(**nowhere) as server, started(HOME=str(tmp_path), LOOM_PROJECT_DIR=str(tmp_path)) as lost:
        assert (await server.initialize())["serverInfo"]["name"] == "loom"
        assert len((await server.ask("tools/list"))["result"]["tools"]) >= 15
        error = (await server.call("loom_ready"))["error"]
        assert error.startswith("servers: PostgreSQL at postgresql://loom:***@127.0.0.1:1/loom is not usable.")
        assert "s3cret" not in error
        server.process.send_signal(signal.SIGINT)
        await server.left()
        assert server.process.stderr is not None
        assert b"s3cret" not in await server.process.stderr.read()
        assert "s3cret" not in (tmp_path / "project" / ".loom" / "logs" / "mcp.log").read_text()

        await lost.initialize()
        error = (await lost.call("loom_claim"))["error"]
        assert error.startswith("project_not_found: ")
        assert "loom init" in error


async def test_however_it_leaves_claims_come_back_or_keep_their_lease(place: dict[str, str], loom: Loom) -> None:
    tasks = [(await loom.create(f"task {number}")).id for number in range(3)]
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(started(**place, LOOM_AGENT_ID=f"agent-{n}")) for n in range(3)]
        await asyncio.gather(*(server.initialize() for server in servers))
        claims = await asyncio.gather(*(server.call("loom_claim") for server in servers))
        assert sorted(claim["id"] for claim in claims) == sorted(tasks)  # several servers, each task once
        assert {claim["assignee"] for claim in claims} == {"agent-0", "agent-1", "agent-2"}
        assert (await servers[0].call("loom_claim", task_id=claims[1]["id"]))["error"].startswith("claim_conflict: ")
        told, closed, killed = servers
        waiting = [asyncio.create_task(one.call("loom_wait", timeout=60, what="inbox")) for one in (told, closed)]
        await asyncio.sleep(0.2)
        told.process.send_signal(signal.SIGTERM)
        assert closed.process.stdin is not None
        closed.process.stdin.close()
        killed.process.kill()
        await asyncio.gather(told.left(), closed.left(), killed.left())
        assert (told.process.returncode, closed.process.returncode) == (0, 0)
        await asyncio.gather(*waiting, return_exceptions=True)
        after = [(await loom.get(claim["id"])).task for claim in claims]
        assert [task.status for task in after] == ["pending", "pending", "claimed"]
        assert after[2].lease_expires_at is not None


# A server that never comes to its end, quickly told so.
HANGING = """
import time
from loom.mcp import server, stdio
stdio._ENDS_WITHIN = 0.5
async def hang(self):
    time.sleep(300)
server.Application.stop = hang
server.run()
"""


@pytest.mark.parametrize(
    "how", ["told", "its client gone", "told, and nobody reads what it says", "told, and has no stderr"]
)
async def test_a_server_that_hangs_when_it_leaves_is_ended(place: dict[str, str], how: str) -> None:
    before = "import sys; sys.stderr = None" if how.endswith("no stderr") else ""
    if how == "its client gone":  # and whoever has started it ignores what ends it
        before = "import signal; signal.signal(signal.SIGALRM, signal.SIG_IGN)"
    async with started("-c", before + HANGING, **place) as server:
        await server.initialize()
        if how == "its client gone":
            assert server.process.stdin is not None
            server.process.stdin.close()
        else:
            if how.endswith("says"):
                fill(Path(f"/proc/{server.process.pid}/fd/2"))
            server.process.send_signal(signal.SIGTERM)
        await server.left()
        assert server.process.returncode == -signal.SIGALRM
        assert server.process.stderr is not None
        said = await server.process.stderr.read()
        assert how.endswith(("says", "no stderr")) or b"in hang" in said


async def test_the_time_that_it_has_to_leave_begins_once() -> None:
    code = (
        "import signal, time\nfrom loom.mcp import stdio\nstdio.end_in_time()\ntime.sleep(0.1)\n"
        "left = signal.getitimer(signal.ITIMER_REAL)[0]\nstdio.end_in_time()\n"
        "assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= left"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0


def fill(pipe: Path) -> None:
    """Writes to a pipe until nothing more goes in."""
    descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"x" * 4096)
    with suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"x")
    os.close(descriptor)


async def test_nonsense_on_stdin_does_not_end_it(place: dict[str, str], loom: Loom) -> None:
    async with started(**place) as server:
        await server.initialize()
        await server.send(b"not json")
        await server.send(b"\x00\x00\xff\xfe")
        await server.send(b"[1, 2]")
        await server.send(
            b'{"jsonrpc":"2.0","id":900,"method":"tools/call","params":{"name":"loom_claim","arguments":7}}'
        )
        assert (await server.answer(900))["error"]["code"] == -32602
        await server.send(b'{"jsonrpc":"2.0","id":901,"method":"tools/call","params":{"name":"rm -rf"}}')
        assert (await server.answer(901))["result"]["isError"]
        for arguments in ({"title": "x" * 1_000_000}, {"title": "a\0b"}, {"title": "T", "context": [1]}, {"title": 1}):
            error = (await server.call("loom_create", **arguments))["error"]
            assert error.startswith("invalid_input: ")
            assert len(error) < 200
        assert (await server.call("loom_status"))["ready"] == 0
        assert (await server.call("loom_create", title="T"))["status"] == "pending"


async def test_a_prompt_that_cannot_be_filled_in_says_why(place: dict[str, str], tmp_path: Path) -> None:
    skills = tmp_path / "project" / ".loom" / "skills"
    skills.mkdir()
    (skills / "count.md").write_text(
        "---\nname: count\ndescription: Counts.\ninputs: {n: {type: integer}}\noutputs: {type: object}\n---\n"
        "{% for one in n %}{{ one }}{% endfor %}\n"
    )
    async with started(**place) as server:
        await server.initialize()

        async def refused(name: str, arguments: dict[str, str]) -> tuple[int, str]:
            error = (await server.ask("prompts/get", name=name, arguments=arguments))["error"]
            return error["code"], error["message"]

        code, said = await refused("write_spec", {})
        assert (code, said.startswith("invalid_input: The skill write_spec needs the input idea (")) == (-32602, True)
        code, said = await refused("define_done", {"task": "not json"})
        assert said == "invalid_input: The input task of define_done must be JSON of type object. Write it as JSON."
        code, said = await refused("count", {"n": "3"})
        assert (code, said.startswith("invalid_skill: ")) == (-32603, True)
        code, said = await refused("orchestrate", {})
        assert (code, said) == (-32602, "Unknown prompt: 'orchestrate'")
        hostile = await server.ask("prompts/get", name="worker", arguments={"agent_id": "{x} %s \u202e", "more": "1"})
        assert "agent_id={x} %s" in hostile["result"]["messages"][0]["content"]["text"]
        server.process.send_signal(signal.SIGTERM)
        await server.left()
        assert server.process.stderr is not None
        assert await server.process.stderr.read() == b""


async def test_nothing_heavy_is_imported_before_the_first_answer() -> None:
    heavy = {"asyncpg", "redis", "griffe", "loom.graph.front", "loom.services", "loom.orchestration.housekeeping"}
    code = f"""
import sys
from loom.mcp.server import build
build(lambda: None)
print(sorted({heavy} & set(sys.modules)))
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert said == b"[]\n"


async def test_a_first_list_imports_no_store_of_what_nobody_keeps() -> None:
    code = """
import sys
from loom.mcp import server, stdio
leave = stdio.end_in_time
def told():
    print("beartype" in sys.modules, file=sys.stderr)
    leave()
stdio.end_in_time = told
server.run()
"""
    async with started("-c", code, LOOM_PROJECT_DIR="/") as server:
        await server.initialize()
        for what in ("tools/list", "resources/list"):
            assert "result" in await server.ask(what)
        await server.leave()
        assert server.process.stderr is not None
        said = (await server.process.stderr.read()).decode()
    assert "False" in said
    assert "True" not in said


@pytest.mark.benchmark
async def test_ratios_to_a_server_that_does_nothing(place: dict[str, str], loom: Loom) -> None:
    """Measures, in one run, the time to the first answer (aim: 1.15 times an empty server's; 1.5 on a busy machine, the
    median of three rounds) and the medians of claim and done (aim: 2 times a tool that does nothing; 4 on a busy
    machine)."""
    tasks = [(await loom.create(f"task {number}")).id for number in range(60)]

    @asynccontextmanager
    async def both() -> AsyncIterator[tuple[Server, Server, tuple[float, float]]]:
        """The server, an empty one, and the seconds to the first answer of each."""
        began = time.perf_counter()

        async def first_answer(server: Server) -> float:
            await server.initialize()
            return time.perf_counter() - began

        async with started(**place) as server, started("-c", NO_OP, FASTMCP_ENV_FILE=os.devnull) as empty:
            yield server, empty, await asyncio.gather(first_answer(server), first_answer(empty))

    firsts = []
    for _ in range(2):
        async with both() as (_, _, first):
            firsts.append(first)
    async with both() as (server, empty, first):
        firsts.append(first)
        await server.call("loom_status")
        await asyncio.sleep(1.5)  # what it does after its start is over
        times: dict[str, list[float]] = {"nothing": [], "loom_claim": [], "loom_done": []}
        for task in tasks:
            for tool, taken in times.items():
                began = time.perf_counter()
                reply = await (empty if tool == "nothing" else server).call(tool, task_id=task)
                taken.append(time.perf_counter() - began)
                assert "error" not in reply
    medians = {tool: statistics.median(taken) for tool, taken in times.items()}
    print(firsts, {tool: f"{median * 1000:.1f} ms" for tool, median in medians.items()})  # noqa: T201
    assert statistics.median(ours / empty for ours, empty in firsts) < 1.5, firsts
    assert max(medians.values()) < 4 * medians["nothing"], medians
