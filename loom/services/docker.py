"""PostgreSQL and Redis in containers, through Docker Compose: a pair per project, its bytes in named volumes.

The Compose file lies in the project and may be committed, so it holds no secret: password and ports are in a private
file in the user's data directory and reach Compose through its environment.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from loom import files
from loom.config import COMPOSE_FILE, GUARDED_BYTES, LoomConfig, is_trusted, trust
from loom.exceptions import ServersError, ServersStoppedError
from loom.process import environment
from loom.services import Endpoints, ServerHealth, silent, started
from loom.services.launcher import decisive_line, every, locked
from loom.services.places import data_dir, make_dir
from loom.wording import Shell, Words

COMPOSE_TEXT = """\
# PostgreSQL and Redis for Loom. `loom up` starts them and sets the variables; this file holds no secret.
services:
  postgres:
    image: postgres:16-alpine
    command: ["postgres", "-c", "max_connections=300"]
    environment:
      POSTGRES_USER: loom
      POSTGRES_DB: loom
      POSTGRES_PASSWORD: ${LOOM_SERVERS_SECRET:?set by loom up}
    ports:
      - "127.0.0.1:${LOOM_POSTGRES_PORT:?set by loom up}:5432"
    volumes:
      - postgres:/var/lib/postgresql/data
    healthcheck:
      test: ["CMD", "pg_isready", "-U", "loom", "-d", "loom"]
      interval: 5s
      timeout: 3s
      retries: 12
    restart: unless-stopped
  redis:
    image: redis:7-alpine
    # The settings come through standard input, so that the password is on no command line.
    command:
      - sh
      - -ec
      - |
        exec docker-entrypoint.sh redis-server - <<SETTINGS
        appendonly yes
        appendfsync everysec
        save ""
        requirepass $$REDISCLI_AUTH
        SETTINGS
    environment:
      REDISCLI_AUTH: ${LOOM_SERVERS_SECRET:?set by loom up}
    ports:
      - "127.0.0.1:${LOOM_REDIS_PORT:?set by loom up}:6379"
    volumes:
      - redis:/data
    healthcheck:
      test: ["CMD", "redis-cli", "ping"]
      interval: 5s
      timeout: 3s
      retries: 12
    restart: unless-stopped
volumes:
  postgres: {}
  redis: {}
"""
_BUSY_SECONDS = 600.0  # the first start fetches the images
_READY_SECONDS = 120.0
_PORT_TAKEN = ("port is already allocated", "address already in use", "ports are not available")
_INSTEAD = "or use Loom's own servers: `loom config set servers.backend embedded`."


@dataclass(frozen=True)
class _State:
    """The private file of a project's containers."""

    secret: str
    postgres_port: int
    redis_port: int
    stopped: bool = False  # on purpose, with `loom down`

    def endpoints(self) -> Endpoints:
        return Endpoints(
            database_url=f"postgresql://loom:{self.secret}@127.0.0.1:{self.postgres_port}/loom",
            redis_url=f"redis://:{self.secret}@127.0.0.1:{self.redis_port}",
        )


def endpoints(config: LoomConfig) -> Endpoints:
    state = _read(config)
    if state is None:
        raise ServersError(
            "The containers of this project have not been started yet.", Words("Run {}.", Shell("loom up"))
        )
    return state.endpoints()


def up(config: LoomConfig, progress: Callable[[str], None]) -> Endpoints:
    return _start(config, progress, even_if_stopped=True)


def ensure(config: LoomConfig) -> Endpoints:
    return _start(config, silent, even_if_stopped=False)


def down(config: LoomConfig) -> None:
    if _read(config) is None:
        return
    with _locked(config):
        if state := _read(config):
            _write(config, replace(state, stopped=True))
            _compose(config, state, "stop")


def check(config: LoomConfig) -> list[ServerHealth]:
    state = _read(config)
    if state is None:
        return started.never(str(_project_dir(config) / COMPOSE_FILE))
    return started.health(state.endpoints(), stopped=state.stopped)


def _start(config: LoomConfig, progress: Callable[[str], None], *, even_if_stopped: bool) -> Endpoints:
    state = _read(config)
    if state and _runs(state, even_if_stopped):
        return state.endpoints()
    with _locked(config):
        state = _read(config)  # another command may have started or stopped them meanwhile
        if state and _runs(state, even_if_stopped):
            return state.endpoints()
        _compose_text(_project_dir(config))  # before anything is begun
        state = replace(state, stopped=False) if state else _State(secrets.token_hex(24), *_free_ports())
        _write(config, state)
        progress("Starting the containers; the first time their images are fetched.")
        try:
            _compose(config, state, "up", "--detach")
        except ServersError as error:
            if not any(sign in error.cause for sign in _PORT_TAKEN):
                raise
            # While the containers were down somebody else took a recorded port.
            state = _State(state.secret, *_free_ports())
            _write(config, state)
            _compose(config, state, "up", "--detach")
        _await(config, state)
        return state.endpoints()


