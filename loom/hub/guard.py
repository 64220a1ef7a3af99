"""The one guard before everything that is served over HTTP: who may come in, as whom, and with how much.

Nothing behind it is reached without an access token that holds, or a browser's cookie that stands for one. Each request
is looked at anew, in the database that all replicas share, so that a token that is revoked is over everywhere with the
next request. What goes on then is cut off: at once where Redis tells of it, else within five seconds. What stands
behind finds in `request.state.loom` a front of the token's project that acts for its principal.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loom import texts
from loom.background import beside
from loom.caller import Caller, calling
from loom.exceptions import BusyError, ForbiddenError, InvalidInputError, LoomError, TokenError, UnavailableError
from loom.graph.model import limits
from loom.graph.model.principals import Principal
from loom.remote import codec
from loom.web.entry import LOOKS, NO_COOKIE, once_more, refused
from loom.web.statuses import status_of

if TYPE_CHECKING:
    from loom.graph.store.tokens import AccessToken
    from loom.hub.team import Team

BODY_BYTES = 16 * 2**20
"""The most that one request may bring."""

PROBES = frozenset({"/livez", "/readyz"})
"""What is answered to whoever asks, by a status alone: what starts, watches and balances servers has no token."""

ENTRANCE = "/enter"
"""Where a browser changes a code for a cookie."""

_COOKIE = "loom"
_BODIES_BYTES = 64 * 2**20  # of all requests that are being read
_BODY_WITHIN = 30.0  # seconds for a body to come
_AT_ONCE = 64  # requests of one token
_LOOK_AGAIN = 5.0  # seconds between two looks at the tokens of requests that go on, where nothing is told of them
_CLIENT = 100  # characters of what a client calls itself
_LOG = logging.getLogger(__name__)
_TOKEN = re.compile(rb"loom_[0-9a-f]{12}_|(?:^|&)(?:access_)?token=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Under which names this server is reached. `hosts`: what a Host header may say; `origins`: what an Origin may."""

    hosts: frozenset[str]
    origins: frozenset[str]

    @classmethod
    def of(cls, host: str, port: int, public_url: str | None, *, secure: bool = False) -> Addresses:
        """Those of a listener, and of the URL that others know it by."""
        names = {host, "localhost", "127.0.0.1", "::1"} - {"0.0.0.0", "::", ""}
        hosts = {f"[{name}]:{port}" if ":" in name else f"{name.lower()}:{port}" for name in names}
        origins = {f"{'https' if secure else 'http'}://{one}" for one in hosts}
        if public_url:
            parts = urlsplit(public_url)
            hosts |= {parts.netloc.lower(), f"{parts.hostname}:{parts.port or _PORTS.get(parts.scheme)}"}
            origins |= {f"{parts.scheme}://{parts.netloc.lower()}"}
        return cls(frozenset(hosts), frozenset(origins))


_PORTS = {"http": 80, "https": 443}


