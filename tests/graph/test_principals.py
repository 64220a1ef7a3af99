"""Who calls from afar: which names are his, whose claims he may report on, and what his role lets him do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from loom.bus.events import Event
from loom.db.connection import Pool
from loom.exceptions import (
    ClaimConflictError,
    ForbiddenError,
    InvalidInputError,
    LoomError,
    ProofMissingError,
    TaskStateError,
)
from loom.graph.access import INNER, operations
from loom.graph.front import Loom
from loom.graph.model.principals import NEEDS, Principal, Role
from loom.graph.model.task import TaskStatus
from loom.graph.rules.proofs import Proven
from loom.graph.store import entries, proofs
from loom.graph.store.tokens import AccessToken
from tests.conftest import Opener

Clock = Callable[[float], Awaitable[None]]
BEYOND = {"create.anywhere", "decompose", "resolve.answer", "skill", "update.anything"}  # what is no method


def as_(loom: Loom, name: str, role: Role = Role.WORKER) -> Loom:
    """A call of a principal's: each has a front of its own."""
    return loom.beside(principal=Principal(name, role, "tests/1"))


async def newest(loom: Loom, task_id: str) -> Event:
    return (await loom.history(task_id))[-1]


# --- names ----------------------------------------------------------------------------------------------------------


async def test_an_agents_name_is_his_principals(loom: Loom) -> None:
    for _ in range(3):
        await loom.create("a task")
    ann = as_(loom, "ann")
    assert ann.agent == "ann"
    claims = [await ann.claim(), await ann.claim(agent_id="ann/one")]
    assert [one.task.assignee for one in claims if one] == ["ann", "ann/one"]
    for name in ("bob", "ann2", "anna/x", "an"):
        with pytest.raises(ForbiddenError, match=r"not a name of yours.*Call yourself ann, or ann/"):
            await ann.claim(agent_id=name)
        with pytest.raises(ForbiddenError):
            await ann.inbox(agent_id=name)
        with pytest.raises(ForbiddenError):
            await ann.send("bob", "hello", agent_id=name)
    with pytest.raises(ForbiddenError):
        loom.beside(agent="bob", principal=Principal("ann", Role.ADMIN))
    assert (await loom.status()).counts[TaskStatus.PENDING] == 1


@pytest.mark.parametrize("role", [Role.WORKER, Role.ADMIN])
async def test_nobody_reports_on_another_principals_claim_whatever_he_knows(loom: Loom, role: Role) -> None:
    made = await loom.create("a task")
    claim = await as_(loom, "ann").claim(agent_id="ann/one")
    assert claim is not None
    token, bob = claim.task.claim_token, as_(loom, "bob", role)
    attempts: list[Callable[[dict[str, Any]], Awaitable[Any]]] = [
        lambda known: bob.done(made.id, {}, **known),
        lambda known: bob.fail(made.id, "no", **known),
        lambda known: bob.escalate(made.id, "why?", **known),
        lambda known: bob.release(made.id, **known),
        lambda known: bob.heartbeat([made.id], **known),
        lambda known: bob.update(made.id, files=["a.py"], **known),
        lambda known: bob.note_attempt(made.id, known["token"], {"end": "mine"}, agent_id=known.get("agent_id")),
    ]
    before = len(await loom.history(made.id))
    for attempt in attempts:
        with pytest.raises(ClaimConflictError):
            await attempt({"token": token})
        with pytest.raises(ForbiddenError):
            await attempt({"token": token, "agent_id": "ann/one"})
    assert await bob.renew_claims({made.id: token}) == {}
    assert await bob.give_back({made.id: token}) == []
    held = (await loom.get(made.id)).task
    assert (held.status, held.assignee, held.claim_token) == (TaskStatus.CLAIMED, "ann/one", token)
    assert len(await loom.history(made.id)) == before
    assert list(await as_(loom, "ann").renew_claims({made.id: token})) == [made.id]
    assert (await as_(loom, "ann").done(made.id, {}, token=token)).task.status is TaskStatus.DONE


