"""Each lock, by a race that goes wrong without it: one transaction stands still, the other has to wait or pass by."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import asyncpg
import pytest

from loom.db.connection import Pool, open_pool
from loom.db.migrate import migrate, migrations
from loom.exceptions import DependencyCycleError, TaskStateError
from loom.graph.front import Loom
from loom.graph.rules import diagnoses, mending
from loom.graph.rules.mending import Diagnosis, Remedy
from loom.services import Endpoints
from tests.conftest import Opener, with_database
from tests.graph.conftest import Gate, Rival, begun, kill, soon, unlocked, until_waiting, waits
from tests.graph.test_lifecycle import Clock, holds, status

T = TypeVar("T")

# --- who comes second sees what the first has done --------------------------------------------------------------------


async def test_the_last_two_children_of_an_epic_done_at_once_close_it(
    loom: Loom, open_loom: Opener, pool: Pool, gate: Gate
) -> None:
    other = await open_loom("other")
    epic = await loom.create("epic", epic=True)
    first, second = [await loom.create(title, parent_id=epic.id) for title in ("first", "second")]
    after = await loom.create("after", depends_on=[epic.id])
    await gate.shut(f"new.task_id = '{first.id}' and new.type = 'task.done'")
    async with begun(loom.done(first.id)) as one:
        await waits(pool, one)
        async with begun(other.done(second.id)) as two:
            await waits(pool, two, 2)
            await gate.open()
            assert (await one).closed == ()
            assert ((await two).closed, (await two).unblocked) == ((epic.id,), (after.id,))
    await holds(loom)


async def test_two_edits_of_a_task_at_once_both_count(loom: Loom, open_loom: Opener, pool: Pool, gate: Gate) -> None:
    other = await open_loom("other")
    task = await loom.create("before")
    await gate.shut("new.agent = 'tester'")
    async with begun(loom.update(task.id, title="after")) as one:
        await waits(pool, one)
        async with begun(other.update(task.id, priority="p0")) as two:
            await waits(pool, two, 2)
            await gate.open()
            await one
            changed = (await two).task
    assert (changed.title, changed.priority) == ("after", "p0")
    await holds(loom)


async def test_a_failure_told_twice_at_once_counts_once(loom: Loom, open_loom: Opener, pool: Pool, gate: Gate) -> None:
    task = await loom.create("A")
    claim = await loom.claim(task.id)
    assert claim is not None
    again, token = await open_loom("tester"), claim.task.claim_token
    await gate.shut("new.type = 'task.failed'")
    async with begun(loom.fail(task.id, "no", token=token)) as one:
        await waits(pool, one)
        async with begun(again.fail(task.id, "no", token=token)) as two:
            await waits(pool, two, 2)
            await gate.open()
            await one
            with pytest.raises(TaskStateError, match="has failed"):
                await two
    assert len((await loom.get(task.id)).escalations) == 1
    await holds(loom)


async def test_dead_work_resolved_twice_at_once_is_resolved_once(
    loom: Loom, open_loom: Opener, pool: Pool, gate: Gate
) -> None:
    other = await open_loom("other")
    task = await loom.create("A")
    await kill(loom, task)
    await gate.shut("new.type = 'task.retried'")
    async with begun(loom.resolve(task.id, "retry")) as one:
        await waits(pool, one)
        async with begun(other.resolve(task.id, "retry")) as two:
            await waits(pool, two, 2)
            await gate.open()
            await one
            with pytest.raises(TaskStateError, match="is ready and has no open escalation"):
                await two
    await holds(loom)


async def test_a_task_claimed_meanwhile_takes_no_child(loom: Loom, open_loom: Opener, pool: Pool, gate: Gate) -> None:
    other = await open_loom("other")
    task = await loom.create("A")
    await gate.shut("new.type = 'task.claimed'")
    async with begun(loom.claim(task.id)) as claiming:
        await waits(pool, claiming)
        async with begun(other.create("child", parent_id=task.id)) as creating:
            await waits(pool, creating, 2)
            await gate.open()
            assert await claiming is not None
            with pytest.raises(TaskStateError, match="is claimed and takes no children"):
                await creating
    await holds(loom)


async def test_an_epic_whose_child_is_claimed_meanwhile_gains_no_dependency(
    loom: Loom, open_loom: Opener, pool: Pool, gate: Gate
) -> None:
    other = await open_loom("other")
    first = await loom.create("first")
    epic = await loom.create("epic", epic=True)
    child = await loom.create("child", parent_id=epic.id)
    await gate.shut("new.type = 'task.claimed'")
    async with begun(other.claim(child.id)) as claiming:
        await waits(pool, claiming)
        async with begun(loom.update(epic.id, depends_on=[first.id])) as updating:
            await waits(pool, updating, 2)
            await gate.open()
            await claiming
            with pytest.raises(TaskStateError, match=f"has begun.*{child.id}"):
                await updating
    await holds(loom)


async def test_a_project_that_is_given_work_meanwhile_is_not_announced_complete(
    loom: Loom, pool: Pool, rival: Rival
) -> None:
    await loom.done((await loom.create("A")).id)
    await rival.execute("select from projects where id = $1 for no key update", loom.project_id)
    async with begun(loom.sweep()) as sweeping:
        await waits(pool, sweeping)
        await loom.create("B")
        await rival.commit()
        assert not (await sweeping)[0].completed


async def test_many_who_announce_that_a_project_is_complete_let_others_add_work(
    loom: Loom, open_loom: Opener, pool: Pool, gate: Gate
) -> None:
    """The project's row is locked so that the foreign keys of new tasks pass."""
    await loom.done((await loom.create("A")).id)
    await gate.shut("new.type = 'project.complete'")
    async with begun(loom.sweep()) as sweeping:
        await waits(pool, sweeping)
        await soon((await open_loom("other")).create("B"))
        await gate.open()
        assert (await sweeping)[0].completed


