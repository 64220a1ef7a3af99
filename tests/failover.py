"""Servers that fail over: clusters of PostgreSQL whose standby is promoted without what the primary did last, and
replicas of Redis. They run the programs of the embedded servers, and as whom those run."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import pytest

from loom.services.binaries import find_postgres, find_redis
from loom.services.launcher import Account, account, is_locked, run, send_signal, spawn, try_lock
from loom.services.probe import Answer, ask_postgres, ask_redis
from tests.waiting import until

PATIENCE = 30.0  # seconds
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # the machine itself stays up
    "wal_level": "replica",
    "hot_standby": "on",
    "wal_receiver_status_interval": "1",
    "shared_buffers": "16MB",
}


class Server:
    """A program that runs as a server in a directory of its own."""

    def __init__(self, place: Path, name: str, who: Account) -> None:
        self.place, self.who = place / name, who
        self.lock, self.log = place / f"{name}.lock", place / f"{name}.log"

    @property
    def pid_file(self) -> Path:
        raise NotImplementedError

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to its first process."""
        send_signal(self.pid_file, number, self.who, mark=str(self.place))

    def kill(self) -> None:
        """Ends it with SIGKILL, and returns when none of its processes is left."""
        self.signal(signal.SIGKILL)
        _until(lambda: not is_locked(self.lock))

    def _start(self, *command: str | Path) -> None:
        lock = try_lock(self.lock)
        assert lock is not None, f"{self.place} runs already"
        try:
            spawn(command, self.who, lock=lock, log=self.log, cwd=self.place)
        finally:
            os.close(lock)