async def test_only_who_made_a_claim_notes_how_it_went(loom: Loom) -> None:
    made = await loom.create("a task")
    tokens = []
    for name in ("ann", "bob"):
        claim = await as_(loom, name).claim()
        assert claim is not None
        tokens.append(claim.task.claim_token)
        if name == "ann":
            await as_(loom, name).release(made.id, token=tokens[-1])
    for token in (tokens[0], tokens[1] + 1):  # of before, and one that is not made yet
        with pytest.raises(ClaimConflictError, match="not made by an agent of yours"):
            await as_(loom, "bob").note_attempt(made.id, token, {"end": "mine"})
    await as_(loom, "ann").note_attempt(made.id, tokens[0], {"end": "released"})
    await as_(loom, "bob").note_attempt(made.id, tokens[1], {"end": "lost"})
    ended = [one for one in await loom.history(made.id) if one.type == "attempt.ended"]
    assert [(one.agent, (one.data or {})["end"]) for one in ended] == [("ann", "released"), ("bob", "lost")]


async def test_a_principals_word_on_where_proofs_lie_counts_for_nothing(loom: Loom) -> None:
    made = await loom.create("a task", checks=["unit"])
    claim = await as_(loom, "ann").claim()
    assert claim is not None
    elsewhere = Proven({"unit": "a" * 64}, "an-old-tree")
    number = await loom.transact(lambda tx: proofs.begin(tx, "lint", "a" * 64, agent="ci", tree="an-old-tree"))
    await loom.transact(lambda tx: proofs.close(tx, number, exit_status=0, seconds=1.0, tail=""))
    for role in Role:
        if role >= Role.WORKER:
            with pytest.raises(ProofMissingError):
                await as_(loom, "ann", role).done(made.id, token=claim.task.claim_token, proven=elsewhere)
    assert (await loom.done(made.id, token=claim.task.claim_token, proven=elsewhere)).task.status is TaskStatus.DONE


async def test_a_report_names_its_task_and_nothing_is_remembered(loom: Loom) -> None:
    made = await loom.create("a task")
    claim = await as_(loom, "ann").claim(agent_id="ann/one")
    assert claim is not None
    with pytest.raises(ClaimConflictError):
        await as_(loom, "ann").done(made.id)
    done = await as_(loom, "ann").done(made.id, agent_id="ann/one")
    assert done.task.status is TaskStatus.DONE
    assert (await as_(loom, "ann").done(made.id, token=claim.task.claim_token)).task == done.task


async def test_a_late_token_of_another_principals_takes_nothing_up(loom: Loom, clock: Clock) -> None:
    made = await loom.create("a task")
    claim = await as_(loom, "ann").claim()
    assert claim is not None
    await clock(601)
    await loom.sweep()
    with pytest.raises(ClaimConflictError, match="not made by an agent of yours"):
        await as_(loom, "bob").done(made.id, {"stolen": True}, token=claim.task.claim_token)
    assert (await as_(loom, "ann").done(made.id, token=claim.task.claim_token)).task.status is TaskStatus.DONE


# --- roles ----------------------------------------------------------------------------------------------------------


def test_each_operation_of_the_front_says_which_role_it_needs() -> None:
    offered = set(operations(Loom))
    assert offered - set(NEEDS) == set(), "say in NEEDS which role it needs, or in INNER that nobody calls it"
    assert {name for name in NEEDS if not name.startswith("workflow.")} - offered - BEYOND == {
        name for name in NEEDS if name.startswith("resolve.") and name != "resolve.answer"
    }
    assert set(dir(Loom)) >= INNER


