"""An instance of the embedded servers: one directory in the user's data directory, described by its `instance.json`.

    instance.json   the secret, the programs in use, whether it was stopped on purpose (0600)
    pg/             PostgreSQL's data; pg.init/ while it is being made, so that half a database never looks ready
    redis/          Redis' append-only file
    run/            the Unix sockets (0700); elsewhere when the path would be too long for one
    *.lock          see `loom.services.launcher`; up.lock makes starting and stopping one at a time
    hub.sock        where clients come to the hub (0600); hubs/ has a file for each that lives, see `loom.hub`
    *.log           what the servers print

Reading this file is all that a command needs while the servers run, so this module imports little.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from urllib.parse import quote

from loom import bridge, files, texts
from loom.config import LoomConfig
from loom.exceptions import ServersError
from loom.services import Endpoints


@dataclass(frozen=True)
class State:
    """`instance.json`."""

    secret: str
    run: str = ""
    stopped: bool = False  # on purpose, with `loom down`
    postgres: str = ""  # the program that ran last
    postgres_version: str = ""
    redis: str = ""
    redis_version: str = ""
    superuser_closed: bool = False  # PostgreSQL's superuser has no password, so that nobody logs in as it

    def endpoints(self) -> Endpoints:
        directory = quote(self.run)
        return Endpoints(
            database_url=f"postgresql://loom:{self.secret}@/loom?host={directory}",
            redis_url=f"unix://{directory}/redis.sock?password={self.secret}",
        )


def instance_dir(config: LoomConfig) -> Path:
    """The directory of the instance that a project is on. Raises ServersError where no URL could lead there."""
    path = Path(bridge.instance_dir(config.servers.instance))
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ServersError(
            f"The path {texts.quote(str(path), 200)}, where the servers are to lie, is no text in UTF-8.",
            "Set LOOM_DATA_DIR to a directory whose path is.",
        ) from None
    return path


def new_state(root: Path) -> State:
    """The state of an instance that is about to be made, with a fresh secret."""
    import secrets

    if (root / "pg").exists():
        raise ServersError(
            f"{root / 'instance.json'} is missing, and with it the password of the database beside it.",
            "Put the file back, or choose another `servers.instance`.",
        )
    return State(secret=secrets.token_hex(24))


def read_state(root: Path) -> State | None:
    """None when the instance was never made."""
    file = root / "instance.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return State(**{item.name: values[item.name] for item in fields(State) if item.name in values})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        raise ServersError(
            f"{file} cannot be read.", "Put it back as it was, or choose another `servers.instance`."
        ) from None


def write_state(root: Path, state: State) -> None:
    files.write(root / "instance.json", json.dumps(asdict(state), indent=1) + "\n", 0o600)
