"""Everything that Loom says to PostgreSQL about a project: each statement is here, and only here.

A function is one or two statements on an open `Transaction`, or on a connection where it only reads. What has to happen
together, and in which order, is decided above: by `rules`, by `deps`, and by the front. Here are the statements that
nearly every change of a task needs; whoever needs another module imports it, so that a short command pays for no more.

| module | rows |
|---|---|
| `transaction` | one mutation: what it changed, for the mirror |
| `tasks` `claiming` `sweeping` | tasks, their claims, and what a sweep finds |
| `edges` `levels` `reach` | dependencies, the cascade, and how far a change reaches |
| `events` | the outbox, and the history of a task |
| `escalations` `diagnoses` `messages` `plans` `projects` | rows of the same name |
| `proofs` `skill_runs` `workflow_runs` | rows of the same name |
| `landings` `landing_tips` | claims whose work lands on a branch, their queue, and where each branch stood last |
| `landing_views` | what there is to see of that |
| `glance` | what whoever comes to a project wants to know first |
| `metrics` `notices` | what has been counted of all that happened, and how far people were told of it |
| `counting` | how many tasks are in each status |
| `traces` | to which trace a task belongs |
| `days` | what was done on a day |
| `stats` `sticking` | how it went lately, and what does not go on by itself |
| `retention` | what has been kept long enough |
| `backup` | all of them, copied out and put back |
| `reading` | questions across all of them |
"""

from loom.graph.store import (
    escalations,
    events,
    landings,
    messages,
    projects,
    proofs,
    reading,
    transaction,
)
from loom.graph.store.claiming import (
    BEST_READY,
    CLAIM_BEST,
    CLAIM_BY_ID,
    Claim,
    Frontier,
    as_claimed,
    claim_task,
    complete_task,
    fail_task,
    holds_beside,
    renew_due,
    renew_leases,
)
from loom.graph.store.edges import (
    HOLDS,
    add_edges,
    get_dependents,
    remove_edges,
    replace_dependencies,
    upstream,
    waive_edges,
    waived_edges,
)
from loom.graph.store.escalations import create_escalation
from loom.graph.store.events import consequences
from loom.graph.store.levels import Level, close_epic, count_children, count_dependents
from loom.graph.store.reach import below
from loom.graph.store.reading import get_ready_tasks, get_task_dependencies, list_active_tasks
from loom.graph.store.sweeping import PULSE, Pulse, due_retries, expired_claims, mark_complete, pulse
from loom.graph.store.tasks import (
    COLUMNS,
    WAITING,
    NewTask,
    TaskOutline,
    analyze,
    by_origin,
    cancel_tasks,
    create_task,
    draw_ids,
    get_task,
    get_tasks,
    insert_tasks,
    list_all_tasks,
    lock,
    lock_dependents,
    lock_graph,
    lock_key,
    lock_statuses,
    lock_targets,
    now,
    outline,
    place,
    rename_origins,
    reopen_task,
    some_children,
    update_task,
    update_task_status,
    waiting,
)
from loom.graph.store.transaction import Change, Transaction

__all__ = [
    "BEST_READY",
    "CLAIM_BEST",
    "CLAIM_BY_ID",
    "COLUMNS",
    "HOLDS",
    "PULSE",
    "WAITING",
    "Change",
    "Claim",
    "Frontier",
    "Level",
    "NewTask",
    "Pulse",
    "TaskOutline",
    "Transaction",
    "add_edges",
    "analyze",
    "as_claimed",
    "below",
    "by_origin",
    "cancel_tasks",
    "claim_task",
    "close_epic",
    "complete_task",
    "consequences",
    "count_children",
    "count_dependents",
    "create_escalation",
    "create_task",
    "draw_ids",
    "due_retries",
    "escalations",
    "events",
    "expired_claims",
    "fail_task",
    "get_dependents",
    "get_ready_tasks",
    "get_task",
    "get_task_dependencies",
    "get_tasks",
    "holds_beside",
    "insert_tasks",
    "landings",
    "list_active_tasks",
    "list_all_tasks",
    "lock",
    "lock_dependents",
    "lock_graph",
    "lock_key",
    "lock_statuses",
    "lock_targets",
    "mark_complete",
    "messages",
    "now",
    "outline",
    "place",
    "projects",
    "proofs",
    "pulse",
    "reading",
    "remove_edges",
    "rename_origins",
    "renew_due",
    "renew_leases",
    "reopen_task",
    "replace_dependencies",
    "some_children",
    "transaction",
    "update_task",
    "update_task_status",
    "upstream",
    "waiting",
    "waive_edges",
    "waived_edges",
]
