"""Who is told of a project, and how far each has been told."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.graph.store import notices

if TYPE_CHECKING:
    from loom.config import LoomConfig, ReceiverConfig
    from loom.graph.front import Loom
    from loom.graph.store.notices import Cursor


@dataclass(frozen=True, slots=True)
class Receiver:
    """One receiver of a project's news: its row of the configuration, and what its cursor is called."""

    name: str
    row: ReceiverConfig
    key: str

    @classmethod
    def of(cls, name: str, row: ReceiverConfig) -> Receiver:
        """A receiver. Two that have a name in common and lead elsewhere are two."""
        kind = row.kind or ""
        where = [kind, getattr(row, kind)]
        if kind in ("command", "obsidian"):  # what runs and lies here is not that of another machine or user
            where += [socket.gethostname(), os.getuid()]
        return cls(name, row, f"{name}/{hashlib.sha256(json.dumps(where).encode()).hexdigest()[:12]}")


def of_project(config: LoomConfig) -> list[Receiver]:
    """Who is told of this project."""
    return [
        Receiver.of(name, row)
        for name, row in config.notify.items()
        if row.kind and (not row.projects or {config.project_name, config.project_id} & set(row.projects))
    ]


async def cursors_of(loom: Loom, wanted: Sequence[Receiver]) -> dict[str, Cursor]:
    """The cursors of some receivers, by their keys, each made where it is missing."""
    keys = [one.key for one in wanted]

    async def read() -> dict[str, Cursor]:
        return await loom.look(lambda connection: notices.cursors(connection, loom.project_id, keys))

    found = await read()
    if any(key not in found or found[key].strange for key in keys):
        await loom.transact(lambda tx: notices.enter(tx, keys))
        found = await read()
    return found
