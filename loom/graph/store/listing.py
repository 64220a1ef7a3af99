"""Tasks that a filter asks for, so that a page costs the same among a hundred tasks and a million.

What has an index of its own (words, labels, paths, an epic, what is waited for, failures) is asked first, and of that
at most `LOOKED_AT` rows are held against the rest of the filter. Without any, the rows of each status come in the order
of its index, and as many of them at most are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loom.graph.model.filters import Filter, Span
from loom.graph.model.notes import NOTES
from loom.graph.model.task import Task
from loom.graph.store.blockers import Blocker, blockers
from loom.graph.store.edges import HOLDS
from loom.graph.store.tasks import COLUMNS

if TYPE_CHECKING:
    from loom.db.connection import Connection

LOOKED_AT = 2_000
"""Rows that one page looks at, at most."""

_FAILURES = 20_000  # the newest, which are looked at for what has failed several times
_READ_AT_ONCE = 2_000  # tasks whose words are read in one statement


@dataclass(frozen=True, slots=True)
class Found:
    """Tasks that fit a filter: what is in work first, then what is ready, has failed, waits, and was finished last.
    `more`: there are further ones; `partly`: more had to be looked at than one page does, and others may fit too;
    `blockers`: what those wait for that wait."""

    tasks: list[Task]
    more: bool = False
    partly: bool = False
    blockers: dict[str, list[Blocker]] = field(default_factory=dict)


async def list_tasks(connection: Connection, project_id: str, wanted: Filter, limit: int) -> Found:
    """The first so many tasks that a filter asks for."""
    query, arguments = statement(project_id, wanted, limit)
    records = await connection.fetch(query, *arguments)
    partly = records[0]["looked_at"] >= LOOKED_AT or await _unread(connection, project_id, wanted)
    records = [record for record in records if record["id"] is not None]
    tasks = [Task.from_record(record) for record in records[:limit]]
    waits = [task.id for task in tasks if task.waiting or task.retry_at is not None]
    return Found(tasks, len(records) > limit, partly, await blockers(connection, project_id, waits) if waits else {})


async def _unread(connection: Connection, project_id: str, wanted: Filter) -> bool:
    """Whether words or paths are looked for while somebody else reads, or changes, those of some tasks."""
    if not (wanted.words or wanted.file):
        return False
    return bool(
        await connection.fetchval(
            "select exists(select from task_texts where project_id = $1 and words is null)", project_id
        )
    )


async def read_texts(connection: Connection, project_id: str) -> bool:
    """Reads the words and paths of some tasks for which that is due. Returns whether there may be more of them."""
    status = await connection.execute(
        """
        with due as (
            select task_id from task_texts where project_id = $1 and words is null
             order by task_id limit $2 for no key update skip locked)
        update task_texts x
           set words = loom_words(t.title, t.done_when, t.context) || to_tsvector('english', coalesce((
                   select string_agg(left(n.body, 8192), ' ')
                     from (select body from messages where project_id = $1 and recipient = t.id
                            order by id desc limit $3) n), '')),
               paths = loom_paths(t.files)
          from due d join tasks t on t.project_id = $1 and t.id = d.task_id
         where x.project_id = $1 and x.task_id = d.task_id
        """,
        project_id,
        _READ_AT_ONCE,
        NOTES,
    )
    return int(status.rpartition(" ")[2]) == _READ_AT_ONCE


def statement(project_id: str, wanted: Filter, limit: int) -> tuple[str, list[Any]]:
    """The query of a page, and its arguments."""
    given = _Arguments([project_id])
    conditions = " and ".join(_conditions(wanted, given)) or "true"
    found = _by_index(wanted, given)
    if found is not None:
        looked = [f"select t.* from ({found}) c join tasks t on t.project_id = $1 and t.id = c.id"]
    else:
        states = set(wanted.states or _STATES) - set(wanted.not_states)
        enough = limit + 1 if wanted == Filter() else LOOKED_AT
        looked = [
            f"select t.* from tasks t where t.project_id = $1 and {order} limit {enough}"
            for members, order in _PARTS
            if members & states
        ] or ["select t.* from tasks t where false"]
    most = given.add(limit + 1)
    parts = [f"part{number} as materialized ({one})" for number, one in enumerate(looked)]
    fitting = [f"(select t.id from part{number} t where {conditions} limit {most})" for number in range(len(looked))]
    counted = [f"(select count(*) from part{number})" for number in range(len(looked))]
    query = f"""
        with {", ".join(parts)},
             fitting as (
                 select t.id from tasks t where t.project_id = $1 and t.id in ({" union all ".join(fitting)})
                  order by {_ORDER} limit {most}
             )
        select {COLUMNS}, l.looked_at
          from (select greatest({", ".join(counted)}) as looked_at) l
          left join (fitting f join tasks t on t.project_id = $1 and t.id = f.id) on true
         order by {_ORDER}
        """
    return query, given.values


_STATES = {
    "ready": "t.status = 'pending'",
    "blocked": "t.status = 'blocked'",
    "claimed": "(t.status = 'claimed' and t.lease_expires_at < 'infinity')",
    "landing": "(t.status = 'claimed' and t.lease_expires_at = 'infinity')",
    "retry": "(t.status = 'failed' and t.retry_at is not null)",
    "dead": "(t.status = 'failed' and t.retry_at is null)",
    "epic": "t.status = 'epic'",
    "done": "t.status = 'done'",
    "cancelled": "t.status = 'cancelled'",
}
_RANK = "array_position(array['claimed', 'pending', 'failed', 'blocked', 'epic'], t.status)"
# Also of words: how well they fit counts for nothing, so that what is open stands first, and what is worked on now.
_ORDER = f"{_RANK} nulls last, t.done_at desc, t.priority, t.ready_at, t.id"
# The rows of some states, each part in the order of an index.
_PARTS = (
    ({"claimed", "landing"}, "t.status = 'claimed' order by t.assignee"),
    ({"ready"}, "t.status = 'pending' order by t.priority, t.ready_at, t.id desc"),
    ({"retry", "dead"}, "t.status = 'failed' order by t.retry_at"),
    ({"blocked", "epic"}, "t.status in ('blocked', 'epic') order by t.priority, t.id"),
    ({"done", "cancelled"}, "t.done_at is not null order by t.done_at desc"),
)


class _Arguments:
    """The arguments of a statement, in their order."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def add(self, value: Any) -> str:
        """Takes one more; its place in the statement."""
        self.values.append(value)
        return f"${len(self.values)}"


