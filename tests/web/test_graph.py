"""The picture of the graph: where its tasks are placed, and the same as text."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from loom.graph.front import Loom
from loom.graph.model import dependencies
from loom.graph.store.graphs import Outline
from loom.web import placing
from loom.web.placing import FOLDED_BEYOND, Placed, place
from tests.web.conftest import Board

Row = tuple[str, str, str, str | None]


def drawn(placed: Placed) -> dict[str, tuple[int, int | None]]:
    """The column and wave of each task."""
    return {one.id: (one.column, one.wave) for one in placed.nodes}


def outline(rows: str, *edges: str) -> Outline:
    """Tasks as `name:state` or `name:state:epic`, edges as `task<dependency`."""
    tasks: list[Row] = []
    for row in rows.split():
        name, state, *epic = row.split(":")
        tasks.append((name, f"Task {name}", state, epic[0] if epic else None))
    return Outline(tasks, [(*one.split("<"), False) for one in edges])  # type: ignore[misc]


def test_what_is_finished_comes_first_then_wave_by_wave() -> None:
    placed = place(
        outline("a:done b:done c:ready d:blocked e:blocked f:claimed", "b<a", "c<b", "d<c", "e<d", "e<f", "d<a")
    )
    assert drawn(placed) == {"a": (0, None), "b": (1, None), "c": (2, 0), "f": (2, 0), "d": (3, 1), "e": (4, 2)}
    assert [placed.nodes[one].id for one in placed.critical] == ["c", "d", "e"]
    assert placed.waves == [(2, 0), (3, 1), (4, 2)]


def test_an_epic_ends_behind_its_children_and_a_waived_edge_is_none() -> None:
    found = outline("e:epic a:ready:e b:blocked:e c:blocked", "b<a", "c<e")
    placed = place(Outline(found.tasks, [*found.edges, ("a", "c", True)]))
    assert drawn(placed) == {"a": (0, 0), "b": (1, 1), "e": (2, 2), "c": (3, 3)}


def test_of_too_many_the_epics_are_folded_and_opened_one_by_one() -> None:
    tasks: list[Row] = [(f"e{n}", f"Epic {n}", "epic", None) for n in range(3)]
    tasks += [(f"t{n}", f"Task {n}", "done" if n % 2 else "ready", f"e{n % 3}") for n in range(FOLDED_BEYOND)]
    edges = [(f"t{n}", f"t{n - 1}", False) for n in range(1, FOLDED_BEYOND)]  # from epic to epic, round and round
    placed = place(Outline(tasks, edges))
    assert sorted(one.id for one in placed.nodes) == ["e0", "e1", "e2"]
    assert sum(one.inside for one in placed.nodes) == FOLDED_BEYOND
    assert sum(one.done for one in placed.nodes) == FOLDED_BEYOND // 2
    opened = place(Outline(tasks, edges), ["e1"])
    assert {one.id for one in opened.nodes} >= {"e0", "e1", "e2", "t1"}
    assert next(one for one in opened.nodes if one.id == "e1").inside == 0
    assert len(place(Outline(tasks[:FOLDED_BEYOND], [])).nodes) == FOLDED_BEYOND


def at_random(seed: int, count: int) -> Outline:
    chance = random.Random(seed)
    states = ["ready", "blocked", "claimed", "done", "dead", "epic"]
    tasks: list[Row] = []
    epics: list[str] = []
    for number in range(count):
        state = chance.choice(states)
        parent = chance.choice(epics) if epics and chance.random() < 0.3 else None
        tasks.append((f"t{number}", f"Task {number}", state, parent))
        if state == "epic":
            epics.append(f"t{number}")
    edges = [
        (f"t{later}", f"t{chance.randrange(later)}", chance.random() < 0.1)
        for later in range(1, count)
        for _ in range(chance.randrange(3))
    ]
    return Outline(tasks, edges)


@pytest.mark.parametrize("seed", range(8))
def test_no_two_are_in_one_place_and_unfinished_work_goes_from_left_to_right(seed: int) -> None:
    found = at_random(seed, 120)
    placed = place(found)
    assert len({(one.column, one.row) for one in placed.nodes}) == len(placed.nodes) == 120
    again = {one.id: one for one in placed.nodes}
    unfinished = {one for one, node in again.items() if node.wave is not None}
    edges = {one: [to for task, to, waived in found.edges if task == one and not waived] for one in again}
    parents = {one[0]: [child[0] for child in found.tasks if child[3] == one[0]] for one in found.tasks}
    before = {one: [*edges[one], *parents[one]] for one in again}
    if dependencies.detect_cycle(before) is None:
        for one in unfinished:
            for earlier in before[one]:
                assert again[earlier].column < again[one].column


@pytest.mark.benchmark
def test_ten_thousand_are_placed_in_a_few_times_what_it_takes_to_bring_them_in_order() -> None:
    """As measured five times, where that takes 7 ms."""
    found = at_random(1, 10_000)
    found = Outline([(*one[:3], None) for one in found.tasks], found.edges)
    targets: dict[str, list[str]] = {one[0]: [] for one in found.tasks}
    for one, target, _ in found.edges:
        targets[one].append(target)

    def took(work: Callable[[], object]) -> float:
        begun = time.process_time()
        work()
        return time.process_time() - begun

    placed = min(took(lambda: place(found)) for _ in range(5))
    ordered = min(took(lambda: dependencies.topological(targets)) for _ in range(5))
    assert placed < 12 * ordered


async def test_the_graph_is_there_as_text_and_as_a_picture(web: Board, loom: Loom) -> None:
    assert "/graph/text" in await web.get("/graph")
    assert "no tasks yet" in await web.get("/graph/text")
    first = await loom.create("Lay the floor")
    second = await loom.create("Paint <b>the wall</b>", depends_on=[first.id])
    third = await loom.create("Hang a picture", depends_on=[second.id])
    page = await web.get("/graph/text")
    assert "Can be done now" in page
    assert "Wave 3" in page
    assert "3 steps" in page
    drawing = (await web.client.get("/graph.json?open=odd,loom-00000000")).json()
    assert [(one[0], one[2], one[5]) for one in drawing["nodes"]] == [
        (first.id, "ready", 0),
        (second.id, "blocked", 1),
        (third.id, "blocked", 2),
    ]
    assert drawing["edges"] == [0, 1, 1, 2]
    assert drawing["critical"] == [0, 1, 2]
    states = {"dead": "dead", "retry": "retry"}
    for title, again in (("dead", False), ("retry", True)):
        task = await loom.create(title)
        await loom.claim(task.id)
        await loom.fail(task.id, "no", retry=again)
    page = await web.get("/graph/text")
    now = page.index("Can be done now")
    held = page[page.index("Waits for somebody, or for its time") : now]
    for title in ("dead", "retry"):
        assert f'dir="auto">{title}</span>' in held
        assert f'dir="auto">{title}</span>' not in page[now:]
    await loom.claim(first.id)
    page = await web.get("/graph/text")
    begins, ends = page.index("Worked on now"), page.index("Waits for somebody")
    assert "Lay the floor" in page[begins:ends]
    assert "Can be done now" not in page
    await loom.create("An epic", epic=True)
    found = await loom.outline()
    assert states.items() <= {one[1]: one[2] for one in found.tasks}.items()
    assert (await loom.outline(limit=2)).more == 4


async def test_as_text_even_what_is_too_much_for_a_picture_is_told_whole(
    web: Board, loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "FOLDED_BEYOND", 1)
    epic = await loom.create("The house", epic=True)
    wall = await loom.create("Build the wall", parent_id=epic.id)
    await loom.create("Paint the wall", depends_on=[wall.id])
    page = await web.get("/graph/text")
    assert page.index("Can be done now") < page.rindex("Build the wall") < page.index("Wave 2") < page.rindex("Paint")
    drawn = (await web.client.get("/graph.json")).json()
    assert "Build the wall" not in [one[1] for one in drawn["nodes"]], "the picture folds it"