class Guard:
    """Stands before an application, and lets in whoever shows a token that holds."""

    def __init__(
        self,
        app: ASGIApp,
        addresses: Addresses,
        team: Team,
    ) -> None:
        """
        Args:
            app: what stands behind the guard.
            addresses: under which names it is reached.
            team: whom it lets in.
        """
        self._app, self._addresses, self._team = app, addresses, team
        self._secure = any(one.startswith("https:") for one in addresses.origins)
        self._reading = 0  # bytes of bodies
        self._going: dict[str, _Going] = {}  # by the token's id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["path"] in PROBES:
            well = scope["path"] == "/livez" or await self._team.ready()
            await _answer(send, 200 if well else 503, b"", b"text/plain")
            return
        answered = _Answered(send)
        try:
            if scope["path"] == ENTRANCE and scope["method"] == "GET":
                await self._enter(scope, receive, answered)
            else:
                await self._let_in(scope, receive, answered)
        except asyncio.CancelledError:  # the server ends
            if answered.begun:
                await _break_off(scope, receive)
            else:
                await _answer(send, 503, b"", b"text/plain", {b"retry-after": b"1", b"connection": b"close"})
        except _RefusedError as shut_out:
            await _refuse(scope, receive, send, shut_out.status, shut_out.error)
        except LoomError as error:
            await _refuse(scope, receive, send, status_of(error), error)

    async def _let_in(self, scope: Scope, receive: Receive, answered: _Answered) -> None:
        headers = Headers(scope=scope)
        self._judge_address(scope, headers)
        if "authorization" not in headers and (page := once_more(HTTPConnection(scope), _COOKIE)) is not None:
            await page(scope, receive, answered)
            return
        client = texts.shorten(texts.one_line(headers.get("user-agent", "")), _CLIENT)
        token = await self._known(scope, headers, client)
        going = self._going.setdefault(token.id, _Going(token))
        if going.requests >= _AT_ONCE:
            raise _RefusedError(429, BusyError(f"{going.requests} requests of this token go on.", "Wait a while."))
        going.requests += 1
        body = b""
        try:
            body = await self._body(headers, receive)
            await self._serve(going, client, scope, body, receive, answered)
        finally:
            self._reading -= len(body)
            going.requests -= 1
            if not going.requests:
                del self._going[token.id]

    async def _known(self, scope: Scope, headers: Headers, client: str) -> AccessToken:
        """The token that a request shows, or that its cookie stands for. Raises TokenError, ForbiddenError."""
        cookie = HTTPConnection(scope).cookies.get(_COOKIE, "")
        if "authorization" in headers:
            token = await self._team.admitted(_shown(headers), client)
        elif cookie:
            if scope["method"] not in LOOKS and "origin" not in headers:
                raise ForbiddenError("That did not come from a page of this board.", _ADDRESS)
            token = await self._team.visitor(cookie)
        else:
            raise TokenError("Nobody comes in here without an access token.", f"{_SEND} {_ASK}")
        if token is None:
            raise TokenError("The access token is not known here, is over, or was revoked.", _ASK)
        return token

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Gives a browser a cookie for its code."""
        self._judge_address(scope, Headers(scope=scope))
        cookie = await self._team.enter(HTTPConnection(scope).query_params.get("code", ""))
        if cookie is None:
            raise TokenError("This link was used already, or is older than a minute.", "Have another one made.")
        entered = RedirectResponse("/", 303, {"cache-control": "no-store"})
        entered.set_cookie(_COOKIE, cookie, httponly=True, secure=self._secure, samesite="strict", path="/")
        await entered(scope, receive, send)

    def _judge_address(self, scope: Scope, headers: Headers) -> None:
        """Refuses what a browser was led to from elsewhere, and a token where everybody's logs have it."""
        if _TOKEN.search(scope["query_string"]) or _TOKEN.search(scope.get("raw_path") or b""):
            error: LoomError = InvalidInputError(
                "A token does not belong into a URL, where logs and histories keep it.",
                "Revoke it, and send another one as `Authorization: Bearer`.",
            )
            raise _RefusedError(400, error)
        host = headers.get("host", "").lower()
        if host not in self._addresses.hosts:
            error = ForbiddenError(f"{texts.quote(texts.shorten(host, 100))} is not where this server is.", _ADDRESS)
            raise _RefusedError(421, error)
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in self._addresses.origins:
            raise ForbiddenError(f"{texts.quote(texts.shorten(origin, 100))} may not call this server.", _ADDRESS)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """All that a request brings, within bounds of one and of all."""
        if int(headers.get("content-length", "0")) > BODY_BYTES:
            raise _too_large()
        body = bytearray()
        taken = 0
        try:
            async with asyncio.timeout(_BODY_WITHIN):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _RefusedError(400, InvalidInputError("The request has no end.", "Send it again."))
                    body += message.get("body", b"")
                    self._reading += len(body) - taken
                    taken = len(body)
                    if taken > BODY_BYTES:
                        raise _too_large()
                    if self._reading > _BODIES_BYTES:
                        raise _RefusedError(503, BusyError("Too much is being read here.", "Try again soon."))
                    more = message.get("more_body", False)
        except TimeoutError:
            self._reading -= taken
            raise _RefusedError(408, BusyError("The request did not come in time.", "Send it again.")) from None
        except BaseException:
            self._reading -= taken
            raise
        return bytes(body)

    async def _serve(
        self, going: _Going, client: str, scope: Scope, body: bytes, receive: Receive, answered: _Answered
    ) -> None:
        token, project = going.token, self._team.project()
        # A page that is kept open is no sign of life of the agent that is called as its principal is.
        agent = None if "authorization" in Headers(scope=scope) else limits.board_agent(token.name)
        loom = project.front.beside(agent=agent, principal=Principal(token.name, token.role, client))
        scope.setdefault("state", {}).update(loom=loom, code=partial(self._team.code, token))
        going_on = beside(self._behind(scope, replayed(body, receive), answered), _left(receive))
        with project.used():
            async with loom, going_on as (serving, leaving):
                going.answers.add(serving)
                try:
                    if not going.is_over:
                        await asyncio.wait([serving, leaving], return_when=asyncio.FIRST_COMPLETED)
                        if answered.whole:  # what goes on behind an answer was not called off
                            await asyncio.wait([serving])
                    was_left = not serving.done()
                finally:
                    going.answers.discard(serving)
        if not going.is_over:
            if not was_left:
                serving.result()
        elif not answered.begun:
            raise TokenError("The access token does not hold any more.", _ASK)
        elif not answered.whole:
            await _break_off(scope, receive)

    async def _behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        with calling(Caller({})):  # whoever calls has nothing of this process's environment
            await self._app(scope, receive, send)

    async def watch(self) -> None:
        """Cuts off, for ever, what goes on for tokens that do not hold any more."""
        while True:
            try:
                async with self._team.revocations() as revoked:
                    while True:
                        with suppress(TimeoutError):
                            await asyncio.wait_for(revoked.wait(), _LOOK_AGAIN)
                        revoked.clear()
                        await self._cut_off()
            except UnavailableError:  # the database may be back for the next look
                await asyncio.sleep(_LOOK_AGAIN)
            except Exception:
                _LOG.exception("Tokens could not be looked at")
                await asyncio.sleep(_LOOK_AGAIN)

    async def _cut_off(self) -> None:
        if going := list(self._going.values()):
            holding = await self._team.still_admitted([one.token for one in going])
            for one in going:
                if one.token.id not in holding:
                    one.end()


