"""The pair of embedded servers: how PostgreSQL and Redis are made, started and stopped in an instance's directory.

Everything here happens while the instance's `up.lock` is held.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from loom import files
from loom.exceptions import ServersError
from loom.services.binaries import find_postgres, find_redis
from loom.services.instance import State, write_state
from loom.services.launcher import Account, account, decisive_line, every, is_locked, run, send_signal, spawn, try_lock
from loom.services.probe import Answer, ask_postgres, ask_redis

BUSY_SECONDS = 180.0  # the longest that a start may take, and that another command waits for it
_LOST_SECONDS = 10.0  # a server that lives but cannot be reached for so long has lost its socket
_HUNG_SECONDS = 25.0  # and one that has not ended by then will not; somebody waits for the answer to a call
_STOP_SECONDS = 60.0
_LONGEST_RUN_DIR = 80  # the path of a socket has room for about 104 bytes


def start(root: Path, state: State, progress: Callable[[str], None]) -> State:
    """Start what does not answer, and return when both do. Gives back the state as it is now.

    Raises:
        ServersError: a server cannot be found or started.
    """
    who = account(root / "pg")
    state = replace(state, run=str(_run_dir(root, state, who)))
    silent_kinds = [type(server) for server in _servers(root, state, who) if server.answer() is not Answer.READY]
    for kind in silent_kinds:
        state = kind(root, state, who).found()
    write_state(root, state)
    if not (root / "pg").exists():
        progress("Making a PostgreSQL database, this once.")
    servers = [kind(root, state, who) for kind in silent_kinds]
    begins = []
    for server in servers:
        progress(f"Starting {server.name}.")
        begins.append(_launch(server))
        if isinstance(server, _Postgres):
            state = replace(state, superuser_closed=True)
            write_state(root, state)
    for server, begin in zip(servers, begins, strict=True):
        _await(server, begin)
    return state


def stop(root: Path, state: State) -> None:
    """Stop both and return when they have ended.

    Raises:
        ServersError: one does not end.
    """
    running = _servers(root, state, account(root / "pg"))
    next_signal = 0.0
    for waited in every(_STOP_SECONDS):
        running = [server for server in running if is_locked(server.lock)]
        if not running:
            return
        if waited >= next_signal:  # again and again: one that has just started may not have its pid file yet
            next_signal = waited + 1
            for server in running:
                server.stop()
    names = " and ".join(server.name for server in running)
    raise ServersError(f"{names} did not stop within {_STOP_SECONDS:.0f} seconds.", f"See the logs in {root}.")


@dataclass(frozen=True)
class _Server(ABC):
    """What starting and stopping need to know of either server."""

    root: Path
    state: State
    who: Account

    name = ""
    stem = ""
    stop_signal = signal.SIGTERM

    @property
    def lock(self) -> Path:
        return self.root / f"{self.stem}.lock"

    @property
    def log(self) -> Path:
        return self.root / f"{self.stem}.log"

    @property
    @abstractmethod
    def pid_file(self) -> Path: ...

    @abstractmethod
    def answer(self) -> Answer: ...

    @abstractmethod
    def found(self) -> State:
        """The state with the program to run."""

    @abstractmethod
    def launch(self, lock: int) -> int:
        """Remove what a killed server left behind and start a new one, which inherits `lock`.

        Gives back where in the log it begins.
        """

    def stop(self) -> None:
        send_signal(self.pid_file, self.stop_signal, self.who, mark=f"{self.root}/{self.stem}")


_CLOSE = "ALTER ROLE postgres PASSWORD NULL;\n"  # a superuser may run programs and read files; nobody logs in as it


class _Postgres(_Server):
    name = "PostgreSQL"
    stem = "pg"
    stop_signal = signal.SIGINT  # "fast": ends the sessions, writes a checkpoint

    @property
    def data(self) -> Path:
        return self.root / "pg"

    @property
    def pid_file(self) -> Path:
        return self.data / "postmaster.pid"

    def answer(self) -> Answer:
        return ask_postgres(self.state.endpoints().database_url)

    def found(self) -> State:
        recorded = self.data / "PG_VERSION"
        major = int(recorded.read_text()) if recorded.exists() else None
        binary = find_postgres(Path(self.state.postgres) if self.state.postgres else None, major)
        return replace(self.state, postgres=str(binary.path), postgres_version=binary.version)

    def launch(self, lock: int) -> int:
        program = Path(self.state.postgres)
        new = not self.data.exists()
        if new:
            self._init(program, lock)
        for leftover in (self.pid_file, *Path(self.state.run).glob(".s.PGSQL.*")):
            leftover.unlink(missing_ok=True)
        if not new and not self.state.superuser_closed:  # made by a Loom that gave it the password of its own role
            self._alone(program, self.data, _CLOSE, lock)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{self.state.run}"',
            "unix_socket_permissions": "0700",
            "max_connections": "300",
            "log_checkpoints": "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return spawn([program, "-D", self.data, *options], self.who, lock=lock, log=self.log, cwd=self.root)

    def _init(self, program: Path, lock: int) -> None:
        self.who.must_have_a_name()
        draft, password = self.root / "pg.init", self.root / "pg.password"
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir()
        self.who.own(draft, 0o700)
        major = int(self.state.postgres_version.split(".")[0])
        # The same everywhere, whatever the user's locale, so that a dump sorts alike on another machine.
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if major >= 17 else ["--lc-ctype=C.UTF-8"]
        checksums = [] if major >= 18 else ["--data-checksums"]
        files.write(password, self.state.secret + "\n", 0o600)
        try:
            self.who.own(password, 0o600)
            run(
                [
                    program.with_name("initdb"),
                    *("-D", draft, "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={password}"),
                    *("--encoding=UTF8", "--locale=C", *locale, *checksums),
                ],
                self.who,
                cwd=self.root,
                keep=lock,
            )
        finally:
            password.unlink()
        # Loom's role is no superuser, but may make databases, which tests and restores want.
        sql = f"CREATE ROLE loom LOGIN CREATEDB PASSWORD '{self.state.secret}';\nCREATE DATABASE loom OWNER loom;\n"
        self._alone(program, draft, sql + _CLOSE, lock)
        draft.rename(self.data)

    def _alone(self, program: Path, data: Path, sql: str, lock: int) -> None:
        """Runs SQL as the superuser, in a PostgreSQL that serves nobody else."""
        run([program, "--single", "-D", data, "postgres"], self.who, text=sql, cwd=self.root, keep=lock)


class _Redis(_Server):
    name = "Redis"
    stem = "redis"

    @property
    def pid_file(self) -> Path:
        return self.root / "redis" / "redis.pid"

    def answer(self) -> Answer:
        return ask_redis(self.state.endpoints().redis_url)

    def found(self) -> State:
        binary = find_redis(Path(self.state.redis) if self.state.redis else None)
        version = f"{binary.version} (Valkey)" if "valkey" in binary.path.name else binary.version
        return replace(self.state, redis=str(binary.path), redis_version=version)

    def launch(self, lock: int) -> int:
        data, socket = self.root / "redis", Path(self.state.run) / "redis.sock"
        data.mkdir(exist_ok=True)
        self.who.own(data, 0o700)
        for leftover in (self.pid_file, socket):
            leftover.unlink(missing_ok=True)
        settings = {
            "port": "0",
            "unixsocket": _quoted(socket),
            "unixsocketperm": "700",
            "requirepass": self.state.secret,
            "dir": _quoted(data),
            "pidfile": _quoted(self.pid_file),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "daemonize": "no",
            "set-proc-title": "no",  # `send_signal` knows it by its command line
        }
        file = self.root / "redis.conf"
        files.write(file, "".join(f"{name} {value}\n" for name, value in settings.items()), 0o600)
        self.who.own(file, 0o600)
        return spawn([self.state.redis, file], self.who, lock=lock, log=self.log, cwd=self.root)


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _servers(root: Path, state: State, who: Account) -> list[_Server]:
    return [_Redis(root, state, who), _Postgres(root, state, who)]


def _launch(server: _Server) -> int:
    heard = 0.0  # when it last answered that it is starting or stopping, which may take long
    for waited in every(BUSY_SECONDS):
        lock = try_lock(server.lock)
        if lock is not None:
            try:
                return server.launch(lock)
            finally:
                os.close(lock)
        answer = server.answer()
        if answer is Answer.READY:
            return 0
        if answer is Answer.STARTING:
            heard = waited
        elif waited > heard + _HUNG_SECONDS:
            break
        elif waited > heard + _LOST_SECONDS:
            server.stop()
    raise ServersError(
        f"A {server.name} runs but cannot be reached, and does not stop when it is told to.",
        f"Its process id is in {server.pid_file}, its log is {server.log}.",
    )


def _await(server: _Server, begin: int) -> None:
    for _ in every(BUSY_SECONDS):
        if server.answer() is Answer.READY:
            return
        if not is_locked(server.lock):
            said = decisive_line(server.log.read_bytes()[begin:].decode(errors="replace"))
            raise ServersError(f"{server.name} ended while it started: {said}", f"Its log is {server.log}.")
    raise ServersError(f"{server.name} did not answer within {BUSY_SECONDS:.0f} seconds.", f"See {server.log}.")


def _run_dir(root: Path, state: State, who: Account) -> Path:
    """The directory of the sockets, there and private."""
    run_dir = root / "run"
    if len(os.fsencode(run_dir)) > _LONGEST_RUN_DIR:
        used = Path(state.run)
        # In /tmp a name that was cleaned away may by now be somebody else's directory.
        ours = state.run and used.is_dir() and not used.is_symlink() and used.stat().st_uid in (who.uid, os.geteuid())
        run_dir = used if ours else Path(tempfile.mkdtemp(prefix="loom-", dir="/tmp"))
    run_dir.mkdir(exist_ok=True)
    return who.own(run_dir, 0o700)
