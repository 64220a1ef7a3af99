"""Tasks that a filter asks for, so that a page costs the same among a hundred tasks and a million.

What has an index of its own (words, labels, paths, an epic, what is waited for, failures) is asked first, and of that
at most `LOOKED_AT` rows are held against the rest of the filter. Words, labels and paths that very many tasks have are
not: their index would have to bring all of those. Then, and without any of these, the rows of each status come in the
order of an index, what is shown first before the rest, until the page is full; of each as many at most are looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loom.graph.model.filters import Filter, Span
from loom.graph.model.notes import NOTES
from loom.graph.model.task import Task
from loom.graph.store.blockers import Blocker, blockers
from loom.graph.store.edges import HOLDS
from loom.graph.store.states import CONDITIONS
from loom.graph.store.tasks import COLUMNS

if TYPE_CHECKING:
    from loom.db.connection import Connection

LOOKED_AT = 2_000
"""Rows of what an index brings, or of a status, that one page looks at, at most."""
NARROW = 20_000
"""Tasks, by the planner's estimate, for which at most the index of words, labels or paths is asked."""

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
    query, arguments = statement(project_id, wanted, limit, await narrowest(connection, wanted))
    records = await connection.fetch(query, *arguments)
    partly = records[0]["partly"] or await _unread(connection, project_id, wanted)
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


async def narrowest(connection: Connection, wanted: Filter) -> str | None:
    """The part of a filter, as a field of it, whose index is asked; None where it is better to go by status."""
    found = {}
    for name in ("words", "file", "labels"):
        if getattr(wanted, name):
            given = _Arguments([])  # of all projects, since that is what the index brings
            table = "tasks t" if name == "labels" else "task_texts x"
            query = f"explain (format json) select from {table} where {_matches(name, wanted, given)}"
            plan = await connection.fetchval(query, *given.values)
            found[name] = json.loads(plan)[0]["Plan"]["Plan Rows"]
    rare = [name for name in found if found[name] <= NARROW]
    others = (name for name in ("epic", "waits_for", "failed") if getattr(wanted, name) is not None)
    return min(rare, key=found.__getitem__) if rare else next(others, None)


def statement(project_id: str, wanted: Filter, limit: int, leading: str | None) -> tuple[str, list[Any]]:
    """The query of a page, and its arguments. `leading`: as `narrowest` has it."""
    given = _Arguments([project_id])
    conditions = " and ".join(_conditions(wanted, given, leading)) or "true"
    if leading == "epic":
        below = f"{_below(wanted.epic, given)},"
        looked = list(_parts_below(wanted))
    elif leading is not None:
        below = ""
        by_index = f"{_by_index(leading, wanted, given)} limit {LOOKED_AT}"
        looked = [
            f"select {_LOOKED} from ({by_index}) c join tasks t on t.project_id = $1 and t.id = c.id order by {_ORDER}"
        ]
    else:
        below = ""
        looked = [
            f"select {_LOOKED} from tasks t where t.project_id = $1 and {part} limit {LOOKED_AT}"
            for part in _parts(wanted, given)
        ]
    most = given.add(limit + 1)
    # The last row that is looked at comes along in any case, and says that there may be more. Where rows were left out
    # before the others were brought into order each one says so.
    cut = "row_number() over ()" if leading is None else "count(*) over ()"
    found = " union all ".join(
        f"""(select t.id, t.cut, ({conditions}) as fits
               from (select t.*, row_number() over () as place, {cut} = {LOOKED_AT} as cut from ({one}) t) t
              where ({conditions}) or t.place = {LOOKED_AT})"""
        for one in looked or [f"select {_LOOKED} from tasks t where false"]
    )
    query = f"""
        with recursive {below} found as materialized ({found} limit {most} + {len(looked)})
        select {COLUMNS}, l.partly
          from (select coalesce(bool_or(cut), false) as partly from found) l
          left join (found f join tasks t on t.project_id = $1 and t.id = f.id) on f.fits
         order by {_ORDER} limit {most}
        """
    return query, given.values


