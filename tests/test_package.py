"""What whoever depends on Loom gets: the names of `loom`, their types, and what the wheel and the sdist hold."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import subprocess
import sys
import tarfile
import typing
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import loom
from loom import exceptions
from loom.cli.help import pages
from loom.graph.front import Loom
from tests.conftest import USERS_HOME

ROOT = Path(__file__).parents[1]
# Methods of the front for Loom's own layers, whose types are not public.
_OF_THE_HOUSE = {"look", "relay", "subscriber", "transact"}
_SNIPPET = """
import asyncio

import loom
from loom import Claim, Loom, Outcome, Task, TaskNotFoundError, TaskStatus


async def main() -> None:
    async with Loom.here() as graph:
        claim: Claim | None = await graph.claim()
        if claim is None:
            return
        task: Task = claim.task
        try:
            outcome: Outcome = await graph.done(task.id, {"summary": task.title})
        except TaskNotFoundError as error:
            print(error.code, error.next_step)
        else:
            reveal_type(outcome.task.status)
            print(outcome.task.status is TaskStatus.DONE)
    wrong: int = task.title
    loom.Lom


asyncio.run(main())
"""


def test_import_loom_alone_brings_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import loom; dir(loom); "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in seen if name not in sys.stdlib_module_names] == ["loom"]


def test_every_name_is_there_and_every_error_is_among_them() -> None:
    assert sorted(loom.__all__) == loom.__all__
    for name in loom.__all__:
        assert getattr(loom, name).__doc__, f"{name} says what it is"
    errors = {name for name, one in vars(exceptions).items() if isinstance(one, type) and issubclass(one, Exception)}
    assert errors - set(loom.__all__) == set()
    assert set(loom.__all__) - set(dir(loom)) == set()
    with pytest.raises(AttributeError, match="no attribute 'Lom'"):
        _ = loom.Lom  # type: ignore[attr-defined]


def test_what_the_front_takes_and_gives_back_can_be_imported_from_loom() -> None:
    public = {getattr(loom, name) for name in loom.__all__}
    asked = [
        *(method for name, method in inspect.getmembers(Loom, inspect.isfunction) if _is_public(name)),
        *(one for one in public if dataclasses.is_dataclass(one) and one is not loom.Batch),  # handed on as it is
    ]
    named = {kind: asked_by for asked_by in asked for kind in _classes(asked_by)}
    missing = {kind: asked_by for kind, asked_by in named.items() if kind not in public}
    assert missing == {}


def _is_public(name: str) -> bool:
    return name == "__init__" or not (name.startswith("_") or name in _OF_THE_HOUSE)


def _only_checked(asked: Callable[..., object]) -> dict[str, object]:
    """What the module of a function imports for type checkers alone."""
    found: dict[str, object] = {}
    for node in ast.parse(inspect.getsource(sys.modules[asked.__module__])).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(node.body, []), asked.__module__, "exec"), found)
    return found


def _classes(asked: object) -> Iterator[type]:
    """The classes of Loom's own that annotations name."""
    hints = typing.get_type_hints(asked, localns=_only_checked(asked) if inspect.isfunction(asked) else None)
    found: list[object] = list(hints.values())
    while found:
        one = found.pop()
        found += typing.get_args(one)
        if isinstance(one, type) and one.__module__.startswith("loom."):
            yield one


@pytest.mark.timeout(300)  # a tool that takes its time where others run too
def test_a_type_checker_sees_it_all(tmp_path: Path) -> None:
    """Checked outside of the tree, as somebody who has installed Loom would."""
    (tmp_path / "use.py").write_text(_SNIPPET)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--cache-dir", tmp_path / "cache", "use.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    told = [line for line in done.stdout.splitlines() if "use.py" in line]
    assert len(told) == 3, done.stdout + done.stderr
    assert 'Revealed type is "loom.graph.model.task.TaskStatus"' in told[0]
    assert 'Incompatible types in assignment (expression has type "str", variable has type "int")' in told[1]
    assert 'Module has no attribute "Lom"' in told[2]


@pytest.mark.timeout(300)  # a tool that takes its time where others run too
def test_wheel_and_sdist_hold_what_they_should(tmp_path: Path) -> None:
    uv = Path(sys.executable).parent / "uv"
    command = [uv if uv.exists() else "uv", "build", "-q", "--out-dir", tmp_path, ROOT]
    subprocess.run(command, env=os.environ | {"HOME": USERS_HOME}, check=True)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        (metadata,) = (name for name in held if name.endswith(".dist-info/METADATA"))
        told = archive.read(metadata).decode()
    assert "loom/py.typed" in held
    assert {name for name in held if name.startswith("loom/docs/")} == {f"loom/docs/{topic}.md" for topic in pages()}
    for notice in (
        "LICENSE",
        "loom/services/notices/PostgreSQL.txt",
        "loom/services/notices/Valkey.txt",
        "loom/web/static/htmx.LICENSE",
    ):
        assert metadata.replace("METADATA", f"licenses/{notice}") in held, "also of what it brings along"
    assert {name.partition("/")[0] for name in held} == {"loom", metadata.partition("/")[0]}
    assert "Classifier: Typing :: Typed" in told
    changes = re.findall(r"^## \[(.*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert re.findall(r"^Version: (.*)$", told, re.MULTILINE) == changes[:1]
    with tarfile.open(sdist) as packed:
        inside = {name.partition("/")[2] for name in packed.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "README.md", "CLAUDE.md", "docs/skills-and-workflows.md"} <= inside