async def test_rows_are_locked_so_that_foreign_keys_pass(loom: Loom, pool: Pool, gate: Gate) -> None:
    task = await loom.create("A")
    await gate.shut("new.type = 'task.updated'")
    async with begun(loom.update(task.id, title="B")) as updating:
        await waits(pool, updating)
        await pool.execute("select from tasks where id = $1 for key share nowait", task.id)
        await gate.open()
        await updating


# --- the lock on the shape of the graph -------------------------------------------------------------------------------


async def test_two_edges_that_close_a_cycle_together_are_not_both_written(
    loom: Loom, open_loom: Opener, pool: Pool, gate: Gate
) -> None:
    other = await open_loom("other")
    a, c = await loom.create("a"), await loom.create("c")
    b, d = await loom.create("b"), await loom.create("d")
    await loom.update(a.id, depends_on=[b.id])
    await loom.update(c.id, depends_on=[d.id])
    await gate.shut("new.agent = 'tester'")
    async with begun(loom.update(b.id, depends_on=[c.id])) as one:
        await waits(pool, one)
        async with begun(other.update(d.id, depends_on=[a.id])) as two:  # it has no row in common with the first
            await waits(pool, two, 2)
            await gate.open()
            await one
            with pytest.raises(DependencyCycleError):
                await two
    await holds(loom)


