"""The way from a client to the hub: `loom mcp` says who calls, in one line, and then passes bytes both ways.

A client waits for its server for a second or two, so that this imports nothing of Loom and little else. Where there is
no hub it starts one; where none can be reached, or none is wanted, it returns, and the caller serves by itself.
"""

from __future__ import annotations

import _thread
import json
import os
import re
import signal
import socket
import struct
import sys
import time

TYPE_CHECKING = False  # as the one of `typing`, whose import takes longer than all of this
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

VERSION = "2.0.0"
"""Of Loom. Here since to ask the installed package costs more than all the rest."""

SOCKET = "hub.sock"
"""In the directory of an instance of servers."""

_ANSWERS_WITHIN = 3.0  # seconds; one that takes longer hangs
_BEGINS_WITHIN = 30.0  # seconds, on a busy machine; what starts it ends sooner if it cannot begin
_ENDS_WITHIN = 5.0  # seconds from the client's end to the hub's
_CHUNK = 65_536
_LONGEST_PATH = 100  # of a socket; there is room for about 104 bytes
_CONFIG_BYTES = 262_144
_PEER = struct.Struct("3i")  # process, user and group at the other end
_WHERE_PYTHON_LOOKS = ("PYTHONPATH", "PYTHONHOME", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE")
_SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


def run() -> None:
    """Serves a client over standard input and output through the hub, and ends the process with it. Returns, with
    nothing read and nothing written, where there is to be no hub or none is to be had."""
    try:
        instance = _instance()
        wire = None if instance is None else _connected(instance)
    except OSError:  # as with a full disk, or where sockets are forbidden
        return
    if wire is not None:
        _pass_on(wire)


def fill_streams() -> None:
    """Opens the null device in the place of each standard stream that whoever started this process has closed. The next
    thing that is opened would get its number, and be read, written or closed by whoever means the stream."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def data_dir() -> str:
    """`LOOM_DATA_DIR`, else the platform's place for a user's data; for root a place that other users can enter."""
    if named := os.environ.get("LOOM_DATA_DIR"):
        return os.path.abspath(os.path.expanduser(named))
    if os.geteuid() == 0:
        return "/var/lib/loom"
    home = os.path.expanduser("~")
    if sys.platform == "darwin":
        return os.path.join(home, "Library", "Application Support", "loom")
    return os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.join(home, ".local", "share"), "loom")


def instance_dir(name: str) -> str:
    """The directory of an instance of servers."""
    return os.path.join(data_dir(), "instances", name)


def ask(root: str, want: str, **more: Any) -> tuple[socket.socket, dict[str, Any]] | None:
    """Asks the hub of an instance for something. Returns the connection and the answer, None where no hub answers.

    Args:
        root: the directory of the instance.
        want: `mcp`, `status`, `retire` or `board`.
        more: what goes along.
    """
    try:
        return _asked(root, want, **more)
    except TimeoutError:
        return None


def _asked(root: str, want: str, **more: Any) -> tuple[socket.socket, dict[str, Any]] | None:
    """As `ask`. Raises TimeoutError where a hub takes the connection and does not answer."""
    wire = _opened(root)
    if wire is None:
        return None
    try:
        wire.settimeout(_ANSWERS_WITHIN)
        hello = {"want": want, "version": VERSION, **more}
        wire.sendall(json.dumps(hello).encode() + b"\n")
        answer = bytearray()
        while not answer.endswith(b"\n"):  # byte by byte: what follows is the client's
            byte = wire.recv(1)
            if not byte:
                raise ConnectionError
            answer += byte
        wire.settimeout(None)
        return wire, json.loads(answer)
    except TimeoutError:
        wire.close()
        raise
    except (OSError, ValueError):
        wire.close()
        return None


def listens(root: str) -> bool:
    """Whether somebody takes connections for the hub of an instance, whether or not he answers."""
    if (wire := _opened(root)) is not None:
        wire.close()
    return wire is not None


def myself() -> dict[str, Any]:
    """Who calls: where he is, with what variables, and in which session of his client."""
    return {
        "dir": os.getcwd(),
        "environ": dict(os.environ),
        "session": os.environ.get("CLAUDE_CODE_SESSION_ID", ""),
    }


def start(root: str) -> bool:
    """Starts the hub of an instance; of several that are started at once one stays. Returns whether one answers."""
    import subprocess

    try:
        begun = subprocess.run(
            [sys.executable, "-P", "-m", "loom.hub", os.path.basename(root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=everybodys(),
            timeout=_BEGINS_WITHIN,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return begun.returncode == 0


def wanted(text: str, section: str, name: str) -> str:
    """What a configuration file, given as text, says of a key of a section; "" for nothing. Whoever is asked next reads
    it with more care."""
    block = re.search(rf"^{section}:((?:.|\n(?=[ \t#\n]))*)", text, re.MULTILINE)
    found = block and re.search(rf"\b{name}:\s*[\"']?([\w-]+)", re.sub(r"(?m)(?:^|\s)#.*", "", block[1]))
    return found[1] if found else ""


def _instance() -> str | None:
    """The directory of the instance whose hub is to serve here; None where none is to."""
    project, own = (_read(path) for path in _config_files())
    hub = os.environ.get("LOOM_MCP_HUB") or wanted(project, "mcp", "hub") or wanted(own, "mcp", "hub")
    if hub == "never":
        return None
    return instance_dir(wanted(project, "servers", "instance") or wanted(own, "servers", "instance") or "default")


def _config_files() -> Iterator[str]:
    named = os.environ.get("LOOM_PROJECT_DIR", "")
    here = os.path.abspath(os.path.expanduser(named)) if named and not named.startswith("${") else os.getcwd()
    while not os.path.isfile(os.path.join(here, ".loom", "config.yaml")) and here != os.path.dirname(here):
        here = os.path.dirname(here)
    yield os.path.join(here, ".loom", "config.yaml")
    yield os.path.join(os.path.expanduser("~"), ".loom", "config.yaml")


def _read(path: str) -> str:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return file.read(_CONFIG_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _connected(root: str) -> socket.socket | None:
    """The connection to a hub that serves whoever calls; None where there is none."""
    for _ in range(2):
        try:
            found = _asked(root, "mcp", **myself())
        except TimeoutError:  # it is busy, or hangs, and nobody takes its place
            continue
        if found is None:
            if "LOOM_RUN" in os.environ or _are_stopped(root) or not start(root):
                return None  # what is started in a run ends with it
            continue
        wire, answer = found
        if answer.get("ok"):
            return wire
        wire.close()
        if answer.get("error", {}).get("code") != "older":
            return None
        if (retired := ask(root, "retire")) is not None:
            retired[0].close()
    return None


def _are_stopped(root: str) -> bool:
    """Whether the user has stopped the servers of this instance, and its hub with them."""
    try:
        return json.loads(_read(os.path.join(root, "instance.json"))).get("stopped") is True
    except (ValueError, AttributeError):
        return False


def _opened(root: str) -> socket.socket | None:
    """A connection to whatever listens there, if it is this user's."""
    wire = socket.socket(socket.AF_UNIX)
    try:
        path = os.path.join(root, SOCKET)
        if len(os.fsencode(path)) <= _LONGEST_PATH:
            wire.connect(path)
        else:
            here = os.open(".", os.O_RDONLY)
            try:
                os.chdir(root)
                wire.connect(SOCKET)
            finally:
                os.fchdir(here)
                os.close(here)
        if (peer := peer_of(wire)) is not None and peer[1] != os.geteuid():
            raise PermissionError
        return wire
    except OSError:
        wire.close()
        return None


def peer_of(wire: socket.socket) -> tuple[int, int] | None:
    """The process and the user at the other end; None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    pid, uid, _ = _PEER.unpack(wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return pid, uid


def says_how_to_connect(name: str) -> bool:
    """Whether a variable says something of connections to PostgreSQL that their address does not."""
    return name.startswith("PG")


def everybodys() -> dict[str, str]:
    """The variables of this process that may go on in a hub."""
    kept = {name: value for name, value in os.environ.items() if _is_everybodys(name)}
    return {**kept, "LOOM_DATA_DIR": data_dir()}


def _is_everybodys(name: str) -> bool:
    """Whether a variable may go on in a process that serves others too."""
    if name.startswith("PYTHON"):
        return name in _WHERE_PYTHON_LOOKS  # others would have it run otherwise, as without the texts of its tools
    own = name.startswith(("LOOM_", "CLAUDE", "FASTMCP_", "MCP_")) or says_how_to_connect(name)
    return not own and not _SECRET.search(name)


def _pass_on(wire: socket.socket) -> None:
    """Passes bytes both ways, until the hub ends the connection or nobody is there to read."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    _thread.start_new_thread(_hear, (wire,))
    try:
        while data := wire.recv(_CHUNK):
            while data:
                data = data[os.write(1, data) :]
    except OSError:
        pass
    os._exit(0)


def _hear(wire: socket.socket) -> None:
    """The client's side, in a thread of its own, since either side may be slow to take what the other gives."""
    try:
        while data := os.read(0, _CHUNK):
            wire.sendall(data)
        wire.shutdown(socket.SHUT_WR)
        time.sleep(_ENDS_WITHIN)
    except OSError:
        pass
    os._exit(0)
