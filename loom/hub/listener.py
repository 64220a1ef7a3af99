"""The hub over HTTP: MCP at `/mcp`, the front as JSON at `/api`, the board at `/`, all behind one guard.

Nothing is remembered between two requests, so that any number of these may serve a project behind one address.
"""

from __future__ import annotations

import ipaddress
import resource
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from loom.background import beside
from loom.config import LoomConfig
from loom.exceptions import ConfigError, ServersError, TokenError
from loom.graph.front import Loom
from loom.graph.rules.claims import Outcome
from loom.hub import api, connections
from loom.hub.guard import Addresses, Guard, replayed
from loom.hub.projects import Projects
from loom.hub.team import Team
from loom.mcp import lines
from loom.mcp.server import serving, shared
from loom.web.app import board
from loom.wording import Shell, Words

_ENDS_WITHIN = 2  # seconds for what goes on when the server is told to end


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen. `public_url`: under which others know it; `behind_proxy`: who stands before it does TLS;
    `certificate`, `key`: files of its own, for TLS here."""

    host: str
    port: int
    public_url: str | None = None
    behind_proxy: bool = False
    certificate: Path | None = None
    key: Path | None = None

    @property
    def url(self) -> str:
        """Where it is reached."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url or f"{'https' if self.certificate else 'http'}://{host}:{self.port}"


def application(projects: Projects, config: LoomConfig, addresses: Addresses) -> Guard:
    """All that is served, behind the guard."""
    mcp = shared(scoped=True).http_app("/mcp", stateless_http=True, json_response=True, host_origin_protection=False)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with mcp.lifespan(mcp), beside(guard.watch()):
            yield

    routes = [Route("/mcp", _Mcp(mcp)), Route("/metrics", _metrics), *api.routes(), Mount("/", board())]
    guard = Guard(Starlette(routes=routes, lifespan=lifespan), addresses, Team(config, projects))
    return guard


async def listen(config: LoomConfig, place: Place, ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT comes.

    Args:
        ready: is called once clients can come.

    Raises:
        ConfigError: the place is open to others without TLS, or its certificate cannot be used.
        TokenError: it is, and nobody could come in.
        ServersError: it cannot be listened on there.
        SchemaTooOldError: the database lacks what this Loom needs, which is not for a server to bring.
        LoomError: the database cannot be reached.
    """
    refuse_open(place)
    # The first server of a newer version would lock the others out of the database that they share.
    config = replace(config, database=replace(config.database, migrate="never"))
    projects = Projects()
    try:
        own = projects.project(config).front
        await own.connect()
        if not _is_local(place.host) and not any(one.revoked_at is None for one in await own.tokens()):
            raise TokenError(
                "Nobody has an access token yet.", Words("Make one with {}.", Shell("loom token add NAME --role ROLE"))
            )
        serving = server(projects, config, place, place.port)
        _load(serving, place)
        with bound_socket(place) as listener:
            ready()
            await serving.serve([listener])
    finally:
        await projects.close()


def server(projects: Projects, config: LoomConfig, place: Place, port: int) -> connections.Server:
    """What serves connections of a socket."""
    secure = place.certificate is not None
    addresses = Addresses.of(place.host, port, place.public_url, secure=secure)
    settings = connections.settings(
        application(projects, config, addresses),
        ends_within=_ENDS_WITHIN,
        lifespan="on",
        certificate=place.certificate,
        key=place.key,
    )
    return connections.Server(settings)


def _load(serving: connections.Server, place: Place) -> None:
    try:
        serving.config.load()
    except OSError as error:  # as those of TLS are
        raise ConfigError(
            f"{place.certificate} with the key {place.key} cannot be used: {error.strerror or error}.",
            "Name a certificate and its key, each a file in PEM that the server may read.",
        ) from None


def refuse_open(place: Place) -> None:
    """Raises ConfigError where tokens would travel in the clear beyond this machine."""
    if _is_local(place.host) or place.behind_proxy or place.certificate is not None:
        return
    raise ConfigError(
        f"{place.host} can be reached from other machines, and tokens would travel in the clear.",
        Words(
            "Serve with a certificate ({}), or behind what does TLS ({}).",
            Shell("loom serve --http --cert FILE --key FILE"),
            Shell("loom serve --http --behind-proxy"),
        ),
    )


def bound_socket(place: Place) -> socket.socket:
    """A socket that listens. Raises ServersError."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        return socket.create_server((place.host, place.port), family=family, backlog=2048)
    except OSError as error:
        raise ServersError(
            f"{place.host} port {place.port} cannot be listened on: {str(error.strerror or error).partition(' (')[0]}.",
            Words(
                "Listen elsewhere ({}), or see who listens there.", Shell("loom serve --http --host HOST --port PORT")
            ),
        ) from None


def _is_local(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


async def _metrics(request: Request) -> Response:
    """What Prometheus reads of the project."""
    from loom.orchestration import metrics

    return Response(await metrics.exposition([request.state.loom]), media_type=metrics.CONTENT_TYPE)


class _Mcp:
    """The MCP server, each request for the front that the guard brought. What is no message is answered as over a
    pipe."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            message = await receive()  # the guard has read it whole
            fault = lines.parsed(message["body"].decode("utf-8", "replace"))
            if isinstance(fault, lines.Fault) and fault.answer is not None:
                told = fault.answer.model_dump_json(by_alias=True, exclude_unset=True)
                await Response(told, 400, media_type="application/json")(scope, receive, send)
                return
            receive = replayed(message["body"], receive)
        with serving(_Call(scope["state"]["loom"])):
            await self._app(scope, receive, send)


class _Call:
    """What the tools of one call find: a front, and what reports work as done."""

    def __init__(self, loom: Loom) -> None:
        self._loom = loom

    def loom(self) -> Loom:
        return self._loom

    def reports(self) -> _Call:
        return self

    async def done(
        self,
        task_id: str,
        output: Mapping[str, Any] | None = None,
        *,
        agent_id: str | None = None,
        token: int | None = None,
        seconds: float | None = None,
    ) -> Outcome:
        """Finishes a task. Nothing is proven here: the work lies on another machine."""
        return await self._loom.done(task_id, output, agent_id=agent_id, token=token)
