"""Pages about the project as a whole: what is now, the board, and what happened."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from loom import replies
from loom.bus.events import Event, EventType
from loom.exceptions import InvalidInputError
from loom.graph.front import Loom
from loom.graph.model import filters, limits
from loom.graph.model.filters import Filter
from loom.graph.model.task import Task
from loom.graph.store import messages
from loom.graph.store.landings import LandingState
from loom.graph.store.listing import Found
from loom.graph.store.messages import Message
from loom.orchestration import checkup
from loom.web import actions, asked
from loom.web.live import Feeds
from loom.web.rendering import loom_of, page
from loom.web.wording import WAYS

_GLANCE = 20  # of each kind that Now shows
_LANDED = 8
_COLUMN = 50  # cards of one column
_EVENTS = 100


async def cursor(request: Request) -> str:
    """Where this page stands; to be taken before anything is read for it."""
    feeds: Feeds = request.app.state.feeds
    return await feeds.cursor(loom_of(request))


# --- now --------------------------------------------------------------------------------------------------------------


async def now(request: Request) -> Response:
    """What needs somebody, who works on what, what comes next, and what has just landed."""
    loom, since = loom_of(request), await cursor(request)
    glance = await loom.glance(limit=_GLANCE)
    landings = await loom.landings(limit=_GLANCE) if glance.status.landing.any else None
    return page(
        request,
        "now.html",
        section="now",
        since=since,
        glance=glance,
        plans=await asked.plans(request, loom, glance.needs_you),
        confirms=await asked.confirms(loom, glance.needs_you),
        flows=await asked.flows(loom),
        outside={one.landing.task_id: one.landing.outside for one in landings.queue} if landings else {},
        landed=landings.landed[:_LANDED] if landings else [],
        finished=(await loom.find("status:done", limit=_LANDED)).tasks,
    )


# --- the board --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, the sign above it, and the states of the tasks in it."""

    name: str
    sign: str
    states: tuple[str, ...]


COLUMNS = (
    Column("Ready", "ready", ("ready",)),
    Column("Working", "claimed", ("claimed",)),
    Column("Landing", "landing", ("landing",)),
    Column("Waiting", "blocked", ("blocked", "retry")),
    Column("Dead", "dead", ("dead",)),
    Column("Done", "done", ("done", "cancelled")),
)
_EPICS = Column("Epics", "epic", ("epic",))  # which are lanes else, unless somebody asks for them
KEYS = {
    "parser": "words of the title, the criteria or the context",
    '"red wall"': "words that stand side by side",
    "status:ready,dead": f"in one of these states: {', '.join(filters.STATES)}, open, finished",
    "priority:p0": "with this priority",
    "label:docs": "with this label",
    "epic:loom-…": "somewhere below this epic",
    "holder:ada": "held by this agent, or held last",
    "waits-for:loom-…": "that wait for this task",
    "file:src/app.py": "that touch this path",
    "age:>7d": "made longer ago; <2h: within",
    "changed:<2h": "changed within that time; >2h: not since",
    "finished:<1d": "done or cancelled within that time",
    "failed:2": "whose attempts have failed so often",
    "-label:docs": "with a minus before a label or status: all others",
}
"""What a filter can say, an example of each."""
LANES = ("epic", "agent", "label")


@dataclass(frozen=True, slots=True)
class Shown:
    """What stands in one column: its tasks by lane, and whether there are more."""

    column: Column
    found: Found
    lanes: Mapping[str, Sequence[Task]]


async def board(request: Request) -> Response:
    """The tasks that a filter asks for, in columns by their state."""
    loom, since, query = loom_of(request), await cursor(request), request.query_params
    words, lanes_by, only = query.get("q", "").strip(), query.get("by", ""), query.get("only", "")
    trouble, wanted = None, Filter()
    try:
        wanted = filters.parse(words)
        columns = await _columns(loom, wanted, lanes_by, only)
    except InvalidInputError as error:
        trouble, columns = error, []
    names = list(dict.fromkeys(name for one in columns for name in one.lanes)) if lanes_by in LANES else [""]
    return page(
        request,
        "board.html",
        code=200 if trouble is None else 422,
        section="board",
        since=since,
        q=words,
        by=lanes_by if lanes_by in LANES else "",
        only=only,
        columns=columns,
        lanes=sorted(names, key=lambda name: (not name, name)),
        titles=await _titles(loom) if lanes_by == "epic" else {},
        trouble=trouble,
        keys=KEYS,
        chosen_for=[name for name in WAYS if loom.may(actions.FOR_SEVERAL[name])]
        if loom.may("update.anything")
        else [],
    )


async def _columns(loom: Loom, wanted: Filter, lanes_by: str, only: str) -> list[Shown]:
    proving = {
        one.landing.task_id
        for one in (await loom.landings(limit=_COLUMN)).working
        if one.landing.state is LandingState.REPORTED
    }
    shown = []
    for column in (*COLUMNS, *([_EPICS] if "epic" in wanted.states else [])):
        states = tuple(one for one in column.states if not wanted.states or one in wanted.states)
        if only and only != column.sign:
            continue
        limit = limits.PAGE if only else _COLUMN
        found = await loom.find(wanted.with_(states=states), limit=limit) if states else Found([])
        shown.append((column, found))
    return [Shown(column, found, _by_lane(found.tasks, lanes_by)) for column, found in _moved(shown, proving)]


