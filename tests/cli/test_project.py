"""Settings, servers, and the state of a project as a whole."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from loom.config import guarded
from loom.db.connection import Pool
from tests.cli.conftest import Cli


def test_config_shows_values_and_where_they_come_from(cli: Cli) -> None:
    cli.ok("config", "set", "orchestration.max_retries", "5")
    cli.ok("config", "set", "log_level", "ERROR", "--user")
    shown = cli.ok("config", "show", LOOM_CLAIM_TTL="77", LOOM_REDIS_URL="redis://:hunter2@example.org")["values"]
    file = str(cli.directory / ".loom" / "config.yaml")
    assert shown["orchestration.max_retries"] == {"value": 5, "source": file}
    assert shown["log_level"]["source"] == str(Path(cli.env["HOME"]) / ".loom" / "config.yaml")
    assert shown["orchestration.claim_ttl_seconds"] == {"value": 77, "source": "LOOM_CLAIM_TTL"}
    assert "hunter2" not in json.dumps(shown)
    assert "orchestration.max_retries" in cli("config", "show").out
    changed = cli.ok("config", "show", "--changed")["values"]
    assert {"orchestration.max_retries", "log_level"} < set(changed)
    assert "orchestration.fix_depth" not in changed
    assert "fix_depth" not in cli("config", "show", "--changed").out


def test_a_setting_made_by_hand_is_trusted_and_one_that_came_along_is_not(cli: Cli) -> None:
    cli.ok("config", "set", "skills.command", "mine --now")
    assert cli.ok("config", "show")["values"]["skills.command"]["value"] == "mine --now"
    path = cli.directory / ".loom" / "config.yaml"
    path.write_text(path.read_text().replace("mine", "theirs"))
    shown = cli("config", "show", "--json")
    assert shown.json["values"]["skills.command"]["value"] is None
    assert "loom config trust" in shown.err
    refused = cli("config", "trust")
    assert refused.code == 2
    assert "skills.command" in refused.err
    for answer, code in (("n\n", 1), ("\4", 1), (signal.SIGINT, 130)):
        assert cli.asked("config", "trust", answer=answer).code == code
    assert cli.ok("config", "trust", "--yes")["new"] == ["skills.command"]
    assert cli.ok("config", "show")["values"]["skills.command"]["value"] == "theirs --now"


def test_what_is_recorded_as_trusted_is_what_was_asked_about(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.ok("config", "set", "skills.command", "mine --now")
    path = cli.directory / ".loom" / "config.yaml"
    mine = path.read_text()

    def looked_at(root: Path) -> dict[str, str]:  # by somebody who writes the file, and knows when
        path.write_text(mine.replace("mine", "theirs"))
        seen = guarded(root)
        path.write_text(mine)
        return seen

    monkeypatch.setattr("loom.cli.settings.guarded", looked_at)
    assert cli.ok("config", "trust", "--yes")["new"] == ["skills.command"]


def test_projects(cli: Cli) -> None:
    listed = cli.ok("project", "list")
    assert [(one["name"], one["here"]) for one in listed["projects"]] == [("shop", True)]
    assert cli.ok("project", "archive")["changed"] is True
    assert cli.ok("project", "archive")["changed"] is False
    assert cli.ok("project", "list")["projects"] == []
    assert "archived" in cli("project", "list", "--all").out


def test_up_twice_on_servers_of_ones_own(cli: Cli) -> None:
    first = cli.ok("up")
    assert [server["running"] for server in first["servers"]] == [True, True]
    assert first["mcp_json"] == "written"
    again = cli("up")
    assert again.code == 0
    assert "Next" in again.out
    assert cli.ok("up")["mcp_json"] == "unchanged"
    down = cli("down")
    assert down.code == 1
    assert "not started by Loom" in down.err


async def test_doctor(cli: Cli, pool: Pool) -> None:
    cli.ok("init")
    task = cli.create()
    cli.ok("fail", task, "--reason", "x", "--no-retry")
    report = cli.ok("doctor")
    assert report["ok"] is True
    assert {finding["level"] for finding in report["findings"]} <= {"ok", "note"}
    said = cli("doctor").out
    assert "1 dead letter" in said
    assert f"Decide about it with `loom resolve {task} ACTION`: retry, waive or cancel." in said
    assert cli.ok("doctor", "--deep")["ok"] is True

    await pool.execute("update tasks set waiting = 7")
    broken = cli("doctor", "--json")
    assert broken.code == 1
    bad = [finding for finding in broken.json["findings"] if finding["level"] == "bad"]
    assert task in bad[0]["found"]
    assert bad[0]["mend"]
    assert cli("doctor").out.endswith(" problem.\n") or cli("doctor").out.endswith(" problems.\n")


def test_doctor_looks_at_git_where_work_lands(cli: Cli, tmp_path: Path) -> None:
    def told(*parts: str) -> list[tuple[str, str]]:
        report = cli("doctor", "--json", PATH=os.pathsep.join(parts))
        return [(one["level"], one["found"]) for one in report.json["findings"] if one["check"] == "git"]

    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "git").write_text("#!/bin/sh\necho git version 2.30.2\n")
    (tmp_path / "old" / "git").chmod(0o755)
    here = os.environ["PATH"]
    assert told(str(tmp_path / "old"), here) == [], "nothing lands here"
    cli.ok("config", "set", "landing.target", "main")
    assert [level for level, _ in told(here)] == ["ok"]
    old = "This is git version 2.30.2, and Loom needs 2.38 or newer."
    assert told(str(tmp_path / "old"), here) == [("bad", old)]
    assert told(str(tmp_path / "nothing")) == [("bad", "git is not installed.")]


def test_doctor_names_files_that_do_not_count(cli: Cli) -> None:
    for name, text in (
        ("skills/broken.md", "nothing"),
        ("workflows/broken.yaml", "name: broken"),
        (
            "workflows/runs.yaml",
            "name: runs\ndescription: d\nsteps:\n- {id: run, type: action, action: run_command, inputs: {words: [ls]}}",
        ),
        ("workflows/asks.yaml", "name: asks\ndescription: d\nsteps:\n- {id: ask, type: skill, skill: no_such_skill}"),
    ):
        (cli.directory / ".loom" / name).parent.mkdir(exist_ok=True)
        (cli.directory / ".loom" / name).write_text(text)
    report = cli.ok("doctor")
    assert report["ok"] is True
    told = [(one["check"], one["found"]) for one in report["findings"] if one["check"] in ("skills", "workflows")]
    assert [check for check, _ in told] == ["skills", "workflows", "workflows", "workflows"]
    for (_, found), parts in zip(
        told,
        (
            ("skills/broken.md", "front matter"),
            ("workflows/broken.yaml", "`description` is missing"),
            ("workflows/runs.yaml", "loom config trust"),
            ("workflows/asks.yaml", "no_such_skill"),
        ),
        strict=True,
    ):
        for part in parts:
            assert part in found
    assert "note  workflows: " in cli("doctor").out


def test_doctor_sees_a_client_that_cannot_start_the_server(cli: Cli) -> None:
    def wiring() -> str:
        return str(next(one["found"] for one in cli.ok("doctor")["findings"] if one["check"] == ".mcp.json"))

    assert "no server" in wiring()
    (cli.directory / ".mcp.json").write_text('{"mcpServers": {"loom": {"command": "/nowhere/loom", "args": ["mcp"]}}}')
    assert "not on PATH" in wiring()
    (cli.directory / ".mcp.json").write_text("{")
    assert "not valid JSON" in wiring()


@pytest.fixture
def embedded(bare: Cli) -> Iterator[Cli]:
    """A project with servers of its own that Loom starts; they are down again afterwards."""
    with tempfile.TemporaryDirectory(prefix="loom-", dir="/tmp") as place:
        Path(place).chmod(0o755)
        cli = Cli(
            bare.directory, {k: v for k, v in bare.env.items() if not k.startswith("LOOM_") or k == "LOOM_MCP_HUB"}
        )
        cli.env["LOOM_DATA_DIR"] = place
        yield cli
        cli("down", "--yes")


def test_from_nothing_to_running_and_down_again(embedded: Cli, tmp_path: Path) -> None:
    embedded.ok("init")
    assert embedded("status", "--json").code in (0, 1)
    up = embedded("up")
    assert up.code == 0
    assert up.out.count("running") == 2
    task = embedded.create()

    other = Cli(tmp_path / "other", embedded.env)
    other.directory.mkdir()
    other.ok("init")
    other.ok("up")
    since = other.ok("wait", "--timeout", "0")["since"]
    other.create()
    watching = other.start("watch", "--since", since, "--json")
    assert watching.stdout is not None
    watching.stdout.readline()
    refused = embedded("down")
    assert refused.code == 1
    assert "other" in refused.err
    assert Cli(tmp_path, embedded.env)("down").code == 1  # no project, so nobody to ask for
    assert embedded.ok("status")["ready"] == 1
    assert embedded.ok("down", "--yes")["stopped"] is True
    watching.kill()
    watching.communicate()

    stopped = embedded("status", "--json")
    assert stopped.code == 1
    assert stopped.json["error"]["code"] == "servers_stopped"
    embedded.ok("up")
    assert embedded.ok("ready")["tasks"][0]["id"] == task
    assert not list((embedded.directory / ".loom" / "logs").iterdir())


def test_an_empty_project_whose_data_is_elsewhere_says_so(cli: Cli) -> None:
    """The same directory with the servers of another user, as under another HOME."""
    cli.ok("status")
    cli.create("Work")
    kept = cli.directory / ".loom" / "data.local.txt"
    where = kept.read_text()
    assert "@" not in where or ":***@" in where
    kept.write_text(where.replace(" ", " postgresql:///loom?host=/home/ann/", 1))
    assert "its data was last at" not in cli.inside("status").err, "it has tasks here"
    assert kept.read_text() == where

    project_id = str(uuid.uuid4())
    (cli.directory / ".loom" / "config.yaml").write_text(f"project_name: shop\nproject_id: {project_id}\n")
    kept.write_text(f"{project_id} postgresql:///loom?host=/home/ann/\n")
    for _ in range(2):
        assert "its data was last at postgresql:///loom?host=/home/ann/" in cli.inside("status").err
    checked = cli.inside("doctor", "--json")
    assert checked.code == 1
    assert (
        "is empty on the servers at" in next(one for one in checked.json["findings"] if one["check"] == "data")["found"]
    )
    cli.create("Begin anew")
    cli.ok("status")
    assert cli.inside("doctor", "--json").code == 0


def test_an_id_of_another_place_is_asked_about_once(cli: Cli, tmp_path: Path) -> None:
    cli.create("Secret")
    clone = Cli(tmp_path / "clone", cli.env)
    (clone.directory / ".loom").mkdir(parents=True)
    (clone.directory / ".loom" / "config.yaml").write_bytes((cli.directory / ".loom" / "config.yaml").read_bytes())
    refused = clone.inside("ready", "--json")
    assert refused.code == 1
    assert refused.json["error"]["code"] == "project_elsewhere"
    assert "Secret" not in refused.out
    assert "loom config trust" in refused.json["error"]["next_step"]
    assert clone.inside("config", "trust", "--json").code == 2
    interrupted = clone.asked("ready", answer=signal.SIGINT)
    assert interrupted.code == 130, "the first Ctrl-C ends it"
    assert "next:" not in interrupted.out
    answered = clone.asked("ready", answer="n\n")
    assert answered.code == 1
    assert f"that of the project in {cli.directory}" in answered.out
    assert "Secret" in clone.asked("ready", answer="y\n").out
    assert clone.ok("ready")["count"] == 1
