"""The way into a board: a link with a code for one use becomes a cookie, and the cookie says who comes.

    entries = Entries()
    url = f"http://127.0.0.1:{port}/enter?code={entries.code(visit)}"
    application = Gate(board(), entries, serving, hosts={f"127.0.0.1:{port}"}, cookie="loom-1f0c")

Codes and cookies live as long as the process does, which keeps only what they hash to. A cookie goes along with no
request that another site's page makes, and what changes something says besides that it comes from a page of this one.
Who follows a link from another site, as one in a message, comes without his cookie, and is sent once more from here.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Generic, NamedTuple, TypeVar

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from loom.graph.front import Loom
from loom.graph.model.principals import CODE_SECONDS, COOKIE_SECONDS
from loom.web.wording import typed

V = TypeVar("V")

_MOST = 100  # codes, and cookies, that are known at a time; those that came last the longest ago go first
LOOKS = ("GET", "HEAD")
"""The methods by which nothing is changed."""


class _Known(NamedTuple, Generic[V]):
    """What a code or a cookie stands for, and until when."""

    visit: V
    until: float


class Entries(Generic[V]):
    """The codes and cookies of one process. `V`: what they stand for, who comes and where to."""

    def __init__(self) -> None:
        self._codes: dict[str, _Known[V]] = {}
        self._cookies: dict[str, _Known[V]] = {}

    def code(self, visit: V) -> str:
        """A code that lets in once, within a minute."""
        return self._keep(self._codes, visit, CODE_SECONDS)

    def admit(self, code: str) -> str | None:
        """The cookie that a code is changed for; None where it was used, is too old, or none."""
        known = self._codes.pop(_digest(code), None)
        if known is None or known.until <= monotonic():
            return None
        return self._keep(self._cookies, known.visit, COOKIE_SECONDS)

    def visit(self, cookie: str) -> V | None:
        """What a cookie stands for; None where it is no cookie, or has not come for long."""
        digest = _digest(cookie)
        known = self._cookies.pop(digest, None)
        if known is None or known.until <= monotonic():
            return None
        self._cookies[digest] = known._replace(until=monotonic() + COOKIE_SECONDS)
        return known.visit

    def _keep(self, where: dict[str, _Known[V]], visit: V, seconds: float) -> str:
        while len(where) >= _MOST:
            del where[next(iter(where))]
        secret = secrets.token_urlsafe(32)
        where[_digest(secret)] = _Known(visit, monotonic() + seconds)
        return secret


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


class Gate(Generic[V]):
    """Stands before a board on this machine: lets in whoever has a code or a cookie, from pages of this board."""

    def __init__(
        self,
        board: ASGIApp,
        entries: Entries[V],
        serving: Callable[[V], AbstractAsyncContextManager[Loom]],
        *,
        hosts: Collection[str],
        cookie: str,
    ) -> None:
        """
        Args:
            serving: gives the front of a visit, for as long as a request takes.
            hosts: by which names, with the port, it is reached.
            cookie: the name of its cookie; boards on other ports of this machine see each other's.
        """
        self._board, self._entries, self._serving = board, entries, serving
        self._hosts, self._cookie = hosts, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        refusal = self._elsewhere(request)
        if refusal is None and scope["path"] == "/enter":
            refusal = self._enter(request)
        refusal = refusal or once_more(request, self._cookie)
        visit = self._entries.visit(request.cookies.get(self._cookie, ""))
        if refusal is not None or visit is None:
            await (refusal or refused(401, NO_COOKIE))(scope, receive, send)
            return
        async with self._serving(visit) as loom:
            scope.setdefault("state", {})["loom"] = loom
            await self._board(scope, receive, send)

    def _elsewhere(self, request: HTTPConnection) -> Response | None:
        """A refusal for who means another host, or comes from another site's page."""
        host = request.headers.get("host", "")
        if host not in self._hosts:
            return refused(421, "This board is not reached by that name.")
        if request.scope["method"] not in LOOKS and request.headers.get("origin") != f"http://{host}":
            return refused(403, "That did not come from a page of this board.")
        return None

    def _enter(self, request: Request) -> Response:
        cookie = self._entries.admit(request.query_params.get("code", ""))
        if cookie is None:
            return refused(403, _NO_CODE)
        entered = RedirectResponse("/", 303)
        entered.set_cookie(self._cookie, cookie, httponly=True, samesite="strict", path="/")
        return entered


def once_more(request: HTTPConnection, cookie: str) -> Response | None:
    """For who has followed a link from another site, which his cookie does not go along with: a page that says nothing
    and loads itself again, from this site. None for everybody else, and so for who comes back without a cookie.

    Args:
        cookie: its name.
    """
    told = [request.headers.get(f"sec-fetch-{what}") for what in ("site", "mode", "dest")]
    if cookie in request.cookies or request.scope["method"] != "GET" or told != ["cross-site", "navigate", "document"]:
        return None
    return _bare("<meta http-equiv=refresh content=0><p><a href=''>To the board</a></p>", 200)


NO_COOKIE = "This browser was not let in yet, or not for long. Run `loom board` in the project's directory."
_NO_CODE = "This link was used already, or is older than a minute. Run `loom board` again for another."


def refused(code: int, words: str) -> Response:
    """A page for whoever is not let in, with a sentence that a page of the board which is open shows too."""
    said = f"<div id=said role=status><p class='told trouble' role=alert>{typed(words)}</p></div>"
    return _bare(f"<main><h1>Loom</h1>{said}</main>", code)


_STYLE = (
    ":root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}"
    "main{max-width:34em;margin:18vh auto 0;padding:0 24px}h1{font-size:18px;margin:0 0 8px}p{margin:0}"
)
_STYLES = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_STYLES}'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}


def _bare(body: str, code: int) -> Response:
    page = "<!doctype html><html lang=en><meta charset=utf-8><meta name=color-scheme content='light dark'>"
    page += f"<meta name=viewport content='width=device-width'><title>Loom</title><style>{_STYLE}</style>{body}"
    return HTMLResponse(page, code, _HEADERS)
