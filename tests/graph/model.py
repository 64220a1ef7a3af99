"""What the graph must do, in memory: plain rules that the real one is held against, operation by operation.

Nothing here counts up or down, locks, or cascades. An operation says who is refused and what it sets; what follows for
everybody else is found by definition, over all rows, in `_settle`. Times are seconds since the model began.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

LEASE, DEADLINE, ATTEMPTS = 600, 14400, 2
BROADCAST_SECONDS = 24 * 3600.0
KEPT_SECONDS = 24 * 3600.0  # of events and messages
FINISHED = ("done", "cancelled")

Node = tuple[str, bool]  # a task's end, or (True) its start


class Refused(Exception):  # noqa: N818 - what it says is said of the operation
    """The operation is refused with the error that bears this code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Row:
    """A task. `needs`: what it depends on, and whether that edge still holds it. `asked`: who has an open question;
    `deferred`: whether it is put off."""

    id: str
    title: str
    priority: int
    parent: str | None
    needs: dict[str, bool]
    status: str = "pending"
    attempt: int = 0
    token: int = 0
    assignee: str | None = None
    lapsed: bool = False
    lease: float = LEASE
    lease_ends: float = 0.0
    deadline: float = 0.0
    ready_at: float = 0.0
    retry_at: float | None = None
    done_at: float | None = None
    asked: str | None = None
    deferred: bool = False
    failure: bool = False
    files: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    answer: Effect | None = None
    landing: int = 0  # the token of the newest claim that lands
    queued: bool = False

    @property
    def lands(self) -> bool:
        return 0 < self.landing == self.token

    @property
    def dead(self) -> bool:
        return self.status == "failed" and self.retry_at is None


@dataclass
class Effect:
    """What an operation led to, besides the task itself."""

    unblocked: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    held_up: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    opened: set[str] = field(default_factory=set)
    waived: set[str] = field(default_factory=set)


@dataclass
class Landing:
    """The work of a claim that lands. `named`: the commits that were about to bring it; `open`: those that still are,
    and have not landed."""

    task: str
    token: int
    state: str = "begun"
    commit: str = ""
    needs_yes: bool = False
    approved: bool = False
    sent: int = 0
    left: float = 0.0
    queued_at: float = 0.0
    named: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)

    @property
    def waits(self) -> bool:
        return self.state == "queued" and (not self.needs_yes or self.approved)


@dataclass
class Letter:
    """A message, and who has acknowledged it."""

    sender: str
    recipient: str
    at: float
    acked: set[str] = field(default_factory=set)


@dataclass
class Remark:
    """A note on a task."""

    by: str
    task: str
    at: float


@dataclass
class New:
    """A task to create; `parent` and `needs` are ids."""

    id: str
    title: str
    priority: int = 1
    epic: bool = False
    parent: str | None = None
    needs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()


