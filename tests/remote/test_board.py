"""The board of a team's server: whoever has a token gets a link, and does there what his role may."""

from __future__ import annotations

import httpx2
import pytest

from loom.cli.board import link_from_afar
from loom.exceptions import TokenError
from tests.remote.conftest import Served


async def test_a_token_is_worth_a_link_to_the_board(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TokenError):
        await link_from_afar(served.url)
    monkeypatch.setenv("LOOM_TOKEN", await served.token("eve", "reader"))
    link = await link_from_afar(served.url)
    async with httpx2.AsyncClient(base_url=served.url, timeout=30, follow_redirects=True) as client:
        page = await client.get(link)
        assert page.status_code == 200
        assert "eve" in page.text
        assert "New task" not in page.text
        refused = await client.post("/new", data={"title": "Mine"}, headers={"origin": served.url})
        assert refused.status_code == 403
    async with httpx2.AsyncClient(base_url=served.url, timeout=30) as other:
        assert (await other.get(link)).status_code == 401
