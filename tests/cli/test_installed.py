"""Which Loom is on this machine: ours, or the other product of the same name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from loom.cli import installed
from tests.cli.conftest import Cli


def install(prefix: Path, version: str, head: str = "#!{prefix}/bin/python\n") -> Path:
    """An environment that has a package of Loom's name, as pip leaves it; its `loom` is told to do nothing."""
    (prefix / "lib" / "python3.12" / "site-packages" / f"loom_agents-{version}.dist-info").mkdir(parents=True)
    (prefix / "bin").mkdir()
    program = prefix / "bin" / "loom"
    program.write_text(head.format(prefix=prefix))
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    "head",
    [
        "#!{prefix}/bin/python\n",
        "#!{prefix}/bin/python3.12\n",
        "#!/bin/sh\n'''exec' '{prefix}/bin/python' \"$0\" \"$@\"\n' '''\n",
        "#!/bin/sh\n'''exec' \"{prefix}/bin/python3\" \"$0\" \"$@\"\n' '''\n",
    ],
)
def test_a_program_is_told_by_its_interpreter(tmp_path: Path, head: str) -> None:
    program = install(tmp_path / "old one", "1.2.0", head)
    elsewhere = tmp_path / "loom"
    elsewhere.write_text(program.read_text())
    assert installed.look(elsewhere) == installed.Program(elsewhere, "1.2.0")
    assert installed.look(elsewhere).foreign


def test_a_program_is_told_by_what_it_links_to_and_by_where_it_lies(tmp_path: Path) -> None:
    link = tmp_path / "bin" / "loom"
    link.parent.mkdir()
    link.symlink_to(install(tmp_path / "venv", "2.0.0", "#!/usr/bin/env python3\n"))
    assert (installed.look(link).version, installed.look(link).foreign) == ("2.0.0", False)
    assert installed.look(install(tmp_path / "local", "1.9", "#!/usr/bin/python3\n")).foreign
    script = tmp_path / "script" / "loom"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\nexec java -jar loom.jar\n")
    assert installed.look(script) == installed.Program(script, None)


@pytest.mark.parametrize(
    ("version", "foreign"), [("1.2.0", True), ("0.1", True), ("2.0.0", False), ("2.0.0rc1", False), ("10.0", False)]
)
def test_versions_below_two_are_another_product(version: str, foreign: bool) -> None:
    assert installed.is_foreign(version) is foreign


def test_doctor_names_the_other_product_on_path_and_what_to_do(cli: Cli, tmp_path: Path) -> None:
    old = install(tmp_path / "old", "1.2.0")
    path = f"{old.parent}:{Path(sys.executable).parent}:/usr/bin:/bin"
    cli.ok("init", PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin")
    (cli.directory / ".mcp.json").write_text('{"mcpServers": {"loom": {"command": "loom", "args": ["mcp"]}}}')
    report = cli("doctor", "--json", PATH=path)
    assert report.code == 1
    found = {one["check"]: one for one in report.json["findings"] if one["level"] != "ok"}
    assert found["PATH"]["found"] == f"{old} is loom-agents 1.2.0, another product"
    assert found["PATH"]["mend"] == "Put the directory of this Loom before that one on PATH."
    assert found[".mcp.json"]["level"] == "bad"
    assert str(old) in found[".mcp.json"]["found"]
    after = cli.ok("doctor", PATH=f"{Path(sys.executable).parent}:{old.parent}:/usr/bin:/bin")
    assert [one["level"] for one in after["findings"] if one["check"] in ("PATH", ".mcp.json")] == ["note", "ok"]


def test_doctor_names_a_program_that_it_cannot_tell(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "loom").write_text("#!/bin/sh\n")
    (tmp_path / "loom").chmod(0o755)
    report = cli.ok("doctor", PATH=f"{tmp_path}:/usr/bin:/bin")
    (told,) = [one for one in report["findings"] if one["check"] == "PATH"]
    assert told["level"] == "note"
    assert told["found"] == f"{tmp_path / 'loom'} may not be Loom's"


def test_doctor_names_the_other_product_in_its_own_environment(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "loom_agents-1.2.0.dist-info").mkdir()
    (tmp_path / "loom_agents-1.2.0.dist-info" / "METADATA").write_text("Name: loom-agents\nVersion: 1.2.0\n")
    report = cli("doctor", "--json", PYTHONPATH=f"{cli.env['PYTHONPATH']}:{tmp_path}")
    assert report.code == 1
    (told,) = [one for one in report.json["findings"] if one["check"] == "package"]
    assert told["found"] == f"this Python has loom-agents 1.2.0, in {tmp_path.resolve()}, another product"
    assert "environment of its own" in told["mend"]


def test_init_does_not_wire_the_other_product(bare: Cli, tmp_path: Path) -> None:
    old = install(tmp_path / "old", "1.2.0")
    env = {"PATH": f"{old.parent}:/usr/bin:/bin", "UV_RUN_RECURSION_DEPTH": "1"}
    path = bare.directory / ".mcp.json"
    for before in ("{}", '{"mcpServers": {"loom": {"command": "loom", "args": ["mcp"]}}}'):
        path.write_text(before)
        assert str(old) in bare("init", **env).err
        server = json.loads(path.read_text())["mcpServers"]["loom"]
        assert [server["command"], *server["args"]] == ["uv", "run", "loom", "mcp"]