@dataclass
class Model:
    """A project. `held`: the claims that each process handed out, name and token by task; `named`: those tasks that it
    handed out to a call with a name."""

    now: float = 0.0
    rows: dict[str, Row] = field(default_factory=dict)
    held: dict[str, dict[str, tuple[str, int]]] = field(default_factory=dict)
    named: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    letters: list[Letter] = field(default_factory=list)
    notes: list[Remark] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)  # what was made under an idempotency key
    green: set[tuple[str, int]] = field(default_factory=set)  # claims for which every check is proven
    landings: list[Landing] = field(default_factory=list)
    announced: float = -1.0  # the newest end of a task when the project was last announced as complete

    # --- making and changing tasks ------------------------------------------------------------------------------------

    def create(self, news: Iterable[New]) -> Effect:
        """One task, or a whole plan."""
        news = list(news)
        own = {new.id for new in news}
        if len(news) > 1:
            _refuse_cycle({new.id: Row(new.id, "", 0, new.parent, dict.fromkeys(new.needs, True)) for new in news})
        targets = {target for new in news for target in new.needs} - own
        for target in targets:
            self._row(target)
        if any(self.rows[target].status == "cancelled" for target in targets):
            raise Refused("task_state")
        for parent in sorted({new.parent for new in news if new.parent} - own):
            self._adopt(self._row(parent))
        for new in news:
            needs = dict.fromkeys(new.needs, True)
            self.rows[new.id] = Row(new.id, new.title, new.priority, new.parent, needs, ready_at=self.now)
            self.rows[new.id].files, self.rows[new.id].checks = new.files, new.checks
            if new.epic or any(other.parent == new.id for other in news):
                self.rows[new.id].status = "epic"
        for new in self._from_the_top(news):
            above = self.rows[new.parent].checks if new.parent else ()
            self.rows[new.id].checks = tuple(dict.fromkeys((*above, *new.checks)))
        _refuse_cycle(self.rows)
        return self._settle()

    def hold_to(
        self, process: str, task: str, agent: str | None, *, files: tuple[str, ...], checks: tuple[str, ...], anew: bool
    ) -> Effect:
        """Adds what a task touches and must pass; `anew`: instead of what it has, which whoever holds it may not."""
        row = self._row(task)
        if row.status in FINISHED or (anew and self._holds(row, *self._holder(process, task, agent, None))):
            raise Refused("task_state")
        row.files = tuple(dict.fromkeys((*(() if anew else row.files), *files)))
        row.checks = tuple(dict.fromkeys((*(() if anew else row.checks), *checks)))
        return Effect()

    def edit(
        self,
        task: str,
        *,
        title: str | None,
        priority: int | None,
        needs: tuple[str, ...] | None,
        more: tuple[str, ...],
        less: tuple[str, ...],
        seen: str | None,
    ) -> Effect:
        """`more`, `less`: what it depends on beside `needs`, and no longer; `seen`: the title that who edits has
        seen."""
        if task in (*(needs or ()), *more):
            raise Refused("dependency_cycle")
        for target in (*(needs or ()), *more):
            self._row(target)
        row = self._row(task)
        if row.status in FINISHED or seen not in (None, row.title):
            raise Refused("task_state")
        row.title, row.priority = title or row.title, row.priority if priority is None else priority
        if more or less:
            kept = row.needs if needs is None else needs
            if not set(less) <= set(kept):
                raise Refused("invalid_input")
            needs = tuple(dict.fromkeys((*(one for one in kept if one not in less), *more)))
        if needs is not None:
            added = set(needs) - set(row.needs)
            begun = any(self.rows[below].status in ("claimed", "done") for below in self._below(task))
            if added and (row.status == "claimed" or (row.status == "epic" and begun)):
                raise Refused("task_state")
            if any(self.rows[target].status == "cancelled" for target in added):
                raise Refused("task_state")
            row.needs = {target: row.needs.get(target, True) for target in needs}
            _refuse_cycle(self.rows)
        return self._settle()

    def label(self, task: str, labels: tuple[str, ...], unlabel: tuple[str, ...]) -> Effect:
        row = self._row(task)
        if row.status in FINISHED:
            raise Refused("task_state")
        row.labels = tuple(sorted({*row.labels} - {*unlabel} | {*labels}))
        return Effect()

    def move(self, task: str, parent: str | None) -> Effect:
        """Puts a task into an epic, or into none."""
        row = self._row(task)
        if row.status in FINISHED:
            raise Refused("task_state")
        if parent == row.parent:
            return self._settle()
        if parent == task:
            raise Refused("dependency_cycle")
        if parent is not None:
            self._adopt(self._row(parent))
            above = self.rows[parent]
            begun = any(self.rows[below].status in ("claimed", "done") for below in self._below(task))
            if self.waiting(above) and (row.status == "claimed" or (row.status == "epic" and begun)):
                raise Refused("task_state")
            row.parent = parent
            _refuse_cycle(self.rows)
            for one in (task, *self._below(task)):
                if self.rows[one].status not in FINISHED:
                    self.rows[one].checks = tuple(dict.fromkeys((*above.checks, *self.rows[one].checks)))
        row.parent = parent
        return self._settle()

    def retitle(self, titles: Mapping[str, str]) -> int:
        """How many unfinished tasks get other titles."""
        changed = [row for row in self.rows.values() if row.title != titles.get(row.id, row.title)]
        for row in changed:
            row.title = row.title if row.status in FINISHED else titles[row.id]
        return sum(row.status not in FINISHED for row in changed)

    def cancel(self, task: str, *, downstream: bool) -> Effect:
        if self._row(task).status in FINISHED:
            raise Refused("task_state")
        reach, grown = set[str](), {task}
        while grown := grown - reach:
            reach |= grown
            grown = {row.id for row in self.rows.values() if row.status not in FINISHED and (
                row.parent in reach or (downstream and any(row.needs.get(one) for one in reach)))}  # fmt: skip
        for one in reach:
            self._leave(self.rows[one])
        gone = {one for one in reach if self.rows[one].status != "epic" or not list(self._children(one))}
        for one in reach:
            self._close_escalations(self.rows[one])
        for one in gone:
            self._finish(self.rows[one], "cancelled")
        effect = self._settle()
        effect.held_up, effect.cancelled = self._held_up(task), gone
        return effect

    # --- claims -------------------------------------------------------------------------------------------------------

    def best(self) -> list[str]:
        """What is ready, in the order in which it will be claimed."""
        ready = [row for row in self.rows.values() if row.status == "pending"]
        ready.sort(key=lambda row: row.id, reverse=True)
        return [row.id for row in sorted(ready, key=lambda row: (row.priority, row.ready_at))]

    def claim(self, process: str, task: str | None, agent: str | None, lease: float | None) -> str | None:
        """The id of what is claimed."""
        if task is None:
            task = next(iter(self.best()), None)
        elif self._row(task).status != "pending":
            raise Refused("claim_conflict" if self.rows[task].status == "claimed" else "task_state")
        if task is not None:
            self._claim(self.rows[task], agent or process, lease or LEASE)
            self.held[process][task] = agent or process, self.rows[task].token
            (self.named[process].discard if agent is None else self.named[process].add)(task)
        return task

    def done(self, process: str, task: str, agent: str | None, token: int | None, *, told: bool) -> Effect | None:
        """`told`: where its proofs are is said. None: an answer that was never given before, so nothing is said of
        it."""
        row = self._reported(process, task, agent, token, late=True)
        if row.lands and row.status != "done":
            landing = self._landing(row)
            if landing.state not in ("reported", "queued"):
                landing.state = "reported"
                if row.status != "claimed":
                    self._take_up(row, row.deadline)
            return Effect()
        if row.status != "done" and row.checks and not (told and (task, row.token) in self.green):
            raise Refused("proof_missing")
        self.held[process].pop(task, None)
        if row.status == "done":
            return row.answer
        self._close_escalations(row)
        self._finish(row, "done")
        row.lapsed = False
        row.answer = self._settle()
        return row.answer

    def fail(self, process: str, task: str, agent: str | None, token: int | None, retry_at: float | None) -> Effect:
        """`retry_at`: when it is to be tried again if attempts are left; None: never."""
        row = self._reported(process, task, agent, token)
        self._leave(row)
        self.held[process].pop(task, None)
        row.status = "failed"
        row.retry_at = retry_at if row.attempt < ATTEMPTS else None
        row.failure = row.dead
        return Effect(held_up=self._held_up(task) if row.dead else set())

    def escalate(self, process: str, task: str, agent: str | None, token: int | None) -> Effect:
        asker, _ = self._holder(process, task, agent, token)
        row = self._reported(process, task, agent, token)
        self._leave(row)
        self.held[process].pop(task, None)
        row.status, row.asked = "blocked", asker
        return Effect(held_up=self._held_up(task))

    def release(self, process: str, task: str, agent: str | None, token: int | None, *, note: bool) -> Effect:
        row, (who, token) = self._row(task), self._holder(process, task, agent, token)
        if not self._holds(row, who, token):
            raise _refusal(row, token)
        self._leave(row)
        self._tell_why_sent_back(row)
        self.notes += [Remark(who, task, self.now)] * note
        self.held[process].pop(task, None)
        row.status, row.ready_at, row.attempt = "pending", self.now, row.attempt - 1
        return Effect()

    def heartbeat(self, process: str, task: str | None, agent: str | None) -> set[str]:
        """The ids of what is renewed: of one task, or of all that the agent holds."""
        if task is None:
            wanted = [row for row in self.rows.values() if self._holds(row, agent or process, None)]
        else:
            wanted = [self._row(task)]
        by = {row.id: self._holder(process, row.id, agent, None) for row in wanted}
        standing = [row for row in wanted if self._holds(row, *by[row.id])]
        if task is not None and not standing:
            raise _refusal(wanted[0], by[task][1])
        for row in standing:
            self._renew(row)
        return {row.id for row in standing}

    def renew(self, process: str) -> set[str]:
        """The ids of the claims that this process has lost."""
        lost = {
            task for task, (who, token) in self.held[process].items() if not self._holds(self.rows[task], who, token)
        }
        for task in lost | {task for task in self.held[process] if self.rows[task].queued}:
            del self.held[process][task]
        for task in self.held[process]:
            self._renew(self.rows[task])
        return lost

    def end_session(self, process: str) -> set[str]:
        """The ids of what is given back."""
        held, self.held[process] = self.held[process], {}
        standing = [
            self.rows[task]
            for task, (who, token) in held.items()
            if self._holds(self.rows[task], who, token) and not self.rows[task].queued
        ]
        for row in standing:
            self._leave(row)
            self._tell_why_sent_back(row)
            row.status, row.ready_at, row.lapsed, row.attempt = "pending", self.now, True, row.attempt - 1
        return {row.id for row in standing}

    def sweep(self) -> tuple[set[str], set[str], bool]:
        """What had expired, what is tried again, and whether the project is announced as complete."""
        expired = [row for row in self.rows.values() if self._is_over(row)]
        due = [row for row in self.rows.values() if row.retry_at is not None and row.retry_at <= self.now]
        for row in expired:
            self._lapse(row)
        for row in due:
            self._into_play(row)
        self._settle()
        newest = max((row.done_at for row in self.rows.values() if row.done_at is not None), default=self.announced)
        complete = all(row.status in FINISHED for row in self.rows.values()) and newest > self.announced
        self.announced = newest if complete else self.announced
        return {row.id for row in expired}, {row.id for row in due}, complete

    # --- ways out -----------------------------------------------------------------------------------------------------

    def resolve(
        self, process: str, task: str, action: str, *, note: bool, agent: str | None, downstream: bool
    ) -> Effect:
        if action == "cancel":
            return self.cancel(task, downstream=downstream)
        row = self._row(task)
        if action == "waive":
            if row.status in ("claimed", "done", "epic") and not row.queued:
                raise Refused("task_state")
            self._leave(row)
            self._close_escalations(row)
            if row.status != "cancelled":
                self._finish(row, "cancelled")
            for other in self.rows.values():
                if task in other.needs:
                    other.needs[task] = False
            return self._settle()
        if row.queued and action == "reassign":
            self._leave(row)
        elif row.asked is None and not row.deferred and row.status != "failed":
            raise Refused("task_state")
        if action == "answer" and not (note and row.asked):
            raise Refused("invalid_input")
        if action == "reassign" and row.status == "epic":
            raise Refused("task_state")
        if action == "reassign" and agent is None:
            raise Refused("invalid_input")
        self.notes += [Remark(process, task, self.now)] * note
        if action == "answer":
            self.letters.append(Letter(process, row.asked or "", self.now))
        self._close_escalations(row)
        self._into_play(row)
        row.attempt = 0
        effect = self._settle()
        if row.status == "epic":
            return Effect(effect.unblocked)
        if action == "reassign" and agent is not None:
            if row.status != "pending":
                raise Refused("task_state")
            self._claim(row, agent, LEASE)
            self.letters.append(Letter(process, agent, self.now))
        return Effect({task} if row.status == "pending" else set())

    def defer(self, task: str) -> Effect:
        row = self._row(task)
        if row.status not in ("pending", "blocked") or row.deferred:
            raise Refused("task_state")
        row.status, row.deferred = "blocked", True
        return Effect(held_up=self._held_up(task))

    def mend(self, process: str, task: str, fixes: list[New], *, note: bool, left: bool) -> None:
        """Carries a diagnosis out: the task waits for these fixes. `left`: it is left to a person."""
        row = self._row(task)
        if row.asked is None and row.status != "failed":
            raise Refused("task_state")
        if left:
            return
        if fixes:
            self.create(fixes)
            row.needs |= dict.fromkeys((one.id for one in fixes), True)
        self._close_escalations(row)
        self._into_play(row)
        row.attempt = 0
        self.notes += [Remark(process, task, self.now)] * note
        self._settle()

    def prune(self) -> None:
        """Nobody knows any more what is older than what is kept; what was written to unfinished work is."""
        old = self.now - KEPT_SECONDS
        self.letters = [one for one in self.letters if one.at >= old]
        self.notes = [one for one in self.notes if one.at >= old or self.rows[one.task].status not in FINISHED]
        for row in self.rows.values():
            if row.done_at is not None and row.done_at < old:
                row.answer = None

    def carried(self) -> Model:
        """The project as its export brings it into another one: nobody has begun, and what waited for an answer is put
        off."""
        other = Model(now=self.now, rows={row.id: replace(row) for row in self.rows.values()})
        for row in other.rows.values():
            if row.status not in (*FINISHED, "epic"):
                row.status, row.deferred = "pending", row.deferred or row.asked is not None
            row.asked = None
        other._settle()
        return other

    def reopen(self, task: str) -> Effect:
        """Puts what is finished into play again, and what closed above it. Who has begun goes on without it."""
        row, waived, opened = self._row(task), set[str](), set[str]()
        if row.status not in FINISHED or any(self._children(task)):
            raise Refused("task_state")
        while row.status in FINISHED:
            was, row.status = row.status, "pending" if row.id == task else "epic"
            row.done_at, row.ready_at, row.attempt, row.lapsed, row.landing = None, self.now, 0, False, 0
            for other in self.rows.values() if was == "done" else ():
                if other.needs.get(row.id) and self._has_begun(other):
                    other.needs[row.id] = False
                    waived.add(other.id)
            opened |= {row.id} - {task}
            if row.parent is None:
                break
            row = self.rows[row.parent]
        _refuse_cycle(self.rows)
        self._settle()
        ready = {task} if self.rows[task].status == "pending" else set[str]()
        return Effect(ready, held_up=self._held_up(task), opened=opened, waived=waived)

    def _has_begun(self, row: Row) -> bool:
        below = [self.rows[one].status for one in self._below(row.id)] if row.status == "epic" else [row.status]
        return any(status in ("claimed", "done") for status in below)

    # --- what lands ---------------------------------------------------------------------------------------------------

    def begin(self, task: str, agent: str, token: int | None) -> None:
        row = self._row(task)
        if not self._holds(row, agent, token):
            raise _refusal(row, token)
        if row.queued:
            raise Refused("task_state")
        if not row.lands:
            row.landing = row.token
            self.landings.append(Landing(task, row.token))
        self._landing(row).state = "begun"

    def enter(self, task: str, token: int, commit: str, *, needs_yes: bool) -> None:
        row = self._row(task)
        landing = next((one for one in self.landings if (one.task, one.token) == (task, token)), None)
        if landing is not None and landing.commit == commit and landing.state in ("queued", "landed"):
            return
        if not (row.token == token and (row.status == "claimed" or self._may_go_on(row))):
            raise _refusal(row, token)
        if landing is None or landing.open:
            raise Refused("task_state")
        if not row.queued:
            landing.left = row.deadline - self.now
        landing.state, landing.commit, landing.queued_at = "queued", commit, self.now
        landing.needs_yes, landing.approved = needs_yes, False
        self._take_up(row, row.deadline)
        row.queued = True

    def forgo(self, task: str, token: int) -> Effect | None:
        """It is done without landing."""
        row = self._row(task)
        if row.status == "done" and row.token == row.landing == token:
            return row.answer
        if not (row.landing == token == row.token and (row.status == "claimed" or self._may_go_on(row))):
            raise _refusal(row, token)
        self._leave(row)
        self._landing(row).state = "dropped"
        self._close_escalations(row)
        self._finish(row, "done")
        row.lapsed = False
        row.answer = self._settle()
        return row.answer

    def waiting_to_land(self) -> list[Landing]:
        """What is to be landed next, in order."""
        return sorted((one for one in self.landings if one.waits), key=lambda one: one.queued_at)

    def intend(self, some: list[Landing], commit: str) -> bool:
        """Whether all of them may be landed."""
        if not all(one.waits for one in some):
            return False
        for one in some:
            one.named.add(commit)
            one.open.add(commit)
        return True

    def withdraw(self, some: list[Landing], commit: str) -> None:
        for one in some:
            one.open.discard(commit)

    def landed(self, landing: Landing, commit: str) -> Effect | None:
        row = self.rows[landing.task]
        if landing.state == "landed":
            return row.answer
        if landing.state != "queued" or commit not in landing.named:
            raise Refused("task_state")
        landing.state, row.queued = "landed", False
        landing.open.clear()
        self._finish(row, "done")
        row.answer = self._settle()
        return row.answer

    def send_back(self, landing: Landing) -> None:
        if landing.state == "sent_back":
            return
        if landing.open or landing.state in ("landed", "dropped"):
            raise Refused("task_state")
        landing.state = "sent_back"
        landing.sent += 1
        row = self.rows[landing.task]
        if row.queued:
            row.queued = False
            self._take_up(row, self.now + landing.left)

    def approve(self, task: str, *, yes: bool) -> None:
        row = self._row(task)
        if not row.lands or self._landing(row).state != "queued" or not self._landing(row).needs_yes:
            raise Refused("task_state")
        if yes:
            self._landing(row).approved = True
        else:
            self.send_back(self._landing(row))

    def _landing(self, row: Row) -> Landing:
        return next(one for one in self.landings if (one.task, one.token) == (row.id, row.landing))

    def _take_up(self, row: Row, deadline: float) -> None:
        """The claim of a task goes on."""
        self._close_escalations(row)
        row.status, row.lapsed, row.retry_at, row.attempt = "claimed", False, None, max(row.attempt, 1)
        row.lease_ends = self.now + row.lease
        row.deadline = max(row.lease_ends, deadline)

    def _leave(self, row: Row) -> None:
        """A claim ends, and its work is not to be landed any more."""
        if row.lands and row.status == "claimed":
            if self._landing(row).open:
                raise Refused("task_state")
            self._landing(row).state = "dropped"
            row.queued = False

    def _tell_why_sent_back(self, row: Row) -> None:
        if row.lands and self._landing(row).sent:
            self.notes.append(Remark("landing", row.id, self.now))

    # --- messages -----------------------------------------------------------------------------------------------------

    def inbox(self, agent: str) -> list[int]:
        """The numbers of the messages that an agent is shown."""
        return [
            number
            for number, one in enumerate(self.letters)
            if agent not in one.acked
            and (one.recipient == agent or (
                one.recipient == "*" and one.sender != agent and self.now - one.at < BROADCAST_SECONDS))
        ]  # fmt: skip

    def acknowledge(self, agent: str, number: int) -> None:
        if self.letters[number].recipient not in (agent, "*"):
            raise Refused("message_not_found")
        self.letters[number].acked.add(agent)

    # --- by definition ------------------------------------------------------------------------------------------------

    def waiting(self, row: Row) -> int:
        """How many things a task waits for."""
        open_needs = sum(holds and self.rows[target].status != "done" for target, holds in row.needs.items())
        below_waiting = row.parent is not None and self.waiting(self.rows[row.parent]) > 0
        return open_needs + below_waiting + (row.asked is not None) + row.deferred

    def _settle(self) -> Effect:
        """Closes the epics that are to be closed, and lets those tasks be blocked that wait for something."""
        effect = Effect()
        while closing := [row for row in self.rows.values() if row.status == "epic" and self._all_finished(row)]:
            for row in closing:
                done = any(child.status == "done" for child in self._children(row.id))
                self._finish(row, "done" if done else "cancelled")
                self._close_escalations(row)
                effect.closed.add(row.id)
        for row in self.rows.values():
            if row.status in ("pending", "blocked"):
                before, row.status = row.status, "blocked" if self.waiting(row) else "pending"
                if (before, row.status) == ("blocked", "pending"):
                    row.ready_at = self.now
                    effect.unblocked.add(row.id)
        return effect

    def _from_the_top(self, news: list[New]) -> list[New]:
        """Those of a plan, each after its parent."""
        placed: list[New] = []
        while len(placed) < len(news):
            left = [new for new in news if new not in placed]
            placed += [new for new in left if new.parent not in {one.id for one in left}]
        return placed

    def _all_finished(self, epic: Row) -> bool:
        children = list(self._children(epic.id))
        return bool(children) and all(child.status in FINISHED for child in children)

    def _children(self, task: str) -> Iterator[Row]:
        return (row for row in self.rows.values() if row.parent == task)

    def _below(self, task: str) -> Iterator[str]:
        for child in self._children(task):
            yield child.id
            yield from self._below(child.id)

    def _held_up(self, task: str) -> set[str]:
        return {row.id for row in self.rows.values() if row.needs.get(task) and row.status not in FINISHED}

    # --- steps that several operations share --------------------------------------------------------------------------

    def _row(self, task: str) -> Row:
        if task not in self.rows:
            raise Refused("task_not_found")
        return self.rows[task]

    def _adopt(self, parent: Row) -> None:
        if parent.status not in ("epic", "pending", "blocked") or parent.asked is not None:
            raise Refused("task_state")
        parent.status = "epic"

    def _claim(self, row: Row, agent: str, lease: float) -> None:
        row.status, row.assignee, row.lapsed, row.lease = "claimed", agent, False, lease
        row.token, row.attempt, row.deadline = row.token + 1, row.attempt + 1, self.now + DEADLINE
        self._renew(row)

    def _renew(self, row: Row) -> None:
        if not row.queued:
            row.lease_ends = min(self.now + row.lease, row.deadline)

    def _holder(self, process: str, task: str, agent: str | None, token: int | None) -> tuple[str, int | None]:
        """Who reports: the claim of its token, else of its agent, else the one that this process handed out to a call
        without a name."""
        mine = self.held[process].get(task, (process, None))
        if token is not None:
            return agent or (mine[0] if mine[1] == token else process), token
        if agent is not None:
            return agent, None
        return (process, None) if task in self.named[process] else mine

    def _holds(self, row: Row, who: str, token: int | None) -> bool:
        return row.status == "claimed" and (row.assignee == who if token is None else row.token == token)

    def _reported(self, process: str, task: str, agent: str | None, token: int | None, late: bool = False) -> Row:
        row, (who, token) = self._row(task), self._holder(process, task, agent, token)
        if self._holds(row, who, token):
            return row
        if token is None and row.status == "pending":
            self._claim(row, who, LEASE)
            return row
        newest = token is not None and row.token == token
        if late and newest and (row.status == "done" or self._may_go_on(row)):
            return row
        raise _refusal(row, token)

    def _may_go_on(self, row: Row) -> bool:
        return row.lapsed and not self.waiting(row) and (row.status == "pending" or row.dead)

    def _is_over(self, row: Row) -> bool:
        return row.status == "claimed" and row.lease_ends <= self.now and not row.queued

    def _lapse(self, row: Row) -> None:
        dropped = sum(one.task == row.id and one.state == "dropped" and one.sent > 0 for one in self.landings)
        refunded = row.lands and self._landing(row).state == "sent_back" and dropped < ATTEMPTS
        self._leave(row)
        row.lapsed = True
        if refunded:
            row.status, row.ready_at, row.attempt = "pending", self.now, row.attempt - 1
        elif row.attempt >= ATTEMPTS:
            row.status, row.failure = "failed", True
        else:
            row.status, row.ready_at = "pending", self.now
        if not row.failure:
            self._tell_why_sent_back(row)

    def _into_play(self, row: Row) -> None:
        row.status = "epic" if row.status == "epic" else "pending"
        row.ready_at, row.retry_at, row.lapsed = self.now, None, False

    def _finish(self, row: Row, status: str) -> None:
        row.status, row.done_at, row.retry_at = status, self.now, None

    def _close_escalations(self, row: Row) -> None:
        row.asked, row.deferred, row.failure = None, False, False


def _refusal(row: Row, token: int | None) -> Refused:
    lost = token is not None and row.token != token
    return Refused("claim_conflict" if lost or row.status in ("claimed", "pending") else "task_state")


def _refuse_cycle(rows: Mapping[str, Row]) -> None:
    """A task's end waits for its start and for its children's ends, its start for the ends of what it needs and for its
    parent's start; what is finished waits for nothing. None of them may wait for itself."""
    clear, path = set[Node](), set[Node]()

    def look(node: Node) -> None:
        if node in path:
            raise Refused("dependency_cycle")
        task, start = node
        if node in clear or task not in rows or rows[task].status in FINISHED:
            return
        path.add(node)
        if not start:
            look((task, True))
            for row in rows.values():
                if row.parent == task:
                    look((row.id, False))
        else:
            for target, holds in rows[task].needs.items():
                if holds:
                    look((target, False))
            if rows[task].parent is not None:
                look((rows[task].parent or "", True))
        path.discard(node)
        clear.add(node)

    for task in rows:
        look((task, False))
