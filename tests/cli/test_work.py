"""A task's way through the command line, and what people and programs are shown of it."""

from __future__ import annotations

import json
import re

from tests.cli.conftest import Cli


def test_a_plan_is_worked_off(cli: Cli) -> None:
    first = cli.ok("create", "design", "--priority", "p0", "--context", '{"style": "plain"}', "--done-when", "reviewed")
    assert first["status"] == "pending"
    second = cli.ok("create", "build", "--depends-on", first["id"])
    assert (second["status"], second["waiting"]) == ("blocked", 1)

    ready = cli.ok("ready")
    assert [row["id"] for row in ready["tasks"]] == [first["id"]]
    assert ready["count"] == 1

    claim = cli.ok("claim", "--lease", "120")
    assert (claim["id"], claim["assignee"], claim["context"], claim["done_when"]) == (
        first["id"],
        "tester",
        {"style": "plain"},
        "reviewed",
    )
    assert cli.ok("heartbeat")["claims"][0]["token"] == claim["token"]

    done = cli.ok("done", first["id"], "--output", "-", "--token", str(claim["token"]), stdin='{"doc": "design.md"}')
    assert (done["status"], done["unblocked"]) == ("done", [second["id"]])

    claim = cli.ok("claim", second["id"])
    assert claim["dependencies"][0]["output"] == {"doc": "design.md"}
    cli.ok("done", second["id"])

    nothing = cli.ok("claim")
    assert nothing["status"] == "nothing_ready"
    overview = cli.ok("status")
    assert overview["counts"]["done"] == 2
    assert overview["project"] == "shop"
    assert "2 of 2 tasks done" in cli("status").out


def test_a_claim_by_somebody_else_is_a_conflict_with_its_own_exit_status(cli: Cli) -> None:
    task = cli.create()
    cli.ok("claim", task, "--agent", "other")
    refused = cli("claim", task)
    assert refused.code == 3
    assert refused.out == ""
    assert re.fullmatch(r"error: .*other.*\nnext: .*`loom claim`.*\n", refused.err)
    as_json = cli("claim", task, "--json")
    assert as_json.code == 3
    assert as_json.err == ""
    assert as_json.json["error"]["code"] == "claim_conflict"


def test_release_fail_and_escalate_end_a_claim(cli: Cli) -> None:
    task = cli.create()
    cli.ok("claim", task)
    assert cli.ok("release", task, "--note", "later")["status"] == "pending"
    failed = cli.ok("fail", task, "--reason", "no network")
    assert failed["status"] == "failed"
    assert "retry_at" in failed
    assert cli.ok("resolve", task, "retry", "--note", "it is back")["status"] == "pending"
    assert cli.ok("escalate", task, "which network?")["status"] == "blocked"

    raised = cli.ok("status", "--view", "escalations")["escalations"][0]
    assert raised["message"] == "which network?"
    assert cli.ok("resolve", raised["id"], "answer", "--note", "the wired one")["status"] == "pending"
    assert "the wired one" in cli.ok("inbox")["messages"][0]["text"]
    given = cli.ok("claim", task)
    assert cli.ok("release", task, "--token", str(given["token"]))["status"] == "pending"

    cli.ok("escalate", task, "and now?")
    handed = cli.ok("resolve", task, "reassign", "--to", "other")
    assert (handed["status"], handed["assignee"]) == ("claimed", "other")
    holders = cli.ok("status", "--view", "agents")
    assert holders["agents"][0]["agent"] == "other"


def test_ways_out_of_dead_work(cli: Cli) -> None:
    task = cli.create()
    waits = cli.create("waits", "--depends-on", task)
    dead = cli.ok("fail", task, "--reason", "never", "--no-retry")
    assert (dead["dead_reason"], dead["held_up"]) == ("never", [waits])
    listed = cli.ok("dead-letter", "list")
    assert [row["id"] for row in listed["tasks"]] == [task]
    assert cli.ok("status", "--view", "dead_letters")["count"] == 1
    assert cli.ok("dead-letter", "retry", task)["tasks"][0]["status"] == "pending"
    alive = cli("dead-letter", "cancel", task)
    assert alive.code == 1
    assert "not a dead letter" in alive.err
    assert cli.ok("status", task)["status"] == "pending"
    cli.ok("fail", task, "--reason", "never", "--no-retry")
    gone = cli.ok("dead-letter", "cancel", task, "--downstream")["tasks"][0]
    assert (gone["status"], gone["cancelled"]) == ("cancelled", [waits])
    assert cli.ok("dead-letter", "list")["tasks"] == []


