"""Everything that Loom says to PostgreSQL about a project: each statement is here, and only here.

A function is one or two statements on an open `Transaction`, or on a connection where it only reads. What has to happen
together, and in which order, is decided above: by `rules`, by `deps`, and by the front. Here are the statements that
nearly every change of a task needs; whoever needs another module imports it, so that a short command pays for no more.

| module | rows |
|---|---|
| `transaction` | one mutation: what it changed, for the mirror |
| `tasks` `claiming` `sweeping` | tasks, their claims, and what a sweep finds |
| `origins` | tasks by the ids that they have elsewhere |
| `edges` `levels` `reach` | dependencies, the cascade, and how far a change reaches |
| `events` | the outbox, and the history of a task |
| `escalations` `diagnoses` `messages` `plans` `projects` `proofs` | rows of the same name |
| `skill_runs` `workflow_runs` `workflow_steps` | runs of skills and of workflows, and what the steps of these came to |
| `landings` `landing_intents` | claims whose work lands on a branch, and their queue; what is about to be merged |
| `landing_views` | what there is to see of that |
| `landing_targets` `landing_tips` | where a project lands, and who does it; where each branch stood last |
| `tokens` `entries` | who may come in over HTTP, and with which browser |
| `states` `blockers` | what people call a status, and what a task waits for |
| `reading` `names` | questions about tasks; which ones a name stands for |
| `listing` `graphs` | those that a filter asks for; the graph to be drawn |
| `glance` `days` `stats` | what is wanted to know first, what was done on a day, and how it went lately |
| `sticking` | what does not go on by itself |
| `counting` `metrics` | how many tasks are in each status, and what was counted of all that happened |
| `notices` `traces` | how far people were told of what happens, and to which trace a task belongs |
| `retention` `backup` | what has been kept long enough; all rows, copied out and put back |
| `invariants` | what must hold of all rows |
| `planner` | what PostgreSQL believes of the tables |
"""

from loom.graph.store import (
    escalations,
    events,
    landings,
    messages,
)
from loom.graph.store.claiming import (
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
    add_edges,
    get_dependents,
    replace_dependencies,
    upstream,
    waive_edges,
    waived_edges,
)
from loom.graph.store.escalations import create_escalation
from loom.graph.store.events import consequences
from loom.graph.store.levels import Level, close_epic, count_children, count_dependents
from loom.graph.store.planner import analyze
from loom.graph.store.reach import below
from loom.graph.store.reading import get_ready_tasks, get_task_dependencies, list_active_tasks
from loom.graph.store.sweeping import Pulse, due_retries, expired_claims, mark_complete, pulse
from loom.graph.store.tasks import (
    COLUMNS,
    NewTask,
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
    place,
    reopen_task,
    some_children,
    update_task,
    update_task_status,
    waiting,
)
from loom.graph.store.transaction import Transaction

__all__ = [
    "COLUMNS",
    "Claim",
    "Frontier",
    "Level",
    "NewTask",
    "Pulse",
    "Transaction",
    "add_edges",
    "analyze",
    "as_claimed",
    "below",
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
    "place",
    "pulse",
    "renew_due",
    "renew_leases",
    "reopen_task",
    "replace_dependencies",
    "some_children",
    "update_task",
    "update_task_status",
    "upstream",
    "waiting",
    "waive_edges",
    "waived_edges",
]
