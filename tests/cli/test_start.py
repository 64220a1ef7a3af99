"""What a command costs before it does anything."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Any

import asyncpg
import pytest

from loom.cli import cli as group
from tests.cli.conftest import Cli


def test_every_command_has_json_but_the_one_that_speaks_mcp() -> None:
    import click

    def leaves(command: click.Command, path: str) -> dict[str, click.Command]:
        if not isinstance(command, click.Group):
            return {path: command}
        found: dict[str, click.Command] = {}
        for name in command.list_commands(click.Context(command)):
            one = command.get_command(click.Context(command), name)
            assert one is not None, name
            found |= leaves(one, f"{path} {name}".strip())
        return found

    commands = leaves(group, "")
    without = [path for path, one in commands.items() if not any("--json" in param.opts for param in one.params)]
    assert without == ["mcp"]
    assert all(one.help for one in commands.values())


def test_help_imports_no_command(bare: Cli) -> None:
    shown = bare("--help")
    assert shown.code == 0
    assert "dead-letter" in shown.out
    code = "print(*(name for name in sys.modules if name.startswith(('loom.cli.', 'asyncpg', 'yaml'))))"
    code = f"import sys, loom.cli; loom.cli.cli; {code}"
    imported = subprocess.run([sys.executable, "-c", code], env=bare.env, capture_output=True, text=True, check=True)
    assert imported.stdout.strip() == "loom.cli.output loom.cli.commands"
    completed = bare(_LOOM_COMPLETE="bash_complete", COMP_WORDS="loom cl", COMP_CWORD="1")
    assert completed.out == "plain,claim\n"


@pytest.mark.benchmark
def test_status_costs_less_than_three_times_what_importing_its_two_libraries_does(cli: Cli) -> None:

    def fastest(*command: str) -> float:
        """Seconds of processor time, which other work on the machine hardly changes."""
        times = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *command], cwd=cli.directory, env=cli.env, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)

    cli.create()
    floor = fastest("-c", "import click, asyncpg")
    status = fastest("-m", "loom", "status")
    assert status < 3 * floor, f"{status:.3f} s against {floor:.3f} s"


def test_status_leaves_the_heavy_libraries_alone(cli: Cli) -> None:
    seen = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "loom", "status"],
        cwd=cli.directory,
        env=cli.env,
        check=True,
        capture_output=True,
        text=True,
    ).stderr
    assert not [name for name in ("redis", "fastmcp", "pydantic", "rich") if f"| {name}\n" in seen.replace("  ", "")]


def test_a_claim_brings_nothing_of_the_store_that_only_others_need(cli: Cli) -> None:
    task = cli.create()
    code = "import sys, loom.cli; loom.cli.cli(['claim'], standalone_mode=False); print(*sys.modules)"
    claimed = subprocess.run(
        [sys.executable, "-c", code], cwd=cli.directory, env=cli.env, check=True, capture_output=True, text=True
    ).stdout
    assert task in claimed
    others = "diagnoses glance graphs landing_tips listing retention skill_runs stats sticking workflow_runs"
    assert [name for name in others.split() if f"loom.graph.store.{name}" in claimed.split()] == []


def test_a_command_opens_one_connection(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    connect = asyncpg.connection.connect

    async def counted(*where: str, **options: Any) -> Any:
        opened.extend(where)
        return await connect(*where, **options)

    monkeypatch.setattr(asyncpg.connection, "connect", counted)
    assert cli.inside("status").code == 0
    assert len(opened) == 1
