"""Task data in Redis: the only reader and writer of it, with Postgres behind.

Writes come after the commit, guarded by row versions, so that they may arrive in any order. Reads are answered here
only while the mirror is known to hold what this process has written itself; else they go to Postgres, and a caller
never sees which. Redis slow or away costs one short timeout, then the breaker keeps everybody off until it is tried
again.

The mirror belongs to one history of one database. Another history, another layout or an empty Redis makes it
`missing`, and the relay rebuilds it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from loom.bundled import bundled
from loom.bus import channels
from loom.bus.client import Client, RefusedError, Word
from loom.bus.connection import Breaker, is_away, is_late, is_no_answer
from loom.bus.events import START, Event, Position
from loom.bus.publisher import Notice, publish_event
from loom.graph.model.task import PRIORITY_SCORES, Listed, Priority, Task, TaskStatus, ready_score
from loom.graph.store.transaction import Change

T = TypeVar("T")

LAYOUT = "3"
BATCH = 500  # tasks or entries that one script call carries
_BATCH_BYTES = 1_000_000  # of their fields, for which Redis stands still
_FIELD_BYTES = 2_048  # a longer context, output or list of files is left to Postgres
_FINISHED_SECONDS = 3600  # how long the hash of a finished task stays
_BUILDING_SECONDS = 15  # a rebuild that has not got on for this long is taken over
_LOG = logging.getLogger(__name__)

_LISTED = ["id", "title", "status", "priority", "parent_id", "created_at"]
_TIMES = ("created_at", "updated_at", "ready_at", "claimed_at", "done_at", "deadline_at", "retry_at")
_NUMBERS = ("version", "attempt", "max_attempts", "claim_token")
_FLAGS = ("lapsed", "queued")
_TEXTS = (
    "id",
    "project_id",
    "title",
    "status",
    "priority",
    "assignee",
    "parent_id",
    "done_when",
    "dead_reason",
    "origin_id",
)
_PLAIN = _TEXTS + _NUMBERS


@dataclass(frozen=True, slots=True)
class MirrorState:
    """What the mirror says of itself. `usable` for this process: of its own layout and history, and whole, which it is
    while it has a position: a rebuild takes that away, and gives it back at its end."""

    usable: bool
    newer: bool
    """Laid out by a newer Loom, or of a later timeline of the same server: whoever writes it knows more than we do."""
    position: Position
    generation: str


@dataclass(frozen=True, slots=True)
class Contents:
    """All that the mirror holds of a project's tasks, for comparing it with Postgres."""

    hashes: dict[str, dict[str, str]]
    sets: dict[str, set[str]]
    ready: dict[str, float]
    dead: set[str]
    finished: dict[str, str]

    @property
    def ids(self) -> set[str]:
        """Every id that appears anywhere."""
        return set(self.hashes).union(*self.sets.values(), self.ready, self.dead, self.finished)

    def shows(self, task: Task) -> bool:
        """Whether all of this is as it should be for a task."""
        pending = task.status is TaskStatus.PENDING and task.ready_at is not None
        score = ready_score(task.priority, task.ready_at) if pending and task.ready_at is not None else None
        found = self.hashes.get(task.id)
        return (
            {status for status, ids in self.sets.items() if task.id in ids} == {str(task.status)}
            and self.ready.get(task.id) == score
            and (task.id in self.dead) == task.dead
            and self.finished.get(task.id) == (str(task.version) if task.status.finished else None)
            and (found == _fields(task) or (found is None and task.status.finished))
        )


