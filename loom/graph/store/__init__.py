"""Everything that Loom says to PostgreSQL about a project: each statement is here, and only here.

A function is one or two statements on an open `Transaction`, or on a connection where it only reads. What has to happen
together, and in which order, is decided above: by `rules`, by `deps`, and by the front.

| module | rows |
|---|---|
| `transaction` | one mutation: what it changed, for the mirror |
| `tasks` `claiming` `sweeping` | tasks, their claims, and what a sweep finds |
| `edges` `levels` `reach` | dependencies, the cascade, and how far a change reaches |
| `events` | the outbox, and the history of a task |
| `escalations` `messages` `plans` `projects` `skill_runs` `workflow_runs` | rows of the same name |
| `reading` | questions across all of them |
"""

from loom.graph.store import (
    escalations,
    events,
    messages,
    plans,
    projects,
    reading,
    skill_runs,
    transaction,
    workflow_runs,
)
from loom.graph.store.claiming import (
    BEST_READY,
    CLAIM_BEST,
    CLAIM_BY_ID,
    Claim,
    claim_task,
    complete_task,
    renew_leases,
)
from loom.graph.store.edges import (
    add_edges,
    get_dependents,
    remove_edges,
    upstream,
    waive_edges,
    waived_edges,
)
from loom.graph.store.escalations import create_escalation
from loom.graph.store.events import consequences
from loom.graph.store.levels import Level, close_epic, count_children, count_down_dependents
from loom.graph.store.reach import below, started_below
from loom.graph.store.reading import get_ready_tasks
from loom.graph.store.sweeping import PULSE, Pulse, due_retries, expired_claims, mark_complete, pulse
from loom.graph.store.tasks import (
    COLUMNS,
    WAITING,
    NewTask,
    TaskOutline,
    all_tasks,
    analyze,
    cancel_tasks,
    create_task,
    draw_ids,
    get_task,
    get_tasks,
    hold,
    insert_tasks,
    lock,
    lock_graph,
    now,
    outline,
    save,
    waiting,
)
from loom.graph.store.transaction import Change, Notice, Transaction

__all__ = [
    "BEST_READY",
    "CLAIM_BEST",
    "CLAIM_BY_ID",
    "COLUMNS",
    "PULSE",
    "WAITING",
    "Change",
    "Claim",
    "Level",
    "NewTask",
    "Notice",
    "Pulse",
    "TaskOutline",
    "Transaction",
    "add_edges",
    "all_tasks",
    "analyze",
    "below",
    "cancel_tasks",
    "claim_task",
    "close_epic",
    "complete_task",
    "consequences",
    "count_children",
    "count_down_dependents",
    "create_escalation",
    "create_task",
    "draw_ids",
    "due_retries",
    "escalations",
    "events",
    "expired_claims",
    "get_dependents",
    "get_ready_tasks",
    "get_task",
    "get_tasks",
    "hold",
    "insert_tasks",
    "lock",
    "lock_graph",
    "mark_complete",
    "messages",
    "now",
    "outline",
    "plans",
    "projects",
    "pulse",
    "reading",
    "remove_edges",
    "renew_leases",
    "save",
    "skill_runs",
    "started_below",
    "transaction",
    "upstream",
    "waiting",
    "waive_edges",
    "waived_edges",
    "workflow_runs",
]