def test_editing(cli: Cli) -> None:
    epic = cli.create("an epic", "--epic")
    one = cli.create("one", "--parent", epic)
    two = cli.create("two", "--parent", epic, "--depends-on", one)
    assert cli.ok("update", two, "--title", "second", "--priority", "p0", "--no-dependencies")["status"] == "pending"
    shown = cli.ok("status", two)
    assert (shown["title"], shown["priority"], shown["parent_id"]) == ("second", "p0", epic)
    assert "depends_on" not in shown
    assert cli.ok("cancel", one, "--reason", "not needed")["status"] == "cancelled"
    assert cli.ok("done", two)["closed_epics"] == [epic]
    assert cli("update", two).code == 2  # nothing to change


def test_what_a_task_touches_and_must_pass(cli: Cli) -> None:
    task = cli.create("one", "--files", "src/", "--files", "docs/*.md", "--checks", "unit", "--checks", "lint")
    assert cli.ok("claim", task)["files"] == ["src", "docs"]
    more = ["update", task, "--files", "README.md", "--checks", "slow", "--token", "1"]
    assert cli.ok(*more)["status"] == "claimed"
    shown = cli.ok("status", task)
    assert (shown["files"], shown["checks"]) == (["src", "docs", "README.md"], ["unit", "lint", "slow"])
    assert "must pass  unit, lint, slow" in cli("status", task).out
    less = cli("update", task, "--no-checks")
    assert (less.code, less.err.count("\n")) == (1, 2)
    assert f"`loom escalate {task} TEXT`" in less.err
    cli.ok("release", task)
    cli.ok("update", task, "--no-checks", "--checks", "unit", "--no-files")
    shown = cli.ok("status", task)
    assert (shown.get("files"), shown["checks"]) == (None, ["unit"])
    refused = cli("done", task, "--json")
    assert refused.code == 1
    assert refused.json["error"]["code"] == "proof_missing"
    assert [one["name"] for one in refused.json["error"]["checks"]] == ["unit"]
    assert cli("create", "x", "--files", "../up").code == 2


def test_the_graph_in_its_three_shapes(cli: Cli) -> None:
    one = cli.create("one")
    two = cli.create("two", "--depends-on", one)
    assert [wave["count"] for wave in cli.ok("graph")["waves"]] == [1, 1]
    rows = cli.ok("graph", "--format", "json")
    assert rows["edges"] == [{"task": two, "depends_on": one}]
    assert json.loads(cli("graph", "--format", "json").out) == rows
    assert cli("graph", "--format", "mermaid").out.startswith("flowchart LR\n")
    assert cli.ok("graph", "--root", one, "--format", "json")["count"] == 1
    assert "wave 2" in cli("graph").out


def test_importing_and_exporting(cli: Cli) -> None:
    plan = "tasks:\n  - {key: a, title: first}\n  - {key: b, title: second, depends_on: [a]}\n"
    (cli.directory / "plan.yaml").write_text(plan)
    brought = cli.ok("import", "plan.yaml")
    assert (brought["format"], brought["created"], brought["ready"]) == ("plan", 2, 1)
    again = cli.ok("import", "plan.yaml")
    assert (again["created"], again["known"]) == (0, 2)
    assert "2 new tasks" in cli("import", "-", stdin='{"tasks": [{"title": "x"}, {"title": "y"}]}').out
    exported = cli("export")
    assert exported.json["loom_export"] == 1
    assert cli.ok("import", "-", stdin=exported.out)["created"] in (0, 4)
    assert cli("import", "-", stdin="{}").code == 1


