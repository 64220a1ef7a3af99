"""Commands that take several tasks, by the beginnings of their ids or from standard input."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import re
import signal
from typing import Any

import pytest

from loom.cli import several
from loom.exceptions import DatabaseUnavailableError
from loom.graph.front import Loom
from loom.graph.store.claiming import Claim
from tests.cli.conftest import Cli


def test_several_are_changed_and_listed_at_once(cli: Cli) -> None:
    ids = [cli.create(f"Task {number}") for number in range(3)]
    changed = cli.ok("update", *ids, "--label", "ui", "--priority", "p0")
    assert (changed["count"], [one["id"] for one in changed["tasks"]]) == (3, ids)
    listed = cli("list", "--label", "ui", "--ids")
    assert sorted(listed.out.split()) == sorted(ids)
    shown = cli.ok("show", ids[0].upper().removeprefix("LOOM-"))
    assert (shown["id"], shown["labels"]) == (ids[0], ["ui"])
    assert cli.ok("show", *ids)["count"] == 3
    gone = cli.ok("cancel", "-", "--reason", "enough", stdin=f"{ids[0]}  the first\n\n{ids[1]}\n")
    assert [one["status"] for one in gone["tasks"]] == ["cancelled", "cancelled"]
    found = cli.ok("list", "status:open")
    assert [one["id"] for one in found["tasks"]] == [ids[2]]
    rows = cli("list", "label:ui", "--csv").out.splitlines()
    assert rows[0] == "id,state,priority,title,holder,labels,age,done_at,waits_for,reason"
    assert len(rows) == 4
    assert cli("search", "task", "--ids").out.count("loom-") == 3


def test_several_are_claimed_noted_and_looked_back_at_at_once(cli: Cli) -> None:
    ids = [cli.create(f"Task {number}") for number in range(3)]
    cli.ok("claim", ids[0], "--agent", "bob")
    claimed = cli.inside("claim", *ids, "--json", "--agent", "ada")
    assert [(one["id"], one["assignee"]) for one in claimed.json["tasks"]] == [(one, "ada") for one in ids[1:]]
    assert [(one["id"], one["code"]) for one in claimed.json["refused"]] == [(ids[0], "claim_conflict")]
    assert claimed.code == 1
    again = cli.inside("claim", ids[1], "--agent", "ada")
    assert re.search(r"under your name, ada, until (\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d\.", again.err), (
        "as all times are told"
    )
    noted = cli.ok("note", *ids, "Keep the old names")
    assert [(one["to"], one["text"]) for one in noted["tasks"]] == [(one, "Keep the old names") for one in ids]
    assert cli.inside("note", "-", "And the new", stdin=f"{ids[0]} a title\n{ids[1]}\n").out.count("note ") == 2
    (cli.directory / "text").write_text("From a file\n")
    assert cli.ok("note", ids[0], ids[1], "--from", "text")["count"] == 2
    assert [one["text"] for one in cli.ok("show", ids[0])["notes"]] == [
        "Keep the old names", "And the new", "From a file",
    ]  # fmt: skip
    for words in ([ids[0]], ids, [], ["--from", "text"], [*ids, "loom-00000000", "Nobody's"]):
        assert cli.inside("note", *words).code in (1, 2), words
    assert len(cli.ok("show", ids[2])["notes"]) == 1, "one that is not there keeps all from being noted"
    told = cli.ok("history", ids[1], ids[0])
    moments = [(one["type"], one["task_id"], one["title"]) for one in told["events"]]
    assert moments[:2] == [("task.created", ids[0], "Task 0"), ("task.created", ids[1], "Task 1")]
    assert moments[2:4] == [("task.claimed", ids[0], "Task 0"), ("task.claimed", ids[1], "Task 1")]
    newest = cli.ok("history", "-", "--limit", "2", stdin="\n".join(ids))["events"]
    assert newest == cli.ok("history", *ids)["events"][-2:]
    assert "title" not in cli.ok("history", ids[0])["events"][0], "whose it is was said"


def test_once_the_servers_are_gone_the_rest_is_told_and_not_tried(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = sorted(cli.create(f"Task {number}") for number in range(3))
    claim, tried = Loom.claim, list[str | None]()

    async def until_they_are_gone(loom: Loom, task_id: str | None = None, **more: Any) -> Claim | None:
        tried.append(task_id)
        if len(tried) > 1:
            raise DatabaseUnavailableError("PostgreSQL does not answer.", "Run `loom up`.")
        return await claim(loom, task_id, **more)

    monkeypatch.setattr(Loom, "claim", until_they_are_gone)
    ended = cli.inside("claim", *ids, "--json")
    assert (ended.code, ended.json["count"], ended.json["tasks"][0]["id"]) == (1, 1, ids[0])
    assert [(one["id"], one["code"]) for one in ended.json["refused"]] == [
        (one, "database_unavailable") for one in ids[1:]
    ]
    assert tried == ids[:2]
    tried.append(None)
    assert cli.inside("claim", *ids[1:], "--json").json["error"]["code"] == "database_unavailable", "nothing was done"


def test_no_text_of_a_task_is_a_formula_in_a_table(cli: Cli) -> None:
    cli.ok("create", "-", stdin='=HYPERLINK("https://evil.example")\n+1\n@SUM(A1)\n-2+3\n2 = 2\n')
    titles = [row["title"] for row in csv.DictReader(io.StringIO(cli("list", "--csv").out))]
    assert sorted(titles) == sorted(('\'=HYPERLINK("https://evil.example")', "'+1", "'@SUM(A1)", "'-2+3", "2 = 2"))


def test_a_task_is_put_off_and_brought_back(cli: Cli) -> None:
    first, task = cli.create("First"), cli.create("Task")
    assert cli.ok("defer", task, "--reason", "next month")["status"] == "blocked"
    again = cli("defer", task)
    assert again.code == 1
    assert "put off already" in again.err
    assert f"loom resolve {task} retry" in again.err
    assert cli.ok("update", task, "--add-dep", first[5:])["status"] == "blocked"
    assert cli.ok("resolve", task, "retry")["status"] == "blocked"
    assert cli.ok("update", task, "--drop-dep", first)["status"] == "pending"
    token = cli.ok("claim", task, "--agent", "ada")["token"]
    held = cli("defer", task)
    assert held.code == 1
    assert "only what is ready or waits" in held.err
    assert token
    assert cli("doctor").code == 0


def test_tasks_come_from_lines_and_from_json_and_once_for_a_key(cli: Cli) -> None:
    epic = cli.create("Epic", "--epic")
    lines = ("create", "-", "--parent", epic[5:], "--label", "ui", "--key", "todo")
    made = cli.ok(*lines, stdin="First\n\n  Second\n")
    assert [one["title"] for one in made["tasks"]] == ["First", "Second"]
    again = cli.ok(*lines, stdin="First\nSecond\nThird\n")
    assert [one["id"] for one in again["tasks"][:2]] == [one["id"] for one in made["tasks"]]
    assert cli.ok("list", "label:ui")["count"] == 3
    plan = '[{"key": "a", "title": "A", "priority": "p0"}, {"title": "B", "depends_on": ["a"]}]'
    first, second = cli.ok("create", "-", "--priority", "p2", stdin=plan)["tasks"]
    assert (first["priority"], second["priority"], second["depends_on"]) == ("p0", "p2", [first["id"]])
    rows = cli.ok("create", "-", stdin='{"title": "C"}\n{"title": "D"}\n')
    assert rows["count"] == 2
    refused = cli("create", "-", stdin='{"title": "E"}\n{"title": ')
    assert refused.code == 2
    assert "Line 2 of standard input is not valid JSON" in refused.err
    assert cli("create", "-", stdin="\n").code == 2
    one = cli.create("One", "--key", "release-1")
    assert cli.create("One, again", "--key", "release-1") == one
    assert cli.ok("show", "release-1")["title"] == "One"


def test_finished_tasks_are_done_again(cli: Cli) -> None:
    epic = cli.create("Epic", "--epic")
    task = cli.create("Task", "--parent", epic)
    after, begun = cli.create("After", "--depends-on", epic), cli.create("Begun", "--depends-on", epic)
    cli.ok("done", task)
    cli.ok("claim", begun)
    reopened = cli("reopen", task[5:], "--reason", "half of it is missing")
    assert reopened.code == 0
    assert f"open again: {epic}" in reopened.out
    assert f"goes on without it: {begun}" in reopened.out
    assert cli.ok("show", after)["waits_for"] == [f"{epic} (epic)"]
    assert "half of it is missing" in cli("history", task).out
    again = cli("resolve", task, "reopen")
    assert again.code == 1
    assert "nothing to reopen" in again.err
    assert cli("doctor").code == 0


def test_a_cycle_is_refused_whichever_way_it_is_made(cli: Cli) -> None:
    first = cli.create("First")
    second = cli.create("Second", "--depends-on", first)
    refused = cli("update", first, "--add-dep", second)
    assert refused.code == 1
    assert "would make a task wait for itself" in refused.err
    assert cli("update", first, "--add-dep", "loom-00000000").code == 1
    strange = cli("update", first, "--drop-dep", second)
    assert strange.code == 2
    assert f"does not depend on {second}" in strange.err
    assert cli.ok("status", first)["status"] == "pending"


def test_a_task_is_moved_into_an_epic_and_out_of_it(cli: Cli) -> None:
    epic, task = cli.create("Epic", "--epic"), cli.create("Task")
    cli.ok("update", task, "--parent", epic[5:], "--title", "Moved")
    assert cli.ok("show", task)["parent_id"] == epic
    shown = cli("history", task).out
    assert f"parent_id: nothing → {epic}" in shown
    assert "title: Task → Moved" in shown
    assert cli("update", task, "--parent", epic, "--no-parent").code == 2
    cli.ok("update", task, "--no-parent")
    assert "parent_id" not in cli.ok("show", task)


def test_what_happened_to_a_task_is_told_newest_last(cli: Cli) -> None:
    task = cli.create("Task")
    cli.ok("update", task, "--label", "ui")
    token = cli.ok("claim", task, "--agent", "ada")["token"]
    cli.ok("fail", task, "--token", str(token), "--reason", "no luck")
    told = cli.ok("history", task[5:9])
    assert [one["type"] for one in told["events"]][:3] == ["task.created", "task.updated", "task.claimed"]
    assert told["events"][-1]["data"]["reason"] == "no luck"
    shown = cli("history", task).out
    assert "labels: added ui" in shown
    assert "no luck" in shown
    assert cli("history", "loom-00000000").code == 1
    assert task in cli("watch", "--no-follow").out, "what has happened of late"
    ended = cli("watch", "--since", "1h", "--no-follow")
    assert ended.code == 0
    assert "task.failed" in ended.out


def test_the_log_of_the_newest_attempt_is_shown(cli: Cli) -> None:
    task = cli.create("Task")
    none = cli("logs", task)
    assert none.code == 1
    assert "has printed anything" in none.err
    assert cli("work", "--", "sh", "-c", "echo said; echo '{}'").code == 0
    assert "said" in cli("logs", task[5:]).out
    told = cli.ok("logs", task)
    assert (told["id"], told["text"]) == (task, "said\n{}\n")
    assert cli("logs", task, "-f", "--json").code == 2
    coloured = cli.create("Coloured")
    assert cli("work", "--", "sh", "-c", r"printf '\033[31mred\033[0m postgres://me:secret@h/x\n'; echo '{}'").code == 0
    assert cli("logs", coloured).out.startswith("red postgres://me:***@h/x")
    other = cli.create("Other")
    (cli.directory / "secret").write_text("secret\n")
    (cli.directory / ".loom" / "logs" / f"{other}-1.log").symlink_to(cli.directory / "secret")
    led = cli("logs", other)
    assert led.code == 1
    assert "cannot be read" in led.err
    assert "secret\n" not in led.out


def test_a_log_is_followed_into_the_next_attempt(cli: Cli) -> None:
    task = cli.create("Task")
    logs = cli.directory / ".loom" / "logs"
    logs.mkdir()
    first, second = (logs / f"{task}-{number}.log" for number in (1, 2))
    first.write_text("one\n")
    process = cli.start("logs", task, "--follow")
    assert process.stdout is not None
    assert process.stdout.readline() == "one\n"
    with first.open("a") as file:
        file.write("two\n")
    assert process.stdout.readline() == "two\n"
    second.write_text("three\n")
    assert process.stdout.readline() == "three\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (str(first) in err, str(second) in err) == (True, True)


def test_nothing_is_changed_where_one_of_them_is_not_there(cli: Cli) -> None:
    task = cli.create("Task")
    refused = cli("cancel", task, "loom-00000000")
    assert refused.code == 1
    assert "loom-00000000" in refused.err
    assert cli.ok("status", task)["status"] == "pending"
    assert cli("cancel", "-", stdin="\n").code == 2


def test_one_that_refuses_keeps_nobody_else_from_being_changed(cli: Cli) -> None:
    held, free = cli.create("Held"), cli.create("Free")
    cli.ok("claim", held, "--agent", "ada")
    partly = cli("defer", held, free)
    assert partly.code == 1
    assert f"{held}  not changed: {held} is claimed" in partly.out
    assert cli.ok("status", free)["status"] == "blocked"


def test_reports_and_decisions_take_several(cli: Cli) -> None:
    ids = [cli.create(f"Task {number}") for number in range(3)]
    lines = "\n".join(ids)
    for one in ids:
        cli.ok("claim", one, "--agent", "ada")
    assert cli.ok("heartbeat", "-", "--agent", "ada", stdin=lines)["count"] == 3
    back = cli.ok("release", "-", "--note", "later", "--agent", "ada", stdin=lines)
    assert [(one["id"], one["status"]) for one in back["tasks"]] == [(one, "pending") for one in ids]
    assert cli.ok("fail", *ids, "--reason", "no luck", "--no-retry")["count"] == 3
    raised = cli.ok("status", "--view", "escalations")["escalations"][0]
    once = cli("resolve", raised["id"], *ids, "loom-00000000", "retry")
    assert (once.code, "There is no task loom-00000000" in once.err) == (1, True)
    again = cli.inside("resolve", raised["id"], *ids, "retry", "--json")
    assert (again.code, again.json["count"]) == (1, 3), "one of them was meant twice"
    assert "no open escalation" in again.json["refused"][0]["why"]
    held = cli.ok("claim", ids[0], "--agent", "bob")
    assert cli("done", *ids, "--token", str(held["token"])).code == 2, "whose token is it?"
    partly = cli.inside("done", "-", "--agent", "ada", stdin=lines)
    assert partly.code == 1
    assert f"{ids[0]}  not changed: {ids[0]} is claimed" in partly.out
    assert [cli.ok("show", one)["status"] for one in ids] == ["claimed", "done", "done"]
    assert cli("done", ids[0]).code == 3, "of one the exit status is its own"


def test_ids_are_read_where_ctrl_c_ends_a_read(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running event loop keeps the first Ctrl-C for itself."""
    task = cli.create("Task")

    def read(name: str) -> str:
        assert asyncio._get_running_loop() is None
        return task

    monkeypatch.setattr(several, "read_text", read)
    cli.ok("claim", task)
    for words in (
        ["show"],
        ["heartbeat"],
        ["update", "--priority", "p0"],
        ["fail", "--no-retry", "--reason", "no luck"],
    ):
        assert cli.inside(*words, "-").code == 0, words
    assert cli.inside("dead-letter", "retry", "-").code == 0
    assert cli.inside("done", "-").code == 0


