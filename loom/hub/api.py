"""The front of the graph as JSON: `POST /api/{operation}` with the arguments by name."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from loom import bridge, texts
from loom.exceptions import InternalError, InvalidInputError, LoomError, PageNotFoundError
from loom.remote import codec
from loom.web.statuses import status_of

if TYPE_CHECKING:
    from loom.graph.front import Loom

_JSON = "application/json"
_LOG = logging.getLogger(__name__)


def routes() -> list[BaseRoute]:
    """What the guard lets whoever has a token reach."""
    return [
        Route("/api", _greeting),
        Route("/api/enter", _enter, methods=["POST"]),
        Route("/api/{operation}", _operate, methods=["POST"]),
    ]


async def _greeting(request: Request) -> Response:
    """Who this server is, and who calls."""
    loom: Loom = request.state.loom
    assert loom.principal is not None, "the guard has let him in"
    return JSONResponse(
        {
            "version": bridge.VERSION,
            "project_id": loom.project_id,
            "project": loom.config.project_name,
            "principal": loom.principal.name,
            "role": str(loom.principal.role),
            "claim_ttl_seconds": loom.config.orchestration.claim_ttl_seconds,
            "deadline_seconds": loom.config.orchestration.deadline_seconds,
        }
    )


async def _enter(request: Request) -> Response:
    """A code for one use, which lets a browser in as who calls."""
    return JSONResponse({"code": await request.state.code()})


async def _operate(request: Request) -> Response:
    """One call of the front."""
    loom: Loom = request.state.loom
    operation = request.path_params["operation"]
    try:
        if operation not in codec.OPERATIONS:
            raise PageNotFoundError(
                f"There is no operation {texts.quote(operation[:100])}.", "Bring both sides to one version of Loom."
            )
        arguments = codec.received(operation, _read(await request.body()))
        return Response(codec.answer(operation, await getattr(loom, operation)(**arguments)), media_type=_JSON)
    except LoomError as error:
        return JSONResponse(codec.refusal(error), status_of(error))
    except Exception as error:
        _LOG.exception("%s failed", operation)
        told = InternalError(
            f"{operation} met an unexpected {type(error).__name__}.", "The server's log has the details."
        )
        return JSONResponse(codec.refusal(told), 500)


def _read(body: bytes) -> object:
    try:
        return from_json(body) if body else {}
    except ValueError:
        raise InvalidInputError("The body is not JSON.", "Send an object with the arguments by name.") from None