@pytest.mark.parametrize("how", ["one task", "a plan"])
async def test_a_new_child_that_closes_a_cycle_with_another_edge_is_not_written(
    loom: Loom, open_loom: Opener, pool: Pool, gate: Gate, how: str
) -> None:
    other = await open_loom("other")
    epic = await loom.create("epic", epic=True)
    await loom.create("sibling", parent_id=epic.id)
    after, last = await loom.create("after", depends_on=[epic.id]), await loom.create("last")
    before = await loom.create("before", depends_on=[last.id])
    await gate.shut("new.agent = 'tester'")
    plan = {"tasks": [{"title": "child", "parent": epic.id, "depends_on": [before.id]}]}
    child: Any = (
        loom.create("child", parent_id=epic.id, depends_on=[before.id]) if how == "one task" else loom.apply_plan(plan)
    )
    async with begun(child) as one:
        await waits(pool, one)
        async with begun(other.update(last.id, depends_on=[after.id])) as two:
            await waits(pool, two, 2)
            await gate.open()
            await one
            with pytest.raises(DependencyCycleError):
                await two
    await holds(loom)


async def test_what_comes_to_wait_meanwhile_is_cancelled_too(
    loom: Loom, open_loom: Opener, pool: Pool, gate: Gate
) -> None:
    other = await open_loom("other")
    first = await loom.create("first")
    second = await loom.create("second", depends_on=[first.id])
    third = await loom.create("third")
    await gate.shut("new.agent = 'tester'")
    async with begun(loom.update(third.id, depends_on=[second.id])) as updating:
        await waits(pool, updating)
        async with begun(other.cancel(first.id, downstream=True)) as cancelling:
            await waits(pool, cancelling, 2)
            await gate.open()
            await updating
            assert set((await cancelling).cancelled) == {first.id, second.id, third.id}
    await holds(loom)


FIX = {"title": "Mend it", "done_when": "It works.", "depends_on": ()}
FINDING = Diagnosis("a cause", "high", Remedy.FIX_FIRST, "a note", fix_tasks=(FIX,))


async def mend(loom: Loom, task_id: str) -> mending.Mended:
    return await loom.transact(lambda tx: mending.mend(tx, task_id, FINDING, agent=loom.agent, max_attempts=4))


async def take(loom: Loom, *, per_hour: int = 100, fix_depth: int = 2) -> Any:
    return await loom.transact(lambda tx: diagnoses.take(tx, loom.agent, 60, per_hour=per_hour, fix_depth=fix_depth))


@pytest.mark.parametrize("how", ["update", "plan", "create", "cancel", "mend", "hold"])
async def test_the_graphs_lock_comes_before_any_row(
    loom: Loom, open_loom: Opener, pool: Pool, gate: Gate, how: str
) -> None:
    """Else two that want both could wait for each other."""
    other = await open_loom("other")
    first, second, third = [await loom.create(title) for title in ("first", "second", "third")]
    epic, dead = await loom.create("epic", epic=True), await loom.create("dead")
    await kill(loom, dead)
    taken = await take(loom)
    assert isinstance(taken, diagnoses.Case)
    ways: dict[str, Callable[[], Any]] = {
        "update": lambda: other.update(second.id, depends_on=[first.id]),
        "plan": lambda: other.apply_plan({"tasks": [{"title": "A", "parent": epic.id, "depends_on": [first.id]}]}),
        "create": lambda: other.create("A", parent_id=epic.id, depends_on=[first.id]),
        "cancel": lambda: other.cancel(first.id),
        "mend": lambda: mend(other, dead.id),
        "hold": lambda: other.transact(lambda tx: diagnoses.still_open(tx, taken.escalation)),
    }
    await gate.shut("new.agent = 'tester'")
    async with begun(loom.update(third.id, depends_on=[])) as one:
        await waits(pool, one)
        async with begun(ways[how]()) as two:
            await waits(pool, two, 2)
            wanted = sorted([first.id, second.id, epic.id, dead.id])
            assert await unlocked(pool, wanted) == wanted
            await gate.open()
            await two


async def test_the_targets_of_new_edges_are_locked_before_the_row_that_gains_them(
    loom: Loom, pool: Pool, rival: Rival
) -> None:
    task, target = await loom.create("task"), await loom.create("target")
    await rival.lock(target.id)
    async with begun(loom.update(task.id, depends_on=[target.id])) as updating:
        await waits(pool, updating)
        assert await unlocked(pool, [task.id]) == [task.id]
        await rival.commit()
        await updating


