"""The board as the hub serves it: a link, a cookie, a port for each project, and nothing for who is inside of a run."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from loom.graph.front import Loom
from loom.hub import connections
from loom.hub.door import Hub
from tests.hub.conftest import knock, serving


@pytest.fixture
async def hub(root: Path, home: dict[str, str]) -> AsyncIterator[Hub]:
    async with serving(root) as hub:
        yield hub


async def link(root: Path, environ: dict[str, str], **more: str) -> str:
    connection = await knock(root, environ, "board", **({"agent": "ada"} | more))
    await connection.hang_up()
    assert connection.said.get("ok"), connection.said
    return str(connection.said["url"])


async def test_a_link_opens_the_board_and_who_came_by_it_acts_under_his_name(
    hub: Hub, root: Path, home: dict[str, str], loom: Loom
) -> None:
    url = await link(root, home)
    address = url.partition("/enter")[0]
    async with httpx2.AsyncClient(base_url=address, timeout=30, follow_redirects=True) as client:
        assert (await client.get("/")).status_code == 401
        page = await client.get(url)
        assert page.status_code == 200
        assert "Nothing." in page.text
        form = {"title": "Paint the wall"}
        assert (await client.post("/new", data=form)).status_code == 403
        made = await client.post("/new", data=form, headers={"origin": address})
        assert "Paint the wall" in made.text
    [event] = await loom.events()
    assert (event.type, event.agent) == ("task.created", "ada")
    async with httpx2.AsyncClient(base_url=address, timeout=30) as other:
        assert (await other.get(url)).status_code == 403


async def test_each_project_has_a_port_of_its_own_and_keeps_it(
    root: Path, home: dict[str, str], tmp_path: Path, loom: Loom
) -> None:
    other = tmp_path / "other"
    shutil.copytree(home["LOOM_PROJECT_DIR"], other)
    config = other / ".loom" / "config.yaml"
    config.write_text(config.read_text().replace(loom.project_id, str(uuid.uuid4())))
    async with serving(root):
        first, second, again = [
            await link(root, home | {"LOOM_PROJECT_DIR": str(one)})
            for one in (home["LOOM_PROJECT_DIR"], other, home["LOOM_PROJECT_DIR"])
        ]
        assert urlsplit(first).port == urlsplit(again).port != urlsplit(second).port
        async with httpx2.AsyncClient(timeout=30, follow_redirects=True) as client:
            assert (await client.get(first)).status_code == 200
            # The cookie of one board is seen by the other, which it does not let in.
            assert (await client.get(second.partition("/enter")[0])).status_code == 401
            assert (await client.get(second)).status_code == 200
            assert (await client.get(first.partition("/enter")[0])).status_code == 200
    async with serving(root):
        assert urlsplit(await link(root, home)).port == urlsplit(first).port


async def test_whoever_is_at_a_board_has_nothing_of_the_hubs_variables(
    hub: Hub, root: Path, home: dict[str, str], loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await loom.create("a task")
    await loom.done(made.id)
    url = await link(root, home)
    monkeypatch.setenv("LOOM_RUN", "a.1.")  # as of a hub that somebody has started from within a run
    address = url.partition("/enter")[0]
    async with httpx2.AsyncClient(base_url=address, timeout=30) as client:
        await client.get(url)
        done = await client.post(f"/do/reopen/{made.id}", data={}, headers={"origin": address})
        assert done.status_code == 303, done.text


async def test_who_says_nothing_to_a_board_is_let_go(
    hub: Hub, root: Path, home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_HEAD_WITHIN", 0.5)
    address = urlsplit(await link(root, home))
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()


async def test_nobody_inside_of_a_run_gets_a_link(hub: Hub, root: Path, home: dict[str, str]) -> None:
    for environ, agent, code in (
        (home | {"LOOM_RUN": "1"}, "ada", "task_state"),
        (home, "not a name", "invalid_input"),
    ):
        refused = await knock(root, environ, "board", agent=agent)
        assert refused.said["error"]["code"] == code
        await refused.hang_up()
    nowhere = await knock(root, home | {"LOOM_PROJECT_DIR": str(root)}, "board")
    assert "error" in nowhere.said
    await nowhere.hang_up()
