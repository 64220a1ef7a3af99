"""What people are told, and in which words.

These are read outside of any face, by people. So what they can do about it stands here as they type it, as on a page of
the documentation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from loom import texts
from loom.bus.events import Event, EventType
from loom.graph.store import notices
from loom.graph.store.escalations import EscalationKind

if TYPE_CHECKING:
    from loom.config import LoomConfig
    from loom.db.connection import Connection
    from loom.graph.store.notices import Standing

TYPES = (
    EventType.ESCALATION_RAISED,
    EventType.TASK_LANDING,
    EventType.WORKFLOW_WAITING,
    EventType.PLAN_PROPOSED,
    EventType.PROJECT_COMPLETE,
)
"""The events that something may be told of."""

_TEXT = 600  # characters of what an agent says
_TITLE = 120
_LISTED = 10  # of several at once


@dataclass(frozen=True, slots=True)
class News:
    """One thing that a person is told."""

    id: str
    """The place of its event: the same each time that it is told."""
    event: str
    """One of `config.keys.NEWS`."""
    at: datetime | None
    headline: str
    text: str = ""
    """What the agent asks, or why it gave up."""
    answers: tuple[str, ...] = ()
    """The commands that answer it."""
    task_id: str | None = None
    page: str = "/"
    """Where the board answers it."""

    def facts(self, link: str | None) -> dict[str, Any]:
        """It, for programs."""
        shown = {
            "id": self.id,
            "event": self.event,
            "at": self.at.isoformat() if self.at else None,
            "headline": self.headline,
            "text": self.text or None,
            "task_id": self.task_id,
            "answers": list(self.answers) or None,
            "url": link,
        }
        return {name: value for name, value in shown.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Bundle:
    """What is told at once: some news of a project, at least one."""

    project_id: str
    project: str
    news: Sequence[News]
    public_url: str | None = None

    def link(self, one: News) -> str | None:
        """Where a person answers it in a browser; None where nobody has said where the board is."""
        return None if self.public_url is None else self.public_url.rstrip("/") + one.page

    @property
    def url(self) -> str | None:
        """Where a person goes with all of it."""
        if len(self.news) == 1:
            return self.link(self.news[0])
        return None if self.public_url is None else f"{self.public_url.rstrip('/')}/"

    @property
    def title(self) -> str:
        """On one line, what it is about."""
        if len(self.news) == 1:
            return f"{self.project}: {self.news[0].headline}"
        counts: dict[str, int] = {}
        for one in self.news:
            counts[one.event] = counts.get(one.event, 0) + 1
        return f"{self.project}: {', '.join(_counted(event, count) for event, count in counts.items())}"

    @property
    def body(self) -> str:
        """The rest, in lines."""
        if len(self.news) == 1:
            return "\n".join(_said(self.news[0]))
        lines = [line for one in self.news[:_LISTED] for line in (one.headline, *_said(one, most=_TEXT // 3))]
        left = len(self.news) - _LISTED
        return "\n".join([*lines, f"and {left} more"] if left > 0 else lines)


def _said(one: News, most: int = _TEXT) -> Iterator[str]:
    if one.text:
        yield texts.shorten(one.text, most)
    yield from one.answers


_NOUNS = {"question": "question", "dead_letter": "dead letter", "confirm": "yes or no", "complete": "end"}


def _counted(event: str, count: int) -> str:
    noun = _NOUNS[event]
    return f"{count} {noun}" if count == 1 or event == "confirm" else f"{count} {noun}s"


# --- what of the events is news ---------------------------------------------------------------------------------------


async def read(
    connection: Connection, config: LoomConfig, events: Sequence[Event], wanted: Collection[str]
) -> list[News]:
    """What of these events, in their order, is to be told: what is `wanted`, and still waits for somebody."""
    assert config.project_id is not None, "it is that of a project"
    chosen = [(event, kind) for event in events if (kind := _kind(event)) in wanted]
    if not chosen:
        return []
    data = [event.data or {} for event, _ in chosen]
    still = await notices.standing(
        connection,
        config.project_id,
        [one["escalation"] for one in data if "escalation" in one],
        [one["run"] for one in data if "run" in one],
        [one["plan_id"] for one in data if "plan_id" in one],
        [event.task_id for event, _ in chosen if event.task_id],
    )
    return [one for event, kind in chosen if (one := _MAKERS[kind or ""](event, still)) is not None]


def example() -> News:
    """Something to try a receiver with."""
    return News("test", "question", None, "this is a test", "So you are told what waits for you here.")


def _kind(event: Event) -> str | None:
    """Which of what can be told an event is; None: nothing."""
    data = event.data or {}
    match event.type:
        case EventType.ESCALATION_RAISED:
            return "question" if data.get("kind") == EscalationKind.QUESTION else "dead_letter"
        case EventType.TASK_LANDING if data.get("needs_yes"):
            return "confirm"
        case EventType.WORKFLOW_WAITING if data.get("step_type") == "confirm":
            return "confirm"
        case EventType.PLAN_PROPOSED if not data.get("workflow"):
            return "confirm"
        case EventType.PROJECT_COMPLETE:
            return "complete"
    return None


def _escalation(event: Event, still: Standing) -> News | None:
    raised = still.escalations.get((event.data or {}).get("escalation", ""))
    if raised is None:  # it has been answered meanwhile
        return None
    asks, held_up = raised.kind is EscalationKind.QUESTION, raised.held_up
    title, who = _title(raised.task_id, still), raised.raised_by or "An agent"
    waits = f", which {held_up} other task{'s wait' if held_up > 1 else ' waits'} for" if held_up else ""
    return News(
        str(event.position),
        "question" if asks else "dead_letter",
        event.created_at,
        f"{who} asks about {title}{waits}" if asks else f"{title} has failed for good{waits}",
        texts.shorten(texts.outward(raised.message).strip(), _TEXT),
        (f"loom resolve {raised.id} {'answer' if asks else 'retry'} --note TEXT",),
        raised.task_id,
        f"/tasks/{quote(raised.task_id)}",
    )


def _confirm(event: Event, still: Standing) -> News | None:
    place, task_id = str(event.position), event.task_id or ""
    if target := still.landings.get(task_id):
        ways = (f"loom landing approve {task_id}", f"loom landing refuse {task_id} --note TEXT")
        said = f"{_title(task_id, still)} waits for your yes to land on {texts.outward(target)}"
        return News(place, "confirm", event.created_at, said, "", ways, task_id, f"/tasks/{quote(task_id)}")
    if "plan_id" in (data := event.data or {}):
        return _plan(event, still, data["plan_id"], data["tasks"])
    asked = still.confirms.get(data.get("run", ""))
    if asked is None:
        return None
    ways = (f"loom workflow resume {asked.run_id} --yes", f"loom workflow resume {asked.run_id} --no")
    said = f"the workflow {texts.one_line(texts.outward(asked.workflow))} waits for your yes"
    text = texts.shorten(texts.outward(asked.message or "").strip(), _TEXT)
    return News(place, "confirm", event.created_at, said, text, ways)


def _plan(event: Event, still: Standing, plan_id: str, tasks: int) -> News | None:
    if (goal := still.plans.get(plan_id)) is None:  # it has been written or refused meanwhile, or there is a newer one
        return None
    ways = (f"loom decompose --plan {plan_id}", f"loom decompose --plan {plan_id} --no --note TEXT")
    said = f"a plan of {texts.plural(tasks, 'task')} by {event.agent} waits for your yes"
    text = texts.shorten(texts.outward(goal).strip(), _TEXT)
    return News(str(event.position), "confirm", event.created_at, said, text, ways, page=f"/#ask-{quote(plan_id)}")


def _complete(event: Event, still: Standing) -> News:
    return News(str(event.position), "complete", event.created_at, "every task is done or cancelled")


_MAKERS = {"question": _escalation, "dead_letter": _escalation, "confirm": _confirm, "complete": _complete}


def _title(task_id: str, still: Standing) -> str:
    return f"“{texts.shorten(texts.one_line(texts.outward(still.titles.get(task_id, task_id))), _TITLE)}”"