# --- the order of locks -----------------------------------------------------------------------------------------------
# Who waits for the lowest id has locked none of the others: so two that want the same rows never wait for each other.


async def locked_upwards(pool: Pool, rival: Rival, ids: list[str], work: Callable[[], Any]) -> None:
    lowest, *others = sorted(ids)
    await rival.lock(lowest)
    async with begun(work()) as going:
        await waits(pool, going)
        assert await unlocked(pool, others) == others
        await rival.commit()
        await going


@pytest.mark.usefixtures("downwards")
async def test_the_claims_of_a_session_are_given_back_in_the_order_of_the_ids(
    loom: Loom, pool: Pool, rival: Rival
) -> None:
    ids = [(await loom.create(f"T{n}")).id for n in range(4)]
    for one in ids:
        await loom.claim(one)
    await locked_upwards(pool, rival, ids, loom.end_session)
    await holds(loom)


@pytest.mark.usefixtures("downwards")
async def test_the_tasks_of_a_cancellation_are_locked_in_the_order_of_their_ids(
    loom: Loom, pool: Pool, rival: Rival
) -> None:
    epic = await loom.create("epic", epic=True)
    tasks = [epic, *[await loom.create(f"T{n}", parent_id=epic.id) for n in range(4)]]
    await locked_upwards(pool, rival, [task.id for task in tasks], lambda: loom.cancel(epic.id))
    await holds(loom)


@pytest.mark.usefixtures("downwards")
async def test_the_targets_of_new_edges_are_held_in_the_order_of_their_ids(
    loom: Loom, pool: Pool, rival: Rival
) -> None:
    ids = [(await loom.create(f"T{n}")).id for n in range(4)]
    await locked_upwards(pool, rival, ids, lambda: loom.create("after", depends_on=ids))
    await holds(loom)


@pytest.mark.usefixtures("downwards")
async def test_dependents_are_locked_in_the_order_of_their_ids(loom: Loom, pool: Pool, rival: Rival) -> None:
    first = await loom.create("first")
    ids = [(await loom.create(f"T{n}", depends_on=[first.id])).id for n in range(4)]
    await locked_upwards(pool, rival, ids, lambda: loom.done(first.id))
    await holds(loom)


@pytest.mark.usefixtures("downwards")
async def test_the_children_that_an_epic_lets_go_are_locked_in_the_order_of_their_ids(
    loom: Loom, pool: Pool, rival: Rival
) -> None:
    first = await loom.create("first")
    epic = await loom.create("epic", epic=True, depends_on=[first.id])
    ids = [(await loom.create(f"T{n}", parent_id=epic.id)).id for n in range(4)]
    await locked_upwards(pool, rival, ids, lambda: loom.done(first.id))
    await holds(loom)


@pytest.mark.usefixtures("downwards")
async def test_all_below_an_epic_is_locked_in_the_order_of_the_ids_before_it_gains_a_dependency(
    loom: Loom, pool: Pool, rival: Rival
) -> None:
    first = await loom.create("first")
    epic = await loom.create("epic", epic=True)
    ids = [(await loom.create(f"T{n}", parent_id=epic.id)).id for n in range(4)]
    await locked_upwards(pool, rival, ids, lambda: loom.update(epic.id, depends_on=[first.id]))
    await holds(loom)


@pytest.mark.usefixtures("downwards")
async def test_the_epics_that_close_are_locked_in_the_order_of_their_ids(loom: Loom, pool: Pool, rival: Rival) -> None:
    first = await loom.create("first")
    epics = [await loom.create(f"E{n}", epic=True) for n in range(4)]
    for epic in epics:
        await loom.create("child", parent_id=epic.id, depends_on=[first.id])
    ids = [epic.id for epic in epics]
    await locked_upwards(pool, rival, ids, lambda: loom.cancel(first.id, downstream=True))
    await holds(loom)


