"""Commands that go on while their server is killed and begins anew: `loom watch` and `loom work`, as processes."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from loom.cli import talk
from loom.exceptions import ServersError
from loom.remote import client
from tests.cli.conftest import Cli, bare, cli
from tests.remote.conftest import PATIENCE, Served

__all__ = ["bare", "cli"]

_TASKS = 9
_WITHIN = 150.0  # seconds


@pytest.fixture
def afar(cli: Cli, tmp_path: Path) -> Cli:
    """A directory that leads to a server of the project, which each test starts; nothing there knows its database."""
    directory = tmp_path / "afar"
    directory.mkdir()
    env = {name: value for name, value in cli.env.items() if not name.startswith("LOOM_")}
    token = cli.ok("token", "add", "ann", "--role", "worker")["token"]
    afar = Cli(directory, env | {"LOOM_TOKEN": token, "LOOM_MCP_HUB": "never"})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    afar.ok("init", "--remote", f"http://127.0.0.1:{port}")
    afar.env["PORT"] = str(port)
    return afar


@contextmanager
def server(cli: Cli, port: str) -> Iterator[None]:
    """A server that is killed at the end."""
    begun = cli.start("serve", "--http", "--port", port)
    try:
        assert begun.stdout is not None
        assert begun.stdout.readline().startswith("Serving at"), begun.communicate()
        yield
    finally:
        begun.kill()
        begun.communicate()


class Watching:
    """`loom watch`, and what it has said."""

    def __init__(self, afar: Cli) -> None:
        self.process = afar.start("watch", "--since", "1h", "--json")
        self.said: list[dict[str, Any]] = []
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    @property
    def done(self) -> list[str]:
        """The tasks that it has said are done, in order."""
        return [one["task_id"] for one in self.said if one["type"] == "task.done"]


@pytest.mark.timeout(300)
def test_work_and_watch_go_on_where_their_server_is_killed(cli: Cli, afar: Cli) -> None:
    port = afar.env["PORT"]
    tasks = [cli.create(f"task {number}") for number in range(_TASKS)]
    with server(cli, port):
        watching = Watching(afar)
        working = afar.start("work", "--agents", "3", "--", "sh", "-c", "sleep 0.4; echo run >> runs; echo '{}'")
        begun = time.monotonic()
        while len(watching.done) < 2:
            assert time.monotonic() < begun + _WITHIN, "work begins"
            time.sleep(0.1)
    with server(cli, port):
        until = time.monotonic() + 20
        while len(watching.done) < 5 and time.monotonic() < until:
            time.sleep(0.1)
    with server(cli, port):
        out, err = working.communicate(timeout=_WITHIN)
        assert working.returncode == 0, out + err
        begun = time.monotonic()
        while len(watching.done) < _TASKS and time.monotonic() < begun + _WITHIN:
            time.sleep(0.1)
        assert watching.process.poll() is None, "it goes on"
        watching.process.terminate()
        _, said = watching.process.communicate(timeout=30)
    assert "Traceback" not in err + said
    assert sorted(watching.done) == sorted(tasks), "each once"
    found = [cli.ok("show", task) for task in tasks]
    assert Counter(one["status"] for one in found) == {"done": _TASKS}
    assert {one["attempt"].split()[0] for one in found} == {"1"}, "none was given back or begun twice"
    assert (afar.directory / "runs").read_text().split() == ["run"] * _TASKS


@pytest.mark.timeout(300)
async def test_who_follows_a_server_waits_for_it_however_long_it_is_away(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_PATIENCE", 0.0)
    async with served.remote(monkeypatch, "ann", "reader") as remote:
        since = (await remote.wait("any", timeout=0)).since
        proper, remote._client.url = remote._client.url, "http://127.0.0.1:1"
        following = asyncio.create_task(talk._next(remote, since, 5.0))
        await asyncio.sleep(1.5)
        assert not following.done()
        with pytest.raises(ServersError, match="does not answer"):
            await talk._next(remote, since, 0)
        with pytest.raises(ServersError, match="does not answer"):
            await talk._next(remote, None, 5.0)
        remote._client.url = proper
        made = await served.loom.create("a task")
        async with asyncio.timeout(PATIENCE):
            assert [event.task_id for event in (await following).events] == [made.id]
