"""The embedded backend with real servers, each test module in a data directory of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
import redis

from loom import services
from loom.config import LoomConfig, ServersConfig
from loom.exceptions import ServersError, ServersStoppedError
from loom.services import Endpoints, binaries, pair
from loom.services.instance import read_state, write_state
from loom.services.launcher import Account, account, every, is_locked, locked
from loom.services.probe import Answer, ask_postgres, ask_redis
from tests.timing import fastest

ROOT = Path(__file__).parents[2]
CONFIG = LoomConfig()
DEBIAN_POSTGRES = Path("/usr/lib/postgresql/15/bin")
START = "from loom import services; from loom.config import LoomConfig; print(services.up(LoomConfig()).database_url)"


def make_data_dir() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="loom-test-", dir="/tmp"))
    directory.chmod(0o755)  # under root the servers' own user passes through
    return directory


def remove_data_dir(directory: Path) -> None:
    for instance in (directory / "instances").glob("*"):
        for stem in ("pg", "redis"):
            end_server(instance, stem)
        run = Path(json.loads((instance / "instance.json").read_text())["run"])
        if run.parent == Path("/tmp"):
            shutil.rmtree(run)
    shutil.rmtree(directory)


def end_server(instance: Path, stem: str) -> None:
    """Returns when none runs any more, also one that was started a moment ago and has not said its number yet."""
    for _ in every(30):
        if not is_locked(instance / f"{stem}.lock"):
            return
        if (number := pids(instance).get(stem)) is not None:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
    raise TimeoutError(stem)


def pids(instance: Path) -> dict[str, int]:
    files = {"pg": instance / "pg" / "postmaster.pid", "redis": instance / "redis" / "redis.pid"}
    said = {stem: file.read_text().partition("\n")[0] for stem, file in files.items() if file.exists()}
    return {stem: int(number) for stem, number in said.items() if number}


@pytest.fixture(scope="module")
def shared_data_dir() -> Iterator[Path]:
    """One data directory for all tests that do not need a cold start: making a database takes a second."""
    directory = make_data_dir()
    yield directory
    remove_data_dir(directory)


@pytest.fixture
def instance(shared_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared instance, running."""
    monkeypatch.setenv("LOOM_DATA_DIR", str(shared_data_dir))
    services.up(CONFIG)
    return shared_data_dir / "instances" / "default"


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory in which nothing was ever started."""
    directory = make_data_dir()
    monkeypatch.setenv("LOOM_DATA_DIR", str(directory))
    yield directory
    remove_data_dir(directory)


def client(endpoints: Endpoints) -> redis.Redis:
    return redis.Redis.from_url(endpoints.redis_url, decode_responses=True)


async def write(endpoints: Endpoints, value: str) -> None:
    connection = await asyncpg.connect(endpoints.database_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
    await connection.execute("INSERT INTO kept VALUES ($1)", value)
    await connection.close()
    with client(endpoints) as connected:
        connected.set("kept", value)


async def assert_kept(endpoints: Endpoints, value: str) -> None:
    connection = await asyncpg.connect(endpoints.database_url)
    assert await connection.fetchval("SELECT count(*) FROM kept WHERE value = $1", value) == 1
    await connection.close()
    with client(endpoints) as connected:
        assert connected.get("kept") == value


async def test_first_up_makes_private_servers(instance: Path) -> None:
    endpoints = services.endpoints(CONFIG)
    connection = await asyncpg.connect(endpoints.database_url)
    owner = await connection.fetchval("SELECT datdba::regrole::text FROM pg_database WHERE datname = 'loom'")
    settings = {
        name: await connection.fetchval(f"SHOW {name}")
        for name in ("is_superuser", "listen_addresses", "max_connections", "fsync", "timezone", "server_encoding")
    }
    await connection.close()
    assert owner == "loom"
    assert settings == {
        "is_superuser": "off",
        "listen_addresses": "",
        "max_connections": "300",
        "fsync": "on",
        "timezone": "UTC",
        "server_encoding": "UTF8",
    }
    with client(endpoints) as connected:
        assert connected.config_get("append*")["appendfsync"] == "everysec"
        assert connected.config_get("appendonly") == {"appendonly": "yes"}
        assert connected.config_get("port") == {"port": "0"}


def test_the_secret_stays_in_private_files(instance: Path) -> None:
    secret = json.loads((instance / "instance.json").read_text())["secret"]
    for name in ("instance.json", "redis.conf"):
        assert (instance / name).stat().st_mode & 0o777 == 0o600
    assert (instance / "run").stat().st_mode & 0o777 == 0o700
    shown = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(instance) in shown
    assert secret not in shown
    assert secret not in repr(services.endpoints(CONFIG))
    assert all(secret not in repr(health) and health.running for health in services.check(CONFIG))


async def test_nobody_logs_in_as_the_superuser(instance: Path) -> None:
    as_superuser = services.up(CONFIG).database_url.replace("//loom:", "//postgres:")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(as_superuser)
    # Nor where an earlier Loom gave it the password of its own role.
    services.down(CONFIG)
    state = read_state(instance)
    assert state is not None
    server = pair._Postgres(instance, state, account(instance / "pg"))
    sql = f"ALTER ROLE postgres PASSWORD '{state.secret}';\n"
    with locked(server.lock, 10), (instance / "up.lock").open() as lock:
        server._alone(Path(state.postgres), server.data, sql, lock.fileno())
    write_state(instance, replace(state, superuser_closed=False))
    services.up(CONFIG)
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(as_superuser)


def test_second_up_changes_nothing(instance: Path) -> None:
    before = pids(instance)
    assert services.up(CONFIG) == services.ensure(CONFIG) == services.endpoints(CONFIG)
    assert pids(instance) == before


@pytest.mark.benchmark
def test_a_second_up_costs_a_few_looks_at_the_servers(instance: Path) -> None:
    assert fastest(lambda: services.up(CONFIG)) < 5 * fastest(lambda: services.check(CONFIG))


async def test_down_keeps_every_byte_and_is_remembered(instance: Path) -> None:
    await write(services.endpoints(CONFIG), "down")
    services.down(CONFIG)
    services.down(CONFIG)
    assert not is_locked(instance / "pg.lock")
    assert not is_locked(instance / "redis.lock")
    with pytest.raises(ServersStoppedError, match=r"were stopped with `loom down`\. Run `loom up` to start them\."):
        services.ensure(CONFIG)
    assert [health.running for health in services.check(CONFIG)] == [False, False]
    assert "loom up" in services.check(CONFIG)[0].hint
    await assert_kept(services.up(CONFIG), "down")
    assert services.ensure(CONFIG) == services.endpoints(CONFIG)


@pytest.mark.parametrize("victim", ["pg", "redis"])
async def test_a_killed_server_is_started_again(instance: Path, victim: str) -> None:
    await write(services.endpoints(CONFIG), victim)
    before = pids(instance)
    os.kill(before[victim], signal.SIGKILL)
    await assert_kept(services.ensure(CONFIG), victim)
    after = pids(instance)
    assert {stem for stem in after if after[stem] != before[stem]} == {victim}


def test_pid_files_from_before_a_reboot_deceive_nobody(instance: Path) -> None:
    services.down(CONFIG)
    mine = f"{os.getpid()}\n{instance / 'pg'}\n0\n5432\n{instance / 'run'}\n\n"
    (instance / "pg" / "postmaster.pid").write_text(mine)
    (instance / "redis" / "redis.pid").write_text(mine)
    (instance / "run" / ".s.PGSQL.5432").touch()
    (instance / "run" / "redis.sock").touch()
    services.down(CONFIG)  # and signals nobody
    services.up(CONFIG)
    assert os.getpid() not in pids(instance).values()


def test_a_server_that_lost_its_socket_is_restarted(instance: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "_LOST_SECONDS", 0.2)
    before = pids(instance)
    for socket in (instance / "run").iterdir():
        socket.unlink()
    services.ensure(CONFIG)
    assert all(pid != before[stem] for stem, pid in pids(instance).items())


def test_a_server_that_hangs_holds_nobody_up_for_long(instance: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "_LOST_SECONDS", 0.2)
    monkeypatch.setattr(pair, "_HUNG_SECONDS", 3.0)
    hung = pids(instance)["pg"]
    os.kill(hung, signal.SIGSTOP)
    looks = 0

    def counted(seconds: float) -> Iterator[float]:
        nonlocal looks
        for waited in every(seconds):
            looks += 1
            yield waited

    monkeypatch.setattr(pair, "every", counted)
    try:
        with pytest.raises(
            ServersError, match=r"PostgreSQL runs but cannot be reached.*does not stop.*postmaster\.pid"
        ):
            services.ensure(CONFIG)
    finally:
        os.kill(hung, signal.SIGCONT)
    assert looks < 20, "it is not waited for as a server that starts"
    services.ensure(CONFIG)  # it was told to stop, and does now
    assert pids(instance)["pg"] != hung


def test_servers_outlive_their_starter_and_its_terminal(instance: Path) -> None:
    services.down(CONFIG)
    starter = subprocess.run([sys.executable, "-c", START], cwd=ROOT, capture_output=True, text=True, check=True)
    assert starter.stdout.strip() == services.endpoints(CONFIG).database_url
    for pid in pids(instance).values():
        assert os.getsid(pid) not in (os.getsid(0), pid)
        assert os.getpgid(pid) != os.getpgid(0)
    os.kill(pids(instance)["redis"], signal.SIGHUP)
    assert [health.running for health in services.check(CONFIG)] == [True, True]


def test_six_concurrent_cold_starts_give_one_pair(cold: Path) -> None:
    torn = cold / "instances" / "default" / "pg.init"  # as a start leaves it that was killed meanwhile
    torn.mkdir(parents=True)
    (torn / "PG_VERSION").write_text("18\n")
    starters = [
        subprocess.Popen([sys.executable, "-c", START], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(6)
    ]
    outputs = [starter.communicate(timeout=60) for starter in starters]
    assert [starter.returncode for starter in starters] == [0] * 6, outputs
    assert len({out for out, _ in outputs}) == 1
    log = (cold / "instances" / "default" / "pg.log").read_text()
    assert log.count("ready to accept connections") == 1
    assert (cold / "instances" / "default" / "redis.log").read_text().count("Ready to accept connections") == 1
    assert [health.running for health in services.check(CONFIG)] == [True, True]
    services.down(CONFIG)


def test_a_long_path_gets_its_sockets_in_a_short_place(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = cold / ("d" * 90)
    monkeypatch.setenv("LOOM_DATA_DIR", str(deep))
    try:
        endpoints = services.up(CONFIG)
        run = Path(json.loads((deep / "instances" / "default" / "instance.json").read_text())["run"])
        assert run.parent == Path("/tmp")
        assert run.stat().st_mode & 0o777 == 0o700
        services.down(CONFIG)
        shutil.rmtree(run)  # as a cleaner of /tmp does
        again = services.up(CONFIG)
        assert again != endpoints
        services.down(CONFIG)
    finally:
        remove_data_dir(deep)


def test_named_instances_are_pairs_of_their_own(instance: Path) -> None:
    other = replace(CONFIG, servers=ServersConfig(instance="other"))
    with pytest.raises(ServersError, match=r"have not been started yet\. Run `loom up`\."):
        services.endpoints(other)
    assert services.check(other)[0].hint == "Run `loom up`."
    services.down(other)  # nothing to stop
    assert not (instance.parent / "other").exists()


@pytest.mark.skipif(not DEBIAN_POSTGRES.exists(), reason="no PostgreSQL 15 on this system")
async def test_system_postgres_and_another_major(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_PG_BIN", str(DEBIAN_POSTGRES))
    endpoints = services.up(CONFIG)
    connection = await asyncpg.connect(endpoints.database_url)
    assert connection.get_server_version().major == 15
    await connection.close()
    services.down(CONFIG)
    fake = cold / "postgres"
    fake.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 18.6'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("LOOM_PG_BIN", str(fake))
    with pytest.raises(ServersError, match=r"written by PostgreSQL 15, and here is PostgreSQL 18\.6.*pg_dump"):
        services.up(CONFIG)
    monkeypatch.delenv("LOOM_PG_BIN")
    services.up(CONFIG)  # goes on with the program it ran before
    services.down(CONFIG)


@pytest.mark.parametrize(
    ("printed", "sentence"),
    [("postgres (PostgreSQL) 14.9", "which has PostgreSQL 14.9"), ("", "which has no PostgreSQL that runs")],
)
def test_a_binary_that_cannot_serve_is_named(
    cold: Path, monkeypatch: pytest.MonkeyPatch, printed: str, sentence: str
) -> None:
    fake = cold / "postgres"
    fake.write_text(f"#!/bin/sh\necho '{printed}'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("LOOM_PG_BIN", str(cold))
    with pytest.raises(ServersError, match=sentence):
        services.up(CONFIG)
    shutil.rmtree(cold / "instances")


def test_a_server_that_ends_at_once_says_why(instance: Path) -> None:
    services.down(CONFIG)
    settings = instance / "pg" / "postgresql.conf"
    good = settings.read_text()
    settings.write_text(good + "no_such_setting = 1\n")
    try:
        with pytest.raises(ServersError, match=r"PostgreSQL ended while it started: .*contains errors"):
            services.up(CONFIG)
    finally:
        settings.write_text(good)
    services.up(CONFIG)


def test_a_place_whose_path_is_no_text_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_DATA_DIR", os.fsdecode(b"/tmp/\xff"))
    with pytest.raises(ServersError, match="is no text in UTF-8"):
        services.endpoints(CONFIG)


def test_probes_tell_silence_from_refusal(instance: Path) -> None:
    endpoints = services.endpoints(CONFIG)
    secret = json.loads((instance / "instance.json").read_text())["secret"]
    assert ask_postgres(endpoints.database_url) is Answer.READY
    assert ask_redis(endpoints.redis_url) is Answer.READY
    assert ask_redis(endpoints.redis_url.replace(secret, "wrong")) is Answer.REFUSED
    assert ask_redis(endpoints.redis_url.split("?")[0]) is Answer.REFUSED
    assert ask_postgres("postgresql://loom@127.0.0.1:1/loom") is Answer.SILENT
    assert ask_redis("redis://127.0.0.1:1") is Answer.SILENT
    assert ask_postgres("postgresql://loom@127.0.0.1:port/loom") is Answer.SILENT


def test_finding_running_servers_imports_no_client_library(instance: Path) -> None:
    code = (
        "import sys; from loom import services; from loom.config import LoomConfig; services.ensure(LoomConfig());"
        "print([name for name in ('asyncpg', 'redis', 'yaml', 'subprocess', 'loom.services.pair')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_any_binary_the_other_backends_are_named(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_known_paths", lambda *_: iter(()))
    with pytest.raises(ServersError, match=r"no Redis 7\.0 or newer.*`docker` or `external`"):
        services.up(CONFIG)
    shutil.rmtree(cold / "instances")


@pytest.fixture
def mounted(cold: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a file system of its own below the data directory, with the options given."""
    made: list[Path] = []

    def mount(name: str, options: str) -> Path:
        place = cold / name
        place.mkdir(mode=0o755)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"mode=755,{options}", "tmpfs", place], capture_output=True
        )
        if done.returncode:
            place.rmdir()
            pytest.skip("this needs to mount file systems, as root may")
        made.append(place)
        return place

    yield mount
    for place in made:
        subprocess.run(["umount", "--lazy", place], check=True)
        place.rmdir()


