"""What both faces say of the graph: brief objects, the same over MCP and as `--json`."""

from loom.replies.checks import Checking, checked, proof, reported
from loom.replies.fitting import FIELD_CHARACTERS, REPLY_CHARACTERS, Reply, fit, full
from loom.replies.glance import glance, stuck
from loom.replies.landing import landings
from loom.replies.parts import age
from loom.replies.stats import stats
from loom.replies.tasks import (
    agents,
    claimed,
    created,
    dead_letters,
    detail,
    diagnosis,
    escalations,
    event,
    found,
    inbox,
    leases,
    message,
    nothing_ready,
    outcome,
    overview,
    page,
    row,
    task,
    token,
    waited,
    waits_for,
)

__all__ = [
    "FIELD_CHARACTERS",
    "REPLY_CHARACTERS",
    "Checking",
    "Reply",
    "age",
    "agents",
    "checked",
    "claimed",
    "created",
    "dead_letters",
    "detail",
    "diagnosis",
    "escalations",
    "event",
    "fit",
    "found",
    "full",
    "glance",
    "inbox",
    "landings",
    "leases",
    "message",
    "nothing_ready",
    "outcome",
    "overview",
    "page",
    "proof",
    "reported",
    "row",
    "stats",
    "stuck",
    "task",
    "token",
    "waited",
    "waits_for",
]
