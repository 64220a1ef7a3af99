"""Asking a server whether it answers, with nothing but a socket: no client library, no session, no log line there."""

from __future__ import annotations

import socket
import struct
from enum import StrEnum
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

_CANNOT_CONNECT_NOW = b"C57P03\0"  # the code in PostgreSQL's error while it starts, recovers or stops


class Answer(StrEnum):
    """What came back; the value completes the sentence "the server ..."."""

    READY = "answers"
    STARTING = "is starting or stopping"
    REFUSED = "refuses the password"
    SILENT = "does not answer"


def ask_postgres(url: str, timeout: float = 2.0) -> Answer:
    """Send a startup packet. Any answer but "not now" is READY: who may connect, only a real connection finds out."""
    try:
        parts, query = _parsed(url)
        host = query.get("host", parts.hostname or "localhost")
        port = int(query.get("port", parts.port or 5432))
        user = unquote(parts.username or "loom")
        body = b"\0".join([b"user", user.encode(), b"database", unquote(parts.path[1:] or user).encode(), b"", b""])
        with _connected(f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port), timeout) as connection:
            connection.sendall(struct.pack("!ii", len(body) + 8, 3 << 16) + body)
            reply = connection.recv(4096)
    except (OSError, ValueError):  # ValueError: a port that is no number
        return Answer.SILENT
    if reply[:1] == b"E" and _CANNOT_CONNECT_NOW in reply:
        return Answer.STARTING
    return Answer.READY if reply[:1] in (b"R", b"E") else Answer.SILENT


def ask_redis(url: str, timeout: float = 2.0) -> Answer:
    """Send AUTH, when the URL has a password, and PING."""
    try:
        parts, query = _parsed(url)
        user = unquote(parts.username or query.get("username", ""))
        password = unquote(parts.password or query.get("password", ""))
        commands = [["PING"]]
        if password:
            commands.insert(0, ["AUTH", user, password] if user else ["AUTH", password])
        place = unquote(parts.path) if parts.scheme == "unix" else (parts.hostname or "localhost", parts.port or 6379)
        with _connected(place, timeout, tls=parts.scheme == "rediss") as connection:
            connection.sendall(b"".join(_encoded(command) for command in commands))
            reply = b""
            while reply.count(b"\r\n") < len(commands) and (more := connection.recv(4096)):
                reply += more
    except (OSError, ValueError):  # ValueError: a port that is no number
        return Answer.SILENT
    if b"-LOADING" in reply:
        return Answer.STARTING
    if b"-" in reply[:1] or b"-NOAUTH" in reply:
        return Answer.REFUSED
    return Answer.READY if b"+PONG" in reply else Answer.SILENT


def _parsed(url: str) -> tuple[SplitResult, dict[str, str]]:
    parts = urlsplit(url)
    return parts, {name: values[-1] for name, values in parse_qs(parts.query).items()}


def _connected(place: str | tuple[str, int], timeout: float, *, tls: bool = False) -> socket.socket:
    if isinstance(place, str):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        try:
            connection.connect(place)
        except BaseException:
            connection.close()
            raise
        return connection
    connection = socket.create_connection(place, timeout)
    if tls:
        import ssl

        return ssl.create_default_context().wrap_socket(connection, server_hostname=place[0])
    return connection


def _encoded(command: list[str]) -> bytes:
    words = [word.encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
