"""How a browser comes in over HTTP: a code for one use is changed for a cookie. Both stand for an access token, which
neither outlives.

They are kept where all replicas look, and only what they hash to, so that the database lets nobody in.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

from loom.graph.model.principals import CODE_SECONDS, COOKIE_SECONDS
from loom.graph.store.tokens import COLUMNS, HOLDS, AccessToken

if TYPE_CHECKING:
    from loom.db.connection import Connection

_NOTED_EVERY = 3600.0  # seconds between two notes that a cookie has come, so that it may end that much sooner
_EACH = 100  # codes, and cookies, of one token; the oldest go first


async def code(connection: Connection, token: AccessToken) -> str:
    """A code that lets a browser in once, within a minute, as who has this token."""
    await connection.execute(
        """
        delete from browser_entries where project_id = $1 and (expires_at <= loom_now() or digest in (
            select digest from (
                select digest, row_number() over (partition by is_code order by expires_at desc) as place
                  from browser_entries where project_id = $1 and token_id = $2) own
             where place >= $3))
        """,
        token.project_id,
        token.id,
        _EACH,
    )
    made = secrets.token_urlsafe(32)
    await connection.execute(
        "insert into browser_entries (digest, project_id, token_id, is_code, expires_at)"
        " values ($1, $2, $3, true, loom_now() + make_interval(secs => $4))",
        _digest(made),
        token.project_id,
        token.id,
        CODE_SECONDS,
    )
    return made


async def enter(connection: Connection, given: str) -> str | None:
    """The cookie that a code is changed for; None where it was used, is too old, or none."""
    cookie = secrets.token_urlsafe(32)
    entered = await connection.fetchval(
        """
        with used as (delete from browser_entries where digest = $1 and is_code returning *)
        insert into browser_entries (digest, project_id, token_id, is_code, expires_at)
        select $2, project_id, token_id, false, loom_now() + make_interval(secs => $3)
          from used where expires_at > loom_now()
        returning true
        """,
        _digest(given),
        _digest(cookie),
        COOKIE_SECONDS,
    )
    return cookie if entered else None


async def visitor(connection: Connection, cookie: str) -> AccessToken | None:
    """The token that a cookie stands for, where both hold now, and notes that it has come; None for any other text."""
    record = await connection.fetchrow(
        f"""
        select {COLUMNS}, e.expires_at < loom_now() + make_interval(secs => $2) as is_due
          from browser_entries e
          join access_tokens t on t.project_id = e.project_id and t.id = e.token_id
         where e.digest = $1 and not e.is_code and e.expires_at > loom_now() and {HOLDS}
        """,
        _digest(cookie),
        COOKIE_SECONDS - _NOTED_EVERY,
    )
    if record is None:
        return None
    if record["is_due"]:
        await connection.execute(
            "update browser_entries set expires_at = loom_now() + make_interval(secs => $2) where digest = $1",
            _digest(cookie),
            COOKIE_SECONDS,
        )
    return AccessToken.from_record(record)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