@pytest.mark.usefixtures("downwards")
async def test_the_parents_of_a_plan_are_locked_in_the_order_of_their_ids(loom: Loom, pool: Pool, rival: Rival) -> None:
    ids = [(await loom.create(f"E{n}", epic=True)).id for n in range(4)]
    plan = {"tasks": [{"title": f"T{n}", "parent": one} for n, one in enumerate(ids)]}
    await locked_upwards(pool, rival, ids, lambda: loom.apply_plan(plan))
    await holds(loom)


# --- who is busy is passed by -----------------------------------------------------------------------------------------


async def test_a_claim_passes_by_the_best_task_while_another_claim_is_on_it(
    loom: Loom, pool: Pool, rival: Rival
) -> None:
    best, next_best = await loom.create("best", priority="p0"), await loom.create("next best")
    await rival.lock(best.id)
    claim = await soon(loom.claim())
    assert claim is not None
    assert claim.task.id == next_best.id


async def test_a_sweep_passes_by_a_claim_that_is_being_renewed(loom: Loom, rival: Rival, clock: Clock) -> None:
    renewed, lapsed = await loom.create("renewed"), await loom.create("lapsed")
    await loom.claim(renewed.id)
    await loom.claim(lapsed.id)
    await clock(601)
    await rival.execute("update tasks set lease_expires_at = loom_now() + '1 hour' where id = $1", renewed.id)
    swept, _ = await soon(loom.sweep())
    assert [task.id for task in swept.expired] == [lapsed.id]
    await rival.commit()
    assert await status(loom, renewed.id) == "claimed"
    await holds(loom)


async def test_handlers_pass_by_an_escalation_that_another_one_takes(loom: Loom, rival: Rival) -> None:
    first, second = await loom.create("first"), await loom.create("second")
    await kill(loom, first)
    await kill(loom, second)
    await rival.execute("select from escalations where task_id = $1 for no key update", first.id)
    taken = await soon(loom.take_escalation())
    assert taken is not None
    assert taken.task_id == second.id
    await loom.resolve(second.id, "cancel")
    assert await soon(take(loom)) is None


async def test_escalations_taken_at_once_for_a_model_are_counted_one_after_the_other(
    loom: Loom, open_loom: Opener, pool: Pool, rival: Rival
) -> None:
    for title in ("first", "second"):
        await kill(loom, await loom.create(title))
    other = await open_loom("other")
    await rival.execute("select from projects where id = $1 for no key update", loom.project_id)
    async with begun(take(loom, per_hour=1)) as one, begun(take(other, per_hour=1)) as two:
        await until_waiting(pool, 2)
        await rival.commit()
        found = await soon(asyncio.gather(one, two))
    assert sum(isinstance(case, diagnoses.Case) for case in found) == 1


async def test_a_diagnosis_is_not_carried_out_on_what_is_resolved_meanwhile(
    loom: Loom, open_loom: Opener, pool: Pool, gate: Gate
) -> None:
    other = await open_loom("other")
    task = await loom.create("A")
    await kill(loom, task)
    taken = await take(loom)
    await gate.shut("new.agent = 'tester'")
    async with begun(loom.resolve(task.id, "retry")) as resolving:
        await waits(pool, resolving)
        async with begun(other.transact(lambda tx: diagnoses.still_open(tx, taken.escalation))) as holding:
            await waits(pool, holding, 2)
            await gate.open()
            await resolving
            assert not await holding


async def test_who_carries_out_a_diagnosis_holds_its_task_and_its_escalation(
    loom: Loom, open_loom: Opener, pool: Pool
) -> None:
    task = await loom.create("A")
    await kill(loom, task)
    taken = await take(loom)
    held, go = asyncio.Event(), asyncio.Event()

    async def hold(tx: Any) -> bool:
        still = await diagnoses.still_open(tx, taken.escalation)
        held.set()
        await go.wait()
        return still

    async with begun(loom.transact(hold)) as holding:
        await soon(held.wait())
        assert await unlocked(pool, [task.id]) == []
        assert await pool.fetch("select from escalations for no key update skip locked") == []
        go.set()
        assert await holding