@pytest.mark.parametrize(
    "operation", sorted(set(operations(Loom)) & {name for name in NEEDS if NEEDS[name] > Role.READER})
)
async def test_an_operation_is_refused_to_the_role_below(loom: Loom, operation: str) -> None:
    below = as_(loom, "ann", Role(NEEDS[operation] - 1))
    with pytest.raises(ForbiddenError, match=f"needs the role {NEEDS[operation]}, and ann is a {below.principal.role}"):  # type: ignore[union-attr]
        await getattr(below, operation)()  # before it looks at any argument


@pytest.mark.parametrize("action", ["retry", "reassign", "waive", "cancel"])
async def test_a_planner_answers_and_decides_nothing_else(loom: Loom, action: str) -> None:
    made = await loom.create("a task")
    await loom.escalate(made.id, "which one?")
    ann = as_(loom, "ann", Role.PLANNER)
    with pytest.raises(ForbiddenError, match=f"resolve {action} needs the role admin"):
        await ann.resolve(made.id, action, agent_id="bob" if action == "reassign" else None)
    assert (await ann.resolve(made.id, "answer", note="this one")).task.status is TaskStatus.PENDING


async def test_a_worker_makes_tasks_below_what_it_holds_and_nowhere_else(loom: Loom) -> None:
    epic = await loom.create("an epic", epic=True)
    inside, other = await loom.create("inside", parent_id=epic.id), await loom.create("other")
    ann = as_(loom, "ann")
    for where in ({}, {"parent_id": epic.id}, {"depends_on": [inside.id]}, {"parent_id": other.id}):
        with pytest.raises(ForbiddenError, match="makes tasks only below those that he holds"):
            await ann.create("more", **where)
    await ann.claim(inside.id, agent_id="ann/one")
    assert (await ann.create("after it", depends_on=[inside.id])).status is TaskStatus.BLOCKED
    assert (await ann.create("beside it", parent_id=epic.id)).parent_id == epic.id
    with pytest.raises(ForbiddenError):
        await ann.create("elsewhere", depends_on=[other.id])
    with pytest.raises(ForbiddenError):  # which would make an epic of what anybody may claim
        await ann.create("in another", depends_on=[inside.id], parent_id=other.id)
    assert (await loom.get(other.id)).task.status is TaskStatus.PENDING
    with pytest.raises(ForbiddenError):
        await as_(loom, "ann_").create("beside it", parent_id=epic.id)
    assert (await as_(loom, "bob", Role.PLANNER).create("anywhere")).status is TaskStatus.PENDING


async def test_a_worker_adds_files_and_checks_to_what_it_holds_and_changes_nothing_else(loom: Loom) -> None:
    made = await loom.create("a task")
    ann = as_(loom, "ann")
    with pytest.raises(ClaimConflictError):
        await ann.update(made.id, files=["a.py"])
    await ann.claim(made.id)
    assert (await ann.update(made.id, files=["a.py"], checks=["unit"])).task.files == ("a.py",)
    for change in ({"title": "mine"}, {"priority": "p0"}, {"labels": ["x"]}, {"files": ["b.py"], "done_when": ""}):
        with pytest.raises(ForbiddenError, match="update anything needs the role planner"):
            await ann.update(made.id, **change)
    with pytest.raises(ForbiddenError):
        await ann.update(made.id, no_checks=True)
    with pytest.raises(TaskStateError):
        await as_(loom, "ann", Role.PLANNER).update(made.id, no_checks=True)
    assert (await loom.get(made.id)).task.title == "a task"


async def test_a_principal_sees_no_other_project(loom: Loom, pool: Pool) -> None:
    await pool.execute("insert into projects (id, name) values (gen_random_uuid(), 'secret')")
    assert len(await loom.projects()) == 2
    assert [one.id for one in await as_(loom, "ann", Role.ADMIN).projects()] == [loom.project_id]


# --- what is written of him -----------------------------------------------------------------------------------------


