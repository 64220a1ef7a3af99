"""Finding tasks: what the language of filters says, what a filter finds, and what a page costs among very many."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from loom.db.connection import Pool
from loom.exceptions import InvalidInputError
from loom.graph.front import Loom
from loom.graph.model import filters
from loom.graph.model.filters import Filter, Span
from loom.graph.model.task import Priority
from loom.graph.store import listing, names
from tests.graph.test_scale import buffers, fill

_DAY = 86400.0


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", Filter()),
        ("parser", Filter(words="parser")),
        ('"left recursion" -later', Filter(words='"left recursion" -later')),
        ("status:ready", Filter(states=("ready",))),
        ("status:pending", Filter(states=("ready",))),
        ("status:finished,ready", Filter(states=("done", "cancelled", "ready"))),
        ("-status:done", Filter(not_states=("done",))),
        ("label:UI,area:parser -label:later", Filter(labels=("ui", "area:parser"), not_labels=("later",))),
        ("priority:p0 priority:P1", Filter(priorities=(Priority.P0, Priority.P1))),
        ("age:>7d changed:<2h finished:<1w", Filter(age=Span(7 * _DAY, within=False), changed=Span(7200, within=True),
                                                     finished=Span(7 * _DAY, within=True))),
        ("holder:ada/1 file:src/a.py", Filter(holder="ada/1", file="src/a.py")),
        ('fix "status:ready"', Filter(words='fix "status:ready"')),
        ("failed:2", Filter(failed=2)),
        ("Status:done WAITS_FOR:ab12", Filter(states=("done",), waits_for="ab12")),
        ("fixed: the parser", Filter(words="fixed: the parser")),
    ],
)  # fmt: skip
def test_what_a_filter_says(text: str, meant: Filter) -> None:
    assert filters.parse(text) == meant


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("colour:red", "knows no “colour”"),
        ("statsu:ready", "knows no “statsu”, perhaps status."),
        ("waitsfor:ab12", "perhaps waits-for."),
        ("status:asleep", "no status “asleep”."),
        ("status:redy", "no status “redy”, perhaps ready."),
        ("age: >7d", "nothing behind age:"),
        ("Label:", "nothing behind Label:"),
        ("-holder:ada", "no opposite of holder"),
        ("holder:ada holder:bob", "holder twice"),
        ("age:7d", "no time in “7d”"),
        ("failed:often", "no number of failures in “often”"),
        ("failed:0", "no number of failures"),
        ('"open', "without its other one"),
        ("label:" + ",".join("a" * 60), "60 values"),
        ("x" * 1001, "1,001 characters"),
        ("a\0b", "U+0000"),
        ("\ud800", "U+D800"),
    ],
)
def test_a_filter_that_means_nothing_is_refused_in_a_sentence(text: str, part: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        filters.parse(text)
    assert part in str(refused.value)


async def _titles(loom: Loom, text: str) -> list[str]:
    return sorted(task.title for task in (await loom.find(text)).tasks)


async def test_what_a_filter_finds(loom: Loom) -> None:
    epic = await loom.create("All of it", epic=True)
    parse = await loom.create(
        "Write the parser", labels=["area:parser"], files=["src/parse/"], parent_id=epic.id, priority="p0"
    )
    lex = await loom.create("Split into words", context={"note": "the parsers need it"}, files=["src/lex.py"])
    late = await loom.create("Print errors", depends_on=[parse.id], labels=["later", "ui"], done_when="with a caret")
    gone = await loom.create("Never")
    await loom.cancel(gone.id)
    await loom.claim(lex.id, agent_id="ada")
    for text, found in (
        ("", ["All of it", "Never", "Print errors", "Split into words", "Write the parser"]),
        ("status:open", ["All of it", "Print errors", "Split into words", "Write the parser"]),
        ("status:ready", ["Write the parser"]),
        ("status:blocked", ["Print errors"]),
        ("-status:open", ["Never"]),
        ("parsers", ["Split into words", "Write the parser"]),
        ("caret", ["Print errors"]),
        ("parser -write", ["Split into words"]),
        ("label:ui", ["Print errors"]),
        ("label:ui,area:parser -label:later", ["Write the parser"]),
        ("-label:later status:open", ["All of it", "Split into words", "Write the parser"]),
        ("priority:p0", ["Write the parser"]),
        (f"epic:{epic.id}", ["Write the parser"]),
        (f"epic:{epic.id[5:].upper()}", ["Write the parser"]),
        ("holder:ada", ["Split into words"]),
        ("holder:bob", []),
        (f"waits-for:{parse.id}", ["Print errors"]),
        (f"waits-for:{late.id}", []),
        ("file:src/parse/rules.py", ["Write the parser"]),
        ("file:src", ["Split into words", "Write the parser"]),
        ("file:src/lex.py", ["Split into words"]),
        ("file:src/le", []),
        ("age:<1h parser", ["Split into words", "Write the parser"]),
        ("age:>1h", []),
        ("finished:<1h", ["Never"]),
    ):
        assert await _titles(loom, text) == found, text
        assert sorted(one.title for one in (await loom.graph(wanted=text)).tasks) == found, text


async def test_what_has_failed_several_times(loom: Loom, clock: Callable[[float], Awaitable[None]]) -> None:
    once, twice = await loom.create("once"), await loom.create("twice", labels=["net"])
    for one in (once, twice):
        await loom.fail(one.id, "no")
    await clock(3600)
    await loom.sweep()
    await loom.fail(twice.id, "no")
    await clock(3600)
    await loom.sweep()
    await loom.done(twice.id)
    for text, found in (("failed:1", ["once", "twice"]), ("failed:2", ["twice"]), ("failed:3", []),
                        ("failed:2 label:net", ["twice"]), ("failed:1 status:ready", ["once"])):  # fmt: skip
        assert await _titles(loom, text) == found, text


async def test_a_filter_names_tasks_that_are_there(loom: Loom) -> None:
    for text in ("epic:loom-1", "waits-for:nothing"):
        with pytest.raises(InvalidInputError, match="is not a task id"):
            await loom.find(text)


async def test_what_is_found_follows_what_is_changed(loom: Loom) -> None:
    task = await loom.create("Old words", labels=["a", "b"], files=["old.py"])
    await loom.update(task.id, title="New words", labels=["c"], unlabel=["a"], files=["new.py"], no_files=True)
    assert (await loom.get(task.id)).task.labels == ("b", "c")
    for text, there in (("old", False), ("new", True), ("label:a", False), ("label:c", True), ("file:old.py", False),
                        ("file:new.py", True)):  # fmt: skip
        assert bool(await _titles(loom, text)) is there, text
    planted = await loom.apply_plan({"tasks": [{"title": "Planted turnips", "labels": ["garden"]}]})
    assert await _titles(loom, "turnip") == ["Planted turnips"]
    assert planted[0].labels == ("garden",)


async def test_words_that_are_changed_while_they_are_read_are_read_again(loom: Loom, pool: Pool) -> None:
    task = await loom.create("Old words")
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("update tasks set title = 'New words' where id = $1", task.id)
        assert await _titles(loom, "old") == []
    assert await _titles(loom, "new") == ["New words"]
    await loom.update(task.id, title="Newer")
    async with pool.acquire() as connection:
        async with connection.transaction():
            assert not await listing.read_texts(connection, loom.project_id)
            await loom.update(task.id, priority="p0")
            changing = asyncio.create_task(loom.update(task.id, title="Newer still"))
            await asyncio.sleep(0.1)
            assert not changing.done()
            assert (await loom.find("newer")).partly, "somebody is reading it"
        await changing
    assert await _titles(loom, "newer") == ["Newer still"]


async def test_a_plan_of_many_is_found(loom: Loom) -> None:
    await loom.apply_plan({"tasks": [{"title": f"Turnip {number}"} for number in range(4_500)]})
    assert len((await loom.find("turnips", limit=10)).tasks) == 10
    assert await _titles(loom, "4321") == ["Turnip 4321"]


async def test_a_task_is_named_by_the_beginning_of_its_id_in_any_case(loom: Loom, pool: Pool) -> None:
    for task_id in ("loom-ab120000", "loom-ab130000"):
        task = await loom.create(f"Task {task_id}")
        await pool.execute("delete from task_texts")
        await pool.execute("update tasks set id = $1 where id = $2", task_id, task.id)
    for name in ("loom-ab12", "AB12", "ab120000", "LOOM-AB120000", "loom-ab120000", " ab12 "):
        assert (await loom.get(name)).task.id == "loom-ab120000"
    with pytest.raises(InvalidInputError) as refused:
        await loom.get("ab1")
    assert "stands for several tasks: loom-ab120000, loom-ab130000." in str(refused.value)
    later = await loom.create("Later", depends_on=["ab12"], parent_id=None)
    assert later.depends_on == ("loom-ab120000",)
    claim = await loom.claim("ab13", agent_id="ada")
    assert claim is not None
    await loom.done("AB13", {}, token=claim.task.claim_token)
    for nothing in ("ff", "loom-", "no such task", "'; drop", "", " ", "ab12\0", "\ud800", "x" * 10_000):
        with pytest.raises(InvalidInputError, match="is not a task id"):
            await loom.get(nothing)


async def test_a_task_is_named_by_the_id_that_it_had_elsewhere(loom: Loom, pool: Pool) -> None:
    ids = [(await loom.create(f"Task {number}")).id for number in range(3)]
    for task_id, origin in zip(ids, ("taskmaster/tasks.json#master:5.2", "bd-x1f", "bd-x1f/bd-x1f"), strict=True):
        await pool.execute("update tasks set origin_id = $1 where id = $2", origin, task_id)
    assert (await loom.get("5.2")).task.id == ids[0]
    assert (await loom.get("master:5.2")).task.id == ids[0]
    assert (await loom.get("taskmaster:master:5.2")).task.id == ids[0], "as the import has told it"
    assert (await loom.get("Taskmaster/Tasks.json#MASTER:5.2")).task.id == ids[0]
    assert (await loom.get("BD-X1F")).task.id == ids[1]
    assert (await loom.get("bd-x1f")).task.id == ids[1]


async def test_a_name_of_a_tracker_is_looked_for_in_a_bounded_part_of_very_many(loom: Loom, pool: Pool) -> None:
    await fill(loom, pool, 20_000)
    await pool.execute("update tasks set origin_id = 'taskmaster/' || id || '.json#Master:' || right(id, 1)")
    await pool.execute("update tasks set origin_id = 'beads/BD-' || id where id like '%7'")
    await pool.execute("vacuum analyze tasks")
    for name in ("none", "bd-loom-00000007", "taskmaster:master:5", "taskmaster:5", "5", "none:5", "beads:5"):
        arguments = (loom.project_id, *names._endings(name), names._MOST)
        assert await buffers(pool, names.CALLED, *arguments) <= 200, name
    assert (await loom.get("BD-LOOM-00000007")).task.id == "loom-00000007"
    with pytest.raises(InvalidInputError, match=r"stands for several tasks: .* and others"):
        await loom.get("master:5")


async def test_a_number_that_is_a_trackers_name_and_begins_an_id_is_refused(loom: Loom, pool: Pool) -> None:
    imported, other = await loom.create("Imported"), await loom.create("Other")
    await pool.execute("delete from task_texts")
    await pool.execute("update tasks set id = 'loom-9abc0000', origin_id = 'tasks.json#5' where id = $1", imported.id)
    await pool.execute("update tasks set id = 'loom-5abc0000' where id = $1", other.id)
    with pytest.raises(InvalidInputError, match="stands for several tasks"):
        await loom.cancel("5")
    assert (await loom.get("loom-5")).task.id == "loom-5abc0000"
    assert (await loom.get("tasks.json#5")).task.id == "loom-9abc0000"


async def test_a_task_has_at_most_twenty_labels(loom: Loom) -> None:
    task = await loom.create("Labelled", labels=[f"n{number}" for number in range(20)])
    with pytest.raises(InvalidInputError, match="limit is 20"):
        await loom.update(task.id, labels=["one-more"])
    for bad in ("two words", "", "ü", "x" * 65):
        with pytest.raises(InvalidInputError, match="a label has"):
            await loom.update(task.id, labels=[bad])


async def test_what_is_in_work_comes_first_and_a_page_says_whether_there_is_more(loom: Loom) -> None:
    for number in range(5):
        await loom.create(f"Ready {number}")
    claimed = await loom.claim(agent_id="ada")
    assert claimed is not None
    page = await loom.find("status:open", limit=3)
    assert page.tasks[0].id == claimed.task.id
    assert len(page.tasks) == 3
    assert page.more
    assert not (await loom.find("status:open")).more


async def test_a_page_says_what_those_that_wait_wait_for(loom: Loom) -> None:
    first = await loom.create("First")
    second = await loom.create("Second", depends_on=[first.id])
    page = await loom.find("status:blocked")
    assert [one.id for one in page.blockers[second.id]] == [first.id]


async def narrowest(pool: Pool, wanted: Filter) -> str | None:
    async with pool.acquire() as connection:
        return await listing.narrowest(connection, wanted)


async def test_a_page_looks_at_a_bounded_part_of_very_many(loom: Loom, pool: Pool) -> None:
    await fill(loom, pool, 20_000)
    assert (await loom.find("number", limit=1)).tasks  # which reads all words
    await pool.execute("vacuum analyze task_texts")
    for text in (
        "", "status:open", "status:ready priority:p2", "number", "number status:blocked", "4711", "label:none",
        "holder:nobody", "file:src/none.py", "finished:<1h", "age:>1w", "waits-for:loom-00000000", "-label:x",
    ):  # fmt: skip
        wanted = filters.parse(text)
        leading = await narrowest(pool, wanted)
        query, arguments = listing.statement(loom.project_id, wanted, 50, leading)
        assert await buffers(pool, query, *arguments) <= 4 * listing.LOOKED_AT, text
    for text in ("number", "age:>1w"):
        assert (await loom.find(text)).partly, text
    assert not (await loom.find("holder:nobody")).partly, "which an index tells"
    await pool.execute("update tasks set assignee = 'old' where id = (select min(id) from tasks where status = 'done')")
    found = await loom.find("holder:old status:done")
    assert found.tasks or found.partly


async def test_whichever_way_a_filter_goes_it_finds_the_same(loom: Loom, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the index of words, labels or paths where few tasks have them, by status where very many do."""
    made = await loom.apply_plan(
        {
            "tasks": [{"key": "e", "title": "Epic", "type": "epic"}, {"key": "f", "title": "Below", "parent": "e"}]
            + [
                {
                    "title": f"Fix the {'parser' if n % 3 else 'lexer'} {n}", "priority": f"p{n % 3}",
                    "files": [f"src/{n % 4}.py"], "labels": ["ui"] if n % 2 else [],
                    **({"parent": "f" if n % 3 == 2 else "e"} if n % 5 else {}),
                }
                for n in range(30)
            ]
        }
    )  # fmt: skip
    epic, below = (one.id for one in made[:2])
    for n, task in enumerate(made[2:]):
        if n % 4 == 1:
            await loom.claim(task.id)
        if n % 4 == 2:
            await loom.cancel(task.id) if n % 8 == 2 else await loom.done(task.id)
    for one in made[2:]:  # the lower epic is closed
        found = (await loom.get(one.id)).task
        if found.parent_id == below and not found.status.finished:
            await loom.done(one.id)
    everything = {one.id: one for one in (await loom.find("", limit=100)).tasks}
    assert len(everything) == 32

    async def ids(text: str) -> list[str]:
        page = await loom.find(text, limit=100)
        assert (page.partly, page.more) == (False, False), text
        return [one.id for one in page.tasks]

    for text in (
        "parser", "label:ui parser", "file:src/1.py", "file:src label:ui status:ready", f"epic:{epic} parser",
        f"epic:{epic} file:src/2.py", f"epic:{epic} label:ui status:done", "label:ui -status:ready priority:p0,p2",
        f"label:ui holder:{loom.agent}", "parser finished:<1h", "parser status:cancelled",
        "lexer status:blocked,epic,dead",
    ):  # fmt: skip
        ways = []
        for narrow in (listing.NARROW, -1):
            monkeypatch.setattr(listing, "NARROW", narrow)
            ways.append(await ids(text))
        monkeypatch.undo()
        assert ways[0] == ways[1], text
    assert set(await ids(f"epic:{epic}")) == everything.keys() - {epic} - {
        one.id for one in everything.values() if one.parent_id is None
    }
    assert set(await ids("status:cancelled")) == {one.id for one in everything.values() if one.status == "cancelled"}
    assert set(await ids(f"holder:{loom.agent}")) == {
        one.id for one in everything.values() if one.assignee == loom.agent
    }


async def test_what_lies_far_back_in_its_status_is_found(
    loom: Loom, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind more rows than are looked at, where an index leads to it."""
    monkeypatch.setattr(listing, "LOOKED_AT", 20)
    await fill(loom, pool, 600)
    late = [f"loom-{n:08x}" for n in (11, 13, 17)]
    await pool.execute(
        "update tasks set status = 'cancelled', done_at = now() - interval '8 days' where id = any($1)", late
    )
    await pool.execute("update tasks set assignee = 'old' where id = any($1)", [*late, "loom-00000046"])
    await pool.execute("update tasks set status = 'epic', priority = 2 where id = 'loom-00000054'")
    for text, found in (
        ("status:cancelled", late), ("finished:>7d", late), ("holder:old", ["loom-00000046", *late]),
        ("holder:old status:open", ["loom-00000046"]), ("status:epic", ["loom-00000054"]),
    ):  # fmt: skip
        page = await loom.find(text)
        assert sorted(one.id for one in page.tasks) == sorted(found), text
        assert not page.partly, text
    page = await loom.find("status:ready priority:p2")
    assert len(page.tasks) == 20
    assert page.partly
    assert (await loom.find("status:open", limit=10)).partly is False, "the page was full before"