def test_what_an_option_says_nothing_about_is_refused(cli: Cli) -> None:
    task = cli.create("Task")
    for words in (
        ["status", task, "--view", "agents"], ["status", task, "--limit", "3"],
        ["resolve", task, "retry", "--to", "bob"], ["resolve", task, "retry", "--downstream"],
    ):  # fmt: skip
        refused = cli.inside(*words)
        assert (refused.code, refused.err.startswith("error: --")) == (2, True), refused.err
    assert cli.ok("show", task)["state"] == "ready"


def test_people_see_one_state_everywhere_and_programs_the_status_too(cli: Cli) -> None:
    """A word that `loom list` takes is the word that every other command says."""
    ready, dead = cli.create("Ready"), cli.create("Dead")
    waits = cli.create("Waits", "--depends-on", ready, "--depends-on", dead)
    cli.ok("fail", dead, "--reason", "no luck", "--no-retry")
    created = cli.inside("create", "Another")
    assert re.fullmatch(r"loom-\w{8}  ready  Another\n", created.out)
    for task, status, state in ((ready, "pending", "ready"), (dead, "failed", "dead")):
        shown = cli.ok("show", task)
        assert (shown["status"], shown["state"]) == (status, state)
        assert cli.inside("show", task).out.startswith(f"{task}  {state}  p1  ")
        (listed,) = cli.ok("list", f"status:{state}", shown["title"])["tasks"]
        assert (listed["id"], listed["status"], listed["state"]) == (task, status, state)
        assert f"{task}  {state} " in cli.inside("list").out
        assert f",{state}," in cli.inside("list", f"status:{state}", "--csv").out
    shown = cli.ok("show", waits)
    assert "state" not in shown, "it is the status"
    assert sorted(shown["waits_for"]) == sorted([f"{ready} (ready)", f"{dead} (dead)"])
    assert {(one["id"], one["state"]) for one in shown["dependencies"]} == {(ready, "ready"), (dead, "dead")}
    assert f"{ready} ready: Ready" in cli.inside("graph").out
    again = cli.inside("resolve", ready, "retry")
    assert f"{ready} is ready and has no open escalation." in again.err
    for words in (["show", waits], ["graph"], ["list"], ["status"], ["wait", "--task", ready, "--timeout", "0"]):
        assert "pending" not in cli.inside(*words).out, words


