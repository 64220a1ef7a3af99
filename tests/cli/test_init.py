"""`loom init` writes what a project needs, keeps what is there, and may be called again."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loom.cli.wiring import not_ours
from loom.config import load_config
from loom.services.docker import COMPOSE_TEXT
from tests.cli.conftest import Cli

WRITTEN = [
    ".loom/config.yaml",
    ".loom/skills/",
    ".loom/workflows/",
    ".loom/logs/",
    ".loom/.gitignore",
    "docker-compose.loom.yml",
    "AGENTS.md",
    "CLAUDE.md",
    ".mcp.json",
]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_everything_is_written_once(bare: Cli) -> None:
    made = bare.ok("init", "--name", 'Ünïcode: #1 "shop"')
    assert sorted(made["files"]) == sorted(WRITTEN)
    assert set(made["files"].values()) == {"written"}
    assert made["project"] == 'Ünïcode: #1 "shop"'
    before = contents(bare.directory)
    again = bare.ok("init")
    assert set(again["files"].values()) == {"unchanged"}
    assert again["project_id"] == made["project_id"]
    assert contents(bare.directory) == before
    listed = bare("init").out
    assert all(name in listed for name in WRITTEN)

    server = json.loads((bare.directory / ".mcp.json").read_text())["mcpServers"]["loom"]
    assert server["env"] == {"LOOM_PROJECT_DIR": "${CLAUDE_PROJECT_DIR:-.}"}
    assert "alwaysLoad" not in server  # the tools that agents need at once say so themselves
    assert str(bare.directory) not in (bare.directory / ".mcp.json").read_text()
    assert (bare.directory / "CLAUDE.md").read_text() == "@AGENTS.md\n"
    assert (bare.directory / "docker-compose.loom.yml").read_text() == COMPOSE_TEXT
    assert "logs/" in (bare.directory / ".loom" / ".gitignore").read_text()
    # What it wrote itself is trusted.
    assert bare.ok("config", "trust")["new"] == []


def test_the_name_can_be_changed_and_comments_stay(bare: Cli) -> None:
    bare.ok("init")
    path = bare.directory / ".loom" / "config.yaml"
    path.write_text(path.read_text() + "# mine\n")
    made = bare.ok("init", "--name", "new name")
    assert made["project"] == "new name"
    assert made["files"][".loom/config.yaml"] == "updated"
    assert "# mine" in path.read_text()


def test_files_of_others_are_kept(bare: Cli) -> None:
    agents, claude, mcp = (bare.directory / name for name in ("AGENTS.md", "CLAUDE.md", ".mcp.json"))
    agents.write_bytes(b"# Ours\r\n\r\n<!-- loom:begin -->\r\noutdated\r\n<!-- loom:end -->\r\n\r\nbelow\r\n")
    claude.write_text("# Rules\n")
    other = {"mcpServers": {"other": {"command": "x"}, "loom": {"command": "gone", "env": {"MINE": "1"}}}, "more": [1]}
    mcp.write_text(json.dumps(other))
    compose = bare.directory / "docker-compose.loom.yml"
    compose.write_text("services: {}\n")
    files = bare.ok("init")["files"]
    assert files["docker-compose.loom.yml"] == "unchanged"
    assert {files[name] for name in ("AGENTS.md", "CLAUDE.md", ".mcp.json")} == {"updated"}

    text = agents.read_bytes()
    assert text.startswith(b"# Ours\r\n\r\n<!-- loom:begin -->\r\n")
    assert text.endswith(b"<!-- loom:end -->\r\n\r\nbelow\r\n")
    assert b"outdated" not in text
    assert b"\n" not in text.replace(b"\r\n", b"")
    assert claude.read_text() == "# Rules\n\n@AGENTS.md\n"
    merged: dict[str, Any] = json.loads(mcp.read_text())
    assert merged["mcpServers"]["other"] == {"command": "x"}
    assert merged["more"] == [1]
    assert merged["mcpServers"]["loom"]["env"] == {"MINE": "1", "LOOM_PROJECT_DIR": "${CLAUDE_PROJECT_DIR:-.}"}
    assert merged["mcpServers"]["loom"]["args"][-1] == "mcp"
    # A Compose file that came with the repository is not trusted by that.
    assert bare("config", "trust").code == 2
    assert bare.ok("config", "trust", "--yes")["new"] == ["docker-compose.loom.yml"]
    assert bare.ok("config", "trust")["new"] == []


def test_what_others_have_put_into_mcp_json_is_named(bare: Cli) -> None:
    bare.ok("init")
    assert not_ours(bare.directory) == []
    path = bare.directory / ".mcp.json"
    whole = json.loads(path.read_text())
    whole["inputs"] = []
    whole["mcpServers"]["other"] = {"command": "npx", "args": ["evil", "--url", "redis://:hunter2@host"]}
    entry = whole["mcpServers"]["loom"]
    entry |= {"command": "bash", "args": ["-c", "touch owned; exec loom mcp", "mcp"], "cwd": "/"}
    entry["env"] |= dict.fromkeys(("LOOM_SKILLS_BASE_URL", "LOOM_PG_BIN", "PYTHONPATH"), "x")
    entry["env"]["LOOM_PROJECT_DIR"] = "/elsewhere"
    path.write_text(json.dumps(whole))
    named = not_ours(bare.directory)
    assert named == [
        "the key “inputs”",
        "that the server “loom” starts “bash -c touch owned; exec loom mcp mcp”",
        "the key “loom.cwd”",
        *(
            f"the variable “{name}” of “loom”"
            for name in ("LOOM_PROJECT_DIR", "LOOM_SKILLS_BASE_URL", "LOOM_PG_BIN", "PYTHONPATH")
        ),
        "the server “other”, which starts “npx evil --url redis://:***@host”",
    ]
    told = bare("init").err
    assert "Loom did not write" in told
    assert all(name in told for name in ("PYTHONPATH", "LOOM_PG_BIN", "touch owned", "npx evil"))
    findings = [one["found"] for one in bare("doctor", "--json").json["findings"] if one["check"] == ".mcp.json"]
    assert {f"Loom did not write {one}" for one in not_ours(bare.directory)} <= set(findings)
    whole["mcpServers"] = {f"s{number}": {} for number in range(100)}
    path.write_text(json.dumps(whole))
    assert len(not_ours(bare.directory)) == 21


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".mcp.json", b'{"mcpServers": {'),
        (".mcp.json", b"[]"),
        (".mcp.json", b'{"mcpServers": []}'),
        (".mcp.json", b"\xff"),
        ("AGENTS.md", b"<!-- loom:begin -->\n"),
        ("AGENTS.md", b"<!-- loom:end -->\n<!-- loom:begin -->\n"),
        ("AGENTS.md", b"\xff"),
        ("CLAUDE.md", b"\xff"),
    ],
)
def test_a_file_that_cannot_be_used_leaves_everything_alone(bare: Cli, name: str, text: bytes) -> None:
    (bare.directory / name).write_bytes(text)
    result = bare("init")
    assert result.code == 1
    assert name in result.err
    assert [path.name for path in bare.directory.iterdir()] == [name]
    assert (bare.directory / name).read_bytes() == text


def test_a_link_from_one_page_to_the_other_imports_nothing(bare: Cli) -> None:
    (bare.directory / "AGENTS.md").write_text("# Ours\n")
    (bare.directory / "CLAUDE.md").symlink_to("AGENTS.md")
    bare.ok("init")
    text = (bare.directory / "CLAUDE.md").read_text()
    assert (bare.directory / "CLAUDE.md").is_symlink()
    assert "loom:begin" in text
    assert "\n@AGENTS.md" not in text


@pytest.mark.parametrize(
    "name", ["AGENTS.md", "CLAUDE.md", ".mcp.json", ".loom/config.yaml", ".loom", "docker-compose.loom.yml"]
)
@pytest.mark.parametrize("there", [True, False])
def test_a_link_out_of_the_project_is_refused_by_name(bare: Cli, tmp_path: Path, name: str, there: bool) -> None:
    target, link = tmp_path / "mine", bare.directory / name
    if there and name == ".loom":
        target.mkdir()
    elif there:
        target.write_text("{}")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target)
    setting = name == ".loom/config.yaml" and there
    for words in (["init"], *([["config", "set", "mcp.port", "9000"]] if setting else [])):
        result = bare(*words)
        assert result.code == 1
        assert f"{link}" in result.err
        assert f"it leads out of {bare.directory}, to {target}" in result.err
    assert target.exists() is there
    if there:
        assert list(target.iterdir()) == [] if target.is_dir() else target.read_text() == "{}"


def test_a_link_within_the_project_is_kept(bare: Cli) -> None:
    (bare.directory / "docs").mkdir()
    for name in ("AGENTS.md", ".mcp.json"):
        (bare.directory / name).symlink_to(f"docs/{name}")
    bare.ok("init")
    for name in ("AGENTS.md", ".mcp.json"):
        assert (bare.directory / name).is_symlink()
        assert "loom" in (bare.directory / "docs" / name).read_text()


def test_places_that_are_no_place_for_a_project(bare: Cli, tmp_path: Path) -> None:
    home = Cli(tmp_path / "home", bare.env)
    assert "home directory" in home("init").err
    bare.ok("init")
    below = Cli(bare.directory / "src", bare.env)
    below.directory.mkdir()
    refused = below("init")
    assert refused.code == 2
    assert str(bare.directory) in refused.err
    assert below.ok("init", "--name", "inner")["directory"] == str(below.directory)


def test_a_worktree_belongs_to_the_project_of_the_main_one(bare: Cli, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *words], cwd=bare.directory, env=bare.env, check=True, capture_output=True)

    bare.ok("init")
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "x")
    git("worktree", "add", "-q", str(tmp_path / "tree"))
    refused = Cli(tmp_path / "tree", bare.env)("init")
    assert refused.code == 2
    assert "worktree" in refused.err


def test_how_the_server_is_started_depends_on_where_loom_is(bare: Cli, tmp_path: Path) -> None:
    def command(**env: str) -> list[str]:
        (bare.directory / ".mcp.json").unlink(missing_ok=True)
        bare.ok("init", **env)
        server = json.loads((bare.directory / ".mcp.json").read_text())["mcpServers"]["loom"]
        return [server["command"], *server["args"]]

    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "loom").write_text("#!/bin/sh\n")
    (programs / "loom").chmod(0o755)
    assert command(PATH=f"{programs}:/usr/bin:/bin") == ["loom", "mcp"]
    assert command(PATH="/usr/bin:/bin", UV_RUN_RECURSION_DEPTH="1") == ["uv", "run", "loom", "mcp"]
    assert "not on PATH" in bare("init", PATH="/usr/bin:/bin").err


@pytest.mark.parametrize("name", [b"\xff\xfe", b"two\nlines", "\u0085".encode()])
def test_a_directory_whose_name_is_none_for_a_project(name: bytes, tmp_path: Path, bare: Cli) -> None:
    place = tmp_path / os.fsdecode(name)
    place.mkdir()
    cli = Cli(place, bare.env)
    refused = cli("init", "--yes")
    assert (refused.code, "Give --name" in refused.err) == (2, True)
    assert cli("init", "--yes", "--name", "shop").code == 0
    file = place / ".loom" / "config.yaml"
    file.write_text(file.read_text().replace("project_name", "# project_name"))
    assert load_config(place).project_name == "project"
