"""Telling people, wherever they are, that something waits for them: by Slack, ntfy, a webhook or a command of theirs.

`receivers.py` says who is told, `news.py` what of the events, in which words, `senders.py` how it gets there,
`teller.py` when, by which of several processes, and what becomes of it while the other side is away. `digest.py` writes
days down.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from loom.orchestration.notices.digest import Diary
from loom.orchestration.notices.receivers import of_project
from loom.orchestration.notices.teller import Teller

if TYPE_CHECKING:
    from loom.graph.front import Loom


def start(loom: Loom) -> list[asyncio.Task[None]]:
    """Begins to tell people of a project, in the running event loop; returns what goes on until it is cancelled."""
    wanted = of_project(loom.config)
    told = [one for one in wanted if one.row.kind != "obsidian"]
    written = [one for one in wanted if one.row.kind == "obsidian"]
    tasks = [asyncio.create_task(Teller(loom, told).run(), name="loom notices")] if told else []
    return [*tasks, *([asyncio.create_task(Diary(loom, written).run(), name="loom digest")] if written else [])]
