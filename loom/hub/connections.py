"""What serves connections over HTTP, to a team and on this machine alike, with bounds for each of them and for all.

A connection has so long for TLS, to say what it wants, and to take each part of what it is sent. Whoever exceeds that,
or sends what is no HTTP, is cut off without a word, also in the log, which strangers could fill.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from pathlib import Path
from typing import Any, Literal

import uvicorn
from h11 import LocalProtocolError
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

_CONNECTIONS = 1_000  # open at a time
_HEAD_BYTES = 32 * 1024  # of a request's line and headers
_HEAD_WITHIN = 10.0  # seconds for them to come; and for TLS before them
_TAKEN_WITHIN = 30.0  # seconds for a client to take what it is sent
_KEPT = 20  # seconds that a connection is kept for another request


def settings(
    app: ASGIApp,
    *,
    ends_within: int,
    lifespan: Literal["on", "off"] = "off",
    certificate: Path | None = None,
    key: Path | None = None,
) -> uvicorn.Config:
    """How an application is served. Each request finds in `scope["state"]["cut"]` what cuts its connection off.

    Args:
        ends_within: seconds for what goes on when the server is told to end.
        lifespan: whether the application has one.
        certificate, key: files, for TLS.
    """
    logging.getLogger("uvicorn.error").addFilter(_is_told)
    return uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan=lifespan,
        log_config=None,
        log_level="error",  # below lies what strangers do
        access_log=False,  # an address and a path for each call, which nobody reads
        server_header=False,
        proxy_headers=False,  # nothing here goes by where a request comes from
        timeout_keep_alive=_KEPT,
        timeout_graceful_shutdown=ends_within,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )


class Server(uvicorn.Server):
    """Serves the connections of sockets, as `settings` says."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn has it, save that the event loop's own bound for TLS is a minute."""
        await super().startup([])
        loop, config = asyncio.get_running_loop(), self.config
        connection = partial(
            _Connection, config=config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
        )
        within = None if config.ssl is None else _HEAD_WITHIN
        self.servers += [
            await loop.create_server(
                connection, sock=one, ssl=config.ssl, backlog=config.backlog, ssl_handshake_timeout=within
            )
            for one in sockets or ()
        ]


def _is_told(record: logging.LogRecord) -> bool:
    """All but that a server ends over what goes on, as one that is waited at does whenever it ends."""
    return not str(record.msg).startswith("Cancel %s running task")


class _Connection(H11Protocol):
    """One of so many, whose request has to begin, and its head to come, and its answer to be taken, in time."""

    _head: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > _CONNECTIONS:
            transport.abort()
            return
        self.app_state = {**self.app_state, "cut": transport.abort}
        # Whatever the system has not taken yet counts: with bytes left a connection that is closed would stay for ever.
        transport.set_write_buffer_limits(high=1, low=0)
        self._wait_for_a_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        self._it_is_taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_is_there()
        elif self._head is None:
            self._wait_for_a_head()

    def send_400_response(self, msg: str) -> None:
        try:
            super().send_400_response(msg)
        except LocalProtocolError:  # his request is being answered, or was
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taking = self.loop.call_later(_TAKEN_WITHIN, self.transport.abort)

    def resume_writing(self) -> None:
        self._it_is_taken()
        super().resume_writing()

    def _wait_for_a_head(self) -> None:
        self._head = self.loop.call_later(_HEAD_WITHIN, self.transport.abort)

    def _head_is_there(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _it_is_taken(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None
