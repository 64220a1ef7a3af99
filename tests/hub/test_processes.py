"""The hub as a process: how it begins, whom it makes room for, what its end leaves, and what serves where it cannot."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import httpx2
import pytest

from loom import bridge
from loom.config import load_config
from loom.graph.front import Loom
from loom.graph.model.task import TaskStatus
from loom.hub import running
from loom.services import places
from loom.services.launcher import is_locked
from tests.hub.conftest import knock, serving
from tests.mcp.stdio import started
from tests.waiting import until


@pytest.fixture
def here(root: Path, home: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The variables of a user whose sessions are served by a hub; it ends with the test."""
    here = home | {"LOOM_DATA_DIR": os.environ["LOOM_DATA_DIR"], "LOOM_MCP_HUB": "auto"}
    monkeypatch.setenv("LOOM_MCP_HUB", "auto")
    yield here
    running.end(load_config(Path(home["LOOM_PROJECT_DIR"])))
    assert pids(root) == []


def pids(root: Path) -> list[int]:
    """The hubs of an instance that live."""
    return [int(file.name) for file in (root / "hubs").glob("*") if is_locked(file)]


async def gone(root: Path, pid: int) -> None:
    """Waits until a hub has ended."""
    await until(lambda: pid not in pids(root))


async def test_the_first_session_starts_a_hub_and_all_are_served_there(
    here: dict[str, str], root: Path, loom: Loom
) -> None:
    async with started(**here) as first, started("-m", "loom", "mcp", **here) as second:
        assert (await first.initialize())["serverInfo"]["name"] == "loom"
        await second.initialize()
        assert len(pids(root)) == 1
        assert "counts" in await first.call("loom_status")
        assert "counts" in await second.call("loom_status")
        for server in (first, second):
            assert Path(f"/proc/{server.process.pid}/cmdline").exists()
        found = bridge.ask(str(root), "status")
        assert found is not None
        found[0].close()
        assert found[1] | {"pid": 0} == {"ok": True, "version": bridge.VERSION, "pid": 0, "sessions": 2, "projects": 1}
    assert (root / bridge.SOCKET).stat().st_mode & 0o777 == 0o600


async def test_several_that_are_started_at_once_make_one_hub(here: dict[str, str], root: Path) -> None:
    env = dict(os.environ) | here
    starting = [
        await asyncio.create_subprocess_exec(sys.executable, "-P", "-m", "loom.hub", "default", env=env)
        for _ in range(4)
    ]
    assert [await one.wait() for one in starting] == [0] * 4
    await until(lambda: len(pids(root)) == 1)
    found = bridge.ask(str(root), "status")
    assert found is not None
    assert found[1]["pid"] == pids(root)[0]
    found[0].close()


async def test_a_hub_that_was_killed_leaves_nothing_in_the_way_and_claims_that_hold(
    here: dict[str, str], root: Path, loom: Loom
) -> None:
    task = await loom.create("One")
    session = here | {"CLAUDE_CODE_SESSION_ID": "12345678-0"}
    async with started(**session) as before:
        await before.initialize()
        claimed = await before.call("loom_claim")
        (killed,) = pids(root)
        os.kill(killed, signal.SIGKILL)
        await before.left()
    assert (root / bridge.SOCKET).exists()  # stale
    async with started(**session) as after:
        await after.initialize()
        assert pids(root) != [killed]
        done = await after.call("loom_done", task_id=task.id, token=claimed["token"])
        assert done["status"] == "done"