def test_a_filter_that_means_nothing_is_told(cli: Cli) -> None:
    misspelt = "Did you mean '--status'?"
    for words, said in ((["status:asleep"], "status"), (["--statsu", "x"], misspelt), (["a:b"], "filter")):
        refused = cli("list", *words)
        assert refused.code in (1, 2)
        assert said in refused.err
        assert "Traceback" not in refused.err


def test_whoever_leaves_a_task_blocked_is_told_what_it_waits_for(cli: Cli) -> None:
    first = cli.create("first")
    told = f"  waits for {first} (ready)\n"
    assert told in cli.inside("create", "second", "--depends-on", first).out
    third = cli.create("third")
    assert told in cli.inside("update", third, "--add-dep", first).out
    assert cli.ok("create", "an epic", "--epic", "--depends-on", first)["waits_for"] == [f"{first} (ready)"]


def test_what_an_agent_did(cli: Cli) -> None:
    task, other = cli.create("Write it"), cli.create("Not his")
    cli.ok("claim", task, "--agent", "ada")
    cli.ok("done", task, "--agent", "ada")
    cli.ok("claim", other, "--agent", "bob")
    found = cli.ok("history", "--agent", "ada")
    assert [(one["type"], one["title"]) for one in found["events"]] == [
        ("task.claimed", "Write it"),
        ("task.done", "Write it"),
    ]
    assert [one["type"] for one in cli.ok("history", "--agent", "ada", "--limit", "1")["events"]] == ["task.done"]
    assert "Write it" in cli.inside("history", "--agent", "ada", "--since", "2d").out
    assert cli.inside("history", "--agent", "eve").out == "eve did nothing in that time.\n"
    for words in ([], [task, "--agent", "ada"], [task, "--since", "1d"], ["--agent", "ada", "--since", "monday"]):
        assert cli.inside("history", *words).code == 2, words
    never = cli.inside("watch", "--no-follow", "--since", "monday")
    assert (never.code, "'monday' is no span such as 90s, 15m, 2h or 7d" in never.err) == (2, True)


def test_a_failure_names_its_log(cli: Cli) -> None:
    task = cli.create("Upload")
    assert "log" not in cli.ok("show", task)
    logs = cli.directory / ".loom" / "logs"
    logs.mkdir(exist_ok=True)
    for attempt in (1, 2):
        (logs / f"{task}-{attempt}.log").write_text("no luck\n")
    os.utime(logs / f"{task}-1.log", (0, 0))
    cli.ok("fail", task, "--reason", "no luck", "--no-retry")
    assert cli.ok("show", task)["log"] == str(logs / f"{task}-2.log")
    assert f"`loom logs {task}`" in cli.inside("status", task).out