class Cache:
    """The mirror of one project in one Redis."""

    def __init__(
        self, redis: Callable[[], Awaitable[Client]], project_id: str, *, history: str, stream_maxlen: int
    ) -> None:
        """
        Args:
            redis: gives the client, made on first use.
            project_id: whose tasks.
            history: which history of which database, see `project.enter`.
            stream_maxlen: how many events the stream keeps.
        """
        self._redis = redis
        self._project = project_id
        self.history = history
        self._maxlen = stream_maxlen
        self._breaker = Breaker()
        self._keys = [
            channels.mirror_key(project_id),
            channels.event_stream(project_id),
            channels.ready_queue(project_id),
            channels.dead_letter_set(project_id),
            channels.finished_versions(project_id),
            *(channels.status_set(project_id, status) for status in TaskStatus),
        ]
        self._unseen = START  # readers ask Postgres until the relay has passed this event
        self.refused: str | None = None  # why this Redis is no mirror
        self.complaint: str | None = None  # what it answered, and refused, last

    # --- writes -----------------------------------------------------------------------------------------------------

    async def sync(self, change: Change) -> bool:
        """Mirrors a committed change; False if that failed, and reads go to Postgres until the relay has caught up."""
        done = True
        for tasks in _batches(change.tasks):
            done = done and await self._write(tasks=tasks) == "written"
        if done and change.notices:
            done = await self._write(notices=change.notices) == "written"
        if not done:
            self._unseen = max(self._unseen, change.position)
        return done

    async def follow(
        self, expect: Position, events: Sequence[Event], tasks: Sequence[Task], notices: Sequence[Notice]
    ) -> bool:
        """The relay's write: at most `BATCH` events in order with the tasks they met, and the position they reach.

        False: another relay was first, or Redis is away; nothing was written.
        """
        *before, last = [*_batches(tasks)] or [()]
        for batch in before:  # versions guard them; only what the position is written with must be of one call
            if await self._write(tasks=batch) != "written":
                return False
        answer = await self._write(
            tasks=last, events=events, notices=notices, expect=expect, position=events[-1].position
        )
        return answer == "written"

    async def load(self, generation: str, tasks: Sequence[Task]) -> bool:
        """A rebuild's write; False if another rebuild has taken over, or Redis is away."""
        for batch in [*_batches(tasks)] or [()]:
            if await self._write(tasks=batch, generation=generation, quiet=True) != "written":
                return False
        return True

    async def begin(self, wanting: str = "*") -> str | None:
        """Starts a rebuild: marks the mirror as being built. Returns its generation, or None if another process is at
        it, a later timeline of the server has it, this Redis is no mirror, or it is away. `wanting`: the generation
        that is to be replaced; None too where another process has done so since it was looked at."""
        if self.refused:
            return None

        async def run(redis: Client) -> str | None:
            identity = f"{LAYOUT}/{self.history}"
            generation = await redis.evaluate(
                _BEGIN, self._keys[:1], [LAYOUT, self.history, str(_BUILDING_SECONDS), identity, wanting]
            )
            return str(generation) if generation else None

        return await self._try(run)

    async def empty(self, generation: str) -> bool:
        """Drops all that the mirror held, for a rebuild; False if another rebuild has taken over, or Redis is away.

        Whoever writes meanwhile is not lost: the rebuild reads the database after this, and row versions guard the
        rest."""

        async def run(redis: Client) -> bool:
            found: list[str] = []
            async for key in redis.scan_iter(match=channels.everything(self._project), count=BATCH):
                if key != self._keys[0]:
                    found.append(key)
                if len(found) >= BATCH:
                    await redis.unlink(*found)
                    found = []
            if found:
                await redis.unlink(*found)
            return True

        return bool(await self._try(run)) and await self.load(generation, ())

    async def finish(self, generation: str, position: Position, escalations: Iterable[str]) -> bool:
        """Ends a rebuild: readers may use the mirror, and the relay goes on from `position`."""

        async def run(redis: Client) -> bool:
            queue = channels.escalation_channel(self._project)
            return bool(
                await redis.evaluate(_FINISH, [self._keys[0], queue], [generation, str(position), *escalations])
            )

        return bool(await self._try(run))

    async def abandon(self, generation: str) -> None:
        """Gives a rebuild that did not come to its end back, so that the next process need not wait until its time is
        over."""

        async def run(redis: Client) -> None:
            await redis.evaluate(_ABANDON, self._keys[:1], [generation])

        await self._try(run)

    # --- reads: None means "ask Postgres" ---------------------------------------------------------------------------

    async def state(self) -> MirrorState | None:
        """How the mirror is; None when Redis is away."""

        async def run(redis: Client) -> MirrorState:
            self.refused = _why_no_mirror(_facts(await redis.call("INFO")))
            asked = "layout", "history", "position", "generation"
            held = [None] * len(asked) if self.refused else await redis.call("HMGET", self._keys[0], *asked)
            layout, history, position, generation = held
            own = layout == LAYOUT and history == self.history
            reached = _position(position)
            return MirrorState(
                usable=own and reached is not None and not self.refused,
                newer=_is_newer(layout or "") or _is_later(history or "", self.history),
                position=reached or START,
                generation=generation or "",
            )

        return await self._try(run)

    def try_again(self) -> None:
        """Has the next call ask Redis although the last one has failed, as a check wants it."""
        self._breaker.succeeded()

    def expect(self, position: Position) -> None:
        """Says where Postgres was a while ago: a mirror that the relay has not brought there is not read."""
        self._unseen = max(self._unseen, position)

    async def get_task(self, task_id: str) -> Task | None:
        """One unfinished or recently finished task; None too where a part of it is too large for the mirror."""

        def read(fields: list[str]) -> Task | None:
            return _task(dict(zip(*[iter(fields)] * 2, strict=True))) if fields else None

        return await self._read(read, ("EVAL", _WHOLE, 1, channels.task_key(self._project, task_id)))

    async def get_ready_tasks(self, limit: int, priority: Priority | None = None) -> list[Listed] | None:
        """The best ready tasks."""
        low, high = ("-inf", "+inf") if priority is None else _score_range(priority)
        queue, prefix = channels.ready_queue(self._project), channels.task_key(self._project, "")

        def read(rows: list[list[str]]) -> list[Listed] | None:
            if any(status != TaskStatus.PENDING for _, _, status, *_ in rows):
                return None  # or a hash is not there
            return [
                Listed(task_id, title, TaskStatus(status), Priority(rank), parent, datetime.fromisoformat(created))
                for task_id, title, status, rank, parent, created in rows
            ]

        return await self._read(read, ("EVAL", _READY, 1, queue, low, high, limit, prefix, *_LISTED))

    async def counts(self) -> dict[str, int] | None:
        """How many tasks are in each status."""
        sets = [channels.status_set(self._project, status) for status in TaskStatus]
        return await self._read(
            lambda *counts: dict(zip(map(str, TaskStatus), counts, strict=True)), *(("SCARD", one) for one in sets)
        )

    async def everything(self) -> Contents | None:
        """All that the mirror holds of the project's tasks; for checks, it reads every key."""

        async def run(redis: Client) -> Contents:
            prefix = channels.task_key(self._project, "")
            names = [name async for name in redis.scan_iter(match=f"{prefix}*", count=1000)]
            hashes = {}
            for start in range(0, len(names), BATCH):
                async with redis.pipeline(transaction=False) as pipe:
                    for name in names[start : start + BATCH]:
                        pipe.hgetall(name)
                    for name, fields in zip(names[start : start + BATCH], await pipe.execute(), strict=True):
                        if fields:
                            hashes[name.removeprefix(prefix)] = fields
            sets = {str(s): await redis.smembers(channels.status_set(self._project, s)) for s in TaskStatus}
            ready = dict(await redis.zrange(channels.ready_queue(self._project), 0, -1, withscores=True))
            dead = await redis.smembers(channels.dead_letter_set(self._project))
            finished = await redis.hgetall(channels.finished_versions(self._project))
            return Contents(hashes, sets, ready, dead, finished)

        return await self._try(run)

    # --- how --------------------------------------------------------------------------------------------------------

    async def _write(
        self,
        *,
        tasks: Sequence[Task] = (),
        events: Sequence[Event] = (),
        notices: Sequence[Notice] = (),
        expect: Position | None = None,
        position: Position | None = None,
        generation: str | None = None,
        quiet: bool = False,
    ) -> str | None:
        if self.refused:
            return None
        job: dict[str, Any] = {
            "history": self.history,
            "layout": LAYOUT,
            "maxlen": self._maxlen,
            "tasks": [self._entry(task) for task in tasks],
            "entries": [publish_event(event) for event in events],
            "notices": [{k: v for k, v in asdict(notice).items() if v is not None} for notice in notices],
        }
        if expect is not None:
            job |= {"expect": str(expect), "position": str(position)}
        if generation is not None:
            job |= {"generation": generation, "patience": _BUILDING_SECONDS}
        if not quiet:
            job["updates"] = channels.updates_channel(self._project)

        async def run(redis: Client) -> str:
            return str(await redis.evaluate(_SCRIPT, self._keys, [_encoded(job)]))

        return await self._try(run)

    def _entry(self, task: Task) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "key": channels.task_key(self._project, task.id),
            "id": task.id,
            "version": str(task.version),
            "status": task.status,
            "set": channels.status_set(self._project, task.status),
        }
        if task.status is TaskStatus.PENDING and task.ready_at is not None:
            entry["score"] = repr(ready_score(task.priority, task.ready_at))
        if task.dead:
            entry["dead"] = True
        if task.done_at is not None:
            gone = task.done_at + timedelta(seconds=_FINISHED_SECONDS) - datetime.now(UTC)
            entry["ttl"] = min(int(gone.total_seconds()), _FINISHED_SECONDS)
        if entry.get("ttl", 1) > 0:
            entry["fields"] = _flat(_fields(task))
        return entry

    async def _read(self, read: Callable[..., T | None], *commands: Sequence[Word]) -> T | None:
        """What `read` makes of the answers, which are asked for together with a look at the mirror's state, in one
        MULTI."""
        if self.refused:
            return None

        async def run(redis: Client) -> T | None:
            (layout, history, position), *found = await redis.together(
                ("HMGET", self._keys[0], "layout", "history", "position"), *commands
            )
            if layout != LAYOUT or history != self.history or position is None:
                return None
            return None if Position.parse(position) < self._unseen else read(*found)

        return await self._try(run)

    async def _try(self, run: Callable[[Client], Awaitable[T]]) -> T | None:
        if not self._breaker.closed:
            return None
        try:
            result = await run(await self._redis())
        except Exception as error:
            if not is_away(error):
                raise
            self.complaint = str(error) if isinstance(error, RefusedError) else None
            what = f"refuses: {self.complaint}" if self.complaint else f"does not answer ({type(error).__name__})"
            what = f"answers something else ({type(error).__name__})" if is_no_answer(error) else what
            # One answer that comes late is of no concern to anybody; a server that hangs is late again.
            once = is_late(error) and not self._breaker.again
            _LOG.log(logging.INFO if once else logging.WARNING, "Redis %s; Postgres goes on alone", what)
            self._breaker.failed()
            return None
        self.complaint = None
        self._breaker.succeeded()
        return result