class _Going:
    """What goes on for one token: how many requests, and those that are being answered. `is_over`: it holds no more."""

    def __init__(self, token: AccessToken) -> None:
        self.token, self.requests, self.is_over = token, 0, False
        self.answers: set[asyncio.Task[None]] = set()

    def end(self) -> None:
        """The token does not hold any more."""
        self.is_over = True
        for answer in self.answers:
            answer.cancel()


class _RefusedError(Exception):
    """Whoever came is not let in."""

    def __init__(self, status: int, error: LoomError) -> None:
        super().__init__(str(error))
        self.status, self.error = status, error


_BEARER = {"www-authenticate": 'Bearer realm="loom"'}
_SEND = "Send `Authorization: Bearer TOKEN`."
_ASK = "Ask whoever runs the server for a new one; `loom token add` makes it."
_ADDRESS = "Reach it by its own address; `loom serve --http --public-url` says which others know it by."


def _too_large() -> _RefusedError:
    return _RefusedError(
        413, InvalidInputError(f"A request brings at most {BODY_BYTES // 2**20} MiB.", "Send less at a time.")
    )


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, error: LoomError) -> None:
    """Tells whoever is not let in why, a person in a browser on a page."""
    headers = Headers(scope=scope)
    if "authorization" in headers or "text/html" not in headers.get("accept", ""):
        await refuse(send, status, error)
        return
    outside = isinstance(error, TokenError) and scope["path"] != ENTRANCE
    words = NO_COOKIE if outside else f"{error.cause} {error.next_step}"
    page = refused(status, words)
    page.headers["connection"] = "close"
    page.headers.update(_BEARER if status == 401 else {})
    await page(scope, receive, send)


async def refuse(send: Send, status: int, error: LoomError) -> None:
    """Answers with an error, and ends the connection, whose body nobody has read."""
    more = {name.encode(): value.encode() for name, value in _BEARER.items()} if status == 401 else {}
    body = json.dumps(codec.refusal(error)).encode()
    await _answer(send, status, body, b"application/json", more | {b"connection": b"close"})


async def _answer(send: Send, status: int, body: bytes, kind: bytes, more: dict[bytes, bytes] | None = None) -> None:
    headers = {b"content-type": kind, b"content-length": str(len(body)).encode(), b"cache-control": b"no-store"}
    headers |= {b"x-content-type-options": b"nosniff"} | (more or {})
    await send({"type": "http.response.start", "status": status, "headers": list(headers.items())})
    await send({"type": "http.response.body", "body": body})


def _shown(headers: Headers) -> str:
    """The token that a request shows. Raises TokenError."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token:
        raise TokenError("The Authorization header has no access token.", f"{_SEND} {_ASK}")
    return token.strip()


def replayed(body: bytes, receive: Receive) -> Receive:
    """A request that was read, and after it whatever else comes, which is that the client has gone."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return whole.pop() if whole else await receive()

    return replay


async def _left(receive: Receive) -> None:
    """Waits until the client of a request that was read has gone. As over a pipe, he has then called it off: a claim
    that nobody hears of is given back."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _break_off(scope: Scope, receive: Receive) -> None:
    """Ends a connection in the middle of an answer."""
    scope["state"]["cut"]()
    await _left(receive)


class _Answered:
    """Sends to a client. `begun`: something was sent; `whole`: all of it."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun, self.whole = send, False, False

    async def __call__(self, message: Message) -> None:
        self.begun = True
        await self._send(message)
        self.whole = message["type"] == "http.response.body" and not message.get("more_body", False)
