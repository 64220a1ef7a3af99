"""Makes the pictures of docs/browser.md anew:

    uv run --with playwright --with pillow python -m tests.web.pictures --chromium /usr/bin/chromium

It plays a small project on the servers of LOOM_TEST_DATABASE_URL and LOOM_TEST_REDIS_URL, or of the embedded instance
`measure`, and takes each page in light and dark. With `--all DIRECTORY` it takes every page, also as narrow as a
telephone, for whoever wants to look at them, and leaves the documentation alone.
"""

from __future__ import annotations

import argparse
import asyncio
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from loom.graph.front import Loom
from loom.web.app import board
from tests.web.conftest import letting_in, served
from tests.web.measure import config

_PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
_SIZE = {"width": 1280, "height": 760}
_WIDTHS = (1280, 390)  # pixels of those that are only looked at
_COLOURS = 255  # of the palette that keeps what is rare, as a sign's red; less than half of the bytes
_DRAWN = 700  # milliseconds until a page has settled

_PLAN: list[dict[str, Any]] = [
    {"key": "cart", "title": "The cart", "type": "epic"},
    {"key": "pay", "title": "Payment", "type": "epic", "priority": "p0"},
    {"key": "ship", "title": "Shipping", "type": "epic"},
    {"key": "model", "title": "Describe a cart and its lines", "parent": "cart"},
    {"key": "store", "title": "Keep carts for thirty days", "parent": "cart", "depends_on": ["model"]},
    {"key": "total", "title": "Add up a cart, with taxes", "parent": "cart", "depends_on": ["model"]},
    {"key": "voucher", "title": "Take vouchers", "parent": "cart", "depends_on": ["total"]},
    {"key": "cartpage", "title": "The page of the cart", "parent": "cart", "depends_on": ["store", "total"]},
    {"key": "provider", "title": "Choose who takes payments", "parent": "pay", "priority": "p0"},
    {"key": "charge", "title": "Charge a card", "parent": "pay", "depends_on": ["provider", "total"]},
    {"key": "refund", "title": "Give money back", "parent": "pay", "depends_on": ["charge"]},
    {"key": "receipt", "title": "Send a receipt", "parent": "pay", "depends_on": ["charge"]},
    {"key": "rates", "title": "Read the carriers' rates", "parent": "ship"},
    {"key": "label", "title": "Print a label", "parent": "ship", "depends_on": ["rates"]},
    {"key": "track", "title": "Tell where a parcel is", "parent": "ship", "depends_on": ["label", "receipt"]},
    {"key": "search", "title": "Search the catalogue by words", "labels": ["catalogue"]},
    {"key": "images", "title": "Shrink pictures when they are uploaded", "labels": ["catalogue"]},
    {"key": "feed", "title": "Bring in the suppliers' price lists", "labels": ["catalogue"]},
    {"key": "checkout", "title": "From the cart to a paid order", "depends_on": ["cartpage", "charge"]},
    {"key": "launch", "title": "Open the shop", "depends_on": ["checkout", "track", "search"], "priority": "p0"},
]
_BRIEF = {"files": ["shop/totals.py", "shop/taxes.py"], "rule": "Round each line, then add; never the other way round."}


async def play(loom: Loom) -> str:
    """A project in the middle of its work. Returns the task to show."""
    tasks = await loom.apply_plan({"tasks": _PLAN})
    ids = {draft["key"]: task.id for draft, task in zip(_PLAN, tasks, strict=True)}
    for key, agent in (("model", "ada"), ("rates", "lin"), ("search", "kay")):
        await loom.claim(ids[key], agent_id=agent)
        await loom.done(ids[key], {"summary": "Built, with tests."}, agent_id=agent)
    await loom.update(ids["total"], context=_BRIEF, done_when="Ten carts of last year come to the same cent.")
    await loom.claim(ids["total"], agent_id="ada")
    await loom.fail(ids["total"], "The tests of taxes are red for books.", retry=True, agent_id="ada")
    await loom.resolve(ids["total"], "retry", note="Books have the reduced rate.")
    for key, agent in (("total", "ada"), ("store", "lin"), ("images", "kay")):
        await loom.claim(ids[key], agent_id=agent)
    await loom.claim(ids["provider"], agent_id="eve")
    await loom.escalate(ids["provider"], "Stripe or Adyen? Adyen asks for a contract first.", agent_id="eve")
    await loom.claim(ids["feed"], agent_id="max")
    await loom.fail(ids["feed"], "Two suppliers send a price without a currency.", retry=False, agent_id="max")
    await loom.note(ids["total"], "The rates are those of this year.")
    return ids["total"]


async def take(chromium: str, everything: Path | None) -> None:
    from playwright.async_api import async_playwright

    made = replace(config(), project_name="Shop")
    async with Loom(made, agent="you") as loom, async_playwright() as playwright:
        await loom.connect()
        task_id = await play(loom)
        shown = {"now": "/", "board": "/board", "task": f"/tasks/{task_id}", "graph": "/graph"}
        others = {
            "new": "/new", "doctor": "/doctor", "events": "/events", "text": "/graph/text", "missing": "/nowhere",
            "lanes": "/board?by=epic", "log": f"/tasks/{task_id}/log", "diff": f"/tasks/{task_id}/diff",
        }  # fmt: skip
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        async with served(letting_in(board(), lambda: loom)) as address:
            for scheme in ("light", "dark"):
                if everything is None:
                    for name, path in shown.items():
                        to = _PICTURES / f"{name}-{scheme}.png"
                        await _picture(browser, address + path, to, color_scheme=scheme, viewport=_SIZE)
                    continue
                for width in _WIDTHS:
                    for name, path in (shown | others).items():
                        to = everything / f"{name}-{scheme}-{width}.png"
                        size = {"width": width, "height": 844}
                        await _picture(browser, address + path, to, color_scheme=scheme, viewport=size, whole=True)
        await browser.close()


async def _picture(browser: Any, address: str, to: Path, *, whole: bool = False, **look: Any) -> None:
    from PIL import Image

    tab = await browser.new_page(**look)
    await tab.goto(address)
    await tab.wait_for_timeout(_DRAWN)
    taken = await tab.screenshot(full_page=whole)
    await tab.close()
    flat = Image.open(io.BytesIO(taken)).convert("RGB")
    flat.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE).save(to, optimize=True)


if __name__ == "__main__":
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--chromium", default="/usr/bin/chromium")
    given.add_argument("--all", type=Path, metavar="DIRECTORY")
    chosen = given.parse_args()
    asyncio.run(take(chosen.chromium, chosen.all))