def test_a_directory_where_no_program_may_run_is_named(
    cold: Path, mounted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOM_DATA_DIR", str(mounted("noexec", "noexec")))
    monkeypatch.setattr(binaries, "_REDIS", replace(binaries._REDIS, programs=("valkey-server",), system=()))
    with pytest.raises(
        ServersError, match=r"Redis is at \S+, where the system runs no programs .*noexec.*LOOM_DATA_DIR"
    ):
        services.up(CONFIG)


def test_a_full_disk_is_named_and_leaves_nothing_half_made(cold: Path, mounted: Callable[..., Path]) -> None:
    full = mounted("instances", "size=20m")
    with pytest.raises(ServersError, match=r"`initdb` failed: .*could not extend file.* Make room on the disk of "):
        services.up(CONFIG)
    assert not (full / "default" / "pg").exists()
    subprocess.run(["mount", "-o", "remount,size=400m", full], check=True)
    services.up(CONFIG)
    services.down(CONFIG)


def test_a_disk_without_room_for_redis_is_named(cold: Path, mounted: Callable[..., Path]) -> None:
    full = mounted("instances", "size=400m")
    services.up(CONFIG)
    services.down(CONFIG)
    shutil.rmtree(full / "default" / "redis")
    (full / "filler").write_bytes(b"x" * (os.statvfs(full).f_bavail * os.statvfs(full).f_frsize))
    with pytest.raises(ServersError, match="No space left on device"):
        services.up(CONFIG)
    (full / "filler").unlink()
    services.up(CONFIG)
    services.down(CONFIG)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run servers as another user")
def test_a_user_without_a_name_is_told_what_postgres_wants(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "account", lambda _: Account("nameless", 61234, 61234))
    with pytest.raises(ServersError, match=r"user id 61234 has no entry in /etc/passwd.*useradd"):
        services.up(CONFIG)
