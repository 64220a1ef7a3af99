"""The board as an application to be mounted: its routes, and what becomes of errors.

    Mount("/", app=guarded(board()))

Each request brings its own front of the graph in `request.state.loom`, which whoever mounts the board sets for whoever
it has let in. The board asks nobody's name and opens nothing by itself.
"""

from __future__ import annotations

import logging
from mimetypes import guess_type

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loom.exceptions import InternalError, InvalidInputError, LoomError, PageNotFoundError
from loom.web import actions, graph, live, pages, task
from loom.web.rendering import STATIC, page
from loom.web.statuses import status_of

_LOG = logging.getLogger(__name__)
_A_YEAR = 31_536_000  # seconds; the address of a static file changes with what is in it
_WORTH_PACKING = 1_000  # bytes

HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none';"
    " object-src 'none'",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
"""What each answer of the board carries."""


def board() -> Starlette:
    """The application. It keeps, by project, one look at what happens for all that follow it."""
    app = Starlette(
        routes=[
            Route("/", pages.now),
            Route("/board", pages.board),
            Route("/graph", graph.show),
            Route("/graph/text", graph.as_text),
            Route("/graph.json", graph.picture),
            Route("/events", pages.events),
            Route("/events.json", pages.events_json),
            Route("/doctor", pages.doctor),
            Route("/tasks/{task_id}", task.show),
            Route("/tasks/{task_id}/log", task.log),
            Route("/tasks/{task_id}/diff", task.diff),
            Route("/live", live.stream),
            *actions.ROUTES,
            Route("/static/{name}", _static),
        ],
        middleware=[Middleware(_Headers), Middleware(GZipMiddleware, minimum_size=_WORTH_PACKING, compresslevel=5)],
        exception_handlers={LoomError: _refused, HTTPException: _missing, 500: _broken},
    )
    app.state.feeds, app.state.previews = live.Feeds(), {}
    return app


async def _static(request: Request) -> Response:
    """What pages load."""
    name = request.path_params["name"]
    if name not in STATIC:
        raise HTTPException(404)
    return Response(STATIC[name], media_type=guess_type(name)[0] or "text/plain")


async def _refused(request: Request, error: Exception) -> Response:
    """What Loom refuses, or cannot do now, on a page of its own."""
    assert isinstance(error, LoomError)
    return page(request, "trouble.html", code=status_of(error), error=error)


async def _missing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    missing = error.status_code == 404
    said = PageNotFoundError("There is no such page here.") if missing else InvalidInputError(str(error.detail))
    return page(request, "trouble.html", code=error.status_code, error=said)


async def _broken(request: Request, error: Exception) -> Response:
    """An error that nobody expected: logged, and shown without what is inside."""
    _LOG.error("The board failed at %s", request.url.path, exc_info=error)
    said = InternalError("Something went wrong here; what it was is in the log.", "Load the page again.")
    return page(request, "trouble.html", code=500, error=said)


class _Headers:
    """Adds to each answer what tells browsers how to treat it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                lasting = "/static/" in scope["path"] and message["status"] == 200 and scope["query_string"]
                kept = f"max-age={_A_YEAR}, immutable" if lasting else "no-store"
                more = {**HEADERS, "cache-control": kept}
                named = {name for name, _ in message["headers"]} - {b"cache-control"}
                message["headers"] = [
                    *((name, value) for name, value in message["headers"] if name != b"cache-control"),
                    *((k.encode(), v.encode()) for k, v in more.items() if k.encode() not in named),
                ]
            await send(message)

        await self._app(scope, receive, sent)
