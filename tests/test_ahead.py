"""What a process that lives long reads ahead, lest an upgrade meanwhile gives it parts of another version."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import loom
from loom import tracing
from loom.bus.connection import is_away, is_late
from loom.graph.front import Loom
from tests.mcp.conftest import place as place
from tests.mcp.stdio import started
from tests.waiting import until

ROOT = Path(loom.__file__).parent
BEGINS = "import loom.graph.front, loom.orchestration.housekeeping"
"""What each of these processes has imported before anything is read ahead."""


def modules_after(code: str) -> set[str]:
    """What a process of its own has imported when it has carried out this."""
    words = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
    return set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())


def test_what_functions_import_is_read_and_nothing_of_other_faces() -> None:
    read = "from loom import ahead; ahead._AFTER = ahead._PAUSE = 0; ahead._read()"
    found = modules_after(f"{BEGINS}, loom.orchestration.workers.worker; {read}")
    for name in ("loom.orchestration.notices.teller", "loom.graph.rules.plans", "loom.landing.lander", "httpx2"):
        assert name in found
    assert not any(name.startswith(("loom.mcp", "loom.web", "loom.hub", "loom.cli", "fastmcp")) for name in found)


def imported_in(file: Path) -> set[str]:
    """The modules that a file imports, but for what only a type checker does."""
    found, parts = set(), [*ast.parse(file.read_text("utf-8")).body]
    while parts:
        part = parts.pop()
        if isinstance(part, ast.ImportFrom):
            found.add(part.module or "")
        elif isinstance(part, ast.Import):
            found |= {one.name for one in part.names}
        elif not (isinstance(part, ast.If) and ast.unparse(part.test) == "TYPE_CHECKING"):
            parts += ast.iter_child_nodes(part)  # type: ignore[arg-type]
    return found


def test_a_package_that_imports_its_own_modules_is_entered_by_one_door() -> None:
    """Else who comes to it while it is read ahead, by another door, might be refused."""
    known = modules_after(BEGINS)
    of_servers = known | modules_after(f"{BEGINS}, loom.mcp.server")
    imports = {file: imported_in(file) for file in ROOT.rglob("*.py") if ROOT / "cli" not in file.parents}
    for file, own in imports.items():
        within = ".".join(("loom", *file.parent.relative_to(ROOT).parts, ""))
        if file.name != "__init__.py" or within[:-1] in known or not any(one.startswith(within) for one in own):
            continue
        for other, theirs in imports.items():
            is_there = other.relative_to(ROOT).parts[0] in ("hub", "mcp", "web") and within[:-1] in of_servers
            if file.parent not in other.parents and not is_there:
                assert not any(one.startswith(within) for one in theirs), f"{other} enters {within} from within"


def test_no_function_reads_a_file_that_lies_beside_its_module() -> None:
    """What it said would be of another version. Commands are soon over; a script that is started is one by itself."""
    for file in ROOT.rglob("*.py"):
        if ROOT / "cli" in file.parents:
            continue
        for function in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.unparse(function)
                assert "resources.files" not in text, file
                assert not re.search(r"(?<!guard\.)(?<!reaper\.)__file__", text), file
                assert "bundled(" not in text or file.name == "bundled.py", file


async def test_a_server_of_its_own_goes_on_when_another_version_takes_the_place_of_its_files(
    place: dict[str, str], loom: Loom, tmp_path: Path
) -> None:
    installed = tmp_path / "installed"
    shutil.copytree(ROOT, installed / "loom", ignore=shutil.ignore_patterns("__pycache__"))
    more = {"PYTHONPATH": str(installed), "LOOM_LOG_LEVEL": "INFO"}
    log = Path(place["LOOM_PROJECT_DIR"]) / ".loom" / "logs" / "mcp.log"
    async with started("-P", "-m", "loom.mcp.server", **place | more) as server:
        await server.initialize()
        await until(lambda: log.exists() and "All has been read ahead" in log.read_text())
        for file in installed.rglob("*"):
            if file.is_file() and file.suffix != ".pyc":
                os.truncate(file, 0)
        assert "plan" in str(await server.call("loom_decompose", goal="Something"))
        assert "ship_feature" in str(await server.call("loom_workflow", action="list"))
        made = await server.call("loom_create", title="One")
        assert (await server.call("loom_done", task_id=made["id"]))["status"] == "done"


def test_a_module_that_a_thread_is_importing_is_not_asked_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opentelemetry.trace", "redis.exceptions"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with tracing.span("nothing") as span:
        assert span is None
    assert is_away(OSError())
    assert not is_away(RuntimeError())
    assert not is_late(OSError())