async def test_each_event_says_who_called_and_with_what(loom: Loom) -> None:
    boss = as_(loom, "boss", Role.ADMIN)
    alone, waits = await boss.create("alone"), await boss.create("waits")
    await boss.update(waits.id, depends_on=[alone.id])
    await boss.claim(alone.id)
    await boss.done(alone.id, {"result": 1})
    await boss.claim()
    await boss.fail(waits.id, "no", retry=False)
    said = [one for task in (alone, waits) for one in await loom.history(task.id)]
    assert {str(one.type) for one in said} > {"task.created", "task.claimed", "task.done", "task.dead_letter"}
    assert [one for one in said if (one.data or {}).get("principal") != "boss" or one.data["client"] != "tests/1"] == []  # type: ignore[index]
    own = await loom.create("of the process")
    assert (await newest(loom, own.id)).data is None


# --- leases ---------------------------------------------------------------------------------------------------------


async def test_a_call_renews_what_its_agent_holds_once_a_third_of_the_lease_is_over(loom: Loom, clock: Clock) -> None:
    mine, others, his = [await loom.create("a task") for _ in range(3)]
    await as_(loom, "ann").claim(mine.id)
    await as_(loom, "ann").claim(others.id, agent_id="ann/other")
    await as_(loom, "bob").claim(his.id)

    async def ends() -> list[Any]:
        return [(await loom.get(one.id)).task.lease_expires_at for one in (mine, others, his)]

    begun = await ends()
    await clock(190)
    await as_(loom, "ann").status()
    assert await ends() == begun, "not a third of the lease is over"
    await clock(20)
    await as_(loom, "ann").status()
    now = await ends()
    assert now[0] - begun[0] >= timedelta(seconds=209)
    assert now[1:] == begun[1:], "neither what another agent of his holds, nor another principal's"
    await as_(loom, "ann").wait("any", timeout=0, agent_id="ann/other")
    assert (await ends())[1] > begun[1]
    await clock(800)
    await as_(loom, "bob").status()
    assert (await ends())[2] == begun[2], "what is over is over"


async def test_a_lease_is_renewed_up_to_the_deadline_and_not_beyond(open_loom: Opener, clock: Clock) -> None:
    loom = await open_loom(deadline_seconds=700)
    made = await loom.create("a task")
    await as_(loom, "ann").claim(made.id)
    await clock(300)
    await as_(loom, "ann").status()
    task = (await loom.get(made.id)).task
    assert task.lease_expires_at == task.deadline_at
    await clock(500)
    await as_(loom, "ann").status()
    await loom.sweep()
    assert (await loom.get(made.id)).task.status is TaskStatus.PENDING


# --- tokens ---------------------------------------------------------------------------------------------------------


async def test_a_token_is_admitted_until_it_is_over_or_revoked(loom: Loom, clock: Clock, pool: Pool) -> None:
    made = await loom.add_token("ann", "worker", seconds=3600)
    other = await loom.add_token("bob", "admin")
    assert (made.token.role, made.token.created_by, other.token.expires_at) == (Role.WORKER, "tester", None)
    rows = json.dumps([str(dict(row)) for row in await pool.fetch("select * from access_tokens")])
    assert made.secret.rpartition("_")[2] not in rows + repr(made)
    assert (await admitted(loom, made.secret)).name == "ann"
    for wrong in (
        "",
        "loom_",
        made.secret[:-1],
        made.secret + "x",
        made.secret[:-1] + "é",
        other.secret[:18] + made.secret[18:],
    ):
        assert await loom.admitted(wrong, "") is None
    assert await loom.still_admitted([made.token, other.token]) == {made.token.id, other.token.id}
    await clock(3601)
    assert await loom.admitted(made.secret, "") is None
    assert await loom.still_admitted([made.token, other.token]) == {other.token.id}
    assert [one.name for one in await loom.revoke_tokens("bob")] == ["bob"]
    assert await loom.revoke_tokens("bob") == []
    assert await loom.admitted(other.secret, "") is None
    assert [(one.name, one.revoked_at is None) for one in await loom.tokens()] == [("ann", True), ("bob", False)]


