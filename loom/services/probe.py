"""Asking a server whether it answers, with nothing but a socket: no client library, no session, no log line there."""

from __future__ import annotations

import socket
import struct
from enum import StrEnum
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

_ANSWERS_WITHIN = 2.0  # seconds
_CANNOT_CONNECT_NOW = b"C57P03\0"  # the code in PostgreSQL's error while it starts, recovers or stops


class _UntrustedError(OSError):
    """A server's certificate is not signed by anybody who is trusted."""


class Answer(StrEnum):
    """What came back; the value completes the sentence "the server ..."."""

    READY = "answers"
    STARTING = "is starting or stopping"
    REFUSED = "refuses the password"
    UNTRUSTED = "shows a certificate that is not trusted here"
    SILENT = "does not answer"


def ask_postgres(url: str) -> Answer:
    """Send a startup packet to each of the hosts that a URL names, and give the best answer. Any but "not now" is
    READY: who may connect, only a real connection finds out."""
    try:
        parts, query = _parsed(url)
        user = unquote(parts.username or "loom")
        database = unquote(parts.path[1:] or user)
        places = _places(parts.netloc.rpartition("@")[2], query)
    except ValueError:  # a port that is no number
        return Answer.SILENT
    body = b"\0".join([b"user", user.encode(), b"database", database.encode(), b"", b""])
    packet = struct.pack("!ii", len(body) + 8, 3 << 16) + body
    answers = []
    for place in places:
        answers.append(_startup(place, packet))
        if answers[-1] is Answer.READY:
            break
    return min(answers, key=list(Answer).index)


def _startup(place: str | tuple[str, int], packet: bytes) -> Answer:
    try:
        with _connected(place) as connection:
            connection.sendall(packet)
            reply = connection.recv(4096)
    except OSError:
        return Answer.SILENT
    if reply[:1] == b"E" and _CANNOT_CONNECT_NOW in reply:
        return Answer.STARTING
    return Answer.READY if reply[:1] in (b"R", b"E") else Answer.SILENT


def _places(netloc: str, query: dict[str, str]) -> list[str | tuple[str, int]]:
    """The sockets of a URL of PostgreSQL, which may name several hosts, and a port for all or for each."""
    hosts, ports = [], []
    for one in query.get("host", netloc or "localhost").split(","):
        bare = one if one.startswith("/") else urlsplit(f"//{one}").hostname or "localhost"
        hosts.append(unquote(bare))
        ports.append(None if one.startswith("/") else urlsplit(f"//{one}").port)
    given = [int(port) for port in query["port"].split(",")] if "port" in query else [5432]
    given = given * len(hosts) if len(given) == 1 else given
    found: list[str | tuple[str, int]] = []
    for host, port, fallback in zip(hosts, ports, given, strict=True):
        number = port or fallback
        found.append(f"{host}/.s.PGSQL.{number}" if host.startswith("/") else (host, number))
    return found


def ask_redis(url: str) -> Answer:
    """Send AUTH, when the URL has a password, and PING."""
    try:
        parts, query = _parsed(url)
        user = unquote(parts.username or query.get("username", ""))
        password = unquote(parts.password or query.get("password", ""))
        commands = [["PING"]]
        if password:
            commands.insert(0, ["AUTH", user, password] if user else ["AUTH", password])
        place = unquote(parts.path) if parts.scheme == "unix" else (parts.hostname or "localhost", parts.port or 6379)
        with _connected(place, tls=query if parts.scheme == "rediss" else None) as connection:
            connection.sendall(b"".join(_encoded(command) for command in commands))
            reply = b""
            while reply.count(b"\r\n") < len(commands) and (more := connection.recv(4096)):
                reply += more
    except _UntrustedError:
        return Answer.UNTRUSTED
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


def _connected(place: str | tuple[str, int], *, tls: dict[str, str] | None = None) -> socket.socket:
    """A socket to there; `tls`: encrypted, with what a URL says of it."""
    if isinstance(place, str):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_ANSWERS_WITHIN)
        try:
            connection.connect(place)
        except BaseException:
            connection.close()
            raise
        return connection
    connection = socket.create_connection(place, _ANSWERS_WITHIN)
    if tls is not None:
        import ssl

        context = ssl.create_default_context(cafile=tls.get("ssl_ca_certs"))
        context.check_hostname = tls.get("ssl_check_hostname", "true").lower() in ("true", "1", "yes")
        if tls.get("ssl_cert_reqs") == "none":
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if "ssl_certfile" in tls:
            context.load_cert_chain(tls["ssl_certfile"], tls.get("ssl_keyfile"))
        try:
            return context.wrap_socket(connection, server_hostname=place[0])
        except ssl.SSLCertVerificationError as error:
            raise _UntrustedError(str(error)) from None
    return connection


def _encoded(command: list[str]) -> bytes:
    words = [word.encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