# What conditions and order need of a row, which is narrow.
_LOOKED = (
    "t.project_id, t.id, t.status, t.priority, t.labels, t.assignee, t.parent_id, t.created_at, t.updated_at,"
    " t.ready_at, t.done_at, t.retry_at, t.lease_expires_at"
)
_RANK = "array_position(array['claimed', 'pending', 'failed', 'blocked', 'epic'], t.status)"
# Also of words: how well they fit counts for nothing, so that what is open stands first, and what is worked on now.
_ORDER = f"{_RANK} nulls last, t.done_at desc, t.priority, t.ready_at, t.id"


# The rows of some states, in the order of an index; what is shown first comes first.
_FINISHED = "t.done_at is not null{held}{since} order by t.done_at desc"
_PARTS = (
    ({"claimed", "landing"}, "t.status = 'claimed' order by t.assignee"),
    ({"ready"}, "t.status = 'pending'{urgent} order by t.priority, t.ready_at, t.id desc"),
    ({"retry"}, "t.status = 'failed' and t.retry_at is not null order by t.retry_at"),
    ({"dead"}, "t.status = 'failed' and t.retry_at is null order by t.retry_at"),
    ({"blocked"}, "t.status = 'blocked'{urgent} order by t.priority, t.id"),
    ({"epic"}, "t.status = 'epic'{urgent} order by t.priority, t.id"),
    ({"done"}, _FINISHED),
    ({"cancelled"}, "t.status = 'cancelled'{since} order by t.done_at desc"),
)
# The same of what one agent holds, or held last.
_HELD_PARTS = (
    ({"claimed", "landing"}, "t.status = 'claimed'{held} order by t.assignee"),
    ({"ready", "retry", "dead", "blocked"}, "t.status in ('pending', 'failed', 'blocked'){held} order by t.assignee"),
    ({"done", "cancelled"}, _FINISHED),
)


def _parts(wanted: Filter, given: _Arguments) -> Iterator[str]:
    """The rows among which those are that a filter means."""
    states = (set(wanted.states) or set(CONDITIONS)) - set(wanted.not_states)
    held = urgent = since = ""
    if wanted.finished is not None:
        states &= {"done", "cancelled"}
        since = f" and {_since('done_at', wanted.finished, given)}"
    if wanted.holder is not None:
        held = f" and t.assignee = {given.add(wanted.holder)}"
    elif "done" in states:  # which brings both
        states -= {"cancelled"}
    if wanted.priorities:
        ranks = sorted(one.rank for one in wanted.priorities)
        urgent = f" and t.priority between {ranks[0]} and {ranks[-1]}"
    for members, rows in _HELD_PARTS if held else _PARTS:
        if members & states:
            yield rows.format(held=held, urgent=urgent, since=since)


