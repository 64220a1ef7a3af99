"""The short form of `tests.fuzz`."""

from __future__ import annotations

from loom.config import LoomConfig
from loom.graph.front import Loom
from tests import fuzz
from tests.mcp.stdio import started


async def test_calls_at_random_harm_nothing(place: dict[str, str], loom: Loom, config: LoomConfig) -> None:
    await loom.connect()
    assert config.database.url is not None
    async with started(**place) as server:
        assert await fuzz.play(server, config.database.url, seed=1, calls=250) == []
    assert [verdict for verdict in await loom.doctor() if not verdict.holds] == []
