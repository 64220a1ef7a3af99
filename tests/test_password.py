"""Passwords that a command prints: one for each new connection, told to the server and to nobody else."""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlencode, urlsplit, urlunsplit

import pytest

from loom.config import LoomConfig
from loom.db.password import Password
from loom.exceptions import DatabaseUnavailableError
from loom.graph.connections import bring_forward
from loom.graph.front import Loom

# Prints what is in a file, and counts how often it was asked.
SCRIPT = """
import pathlib, sys, time
place = pathlib.Path(sys.argv[1])
with (place / "asked").open("a") as file:
    file.write(".")
time.sleep(float((place / "pause").read_text()) if (place / "pause").exists() else 0)
print((place / "password").read_text())
"""


class Vault:
    """A command that knows the password of the test's server, and the address without it."""

    def __init__(self, place: Path, config: LoomConfig) -> None:
        parts = urlsplit(str(config.database.url))
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.password = query.pop("password", "") or unquote(parts.password or "")
        bare = parts._replace(netloc=f"{parts.username}@{parts.netloc.rpartition('@')[2]}", query=urlencode(query))
        self.place = place
        (place / "script.py").write_text(SCRIPT)
        self.tell(self.password)
        self.command = (sys.executable, str(place / "script.py"), str(place))
        settings = replace(config.database, url=urlunsplit(bare), password_command=self.command, pool_min=0)
        self.config = replace(config, database=settings)

    def tell(self, password: str) -> None:
        (self.place / "password").write_text(f"{password}\n")

    @property
    def asked(self) -> int:
        return len((self.place / "asked").read_text()) if (self.place / "asked").exists() else 0


@pytest.fixture
def vault(tmp_path: Path, config: LoomConfig) -> Vault:
    return Vault(tmp_path, config)


async def test_each_new_connection_has_a_password_of_its_own(vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with Loom(vault.config, agent="a") as loom:
        await loom.create("one")
        assert vault.asked == 1
        pool = await loom._links.pool()
        vault.tell("out of date")
        await loom.create("two")  # over the connection that there is
        async with pool.acquire():
            with pytest.raises(DatabaseUnavailableError, match="refused the connection"):
                await loom.create("three")
            before = vault.asked
            vault.tell(vault.password)
            await loom.create("three")
            assert vault.asked == before + 1
    assert await bring_forward(vault.config) == []
    assert vault.password not in caplog.text
    assert vault.password not in repr(vault.config)
    assert vault.password not in " ".join(vault.command)


async def test_who_connects_meanwhile_shares_the_answer(vault: Vault) -> None:
    (vault.place / "pause").write_text("0.5")
    ask = Password(vault.command)
    asked = [asyncio.create_task(ask()) for _ in range(5)]
    await asyncio.sleep(0.1)
    asked.pop().cancel()  # which leaves the others theirs
    assert set(await asyncio.gather(*asked)) == {vault.password}
    assert vault.asked == 1
    await ask()
    assert vault.asked == 2


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("raise SystemExit(3)", "ended with exit status 3"),
        (
            "import sys; print('s3cret'); sys.exit('first\\nlogin has expired.')",
            "ended with exit status 1: login has expired",
        ),
        ("pass", "did not print one line"),
        ("print('s3cret\\nand more')", "did not print one line"),
        ("print('s3cret' * 100_000)", "ended with exit status"),
    ],
)
async def test_a_command_that_gives_none_is_told_without_what_it_printed(vault: Vault, script: str, why: str) -> None:
    database = replace(vault.config.database, password_command=(sys.executable, "-c", script))
    async with Loom(replace(vault.config, database=database), agent="a") as loom:
        with pytest.raises(DatabaseUnavailableError) as caught:
            await loom.status()
    assert f"The command of database.password_command {why}" in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_command_that_is_not_there_is_told(vault: Vault) -> None:
    with pytest.raises(DatabaseUnavailableError, match="cannot be started: No such file"):
        await Password(("/nowhere/at-all",))()


async def test_a_command_that_hangs_is_ended(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loom.db.password._PATIENCE", 0.5)
    (vault.place / "pause").write_text("60")
    with pytest.raises(DatabaseUnavailableError, match=r"did not end within 0\.5 s"):
        await Password(vault.command)()