async def test_one_that_was_killed_before_it_listened_leaves_nothing_behind(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    lies_there = root / f"{bridge.SOCKET}.new"
    lies_there.touch()
    async with serving(root):
        assert bridge.listens(str(root))
        assert not lies_there.exists()


async def test_a_hub_makes_room_for_one_of_a_newer_version_and_serves_whom_it_has(
    here: dict[str, str], root: Path, loom: Loom
) -> None:
    await loom.create("One")
    async with started(**here) as session:
        await session.initialize()
        (old,) = pids(root)
        newer = await knock(root, here, version="999.0")
        assert newer.said["error"]["code"] == "older"
        older = await knock(root, here, version="1.0")
        assert older.said["error"]["code"] == "newer"
        for refused in (newer, older):
            await refused.hang_up()
        retired = bridge.ask(str(root), "retire")
        assert retired is not None
        retired[0].close()
        async with started(**here) as other:
            await other.initialize()
            assert len(pids(root)) == 2
            claimed = await session.call("loom_claim")
            assert (await session.call("loom_done", task_id=claimed["id"]))["status"] == "done"
            assert "counts" in await other.call("loom_status")
            assert old in pids(root)
        assert session.process.stdin is not None
        session.process.stdin.close()
        await session.left()
    await gone(root, old)
    assert len(pids(root)) == 1
    assert (root / bridge.SOCKET).exists()


async def test_a_hub_whose_name_is_taken_away_leaves_with_its_last_session(here: dict[str, str], root: Path) -> None:
    assert running.start(load_config(Path(here["LOOM_PROJECT_DIR"])))
    (pid,) = pids(root)
    (root / bridge.SOCKET).unlink()
    await gone(root, pid)


async def test_all_hubs_end_with_down_and_their_claims_come_back(here: dict[str, str], root: Path, loom: Loom) -> None:
    task = await loom.create("One")
    config = load_config(Path(here["LOOM_PROJECT_DIR"]))
    async with started(**here) as old:
        await old.initialize()
        await old.call("loom_claim")
        retired = bridge.ask(str(root), "retire")
        assert retired is not None
        retired[0].close()
        assert running.start(config)
        assert running.start(config)  # changes nothing
        assert len(pids(root)) == 2
        assert running.end(config) == 2
        assert pids(root) == []
        assert not (root / bridge.SOCKET).exists()
        await old.left()
    found = (await loom.get(task.id)).task
    assert (found.status, found.attempt) == (TaskStatus.PENDING, 0)
    assert running.end(config) == 0


async def test_a_hub_in_the_foreground_has_no_more_of_its_shells_variables(
    here: dict[str, str], root: Path, loom: Loom
) -> None:
    nowhere = {"PGHOST": "nowhere.example.org", "PGPORT": "1", "PGSSLMODE": "verify-full", "OPENAI_API_KEY": "sk-x"}
    shell = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | here | nowhere
    hub = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loom", "serve", "--json", env=shell, stdout=asyncio.subprocess.PIPE
    )
    assert hub.stdout is not None
    try:
        assert b"hub.sock" in await asyncio.wait_for(hub.stdout.readline(), 30)
        assert pids(root) == [hub.pid]
        async with started(**here) as session:
            await session.initialize()
            assert "counts" in await session.call("loom_status")
    finally:
        hub.terminate()
        await asyncio.wait_for(hub.wait(), 30)


async def test_with_a_full_disk_it_serves_all_the_same(here: dict[str, str], root: Path, loom: Loom) -> None:
    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    begun = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "loom.hub", "default", env=dict(os.environ) | here, preexec_fn=full
    )
    assert await begun.wait() == 0
    await loom.create("One")
    async with started(**here) as server:
        await server.initialize()
        claimed = await server.call("loom_claim")
        assert (await server.call("loom_done", task_id=claimed["id"]))["status"] == "done"
        assert len(pids(root)) == 1


@pytest.mark.parametrize("why", ["never", "direct", "hangs", "no hub", "other home", "stopped", "inside a run"])
async def test_where_no_hub_serves_the_process_does(why: str, here: dict[str, str], root: Path, loom: Loom) -> None:
    words, mine, hung = ["-m", "loom.mcp"], dict(here), 0
    match why:
        case "never":
            mine["LOOM_MCP_HUB"] = "never"
        case "direct":
            words = ["-m", "loom", "mcp", "--direct"]
        case "hangs":
            assert running.start(load_config(Path(here["LOOM_PROJECT_DIR"])))
            (hung,) = pids(root)
            os.kill(hung, signal.SIGSTOP)
        case "no hub":
            (root / "hub.log").mkdir()  # so that none can begin
        case "other home":
            assert running.start(load_config(Path(here["LOOM_PROJECT_DIR"])))
            mine["HOME"] = str(root)
        case "stopped":
            (root / "instance.json").write_text('{"secret": "x", "stopped": true}')
        case "inside a run":
            mine["LOOM_RUN"] = "a.1."
    before = pids(root)
    try:
        if hung:
            assert not running.start(load_config(Path(here["LOOM_PROJECT_DIR"])))
        task = await loom.create("One")
        async with started(*words, **mine) as server:
            await server.initialize()
            assert (await server.call("loom_claim"))["id"] == task.id
            server.process.send_signal(signal.SIGTERM)
            await server.left()
        assert (await loom.get(task.id)).task.status is TaskStatus.PENDING  # given back at once
        assert pids(root) == before
    finally:
        if hung:
            os.kill(hung, signal.SIGCONT)
        with suppress(OSError):
            (root / "hub.log").rmdir()


