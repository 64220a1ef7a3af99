"""`.mcp.json`: how an agent's client starts or reaches Loom, and what else a client would obey there.

Other servers stay as they are, and so does a command of the user's own for this one.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loom import texts
from loom.cli import installed
from loom.cli.shared import note
from loom.cli.textfiles import read, write
from loom.exceptions import ConfigError

FILE = ".mcp.json"
_COMMAND_SHOWN = 200  # characters of a command line
_NOT_OURS = 20  # things that are named


def started(root: Path) -> tuple[str | None, str]:
    """The file with Loom as a server that a client starts, None where it is so already; and what to say where that
    takes something. Raises ConfigError."""
    server, advice = _server(root)
    whole = _whole(root)
    old = whole.get("mcpServers", {}).get("loom")
    merged = dict(server)
    if isinstance(old, dict):
        merged = {**old, **server, "env": {**_object(old.get("env")), **server["env"]}}
        command = old.get("command")
        if isinstance(command, str) and "mcp" in _list(old.get("args")) and _starts_loom(command):
            merged |= {"command": command, "args": old["args"]}
    return _with(whole, merged), advice


def reached(root: Path, url: str) -> str | None:
    """The file with Loom as the server at `url`, whatever it was before, None where it is so already. The token is the
    client's to fill in; no file has it. Raises ConfigError."""
    headers = {"Authorization": "Bearer ${LOOM_TOKEN}"}
    return _with(_whole(root), {"type": "http", "url": f"{url}/mcp", "headers": headers})


def refresh(root: Path) -> str:
    """Brings the file up to date and says whether it was. Raises ConfigError."""
    return write(root / FILE, started(root)[0], root)


def note_not_ours(root: Path) -> None:
    """Names to a person what is not Loom's."""
    if found := not_ours(root):
        note(f".mcp.json has what Loom did not write: {'; '.join(found)}. Read it before a client starts it.")


def entry(root: Path) -> Mapping[str, Any] | None:
    """Loom's entry in the file, None when there is none. Raises ConfigError."""
    found = _whole(root).get("mcpServers", {}).get("loom")
    return found if isinstance(found, dict) else None


def not_ours(root: Path) -> list[str]:
    """What the file has that Loom did not write: keys, servers and what starts them. A client obeys it all, and a
    repository may have brought it. Raises ConfigError."""
    whole = _whole(root)
    found = [f"the key {texts.quote(key)}" for key in whole if key != "mcpServers"]
    ours = _server(root)[0]
    for name, server in whole.get("mcpServers", {}).items():
        given = _object(server)
        line = " ".join(map(str, (given.get("command", ""), *_list(given.get("args")))))
        starts = f"starts {texts.quote(texts.mask(line), _COMMAND_SHOWN)}" if line else "has no command"
        if name != "loom":
            found.append(f"the server {texts.quote(name)}, which {starts}")
            continue
        if (given.get("command"), given.get("args")) not in (("loom", ["mcp"]), (ours["command"], ours["args"])):
            found.append(f"that the server “loom” {starts}")
        found += [f"the key {texts.quote(f'loom.{key}')}" for key in given if key not in ours]
        found += [
            f"the variable {texts.quote(key)} of “loom”"
            for key, value in _object(given.get("env")).items()
            if ours["env"].get(key) != value
        ]
    return found if len(found) <= _NOT_OURS else [*found[:_NOT_OURS], f"{len(found) - _NOT_OURS} more"]


def _server(root: Path) -> tuple[dict[str, Any], str]:
    """How a client starts Loom's server, the same on every machine, and what to say where that takes something."""
    command, words, advice = "loom", ["mcp"], ""
    own = Path(sys.prefix) / "bin"
    elsewhere = [place for place in os.get_exec_path() if sys.prefix == sys.base_prefix or Path(place) != own]
    first = next(iter(installed.on_path(os.pathsep.join(elsewhere))), None)
    if first is None or first.foreign:
        only_here = str(own) in os.get_exec_path()
        missing = (
            "`loom` is on PATH only while this virtual environment is active" if only_here else "`loom` is not on PATH"
        )
        missing = f"The `loom` on PATH, {first.path}, is another product" if first else missing
        if "UV_RUN_RECURSION_DEPTH" in os.environ:
            command, words = "uv", ["run", "loom", "mcp"]
            advice = f"{missing}, so .mcp.json starts it with `uv run`."
        elif own.is_relative_to(root) and (own / "loom").exists():
            command = "${CLAUDE_PROJECT_DIR:-.}/" + str((own / "loom").relative_to(root))
            advice = f"{missing}, so .mcp.json names the one in {own.relative_to(root)}."
        else:
            advice = (
                f"{missing}; start your client with this virtual environment active, "
                "or install Loom for your user: `pipx install .` or `uv tool install .` in a clone of its repository."
            )
    entry = {
        "command": command,
        "args": words,
        "env": {"LOOM_PROJECT_DIR": "${CLAUDE_PROJECT_DIR:-.}"},
    }
    return entry, advice


def _starts_loom(command: str) -> bool:
    """Whether a command can be found here, and is not the other product of Loom's name."""
    program = shutil.which(command)
    return program is not None and not (Path(program).name == "loom" and installed.look(Path(program)).foreign)


def _with(whole: Mapping[str, Any], server: Mapping[str, Any]) -> str | None:
    """The file with this as Loom's server, None where it is so already."""
    servers = whole.get("mcpServers", {})
    if servers.get("loom") == server:
        return None
    return json.dumps({**whole, "mcpServers": servers | {"loom": server}}, indent=2, ensure_ascii=False) + "\n"


def _whole(root: Path) -> dict[str, Any]:
    path = root / FILE
    text = read(path, root).removeprefix("\ufeff")
    try:
        whole = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ConfigError(
            f"{path} is not valid JSON{where}; it was left alone.", "Correct it, then run it again."
        ) from None
    if not isinstance(whole, dict) or not isinstance(whole.get("mcpServers", {}), dict):
        raise ConfigError(
            f"{path} is not an object with `mcpServers`; it was left alone.", "Correct it, then run it again."
        )
    return whole


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