# --- schema and project -----------------------------------------------------------------------------------------------


async def test_two_who_migrate_at_once_do_it_once(servers: Endpoints) -> None:
    name = f"loom_test_{uuid.uuid4().hex[:8]}"
    admin = await asyncpg.connect(servers.database_url)
    await admin.execute(f"create database {name}")
    pool = await open_pool(with_database(servers.database_url, name), min_size=1, max_size=4)
    holder = await asyncpg.connect(with_database(servers.database_url, name))
    try:
        await holder.execute("select pg_advisory_lock(x'6C6F6F6D'::bigint)")

        async def up() -> list[str]:
            async with pool.acquire() as connection:
                return await migrate(connection)

        async with begun(up()) as one, begun(up()) as two:
            await until_waiting(pool, 2)
            await holder.execute("select pg_advisory_unlock_all()")
            done = sorted(await soon(asyncio.gather(one, two)))
        assert done == [[], [one.name for one in migrations()]]
    finally:
        holder.terminate()
        pool.terminate()
        await admin.execute(f"drop database {name} with (force)")
        await admin.close()


async def test_a_history_that_another_process_has_begun_is_not_begun_again(
    loom: Loom, open_loom: Opener, pool: Pool, rival: Rival
) -> None:
    """Else the relay would pass by what the other has written since."""
    known = await pool.fetchval("select history from projects where id = $1", loom.project_id)
    await pool.execute("update projects set history = 'elsewhere'")
    await loom.create("A")
    await rival.execute("update projects set history = $2, history_start = 0 where id = $1", loom.project_id, known)
    other = await open_loom("other")
    async with begun(other.connect()) as connecting:
        await waits(pool, connecting)
        await rival.commit()
        await connecting
    assert await pool.fetchval("select history_start from projects where id = $1", loom.project_id) == 0


async def deadlocked(pool: Pool, change: str, *, every: int) -> None:
    """Has the first such change of a task, and then one of so many, end as a deadlock does."""
    await pool.execute("create sequence times")
    await pool.execute(
        "create function deadlock() returns trigger language plpgsql as $$ begin"
        f" if nextval('times') % {every} = 1 then raise exception 'deadlock' using errcode = '40P01'; end if;"
        " return new; end $$"
    )
    await pool.execute(f"create trigger deadlock before {change} on tasks for each row execute function deadlock()")


async def test_what_is_one_statement_is_tried_again_after_a_deadlock(loom: Loom, pool: Pool) -> None:
    await deadlocked(pool, "insert or update", every=2)
    task = await loom.create("A")
    claim = await loom.claim(task.id)
    assert claim is not None
    assert (await loom.done(task.id)).task.status == "done"
    assert await pool.fetchval("select last_value from times") == 6


async def test_a_renewal_locks_in_id_order_and_is_tried_again_after_a_deadlock(loom: Loom, pool: Pool) -> None:
    first, second = sorted([(await loom.create(title)).id for title in ("A", "B")])
    for task_id in (second, first):
        await loom.claim(task_id)
    await deadlocked(pool, "update of lease_expires_at", every=5)

    async def behind_another(renewal: Coroutine[Any, Any, T]) -> T:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("select from tasks where id = $1 for update", first)
            renewing = asyncio.create_task(renewal)
            await waits(pool, renewing)
            await pool.execute(
                "select from tasks where id = $1 for update nowait", second
            )  # which it does not hold yet
        return await soon(renewing)

    assert (await behind_another(loom.heartbeat([second, first]))).lost == {}
    await pool.execute("alter sequence times restart")
    assert await behind_another(loom.renew()) == []
    assert await pool.fetchval("select last_value from times") >= 3