def test_a_plan_is_known_by_its_path_or_its_name(cli: Cli) -> None:
    for directory in ("a", "b"):
        (cli.directory / directory).mkdir()
        (cli.directory / directory / "plan.yaml").write_text(f"- {{key: k, title: of {directory}}}\n")
    one = cli.ok("import", "a/plan.yaml")
    other = cli.ok("import", str(cli.directory / "b" / "plan.yaml"))
    assert (one["created"], other["created"]) == (1, 1)
    assert cli.ok("status", other["ids"]["k"])["title"] == "of b"
    (cli.directory / "b" / "plan.yaml").rename(cli.directory / "moved.yaml")
    moved = cli.ok("import", "moved.yaml", "--as", "b/plan.yaml")
    assert (moved["created"], moved["known"], moved["ids"]) == (0, 1, other["ids"])
    plan = (cli.directory / "moved.yaml").read_text()
    ids = [cli.ok("import", "-", stdin=plan)["ids"]["k"] for _ in range(2)]
    assert len({*ids, one["ids"]["k"], other["ids"]["k"]}) == 4
    named = [cli.ok("import", "-", "--as", "mine", stdin=plan)["ids"]["k"] for _ in range(2)]
    assert named[0] == named[1]
    assert cli("import", "-", "--as", " ", stdin=plan).code == 2


def test_what_is_deferred_is_told_apart_from_what_asks(cli: Cli) -> None:
    issues = '{"id": "b-1", "title": "later", "status": "deferred"}\n'
    brought = cli.ok("import", "-", stdin=issues)
    assert brought["adjustments"][0]["kind"] == "came_in_deferred"
    task = brought["ids"]["beads:b-1"]
    assert cli.ok("status")["deferred"] == 1
    assert "1 deferred" in cli("status").out
    shown = cli.ok("status", "--view", "escalations")
    assert (shown["count"], [one["task_id"] for one in shown["deferred"]]) == (0, [task])
    assert "later" in cli("status", task).out
    assert "Beads had it as deferred." in cli("status", "--view", "escalations").out
    assert "deferred: 1 task held until somebody says so" in cli("doctor").out
    assert cli.ok("resolve", task, "retry")["status"] == "pending"
    assert "deferred" not in cli.ok("status")
    assert "deferred" not in cli("doctor").out


def test_a_name_for_a_file_whose_ids_stand_for_themselves_is_said_to_change_nothing(cli: Cli) -> None:
    issue = '{"id": "b-1", "title": "A", "status": "open"}\n'
    assert "--as changed nothing" in cli("import", "-", "--as", "mine", stdin=issue).out
    assert cli.ok("import", "-", "--as", "mine", stdin=issue)["note"].startswith("--as changed nothing")
    assert "note" not in cli.ok("import", "-", stdin=issue)
    assert "note" not in cli.ok("import", "-", "--as", "mine", stdin="- {key: k, title: B}\n")


def test_a_lapsed_claim_is_seen_and_claimed_without_any_long_lived_process(cli: Cli) -> None:
    task = cli.create()
    cli.ok("claim", task, "--agent", "other", "--lease", "1")
    cli.ok("wait", "--timeout", "1.2", "--what", "inbox")
    assert cli.ok("claim")["id"] == task


def test_what_agents_wrote_reaches_a_person_cleaned_and_a_program_whole(cli: Cli) -> None:
    title = "\u202emoc.live\u202c caf\u00e9 \u4e2d\u6587 \u200bx"
    task = cli.create(title)
    for words in (["ready"], ["status"], ["status", task], ["graph"]):
        out = cli(*words).out
        assert "\u202e" not in out
        assert "\u200b" not in out
        assert "moc.live caf\u00e9 \u4e2d\u6587 x" in out
    answer = cli("ready", "--json")
    assert "\u202e" not in answer.out
    assert answer.json["tasks"][0]["title"] == title
    assert "\\u4e2d" in cli("ready", "--json", PYTHONUTF8="0", PYTHONIOENCODING="latin-1").out


def test_one_person_is_one_agent_whatever_the_command(cli: Cli) -> None:
    del cli.env["LOOM_AGENT_ID"]
    task = cli.create()
    holder = cli.ok("claim", task)["assignee"]
    assert re.fullmatch(r"[A-Za-z0-9._:@/-]{1,64}", holder)
    assert "@" in holder
    assert cli.ok("done", task)["status"] == "done"
    session = {"CLAUDE_CODE_SESSION_ID": "0f9c2d11-aaaa-bbbb-cccc-ddddeeeeffff"}
    task = cli.create()
    assert cli.ok("claim", task, **session)["assignee"] == "claude-0f9c2d11"
    assert cli.ok("done", task, **session)["status"] == "done"


def test_no_colour_without_a_terminal(cli: Cli) -> None:
    cli.create()
    for words in (["status"], ["ready"], ["graph"]):
        assert "\x1b" not in cli(*words).out
