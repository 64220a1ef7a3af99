"""Who comes into a board: codes, cookies, and from where."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from loom.graph.front import Loom
from loom.graph.model.principals import CODE_SECONDS, COOKIE_SECONDS, Principal, Role
from loom.web import entry
from loom.web.app import board
from loom.web.entry import Entries, Gate
from tests.web.conftest import PATIENCE, served

EVE = Principal("eve", Role.READER)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time by which codes and cookies end."""
    made = Clock()
    monkeypatch.setattr(entry, "monotonic", made)
    return made


def test_a_code_lets_in_once_and_within_a_minute(clock: Clock) -> None:
    entries = Entries[str]()
    code = entries.code("shop")
    cookie = entries.admit(code)
    assert cookie is not None
    assert entries.visit(cookie) == "shop"
    assert entries.admit(code) is None
    late = entries.code("shop")
    clock.now += CODE_SECONDS
    assert entries.admit(late) is None
    for wrong in ("", "x", code, "\udc00"):
        assert entries.admit(wrong) is None
        assert entries.visit(wrong) is None


def test_a_cookie_holds_while_it_comes(clock: Clock) -> None:
    entries = Entries[str]()
    cookie = entries.admit(entries.code("shop")) or ""
    for _ in range(3):
        clock.now += COOKIE_SECONDS - 1
        assert entries.visit(cookie) == "shop"
    clock.now += COOKIE_SECONDS
    assert entries.visit(cookie) is None


def test_what_is_kept_opens_nothing_and_is_not_without_end() -> None:
    entries = Entries[int]()
    codes = [entries.code(number) for number in range(1_100)]
    kept = repr(vars(entries))
    assert not any(code in kept for code in codes)
    assert entries.admit(codes[0]) is None
    assert entries.admit(codes[-1]) is not None


def test_whose_cookie_comes_is_not_pushed_out_by_those_that_do_not() -> None:
    entries = Entries[int]()
    coming, silent = [entries.admit(entries.code(number)) or "" for number in range(2)]
    for _ in range(1_100):
        entries.admit(entries.code(2))
        assert entries.visit(coming) == 0
    assert entries.visit(silent) is None


@pytest.fixture
async def gate(loom: Loom) -> AsyncIterator[tuple[str, Entries[str]]]:
    """The address of a board with its gate, and its entries."""
    entries = Entries[str]()

    @asynccontextmanager
    async def serving(visit: str) -> AsyncIterator[Loom]:
        yield loom if visit == "shop" else loom.beside(principal=EVE)

    hosts = set[str]()
    gated = Gate(board(), entries, serving, hosts=hosts, cookie="loom-x")
    async with served(gated) as address:
        hosts.add(address.removeprefix("http://"))
        yield address, entries


async def test_a_link_becomes_a_cookie_that_no_script_and_no_other_site_gets(gate: tuple[str, Entries[str]]) -> None:
    address, entries = gate
    async with httpx2.AsyncClient(base_url=address, timeout=PATIENCE) as client:
        for path in ("/", "/board", "/live", "/static/board.css", "/enter", "/enter?code=x", "/nowhere"):
            answer = await client.get(path)
            assert answer.status_code in (401, 403), path
            assert "loom board" in answer.text
        link = f"/enter?code={entries.code('shop')}"
        entered = await client.get(link)
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        said = entered.headers["set-cookie"].lower()
        assert "httponly" in said
        assert "samesite=strict" in said
        assert (await client.get("/")).status_code == 200
        assert (await client.get(link)).status_code == 403
    async with httpx2.AsyncClient(base_url=address, timeout=PATIENCE) as other:
        assert (await other.get(link)).status_code == 403
        assert (await other.get("/")).status_code == 401


async def test_who_follows_a_link_from_another_site_is_sent_once_more_from_here(
    gate: tuple[str, Entries[str]], loom: Loom
) -> None:
    address, entries = gate
    await loom.create("Paint the wall")
    elsewhere = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    async with httpx2.AsyncClient(base_url=address, timeout=PATIENCE) as client:
        first = await client.get("/board?q=wall", headers=elsewhere)
        assert (first.status_code, first.headers["cache-control"]) == (200, "no-store")
        assert "http-equiv=refresh content=0" in first.text
        assert not any(word in first.text for word in ("wall", "board?", loom.config.project_name))
        again = elsewhere | {"sec-fetch-site": "same-origin"}
        assert (await client.get("/board", headers=again)).status_code == 401, "not once more without end"
        for other in ({"sec-fetch-mode": "cors"}, {"sec-fetch-dest": "iframe"}, {"sec-fetch-site": "none"}):
            assert (await client.get("/", headers=elsewhere | other)).status_code == 401, other
        assert (await client.get("/", headers=elsewhere | {"host": "rebound.example.com"})).status_code == 421
        posted = await client.post("/new", data={"title": "x"}, headers=elsewhere | {"origin": address})
        assert posted.status_code == 401
        await client.get(f"/enter?code={entries.code('shop')}", headers=elsewhere)
        assert "Paint the wall" in (await client.get("/board", headers=again)).text
        assert "Paint the wall" in (await client.get("/board", headers=elsewhere)).text, "his cookie has come along"


async def test_nothing_is_done_for_another_sites_page(gate: tuple[str, Entries[str]], loom: Loom) -> None:
    address, entries = gate
    async with httpx2.AsyncClient(base_url=address, timeout=PATIENCE) as client:
        await client.get(f"/enter?code={entries.code('shop')}")
        form = {"title": "Mine"}
        for origin in (None, "null", "http://example.com", address.replace("127.0.0.1", "127.0.0.2")):
            answer = await client.post("/new", data=form, headers={} if origin is None else {"origin": origin})
            assert answer.status_code == 403
        assert (await client.get("/", headers={"host": "rebound.example.com"})).status_code == 421
        assert (await loom.find("Mine")).tasks == []
        assert (await client.post("/new", data=form, headers={"origin": address})).status_code == 303


async def test_a_principal_does_what_his_role_may(gate: tuple[str, Entries[str]]) -> None:
    address, entries = gate
    async with httpx2.AsyncClient(base_url=address, timeout=PATIENCE) as client:
        await client.get(f"/enter?code={entries.code('eve')}")
        assert "New task" not in (await client.get("/")).text
        assert (await client.post("/new", data={"title": "x"}, headers={"origin": address})).status_code == 403
