"""Tasks: one by itself or with all that is around it, a claim, a report, a list.

Nothing is null: what is not there is left out, and an empty answer says so in words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from loom.graph.model.notes import without_notes
from loom.graph.model.task import TaskStatus
from loom.replies import landing
from loom.replies.events import event
from loom.replies.fitting import Reply, full
from loom.replies.parts import age, state, time
from loom.replies.talk import escalation
from loom.wording import Moment, Words, call, listed

if TYPE_CHECKING:  # the MCP server imports this before its first answer
    from loom.graph.model.notes import Note
    from loom.graph.model.task import Listed, Task
    from loom.graph.rules.claims import Outcome, Renewal
    from loom.graph.store import Claim
    from loom.graph.store.blockers import Blocker
    from loom.graph.store.listing import Found
    from loom.graph.store.proofs import Proof
    from loom.graph.store.reading import Detail, Neighbour, Page


def task(one: Task) -> Reply:
    """A task whole, but for its notes."""
    return full(
        id=one.id,
        status=one.status,
        state=state(one),
        title=one.title,
        priority=one.priority,
        parent_id=one.parent_id,
        depends_on=list(one.depends_on),
        done_when=one.done_when,
        files=list(one.files),
        checks=list(one.checks),
        labels=list(one.labels),
        context=without_notes(one.context),
        output=one.output,
        assignee=one.assignee,
        attempt=f"{one.attempt} of {one.max_attempts}" if one.attempt else None,
        token=one.claim_token if one.status is TaskStatus.CLAIMED else None,
        held_by="landing" if one.queued else None,
        lease_expires_at=time(one.lease_expires_at),
        deadline_at=time(one.deadline_at) if one.status is TaskStatus.CLAIMED else None,
        retry_at=time(one.retry_at),
        dead_reason=one.dead_reason,
        origin_id=one.origin_id,
        created_at=time(one.created_at),
        done_at=time(one.done_at),
    )


def created(one: Task) -> Reply:
    """A new task, without what its creator has just said."""
    return full(
        id=one.id,
        status=one.status,
        state=state(one),
        title=one.title,
        priority=one.priority,
        parent_id=one.parent_id,
        depends_on=list(one.depends_on),
        waiting=one.waiting or None,
    )


def claimed(claim: Claim) -> Reply:
    """What a worker needs: the task, the terms of its claim, and what its dependencies left."""
    one = claim.task
    inputs = [
        full(id=i["id"], title=i["title"], status=i["status"], output=_parsed(i["output"]), children=i["children"])
        for i in claim.inputs
    ]
    return full(
        id=one.id,
        status=one.status,
        title=one.title,
        priority=one.priority,
        token=one.claim_token,
        assignee=one.assignee,
        lease_expires_at=time(one.lease_expires_at),
        attempt=f"{one.attempt} of {one.max_attempts}",
        parent_id=one.parent_id,
        done_when=one.done_when,
        files=list(one.files),
        checks=list(one.checks),
        context=without_notes(one.context),
        notes=[_note(note) for note in claim.notes],
        dependencies=inputs,
        more_dependencies=max(len(one.depends_on) - len(inputs), 0) or None,
    )


def outcome(result: Outcome) -> Reply:
    """A task after a report or a decision, and what followed."""
    one = result.task
    if result.landing is not None:
        return {"id": one.id, "status": "landing", "next": landing.NEXT[result.landing.state]}
    return full(
        id=one.id,
        status=one.status,
        state=state(one),
        title=one.title,
        unblocked=list(result.unblocked),
        closed_epics=list(result.closed),
        cancelled=[other for other in result.cancelled if other != one.id],
        held_up=list(result.held_up),
        opened_epics=list(result.opened),
        waived=list(result.waived),
        assignee=one.assignee if one.status is TaskStatus.CLAIMED else None,
        token=one.claim_token if one.status is TaskStatus.CLAIMED else None,
        retry_at=time(one.retry_at),
        dead_reason=one.dead_reason if one.dead else None,
    )


def leases(renewal: Renewal) -> Reply:
    """Renewed claims, and those that were lost."""
    rows = [{"id": one.id, "token": one.claim_token} | held_until(one) for one in renewal.tasks]
    lost = [{"id": task_id, "why": str(error.cause)} for task_id, error in renewal.lost.items()]
    note = "No claims are held under that name." if not rows and not lost else None
    return {"claims": rows, "count": len(rows)} | full(lost=lost or None, note=note)


def held_until(one: Task) -> Reply:
    """Until when a claim holds, or that the landing queue holds it."""
    return {"held_by": "landing"} if one.queued else {"lease_expires_at": time(one.lease_expires_at)}


def ready(page: Page) -> Reply:
    """Ready tasks, best first."""
    if not page.tasks:
        return {
            "tasks": [],
            "count": 0,
            "note": Words("Nothing is ready. Wait with {}, or see {}.", call("wait", what="ready"), call("status")),
        }
    return full(tasks=[row(one) for one in page.tasks], count=len(page.tasks), more=page.more or None)


def found(page: Found) -> Reply:
    """Tasks that a filter asked for."""
    if not page.tasks:
        return {"tasks": [], "count": 0, "note": _NOT_ALL if page.partly else "No task fits."}
    return full(
        tasks=[_found(one, page.blockers.get(one.id, ())) for one in page.tasks],
        count=len(page.tasks),
        more=page.more or None,
        note=_NOT_ALL if page.partly else None,
    )


_NOT_ALL = "More had to be looked at than one page does, or is being changed; say more, or ask again, to see others."


def _found(one: Task, waits: Sequence[Blocker]) -> Reply:
    return full(
        id=one.id,
        status=one.status,
        state=state(one),
        title=one.title,
        priority=one.priority,
        holder=one.assignee if one.status is TaskStatus.CLAIMED else None,
        labels=list(one.labels),
        age=age(one.created_at),
        done_at=time(one.done_at),
        waits_for=waits_for(waits),
        reason=one.dead_reason,
    )


def row(one: Task | Listed) -> Reply:
    """A task in a list."""
    return {"id": one.id, "title": one.title, "priority": one.priority, "age": age(one.created_at)}


def waits_for(found: Sequence[Blocker]) -> list[str]:
    """What a task waits for, a few words each."""
    return [_blocker(one) for one in found]


def detail(found: Detail) -> Reply:
    """One task with all that is around it; what happened stands newest last."""
    return task(found.task) | full(
        notes=[_note(note) for note in found.notes],
        reason=_reason(found),
        landed=landing.landed(found.landing),
        landing=None if found.task.status.finished else landing.on_its_way(found.landing),
        waits_for=waits_for(found.blockers),
        dependencies=[_neighbour(one, found.beside) for one in found.dependencies],
        dependents=[_neighbour(one) for one in found.dependents],
        children=[_neighbour(one, found.beside) for one in found.children],
        escalations=[escalation(one) for one in reversed(found.escalations)],
        proofs=[_proof(one) for one in reversed(found.proofs)],
        history=[event(one) for one in reversed(found.history)],
    )


def _reason(found: Detail) -> str | None:
    """Why a task has failed, or what an unfinished one waits for that nobody works on, in words."""
    one = found.task
    if one.status is TaskStatus.FAILED:
        told = [raised.message for raised in found.escalations if raised.kind == "failure"]
        return one.dead_reason or (told[0] if told else None)
    if one.status is TaskStatus.BLOCKED:
        return Words("It waits for {}.", listed(waits_for(found.blockers)))
    return None if one.status.finished else landing.why(found.landing)


def _blocker(one: Blocker) -> str:
    if one.until is not None:
        return Words("{} (tried again)", Moment(one.until))
    what = one.question or f"{one.state}{', without children' if one.childless else ''}"
    return f"{one.id} ({what})" + (f", as its epic {one.via} does" if one.via else "")


def _note(one: Note) -> Reply:
    """One note. Its text is what its author wrote: data."""
    return full(at=time(one.at), by=one.by, text=one.text)


def _neighbour(one: Neighbour, waits: Mapping[str, Sequence[Blocker]] = MappingProxyType({})) -> Reply:
    return full(
        id=one.id,
        title=one.title,
        status=one.status,
        state=state(one),
        waived=one.waived or None,
        waits_for=waits_for(waits.get(one.id, ())),
    )


def _proof(one: Proof) -> Reply:
    """One run of a check. What it printed stands there where it is not green: text of whatever ran, so data."""
    otherwise = "running" if one.ended_at is None else "void" if one.exit_status is None else "red"
    return full(
        name=one.check_name,
        state="green" if one.green else otherwise,
        exit_status=one.exit_status,
        seconds=one.seconds,
        tree=one.tree,
        commit=one.commit_id,
        flaky=one.flaky or None,
        by=one.agent,
        at=time(one.started_at),
        tail=None if one.green else one.tail or None,
    )


def _parsed(output: str | None) -> Any:
    """An output as the object it is, or its text where it was cut."""
    if output is None:
        return None
    try:
        return json.loads(output)
    except ValueError:
        return output