class _Arguments:
    """The arguments of a statement, in their order."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def add(self, value: Any) -> str:
        """Takes one more; its place in the statement."""
        self.values.append(value)
        return f"${len(self.values)}"


def _by_index(name: str, wanted: Filter, given: _Arguments) -> str:
    """The ids that one part of a filter brings by its index."""
    match name:
        case "words" | "file":
            matches = _matches(name, wanted, given)
            return f"select x.task_id as id from task_texts x where x.project_id = $1 and {matches}"
        case "labels":
            return f"select t.id from tasks t where t.project_id = $1 and {_matches(name, wanted, given)}"
        case "waits_for":
            return f"""select e.task_id as id from task_deps e
                        where e.project_id = $1 and e.depends_on = {given.add(wanted.waits_for)}"""
        case "failed":
            return f"""select f.task_id as id
                         from (select task_id from escalations where project_id = $1 and kind = 'failure'
                                order by raised_at desc limit {_FAILURES}) f
                        group by f.task_id having count(*) >= {given.add(wanted.failed)}"""
    raise AssertionError(f"{name} has no index")


def _below(epic: str | None, given: _Arguments) -> str:
    """An epic and those below it, as a table for `with recursive`: open ones, and finished ones as far as so many of
    what is finished are looked at for children."""
    return f"""
        below(id) as (
            select {given.add(epic)}::text collate "C"
            union
            select n.id from below b cross join lateral (
                (select k.id from tasks k where k.project_id = $1 and k.parent_id = b.id and k.status = 'epic')
                union all
                (select k.id from (select c.id from tasks c
                                    where c.project_id = $1 and c.parent_id = b.id and c.status in ('done', 'cancelled')
                                    limit {LOOKED_AT}) k
                  where exists(select from tasks g where g.project_id = $1 and g.parent_id = k.id limit 1))
            ) n
        )"""


def _parts_below(wanted: Filter) -> Iterator[str]:
    """The rows below an epic, by status: each part in the order in which it is shown."""
    states = (set(wanted.states) or set(CONDITIONS)) - set(wanted.not_states)
    for members, status in _STATUSES:
        if members & states:
            yield f"""select * from (
                          select t.* from below b cross join lateral (
                              select {_LOOKED} from tasks t
                               where t.project_id = $1 and t.parent_id = b.id and t.status = '{status}'
                               limit {LOOKED_AT}) t
                           limit {LOOKED_AT}) t order by {_ORDER}"""


_STATUSES = (
    ({"claimed", "landing"}, "claimed"),
    ({"ready"}, "pending"),
    ({"retry", "dead"}, "failed"),
    ({"blocked"}, "blocked"),
    ({"epic"}, "epic"),
    ({"done"}, "done"),
    ({"cancelled"}, "cancelled"),
)


def _conditions(wanted: Filter, given: _Arguments, leading: str | None) -> Iterator[str]:
    """What a row `t` must fulfil; that it lies in an epic was seen to where that leads."""
    for states, sense in ((wanted.states, ""), (wanted.not_states, "not ")):
        if states:
            yield f"{sense}({' or '.join(CONDITIONS[state] for state in states)})"
    if wanted.priorities:
        yield f"t.priority = any({given.add([one.rank for one in wanted.priorities])}::int[])"
    for labels, sense in ((wanted.labels, ""), (wanted.not_labels, "not ")):
        if labels:
            yield f"{sense}({_labels(labels, given)})"
    for column, span in (("created_at", wanted.age), ("updated_at", wanted.changed), ("done_at", wanted.finished)):
        if span is not None:
            yield _since(column, span, given)
    yield from _around(wanted, given, leading)


def _around(wanted: Filter, given: _Arguments, leading: str | None) -> Iterator[str]:
    """The same, for what is not a column of its own."""
    if wanted.holder is not None:
        yield f"t.assignee = {given.add(wanted.holder)}"
    if wanted.waits_for is not None:
        yield f"""exists (select from task_deps e where e.project_id = $1 and e.task_id = t.id
                             and e.depends_on = {given.add(wanted.waits_for)} and {HOLDS})"""
    if wanted.epic is not None and leading != "epic":
        yield f"""{given.add(wanted.epic)} in (
                    with recursive above(id) as (
                        select t.parent_id
                        union
                        select p.parent_id from above a join tasks p on p.project_id = $1 and p.id = a.id
                    ) select id from above where id is not null)"""
    if wanted.failed is not None and leading != "failed":
        yield f"""(select count(*) from escalations q where q.project_id = $1 and q.task_id = t.id
                                                     and q.kind = 'failure') >= {given.add(wanted.failed)}"""
    if wanted.words and leading != "words":
        yield _texts("words", wanted, given)
    if wanted.file is not None and leading != "file":
        yield _texts("file", wanted, given)


def _texts(name: str, wanted: Filter, given: _Arguments) -> str:
    matches = _matches(name, wanted, given)
    return f"exists (select from task_texts x where x.project_id = $1 and x.task_id = t.id and {matches})"


def _matches(name: str, wanted: Filter, given: _Arguments) -> str:
    """What is looked for by the index of words, of paths, or of labels: in a row `x` of texts, or `t` of tasks."""
    match name:
        case "words":
            return f"x.words @@ websearch_to_tsquery('english', {given.add(wanted.words)})"
        case "labels":
            return _labels(wanted.labels, given)
    return _path(wanted.file or "", given)


def _labels(labels: Sequence[str], given: _Arguments) -> str:
    return f"t.labels <> '{{}}' and t.labels && {given.add(list(labels))}::text[]"


def _path(path: str, given: _Arguments) -> str:
    """Tasks that name the path itself or something below it, and those that name a directory above it."""
    parts = path.split("/")
    above = [f"{'/'.join(parts[:depth])}/" for depth in range(1, len(parts))]
    names = given.add([path, *above])
    return f"x.paths <> '{{}}' and x.paths && {names}::text[]"


def _since(column: str, span: Span, given: _Arguments) -> str:
    moment = f"loom_now() - make_interval(secs => {given.add(span.seconds)})"
    return f"t.{column} {'>=' if span.within else '<'} {moment}"
