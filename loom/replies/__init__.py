"""What both faces say of the graph: brief objects, the same over MCP and as `--json`."""

from loom.replies.checks import Checking, checked, proof, reported
from loom.replies.events import event, waited
from loom.replies.fitting import FIELD_CHARACTERS, REPLY_CHARACTERS, Reply, fit, full
from loom.replies.glance import glance, stuck
from loom.replies.landing import landings
from loom.replies.parts import age, state
from loom.replies.project import agents, dead_letters, nothing_ready, overview, token
from loom.replies.stats import stats
from loom.replies.talk import escalations, inbox, message
from loom.replies.tasks import claimed, created, detail, found, leases, outcome, ready, waits_for

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
    "proof",
    "ready",
    "reported",
    "state",
    "stats",
    "stuck",
    "token",
    "waited",
    "waits_for",
]
