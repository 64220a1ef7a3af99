"""Metrics of projects and of this process, in the text form that Prometheus reads.

`docs/monitoring.md` has a table of them, which a test holds against this page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loom import bridge, calls
from loom.exceptions import LoomError
from loom.graph.store import metrics

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.graph.project import ProjectStatus
    from loom.graph.store.metrics import Totals

_ROUNDS = 5  # of events that are counted when somebody asks; of a long past the rest the next time

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What the text is, for who sends it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name, its kind, as Prometheus has them, and its samples: labels, suffix of the name, value."""

    name: str
    kind: str
    help: str
    samples: list[tuple[Mapping[str, str], str, float]] = field(default_factory=list)

    def add(self, value: float, suffix: str = "", /, **labels: str) -> None:
        """Adds a sample."""
        self.samples.append((labels, suffix, value))


async def exposition(fronts: Iterable[Loom]) -> bytes:
    """The metrics of these projects and of this process. A project whose servers are away has `loom_up` 0 and nothing
    else; nothing is raised for it."""
    return text(await measured(fronts)).encode()


async def measured(fronts: Iterable[Loom]) -> list[Metric]:
    """As `exposition`, as values; metrics without a sample are left out."""
    found = _Found()
    found.version.add(1, version=bridge.VERSION)
    for loom in fronts:
        labels = {"project": loom.config.project_name, "project_id": loom.project_id}
        try:
            facts = await _look(loom)
        except LoomError:
            found.up.add(0, **labels)
        else:
            found.up.add(1, **labels)
            found.take(facts, labels)
    for (tool, outcome), ended in calls.answered().items():
        found.calls.add(ended.number, tool=tool, outcome=outcome)
        found.call_seconds.add(ended.seconds, tool=tool, outcome=outcome)
    return [one for one in vars(found).values() if one.samples]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What there is to tell of a project. `lag`: seconds that the mirror is behind; None: it is away or made anew."""

    status: ProjectStatus
    totals: Totals
    ready_for: float
    lag: float | None


async def _look(loom: Loom) -> _Facts:
    for _ in range(_ROUNDS):
        if not await loom.transact(metrics.count):
            break
    status, position = await loom.status(), await loom.mirror_position()
    project_id = loom.project_id
    return _Facts(
        status,
        await loom.look(lambda connection: metrics.totals(connection, project_id)),
        await loom.look(lambda connection: metrics.ready_for(connection, project_id)),
        None if position is None else await loom.look(lambda one: metrics.behind(one, project_id, position)),
    )


class _Found:
    """Every metric there is."""

    def __init__(self) -> None:
        self.version = Metric("loom_info", "gauge", "Which Loom answers.")
        self.up = Metric("loom_up", "gauge", "Whether the servers of a project answer.")
        self.tasks = Metric("loom_tasks", "gauge", "Tasks by status.")
        self.ready_for = Metric("loom_oldest_ready_seconds", "gauge", "For how long the oldest ready task is ready.")
        self.agents = Metric("loom_agents", "gauge", "Agents that hold a claim.")
        self.waiting = Metric("loom_waiting", "gauge", "What waits for a person, by kind.")
        self.queue = Metric("loom_landing_queue", "gauge", "Work that waits to land.")
        self.workflows = Metric("loom_open_workflows", "gauge", "Runs of workflows that have not ended.")
        self.mirror_up = Metric("loom_mirror_up", "gauge", "Whether the mirror in Redis is there and whole.")
        self.lag = Metric("loom_mirror_lag_seconds", "gauge", "For how long the mirror lacks an event.")
        self.events = Metric("loom_events_total", "counter", "Events by type.")
        self.phases = Metric("loom_task_seconds", "summary", "How long finished tasks took, by phase.")
        self.tokens = Metric("loom_tokens_total", "counter", "Tokens that workers told of, by kind.")
        self.cost = Metric("loom_cost_usd_total", "counter", "US dollars that workers told of.")
        self.calls = Metric("loom_calls_total", "counter", "Calls that this process answered, by tool and outcome.")
        self.call_seconds = Metric("loom_call_seconds_total", "counter", "How long they took together.")

    def take(self, facts: _Facts, labels: Mapping[str, str]) -> None:
        """Adds what there is to tell of a project."""
        status = facts.status
        for name, number in status.counts.items():
            self.tasks.add(number, **labels, status=name)
        self.ready_for.add(facts.ready_for, **labels)
        self.agents.add(status.agents, **labels)
        self.waiting.add(status.questions, **labels, kind="question")
        self.waiting.add(status.dead_letters, **labels, kind="dead_letter")
        self.waiting.add(status.landing.needs_yes, **labels, kind="landing")
        self.workflows.add(status.open_workflows, **labels)
        self.queue.add(status.landing.queued, **labels)
        self.mirror_up.add(facts.lag is not None, **labels)
        if facts.lag is not None:
            self.lag.add(facts.lag, **labels)
        for (metric, label), total in facts.totals.items():
            match metric:
                case "events":
                    self.events.add(total, **labels, type=label)
                case "seconds":
                    self.phases.add(total, "_sum", **labels, phase=label)
                case "tasks":
                    self.phases.add(total, "_count", **labels, phase=label)
                case "tokens":
                    self.tokens.add(total, **labels, kind=label)
                case "cost_usd":
                    self.cost.add(total, **labels)


def text(found: Iterable[Metric]) -> str:
    """Metrics as Prometheus reads them."""
    return "".join(line for metric in found for line in _lines(metric))


def _lines(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"
    for labels, suffix, value in metric.samples:
        pairs = ",".join(f'{name}="{_escaped(label)}"' for name, label in labels.items())
        yield f"{metric.name}{suffix}{{{pairs}}} {float(value)!r}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
