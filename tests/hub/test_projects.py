"""Which projects the hub keeps open, with nobody there who uses them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from loom.config import LoomConfig, ReceiverConfig
from loom.hub.projects import Projects
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
