"""`loom token`: made, listed and revoked."""

from __future__ import annotations

import re
import uuid

from loom.db.connection import Pool
from tests.cli.conftest import Cli


def test_a_token_is_shown_once(cli: Cli) -> None:
    made = cli("token", "add", "ann", "--role", "worker", "--expires", "30d")
    assert re.fullmatch(r"loom_[0-9a-f]{12}_[\w-]{43}\n", made.out)
    assert "LOOM_TOKEN" in made.err
    second = cli.ok("token", "add", "bob", "--role", "admin")
    assert second["token"].startswith(f"loom_{second['id']}_")
    listed = cli.ok("token", "list")
    assert [(one["name"], one["role"], "expires_at" in one) for one in listed["tokens"]] == [
        ("ann", "worker", True),
        ("bob", "admin", False),
    ]
    shown = cli("token", "list").out
    assert "never used" in shown
    for secret in (made.out.strip(), second["token"]):
        assert secret.rpartition("_")[2] not in shown + str(listed)
    assert cli.ok("token", "revoke", "bob")["count"] == 1
    again = cli("token", "revoke", "bob")
    assert (again.code, "No token that holds is called “bob”" in again.out) == (0, True)
    never = cli("token", "revoke", "bop", "--json")
    assert (never.code, never.json["error"]["code"]) == (1, "token_not_found")
    assert "No access token of this project is called “bop”" in never.json["error"]["cause"]
    assert "revoked" in cli("token", "list").out


def test_what_is_no_token_is_refused_in_a_sentence(cli: Cli) -> None:
    assert "is no span such as" in cli("token", "add", "ann", "--role", "worker", "--expires", "soon").err
    assert "has a /" in cli("token", "add", "ann/one", "--role", "worker").err
    assert "no room for names" in cli("token", "add", "a" * 59, "--role", "worker").err
    inside = cli("token", "add", "ann", "--role", "worker", LOOM_RUN="a.1.")
    assert "from inside a run" in inside.err
    assert cli.ok("token", "list")["tokens"] == []


async def test_a_token_of_another_project_of_the_database(cli: Cli, pool: Pool) -> None:
    cli.ok("up")
    other = str(uuid.uuid4())
    await pool.execute("insert into projects (id, name) values ($1, 'yard')", other)
    made = cli.ok("token", "add", "ann", "--role", "reader", "--project", "yard")
    assert await pool.fetchval("select project_id::text from access_tokens where id = $1", made["id"]) == other
    assert cli.ok("token", "list")["tokens"] == []
    assert cli.ok("token", "list", "--project", other)["count"] == 1
    assert "has no projects called “barn”" in cli("token", "list", "--project", "barn").err
