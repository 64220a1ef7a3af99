"""What CI and the release do, read from .github/workflows: pinned, allowed no more than they need, and run where it can
be.

Each command is run here, or is one that `.ci/run` runs, or needs what is not here: an index, a cloud, another machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.conftest import USERS_HOME
from tests.pages import ROOT

WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
VERSION = metadata.version("loom-agents")


class Step(NamedTuple):
    workflow: str
    job: str
    name: str
    facts: dict[str, Any]


def steps() -> Iterator[Step]:
    for workflow, text in WORKFLOWS.items():
        for job, facts in text["jobs"].items():
            for one in facts.get("steps", ()):
                yield Step(workflow, job, one.get("name", one.get("uses", "")), one)


def command(name: str) -> str:
    """What the step of this name runs."""
    (found,) = (one.facts["run"] for one in steps() if one.name == name)
    return str(found)


# --- what they may, and whose code they run ---------------------------------------------------------------------------


def test_what_others_have_written_is_named_by_its_hash_and_its_version() -> None:
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        lines = [line for line in path.read_text().splitlines() if "uses:" in line and "./.github/" not in line]
        assert [one for one in lines if not re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", one)] == []


def test_a_job_may_what_it_needs() -> None:
    for name, text in WORKFLOWS.items():
        assert text["permissions"] == {"contents": "read"}, name
    allowed = {
        (name, job): facts["permissions"]
        for name, text in WORKFLOWS.items()
        for job, facts in text["jobs"].items()
        if "permissions" in facts
    }
    assert allowed == {("release", "publish"): {"id-token": "write"}}
    for one in steps():
        if "checkout" in one.facts.get("uses", ""):
            assert one.facts["with"]["persist-credentials"] is False
        if "run" in one.facts:
            assert "${{" not in one.facts["run"], "what somebody has named is no part of a command"
    assert {one.job for one in steps() if "secrets." in json.dumps(one.facts)} == {"image"}


def test_nothing_is_released_that_has_not_passed() -> None:
    jobs = WORKFLOWS["release"]["jobs"]
    assert jobs["ci"]["uses"] == "./.github/workflows/ci.yml"
    for job in ("publish", "image"):
        assert jobs[job]["needs"] == ["ci", "build"]
        assert "environment" in jobs[job], "somebody has to say yes there"


def test_every_version_that_is_promised_is_tried() -> None:
    tests = WORKFLOWS["ci"]["jobs"]["tests"]["strategy"]["matrix"]
    assert tests["python"] == ["3.11", "3.12", "3.13", "3.14"]
    named = [one.rpartition(" :: ")[2] for one in metadata.metadata("loom-agents").get_all("Classifier", [])]
    assert [one for one in named if one.startswith("3.")] == tests["python"]
    assert {one.partition("-")[0] for one in tests["os"]} == {"ubuntu", "macos"}
    servers = WORKFLOWS["ci"]["jobs"]["servers"]["strategy"]["matrix"]["include"]
    assert [one["postgres"] for one in servers] == ["15", "16", "17", "18"]
    pages = (ROOT / "docs" / "configuration.md").read_text()
    assert "A PostgreSQL of your own, 15 or newer" in pages
    assert "A Redis of your own, 7 or newer" in pages


# --- what they run ----------------------------------------------------------------------------------------------------

# Beside what is run below: what needs an index with its knowledge of holes, an engine for containers, or the index.
ELSEWHERE = {
    "Known holes in what is installed": "uvx pip-audit",
    "It is built, and runs with nothing to write on": "docker build -f deploy/Dockerfile",
    "Publish": "uv publish",
}
OF_CI = ("Style", "Types", "Contracts", "Tests")
HERE = ("Build", "The wheel works where nothing else is installed", "Pages")
TAG = "The tag is the version, which the changelog and the registry's entry have too"


def test_each_command_is_run_here_or_it_is_known_why_not() -> None:
    named = {one.name for one in steps() if "run" in one.facts}
    assert named == {*ELSEWHERE, *OF_CI, *HERE, TAG}
    for name, words in ELSEWHERE.items():
        assert words in command(name)


def test_what_a_change_must_pass_is_the_same_there() -> None:
    here = (ROOT / ".ci" / "run").read_text()
    for one in steps():
        if one.name in OF_CI:
            for line in one.facts["run"].splitlines():
                assert line.partition(" -")[0] in here, line


def ran(script: str, place: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a step as the runner does, with the environment of nobody."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("LOOM_", "UV_", "VIRTUAL_"))}
    uv = Path(sys.executable).parent
    known |= {"HOME": USERS_HOME, "PATH": f"{uv}:{os.environ['PATH']}", "RUNNER_TEMP": str(place), "UV_LOCKED": "1"}
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=place,
        env=known | {"UV_PYTHON": sys.executable} | env,
        capture_output=True,
        text=True,
    )


def test_a_tag_that_is_not_the_version_releases_nothing(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    for name in ("pyproject.toml", "uv.lock", "CHANGELOG.md", "deploy/server.json", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    changes = (tmp_path / "CHANGELOG.md").read_text()
    dated = re.sub(rf"^## \[{re.escape(VERSION)}\] - .*$", f"## [{VERSION}] - 2026-11-30", changes, flags=re.MULTILINE)
    undated = dated.replace(f"## [{VERSION}] - 2026-11-30", f"## [{VERSION}] - unreleased")
    script = command(TAG)
    for text, tag, status in (
        (dated, f"v{VERSION}", 0),
        (dated, "v0.0.1", 1),
        (undated, f"v{VERSION}", 1),
    ):
        (tmp_path / "CHANGELOG.md").write_text(text)
        done = ran(script, tmp_path, GITHUB_REF_NAME=tag)
        assert done.returncode == status, done.stderr
    (tmp_path / "CHANGELOG.md").write_text(dated)
    (tmp_path / "deploy" / "server.json").write_text((ROOT / "deploy" / "server.json").read_text().replace("2", "3"))
    assert ran(script, tmp_path, GITHUB_REF_NAME=f"v{VERSION}").returncode == 1


@pytest.mark.timeout(300)  # an installation, where others run too
def test_what_is_built_works_where_nothing_else_is_installed(tmp_path: Path) -> None:
    built = ran(command("Build").replace("uv build", f"uv build {ROOT}"), tmp_path)
    assert built.returncode == 0, built.stderr
    home = tmp_path / "home"
    home.mkdir()
    settings = {"UV_CACHE_DIR": f"{USERS_HOME}/.cache/uv", "HOME": str(home)}
    with tempfile.TemporaryDirectory(prefix="loom-", dir="/tmp") as data:  # where the servers' user gets to
        Path(data).chmod(0o755)
        script = command("The wheel works where nothing else is installed")
        done = ran(script, tmp_path, LOOM_DATA_DIR=data, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"loom, version {VERSION}" in done.stdout
    assert '"title": "the first task"' in done.stdout
    assert "with 1 task and 2 events" in done.stdout


def test_a_linter_likes_the_workflows() -> None:
    linters = [found for name in ("actionlint", "zizmor") if (found := shutil.which(name))]
    if not linters:
        pytest.skip("neither actionlint nor zizmor is installed")
    for one in linters:
        options = ["--offline", "--min-severity", "medium"] if one.endswith("zizmor") else []
        files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
        subprocess.run([one, *options, *files], check=True)


# --- the entry of the registry of MCP servers -------------------------------------------------------------------------


def test_the_entry_of_the_registry_names_this_version_and_a_command_that_is_there() -> None:
    entry = json.loads((ROOT / "deploy" / "server.json").read_text())
    (package,) = entry["packages"]
    assert (entry["version"], package["version"], package["identifier"]) == (VERSION, VERSION, "loom-agents")
    assert re.fullmatch(r"[a-z0-9.-]+/[a-z0-9._-]+", entry["name"])
    assert len(entry["description"]) <= 100
    assert f"mcp-name: {entry['name']}" in (ROOT / "README.md").read_text(), "by which the registry knows the package"
    scripts = metadata.entry_points(group="console_scripts", name="loom-agents")
    assert [one.value for one in scripts] == ["loom.cli:cli"], "what the runner of packages starts"
    assert [one["value"] for one in package["packageArguments"]] == ["mcp"]


def test_who_keeps_dependencies_up_to_date_knows_them_all() -> None:
    kept = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    assert {one["package-ecosystem"] for one in kept} == {"uv", "github-actions", "docker", "docker-compose"}
    assert all((ROOT / one["directory"].lstrip("/")).is_dir() for one in kept)