def test_no_hub_is_started_beside_one_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for the name as long as clients wait for a server."""
    monkeypatch.setattr(bridge, "_ANSWERS_WITHIN", 0.1)
    monkeypatch.setattr(bridge, "start", lambda root: pytest.fail("another one is started"))
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / bridge.SOCKET))
        deaf.listen()
        assert bridge._connected(str(tmp_path)) is None


async def test_traces_of_a_session_go_where_its_own_variables_say(here: dict[str, str], root: Path, loom: Loom) -> None:
    assert running.start(load_config(Path(here["LOOM_PROJECT_DIR"])))
    asks = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    for more, code in (({}, None), (asks, "direct"), (asks | {"OTEL_SDK_DISABLED": "true"}, None)):
        come = await knock(root, here | more)
        assert come.said.get("error", {}).get("code") == code
        await come.hang_up()


async def test_an_instance_deep_below_is_reached(
    tmp_path: Path, home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    monkeypatch.setenv("LOOM_DATA_DIR", str(deep))
    monkeypatch.setenv("LOOM_MCP_HUB", "auto")
    config = load_config(Path(home["LOOM_PROJECT_DIR"]))
    root = Path(bridge.instance_dir("default"))
    try:
        async with started(**home, LOOM_DATA_DIR=str(deep), LOOM_MCP_HUB="auto") as server:
            await server.initialize()
            assert "counts" in await server.call("loom_status")
            assert len(pids(root)) == 1
    finally:
        running.end(config)


async def test_a_hub_goes_on_when_another_version_takes_the_place_of_its_files(
    here: dict[str, str], root: Path, loom: Loom, tmp_path: Path
) -> None:
    installed = tmp_path / "installed"
    shutil.copytree(Path(bridge.__file__).parent, installed / "loom", ignore=shutil.ignore_patterns("__pycache__"))
    ahead, says = installed / "loom" / "ahead.py", '    _LOG.info("All has been read ahead'
    told = ahead.read_text().replace(says, f"    open({str(tmp_path / 'all read')!r}, 'w').close()\n{says}")
    ahead.write_text(told)
    words = (sys.executable, "-P", "-m", "loom.hub", "default")
    env = dict(os.environ) | here | {"PYTHONPATH": str(installed)}
    starting = await asyncio.create_subprocess_exec(*words, env=env)
    assert await starting.wait() == 0
    session = await knock(root, here)
    await session.initialize()
    await until((tmp_path / "all read").exists)
    for file in installed.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            file.write_text("raise ImportError('another version')\n")
    assert "plan" in str(await session.call("loom_decompose", goal="Something"))
    assert "ship_feature" in str(await session.call("loom_workflow", action="list"))
    board = await knock(root, here, want="board")
    async with httpx2.AsyncClient(follow_redirects=True) as browser:
        page = await browser.get(board.said["url"])
        (style,) = re.findall(r'href="(/static/board\.css[^"]*)"', page.text)
        assert "another version" not in (await browser.get(page.url.join(style))).raise_for_status().text
    assert "another version" not in (root / "hub.log").read_text()
    for connection in (session, board):
        await connection.hang_up()


def test_the_bridge_imports_nothing_of_loom_and_little_else() -> None:
    code = "import sys; before = set(sys.modules); import loom.cli, loom.bridge; print(*sys.modules.keys() - before)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    imported = done.stdout.split()
    assert {name for name in imported if name.startswith("loom")} == {"loom", "loom.cli", "loom.bridge"}
    for name in (
        "click",
        "pydantic",
        "asyncio",
        "typing",
        "subprocess",
        "pathlib",
        "importlib.metadata",
        "dataclasses",
    ):
        assert name not in imported


def test_the_bridge_knows_what_the_rest_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert version("loom-agents") == bridge.VERSION
    for variables in ({"LOOM_DATA_DIR": "here"}, {"LOOM_DATA_DIR": "~/data"}, {}):
        monkeypatch.delenv("LOOM_DATA_DIR", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert str(places.data_dir()) == bridge.data_dir()
        assert Path(bridge.data_dir()).is_absolute()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("mcp:\n  hub: never\n", "never"),
        ("mcp:\n  port: 1\n  # hub: auto\n\n  hub: 'never' # x\nservers:\n  hub: auto\n", "never"),
        ("servers:\n  hub: never\n", ""),
        ("mcp: {port: 1, hub: never}\n", "never"),
        ("", ""),
        ("mcp:\nproject_name: 'hub: never'\n", ""),
    ],
)
def test_what_a_configuration_says_of_the_hub_is_found_without_reading_yaml(text: str, found: str) -> None:
    assert bridge.wanted(text, "mcp", "hub") == found


def test_a_hub_carries_nobodys_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "GH_TOKEN", "PGPASSFILE")
    for name in (*keys, "LOOM_AGENT_ID", "CLAUDE_CODE_SESSION_ID", "PYTHONOPTIMIZE", "PYTHONINSPECT"):
        assert not bridge._is_everybodys(name)
    for name in ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH"):
        assert bridge._is_everybodys(name)
