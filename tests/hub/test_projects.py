"""Which projects the hub keeps open, with nobody there who uses them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from loom.config import LoomConfig, ReceiverConfig
from loom.hub.projects import OpenProject, Projects
from tests.waiting import until


async def test_a_project_that_people_are_told_of_stays_open(config: LoomConfig, tmp_path: Path) -> None:
    directory = tmp_path / "shop"
    directory.mkdir()
    plain = replace(config, project_dir=directory)
    told = replace(plain, notify={"me": ReceiverConfig(command=("true",))})
    projects = Projects(idle=0.4)
    try:
        projects.project(plain)
        stays = projects.project(told)
        await until(lambda: len(projects) == 1)
        await asyncio.sleep(1)
        assert projects.project(told) is stays
        projects.project(plain)  # its configuration tells nobody any more
        await until(lambda: len(projects) == 0)
        projects.project(told)
        await asyncio.sleep(1)
        assert len(projects) == 1
        directory.rmdir()
        await until(lambda: len(projects) == 0)
    finally:
        await projects.close()


async def test_a_receiver_of_other_projects_keeps_none_open(config: LoomConfig) -> None:
    projects = Projects(idle=0.4)
    try:
        row = ReceiverConfig(command=("true",), projects=("another",))
        projects.project(replace(config, notify={"me": row}))
        await until(lambda: len(projects) == 0)
    finally:
        await projects.close()


async def test_a_project_that_is_used_again_while_another_is_closed_stays_open(
    config: LoomConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects = Projects(idle=0.4)
    try:
        first, second = projects.project(config), projects.project(replace(config, project_name="another"))
        close = first.close

        async def closed() -> None:
            second.users += 1
            await close()

        monkeypatch.setattr(first, "close", closed)
        await until(lambda: len(projects) == 1)
        await asyncio.sleep(1)
        assert projects.project(replace(config, project_name="another")) is second
    finally:
        await projects.close()


async def test_one_that_is_being_closed_is_closed_before_all_are(
    config: LoomConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects, steps = Projects(idle=0.4), []
    project = projects.project(config)
    close = project.close

    async def slowly() -> None:
        steps.append("begun")
        await asyncio.sleep(0.5)
        await close()
        steps.append("closed")

    monkeypatch.setattr(project, "close", slowly)
    await until(lambda: steps)
    await projects.close()
    assert steps == ["begun", "closed"]


async def test_connections_are_given_back_where_the_housekeeper_does_not_stop(
    config: LoomConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loom.hub.projects._CLOSES_WITHIN", 1.0)
    projects = Projects()
    project = projects.project(config)
    await project.front.connect()
    stop = project._housekeeper.stop
    monkeypatch.setattr(project._housekeeper, "stop", asyncio.Event().wait)
    await projects.close()
    assert not project.front.links.open
    await stop()


async def test_connections_are_given_back_where_who_closes_them_is_cancelled(
    config: LoomConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, begun = OpenProject(config), asyncio.Event()
    project.start()
    await project.front.connect()
    stop = project._housekeeper.stop

    async def hangs() -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(project._housekeeper, "stop", hangs)
    closing = asyncio.create_task(project.close())
    await begun.wait()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not project.front.links.open
    await stop()


async def test_what_all_share_has_nobodys_name_and_key(config: LoomConfig) -> None:
    projects = Projects()
    try:
        front = projects.project(replace(config, agent_id="ann", skills_api_key="sk-ann")).front
        assert (front.config.agent_id, front.config.skills_api_key, front.agent) == (None, None, "hub")
    finally:
        await projects.close()
