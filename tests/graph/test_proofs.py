"""What is done only when it is proven: the gate, and what counts as a proof."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from loom import replies
from loom.config import LandingConfig, LoomConfig
from loom.db.connection import Pool
from loom.exceptions import ClaimConflictError, ProofMissingError
from loom.graph import store
from loom.graph.front import Loom
from loom.graph.rules.proofs import Proven
from loom.graph.store import proofs
from tests.graph.test_lifecycle import holds
from tests.graph.test_scale import buffers

Clock = Callable[[float], Awaitable[None]]

HASH = "a" * 64
UNIT = Proven({"unit": HASH}, tree="tree-1")


async def ran(loom: Loom, exit_status: int | None = 0, check_hash: str = HASH, **place: Any) -> int:
    """A check that was run, on `tree-1` unless something else is said; its number."""
    place = place or {"tree": "tree-1"}
    number = await loom.transact(
        lambda tx: proofs.begin(tx, "unit", check_hash, agent="prover", **({"tree": None} | place))
    )
    await loom.transact(lambda tx: proofs.close(tx, number, exit_status=exit_status, seconds=0.1, tail="said"))
    return number


async def checked(loom: Loom, pool: Pool, *names: str) -> str:
    """A task with checks; its id."""
    task = await loom.create("A")
    await pool.execute("update tasks set checks = $2 where id = $1", task.id, list(names or ["unit"]))
    return task.id


async def test_work_is_done_only_with_a_green_proof_of_each_check(loom: Loom, pool: Pool) -> None:
    task = await checked(loom, pool, "unit", "lint")
    claim = await loom.claim(task)
    assert claim is not None
    proven = Proven({"unit": HASH, "lint": "b" * 64}, tree="tree-1")
    for exit_status in (None, 1, -9, 0):
        with pytest.raises(ProofMissingError) as refused:
            await loom.done(task, token=claim.task.claim_token, proven=proven)
        assert [one["name"] for one in refused.value.checks] == ["unit", "lint"]
        await ran(loom, exit_status)
    with pytest.raises(ProofMissingError, match="lint"):
        await loom.done(task, proven=proven)
    still = (await loom.get(task)).task
    assert (still.status, still.claim_token, still.attempt) == ("claimed", claim.task.claim_token, 1)
    await ran(loom, 0, "b" * 64)
    assert (await loom.done(task, {"n": 1}, proven=proven)).task.status == "done"
    await holds(loom)


async def test_who_knows_of_no_proofs_finishes_nothing_that_needs_some(loom: Loom, pool: Pool) -> None:
    task = await checked(loom, pool)
    await ran(loom)
    with pytest.raises(ProofMissingError, match="unit"):
        await loom.done(task)
    assert (await loom.get(task)).task.status == "pending"  # nor is it claimed


async def test_a_check_that_is_not_in_force_refuses(loom: Loom, pool: Pool) -> None:
    task = await checked(loom, pool, "unit", "gone")
    await ran(loom)
    with pytest.raises(ProofMissingError, match="not in force: gone") as refused:
        await loom.done(task, proven=UNIT)
    assert refused.value.facts == {"checks": [{"name": "gone", "why": "not in force"}]}


async def test_a_proof_of_another_tree_or_another_check_counts_for_nothing(loom: Loom, pool: Pool) -> None:
    task = await checked(loom, pool)
    claim = await loom.claim(task)
    assert claim is not None
    await ran(loom, tree="tree-2")
    await ran(loom, check_hash="b" * 64)
    await ran(loom, tree="tree-1", commit_id="commit-1")
    await ran(loom, task_id=task, token=claim.task.claim_token)
    running = await loom.transact(lambda tx: proofs.begin(tx, "unit", HASH, agent="prover", tree="tree-1"))
    for proven in (UNIT, Proven({"unit": HASH}, "tree-1", "commit-2")):
        with pytest.raises(ProofMissingError):
            await loom.done(task, proven=proven)
    assert await loom.transact(lambda tx: proofs.close(tx, running, exit_status=0, seconds=1, tail=""))
    assert (await loom.done(task, proven=UNIT)).task.status == "done"


async def test_what_reads_history_is_proven_for_its_commit(loom: Loom, pool: Pool) -> None:
    task = await checked(loom, pool)
    await ran(loom, tree="tree-1", commit_id="commit-1")
    assert (await loom.done(task, proven=Proven({"unit": HASH}, "tree-1", "commit-1"))).task.status == "done"


async def test_without_a_repository_a_proof_counts_for_its_claim_alone(loom: Loom, pool: Pool) -> None:
    task, nowhere = await checked(loom, pool), Proven({"unit": HASH})
    first = await loom.claim(task)
    assert first is not None
    await ran(loom)  # of a tree
    await ran(loom, task_id=task, token=first.task.claim_token, tree="tree-1")
    with pytest.raises(ProofMissingError):
        await loom.done(task, proven=nowhere)
    await ran(loom, task_id=task, token=first.task.claim_token)
    await loom.release(task)
    second = await loom.claim(task)
    assert second is not None
    with pytest.raises(ProofMissingError):
        await loom.done(task, proven=nowhere)
    await ran(loom, task_id=task, token=second.task.claim_token)
    assert (await loom.done(task, proven=nowhere)).task.status == "done"


async def test_the_same_token_again_gets_the_first_answer_without_a_proof(loom: Loom, pool: Pool) -> None:
    task = await checked(loom, pool)
    after = await loom.create("B", depends_on=[task])
    claim = await loom.claim(task)
    assert claim is not None
    await ran(loom)
    first = await loom.done(task, {"n": 1}, token=claim.task.claim_token, proven=UNIT)
    again = await loom.done(task, {"n": 2}, token=claim.task.claim_token)
    assert (first.unblocked, again.unblocked, again.task.output) == ((after.id,), (after.id,), {"n": 1})


async def test_a_late_result_needs_its_proofs_too(loom: Loom, pool: Pool, clock: Clock) -> None:
    task = await checked(loom, pool)
    claim = await loom.claim(task)
    assert claim is not None
    await clock(700)
    await loom.sweep()
    with pytest.raises(ProofMissingError):
        await loom.done(task, token=claim.task.claim_token, proven=UNIT)
    assert (await loom.get(task)).task.lapsed
    await ran(loom)
    assert (await loom.done(task, token=claim.task.claim_token, proven=UNIT)).task.status == "done"


async def test_a_lost_claim_is_told_before_a_missing_proof(loom: Loom, pool: Pool) -> None:
    task = await checked(loom, pool)
    claim = await loom.claim(task)
    assert claim is not None
    await loom.release(task)
    await loom.claim(task)
    with pytest.raises(ClaimConflictError, match="was lost"):
        await loom.done(task, token=claim.task.claim_token)


async def test_checks_that_every_task_needs_are_needed_by_each(config: LoomConfig) -> None:
    async with Loom(replace(config, landing=LandingConfig(checks=("unit",))), agent="a") as loom:
        task = await loom.create("A")
        with pytest.raises(ProofMissingError, match="unit"):
            await loom.done(task.id, proven=UNIT)
        await ran(loom)
        assert (await loom.done(task.id, proven=UNIT)).task.status == "done"


async def test_what_every_task_needs_and_is_not_in_force_lets_nothing_be_done(config: LoomConfig) -> None:
    """Whoever takes the key out of the file does not switch the checks off."""
    async with Loom(replace(config, withheld=("landing.checks",)), agent="a") as loom:
        task = await loom.create("A")
        with pytest.raises(ProofMissingError, match=r"not in force: landing\.checks"):
            await loom.done(task.id, proven=UNIT)


async def test_the_statement_that_finishes_a_claim_leaves_one_with_checks_alone(loom: Loom, pool: Pool) -> None:
    task = await checked(loom, pool)
    claim = await loom.claim(task)
    assert claim is not None
    made = await loom.transact(lambda tx: store.complete_task(tx, task, "a", claim.task.claim_token, "{}"))
    assert made is None
    assert (await loom.get(task)).task.status == "claimed"


async def test_a_run_that_has_ended_stays_as_it_ended(loom: Loom) -> None:
    number = await ran(loom, 1)
    assert not await loom.transact(lambda tx: proofs.close(tx, number, exit_status=0, seconds=1, tail="forged"))
    assert await loom.look(lambda c: proofs.green(c, loom.project_id, {"unit": HASH}, tree="tree-1")) == {}


async def test_the_end_of_what_a_check_printed_is_kept(loom: Loom, pool: Pool) -> None:
    number = await loom.transact(lambda tx: proofs.begin(tx, "unit", HASH, agent="a", tree="t"))
    tail = "é" * 5_000 + "\0\udcff the end"
    await loom.transact(lambda tx: proofs.close(tx, number, exit_status=1, seconds=2.5, tail=tail, flaky=True))
    (row,) = await pool.fetch("select tail, flaky, ended_at from proofs")
    assert len(row["tail"].encode()) <= proofs.TAIL_BYTES
    assert row["tail"].endswith("é? the end")
    assert row["flaky"]


async def test_the_newest_green_proof_is_found_under_the_name_that_is_asked_for(loom: Loom) -> None:
    await ran(loom)
    newest = await ran(loom)
    await ran(loom, 1)
    hashes = {"renamed": HASH, "other": "b" * 64}
    found = await loom.look(lambda c: proofs.green(c, loom.project_id, hashes, tree="tree-1"))
    assert {name: one.id for name, one in found.items()} == {"renamed": newest}
    assert found["renamed"].green


async def test_the_proofs_of_a_task_are_the_newest_first(loom: Loom) -> None:
    task = await loom.create("A")
    numbers = [await ran(loom, status, task_id=task.id, token=token) for status, token in ((1, 1), (1, 2), (0, 2))]
    shown = await loom.look(lambda c: proofs.of_task(c, loom.project_id, task.id, 2))
    assert [one.id for one in shown] == numbers[:0:-1]
    shown = await loom.look(lambda c: proofs.of_task(c, loom.project_id, task.id, 9, token=1))
    assert [one.id for one in shown] == numbers[:1]


async def test_a_proof_for_a_claim_that_there_never_was_is_seen(loom: Loom) -> None:
    task = await loom.create("A")
    await loom.claim(task.id)
    await ran(loom, task_id=task.id, token=1)
    await holds(loom)
    await ran(loom, task_id=task.id, token=2)
    (broken,) = [one for one in await loom.doctor() if not one.holds]
    assert broken.rule == "a check ran for no claim that there never was"


async def test_a_task_is_shown_with_the_checks_that_ran_for_its_newest_claim(loom: Loom) -> None:
    task = await loom.create("A")
    assert (await loom.get(task.id)).proofs == []
    await loom.claim(task.id)
    await ran(loom, task_id=task.id, token=1)
    await loom.release(task.id)
    await loom.claim(task.id)
    for n in range(12):
        await ran(loom, n % 2, task_id=task.id, token=2)
    await ran(loom, None, task_id=task.id, token=2)
    await loom.transact(lambda tx: proofs.begin(tx, "slow", HASH, agent="p", tree="t", task_id=task.id, token=2))
    shown = replies.detail(await loom.get(task.id))["proofs"]
    assert [one["state"] for one in shown[-4:]] == ["green", "red", "void", "running"]
    assert len(shown) == 10
    assert (shown[-1]["name"], shown[-1]["by"], shown[-3]["tail"]) == ("slow", "p", "said")
    assert "tail" not in shown[-4]


async def test_proofs_are_found_among_many(loom: Loom, pool: Pool) -> None:
    task = await loom.create("A")
    await pool.execute(
        """
        insert into proofs (project_id, task_id, token, tree, check_name, check_hash, agent, ended_at, exit_status)
        select $1, $2, n, case when n % 2 = 0 then 'tree-' || n end, 'unit', $3, 'p', now(), 0
          from generate_series(1, 20000) n
        """,
        loom.project_id,
        task.id,
        HASH,
    )
    await pool.execute("analyze proofs")
    said: list[str] = []
    async with pool.acquire() as connection:
        connection.add_query_logger(lambda record: said.append(record.query))
        place: dict[str, Any] = {"tree": "tree-500", "commit_id": "commit-1"}
        for where in (place, {"tree": None, "task_id": task.id, "token": 501}):
            assert len(await proofs.green(connection, loom.project_id, {"unit": HASH}, **where)) == 1
    by_tree, by_claim = said[-2:]
    values = (loom.project_id, ["unit"], [HASH])
    assert await buffers(pool, by_tree, *values, "tree-500", "commit-1") < 20
    assert await buffers(pool, by_claim, *values, task.id, 501) < 20
    assert (await proofs.of_task(pool, loom.project_id, task.id, 1))[0].token == 20000  # type: ignore[arg-type]
