"""Reading ahead what a process that lives long would import only later.

An upgrade puts another version's files in their place, while such a process goes on. What it has not imported by then
would be of the other version.
"""

from __future__ import annotations

import dis
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from threading import Thread
from types import CodeType

_AFTER = 2.0  # seconds, which belong to whoever started the process
_PAUSE = 0.01  # seconds between two modules, for who wants something meanwhile
_SETTLED = "loom.tracing"  # whose later imports were made when the process began to record, or never are

_LOG = logging.getLogger(__name__)


@cache
def read_ahead() -> None:
    """Has a thread import, soon and one after the other, what the functions of Loom's modules in this process import
    when they are called, and what those of these do. Once in a process, which need not wait for it when it ends."""
    Thread(target=_read, name="reading ahead", daemon=True).start()


def _read() -> None:
    time.sleep(_AFTER)
    seen: set[str] = set()
    while fresh := [one for one in _here() if one.name not in seen]:
        for module in fresh:
            seen.add(module.name)
            for name, names in _later(module):
                _carry_out(name, names)
            time.sleep(_PAUSE)
    _LOG.info("All has been read ahead, in %d modules", len(seen))


def _here() -> list[ModuleSpec]:
    """The modules of Loom that this process has imported, also the one that it was started with."""
    specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
    return [one for one in specs if one is not None and one.name.startswith("loom.")]


def _later(module: ModuleSpec) -> set[tuple[str, tuple[str, ...]]]:
    """The imports within the functions of a module: of what, and which of its names."""
    code = None
    if isinstance(module.loader, InspectLoader) and module.name != _SETTLED:
        with suppress(Exception):  # an upgrade is under way
            code = module.loader.get_code(module.name)
    return set() if code is None else {found for part in _parts(code) for found in _imports(part)}


def _parts(code: CodeType) -> Iterator[CodeType]:
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield one
            yield from _parts(one)


def _imports(code: CodeType) -> Iterator[tuple[str, tuple[str, ...]]]:
    names = None
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            yield step.argval, names or ()
        names = step.argval if step.opname == "LOAD_CONST" else None


def _carry_out(module: str, names: tuple[str, ...]) -> None:
    """Imports as the statement does, so that who comes to that meanwhile enters a package by the same door. Entered by
    two from different ends it would be refused to one of them."""
    try:
        __import__(module, None, None, names)
    except Exception as error:  # an upgrade is under way, or a part of the system is not there
        _LOG.info("%s cannot be read ahead: %s", module, error)
