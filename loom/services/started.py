"""How the servers stand that Loom starts itself, whichever backend does: asked, and told to a person."""

from __future__ import annotations

from loom import texts
from loom.services import Endpoints, ServerHealth
from loom.services.probe import Answer, ask_postgres, ask_redis


def both_answer(where: Endpoints) -> bool:
    """Whether both answer."""
    return ask_redis(where.redis_url) is Answer.READY and ask_postgres(where.database_url) is Answer.READY


def never(where: str) -> list[ServerHealth]:
    """Where they are to be, before they were started for the first time."""
    return [ServerHealth(name, False, None, where, "Run `loom up`.") for name in ("PostgreSQL", "Redis")]


def health(where: Endpoints, versions: tuple[str, str] = ("", ""), *, stopped: bool) -> list[ServerHealth]:
    """How both answer. `stopped`: on purpose; `versions`: of the two, where they are known."""

    def one(name: str, version: str, url: str, answer: Answer) -> ServerHealth:
        hint = "It was stopped with `loom down`" if stopped else f"It {answer}"
        ready = answer is Answer.READY
        return ServerHealth(name, ready, version or None, texts.mask(url), "" if ready else f"{hint}; run `loom up`.")

    return [
        one("PostgreSQL", versions[0], where.database_url, ask_postgres(where.database_url)),
        one("Redis", versions[1], where.redis_url, ask_redis(where.redis_url)),
    ]
