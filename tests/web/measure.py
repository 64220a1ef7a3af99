"""How fast the board is in a real browser, on a project of ten thousand tasks with twenty changes a second:

    uv run --with playwright python -m tests.web.measure --chromium /usr/bin/chromium

It makes a project on the servers of LOOM_TEST_DATABASE_URL and LOOM_TEST_REDIS_URL, or of the embedded instance
`measure`, and prints one line for each number. On a machine that does something else the numbers say little.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import os
import random
import statistics
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx2

from loom import services
from loom.config import DatabaseConfig, LoomConfig, RedisConfig, ServersConfig
from loom.graph.front import Loom
from loom.orchestration.housekeeping import Housekeeper
from loom.web.app import board
from tests.web.conftest import letting_in, served

_EPICS = 40
_EVERY = 0.05  # seconds between two changes
_SETTLED = 5.0  # seconds in which the mirror takes in what the plan has made, beside which all else is slow
_PAGES = ("/", "/board", "/graph", "/events")


def config() -> LoomConfig:
    """A new project."""
    database, redis = os.environ.get("LOOM_TEST_DATABASE_URL"), os.environ.get("LOOM_TEST_REDIS_URL")
    made = LoomConfig(project_name="measured", project_id=str(uuid.uuid4()))
    if not (database and redis):
        found = services.up(LoomConfig(servers=ServersConfig(backend="embedded", instance="measure")))
        database, redis = found.database_url, found.redis_url
    servers = ServersConfig(backend="external")
    return replace(
        made, database=DatabaseConfig(url=database, migrate="always"), redis=RedisConfig(url=redis), servers=servers
    )


async def fill(loom: Loom, count: int) -> None:
    """So many tasks with their epics, as many as one plan has at most, some of them done."""
    chance = random.Random(1)
    tasks: list[dict[str, Any]] = [{"key": f"e{n}", "title": f"Epic {n}", "type": "epic"} for n in range(_EPICS)]
    for number in range(count - _EPICS):
        task: dict[str, Any] = {"key": f"t{number}", "title": f"Task {number} of a plan with a title of usual length"}
        if number > 100:
            task["depends_on"] = [f"t{chance.randrange(number - 100, number)}" for _ in range(chance.randrange(3))]
        if chance.random() < 0.5:
            task["parent"] = f"e{chance.randrange(_EPICS)}"
        tasks.append(task)
    await loom.apply_plan({"tasks": tasks})
    for _ in range(count // 30):
        claim = await loom.claim()
        if claim is None:
            break
        await loom.done(claim.task.id, {"ok": True})


async def change(loom: Loom, seen: dict[str, float], stop: asyncio.Event) -> None:
    """Twenty changes a second; each gives a ready task a title by which it is known on the page."""
    tasks = (await loom.find("status:ready", limit=8)).tasks
    number = 0
    while not stop.is_set():
        number += 1
        name = f"change {number}"
        seen[name] = time.time()
        await loom.update(tasks[number % len(tasks)].id, title=name)
        await asyncio.sleep(_EVERY)


async def read(address: str, stop: asyncio.Event) -> None:
    """A plain reader of the stream."""
    async with (
        httpx2.AsyncClient(base_url=address, timeout=None) as client,
        client.stream("GET", "/live") as answer,
    ):
        async for _ in answer.aiter_lines():
            if stop.is_set():
                return


_WATCH = """() => {
  window.seen = {};
  const look = () => {
    const names = document.body.textContent.matchAll(/change \\d+(?!\\d)/g);
    for (const [name] of names) window.seen[name] ??= Date.now() / 1000;
  };
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""
_PAUSES = """async () => {
  const canvas = document.getElementById("canvas"), box = canvas.getBoundingClientRect(), pauses = [];
  let last = performance.now(), going = true;
  const frame = () => {
    const now = performance.now();
    pauses.push(now - last);
    last = now;
    if (going) requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  const send = (what, x, y) => canvas.dispatchEvent(
    new PointerEvent(what, { pointerId: 1, bubbles: true, clientX: box.x + x, clientY: box.y + y }));
  canvas.setPointerCapture = () => {};
  send("pointerdown", 400, 200);
  for (let at = 0; at < 90; at++) {
    send("pointermove", 400 + at * 4, 200 + at * 2);
    await new Promise(requestAnimationFrame);
  }
  send("pointerup", 760, 380);
  await new Promise((done) => setTimeout(done, 300));
  going = false;
  return pauses;
}"""


def say(what: str, value: float, unit: str, bound: float) -> None:
    print(f"{what:<52} {value:8.1f} {unit:<4} (at most {bound:g})", flush=True)


def part(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


async def measure(chromium: str, count: int, seconds: float) -> None:
    from playwright.async_api import async_playwright

    async with Loom(config(), agent="measure") as loom, async_playwright() as playwright:
        await loom.connect()
        await fill(loom, count)
        keeper = Housekeeper(loom)
        keeper.start()
        await asyncio.sleep(_SETTLED)
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        async with served(letting_in(board(), lambda: loom)) as address:
            await _sizes_and_first_bytes(address)
            await _graph(browser, address)
            await _seen(browser, loom, address, seconds)
            await _idle(browser, address)
            await browser.close()  # before its server, which would cut off what its tabs follow
        await keeper.stop()


async def _sizes_and_first_bytes(address: str) -> None:
    async with httpx2.AsyncClient(base_url=address, timeout=30) as client:
        for path in _PAGES:
            took = []
            for _ in range(12):
                begun = time.perf_counter()
                async with client.stream("GET", path) as answer:
                    took.append(1000 * (time.perf_counter() - begun))
                    await answer.aread()
            say(f"first byte of {path}, median", statistics.median(took[2:]), "ms", 50)
        page = await client.get("/")
        names = ("htmx.min.js", "board.js", "board.css", "graph.js", "loom.svg")
        files = [(await client.get(f"/static/{name}")).content for name in names]
        whole = sum(len(gzip.compress(one)) for one in (page.content, *files))
        say("compressed, page and all that it loads", whole / 1000, "kB", 80)


async def _graph(browser: Any, address: str) -> None:
    async with httpx2.AsyncClient(base_url=address, timeout=30) as client:
        begun = time.perf_counter()
        answer = await client.get("/graph.json")
        say("the whole picture, read, placed and sent", 1000 * (time.perf_counter() - begun), "ms", 1000)
        say("the picture, compressed", len(gzip.compress(answer.content)) / 1000, "kB", 1000)
    tab = await browser.new_page(viewport={"width": 1280, "height": 860})
    await tab.goto(f"{address}/graph")
    await tab.wait_for_timeout(3000)
    pauses = await tab.evaluate(_PAUSES)
    say(f"longest pause while panning ({len(pauses)} frames)", max(pauses), "ms", 100)
    await tab.close()


async def _seen(browser: Any, loom: Loom, address: str, seconds: float) -> None:
    stop, made = asyncio.Event(), dict[str, float]()
    readers = [asyncio.create_task(read(address, stop)) for _ in range(19)]
    tab = await browser.new_page()
    await tab.goto(f"{address}/")
    await tab.evaluate(_WATCH)
    changing = asyncio.create_task(change(loom, made, stop))
    await asyncio.sleep(seconds)
    seen = await tab.evaluate("window.seen")
    stop.set()
    await changing
    for one in readers:
        one.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    # One that was overwritten before anybody looked is seen with the next that was.
    names = list(made)
    latencies, next_seen = [], None
    for name in reversed(names):
        next_seen = seen.get(name, next_seen)
        if next_seen is not None:
            latencies.append(1000 * (next_seen - made[name]))
    say(f"a change is seen, median of {len(latencies)}", part(latencies, 0.5), "ms", 250)
    say("a change is seen, 95th percentile", part(latencies, 0.95), "ms", 250)
    await tab.close()


async def _idle(browser: Any, address: str) -> None:
    tabs = [await browser.new_page() for _ in range(5)]
    for tab in tabs:
        await tab.goto(f"{address}/")
    await asyncio.sleep(5)
    begun, used = time.perf_counter(), time.process_time()
    await asyncio.sleep(20)
    share = 100 * (time.process_time() - used) / (time.perf_counter() - begun)
    say("idle with five tabs, this process", share, "%", 1)


if __name__ == "__main__":
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--chromium", default="/usr/bin/chromium")
    given.add_argument("--tasks", type=int, default=10_000)
    given.add_argument("--seconds", type=float, default=20)
    chosen = given.parse_args()
    asyncio.run(measure(chosen.chromium, chosen.tasks, chosen.seconds))
