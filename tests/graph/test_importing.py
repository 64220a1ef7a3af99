"""Importing: each format by small samples, and the invariants by any graph at all."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loom.exceptions import ImportFormatError, PlanError
from loom.graph.importing import AdjustmentKind, Batch, Report, native, read
from loom.graph.importing.fitting import fit
from loom.graph.importing.items import Item
from loom.graph.importing.reconcile import reconcile
from loom.graph.model import limits, plan
from loom.graph.model.plan import Draft
from loom.graph.model.task import Priority, Task, TaskStatus
from loom.graph.store.origins import KnownTask
from tests.timing import fastest

DONE, CANCELLED, PENDING = TaskStatus.DONE, TaskStatus.CANCELLED, TaskStatus.PENDING


def by_key(batch: Batch) -> dict[str, Draft]:
    """The drafts by their key without the format and the tag or project."""
    return {draft.key.split(":", 1)[1].removeprefix("master:"): draft for draft in batch.drafts}


def counts(batch: Batch) -> dict[AdjustmentKind, int]:
    return {found.kind: found.count for found in batch.adjustments}


def taskmaster(*tasks: Any, **tags: list[Any]) -> Batch:
    data = {"master": {"tasks": list(tasks), "metadata": {"created": "2026-01-01"}}}
    return read(json.dumps(data | {tag: {"tasks": inner} for tag, inner in tags.items()}), "tasks.json")


def beads(*issues: Any) -> Batch:
    return read("\n".join(json.dumps({"title": issue["id"], "status": "open"} | issue) for issue in issues), "i.jsonl")


def link(target: str, kind: str = "blocks") -> dict[str, str]:
    return {"issue_id": "", "depends_on_id": target, "type": kind}


# --- Task Master ------------------------------------------------------------------------------------------------------


def test_task_master() -> None:
    batch = taskmaster(
        {
            "id": 1,
            "title": "Ground",
            "description": "What.",
            "details": "How.",
            "testStrategy": "Run it.",
            "status": "done",
            "priority": "high",
            "dependencies": [],
            "complexity": 7,
        },
        {
            "id": "2",
            "title": "House",
            "status": "in-progress",
            "priority": "low",
            "dependencies": [1],
            "subtasks": [
                {"id": 1, "title": "Walls", "status": "done", "dependencies": []},
                {"id": 2, "title": "Roof", "status": "review", "dependencies": [1, "3"], "acceptanceCriteria": "Dry."},
                {"id": 4, "title": "Door", "status": "pending", "dependencies": ["2.1", "1"], "priority": "high"},
            ],
        },
        {"id": 3, "title": "Garden", "status": "deferred", "dependencies": ["2.2"]},
    )
    found = by_key(batch)
    assert batch.format == "taskmaster"
    assert batch.source == {"tags": 1, "tasks": 3, "subtasks": 3, "dependencies": 6}
    ground, house, roof, door, garden = (found[key] for key in ("1", "2", "2.2", "2.4", "3"))
    assert (ground.status, ground.priority, ground.done_when) == (DONE, Priority.P0, "Run it.")
    assert ground.context["description"] == "What."
    assert ground.context["details"] == "How."
    assert ground.context["origin"] == {"format": "taskmaster", "tag": "master", "id": "1", "complexity": 7}
    assert ground.origin_id == "taskmaster:master:1"
    assert (house.epic, house.parent, house.depends_on) == (True, None, ("taskmaster:master:1",))
    assert (roof.parent, roof.priority, roof.done_when) == (house.key, Priority.P2, "Dry.")
    assert roof.context["imported_status"] == "review"
    assert (door.depends_on, door.priority) == (("taskmaster:master:2.1",), Priority.P0)
    # In a subtask 1 means the sibling and 3, where there is none, the task; which gives up its dependency on 2.2.
    assert roof.depends_on == ("taskmaster:master:2.1", "taskmaster:master:3")
    assert garden.depends_on == ()
    assert (garden.deferred, garden.context["imported_status"]) == ("Task Master had it as deferred.", "deferred")
    assert counts(batch) == {AdjustmentKind.CYCLE: 1, AdjustmentKind.PENDING: 1, AdjustmentKind.DEFERRED: 1}


def test_the_flat_form_is_the_trunk() -> None:
    batch = read('{"tasks": [{"id": 1, "title": "a"}], "meta": {}}', "tasks.json")
    assert [draft.origin_id for draft in batch.drafts] == ["taskmaster:master:1"]


def test_other_tags_are_epics_and_have_ids_of_their_own() -> None:
    batch = taskmaster({"id": 1, "title": "a"}, feature=[{"id": 1, "title": "b", "status": "done"}], empty=[])
    found = by_key(batch)
    assert set(found) == {"1", "feature", "feature:1"}
    assert (found["feature"].epic, found["feature"].status, found["feature:1"].parent) == (
        True,
        DONE,
        "taskmaster:feature",
    )
    assert found["1"].parent is None
    assert counts(batch) == {}


def test_a_lone_tag_is_no_epic() -> None:
    batch = read('{"feature": {"tasks": [{"id": 1, "title": "b"}]}}', "tasks.json")
    assert [(draft.origin_id, draft.parent) for draft in batch.drafts] == [("taskmaster:feature:1", None)]


def test_task_master_ids_that_come_twice_lose_no_work() -> None:
    batch = taskmaster({"id": 1, "title": "a"}, {"id": 1, "title": "b"}, {"id": 2, "title": "c", "dependencies": [1]})
    found = by_key(batch)
    assert {key: draft.title for key, draft in found.items()} == {"1": "a", "1#2": "b", "2": "c"}
    assert found["2"].depends_on == ("taskmaster:master:1",)
    assert counts(batch) == {AdjustmentKind.SAME_ID: 1}


def test_task_master_nests_to_any_depth() -> None:
    deepest = {"id": "8.8.1", "title": "deepest", "dependencies": [2, "9"]}
    batch = taskmaster(
        {"id": 8, "title": "top", "subtasks": [{"id": 8, "title": "mid", "status": "done", "subtasks": [deepest]}]},
        {
            "id": 9,
            "title": "other",
            "dependencies": ["8.8.1"],
            "subtasks": [{"id": 1, "title": "n", "subtasks": [{"title": "no id"}, {"id": 2, "dependencies": ["1"]}]}],
        },
        {"id": 2, "title": "second", "priority": "critical", "parentId": 9, "dependencies": "8, 8.8"},
    )
    found = by_key(batch)
    assert set(found) == {"8", "8.8", "8.8.1", "9", "9.1", "9.1.#1", "9.1.2", "2"}
    assert found["8.8.1"].parent == "taskmaster:master:8.8"
    assert found["8.8.1"].depends_on == ("taskmaster:master:2", "taskmaster:master:9")
    assert found["9.1.2"].depends_on == ("taskmaster:master:9.1",) or AdjustmentKind.CYCLE in counts(batch)
    assert found["2"].parent == "taskmaster:master:9"
    assert (found["2"].priority, found["2"].context["origin"]["priority"]) == (Priority.P0, "critical")


def test_odd_entries_do_no_harm() -> None:
    batch = taskmaster(
        "what",
        None,
        {"title": "no id", "dependencies": "1", "subtasks": {"id": 1}},
        {"id": True, "title": ["list"], "status": 5, "priority": {}, "dependencies": [None, {}, 3.5, True]},
        {"id": 3, "subtasks": [{"id": "3.5"}, 7]},
    )
    check_invariants(batch.drafts)
    assert counts(batch)[AdjustmentKind.NOT_WORK] == 3
    assert by_key(batch)["3.5"].title == "Untitled"


# --- Beads ------------------------------------------------------------------------------------------------------------


def test_beads() -> None:
    batch = beads(
        {
            "id": "bd-1",
            "issue_type": "epic",
            "priority": 0,
            "title": "Epic",
            "design": "D.",
            "created_at": "2026-01-02T03:04:05Z",
        },
        {
            "id": "bd-1.1",
            "status": "closed",
            "priority": 4,
            "closed_at": "2026-01-03T00:00:00.123456789+02:00",
            "close_reason": "Shipped",
            "acceptance_criteria": "It works.",
            "comments": [{"id": 1, "author": "ann", "text": "Hm.", "created_at": "2026-01-03T00:00:00Z"}],
            "notes": "N.",
            "labels": ["UI", "needs: Ännä"],
            "owner": "bob",
            "source_repo": "",
        },
        {
            "id": "bd-2",
            "status": "in_progress",
            "priority": 1,
            "dependencies": [
                link("bd-1", "parent-child"),
                link("bd-3", "parent-child"),
                link("bd-1.1"),
                link("bd-3", "waits-for"),
                link("bd-1.1", "discovered-from"),
                link("bd-9"),
            ],
        },
        {"id": "bd-3", "issue_type": "task", "dependencies": [link("bd-1.1", "conditional-blocks")]},
    )
    found = by_key(batch)
    epic, first, second, third = (found[key] for key in ("bd-1", "bd-1.1", "bd-2", "bd-3"))
    assert (epic.epic, epic.priority, epic.context["design"]) == (True, Priority.P0, "D.")
    assert epic.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (first.parent, first.status, first.priority, first.done_when) == (epic.key, DONE, Priority.P2, "It works.")
    assert first.done_at == datetime(2026, 1, 2, 22, 0, 0, 123456, tzinfo=UTC)
    assert first.output == {"close_reason": "Shipped"}
    assert (first.labels, first.context["labels"]) == (("ui", "needs:-nn"), ["UI", "needs: Ännä"])
    assert first.context["comments"] == [{"author": "ann", "created_at": "2026-01-03T00:00:00Z", "text": "Hm."}]
    assert first.context["origin"] == {"format": "beads", "id": "bd-1.1", "owner": "bob", "priority": 4}
    assert (second.parent, second.depends_on) == (epic.key, ("beads:bd-1.1", "beads:bd-3"))
    assert second.context["related"] == [
        {"type": "discovered-from", "id": "bd-1.1"},
        {"type": "parent", "id": "beads:bd-3", "title": "bd-3"},
    ]
    assert third.depends_on == ("beads:bd-1.1",)
    assert counts(batch) == {
        AdjustmentKind.SECOND_PARENT: 1,
        AdjustmentKind.DANGLING: 1,
        AdjustmentKind.CONDITIONAL: 1,
        AdjustmentKind.PENDING: 1,
    }


@pytest.mark.parametrize(
    "field",
    [
        {"dependencies": [{"depends_on_id": "a", "type": "BLOCKS"}]},
        {"dependencies": {"a": "blocks"}},
        {"dependencies": [{"a": "Blocks"}]},
        {"dependencies": {"a": {"type": "waits_for"}}},
        {"dependencies": [{"depends_on": ["a"], "type": None}]},
        {"dependencies": ["a"]},
        {"dependencies": "a"},
        {"depends_on": ["a"]},
        {"blocked_by": "a"},
    ],
    ids=json.dumps,
)
def test_a_dependency_of_beads_in_any_spelling_is_one(field: dict[str, Any]) -> None:
    batch = beads({"id": "a"}, {"id": "b", **field})
    assert by_key(batch)["b"].depends_on == ("beads:a",)
    assert counts(batch) == {}


@pytest.mark.parametrize(
    "link", [{}, None, [], True, {"depends_on": []}, {"type": "blocks", "id": None}], ids=json.dumps
)
def test_a_reference_that_names_nothing_is_told(link: Any) -> None:
    assert counts(beads({"id": "b", "dependencies": [link]})) == {AdjustmentKind.UNREADABLE: 1}


def test_priorities_of_beads_that_fall_together_are_told_and_noted() -> None:
    batch = beads(*({"id": f"b{n}", "priority": n} for n in range(5)))
    assert [draft.priority for draft in batch.drafts] == [Priority(f"p{n}") for n in (0, 1, 1, 2, 2)]
    assert [draft.context["origin"]["priority"] for draft in batch.drafts] == [0, 1, 2, 3, 4]
    assert counts(batch) == {AdjustmentKind.PRIORITY: 4}
    assert counts(beads({"id": "a", "priority": 1}, {"id": "b", "priority": 4})) == {}


def test_what_is_not_to_be_done_yet_is_deferred() -> None:
    batch = beads(
        {"id": "a", "status": "deferred"},
        {"id": "b", "status": "Blocked"},
        {"id": "c", "status": "pinned"},
        {"id": "d", "pinned": True},
        {"id": "e", "defer_until": "2027-01-01T00:00:00Z"},
        {"id": "f", "status": "in_progress"},
        {"id": "g", "status": "closed", "defer_until": "2027-01-01T00:00:00Z"},
    )
    assert {key: draft.deferred for key, draft in by_key(batch).items() if draft.deferred} == {
        "a": "Beads had it as deferred.",
        "b": "Beads had it as blocked.",
        "c": "Beads had it as pinned.",
        "d": "Beads had it pinned.",
        "e": "Beads had it deferred until 2027-01-01T00:00:00Z.",
    }
    assert counts(batch) == {AdjustmentKind.PENDING: 1, AdjustmentKind.DEFERRED: 5}


def test_what_is_not_work_stays_out() -> None:
    batch = beads(
        {"id": "a", "status": "tombstone"},
        {"id": "b", "issue_type": "event"},
        {"id": "c", "issue_type": "agent"},
        {"id": "d", "issue_type": "role"},
        {"id": "e", "issue_type": "message"},
        {"id": "f", "ephemeral": True},
        {"id": "g", "_type": "memory"},
        {"id": "h", "issue_type": "bug", "dependencies": [link("a"), link("b", "related")]},
    )
    assert [draft.key for draft in batch.drafts] == ["beads:h"]
    assert batch.drafts[0].depends_on == ()
    assert counts(batch) == {AdjustmentKind.NOT_WORK: 7, AdjustmentKind.DANGLING: 1}


def test_of_two_lines_the_newer_counts() -> None:
    old, new = {"id": "a", "updated_at": "2026-01-01T00:00:00Z"}, {"id": "a", "updated_at": "2026-01-02T00:00:00Z"}
    for lines in ([old, new | {"title": "new"}], [new | {"title": "new"}, old]):
        batch = beads(*lines)
        assert [draft.title for draft in batch.drafts] == ["new"]
        assert counts(batch) == {AdjustmentKind.DUPLICATE: 1}


def test_a_single_line_and_an_array_are_beads_too() -> None:
    issue = {"id": "a", "title": "A", "status": "open", "issue_type": "task"}
    for text in (
        json.dumps(issue),
        json.dumps([issue]),
        "\n" + json.dumps(issue | {"title": "\u2028"}, ensure_ascii=False),
    ):
        assert read(text, "x").format == "beads"


# --- Loom's own -------------------------------------------------------------------------------------------------------


def task(id: str, status: TaskStatus = PENDING, **fields: Any) -> Task:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    given: dict[str, Any] = {"title": id, "priority": Priority.P1, "version": 1, "created_at": at, "updated_at": at}
    return Task(id=id, project_id="p", status=status, **given | fields)


def test_an_export_comes_back_as_it_was() -> None:
    at = datetime(2026, 2, 1, tzinfo=UTC)
    tasks = [
        task("loom-00000001", TaskStatus.EPIC, depends_on=("loom-00000004",), context={"related": "mine"}),
        task("loom-00000002", DONE, parent_id="loom-00000001", output={"n": 1}, done_at=at, priority=Priority.P0),
        task("loom-00000003", TaskStatus.CLAIMED, parent_id="loom-00000001", done_when="Green.", origin_id="beads:x"),
        task("loom-00000004", TaskStatus.FAILED),
        task("loom-00000005", TaskStatus.BLOCKED, depends_on=("loom-00000003", "loom-00000002")),
    ]
    exported = native.export("p", "name", tasks, {"loom-00000001": {"loom-00000004"}})
    batch = read(json.dumps(exported), "export.json")
    found = {draft.title: draft for draft in batch.drafts}
    epic, done, claimed, failed, blocked = (found[f"loom-0000000{n}"] for n in range(1, 6))
    assert batch.format == "loom"
    assert (epic.epic, set(epic.waived)) == (True, {"loom:p:loom-00000004"})
    assert epic.context == {"related": "mine"}
    assert (done.parent, done.output, done.done_at, done.priority) == (epic.key, {"n": 1}, at, Priority.P0)
    assert done.created_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert (claimed.origin_id, claimed.done_when) == ("beads:x", "Green.")
    assert (claimed.status, claimed.context) == (PENDING, {"imported_status": "claimed"})
    assert (failed.status, failed.origin_id) == (PENDING, "loom:p:loom-00000004")
    assert blocked.depends_on == (claimed.key, done.key)
    assert counts(batch) == {AdjustmentKind.PENDING: 2}

    known = [KnownTask(one.id, one.origin_id, one.status, one.parent_id, one.depends_on) for one in tasks]
    again = fit(batch, known, "p")
    assert (again.drafts, again.known, again.links, again.adjustments) == ([], 5, [], [])


def test_a_plan_comes_in_once() -> None:
    text = "tasks:\n- title: a\n- {title: b, key: k, depends_on: [c]}\n- title: a\n- title: c\n"
    batch = read(text, "first.yaml", known_as="plans/first.yaml")
    origins = [str(draft.origin_id) for draft in batch.drafts]
    assert batch.format == "plan"
    assert len(set(origins)) == 4
    assert all(origin.startswith("plan/plans/first.yaml#") for origin in origins)
    assert [draft.origin_id for draft in read(text, "other.yaml", known_as="plans/first.yaml").drafts] == origins
    longer = read("tasks:\n- title: z\n" + text.removeprefix("tasks:\n"), "first.yaml", known_as="plans/first.yaml")
    assert [draft.origin_id for draft in longer.drafts][1:] == origins
    other = read(text, "first.yaml", known_as="more/first.yaml")
    assert not {draft.origin_id for draft in other.drafts} & {*origins}
    assert [draft.origin_id for draft in read(text, "standard input").drafts] == [None] * 4


def test_a_bare_list_of_tasks_is_a_plan_and_a_text_one_dependency() -> None:
    for text in ("- {title: a}\n- {title: b, depends_on: a}\n", '[{"title": "a"}, {"title": "b", "depends_on": "a"}]'):
        batch = read(text, "plan.yaml")
        assert batch.format == "plan"
        assert [draft.depends_on for draft in batch.drafts] == [(), ("#1",)]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "f.x holds nothing"),
        ("{}", "an empty object"),
        ("[1]", "a list"),
        ('{"a": 1, "b": {}}', "an object with the keys “a”, “b”"),
        ("Dear all,\n\nthis is a letter.", "f.x holds text"),
        ('{"id": "a", "title": "A", "status": "open"}\n<<<<<<< HEAD\n', "line 2 is not JSON"),
        ('{"tasks": [', "f.x cannot be read"),
        ('{"loom_export": 2, "project": {"id": "p"}, "tasks": []}', "version “2”"),
        ('{"loom_export": 1, "tasks": []}', "without its project"),
        ("[" * 100_000, "too deep"),
    ],
    ids=lambda value: value[:12],
)
def test_other_files_are_refused_with_what_was_seen(text: str, cause: str) -> None:
    with pytest.raises(ImportFormatError) as caught:
        read(text, "f.x")
    assert cause in caught.value.cause
    assert caught.value.next_step


def test_a_faulty_plan_says_so_as_a_plan() -> None:
    with pytest.raises(PlanError, match="title is missing"):
        read('{"tasks": [{"key": "a"}]}', "f.yaml")


# --- what gives way ---------------------------------------------------------------------------------------------------


def test_parents_follow_their_children() -> None:
    batch = taskmaster(
        {"id": 1, "status": "done", "subtasks": [{"id": 1, "status": "done"}, {"id": 2}]},
        {"id": 2, "subtasks": [{"id": 1, "status": "done"}, {"id": 2, "status": "cancelled"}]},
        {"id": 3, "status": "done", "subtasks": [{"id": 1, "status": "cancelled"}]},
    )
    found = by_key(batch)
    assert [found[key].status for key in "123"] == [PENDING, DONE, CANCELLED]
    assert counts(batch) == {AdjustmentKind.OPENED: 1, AdjustmentKind.CLOSED: 2}
    opened = next(found for found in batch.adjustments if found.kind is AdjustmentKind.OPENED)
    assert "1 × closed parent with open children opened, such as taskmaster:master:1" in str(opened)


def test_finished_work_waives_what_it_did_not_wait_for() -> None:
    batch = beads(
        {"id": "late"},
        {"id": "done", "status": "closed", "dependencies": [link("late")]},
        {"id": "epic", "issue_type": "epic", "dependencies": [link("late")]},
        {"id": "epic.1", "status": "closed"},
        {"id": "epic.2"},
        {"id": "open", "dependencies": [link("late")]},
    )
    found = by_key(batch)
    assert {key: set(draft.waived) for key, draft in found.items() if draft.waived} == {
        "done": {"beads:late"},
        "epic": {"beads:late"},
    }
    assert counts(batch) == {AdjustmentKind.WAIVED: 2}


def test_a_closed_epic_without_children_is_a_task() -> None:
    batch = beads({"id": "a", "issue_type": "epic", "status": "closed"}, {"id": "b", "issue_type": "epic"})
    assert [(draft.epic, draft.status) for draft in batch.drafts] == [(False, DONE), (True, PENDING)]
    assert counts(batch) == {AdjustmentKind.CHILDLESS: 1}


def test_what_waits_for_a_cancelled_task_is_told() -> None:
    batch = taskmaster({"id": 1, "status": "cancelled"}, {"id": 2, "dependencies": [1]})
    assert counts(batch) == {AdjustmentKind.STUCK: 1}


def test_cycles_give_up_a_dependency_never_a_parent() -> None:
    batch = beads(
        {"id": "e", "dependencies": [link("e.1"), link("x")]},
        {"id": "e.1", "dependencies": [link("e")]},
        {"id": "x", "dependencies": [link("e.1"), link("x")]},
        {"id": "p", "dependencies": [link("q", "parent-child")]},
        {"id": "q", "dependencies": [link("p", "parent-child")]},
    )
    check_invariants(batch.drafts)
    found = by_key(batch)
    assert found["e.1"].parent == "beads:e"
    assert counts(batch) == {AdjustmentKind.PARENT_CYCLE: 1, AdjustmentKind.CYCLE: 4}
    assert found["e"].depends_on == ("beads:x",)


def test_texts_are_made_fit() -> None:
    deep: Any = "end"
    for _ in range(200):
        deep = [deep]
    batch = beads(
        {
            "id": "a\n\0",
            "title": "one\ntwo \x1b[1m" + "x" * 600,
            "description": "a\0b\r\nc\ud800\x07",
            "acceptance_criteria": "é" * 5000,
            "deep": deep,
            "huge": 10**400,
            "nan": float("nan"),
            "k\0ey": 1,
        },
        {"id": "b", "title": "", "notes": '\n"é' * 200_000, "design": "d" * 100_000, "extra": ["e" * 10] * 30_000},
    )
    first, second = batch.drafts
    check_texts(batch.drafts)
    assert first.title.startswith("one two [1mxxx")
    assert len(first.title) == 500
    assert first.context["full_title"].startswith("one\ntwo")
    assert first.context["description"] == "ab\nc"
    assert first.context["acceptance_criteria"] == "é" * 5000
    assert first.context["origin"]["key"] == 1
    assert second.title == "Untitled"
    assert len(second.context["shortened"]) in (1, 2, 3)
    assert len(second.context["notes"]) > 10_000
    assert counts(batch) == {AdjustmentKind.TITLE: 1, AdjustmentKind.SHORTENED: 1, AdjustmentKind.CLEANED: 1}


def test_more_than_a_thousand_dependencies_are_cut() -> None:
    batch = taskmaster(*({"id": n, "title": "t"} for n in range(1002)), {"id": 2000, "dependencies": list(range(1002))})
    assert len(by_key(batch)["2000"].depends_on) == 1000
    assert counts(batch) == {AdjustmentKind.TOO_MANY: 2}


def test_a_long_id_is_shortened_and_stays_distinct() -> None:
    batch = beads({"id": "x" * 5000 + "1"}, {"id": "x" * 5000 + "2"})
    assert len({draft.origin_id for draft in batch.drafts}) == 2
    assert all(len(draft.origin_id or "") <= 200 for draft in batch.drafts)


def tangled() -> list[Item]:
    """10,000 items whose parents and dependencies are drawn at random."""
    draw = random.Random(1)
    return [
        Item(
            f"k{n}",
            f"t{n}",
            draw.choice([PENDING, DONE, CANCELLED]),
            parents=[f"k{draw.randrange(10_000)}"],
            depends_on=[f"k{draw.randrange(10_000)}" for _ in range(3)],
        )
        for n in range(10_000)
    ]


def test_a_large_tangled_graph_comes_in_without_a_cycle() -> None:
    assert len(plan.order(reconcile(tangled(), Report()))) == 10_000


@pytest.mark.benchmark
def test_a_large_tangled_graph_takes_a_few_times_what_a_clean_one_takes() -> None:
    clean = [Item(f"k{n}", f"t{n}", PENDING, depends_on=[f"k{n - 1}"] if n else []) for n in range(10_000)]
    assert fastest(lambda: reconcile(tangled(), Report())) < 20 * fastest(lambda: reconcile(clean, Report()))


# --- any graph --------------------------------------------------------------------------------------------------------

N = 9
names = st.integers(0, N).map(lambda n: f"k{n}")  # one of them dangles
statuses = st.sampled_from([PENDING, PENDING, DONE, DONE, CANCELLED])


@st.composite
def graphs(draw: st.DrawFn) -> list[Item]:
    return [
        Item(
            f"k{n}",
            f"title {n}",
            draw(statuses),
            epic=draw(st.booleans()),
            parents=draw(st.lists(names, max_size=2)),
            depends_on=draw(st.lists(names, max_size=3)),
            waived=draw(st.lists(names, max_size=1)),
        )
        for n in draw(st.permutations(range(draw(st.integers(1, N)))))
    ]


@settings(max_examples=400)
@given(graphs())
def test_any_graph_comes_to_satisfy_the_invariants(items: list[Item]) -> None:
    drafts = reconcile(items, Report())
    check_invariants(drafts)
    assert [draft.key for draft in drafts] == [item.key for item in items]
    plan.order(drafts)
    # What holds already is left as it is, and the same file gives the same drafts.
    assert reconcile(items, Report()) == drafts
    settled = Report()
    assert [replace(draft, context={}) for draft in reconcile(map(item_of, drafts), settled)] == [
        replace(draft, context={}) for draft in drafts
    ]
    assert {case.kind for case in settled} <= {AdjustmentKind.STUCK}


def item_of(draft: Draft) -> Item:
    return Item(
        draft.key,
        draft.title,
        draft.status,
        epic=draft.epic,
        parents=[draft.parent] if draft.parent else [],
        depends_on=list(draft.depends_on),
        waived=draft.waived,
    )


moved = st.sampled_from([None, None, TaskStatus.CLAIMED, TaskStatus.FAILED])


@settings(max_examples=400)
@given(graphs(), graphs(), st.sets(names), st.data())
def test_any_changed_file_fits_what_the_project_has(
    before: list[Item], after: list[Item], gone: set[str], data: st.DataObject
) -> None:
    known = {
        f"loom-{at:08x}": draft
        for at, draft in enumerate(reconcile([i for i in before if i.key not in gone], Report()))
    }
    ids = {draft.key: id for id, draft in known.items()}
    tasks = {
        id: KnownTask(
            id,
            draft.key,
            TaskStatus.EPIC if draft.epic and draft.status is PENDING else draft.status,
            ids.get(draft.parent or ""),
            tuple(ids[name] for name in draft.depends_on),
            frozenset(ids[name] for name in draft.waived),
        )
        for id, draft in known.items()
    }
    for id, one in tasks.items():
        if one.status is PENDING and (to := data.draw(moved)):
            tasks[id] = replace(one, status=to)
    report = Report()
    batch = Batch("beads", reconcile(after, report), report)
    fitted = fit(batch, tasks.values())

    assert {draft.key for draft in fitted.drafts}.isdisjoint(ids)
    for id, name in fitted.links:
        assert tasks[id].status is PENDING
        assert name in {draft.key for draft in fitted.drafts}
    for draft in fitted.drafts:
        if draft.parent in tasks:
            assert tasks[draft.parent].status in (TaskStatus.EPIC, PENDING)
    links = {id: [name for at, name in fitted.links if at == id] for id in tasks}
    union = [
        Draft(
            id,
            id,
            epic=known[id].epic or any(draft.parent == id for draft in fitted.drafts),
            parent=one.parent_id,
            depends_on=(*one.depends_on, *links[id]),
            status=one.status if one.status.finished else PENDING,
            waived=frozenset(one.waived),
        )
        for id, one in tasks.items()
    ]
    check_invariants([*union, *fitted.drafts])
    plan.order([*union, *fitted.drafts])

    # And once it is in, the same file has nothing to add.
    there = [KnownTask(f"new-{draft.key}", draft.origin_id, draft.status) for draft in fitted.drafts]
    again = fit(batch, [*tasks.values(), *there])
    assert again.links == []
    left = {draft.key for draft in again.drafts}
    assert left <= {draft.key for draft in batch.drafts if draft.epic}  # those whose children were all there
    assert left.isdisjoint(draft.key for draft in fitted.drafts)


def test_new_work_joins_what_loom_has_moved() -> None:
    tasks = [
        KnownTask("loom-00000001", "beads:a", DONE),
        KnownTask("loom-00000002", "beads:b", TaskStatus.CLAIMED),
        KnownTask("loom-00000003", "beads:c", TaskStatus.BLOCKED, depends_on=("loom-00000002",)),
        KnownTask("loom-00000004", "beads:e", TaskStatus.EPIC),
        KnownTask("loom-00000005", "beads:e.1", PENDING, "loom-00000004"),
    ]
    batch = beads(
        {"id": "a", "title": "changed"},
        {"id": "a.1"},
        {"id": "b", "dependencies": [link("m")]},
        {"id": "m"},
        {"id": "c", "dependencies": [link("b"), link("n")]},
        {"id": "e", "issue_type": "epic"},
        {"id": "e.1"},
        {"id": "e.2", "dependencies": [link("e.1"), link("n")]},
        {"id": "n", "status": "closed", "dependencies": [link("b")]},
    )
    fitted = fit(batch, tasks)
    found = by_key(fitted)
    assert set(found) == {"a.1", "e.2", "m", "n"}
    assert fitted.known == 5
    assert found["a.1"].parent is None
    assert found["a.1"].context["related"] == [{"type": "parent", "id": "loom-00000001"}]
    assert (found["e.2"].parent, found["e.2"].depends_on) == ("loom-00000004", ("loom-00000005", "beads:n"))
    assert found["n"].waived == {"loom-00000002"}
    assert fitted.links == [("loom-00000003", "beads:n")]
    left_alone = [case.example for case in fitted.report if case.kind is AdjustmentKind.LEFT_ALONE]
    assert left_alone == ["beads:b “b” on beads:m"]
    assert counts(fitted) == {AdjustmentKind.ORPHANED: 1, AdjustmentKind.WAIVED: 1, AdjustmentKind.LEFT_ALONE: 1}


# --- the invariants, written anew -------------------------------------------------------------------------------------


def check_invariants(drafts: Sequence[Draft]) -> None:
    found = {draft.key: draft for draft in drafts}
    assert len(found) == len(drafts)
    children: dict[str, list[Draft]] = {}
    for draft in drafts:
        assert draft.parent is None or found[draft.parent].epic
        assert set(draft.depends_on) <= set(found)
        assert len(set(draft.depends_on)) == len(draft.depends_on)
        assert draft.waived <= set(draft.depends_on)
        assert draft.status in (PENDING, DONE, CANCELLED)
        if draft.parent is not None:
            children.setdefault(draft.parent, []).append(draft)
    for draft in drafts:
        below = children.get(draft.key, [])
        if below:
            all_finished = all(child.status is not PENDING for child in below)
            any_done = any(child.status is DONE for child in below)
            assert draft.epic
            assert draft.status is (PENDING if not all_finished else DONE if any_done else CANCELLED)
        elif draft.epic:
            assert draft.status is PENDING
        above = set(ancestors(draft, found))
        assert above.isdisjoint(draft.depends_on)
        assert all(draft.key not in found[name].depends_on for name in above)
        if draft.status is DONE:
            for key in {draft.key, *above}:
                unmet = [name for name in found[key].depends_on if found[name].status is not DONE]
                assert set(unmet) <= found[key].waived
    assert not has_cycle(two_nodes(found, children))


def ancestors(draft: Draft, found: Mapping[str, Draft]) -> list[str]:
    above: list[str] = []
    while draft.parent is not None:
        assert draft.parent not in above
        above.append(draft.parent)
        draft = found[draft.parent]
    return above


def two_nodes(found: Mapping[str, Draft], children: Mapping[str, Iterable[Draft]]) -> set[tuple[str, str]]:
    """Every task as start and end; pairs of a node and what it waits for."""
    pairs = set()
    for key, draft in found.items():
        pairs.add((f"{key} end", f"{key} start"))
        pairs |= {(f"{key} start", f"{name} end") for name in draft.depends_on}
        pairs |= {(f"{key} end", f"{child.key} end") for child in children.get(key, ())}
        if draft.parent is not None:
            pairs.add((f"{key} start", f"{draft.parent} start"))
    return pairs


def has_cycle(pairs: set[tuple[str, str]]) -> bool:
    """Takes away what waits for nothing until nothing changes; a cycle stays."""
    while pairs:
        waiting = {node for node, _ in pairs}
        left = {(node, target) for node, target in pairs if target in waiting}
        if left == pairs:
            return True
        pairs = left
    return False


def check_texts(drafts: Iterable[Draft]) -> None:
    for draft in drafts:
        assert limits.title(draft.title) == draft.title
        assert limits.done_when(draft.done_when) == draft.done_when
        assert json.loads(limits.context(draft.context)) == draft.context
        assert draft.output is None or limits.output(draft.output)
        assert (draft.origin_id or "x").isprintable()


wild = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(0, 5)
    | st.floats()
    | st.sampled_from(["", "1", "2.1", "done", "a\0b", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
fields = ["id", "title", "status", "priority", "dependencies", "subtasks", "description", "testStrategy", "updatedAt"]
fields += [
    "issue_type",
    "acceptance_criteria",
    "comments",
    "created_at",
    "parent",
    "parent_id",
    "depends_on",
    "context",
]


@settings(max_examples=300)
@given(st.lists(st.dictionaries(st.sampled_from(fields), wild, max_size=8) | wild, max_size=5))
def test_any_values_at_all_are_read(rows: list[Any]) -> None:
    rows = [{"id": 1, "title": "t", "status": "open"}, *rows]
    for text in (
        json.dumps({"tasks": rows}),
        json.dumps({"a": {"tasks": rows}, "b": {"tasks": rows}}),
        json.dumps(rows),
        json.dumps({"loom_export": 1, "project": {"id": "p"}, "tasks": rows}),
    ):
        batch = read(text, "f")
        check_invariants(batch.drafts)
        check_texts(batch.drafts)
        assert all("such as" in str(found) for found in batch.adjustments)
