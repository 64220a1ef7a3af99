"""The board in a real browser, where LOOM_TEST_CHROMIUM names one and Playwright is installed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loom.graph.front import Loom
from loom.skills import decomposer
from loom.web.entry import Entries
from loom.workflows import runs
from tests.skills.conftest import good_plan
from tests.web.conftest import Board
from tests.web.test_asked import asks as waits_for_a_yes
from tests.web.test_board import asked, died
from tests.web.test_entry import gate as gate

AXE = os.environ.get("LOOM_TEST_AXE", "")
_AXE = "node_modules/axe-core/axe.min.js"
playwright = pytest.importorskip("playwright.async_api", reason="without Playwright no browser is driven")
CHROMIUM = os.environ.get("LOOM_TEST_CHROMIUM", "")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="LOOM_TEST_CHROMIUM names no browser")


@pytest.fixture
async def tab(web: Board) -> AsyncIterator[Any]:
    """A tab as narrow as a telephone, which tells of every error."""
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": 390, "height": 844})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        yield page
        await browser.close()
        assert [one for one in errors if "409" not in one] == []


async def test_a_page_follows_what_happens_and_waits_while_somebody_types(web: Board, loom: Loom, tab: Any) -> None:
    await asked(loom, "Red or blue?")
    await tab.goto(f"{web.address}/")
    await loom.create("Paint the wall")
    await tab.get_by_text("Paint the wall").wait_for()
    await tab.get_by_label("Your answer").fill("Re")
    [question] = await loom.escalations()
    await loom.resolve(question.id, "answer", note="Blue")
    await loom.create("Lay the floor")
    await tab.locator("#live.held").wait_for()
    assert await tab.get_by_text("Lay the floor").count() == 0
    assert await tab.get_by_label("Your answer").input_value() == "Re"
    await tab.get_by_role("button", name="Answer").click()
    await tab.get_by_text("already resolved").wait_for()
    await tab.get_by_label("Your answer").fill("")
    await tab.get_by_label("Your answer").blur()
    await tab.get_by_text("Lay the floor").wait_for()
    assert await tab.get_by_label("Your answer").count() == 0


async def test_a_question_is_answered_by_the_keyboard_alone(web: Board, loom: Loom, tab: Any) -> None:
    task_id = await asked(loom, "Red or blue?")
    await tab.goto(f"{web.address}/events")
    await tab.keyboard.press("n")
    await tab.get_by_label("Your answer").focus()
    await tab.keyboard.type("Red")
    await tab.keyboard.press("Tab")
    await tab.keyboard.press("Enter")
    await tab.get_by_text("Answered; the task goes on.").wait_for()
    assert (await loom.get(task_id)).task.status == "pending"
    await loom.create("Lay the floor")
    await tab.get_by_text("Lay the floor").wait_for()
    assert await tab.get_by_text("Answered; the task goes on.").count() == 1, "a page that follows does not wipe it off"


async def test_no_page_is_wider_than_a_telephone_and_the_graph_is_walked_by_keys(
    web: Board, loom: Loom, tab: Any
) -> None:
    first = await loom.create("m" * 500)
    await loom.create("Second", depends_on=[first.id], labels=["x" * 60])
    for path in ("/", "/board", "/board?by=label", "/graph", "/graph/text", "/events", "/new", f"/tasks/{first.id}"):
        await tab.goto(web.address + path)
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    await tab.goto(f"{web.address}/graph")
    await tab.locator("#chosen", has_text="2 tasks").wait_for()
    await tab.locator("#canvas").focus()
    for _ in range(2):
        await tab.keyboard.press("ArrowRight")
    await tab.locator("#chosen", has_text="Second").wait_for()
    await tab.keyboard.press("Enter")
    await tab.wait_for_url("**/tasks/*")


async def test_what_was_done_with_the_chosen_is_chosen_no_more(web: Board, loom: Loom, tab: Any) -> None:
    made = await loom.create("Paint the wall")
    await tab.goto(f"{web.address}/board")
    await tab.keyboard.press("j")
    await tab.keyboard.press("x")
    await tab.get_by_label("With the chosen").select_option("note")
    await tab.get_by_label("The text").fill("Twice.")
    await tab.keyboard.press("Enter")
    await tab.get_by_text("Done with all of them.").wait_for()
    assert (await loom.get(made.id)).notes[-1].text == "Twice."
    assert await tab.locator(".tile input:checked").count() == 0
    await loom.create("Lay the floor")
    await tab.get_by_text("Lay the floor").wait_for()


async def test_each_button_of_a_form_does_what_it_says(web: Board, loom: Loom, tab: Any) -> None:
    run_id = await waits_for_a_yes(loom)
    await tab.goto(f"{web.address}/")
    await tab.get_by_label("A note").fill("Not now.")
    await tab.get_by_role("button", name="No", exact=True).click()
    await tab.get_by_text("Answered with no").wait_for()
    assert "Not now." in ((await runs.look(loom, run_id))[0].error or "")


async def test_whoever_is_not_let_in_any_more_is_told_on_the_page_that_he_has_open(
    gate: tuple[str, Entries[str]], loom: Loom, tab: Any
) -> None:
    address, entries = gate
    task_id = await asked(loom)
    page = await tab.context.browser.new_page()  # to which refusals are no errors
    await page.goto(f"{address}/enter?code={entries.code('shop')}")
    await page.get_by_label("Your answer").fill("Red")
    entries._cookies.clear()
    await page.get_by_role("button", name="Answer").click()
    await page.get_by_text("Run loom board").wait_for()
    assert await page.get_by_label("Your answer").input_value() == "Red"
    assert (await loom.get(task_id)).task.status == "blocked"


async def test_a_look_that_is_refused_leaves_the_page_as_it_is_and_is_made_again(
    web: Board, loom: Loom, tab: Any
) -> None:
    page = await tab.context.browser.new_page()
    await loom.create("Paint the wall")
    await page.goto(f"{web.address}/")
    nowhere = replace(loom.config, database=replace(loom.config.database, url="postgresql://u:p@127.0.0.1:1/none"))
    async with Loom(nowhere, agent="board") as away:
        web.let_in[""] = away
        await loom.create("Lay the floor")
        await page.locator("#said .trouble").wait_for()
        assert await page.get_by_text("Paint the wall").count() == 1
        web.let_in[""] = loom
    await page.get_by_text("Lay the floor").wait_for()
    assert await page.locator("#said .trouble").count() == 0


@pytest.mark.timeout(600)
@pytest.mark.skipif(not (Path(AXE) / _AXE).is_file(), reason="LOOM_TEST_AXE names no directory with axe-core")
async def test_axe_finds_nothing_serious_on_any_page_light_or_dark_wide_or_narrow(
    web: Board, loom: Loom, tab: Any
) -> None:
    axe = (Path(AXE) / _AXE).read_text()
    asking, dead = await asked(loom), await died(loom)
    epic = await loom.create("The house", epic=True)
    held = await loom.create("Paint it", parent_id=epic.id, labels=["colour"], depends_on=[], context={"rule": "twice"})
    await loom.claim(held.id, agent_id="painter")
    await loom.note(held.id, "The left one.")
    await loom.send("ada", "Which?", thread_id=held.id)
    await loom.create("Sell it", depends_on=[epic.id], priority="p0")
    await waits_for_a_yes(loom)
    await decomposer.propose(loom, good_plan(), goal="Sign-in")
    newest = (await loom.events(limit=1))[0].position
    lists = ("/", "/board", "/board?by=label", "/board?only=dead", "/board?q=status:odd", "/graph", "/graph/text")
    others = ("/events", f"/events?at={newest}", "/doctor", "/new", "/nowhere", f"/tasks/{held.id}/log")
    page = (
        await tab.context.browser.new_page()
    )  # some of these pages are refusals, which the other one would count as errors
    found = []
    for path in (*lists, *others, *(f"/tasks/{one}" for one in (asking, dead, held.id, epic.id))):
        await page.goto(web.address + path)
        await page.evaluate(axe)
        await page.evaluate(_ALL_OPEN)
        for scheme in ("light", "dark"):
            for width in (1280, 390):
                await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                await page.set_viewport_size({"width": width, "height": 844})
                found += [(path, scheme, width, *one) for one in await page.evaluate(_SERIOUS)]
    assert found == []


_ALL_OPEN = """() => {
  for (const one of document.querySelectorAll("details")) one.open = true;
  document.querySelector(".tile input")?.click();
}"""
_SERIOUS = """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations
  .filter((one) => ["serious", "critical"].includes(one.impact))
  .map((one) => [one.id, one.nodes[0].target.join(" "), one.nodes[0].failureSummary])"""