def _by_index(wanted: Filter, given: _Arguments) -> str | None:
    """The ids that one part of a filter brings by its index; None where no part has one."""
    if wanted.epic is not None:
        return f"""with recursive below(id) as (
                       select k.id from tasks k where k.project_id = $1 and k.parent_id = {given.add(wanted.epic)}
                       union
                       select k.id from below b join tasks k on k.project_id = $1 and k.parent_id = b.id
                   ) select id from below limit {LOOKED_AT}"""
    if wanted.waits_for is not None:
        return f"""select e.task_id as id from task_deps e
                    where e.project_id = $1 and e.depends_on = {given.add(wanted.waits_for)} limit {LOOKED_AT}"""
    if wanted.words:
        return f"select x.task_id as id from task_texts x where {_words(wanted, given)} limit {LOOKED_AT}"
    if wanted.file is not None:
        return f"select x.task_id as id from task_texts x where {_path(wanted.file, given)} limit {LOOKED_AT}"
    if wanted.failed is not None:
        return f"""select f.task_id as id
                     from (select task_id from escalations where project_id = $1 and kind = 'failure'
                            order by raised_at desc limit {_FAILURES}) f
                    group by f.task_id having count(*) >= {given.add(wanted.failed)} limit {LOOKED_AT}"""
    if wanted.labels:
        return f"select t.id from tasks t where {_labels(wanted.labels, given)} limit {LOOKED_AT}"
    return None


def _conditions(wanted: Filter, given: _Arguments) -> Iterator[str]:
    """What a row `t` must fulfil; only that it lies in an epic was seen to by its index."""
    for states, sense in ((wanted.states, ""), (wanted.not_states, "not ")):
        if states:
            yield f"{sense}({' or '.join(_STATES[state] for state in states)})"
    if wanted.priorities:
        yield f"t.priority = any({given.add([int(one.value[1]) for one in wanted.priorities])}::int[])"
    for labels, sense in ((wanted.labels, ""), (wanted.not_labels, "not ")):
        if labels:
            yield f"{sense}({_labels(labels, given)})"
    yield from _around(wanted, given)
    for column, span in (("created_at", wanted.age), ("updated_at", wanted.changed), ("done_at", wanted.finished)):
        if span is not None:
            yield _since(column, span, given)


def _around(wanted: Filter, given: _Arguments) -> Iterator[str]:
    """The same, for what is not a column of its own."""
    if wanted.holder is not None:
        yield f"t.assignee = {given.add(wanted.holder)}"
    if wanted.waits_for is not None:
        yield f"""exists (select from task_deps e where e.project_id = $1 and e.task_id = t.id
                             and e.depends_on = {given.add(wanted.waits_for)} and {HOLDS})"""
    if wanted.failed is not None:
        yield f"""(select count(*) from escalations q where q.project_id = $1 and q.task_id = t.id
                                                     and q.kind = 'failure') >= {given.add(wanted.failed)}"""
    if wanted.words:
        yield f"exists (select from task_texts x where x.task_id = t.id and {_words(wanted, given)})"
    if wanted.file is not None:
        yield f"exists (select from task_texts x where x.task_id = t.id and {_path(wanted.file, given)})"


def _words(wanted: Filter, given: _Arguments) -> str:
    return f"x.project_id = $1 and x.words @@ websearch_to_tsquery('english', {given.add(wanted.words)})"


def _labels(labels: Sequence[str], given: _Arguments) -> str:
    return f"t.project_id = $1 and t.labels <> '{{}}' and t.labels && {given.add(list(labels))}::text[]"


def _path(path: str, given: _Arguments) -> str:
    """Tasks that name the path itself or something below it, and those that name a directory above it."""
    parts = path.split("/")
    above = [f"{'/'.join(parts[:depth])}/" for depth in range(1, len(parts))]
    names = given.add([path, *above])
    return f"x.project_id = $1 and x.paths <> '{{}}' and x.paths && {names}::text[]"


def _since(column: str, span: Span, given: _Arguments) -> str:
    moment = f"loom_now() - make_interval(secs => {given.add(span.seconds)})"
    return f"t.{column} {'>=' if span.within else '<'} {moment}"