class Postgres(Server):
    """One server of PostgreSQL. Everybody may come in; `loom` is its superuser."""

    def __init__(self, place: Path, name: str, program: Path, who: Account) -> None:
        super().__init__(place, name, who)
        self.program = program
        self.sockets = place / f"{name}.run"

    @property
    def pid_file(self) -> Path:
        return self.place / "postmaster.pid"

    def url(self, *, user: str = "loom", sockets: Path | None = None) -> str:
        """Where it answers, or what `sockets` leads to."""
        return f"postgresql://{user}@/loom?host={sockets or self.sockets}"

    def start(self, **settings: str) -> None:
        """Returns when it answers."""
        self.sockets.mkdir(exist_ok=True)
        self.who.own(self.sockets, 0o755)
        chosen = _SETTINGS | {"unix_socket_directories": str(self.sockets)} | settings
        self._start(self.program, "-D", self.place, *(f"--{name}={value}" for name, value in chosen.items()))
        _until(lambda: ask_postgres(self.url()) is Answer.READY)

    def standby_of(self, primary: Postgres) -> None:
        """Begins as a copy of a primary that does not run yet, and follows it once both do."""
        shutil.copytree(primary.place, self.place)
        (self.place / "standby.signal").touch()
        with (self.place / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_conninfo = 'host={primary.sockets} user=loom'\n")
        _own(self.place, self.who)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """None of its processes goes on meanwhile."""
        first = int(self.pid_file.read_text().split("\n")[0])
        family = [first, *(int(pid) for pid in Path(f"/proc/{first}/task/{first}/children").read_text().split())]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in family:
                os.kill(pid, signal.SIGCONT)

    async def ask(self, statement: str) -> object:
        """The value that a statement has, on a connection of its own."""
        connection = await asyncpg.connect(self.url())
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()


class Pair:
    """A primary, its standby, and an address that leads to one of them."""

    def __init__(self, primary: Postgres, standby: Postgres, address: Path) -> None:
        self.primary, self.standby, self._address = primary, standby, address
        self.lead_to(primary)

    @property
    def url(self) -> str:
        """The address."""
        return self.primary.url(sockets=self._address)

    def lead_to(self, server: Postgres) -> None:
        """New connections come to this one."""
        self._address.unlink(missing_ok=True)
        self._address.symlink_to(server.sockets)

    async def in_step(self) -> None:
        """Returns when the standby has all that the primary has committed."""
        place = await self.primary.ask("select pg_current_wal_lsn()::text")
        await until(lambda: self.standby.ask(f"select pg_last_wal_replay_lsn() >= '{place}'"))

    async def cut(self) -> None:
        """From now on the standby hears nothing."""
        await self.standby.ask("alter system set primary_conninfo = ''")
        await self.standby.ask("select pg_reload_conf()")
        await until(lambda: self.standby.ask("select count(*) = 0 from pg_stat_wal_receiver"))

    async def promote(self) -> None:
        """The standby is a primary now, on a timeline of its own, and the address leads there."""
        assert await self.standby.ask("select pg_promote()")
        self.lead_to(self.standby)


class Redis(Server):
    """A server of Redis, alone or a replica of another."""

    def __init__(self, place: Path, name: str, who: Account) -> None:
        super().__init__(place, name, who)
        self.socket = place / f"{name}.sock"

    @property
    def pid_file(self) -> Path:
        return self.place / "pid"

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"unix://{self.socket}"

    def start(self, **settings: str) -> None:
        """Returns when it answers."""
        self.place.mkdir(exist_ok=True)
        self.who.own(self.place, 0o755)
        chosen = {"port": "0", "unixsocket": str(self.socket), "pidfile": str(self.pid_file), "dir": str(self.place)}
        chosen |= {"save": "", "set-proc-title": "no", "daemonize": "no"}
        chosen |= {name.replace("_", "-"): value for name, value in settings.items()}
        options = [word for name, value in chosen.items() for word in (f"--{name}", *value.split(" "))]
        self._start(find_redis(None).path, *options)
        _until(lambda: ask_redis(self.url) is Answer.READY)

    def start_sentinel(self) -> None:
        """Returns when it answers as a Sentinel, which watches nobody."""
        self.place.mkdir(exist_ok=True)
        settings = self.place / "sentinel.conf"  # which it writes to itself
        settings.write_text(f"port 0\nunixsocket {self.socket}\npidfile {self.pid_file}\ndir {self.place}\n")
        _own(self.place, self.who)
        self.place.chmod(0o755)
        self._start(find_redis(None).path, settings, "--sentinel", "--set-proc-title", "no")
        _until(lambda: ask_redis(self.url) is Answer.READY)


class PgBouncer(Server):
    """A pooler before a server of PostgreSQL, with few connections to lend."""

    @property
    def pid_file(self) -> Path:
        return self.place / "pid"

    def url(self) -> str:
        """Where it answers."""
        return f"postgresql://loom@/loom?host={self.place}&port=6432"

    def start(self, server: Postgres, mode: str) -> None:
        """Returns when it answers."""
        self.place.mkdir(exist_ok=True)
        self.who.own(self.place, 0o755)
        settings = f"""
            [databases]
            loom = host={server.sockets} dbname=loom user=loom pool_size=3
            [pgbouncer]
            unix_socket_dir = {self.place}
            unix_socket_mode = 0777
            listen_port = 6432
            auth_type = any
            pool_mode = {mode}
            pidfile = {self.pid_file}
        """
        file = self.place / "ini"
        file.write_text("\n".join(line.strip() for line in settings.splitlines()))
        program = shutil.which("pgbouncer")
        assert program is not None
        self._start(program, file)
        _until(lambda: ask_postgres(self.url()) is Answer.READY)


@contextmanager
def place_for_servers() -> Iterator[tuple[Path, Account]]:
    """A directory for servers, and who they run as; what still runs there at its end is killed."""
    with TemporaryDirectory(prefix="loom-", dir="/tmp") as name:
        place = Path(name)
        who = account(place)
        who.own(place, 0o755)
        yield place, who


@pytest.fixture(scope="session")
def cluster(servers: object) -> Iterator[Postgres]:
    """A cluster that has never run, with a database in it: to be copied."""
    with place_for_servers() as (place, who):
        made = Postgres(place, "made", find_postgres(None, None).path, who)
        # Only the checkpoint of the end counts for a copy; small segments make it cheap.
        options = ("-U", "loom", "--auth=trust", "--encoding=UTF8", "--locale=C", "--wal-segsize=1", "--no-sync")
        run([made.program.with_name("initdb"), "-D", made.place, *options], who, cwd=place)
        run([made.program, "--single", "-D", made.place, "postgres"], who, text="create database loom;\n", cwd=place)
        yield made


@pytest.fixture
def pair(cluster: Postgres) -> Iterator[Pair]:
    """A primary and a standby that follows it."""
    with place_for_servers() as (place, who):
        primary, standby = (Postgres(place, name, cluster.program, who) for name in ("a", "b"))
        shutil.copytree(cluster.place, primary.place)
        _own(primary.place, who)
        standby.standby_of(primary)
        try:
            primary.start()
            standby.start()
            yield Pair(primary, standby, place / "address")
        finally:
            for server in (primary, standby):
                server.kill()


@pytest.fixture
def redis_place(servers: object) -> Iterator[Callable[[str], Redis]]:
    """Makes servers of Redis that do not run yet, by name."""
    made: list[Redis] = []
    with place_for_servers() as (place, who):

        def make(name: str) -> Redis:
            made.append(Redis(place, name, who))
            return made[-1]

        try:
            yield make
        finally:
            for server in made:
                server.kill()


@pytest.fixture
def lent(pair: Pair, request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a pooler answers that lends the primary, in the mode that the test's parameter names."""
    if shutil.which("pgbouncer") is None:
        pytest.skip("there is no pgbouncer here")
    with place_for_servers() as (place, who):
        pooler = PgBouncer(place, "pooler", who)
        try:
            pooler.start(pair.primary, request.param)
            yield pooler.url()
        finally:
            pooler.kill()


def _own(tree: Path, who: Account) -> None:
    for path in (tree, *tree.rglob("*")):
        who.own(path, 0o700 if path.is_dir() else 0o600)


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