_text = json.JSONEncoder().encode
_encoded = json.JSONEncoder(ensure_ascii=False).encode  # `json.dumps` makes another one each time
_LUA = bundled("graph/cache", ".lua")
_WHOLE = "return redis.call('HGETALL', KEYS[1])"
_SCRIPT, _READY, _BEGIN, _FINISH, _ABANDON = (
    _LUA[f"{name}.lua"].decode() for name in ("mirror", "ready", "begin", "finish", "abandon")
)


def _batches(tasks: Sequence[Task]) -> Iterator[Sequence[Task]]:
    """Tasks in parts that one script call can carry, by number and by bytes."""
    if len(tasks) == 1:  # as nearly always, and then there is nothing to measure
        yield tasks
        return
    batch: list[Task] = []
    room = _BATCH_BYTES
    for task in tasks:
        size = sum(map(len, _fields(task).values()))
        if batch and (len(batch) == BATCH or size > room):
            yield batch
            batch, room = [], _BATCH_BYTES
        batch.append(task)
        room -= size
    if batch:
        yield batch


def _fields(task: Task) -> dict[str, str]:
    fields = {name: str(value) for name in _PLAIN if (value := getattr(task, name)) is not None}
    for name in _TIMES:
        if (moment := getattr(task, name)) is not None:
            fields[name] = moment.isoformat()
    for name in _FLAGS:
        if getattr(task, name):
            fields[name] = "1"
    fields["depends_on"] = _text(task.depends_on)
    bulky = {
        "context": task.context,
        "output": task.output,
        "files": task.files or None,
        "checks": task.checks or None,
        "labels": task.labels or None,
    }
    left_out = []
    for name, value in bulky.items():
        if value is None:
            continue
        if len(text := _text(value)) > _FIELD_BYTES:
            left_out.append(name)
        else:
            fields[name] = text
    if left_out:
        fields["left_out"] = " ".join(left_out)
    return fields