def _moved(columns: Sequence[tuple[Column, Found]], proving: set[str]) -> list[tuple[Column, Found]]:
    """The columns with what is being proven taken out of what is worked on."""
    taken = [one for column, found in columns if column.sign == "claimed" for one in found.tasks if one.id in proving]
    return [
        (column, Found([one for one in found.tasks if one.id not in proving], found.more, blockers=found.blockers))
        if column.sign == "claimed"
        else (column, Found([*taken, *found.tasks], found.more))
        if column.sign == "landing"
        else (column, found)
        for column, found in columns
    ]


def _by_lane(tasks: Sequence[Task], lanes_by: str) -> Mapping[str, Sequence[Task]]:
    lanes: dict[str, list[Task]] = {}
    for one in tasks:
        of: dict[str, Sequence[str | None]] = {"epic": [one.parent_id], "agent": [one.assignee], "label": one.labels}
        for name in of.get(lanes_by) or [""]:
            lanes.setdefault(name or "", []).append(one)
    return lanes


async def _titles(loom: Loom) -> dict[str, str]:
    """The titles of the open epics, for their lanes."""
    return {one.id: one.title for one in (await loom.find("status:epic", limit=limits.PAGE)).tasks}


# --- what happened ----------------------------------------------------------------------------------------------------

KINDS = ("task", "claim", "attempt", "landing", "escalation", "message", "plan", "project", "workflow")
_KIND = re.compile("[a-z_]{1,40}")


async def events(request: Request) -> Response:
    """What happened, newest first, and who lands what."""
    loom, since = loom_of(request), await cursor(request)
    found, wanted = await _events(loom, request)
    landings = await loom.landings(limit=_GLANCE)
    said = await _said(loom, found)
    return page(
        request,
        "events.html",
        section="events",
        since=since,
        events=found,
        kinds=KINDS,
        asked=wanted,
        older=str(found[-1].position) if len(found) > _EVENTS else "",
        landings=landings,
        titles=await loom.titles([one.task_id for one in found if one.task_id is not None]),
        said=said,
        raw={str(one.position): row(one) | _message(one, said) for one in found[:1]} if wanted["at"] else {},
    )


async def events_json(request: Request) -> Response:
    """The same events as `loom watch --json` has them, and with them the messages that they tell of."""
    loom = loom_of(request)
    found, _ = await _events(loom, request)
    said = await _said(loom, found)
    return JSONResponse({"events": [row(one) | _message(one, said) for one in found[:_EVENTS]]})


async def _said(loom: Loom, found: Sequence[Event]) -> Mapping[int, Message]:
    """The messages that events tell of, for whoever may read those of others."""
    ids = [data["message"] for one in found if one.type in _TALK and (data := one.data or {}).get("message")]
    if not ids or not loom.may("messages"):
        return {}
    return await loom.look(lambda connection: messages.by_id(connection, loom.project_id, ids))


_TALK = (EventType.MESSAGE_SENT, EventType.TASK_NOTED)


def _message(event: Event, said: Mapping[int, Message]) -> dict[str, object]:
    """The message that an event tells of, whole."""
    found = said.get((event.data or {}).get("message", 0)) if event.type in _TALK else None
    return {} if found is None else {"message": replies.message(found)}


async def _events(loom: Loom, request: Request) -> tuple[list[Event], dict[str, str]]:
    """The events that an address asks for, one more than a page has, and what it asks."""
    wanted = {name: request.query_params.get(name, "").strip() for name in ("at", "kind", "agent")}
    kind = wanted["kind"] if _KIND.fullmatch(wanted["kind"]) else ""
    types = [one for one in EventType if one.startswith(f"{kind}.")] if kind else []
    if kind and not types:
        raise InvalidInputError(f"No event is called {kind}.", f"Use one of {', '.join(KINDS)}.")
    found = await loom.events(until=wanted["at"] or None, types=types, agent=wanted["agent"] or None, limit=_EVENTS + 1)
    return found, wanted


def row(event: Event) -> dict[str, object]:
    """An event as one line of `loom watch --json`."""
    return replies.event(event) | {"position": str(event.position)}


async def doctor(request: Request) -> Response:
    """Whether the invariants of the graph hold, and the mirror, and what waits for somebody; to whoever is on this
    machine also how its servers, settings and files are."""
    loom = loom_of(request)
    found = {"The graph": await checkup.graph(loom)}
    if loom.principal is None:
        found["This machine"] = await asyncio.to_thread(_machine, loom) + await checkup.git(loom.config)
    troubled = any(one.level == "bad" for some in found.values() for one in some)
    return page(request, "doctor.html", section="events", found=found, troubled=troubled)


def _machine(loom: Loom) -> list[checkup.Remark]:
    """What is not of the graph and does not depend on who asks, as a shell's PATH does."""
    looks = (checkup.servers, checkup.settings, checkup.files, checkup.worktrees)
    return [one for look in looks for one in look(loom.config)]
