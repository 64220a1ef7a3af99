"""The way to a server: one client, its token, and patience while the server begins anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import TypeAdapter

from loom import bridge
from loom.background import Backoff
from loom.exceptions import ConfigError, ServersError
from loom.remote import codec
from loom.texts import one_line, shorten

T = TypeVar("T")

_CONNECT = 10.0  # seconds
_ANSWER = 60.0  # seconds beside those that a call asks to wait
_PATIENCE = 60.0  # seconds that a server may be away before a call that may be repeated fails
_PAUSES = (0.25, 5.0)  # seconds between two tries: at first, at most
_AWAY = frozenset({502, 503, 504})  # what a proxy says while nobody is behind it
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a server says of itself and of who calls."""

    project_id: str
    principal: str
    claim_ttl_seconds: float
    deadline_seconds: float


_GREETING = TypeAdapter(Greeting)
_CODE = TypeAdapter(dict[str, str])


class Client:
    """One server, for one token."""

    def __init__(self, url: str, token: str) -> None:
        """
        Args:
            url: where the server is, without `/api`.

        Raises:
            ConfigError: the token would travel in the clear.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in _LOCAL:
            raise ConfigError(
                f"{url} is not https, so that the access token could be read on its way.", "Reach the server by https."
            )
        self.url = url.rstrip("/")
        try:
            self._http = self._client(token)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"The proxy that HTTPS_PROXY or ALL_PROXY names cannot be used: {one_line(str(error)).rstrip('.')}.",
                "Correct the variable, or unset it.",
            ) from None

    def _client(self, token: str) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            headers={"authorization": f"Bearer {token}", "user-agent": f"loom/{bridge.VERSION}"},
            follow_redirects=False,  # the token is for this server alone
            mounts={"http://": None},  # what is not https stays on this machine, and passes no proxy
            timeout=httpx2.Timeout(_ANSWER, connect=_CONNECT),
        )

    async def close(self) -> None:
        """Gives the connections back."""
        await self._http.aclose()

    async def greeting(self) -> Greeting:
        """What the server says of itself and of who calls. Raises LoomError."""
        data = await self._asked("GET", "", None, _ANSWER, repeatable=True)
        return self._read("a greeting", lambda: _GREETING.validate_json(data))

    async def code(self) -> str:
        """A code for one use, within a minute, that lets a browser into the board. Raises LoomError."""
        data = await self._asked("POST", "/enter", None, _ANSWER, repeatable=True)
        return self._read("a request for a link", lambda: _CODE.validate_json(data)["code"])

    async def call(
        self, operation: str, arguments: Mapping[str, Any], *, waits: float = 0.0, repeatable: bool = False
    ) -> Any:
        """Has the server do an operation of the front.

        Args:
            waits: how many seconds it may take by itself.
            repeatable: doing it twice is as doing it once, so that it is tried again where its answer was lost.

        Raises:
            LoomError: as the operation; ServersError: the server does not answer.
        """
        body = codec.sent(operation, arguments)
        data = await self._asked("POST", f"/{operation}", body, waits + _ANSWER, repeatable=repeatable)
        return self._read(operation, lambda: codec.answered(operation, data))

    def _read(self, what: str, read: Callable[[], T]) -> T:
        """What an answer says. Raises ServersError where it is none that Loom gives."""
        try:
            return read()
        except (ValueError, KeyError):
            raise ServersError(
                f"{self.url} answers {what} in a way that this Loom does not know.",
                "Look whether the URL is right, and have the server and this machine run the same version of Loom.",
            ) from None

    async def _asked(self, method: str, path: str, body: object, timeout: float, *, repeatable: bool) -> bytes:
        loop, backoff = asyncio.get_running_loop(), Backoff(*_PAUSES)
        until = loop.time() + _PATIENCE
        while True:
            try:
                answer = await self._http.request(
                    method, f"{self.url}/api{path}", json=body, timeout=httpx2.Timeout(timeout, connect=_CONNECT)
                )
                if answer.status_code not in _AWAY or codec.refused(answer.content) is not None:
                    return self._judged(answer)
                again, why = repeatable, f"status {answer.status_code}"
            except httpx2.ConnectError as error:
                again, why = True, str(error)
            except httpx2.TransportError as error:
                again, why = repeatable, str(error) or type(error).__name__
            pause = backoff.rest()
            if not again or loop.time() + pause > until:
                raise ServersError(
                    f"{self.url} does not answer ({shorten(why, 200)}).", "See that it runs, and try again."
                )
            await asyncio.sleep(pause)

    def _judged(self, answer: httpx2.Response) -> bytes:
        """The body of an answer. Raises what it refuses with."""
        if answer.status_code == 200:
            return answer.content
        error = codec.refused(answer.content)
        if error is None:
            raise ConfigError(
                f"{self.url} answers with status {answer.status_code}, which no server of Loom does here.",
                "Look whether the URL is right.",
            )
        raise error
