"""The backend of a user who runs PostgreSQL and Redis already: Loom asks them, and neither starts nor stops them."""

from __future__ import annotations

from collections.abc import Callable

from loom import texts
from loom.config import LoomConfig
from loom.exceptions import ServersError
from loom.services import Endpoints, ServerHealth
from loom.services.probe import Answer, ask_postgres, ask_redis

_DATABASE_URL = "postgresql://loom:loom_local@localhost:5432/loom"
_REDIS_URL = "redis://localhost:6379"


def endpoints(config: LoomConfig) -> Endpoints:
    return Endpoints(config.database.url or _DATABASE_URL, config.redis.url or _REDIS_URL)


def up(config: LoomConfig, progress: Callable[[str], None]) -> Endpoints:
    progress("Asking PostgreSQL and Redis.")
    for server in check(config):
        if not server.running:
            raise ServersError(f"{server.name} at {server.where} is not usable.", server.hint)
    return endpoints(config)


def ensure(config: LoomConfig) -> Endpoints:
    """Without Redis everything works."""
    postgres, _ = check(config)
    if not postgres.running:
        raise ServersError(f"{postgres.name} at {postgres.where} is not usable.", postgres.hint)
    return endpoints(config)


def down(config: LoomConfig) -> None:
    raise ServersError(
        "These servers were not started by Loom, so it does not stop them.", "Stop them the way they were started."
    )


def check(config: LoomConfig) -> list[ServerHealth]:
    where = endpoints(config)

    def health(name: str, url: str, answer: Answer, key: str) -> ServerHealth:
        mend = "name the file of its CA as ssl_ca_certs in" if answer is Answer.UNTRUSTED else "start it, or correct"
        hint = "" if answer is Answer.READY else f"It {answer}; {mend} `{key}` (`loom config show`)."
        return ServerHealth(name, answer is Answer.READY, None, texts.mask(url), hint)

    return [
        health("PostgreSQL", where.database_url, ask_postgres(where.database_url), "database.url"),
        health("Redis", where.redis_url, ask_redis(where.redis_url), "redis.url"),
    ]
