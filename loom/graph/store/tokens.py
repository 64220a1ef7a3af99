"""Access tokens: who may come in over HTTP, as whom, and until when.

A token reads `loom_<id>_<secret>`. Its row is found by the id, and the secret is judged by its digest, so that neither
the database nor whoever measures time learns one. Nothing of it is remembered by any process: what is revoked is over
everywhere with the next look.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from loom.graph.model.principals import Role

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row

_TOKEN = re.compile(r"loom_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_USED_EVERY = 60.0  # seconds between two notes of a token's last use
_NOBODYS = bytes(32)  # a digest that no secret has


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token, without its secret. `id`: the part of it that may be shown."""

    project_id: str
    id: str
    name: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    last_client: str | None
    """The program that used it last, as it names itself."""

    @classmethod
    def from_record(cls, record: Row) -> AccessToken:
        """Builds one from a row of `access_tokens`."""
        return cls(
            project_id=str(record["project_id"]),
            role=Role.named(record["role"]),
            **{name: record[name] for name in _PLAIN},
        )


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made. `secret`: all of it, which nobody can ask for again."""

    token: AccessToken
    secret: str = field(repr=False)


_PLAIN = ("id", "name", "created_at", "created_by", "expires_at", "revoked_at", "last_used_at", "last_client")
COLUMNS = f"t.project_id, t.role, {', '.join(f't.{name}' for name in _PLAIN)}"
"""What an `AccessToken` is built from, of `access_tokens t`."""
HOLDS = "t.revoked_at is null and (t.expires_at is null or t.expires_at > loom_now())"
"""The condition of a token that holds now."""


async def add(
    connection: Connection, project_id: str, name: str, role: Role, *, seconds: float | None, by: str
) -> NewToken:
    """Makes a token. `seconds`: how long it holds; None: until it is revoked."""
    token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    record = await connection.fetchrow(
        f"""
        insert into access_tokens as t (project_id, id, name, role, digest, created_by, expires_at)
        values ($1, $2, $3, $4, $5, $6, loom_now() + make_interval(secs => $7))
        returning {COLUMNS}
        """,
        project_id,
        token_id,
        name,
        str(role),
        _digest(secret),
        by,
        seconds,
    )
    assert record is not None
    return NewToken(AccessToken.from_record(record), f"loom_{token_id}_{secret}")


async def listed(connection: Connection, project_id: str) -> list[AccessToken]:
    """The tokens of a project, oldest first, also those that are over."""
    records = await connection.fetch(
        f"select {COLUMNS} from access_tokens t where project_id = $1 order by created_at, id", project_id
    )
    return [AccessToken.from_record(record) for record in records]


async def revoke(connection: Connection, project_id: str, which: str) -> list[AccessToken]:
    """Ends the tokens that have this name or id and hold; returns them."""
    records = await connection.fetch(
        f"""
        update access_tokens t set revoked_at = loom_now()
         where project_id = $1 and (id = $2 or name = $2) and revoked_at is null
        returning {COLUMNS}
        """,
        project_id,
        which,
    )
    return [AccessToken.from_record(record) for record in records]


async def admitted(connection: Connection, given: str, client: str) -> AccessToken | None:
    """The token that somebody shows, where it holds now, and notes that he used it; None for any other text."""
    parts = _TOKEN.fullmatch(given)
    if parts is None:
        return None
    record = await connection.fetchrow(
        f"""
        select {COLUMNS}, digest, {HOLDS} as holds,
               last_used_at > loom_now() - make_interval(secs => $2) and last_client = $3 as is_noted
          from access_tokens t where id = $1
        """,
        parts[1],
        _USED_EVERY,
        client,
    )
    digest = _NOBODYS if record is None else record["digest"]
    if not hmac.compare_digest(_digest(parts[2]), digest) or record is None or not record["holds"]:
        return None
    if not record["is_noted"]:
        await connection.execute(
            "update access_tokens set last_used_at = loom_now(), last_client = $3 where project_id = $1 and id = $2",
            record["project_id"],
            record["id"],
            client,
        )
    return AccessToken.from_record(record)


async def holding(connection: Connection, given: Collection[AccessToken]) -> set[str]:
    """The ids of those of these tokens, which were admitted, that still hold."""
    records = await connection.fetch(
        f"select t.id from access_tokens t where t.id = any($1::text[]) and {HOLDS}", [one.id for one in given]
    )
    return {record["id"] for record in records}


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
