"""Plans: reading, resolving names, refusing, ordering."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.exceptions import DependencyCycleError, LoomError, PlanError
from loom.graph.model import plan
from loom.graph.model.dependencies import detect_cycle, topological
from loom.graph.model.plan import Draft
from loom.graph.model.task import Priority, TaskStatus
from tests.timing import fastest


def parse(*tasks: Any) -> dict[str, Draft]:
    return {draft.title: draft for draft in plan.parse({"tasks": list(tasks)})}


def refusal(*tasks: Any) -> LoomError:
    with pytest.raises(LoomError) as caught:
        plan.parse({"tasks": list(tasks)})
    return caught.value


YAML = """
tasks:
  - key: build
    title: Build
    depends_on: [Design]
  - {title: Design, files: [a.py], checks: unit, size: small, priority: p0, type: task}
  - title: Code
    parent: build
    context: {since: 2024-01-01, answer: no, version: 1.5, code: 007, nothing: ~}
  - title: Test
    parent: build
    done_when: It is green.
    depends_on: [Code, loom-12345678]
"""


def test_a_plan_in_yaml() -> None:
    drafts = plan.parse(plan.load(YAML))
    build, design, code, test = drafts
    assert (build.key, build.epic, build.depends_on) == ("build", True, (design.key,))
    assert (design.priority, design.context, design.epic) == (Priority.P0, {"size": "small"}, False)
    assert (design.files, design.checks) == (("a.py",), ("unit",))
    assert code.context == {"since": "2024-01-01", "answer": "no", "version": 1.5, "code": "007", "nothing": None}
    assert (test.parent, test.depends_on, test.done_when) == ("build", (code.key, "loom-12345678"), "It is green.")
    assert test.status is TaskStatus.PENDING
    assert test.origin_id is None
    assert [draft.title for draft in plan.order(drafts)] == ["Design", "Build", "Code", "Test"]


def test_json_and_flow_yaml_and_a_byte_order_mark_are_read() -> None:
    for text in ('{"tasks": [{"title": "a"}]}', "\ufeff{tasks: [{title: a}]}", "\n- a\n"):
        assert plan.load(text) in ({"tasks": [{"title": "a"}]}, ["a"])


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[1,2", "not valid JSON"),
        ("a: [", "not valid YAML in line"),
        ("a: &x [1]\nb: *x", "alias or tag in line 2"),
        ("!!python/object/apply:os.system [ls]", "alias or tag in line 1"),
        ("a: 1\na: 2", "the key `a` twice in line 2"),
        ("[" * 100_000, "nested too deep"),
        ("x: " + "{a: " * 100_000, "nested more than 72 deep in line 1"),
        ("- " * 100_000, "nested more than 72 deep in line 1"),
        ("---\na\n---\nb", "2 YAML documents"),
        ("a: \x00", "characters"),
        ("a: \ud800", "characters"),
        ("? [a]\n: b", "as a key"),
    ],
    ids=lambda value: value[:12],
)
def test_damaged_and_hostile_texts_are_refused(text: str, cause: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan.load(text)
    assert cause in caught.value.cause
    assert caught.value.next_step


@pytest.mark.parametrize(
    "value", [None, [], "x", {}, {"tasks": {}}, {"tasks": []}, {"tasks": ["x"]}, {"tasks": [None]}]
)
def test_what_is_no_plan_is_refused(value: object) -> None:
    with pytest.raises(PlanError) as caught:
        plan.parse(value)
    assert "title" in caught.value.next_step


def test_names_are_keys_first_then_titles_then_ids() -> None:
    found = parse(
        {"title": "b", "key": "a"},
        {"title": "a", "key": "loom-0000000a"},
        {"title": "c", "depends_on": ["a", "b", "loom-0000000a", "loom-0000000b"]},
        {"title": "d", "key": 7, "parent": None, "context": None},
        {"title": "e", "depends_on": [7]},
    )
    assert found["c"].depends_on == ("a", "loom-0000000a", "loom-0000000b")
    assert found["e"].depends_on == ("7",)


def test_keys_that_look_drawn_stay_apart() -> None:
    drafts = plan.parse({"tasks": [{"title": "a"}, {"title": "b", "key": "#1"}, {"title": "b", "key": "##1"}]})
    assert len({draft.key for draft in drafts}) == 3


@pytest.mark.parametrize(
    ("tasks", "cause", "next_step"),
    [
        (
            [{"title": "alpha"}, {"title": "b", "depends_on": ["alfa"]}],
            "Task 2 “b”: depends_on names “alfa”",
            "“alpha”",
        ),
        ([{"title": "a", "parent": "zzz"}], "Task 1 “a”: parent names “zzz”", "Name a key"),
        ([{"title": "a"}, {"title": "a"}, {"title": "b", "depends_on": ["a"]}], "the title of 2 tasks", "keys"),
        ([{"title": "a", "key": "k"}, {"title": "b", "key": "k"}], "Task 1 “k”: another task has this key", "own"),
        ([{"titel": "a"}], "“titel” is not a field", "Did you mean title?"),
        ([{"key": "k"}], "Task 1 “k”: title is missing.", "title"),
        ([{"title": "a"}, {"title": "x" * 501}, {"title": ""}], "501 characters long", "Shorten"),
        ([{"title": "a", "type": "story"}], "type “story”", "task or epic"),
        ([{"title": "a", "priority": 1}], "priority must be text", "text"),
        ([{"title": "a", "depends_on": {"b": 1}}], "depends_on must be a list", "list"),
        ([{"title": "a", "depends_on": [None]}], "depends_on must be text", "text"),
        ([{"title": "a", "context": [1]}], "context must be a JSON object", "context"),
        ([{"title": "a", "context": {"b": "\0"}}], "context.b has a NUL", "Remove"),
        ([{"title": "a", "files": [1]}], "files must be", "src"),
        ([{"title": "a", "size": []}], "size must be", "small"),
        ([{"title": "a", "depends_on": [f"loom-{n:08x}" for n in range(1001)]}], "1,001", "epic"),
        ([{"title": "a"}] * 10_001, "10,001 tasks; the limit is 10,000", "Split"),
    ],
)
def test_faults_name_the_task(tasks: list[Any], cause: str, next_step: str) -> None:
    error = refusal(*tasks)
    assert isinstance(error, PlanError)
    assert cause in error.cause
    assert next_step in error.next_step


def test_other_faults_are_counted() -> None:
    assert "Tasks at fault beside it: 2." in refusal({"title": ""}, {"title": 1}, {"title": None}).cause


@pytest.mark.parametrize(
    ("tasks", "way"),
    [
        ([{"title": "a", "depends_on": ["a"]}], "“a” → #1 “a”"),
        ([{"title": "a", "depends_on": ["b"]}, {"title": "b", "depends_on": ["a"]}], "#1 “a” → #2 “b” → #1 “a”"),
        ([{"title": "e"}, {"title": "c", "parent": "e", "depends_on": ["e"]}], "→ #1 “e” →"),
        ([{"title": "e", "depends_on": ["c"]}, {"title": "c", "parent": "e"}], "→ #2 “c” →"),
        ([{"title": "e", "parent": "e"}], "#1 “e” → #1 “e”"),
        ([{"title": "e", "parent": "f"}, {"title": "f", "parent": "e"}], "→"),
        (
            # f's child waits for e as a whole, e's child for what waits for f.
            [
                {"title": "e"},
                {"title": "e1", "parent": "e", "depends_on": ["x"]},
                {"title": "f"},
                {"title": "f1", "parent": "f", "depends_on": ["e"]},
                {"title": "x", "depends_on": ["f"]},
            ],
            "→",
        ),
    ],
)
def test_cycles_are_spelled_out(tasks: list[Any], way: str) -> None:
    error = refusal(*tasks)
    assert isinstance(error, DependencyCycleError)
    assert way in error.cause


def test_an_epic_may_wait_where_its_children_do_not_close_a_circle() -> None:
    drafts = plan.parse(
        {
            "tasks": [
                {"title": "x", "depends_on": ["f"]},
                {"title": "f1", "parent": "f"},
                {"title": "f", "depends_on": ["e"]},
                {"title": "e", "type": "epic"},
            ]
        }
    )
    assert [draft.title for draft in plan.order(drafts)] == ["e", "f", "f1", "x"]


@given(st.integers(1, 12).flatmap(lambda n: st.lists(st.tuples(st.integers(0, n), st.integers(0, n)), max_size=30)))
def test_cycles_are_found_as_by_brute_force(pairs: list[tuple[int, int]]) -> None:
    edges: dict[str, list[str]] = {}
    for source, target in pairs:
        edges.setdefault(str(source), []).append(str(target))
    reach = {node: set(targets) for node, targets in edges.items()}
    for _ in range(len(reach)):
        for targets in reach.values():
            targets |= {further for target in targets for further in reach.get(target, ())}
    cycle = detect_cycle(edges)
    assert (cycle is not None) == any(node in targets for node, targets in reach.items())
    if cycle:
        assert cycle[0] == cycle[-1]
        assert all(target in edges[node] for node, target in itertools.pairwise(cycle))
    else:
        order = topological(edges)[0]
        assert all(order.index(target) < order.index(node) for node in edges for target in edges[node])


def test_long_chains_need_no_stack() -> None:
    chain = {str(n): [str(n + 1)] for n in range(200_000)}
    assert detect_cycle(chain) is None
    assert len(detect_cycle(chain | {"200000": ["0"]}) or []) == 200_002


def large() -> dict[str, Any]:
    """10,000 tasks in 200 epics, each waiting for three before it."""
    draw = random.Random(1)
    tasks: list[dict[str, Any]] = [{"key": f"k{n}", "title": f"Task {n}"} for n in range(10_000)]
    for n, task in enumerate(tasks[200:]):
        task["parent"] = f"k{n % 200}"
        task["depends_on"] = [f"k{200 + draw.randrange(n)}" for _ in range(3)] if n else []
    return {"tasks": tasks}


def test_ten_thousand_tasks_are_ordered() -> None:
    drafts = plan.order(plan.parse(large()))
    place = {draft.key: at for at, draft in enumerate(drafts)}
    for draft in drafts:
        assert draft.parent is None or place[draft.parent] < place[draft.key]
        assert all(place[name] < place[draft.key] for name in draft.depends_on)


@pytest.mark.benchmark
def test_a_large_plan_is_read_and_ordered_in_a_few_times_what_reading_its_json_takes() -> None:
    given = large()
    text = json.dumps(given)
    assert fastest(lambda: plan.order(plan.parse(given))) < 60 * fastest(lambda: json.loads(text))
