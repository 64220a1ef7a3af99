"""The page of the graph: a picture that a browser draws, and the same as text."""

from __future__ import annotations

import asyncio
import json
import re

from starlette.requests import Request
from starlette.responses import Response

from loom import texts
from loom.graph.store.graphs import Outline
from loom.ids import TASK_ID
from loom.web import placing
from loom.web.pages import cursor
from loom.web.placing import Node
from loom.web.rendering import loom_of, page

_PARTS = 12  # that are told as text
_TOLD = 10  # tasks of each
_LABEL = 80  # characters of a title in the picture
_UNFOLDED = 50
_WORKED_ON, _HELD, _NOW = "Worked on now", "Waits for somebody, or for its time", "Can be done now"
_FIRST = {"claimed": _WORKED_ON, "landing": _WORKED_ON} | dict.fromkeys(("dead", "retry", "blocked"), _HELD)
"""What is said of tasks that wait for no other one, by their state; of all others that they can be done."""


async def show(request: Request) -> Response:
    """The page around the picture, which comes by itself."""
    return page(request, "graph.html", section="graph", since=await cursor(request))


async def as_text(request: Request) -> Response:
    """The same as text: the longest way to the end, and the waves; what is too much for a picture is told whole."""
    since = await cursor(request)
    found = await loom_of(request).outline()
    placed = await asyncio.to_thread(placing.place, found, {one[0] for one in found.tasks if one[2] == "epic"})
    named: dict[str, list[Node]] = {_WORKED_ON: [], _HELD: [], _NOW: []}
    for node in sorted(placed.nodes, key=lambda one: one.wave or 0):
        if node.wave is not None and node.state != "epic":
            name = _FIRST.get(node.state, _NOW) if node.wave == 0 else f"Wave {node.wave + 1}"
            named.setdefault(name, []).append(node)
    told = [(name, nodes[:_TOLD], len(nodes)) for name, nodes in named.items() if nodes]
    critical = [placed.nodes[number] for number in placed.critical]
    return page(
        request,
        "waves.html",
        section="graph",
        since=since,
        count=len(found.tasks),
        more=found.more,
        told=told[:_PARTS],
        more_waves=max(len(told) - _PARTS, 0),
        critical=[one for one in critical if one.state != "epic"],
    )


async def picture(request: Request) -> Response:
    """Where everything is drawn, as JSON."""
    found = await loom_of(request).outline()
    return Response(await asyncio.to_thread(_drawn, found, _unfolded(request)), media_type="application/json")


def _drawn(found: Outline, unfolded: list[str]) -> bytes:
    placed = placing.place(found, unfolded)
    nodes = [
        (
            one.id,
            texts.shorten(texts.clean(one.title), _LABEL),
            *one[2:5],
            -1 if one.wave is None else one.wave,
            *one[6:],
        )
        for one in placed.nodes
    ]
    edges = [end for edge in placed.edges for end in edge]
    drawn = {"nodes": nodes, "edges": edges, "critical": placed.critical, "waves": placed.waves}
    drawn |= {"count": len(found.tasks), "more": found.more}
    return json.dumps(drawn, ensure_ascii=False, separators=(",", ":")).encode()


def _unfolded(request: Request) -> list[str]:
    """The epics that the address asks to see inside of."""
    asked = re.split("[, ]+", request.query_params.get("open", ""), maxsplit=_UNFOLDED)[:_UNFOLDED]
    return [one for one in asked if TASK_ID.fullmatch(one)]
