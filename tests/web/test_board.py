"""The board's pages and what is done on them, without JavaScript: forms, answers, and what nobody can smuggle in."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from urllib.parse import quote

import httpx2
import markupsafe
import pytest

from loom.bus.events import Event, EventType
from loom.exceptions import InvalidInputError
from loom.graph.front import Loom
from loom.graph.model import filters
from loom.graph.model.principals import Principal, Role
from loom.web import app
from loom.web.actions import ACTIONS
from loom.web.live import News
from loom.web.pages import KEYS
from loom.web.wording import WAYS
from tests.web.conftest import PATIENCE, Board

MARKUP = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>{{ 7*7 }}"
BIDI = "abc\u202etxt.exe\u2066x\u200b"


async def asked(loom: Loom, question: str = "Which one?") -> str:
    """A task whose worker asks."""
    task = await loom.create("Choose a colour")
    await loom.claim(task.id, agent_id="worker")
    await loom.escalate(task.id, question, agent_id="worker")
    return task.id


async def died(loom: Loom, reason: str = "No disk.") -> str:
    task = await loom.create("Fill the disk")
    await loom.claim(task.id, agent_id="worker")
    await loom.fail(task.id, reason, retry=False, agent_id="worker")
    return task.id


async def test_now_shows_who_is_needed_and_who_is_at_work(web: Board, loom: Loom) -> None:
    empty = await web.get("/")
    assert "There are no tasks yet" in empty
    await asked(loom)
    await died(loom)
    held = await loom.create("Paint the wall")
    await loom.claim(held.id, agent_id="painter")
    await loom.create("Buy brushes")
    page = await web.get("/")
    for words in ("<b>2</b> need", "Which one?", "No disk.", "Paint the wall", "painter", "Buy brushes"):
        assert words in page
    assert "(2) Now" in page


async def test_a_question_is_answered_once_and_the_second_who_answers_is_told(web: Board, loom: Loom) -> None:
    task_id = await asked(loom)
    [escalation] = await loom.escalations()
    first, second = await asyncio.gather(
        *(
            web.client.post(f"/do/answer/{escalation.id}", data={"note": colour, "back": "/#needs"})
            for colour in ("Red", "Blue")
        )
    )
    codes = sorted((first.status_code, second.status_code))
    assert codes == [303, 409]
    won, lost = (first, second) if first.status_code == 303 else (second, first)
    assert won.headers["location"] == "/?said=answer#needs"
    assert "already resolved" in lost.text or "has no open escalation" in lost.text
    assert "Nothing was changed" in lost.text
    task = (await loom.get(task_id)).task
    assert task.status == "pending"
    (note,) = (await loom.get(task_id)).notes
    assert sum(colour in note.text for colour in ("Red", "Blue")) == 1


async def test_what_was_done_is_said_and_nothing_else_can_be_made_to_be(web: Board) -> None:
    assert "Answered; the task goes on." in await web.get("/?said=answer")
    assert "You were hacked" not in await web.get("/?said=You+were+hacked")


async def test_dead_work_is_tried_again_waived_or_cancelled(web: Board, loom: Loom) -> None:
    again, gone, over = await died(loom), await died(loom), await died(loom)
    await web.post(f"/do/retry/{again}", note="There is room now.", back=f"/tasks/{again}")
    await web.post(f"/do/waive/{gone}", note="Not needed.")
    await web.post(f"/do/cancel/{over}", note="Given up.", downstream="yes")
    assert [(await loom.get(one)).task.status for one in (again, gone, over)] == ["pending", "cancelled", "cancelled"]
    assert "There is room now." in await web.get(f"/tasks/{again}")


async def test_a_claim_is_taken_away_only_while_it_is_the_one_that_was_shown(web: Board, loom: Loom) -> None:
    task = await loom.create("Paint the wall")
    first = await loom.claim(task.id, agent_id="painter")
    assert first is not None
    await loom.release(task.id, token=first.task.claim_token)
    second = await loom.claim(task.id, agent_id="other")
    assert second is not None
    await web.post(f"/do/release/{task.id}", 409, token=str(first.task.claim_token))
    await web.post(f"/do/release/{task.id}", token=str(second.task.claim_token), note="Somebody else does it.")
    assert (await loom.get(task.id)).task.status == "pending"


async def test_a_task_is_made_changed_and_put_off(web: Board, loom: Loom) -> None:
    answer = await web.post(
        "/new", title="Oil the hinge", brief="The left one.", done_when="It is silent.", labels="house, door"
    )
    task_id = answer.headers["location"].split("/")[2].split("?")[0]
    page = await web.get(f"/tasks/{task_id}?said=created")
    for words in ("Created.", "Oil the hinge", "The left one.", "It is silent.", "house"):
        assert words in page
    await web.post(f"/do/priority/{task_id}", priority="p0")
    await web.post(f"/do/edit/{task_id}", title="Oil both hinges", done_when="")
    await web.post(f"/do/defer/{task_id}", note="No oil.")
    task = (await loom.get(task_id)).task
    assert (task.title, task.priority, task.done_when, task.status) == ("Oil both hinges", "p0", None, "blocked")


async def test_a_note_is_kept_and_finished_work_done_again(web: Board, loom: Loom) -> None:
    task = await loom.create("Oil the hinge")
    await web.post(f"/do/note/{task.id}", note="The left <b>one</b>.", back=f"/tasks/{task.id}")
    assert "The left &lt;b&gt;one&lt;/b&gt;." in await web.get(f"/tasks/{task.id}")
    await loom.done(task.id)
    assert "Do it again" in await web.get(f"/tasks/{task.id}")
    await web.post(f"/do/reopen/{task.id}", note="It squeaks.")
    assert (await loom.get(task.id)).task.status == "pending"


async def test_what_does_not_fit_is_told_in_a_sentence(web: Board, loom: Loom) -> None:
    task = await loom.create("Something")
    assert "is empty" in (await web.post("/new", 422, title="  ")).text
    assert "no task" in (await web.client.get("/tasks/loom-00000000")).text.lower()
    await web.get("/nowhere", 404)
    assert (await web.client.post("/do/explode/loom-00000000", data={})).status_code == 404
    await web.post(f"/do/priority/{task.id}", 422, priority="p9")
    large = await web.client.post("/new", content=b"title=" + b"x" * 1_100_000)
    assert large.status_code == 422
    broken = await web.client.post("/new", content=b"\xff\xfe")
    assert broken.status_code == 422
    assert (await web.client.post("/new", content=b"title=x" + b"&a=b" * 1_000)).status_code == 422
    many = await web.client.post("/several", content=b"action=p0&" + b"task=loom-00000000&" * 201 + b"x=")
    assert "with 0 of 200;" in many.text


@pytest.mark.parametrize(
    "odd", ["nul\0", "\udcff", "x" * 2_000, "..%2f..", "loom-00000000", "9" * 400, "-1", "\u202e", "1:2:"]
)
async def test_whatever_an_address_or_a_form_says_is_answered_with_a_page(web: Board, loom: Loom, odd: str) -> None:
    task = await asked(loom)
    word = quote(odd.encode("utf-8", "surrogateescape"), safe="%")
    addresses = [
        *(f"/board?{name}={word}" for name in ("q", "by", "only", "said")),
        *(f"/board?q={key}:{word}" for key in ("epic", "waits-for", "holder", "file", "failed", "age", "label")),
        *(f"/events?{name}={word}" for name in ("at", "kind", "agent")),
        *(f"/tasks/{word}{more}" for more in ("", "/log", "/diff")),
        f"/graph.json?open={word}", f"/new?parent={word}", f"/static/{word}", f"/{word}",
    ]  # fmt: skip
    for address in addresses:
        answer = await web.client.get(address)
        assert answer.status_code in (200, 404, 405, 422), (address, answer.text)
    fields = ("note", "to", "token", "priority", "step", "way", "title", "done_when", "depends_on", "parent", "labels")
    body = "&".join(f"{name}={word}" for name in fields)
    for address in [*(f"/do/{name}/{where}" for name in ACTIONS for where in (task, word)), "/new", "/several"]:
        answer = await web.client.post(address, content=body)
        assert answer.status_code in (303, 404, 405, 409, 422), (address, answer.text)


async def test_no_form_leads_elsewhere(web: Board, loom: Loom) -> None:
    for elsewhere in ("https://example.com/", "//example.com", "/\\example.com", "javascript:alert(1)"):
        task = await loom.create("Something")
        answer = await web.post(f"/do/priority/{task.id}", priority="p0", back=elsewhere)
        assert answer.headers["location"] == "/?said=priority"


async def test_texts_of_others_are_data(web: Board, loom: Loom) -> None:
    long = "m" * 480 + " end"
    made = [await loom.create(title) for title in (MARKUP, BIDI, long)]
    context = {MARKUP: MARKUP, "bidi": BIDI, "deep": {"a": [MARKUP]}}
    files = ["<b>a</b>.py", "b'c.py"]
    whole = await loom.create("Whole", context=context, done_when=MARKUP, labels=["a:b"], files=files)
    await loom.note(whole.id, MARKUP + BIDI)
    await loom.send("worker", MARKUP + BIDI, thread_id=whole.id)
    await loom.claim(whole.id, agent_id="worker")
    await loom.escalate(whole.id, MARKUP, agent_id="worker")
    pages = ("/", "/board", "/board?by=agent", "/graph/text", "/events")
    for path in (*pages, *(f"/tasks/{one.id}" for one in (*made, whole))):
        page = await web.get(path)
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "49" not in re.findall(r"\{\{.*?\}\}|>49<", page)
        assert not set(page) & set("\u202e\u2066\u200b")
        assert re.search(r"\son\w+=", re.sub(r'"[^"]*"', '""', re.sub(r">[^<]*<", "><", page))) is None
    assert "end</h1>" in await web.get(f"/tasks/{made[2].id}")


async def test_every_answer_says_what_may_be_loaded(web: Board) -> None:
    for path in ("/", "/nowhere", "/static/board.css", "/new"):
        answer = await web.client.get(path)
        for name, value in app.HEADERS.items():
            assert answer.headers[name] == value
        policy = answer.headers["content-security-policy"].split("; ")
        assert {"default-src 'self'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'"} <= {*policy}
        assert answer.headers["x-content-type-options"] == "nosniff"
    page = await web.get("/")
    assert "style=" not in page
    assert re.findall(r"<script(?![^>]*src=)", page) == []
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (await web.client.get("/")).headers["cache-control"] == "no-store"
    [style] = re.findall(r'href="(/static/board\.css[^"]*)"', page)
    assert "immutable" in (await web.client.get(style)).headers["cache-control"]


async def test_below_a_path_every_address_stays_below_it(loom: Loom) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from tests.web.conftest import letting_in, served

    task_id = await asked(loom)
    mounted = Starlette(routes=[Mount("/shop", app=letting_in(app.board(), lambda: loom))])
    async with served(mounted) as address, httpx2.AsyncClient(base_url=address, timeout=PATIENCE) as client:
        for path in ("/shop/", f"/shop/tasks/{task_id}", "/shop/new"):
            answer = await client.get(path)
            assert answer.status_code == 200
            there = re.findall(r'(?:href|src|action|hx-get|hx-post)="(/[^"]*)"', answer.text)
            assert there
            assert [one for one in there if not one.startswith("/shop/")] == []
        answer = await client.post(f"/shop/do/retry/{task_id}", data={"back": f"/tasks/{task_id}"})
        assert answer.headers["location"] == f"/shop/tasks/{task_id}?said=retry"


async def news(client: httpx2.AsyncClient, cursor: str, count: int) -> list[tuple[str, dict[str, object]]]:
    """The first so many things that are told from a cursor on."""
    told: list[tuple[str, dict[str, object]]] = []
    identity = ""
    async with client.stream("GET", "/live", params={"since": cursor}) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                identity = line[4:]
            elif line.startswith("data: "):
                told.append((identity, json.loads(line[6:])))
                if len(told) == count:
                    return told
    return told


def cursor_of(page: str) -> str:
    [found] = re.findall(r'data-since="([^"]+)"', page)
    return str(found)


async def test_a_page_is_told_what_happens_and_one_that_slept_catches_up(web: Board, loom: Loom) -> None:
    cursor = cursor_of(await web.get("/"))
    follows = asyncio.create_task(news(web.client, cursor, 1))
    other = asyncio.create_task(news(web.client, cursor, 1))
    await asyncio.sleep(0.3)
    task = await loom.create("Paint the wall")
    [(later, told)] = await asyncio.wait_for(follows, PATIENCE)
    assert told == {"events": [[task.id, "task.created", "ready"]]} or told == {"much": True}
    assert (await asyncio.wait_for(other, PATIENCE))[0][0]
    # Nobody follows now; what happens meanwhile is told to who comes back with the cursor.
    await loom.create("Buy brushes")
    [(newest, told)] = await asyncio.wait_for(news(web.client, later, 1), PATIENCE)
    assert told == {"much": True}
    follows = asyncio.create_task(news(web.client, newest, 1))
    await asyncio.sleep(0.3)
    assert not follows.done(), "what was told is not told again"
    await loom.create("Begin")
    await asyncio.wait_for(follows, PATIENCE)


def test_a_page_that_does_not_read_is_told_in_the_end_that_much_has_happened() -> None:
    waits = News("1")
    for number in range(1_000):
        waits.add([Event(EventType.TASK_CREATED, f"loom-{number:08x}", "pending")], str(number))
    assert waits.events == []
    assert (waits.take(), waits.since) == ({"much": True}, "999")
    waits.add([Event(EventType.TASK_CREATED, "loom-00000001", "pending")], "1000")
    assert waits.take() == {"events": [["loom-00000001", "task.created", "ready"]]}


async def test_a_cursor_that_cannot_be_is_no_error(web: Board) -> None:
    [(_, told)] = await asyncio.wait_for(news(web.client, "made up", 1), PATIENCE)
    assert told == {"much": True}


@pytest.mark.parametrize("name", ["htmx.min.js"])
def test_what_others_wrote_is_what_they_published(name: str) -> None:
    """htmx.org 4.0.1 from npm, dist/htmx.min.js as it is; its licence beside it
    is the Zero-Clause BSD."""
    import hashlib

    static = Path(app.__file__).parent / "static"
    digest = hashlib.sha384((static / name).read_bytes()).hexdigest()
    assert digest == HTMX
    assert (static / "htmx.LICENSE").read_text().startswith("Zero-Clause BSD")


HTMX = "429f6b742f07ec4a8ea17fa74743f744f1b63688e2faa7702651a97f3c1026c7cea69dec1b021d48ff713b7f94944867"


async def test_the_board_has_a_column_for_each_state_and_a_lane_for_each_epic(web: Board, loom: Loom) -> None:
    epic = await loom.create("The house", epic=True)
    await loom.create("Paint the wall", parent_id=epic.id, labels=["colour"])
    held = await loom.create("Lay the floor")
    await loom.claim(held.id, agent_id="tiler")
    await died(loom)
    page = await web.get("/board")
    columns = dict(zip(*[iter(re.split(r'<section class="column" aria-label="(\w+)">', page)[1:])] * 2, strict=True))
    assert [name for name, column in columns.items() if "/tasks/" in column] == ["Ready", "Working", "Dead"]
    assert "Paint the wall" in columns["Ready"]
    assert "tiler" in columns["Working"]
    assert 'dir="auto">The house</a>' in await web.get("/board?by=epic")
    assert "tiler</h2>" in await web.get("/board?by=agent")
    assert "colour</h2>" in await web.get("/board?by=label")
    found = await web.get("/board?q=label:colour")
    assert "Paint the wall" in found
    assert "Lay the floor" not in found
    assert "knows no status" in await web.get("/board?q=status:odd", 422)


async def test_of_a_column_fifty_are_shown_and_the_way_to_more(web: Board, loom: Loom) -> None:
    await loom.apply_plan({"tasks": [{"title": f"Task {number}"} for number in range(53)]})
    page = await web.get("/board")
    assert page.count('class="tile"') == 50
    assert 'href="/board?q=&amp;by=&amp;only=ready"' in page
    assert (await web.get("/board?only=ready")).count('class="tile"') == 53


async def test_something_is_done_with_several_tasks_and_told_where_it_cannot_be(web: Board, loom: Loom) -> None:
    one, two = await loom.create("One"), await loom.create("Two")
    pairs = f"task={one.id}&task={two.id}&back=/board&action="
    answer = await web.client.post("/several", content=pairs + "p0")
    assert (answer.status_code, answer.headers["location"]) == (303, "/board?said=several")
    assert [(await loom.get(each.id)).task.priority for each in (one, two)] == ["p0", "p0"]
    await loom.claim(two.id, agent_id="worker")
    answer = await web.client.post("/several", content=pairs + "defer&note=later")
    assert answer.status_code == 409
    assert "1 of 2" in answer.text
    assert two.id in answer.text
    assert [(await loom.get(each.id)).task.status for each in (one, two)] == ["blocked", "claimed"]
    assert (await web.client.post("/several", content="action=p0")).status_code == 422
    assert (await web.client.post("/several", content=pairs + "explode")).status_code == 422


async def test_whatever_can_be_done_with_a_task_can_be_done_on_the_board(web: Board, loom: Loom) -> None:
    question, dead, gone = await asked(loom), await died(loom), await died(loom)
    moved, over = await died(loom), (await loom.create("Sing")).id
    held = await loom.create("Paint the wall")
    claim = await loom.claim(held.id, agent_id="painter")
    assert claim is not None
    page = await web.get("/board")
    assert set(re.findall(r'<option value="(\w+)">', page)) >= set(WAYS)
    assert f'value="{held.id} {claim.task.claim_token}"' in page

    async def do(action: str, task: str, note: str = "") -> int:
        return (await web.client.post("/several", data={"task": task, "action": action, "note": note})).status_code

    assert await do("answer", question, "Red") == 303
    assert await do("retry", dead, "There is room.") == 303
    assert await do("waive", gone) == await do("cancel", over) == await do("reopen", over) == 303
    assert await do("note", over, "Louder.") == await do("reassign", moved, "ada") == 303
    assert await do("release", f"{held.id} {claim.task.claim_token + 1}") == 409
    assert await do("release", f"{held.id} {claim.task.claim_token}") == 303
    assert await do("approve", held.id) == await do("refuse", held.id, "No.") == 409
    found = [(await loom.get(one)).task for one in (question, dead, gone, over, held.id, moved)]
    assert [one.status for one in found] == ["pending", "pending", "cancelled", "pending", "pending", "claimed"]
    assert found[-1].assignee == "ada"
    assert (await loom.get(over)).notes[-1].text == "Louder."


async def test_what_a_filter_can_say_is_told_and_each_example_can_be_said(web: Board) -> None:
    page = await web.get("/board")
    for example in KEYS:
        assert f"<code>{markupsafe.escape(example)}</code>" in page
        filters.parse(example.replace("loom-…", "loom-00000000"))
    with pytest.raises(InvalidInputError) as refused:
        filters.parse("odd:x")
    told = {example.lstrip("-").partition(":")[0] for example in KEYS if ":" in example}
    assert told == set(re.findall(r"[a-z-]+", refused.value.next_step.partition(";")[0].removeprefix("Use ")))


async def test_a_filter_that_nothing_fits_says_so_and_epics_are_shown_when_asked_for(web: Board, loom: Loom) -> None:
    await loom.create("The house", epic=True)
    assert "No task fits." in await web.get("/board?q=wall")
    page = await web.get("/board?q=status:epic")
    assert "The house" in page
    assert "No task fits." not in page


async def test_events_have_a_link_each_their_json_and_the_cursor_to_go_on_from(web: Board, loom: Loom) -> None:
    assert "No event" in await web.get("/events")
    task = await loom.create("Paint the wall")
    await loom.claim(task.id, agent_id="painter")
    await asked(loom)
    page = await web.get("/events")
    places = re.findall(r'href="/events\?at=([0-9-]+)"', page)
    assert len(places) == page.count("<li data-row")
    assert f"loom watch --since {places[0]}" in page
    rows = (await web.client.get("/events.json")).json()["events"]
    assert [one["position"] for one in rows] == places
    one = await web.get(f"/events?at={places[-1]}")
    assert "&#34;position&#34;" in one
    assert one.count("<li data-row") == 1
    by = await web.get("/events?kind=task&agent=painter")
    assert re.findall(r"<span>([a-z_]+\.[a-z_]+)</span>", by) == ["task.claimed"]
    assert await loom.events(until=places[-1]) == (await loom.events())[-1:]
    for wrong in ("at=odd", "kind=odd", "agent=" + "x" * 999):
        await web.get(f"/events?{wrong}", 422)


async def test_whether_the_graph_is_well_is_a_page(web: Board, loom: Loom) -> None:
    await loom.create("Something")
    page = await web.get("/doctor")
    for words in ("All is well", "Redis equals Postgres", "This machine", "PostgreSQL", "external, from"):
        assert words in page
    dead = await died(loom)
    page = await web.get("/doctor")
    assert "1 dead letter" in page
    assert page.index(dead) < page.index("Redis equals Postgres"), "what is worth knowing stands first"
    web.let_in[""] = loom.beside(principal=Principal("eve", Role.ADMIN))
    assert "This machine" not in await web.get("/doctor"), "it is the server's"


async def test_what_somebody_may_not_do_is_not_shown_and_refused_all_the_same(web: Board, loom: Loom) -> None:
    task_id, dead = await asked(loom), await died(loom)
    held = await loom.create("Paint the wall")
    claim = await loom.claim(held.id, agent_id="painter")
    assert claim is not None
    [escalation] = [one for one in await loom.escalations() if one.kind == "question"]
    pages = ("/", "/board", "/events", *(f"/tasks/{one}" for one in (task_id, dead, held.id)))

    async def offered(role: Role) -> set[str]:
        web.let_in[""] = loom.beside(principal=Principal("eve", role))
        shown = "".join([await web.get(path) for path in pages])
        links = {name for name in ("new", "doctor") if f'href="/{name}"' in shown}
        return links | set(re.findall(r'action="/(?:do/)?(\w+)', shown)) - {"board", "events"}

    assert await offered(Role.READER) == set()
    assert await offered(Role.WORKER) == {"note"}
    assert await offered(Role.PLANNER) == {"answer", "edit", "new", "note", "priority", "several"}
    assert await offered(Role.ADMIN) >= {"answer", "retry", "reassign", "waive", "cancel", "doctor"}

    web.let_in[""] = loom.beside(principal=Principal("eve", Role.READER))
    token = str(claim.task.claim_token)
    forms = {"answer": escalation.id, "retry": dead, "waive": dead, "release": held.id, "priority": held.id}
    forms |= {"cancel": held.id, "approve": held.id, "edit": held.id, "defer": held.id, "yes": "run-00000000"}
    for action, target in forms.items():
        refused = await web.post(f"/do/{action}/{target}", 403, note="x", token=token, priority="p0", title="x")
        assert "needs the role" in refused.text
    await web.post("/new", 403, title="Mine")
    await web.get("/doctor", 403)
    assert (await loom.get(held.id)).task.status == "claimed"