def _task(fields: dict[str, str]) -> Task | None:
    if "left_out" in fields:
        return None
    return Task(
        **{name: fields.get(name) for name in _TEXTS if name not in ("status", "priority")},  # type: ignore[arg-type]
        **{name: int(fields[name]) for name in _NUMBERS},  # type: ignore[arg-type]
        **{name: datetime.fromisoformat(fields[name]) for name in _TIMES if name in fields},  # type: ignore[arg-type]
        status=TaskStatus(fields["status"]),
        priority=Priority(fields["priority"]),
        context=json.loads(fields["context"]),
        output=json.loads(fields["output"]) if "output" in fields else None,
        files=tuple(json.loads(fields.get("files", "[]"))),
        checks=tuple(json.loads(fields.get("checks", "[]"))),
        labels=tuple(json.loads(fields.get("labels", "[]"))),
        depends_on=tuple(json.loads(fields["depends_on"])),
        **{name: name in fields for name in _FLAGS},  # type: ignore[arg-type]
    )


def _facts(info: Any) -> dict[str, Any]:
    """The facts of INFO, which the whole client gives as an object."""
    if isinstance(info, dict):
        return info
    return dict(line.split(":", 1) for line in str(info).splitlines() if ":" in line)


def _why_no_mirror(facts: Mapping[str, Any]) -> str | None:
    """Why a Redis that answers is no mirror, from its INFO; None: it may be one."""
    if "sentinel" in (facts.get("redis_mode"), facts.get("server_mode")):  # the second is Valkey's name for it
        return "This is the port of a Sentinel, which Loom does not speak to: name the primary itself."
    if str(facts.get("cluster_enabled")) == "1":
        return "This is a node of a Redis Cluster, which Loom does not support yet: name a single server."
    if facts.get("role", "master") != "master":
        return "Redis takes no changes: it is a replica. Name its primary."
    policy = str(facts.get("maxmemory_policy", "noeviction"))
    if int(facts.get("maxmemory", 0)) and policy != "noeviction":
        return f"Redis may drop what it holds: its maxmemory-policy is {policy}, not noeviction."
    return None


def _position(text: str | None) -> Position | None:
    """Where a mirror has come to; None for one that is not whole, or says what nobody has written."""
    try:
        return None if text is None else Position.parse(text)
    except ValueError:
        return None


def _is_newer(layout: str) -> bool:
    return layout.isdecimal() and int(layout) > int(LAYOUT)


def _is_later(history: str, than: str) -> bool:
    """Whether a history is a later timeline of the same server and database as another."""
    (system, timeline, database), (own_system, own_timeline, own_database) = _parts(history), _parts(than)
    return (system, database) == (own_system, own_database) and timeline > own_timeline


def _parts(history: str) -> tuple[str, int, str]:
    system, _, rest = history.partition("/")
    timeline, _, database = rest.partition("/")
    try:
        return system, int(timeline, 16), database
    except ValueError:  # a history that is not told by timelines
        return system, 0, database


def _flat(fields: dict[str, str]) -> list[str]:
    return [part for pair in fields.items() for part in pair]


def _score_range(priority: Priority) -> tuple[str, str]:
    floor = PRIORITY_SCORES[priority]
    return str(floor), f"({floor + 1}"
