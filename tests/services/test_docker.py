"""The Docker backend: with a real engine where there is one, and what it says where there is none."""

from __future__ import annotations

import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
import redis

from loom import services
from loom.config import COMPOSE_FILE, LoomConfig, ServersConfig, is_trusted, trust
from loom.exceptions import ServersError, ServersStoppedError
from loom.services.docker import COMPOSE_TEXT

IMAGES = ("postgres:16-alpine", "redis:7-alpine")


def missing() -> str:
    """Why the tests with an engine are skipped; empty when they run. They fetch nothing."""
    if not shutil.which("docker"):
        return "no docker command"
    for words in (["compose", "version"], ["version"], ["image", "inspect", *IMAGES]):
        if subprocess.run(["docker", *words], capture_output=True).returncode:
            return f"`docker {' '.join(words)}` fails"
    return ""


MISSING = missing()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoomConfig:
    """A project with the docker backend; data directory and home are the test's own."""
    monkeypatch.setenv("LOOM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    project = tmp_path / "shop"
    (project / ".loom").mkdir(parents=True)
    (project / ".loom" / "config.yaml").write_text("servers: {backend: docker}\n")
    return LoomConfig(project_dir=project, project_id=str(uuid.uuid4()), servers=ServersConfig(backend="docker"))


@pytest.fixture
def removed(config: LoomConfig) -> Iterator[None]:
    """Takes the test's containers and volumes away in the end."""
    yield
    for state in (Path(str(config.project_dir)).parent / "data" / "docker").glob("*.json"):
        for kind, remove in (("ps --all", "rm --force"), ("volume ls", "volume rm"), ("network ls", "network rm")):
            label = f"label=com.docker.compose.project={state.stem}"
            ids = subprocess.run(
                ["docker", *kind.split(), "--quiet", "--filter", label], capture_output=True, text=True
            )
            if ids.stdout.split():
                subprocess.run(["docker", *remove.split(), *ids.stdout.split()], capture_output=True, check=True)


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
@pytest.mark.usefixtures("removed")
async def test_containers_start_stop_and_keep_their_bytes(config: LoomConfig) -> None:
    endpoints = services.up(config)
    assert services.up(config) == services.ensure(config) == services.endpoints(config) == endpoints
    assert [health.running for health in services.check(config)] == [True, True]
    connection = await asyncpg.connect(endpoints.database_url)
    await connection.execute("CREATE TABLE kept (value text)")
    await connection.close()
    with redis.Redis.from_url(endpoints.redis_url) as client:
        client.set("kept", "yes")

    services.down(config)
    assert [health.running for health in services.check(config)] == [False, False]
    with pytest.raises(ServersStoppedError, match=r"were stopped with `loom down`\. Run `loom up` to start them\."):
        services.ensure(config)

    endpoints = services.up(config)
    connection = await asyncpg.connect(endpoints.database_url)
    assert await connection.fetchval("SELECT count(*) FROM kept") == 0
    await connection.close()
    with redis.Redis.from_url(endpoints.redis_url) as client:
        assert client.get("kept") == b"yes"
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}

    secret = endpoints.redis_url.split(":")[2].split("@")[0]
    assert config.project_dir
    assert all(secret not in file.read_text() for file in config.project_dir.rglob("*") if file.is_file())
    assert is_trusted(config.project_dir, COMPOSE_FILE)


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
@pytest.mark.usefixtures("removed")
def test_a_port_taken_meanwhile_is_replaced(config: LoomConfig) -> None:
    before = services.up(config)
    services.down(config)
    port = int(before.database_url.rsplit(":", 1)[1].split("/")[0])

    with socket.socket() as rival:
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rival.bind(("127.0.0.1", port))
        rival.listen()
        assert services.up(config).database_url != before.database_url


def test_no_docker_is_told_with_a_way_out(config: LoomConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    with pytest.raises(ServersError, match=r"There is no Docker on this machine\. Install Docker, or use Loom's own"):
        services.up(config)


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ('[ "$1" = compose ] && exit 1; exit 0', r"This Docker has no Compose\."),
        ('[ "$2" = version ] && exit 0; exit 1', r"Docker does not run, or this user may not use it\."),
        ('[ "$2" = version ] && exit 0; [ "$1" = version ] && exit 0; echo "no $LOOM_SERVERS_SECRET" >&2; exit 1',
         r"`docker compose up` failed: no \*\*\*"),
    ],
)  # fmt: skip
def test_what_docker_lacks_is_told(
    config: LoomConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, sentence: str
) -> None:
    fake = tmp_path / "bin" / "docker"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/bin:/usr/bin")
    with pytest.raises(ServersError, match=sentence):
        services.up(config)


def test_a_compose_file_of_the_repository_needs_trust(
    config: LoomConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.project_dir
    monkeypatch.setenv("PATH", str(tmp_path))
    (config.project_dir / COMPOSE_FILE).write_text(COMPOSE_TEXT + "# and more\n")
    with pytest.raises(ServersError, match="loom config trust"):
        services.up(config)
    trust(config.project_dir)
    with pytest.raises(ServersError, match="There is no Docker"):
        services.up(config)


def test_the_compose_file_that_runs_is_the_one_that_was_checked(
    config: LoomConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compose gets the text: one that reads the file would read what stands there by then."""
    assert config.project_dir
    fake = tmp_path / "bin" / "docker"
    fake.parent.mkdir()
    skip = '[ "$1" = version ] || [ "$2" = version ] && exit 0'
    fake.write_text(f'#!/bin/sh\n{skip}\necho "$@" >{tmp_path}/words; cat >{tmp_path}/text; exit 1\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/bin:/usr/bin")
    with pytest.raises(ServersError):
        services.up(config)
    assert (tmp_path / "text").read_text() == COMPOSE_TEXT
    assert "--file - " in (tmp_path / "words").read_text()
    assert COMPOSE_FILE not in (tmp_path / "words").read_text()


def test_docker_belongs_to_a_project(config: LoomConfig) -> None:
    with pytest.raises(ServersError, match="belongs to a project"):
        services.up(replace(config, project_dir=None, project_id=None))