def _runs(state: _State, even_if_stopped: bool) -> bool:
    if state.stopped and not even_if_stopped:
        raise ServersStoppedError(
            Words("The containers of this project were stopped with {}.", Shell("loom down")),
            Words("Run {} to start them.", Shell("loom up")),
        )
    return not state.stopped and started.both_answer(state.endpoints())


def _await(config: LoomConfig, state: _State) -> None:
    """Asks the servers themselves: where health checks never run, Compose's own `--wait` hangs."""
    for _ in every(_READY_SECONDS):
        if started.both_answer(state.endpoints()):
            return
    silent_ones = " and ".join(f"{health.name} ({health.hint})" for health in check(config) if not health.running)
    raise ServersError(
        f"The containers run, but after {_READY_SECONDS:.0f} seconds there is no {silent_ones}.",
        Words("See {}.", Shell(f"docker compose --project-name {_name(config)} logs")),
    )


def _compose_text(project_dir: Path) -> str:
    """The Compose file, written when it is missing; one that the repository brought only when the user trusts it. What
    is checked here is what runs: Compose gets this text, and does not read the file again."""
    path = project_dir / COMPOSE_FILE
    try:
        data = files.read(path, GUARDED_BYTES, project_dir)
    except FileNotFoundError:
        files.write(path, COMPOSE_TEXT, 0o644, within=project_dir)
        trust(project_dir, [COMPOSE_FILE])
        return COMPOSE_TEXT
    except OSError as error:
        raise ServersError(f"{path} cannot be read: {error.strerror}.", f"Mend that, {_INSTEAD}") from None
    if data != COMPOSE_TEXT.encode() and not is_trusted(project_dir, COMPOSE_FILE, data):
        raise ServersError(
            f"{path} is not as Loom wrote it, and you have not allowed it on this machine.",
            Words("Read it, then run {}.", Shell("loom config trust")),
        )
    return data.decode(errors="replace")


def _compose(config: LoomConfig, state: _State, *words: str) -> None:
    project_dir = _project_dir(config)
    command = ["docker", "compose", "--project-name", _name(config), "--project-directory", str(project_dir)]
    command += ["--file", "-", "--env-file", "/dev/null", *words]
    variables = {
        "LOOM_SERVERS_SECRET": state.secret,
        "LOOM_POSTGRES_PORT": str(state.postgres_port),
        "LOOM_REDIS_PORT": str(state.redis_port),
    }
    result = _docker(command, variables, _compose_text(project_dir))
    if result.returncode:
        if _docker(["docker", "compose", "version"]).returncode:
            raise ServersError("This Docker has no Compose.", f"Install its Compose plugin, {_INSTEAD}")
        if _docker(["docker", "version"]).returncode:
            raise ServersError("Docker does not run, or this user may not use it.", f"Start Docker, {_INSTEAD}")
        said = decisive_line(result.stderr).replace(state.secret, "***")
        raise ServersError(f"`docker compose {words[0]}` failed: {said}", Words("Run {}.", Shell("loom doctor")))


def _docker(
    command: list[str], variables: dict[str, str] | None = None, text: str = ""
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, env=environment(variables))
    except OSError:
        raise ServersError("There is no Docker on this machine.", f"Install Docker, {_INSTEAD}") from None


def _free_ports() -> tuple[int, int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        first, second = (each.getsockname()[1] for each in sockets)
        return first, second


# --- the private file ------------------------------------------------------------------------------------------------


def _project_dir(config: LoomConfig) -> Path:
    if config.project_dir is None:
        raise ServersError(
            "The docker backend belongs to a project, and here is none.",
            Words("Run {}, or go into a project.", Shell("loom init")),
        )
    return config.project_dir


def _name(config: LoomConfig) -> str:
    identity = config.project_id or str(_project_dir(config))
    return f"loom-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _locked(config: LoomConfig) -> AbstractContextManager[None]:
    return locked(make_dir(_file(config).parent) / f"{_name(config)}.lock", _BUSY_SECONDS)


def _file(config: LoomConfig) -> Path:
    return data_dir() / "docker" / f"{_name(config)}.json"


def _read(config: LoomConfig) -> _State | None:
    file = _file(config)
    try:
        return _State(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        raise ServersError(f"{file} cannot be read.", "Put it back as it was.") from None


def _write(config: LoomConfig, state: _State) -> None:
    files.write(_file(config), json.dumps(asdict(state), indent=1) + "\n", 0o600)
