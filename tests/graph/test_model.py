"""Random histories against a model: whatever is done to the graph, by whom and in which order, it is what it should be.

`model.py` says what each operation must answer and leave behind. After every step the rows are the model's and every
invariant holds; the mirror may lag behind until a relay has run, and then shows the same. `--model-examples` says how
many histories are played.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from copy import deepcopy
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from loom.bus import channels
from loom.config import LoomConfig, RedisConfig, RetentionConfig
from loom.exceptions import LoomError
from loom.graph import store
from loom.graph.front import Loom
from loom.graph.importing import read
from loom.graph.rules import invariants, landings
from loom.graph.rules.claims import Outcome
from loom.graph.rules.holding import Holder
from loom.graph.rules.mending import Diagnosis, Remedy, mend
from loom.graph.rules.proofs import Proven
from loom.graph.store import counting, proofs
from tests.conftest import horizon_passed
from tests.graph.model import ATTEMPTS, DEADLINE, LEASE, Effect, Landing, Letter, Model, New, Refused, Remark

T = TypeVar("T")
Checks = tuple[str, ...]

STEPS = 40  # of one history
PROCESSES = ("ann", "bob", "cut")  # the last one's Redis is out of reach, as if it died after each commit
NOBODY = "loom-00000000"
TASKS = 20

numbers = st.integers(0, 999)
processes = st.sampled_from(PROCESSES)
names = st.sampled_from([None, None, "ann", "bob", "dan"])
needs = st.none() | st.lists(numbers, max_size=3)
checks = st.sampled_from([(), (), (), ("unit",), ("unit", "lint")])
words = st.sampled_from([(), ("api",), ("ui",), ("api", "ui")])
IN_FORCE = {"unit": "a" * 64, "lint": "b" * 64}
entries = st.lists(
    st.tuples(st.booleans(), st.integers(-3, 5), st.lists(st.integers(0, 5), max_size=2)), min_size=1, max_size=6
)


class Graph(RuleBasedStateMachine):
    """One project, as three processes use it. The clock stands still but for `later`, and for a second a call."""

    def __init__(self, config: LoomConfig, loop: asyncio.Runner) -> None:
        super().__init__()
        self.config = replace(config, project_id=str(uuid.uuid4()))
        self.loop = loop
        self.model = Model(held={process: {} for process in PROCESSES})
        self.escalations: list[tuple[str, str, bool]] = []  # id, task, whether it is open
        self.tokens: list[tuple[str, int]] = []  # of every claim there ever was
        self.letters: list[int] = []  # ids of the messages
        self.known: dict[tuple[str, int], int] = {}  # ids of what lands, by task and token
        self.plans: list[tuple[str, str, dict[str, str]]] = []  # text and name of what was imported, its titles by id
        self.keyed: dict[str, list[dict[str, Any]]] = {}  # plans by their idempotency keys
        self.remembered: dict[bytes, tuple[int, bytes]] | None = None
        self.eager = True
        self.looms: dict[str, Loom] = {}
        self.run(self._begin())

    async def _begin(self) -> None:
        self.watcher = await asyncpg.connect(self.config.database.url, server_settings={"synchronous_commit": "off"})
        self.redis = Redis.from_url(self.config.redis.url or "")
        self.start = datetime.now(UTC).replace(microsecond=0)
        await self.watcher.execute("update clock set at = $1", self.start)
        for process in PROCESSES:
            self._enter(process)
            await self.looms[process].connect()

    def _enter(self, process: str) -> None:
        gone = RedisConfig(url="unix:///nonexistent/redis.sock")
        config = replace(self.config, redis=gone) if process == "cut" else self.config
        self.looms[process] = Loom(config, agent=process)

    def teardown(self) -> None:
        self.run(self._end())

    async def _end(self) -> None:
        for loom in self.looms.values():
            await loom.close()
        if keys := await self._keys():
            await self.redis.delete(*keys)
        await self.redis.aclose()
        await self.watcher.close()

    def run(self, work: Awaitable[T]) -> T:
        async def wait() -> T:
            async with asyncio.timeout(60):
                return await work

        return self.loop.run(wait())

    # --- making and changing tasks ------------------------------------------------------------------------------------

    @initialize(eager=st.booleans(), given=entries)
    def begin(self, eager: bool, given: list[Any]) -> None:
        """`eager`: the mirror is brought up to date after each step, and does not lag behind."""
        self.eager = eager
        self.plan("ann", given, None, None)

    @precondition(lambda self: len(self.model.rows) < TASKS)
    @rule(
        process=processes,
        needs=needs,
        under=st.none() | numbers,
        priority=st.integers(0, 2),
        epic=st.booleans(),
        checks=checks,
        key=st.sampled_from([None, None, None, "one", "two"]),
    )
    def create(
        self,
        process: str,
        needs: list[int] | None,
        under: int | None,
        priority: int,
        epic: bool,
        checks: Checks,
        key: str | None,
    ) -> None:
        targets = tuple(dict.fromkeys(self.pick(one) for one in needs or ()))
        parent = None if under is None else self.pick(under, "epic", "pending", "blocked")
        title = f"T{len(self.model.rows)}"

        def predict(made: Any) -> None:
            if key in self.model.keys:
                self._same(made.id, self.model.keys[key])
                return
            self.model.create([New(made.id if made else "", title, priority, epic, parent, targets, checks, checks)])
            if key is not None:
                self.model.keys[key] = made.id

        self.play(
            self.looms[process].create(
                title,
                depends_on=targets,
                parent_id=parent,
                priority=f"p{priority}",
                epic=epic,
                files=checks,
                checks=checks,
                key=key,
            ),
            predict,
        )

    @precondition(lambda self: len(self.model.rows) < TASKS)
    @rule(process=processes, given=entries, after=st.none() | numbers, under=st.none() | numbers)
    def plan(self, process: str, given: list[Any], after: int | None, under: int | None) -> None:
        tasks = self._plan(given)
        if after is not None:
            tasks[-1]["depends_on"].append(self.pick(after))
        if under is not None and "parent" not in tasks[0]:
            tasks[0]["parent"] = self.pick(under, "epic", "pending", "blocked")
        self.play(
            self.looms[process].apply_plan({"tasks": tasks}),
            lambda made: self.model.create(self._news(tasks, made or [])),
        )

    @precondition(lambda self: len(self.model.rows) < TASKS)
    @rule(process=processes, given=entries, key=st.sampled_from(["one", "two"]), which=numbers, inside=st.booleans())
    def plan_under_a_key(self, process: str, given: list[Any], key: str, which: int, inside: bool) -> None:
        """The same plan again under its key, with a task more each time, makes that one alone."""
        known = self.keyed.get(key)
        tasks = self._plan(given) if known is None else deepcopy(known)
        if known is not None:
            # It lies in one of the others or waits for one: with both it might wait for itself.
            other = tasks[which % len(tasks)]["key"]
            place: dict[str, Any] = {"parent": other, "depends_on": []} if inside else {"depends_on": [other]}
            tasks.append({"key": f"x{len(tasks)}", "title": f"T{len(self.model.rows)}", "type": "task", **place})

        def predict(made: Any) -> None:
            there = {} if known is None else {one["key"]: self.model.keys[f"{key} {one['key']}"] for one in known}
            ids = there | {one["key"]: task.id for one, task in zip(tasks, made or [], strict=False)}
            self._same({name: ids[name] for name in there}, there)
            self.model.create(self._news([one for one in tasks if one["key"] not in there], made or [], ids))
            self.model.keys |= {f"{key} {name}": one for name, one in ids.items()}

        if self.play(self.looms[process].apply_plan({"tasks": tasks}, key=key), predict) is not None:
            self.keyed[key] = tasks

    @precondition(lambda self: len(self.model.rows) < TASKS)
    @rule(process=processes, given=entries)
    def bring(self, process: str, given: list[Any]) -> None:
        """Imports a plan."""
        tasks, name = self._plan(given), f"plan-{len(self.plans)}.json"
        text = json.dumps({"tasks": tasks})
        try:
            batch = read(text, name, known_as=name)
        except LoomError:
            return
        made = self.play(
            self.looms[process].import_tasks(batch),
            lambda made: self.model.create(self._news(tasks, made.tasks if made else [])),
        )
        assert made is not None
        assert (made.known, made.linked) == (0, 0)
        self.plans.append((text, name, {one.id: one.title for one in made.tasks}))

    @precondition(lambda self: self.plans)
    @rule(process=processes, which=numbers)
    def bring_again(self, process: str, which: int) -> None:
        """Imports a plan once more, which brings nothing but its titles back."""
        text, name, titles = self.plans[which % len(self.plans)]
        batch = read(text, name, known_as=name)
        made = self.play(self.looms[process].import_tasks(batch), lambda _: None)
        assert made is not None
        assert (made.tasks, made.linked, made.known) == ([], 0, len(batch.drafts))
        assert made.retitled == self.model.retitle(titles)

    @rule(
        process=processes,
        which=numbers,
        title=st.booleans(),
        priority=st.none() | st.integers(0, 2),
        needs=needs,
        more=st.none() | numbers,
        less=st.none() | numbers,
        seen=st.sampled_from([None, None, True, False]),
    )
    def update(
        self,
        process: str,
        which: int,
        title: bool,
        priority: int | None,
        needs: list[int] | None,
        more: int | None,
        less: int | None,
        seen: bool | None,
    ) -> None:
        task = self.pick(which, "pending", "blocked", "epic", "failed")
        targets = None if needs is None else tuple(dict.fromkeys(self.pick(one) for one in needs))
        added = () if more is None else (self.pick(more),)
        has = [*self.model.rows[task].needs] if task in self.model.rows else []
        removed = () if less is None else (has[less % len(has)] if has and less % 7 else self.pick(less),)
        was = None
        if seen is not None and task in self.model.rows:
            was = self.model.rows[task].title if seen else "another"
        new = f"{task} anew" if title or (priority is None and targets is None) else None
        self.led_to(
            self.looms[process].update(
                task,
                title=new,
                priority=None if priority is None else f"p{priority}",
                depends_on=targets,
                add_deps=added,
                drop_deps=removed,
                seen=None if was is None else {"title": was},
            ),
            lambda _: self.model.edit(
                task, title=new, priority=priority, needs=targets, more=added, less=removed, seen=was
            ),
        )

    @rule(process=processes, which=numbers, labels=words, unlabel=words)
    def label(self, process: str, which: int, labels: Checks, unlabel: Checks) -> None:
        task = self.pick(which)
        if labels or unlabel:
            self.led_to(
                self.looms[process].update(task, labels=labels, unlabel=unlabel),
                lambda _: self.model.label(task, labels, unlabel),
            )

    @rule(process=processes, which=numbers, under=st.none() | numbers)
    def place(self, process: str, which: int, under: int | None) -> None:
        task = self.pick(which, "pending", "blocked", "epic", "failed")
        parent = None if under is None else self.pick(under, "epic", "pending", "blocked")
        self.led_to(self.looms[process].update(task, parent_id=parent or ""), lambda _: self.model.move(task, parent))

    @rule(process=processes, which=numbers, agent=names, files=checks, checks=checks, anew=st.booleans())
    def hold_to(self, process: str, which: int, agent: str | None, files: Checks, checks: Checks, anew: bool) -> None:
        task = self.pick(which, "pending", "claimed")
        if not (files or checks or anew):
            return
        self.led_to(
            self.looms[process].update(task, files=files, checks=checks, no_files=anew, no_checks=anew, agent_id=agent),
            lambda _: self.model.hold_to(process, task, agent, files=files, checks=checks, anew=anew),
        )

    @rule(process=processes, which=numbers, exit_status=st.sampled_from([0, 0, 0, 1, None]))
    def prove(self, process: str, which: int, exit_status: int | None) -> None:
        """Runs every check for the newest claim of a task, outside of any repository."""
        task = self.pick(which, "claimed")
        if task not in self.model.rows:
            return
        token = self.model.rows[task].token

        async def run(tx: store.Transaction) -> None:
            for name, digest in IN_FORCE.items():
                number = await proofs.begin(tx, name, digest, agent=process, tree=None, task_id=task, token=token)
                await proofs.close(tx, number, exit_status=exit_status, seconds=0.1, tail="")

        self.run(self.looms[process].transact(run))
        if exit_status == 0:
            self.model.green.add((task, token))

    @rule(process=processes, which=numbers, downstream=st.booleans())
    def cancel(self, process: str, which: int, downstream: bool) -> None:
        task = self.pick(which, "pending", "blocked", "epic", "claimed", "failed")
        self.led_to(
            self.looms[process].cancel(task, downstream=downstream),
            lambda _: self.model.cancel(task, downstream=downstream),
        )

    # --- claims -------------------------------------------------------------------------------------------------------

    @rule(process=processes, which=st.none() | numbers, agent=names, lease=st.sampled_from([None, 5.0, 100_000.0]))
    def claim(self, process: str, which: int | None, agent: str | None, lease: float | None) -> None:
        task = None if which is None else self.pick(which, "pending")
        made = self.play(
            self.looms[process].claim(task, agent_id=agent, lease_seconds=lease),
            lambda made: self._same(made and made.task.id, self.model.claim(process, task, agent, lease)),
        )
        if made is not None:
            assert {one["id"] for one in made.inputs} == set(self.model.rows[made.task.id].needs)

    @rule(process=processes, which=numbers, who=st.integers(0, 5), told=st.booleans())
    def done(self, process: str, which: int, who: int, told: bool) -> None:
        task, agent, token = self.who(which, who)
        proven = Proven(IN_FORCE) if told else None
        self.led_to(
            self.looms[process].done(task, {"by": process}, agent_id=agent, token=token, proven=proven),
            lambda _: self.model.done(process, task, agent, token, told=told),
        )

    @rule(process=processes, count=st.integers(1, 4))
    def work(self, process: str, count: int) -> None:
        """Does what is ready, the best first, so that what waits comes into its own."""
        for _ in range(count):
            for task in self.model.best()[:1]:
                self.led_to(self.looms[process].done(task), partial(self._done, process, task))

    def _done(self, process: str, task: str, _: Outcome | None) -> Effect | None:
        return self.model.done(process, task, None, None, told=False)

    @rule(process=processes, which=numbers, who=st.integers(0, 5), retry=st.booleans())
    def fail(self, process: str, which: int, who: int, retry: bool) -> None:
        task, agent, token = self.who(which, who)

        def predict(outcome: Outcome | None) -> Effect:
            again = None if outcome is None else self.seconds(outcome.task.retry_at)
            if outcome is not None and again is not None:  # it is spread at random
                backoff = self.config.orchestration.backoff_base_seconds * 2 ** (outcome.task.attempt - 1)
                assert 0.8 * backoff <= again - self.model.now <= 1.2 * backoff
            return self.model.fail(process, task, agent, token, again if retry else None)

        self.led_to(self.looms[process].fail(task, "no", retry=retry, agent_id=agent, token=token), predict)

    @rule(process=processes, which=numbers, who=st.integers(0, 5))
    def escalate(self, process: str, which: int, who: int) -> None:
        task, agent, token = self.who(which, who)
        self.led_to(
            self.looms[process].escalate(task, "?", agent_id=agent, token=token),
            lambda _: self.model.escalate(process, task, agent, token),
        )

    @rule(process=processes, which=numbers, who=st.integers(0, 5), remark=st.booleans())
    def release(self, process: str, which: int, who: int, remark: bool) -> None:
        task, agent, token = self.who(which, who)
        self.led_to(
            self.looms[process].release(task, note="later" if remark else None, agent_id=agent, token=token),
            lambda _: self.model.release(process, task, agent, token, note=remark),
        )

    @rule(process=processes, which=st.none() | numbers, agent=names)
    def heartbeat(self, process: str, which: int | None, agent: str | None) -> None:
        task = None if which is None else self.pick(which, "claimed")
        self.play(
            self.looms[process].heartbeat(None if task is None else [task], agent_id=agent),
            lambda found: self._same(
                {one.id for one in (found.tasks if found else ())}, self.model.heartbeat(process, task, agent)
            ),
        )

    @rule(process=processes)
    def renew(self, process: str) -> None:
        self.play(self.looms[process].renew(), lambda lost: self._same(set(lost or ()), self.model.renew(process)))

    @rule(process=processes)
    def end_session(self, process: str) -> None:
        self.play(
            self.looms[process].end_session(),
            lambda back: self._same({one.id for one in back or ()}, self.model.end_session(process)),
        )

    @rule(process=processes)
    def crash(self, process: str) -> None:
        """The process is gone with what it remembers, and another one begins in its name."""
        self.run(self.looms[process].close())
        self._enter(process)
        self.model.held[process] = {}

    @rule(process=processes)
    def sweep(self, process: str) -> None:
        self.play(
            self.looms[process].sweep(),
            lambda found: self._same(
                found
                and (
                    {one.id for one in found[0].expired},
                    {one.id for one in found[0].retried},
                    found[0].completed,
                ),
                self.model.sweep(),
            ),
        )

    @rule(seconds=st.sampled_from([3, 40, 100, 400, 700, 5000, 90_000]))
    def later(self, seconds: int) -> None:
        self.run(self._pass(seconds))

    # --- what lands ---------------------------------------------------------------------------------------------------

    @rule(process=processes, which=numbers, who=st.integers(0, 5))
    def begin_landing(self, process: str, which: int, who: int) -> None:
        task, agent, token = self.who(which, who)
        holder = Holder(agent or process, token)
        made = self.play(
            self.looms[process].transact(partial(landings.begin, task_id=task, holder=holder, target="t", branch=task)),
            lambda _: self.model.begin(task, holder.agent, token),
        )
        if made is not None:
            self.known[made.task_id, made.token] = made.id

    @precondition(lambda self: self.known)
    @rule(process=processes, which=numbers, commit=st.integers(0, 1), needs_yes=st.booleans(), lost=st.booleans())
    def queue(self, process: str, which: int, commit: int, needs_yes: bool, lost: bool) -> None:
        """Enters the work of a claim, of the newest that lands unless `lost`."""
        task, token = [*self.known][which % len(self.known)]
        if not lost:
            token = self.model.rows[task].landing
        name = f"{task} {token} {commit}"
        self.play(
            self.looms[process].transact(
                partial(landings.enter, task_id=task, token=token, commit_id=name, base="0", needs_yes=needs_yes)
            ),
            lambda _: self.model.enter(task, token, name, needs_yes=needs_yes),
        )

    @precondition(lambda self: self.known)
    @rule(process=processes, which=numbers)
    def forgo(self, process: str, which: int) -> None:
        """The work of a claim brings nothing."""
        task, token = [*self.known][which % len(self.known)]
        self.led_to(
            self.looms[process].transact(partial(landings.forgo, task_id=task, token=token, output={})),
            lambda _: self.model.forgo(task, token),
        )

    @precondition(lambda self: self.known)
    @rule(
        process=processes,
        some=st.lists(numbers, min_size=1, max_size=3),
        commit=st.integers(0, 2),
        waiting=st.booleans(),
    )
    def intend(self, process: str, some: list[int], commit: int, waiting: bool) -> None:
        """Is about to move the target to a commit which brings some of what waits, or of whatever there is."""
        from_ = self.model.waiting_to_land() if waiting else self.model.landings
        if chosen := list({id(one): one for one in (from_[number % len(from_)] for number in some if from_)}.values()):
            keys = [(one.task, one.token) for one in chosen]
            self.play(
                self.looms[process].transact(
                    partial(
                        landings.intend,
                        landing_ids=[self.known[key] for key in keys],
                        commit_id=f"m{commit}",
                        target="t",
                        old="0",
                    )
                ),
                lambda made: self._same(
                    [(one.task_id, one.token) for one in made or ()],
                    keys if self.model.intend(chosen, f"m{commit}") else [],
                ),
            )

    @precondition(lambda self: self.known)
    @rule(process=processes, which=numbers, commit=st.integers(0, 2), moved=st.booleans())
    def move(self, process: str, which: int, commit: int, moved: bool) -> None:
        """The target was moved to a commit, or certainly was not, as somebody finds."""
        being = [one for one in self.model.landings if one.open] or self.model.landings
        one = being[which % len(being)]
        name = min(one.open, default=f"m{commit}")
        known = self.known[one.task, one.token]
        if moved:
            self.led_to(
                self.looms[process].transact(partial(landings.landed, landing_id=known, commit_id=name)),
                lambda _: self.model.landed(self._again(one), name),
            )
        else:
            self.play(
                self.looms[process].transact(partial(landings.withdraw, landing_ids=[known], commit_id=name)),
                lambda _: self.model.withdraw([self._again(one)], name),
            )

    @precondition(lambda self: self.known)
    @rule(process=processes, which=numbers)
    def send_back(self, process: str, which: int) -> None:
        under_way = [one for one in self.model.landings if one.state not in ("landed", "dropped")]
        from_ = under_way if under_way and which % 5 else self.model.landings
        one = from_[which // 5 % len(from_)]
        known = self.known[one.task, one.token]
        self.play(
            self.looms[process].transact(partial(landings.send_back, landing_id=known, reason="red", note="see")),
            lambda _: self.model.send_back(self._again(one)),
        )

    @rule(process=processes, which=numbers, yes=st.booleans())
    def approve(self, process: str, which: int, yes: bool) -> None:
        asked = [one.task for one in self.model.landings if one.state == "queued" and one.needs_yes]
        task = asked[which % len(asked)] if asked and which % 5 else self.pick(which, "claimed")
        loom = self.looms[process]
        self.play(loom.approve(task) if yes else loom.refuse(task), lambda _: self.model.approve(task, yes=yes))

    def _again(self, landing: Landing) -> Landing:
        """The same, in the model as it is now: a refusal puts the one of before back."""
        return next(one for one in self.model.landings if (one.task, one.token) == (landing.task, landing.token))

    # --- ways out, and messages ---------------------------------------------------------------------------------------

    @rule(
        process=processes,
        which=numbers,
        action=st.sampled_from(["retry", "answer", "reassign", "waive", "cancel"]),
        remark=st.booleans(),
        agent=st.sampled_from([None, "ann", "dan"]),
        downstream=st.booleans(),
        by_escalation=st.booleans(),
    )
    def resolve(
        self, process: str, which: int, action: str, remark: bool, agent: str | None, downstream: bool,
        by_escalation: bool,
    ) -> None:  # fmt: skip
        asked = [row.id for row in self.model.rows.values() if row.asked or row.failure]
        task = asked[which % len(asked)] if asked and which % 3 else self.pick(which, "failed", "blocked")
        target, closed = task, False
        if by_escalation and self.escalations:
            target, task, is_open = self.escalations[which % len(self.escalations)]
            closed = not is_open

        def predict(_: object) -> Effect:
            if closed:
                raise Refused("task_state")
            return self.model.resolve(process, task, action, note=remark, agent=agent, downstream=downstream)

        self.led_to(
            self.looms[process].resolve(
                target, action, note="so" if remark else None, agent_id=agent, downstream=downstream
            ),
            predict,
        )

    @rule(process=processes, which=numbers)
    def defer(self, process: str, which: int) -> None:
        task = self.pick(which, "pending", "blocked")
        self.led_to(self.looms[process].defer(task), lambda _: self.model.defer(task))

    @rule(
        process=processes,
        which=numbers,
        remedy=st.sampled_from(Remedy),
        fixes=st.lists(st.booleans(), max_size=3),
        remark=st.booleans(),
    )
    def mend(self, process: str, which: int, remedy: Remedy, fixes: list[bool], remark: bool) -> None:
        """Carries out a diagnosis. `fixes`: of each fix task, whether it waits for the one before."""
        asked = [row.id for row in self.model.rows.values() if row.asked or row.status == "failed"]
        task = asked[which % len(asked)] if asked and which % 5 else self.pick(which)
        row = self.model.rows.get(task)
        titles = [f"F{len(self.model.rows) + place}" for place in range(len(fixes))]
        diagnosis = Diagnosis(
            "it is torn",
            "high",
            remedy,
            "so" if remark else "",
            fix_tasks=tuple(
                {"title": title, "done_when": "it is whole", "depends_on": [place - 1] if waits and place else []}
                for place, (title, waits) in enumerate(zip(titles, fixes, strict=True))
            ),
        )

        def predict(made: Any) -> None:
            ids = made.fixes if made and made.fixes else titles
            news = [
                New(one, title, row.priority if row else 1, parent=row.parent if row else None,
                    needs=(ids[place - 1],) if waits and place else ())
                for place, (one, title, waits) in enumerate(zip(ids, titles, fixes, strict=True))
            ]  # fmt: skip
            left = remedy in (Remedy.ASK_PERSON, Remedy.GIVE_UP)
            self.model.mend(process, task, news, note=remark, left=left)

        self.play(
            self.looms[process].transact(
                partial(mend, task_id=task, diagnosis=diagnosis, agent=process, max_attempts=ATTEMPTS)
            ),
            predict,
        )

    @rule(process=processes)
    def prune(self, process: str) -> None:
        """What is older than a day goes."""
        self.play(self.looms[process].prune(), lambda _: self.model.prune())

    @rule(process=processes)
    def carry(self, process: str) -> None:
        """Brings the project into another one, which is as it, and into itself, which changes nothing."""

        async def carry() -> tuple[list[Any], dict[str, str], list[Any]]:
            batch = read(json.dumps(await self.looms[process].export()), "export.json")
            again = await self.looms["cut"].import_tasks(batch)
            assert (again.tasks, again.linked, again.retitled) == ([], 0, 0)
            other = replace(self.looms["cut"].config, project_id=str(uuid.uuid4()))
            async with Loom(other, agent="other") as loom:
                made = await loom.import_tasks(batch)
                broken = [one for one in await invariants.check(self.watcher, loom.project_id) if not one.holds]
                return made.tasks, {one.id: one.title for one in made.tasks}, broken

        made, titles, broken = self.run(carry())
        assert broken == []
        wanted = self.model.carried()
        named = {row.id: row.title for row in wanted.rows.values()}
        assert {
            one.title: (
                one.status,
                one.waiting,
                one.parent_id and titles[one.parent_id],
                sorted(titles[two] for two in one.depends_on),
            )
            for one in made
        } == {
            row.title: (
                row.status,
                wanted.waiting(row),
                row.parent and named[row.parent],
                sorted(named[two] for two in row.needs),
            )
            for row in wanted.rows.values()
        }

    @rule(process=processes, which=numbers)
    def reopen(self, process: str, which: int) -> None:
        task = self.pick(which, "done", "cancelled")
        self.led_to(self.looms[process].reopen(task), lambda _: self.model.reopen(task))

    @rule(process=processes, to=st.sampled_from(["ann", "dan", "*", "orchestrator"]), agent=names)
    def send(self, process: str, to: str, agent: str | None) -> None:
        self.play(
            self.looms[process].send(to, "hello", agent_id=agent),
            lambda _: self.model.letters.append(Letter(agent or process, to, self.model.now)),
        )

    @rule(process=processes, which=numbers, agent=names)
    def note(self, process: str, which: int, agent: str | None) -> None:
        task = self.pick(which)

        def predict(_: object) -> None:
            if task == NOBODY:
                raise Refused("task_not_found")
            self.model.notes.append(Remark(agent or process, task, self.model.now))

        self.play(self.looms[process].note(task, "hello", agent_id=agent), predict)

    @rule(process=processes, agent=names, ack=st.none() | numbers)
    def inbox(self, process: str, agent: str | None, ack: int | None) -> None:
        number = None if ack is None or not self.letters else ack % len(self.letters)

        def predict(found: Any) -> None:
            if number is not None:
                self.model.acknowledge(agent or process, number)
            shown = found and [one.id for one in found.messages]
            self._same(shown, [self.letters[one] for one in self.model.inbox(agent or process)])

        acked = None if number is None else [self.letters[number]]
        self.play(self.looms[process].inbox(agent_id=agent, ack=acked, limit=500), predict)

    # --- the mirror ---------------------------------------------------------------------------------------------------

    @rule()
    def flush_redis(self) -> None:
        """Redis is restarted empty."""

        async def flush() -> None:
            if keys := await self._keys():
                await self.redis.delete(*keys)
            await self.redis.script_flush()

        self.run(flush())

    @rule()
    def save_redis(self) -> None:
        """Redis writes down what it has, as of now."""

        async def save() -> dict[bytes, tuple[int, bytes]]:
            found = {key: (await self.redis.pttl(key), await self.redis.dump(key)) for key in await self._keys()}
            return {key: (max(ttl, 0), value) for key, (ttl, value) in found.items() if value is not None}

        self.remembered = self.run(save())

    @precondition(lambda self: self.remembered is not None)
    @rule()
    def lose_redis_since(self) -> None:
        """Redis is restarted with what it had written down."""

        async def load() -> None:
            if keys := await self._keys():
                await self.redis.delete(*keys)
            for key, (ttl, value) in (self.remembered or {}).items():
                await self.redis.restore(key, ttl, value)

        self.run(load())

    @rule(process=processes)
    def relay(self, process: str) -> None:
        async def step() -> bool:
            return await (await self.looms[process].relay()).step()

        assert not (self.run(step()) and process == "cut")

    @rule(process=st.sampled_from(PROCESSES[:2]))
    def look(self, process: str) -> None:
        """After a relay has run, whoever reads is shown the graph as it is, from wherever it comes."""

        async def look() -> None:
            await horizon_passed(self.looms[process])
            async with asyncio.timeout(30):  # a Redis that was slow is asked again after a second
                while not await self._sound(process):  # noqa: ASYNC110 - it announces nothing
                    await asyncio.sleep(0.1)
            for reader in self.looms.values():
                assert [one.id for one in (await reader.ready(limit=500)).tasks] == self.model.best()
                shown = {status: count for status, count in (await reader.status()).counts.items() if count}
                assert shown == self._counts()

        self.run(look())

    async def _sound(self, process: str) -> bool:
        """Whether every invariant holds and the mirror was compared; a broken one is told."""
        verdicts = await self.looms[process].doctor()
        assert [one for one in verdicts if not one.holds] == []
        return not any(one.found for one in verdicts)

    # --- what must hold after each step -------------------------------------------------------------------------------

    @invariant()
    def rows_are_as_they_should_be(self) -> None:
        tasks, letters, notes, escalations, broken, landed, order = self.run(self._read())
        assert {task.id: self._shown(task) for task in tasks} == {
            row.id: {
                "title": row.title,
                "status": row.status,
                "priority": f"p{row.priority}",
                "parent": row.parent,
                "needs": sorted(row.needs),
                "waiting": self.model.waiting(row),
                "attempt": row.attempt,
                "token": row.token,
                "assignee": row.assignee,
                "lapsed": row.lapsed,
                "files": row.files,
                "checks": row.checks,
                "labels": row.labels,
                "dead": row.dead,
                "ready_at": row.ready_at if row.status == "pending" else None,
                "lease_ends": row.lease_ends if row.status == "claimed" and not row.queued else None,
                "queued": row.queued,
                "lands": row.lands,
                "retry_at": row.retry_at,
                "done_at": row.done_at,
            }
            for row in self.model.rows.values()
        }
        assert {(task, kind) for _, task, kind, is_open in escalations if is_open} == {
            (row.id, kind)
            for row in self.model.rows.values()
            for kind, is_open in (("question", row.asked), ("deferred", row.deferred), ("failure", row.failure))
            if is_open
        }
        assert set(landed) == {
            (one.task, one.token, one.sent, bool(one.open), one.state) for one in self.model.landings
        }
        assert order == [(one.task, one.token) for one in self.model.waiting_to_land()]
        assert [letter[1:] for letter in letters] == [(one.sender, one.recipient) for one in self.model.letters]
        assert Counter(notes) == Counter((one.by, one.task) for one in self.model.notes)
        assert broken == []
        self.letters = [letter[0] for letter in letters]
        self.escalations = [(one, task, is_open) for one, task, _, is_open in escalations]
        self.tokens += [
            (row.id, row.token)
            for row in self.model.rows.values()
            if row.token and (row.id, row.token) not in self.tokens
        ]

    async def _read(self) -> tuple[list[Any], list[Any], list[Any], list[Any], list[Any], list[Any], list[Any]]:
        project = self.config.project_id or ""
        ids = await self.watcher.fetch("select id from tasks where project_id = $1", project)
        tasks = await store.get_tasks(self.watcher, project, [one["id"] for one in ids])
        letters = await self.watcher.fetch(
            "select id, sender, recipient from messages where project_id = $1 and recipient not like 'loom-%'"
            " order by id",
            project,
        )
        notes = await self.watcher.fetch(
            "select sender, recipient from messages where project_id = $1 and recipient like 'loom-%'", project
        )
        escalations = await self.watcher.fetch(
            "select id, task_id, kind, resolved_at is null from escalations where project_id = $1"
            " order by raised_at, id",
            project,
        )
        if self.eager:
            await horizon_passed(self.looms["ann"])
            await self._sound("ann")
            broken = []
        else:
            broken = [one for one in await invariants.check(self.watcher, project) if not one.holds]
        landed = await self.watcher.fetch(
            "select task_id, token, times_sent, exists(select from landing_intents i where i.landing_id = l.id"
            " and i.closed_at is null), state from landings l where project_id = $1",
            project,
        )
        order = await store.landings.waiting(self.watcher, project, "t", 500)
        return (
            list(tasks.values()),
            list(map(tuple, letters)),
            list(map(tuple, notes)),
            list(map(tuple, escalations)),
            broken,
            list(map(tuple, landed)),
            [(one.task_id, one.token) for one in order],
        )

    def _shown(self, task: Any) -> dict[str, Any]:
        return {
            "title": task.title,
            "status": task.status.value,
            "priority": task.priority.value,
            "parent": task.parent_id,
            "needs": sorted(task.depends_on),
            "waiting": task.waiting,
            "attempt": task.attempt,
            "token": task.claim_token,
            "assignee": task.assignee,
            "lapsed": task.lapsed,
            "files": task.files,
            "checks": task.checks,
            "labels": task.labels,
            "dead": task.dead,
            "ready_at": self.seconds(task.ready_at) if task.status == "pending" else None,
            "lease_ends": self.seconds(task.lease_expires_at),
            "queued": task.queued,
            "lands": task.lands,
            "retry_at": self.seconds(task.retry_at),
            "done_at": self.seconds(task.done_at),
        }

    def _counts(self) -> dict[str, int]:
        statuses = [row.status for row in self.model.rows.values()]
        return {status: statuses.count(status) for status in set(statuses)}

    # --- how ----------------------------------------------------------------------------------------------------------

    def play(self, call: Awaitable[T], predict: Callable[[T | None], Any]) -> T | None:
        """Does it, and holds it against what the model says of it: the answer, or the code of the refusal."""
        self.run(self._pass(1))
        before = deepcopy(self.model)
        result, code, refusal = None, None, None
        try:
            result = self.run(call)
        except LoomError as error:
            code = error.code
            note(str(error))
        try:
            predict(result)
        except Refused as refused:
            refusal = refused.code
            self.model = before
        assert code == refusal
        return result

    def led_to(self, call: Awaitable[Outcome], predict: Callable[[Outcome | None], Effect | None]) -> None:
        """As `play`, for what has consequences."""

        def compare(outcome: Outcome | None) -> None:
            effect = predict(outcome)
            if outcome is not None and effect is not None:
                assert Effect(*(set(getattr(outcome, one.name)) for one in fields(Effect))) == effect

        self.play(call, compare)

    async def _pass(self, seconds: int) -> None:
        self.model.now += seconds
        await self.watcher.execute("update clock set at = $1", self.start + timedelta(seconds=self.model.now))

    async def _keys(self) -> list[bytes]:
        return [key async for key in self.redis.scan_iter(match=channels.everything(self.config.project_id or ""))]

    def pick(self, number: int, *statuses: str) -> str:
        """A task, mostly one in these statuses, sometimes one that is not there."""
        rows = self.model.rows
        liked = [one for one in rows if rows[one].status in statuses]
        chosen = liked if liked and number % 5 else list(rows)
        return chosen[number // 5 % len(chosen)] if chosen and number < 990 else NOBODY

    def who(self, which: int, how: int) -> tuple[str, str | None, int | None]:
        """A task to report on, under which name, and with which token: none, the newest, or some of the past."""
        task = self.pick(which, "claimed")
        if how == 0 and self.tokens:
            task, token = self.tokens[which % len(self.tokens)]
            return task, None, token
        row = self.model.rows.get(task)
        match how:
            case 1 | 2:
                return task, None, row.token if row else 1
            case 3:
                return task, row.assignee if row else "ann", None
            case 4:
                return task, "dan", None
        return task, None, None

    def seconds(self, moment: datetime | None) -> float | None:
        return None if moment is None else (moment - self.start).total_seconds()

    @staticmethod
    def _same(found: object, wanted: object) -> None:
        assert found == wanted

    def _plan(self, given: list[Any]) -> list[dict[str, Any]]:
        """A plan of entries: whether it is an epic, which one above it is its parent if that is one, what it needs."""
        first = len(self.model.rows)
        tasks: list[dict[str, Any]] = []
        for number, (epic, parent, needs) in enumerate(given):
            entry: dict[str, Any] = {"key": f"k{number}", "title": f"T{first + number}", "type": ["task", "epic"][epic]}
            if 0 <= parent < number:
                entry["parent"] = f"k{parent}"
            entry["depends_on"] = [f"k{one}" for one in dict.fromkeys(needs) if one < number]
            tasks.append(entry)
        return tasks

    def _news(self, tasks: list[dict[str, Any]], made: list[Any], known: Mapping[str, str] | None = None) -> list[New]:
        """The tasks of a plan as the model takes them, under the ids that they got; `known`: those of others of it."""
        ids = {task["key"]: task["key"] for task in tasks} | dict(known or {})
        ids |= {task["key"]: one.id for task in tasks for one in made if one.title == task["title"]}
        return [
            New(
                ids[task["key"]],
                task["title"],
                epic=task["type"] == "epic",
                parent=ids.get(task["parent"], task["parent"]) if "parent" in task else None,
                needs=tuple(ids.get(name, name) for name in task["depends_on"]),
            )
            for task in tasks
        ]


@pytest.fixture
def clock_that_stands(config: LoomConfig) -> LoomConfig:
    """The configuration, its database with a clock that only tests move."""

    async def stop() -> None:
        connection = await asyncpg.connect(config.database.url)
        await connection.execute("create table clock as select now() as at")
        await connection.execute(
            "create or replace function loom_now() returns timestamptz language sql stable parallel safe"
            " as 'select at from clock'"
        )
        await connection.close()

    asyncio.run(stop())
    settled = replace(
        config.orchestration,
        claim_ttl_seconds=LEASE,
        deadline_seconds=DEADLINE,
        max_retries=ATTEMPTS - 1,
    )
    return replace(
        config,
        orchestration=settled,
        database=replace(config.database, pool_min=1),
        retention=RetentionConfig(events_days=1, messages_days=1, runs_days=0),
    )


@pytest.mark.timeout(0)  # each step has its own; Hypothesis would look for a shorter history that takes as long
def test_the_graph_is_as_its_model_says(
    clock_that_stands: LoomConfig,
    pytestconfig: pytest.Config,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("CRITICAL", "loom")  # of a Redis that is out of reach
    monkeypatch.setattr(counting, "LARGE", 0)  # counts are kept of few tasks too
    monkeypatch.setattr(counting, "DUE", 3)
    examples: int | None = pytestconfig.getoption("--model-examples")
    with asyncio.Runner() as loop:
        run_state_machine_as_test(
            lambda: Graph(clock_that_stands, loop),  # type: ignore[arg-type]
            settings=settings(
                max_examples=examples or 4,
                stateful_step_count=STEPS,
                derandomize=examples is None,
                phases=[Phase.generate, Phase.shrink] if examples else [Phase.generate],
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