async def admitted(loom: Loom, secret: str, client: str = "tests/1") -> AccessToken:
    found = await loom.admitted(secret, client)
    assert found is not None
    return found


async def test_the_last_use_of_a_token_is_noted_and_not_with_each_call(loom: Loom, clock: Clock) -> None:
    made = await loom.add_token("ann", "reader")
    assert (await loom.tokens())[0].last_used_at is None
    await admitted(loom, made.secret)
    first = (await loom.tokens())[0]
    assert first.last_client == "tests/1"
    await clock(30)
    await admitted(loom, made.secret)
    assert (await loom.tokens())[0] == first
    await admitted(loom, made.secret, "tests/2")
    assert (await loom.tokens())[0].last_client == "tests/2"
    await clock(61)
    await admitted(loom, made.secret, "tests/2")
    assert (await loom.tokens())[0].last_used_at > first.last_used_at  # type: ignore[operator]


async def test_a_browsers_code_is_for_one_use_and_its_cookie_holds_while_it_comes(
    loom: Loom, clock: Clock, pool: Pool
) -> None:
    token = (await loom.add_token("ann", "planner")).token
    code, late = await loom.entry_code(token), await loom.entry_code(token)
    cookies = await asyncio.gather(*(loom.enter(code) for _ in range(5)))
    (cookie,) = [one for one in cookies if one is not None]
    assert await loom.visitor(cookie) == token
    for wrong in ("", "x", code, "\udc00"):
        assert (await loom.enter(wrong), await loom.visitor(wrong)) == (None, None)
    assert (await loom.visitor(late), await loom.enter(cookie)) == (None, None), "a code is no cookie, nor that a code"
    assert await loom.visitor(cookie) == token
    await clock(61)
    assert await loom.enter(late) is None
    kept = json.dumps([str(dict(row)) for row in await pool.fetch("select * from browser_entries")])
    assert not any(one in kept for one in (code, cookie))
    for _ in range(3):
        await clock(6 * 86400)
        assert await loom.visitor(cookie) is not None
    await clock(8 * 86400)
    assert await loom.visitor(cookie) is None


async def test_a_cookie_does_not_outlive_its_token(loom: Loom, clock: Clock) -> None:
    revoked, over = (await loom.add_token("ann", "reader")).token, await loom.add_token("bob", "reader", seconds=3600)
    cookies = [await loom.enter(await loom.entry_code(one)) or "" for one in (revoked, over.token)]
    assert [(await loom.visitor(one) or revoked).name for one in cookies] == ["ann", "bob"]
    await loom.revoke_tokens("ann")
    await clock(3601)
    assert [await loom.visitor(one) for one in cookies] == [None, None]


async def test_browsers_of_one_token_are_bounded_and_push_out_nobody_elses(
    loom: Loom, clock: Clock, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "_EACH", 3)
    ann, eve = [(await loom.add_token(name, "reader")).token for name in ("ann", "eve")]
    cookie = await loom.enter(await loom.entry_code(ann)) or ""
    for _ in range(6):
        await loom.enter(await loom.entry_code(eve))
        await loom.entry_code(eve)
        await clock(1)
    left = await pool.fetch("select is_code, count(*) from browser_entries where token_id = $1 group by 1", eve.id)
    assert {row["is_code"]: row["count"] for row in left} == {False: 2, True: 3}, "and room for one cookie more"
    assert await loom.visitor(cookie) is not None
    await clock(8 * 86400)
    await loom.entry_code(ann)
    assert await pool.fetchval("select count(*) from browser_entries") == 1, "what is over goes"


async def test_what_is_no_token(loom: Loom) -> None:
    wrong: list[tuple[Any, ...]] = [("ann/one", "worker"), ("", "worker"), ("ann", "boss"), ("ann", "Worker")]
    for given in wrong:
        with pytest.raises(InvalidInputError):
            await loom.add_token(*given)
    with pytest.raises(LoomError):
        await loom.add_token("ann", "worker", seconds=-1)
    assert await loom.tokens() == []
