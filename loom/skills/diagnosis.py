"""From a failed task to its mending: what a model must know is gathered, its diagnosis checked, and carried out.

    inputs = await material(loom, task_id)
    run = await asking.run(loom, skill, inputs, provider, check=problems)
    reply = await loom.transact(lambda tx: carry_out(tx, task_id, run.output, agent="me", max_attempts=3))

A diagnosis is what Loom's own skill `debug_failure` answers, also where a skill of that name takes its place.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom import files, replies, texts
from loom.graph import store
from loom.graph.model import limits
from loom.graph.model.task import Task
from loom.graph.rules import holding, mending
from loom.graph.rules.mending import Diagnosis, Remedy
from loom.graph.store import escalations, landings, proofs
from loom.graph.store.transaction import Transaction
from loom.skills import answers, asking, checks, loader

if TYPE_CHECKING:
    from loom.db.connection import Connection
    from loom.graph.front import Loom
    from loom.graph.store.escalations import Escalation
    from loom.graph.store.proofs import Proof

SKILL = "debug_failure"
_CONTEXT = 20_000  # characters, as all below
_FAILURES, _MESSAGE = 10, 4_000
_NEIGHBOURS, _OUTPUT = 20, 2_000
_CHECKS = 50  # proofs that are looked at
_LOG_BYTES = 8 * 1024


async def material(loom: Loom, task_id: str) -> dict[str, Any]:
    """The inputs of the skill for a failed or escalated task: the task, why it failed (what checks and the landing of
    its newest attempt said, then its failures, newest first), the end of what that attempt printed under `loom work` on
    this machine, and what it depends on. Long texts are shortened.

    Raises:
        InvalidInputError, TaskNotFoundError.
    """
    task_id = limits.task_id(task_id)

    async def read(connection: Connection) -> tuple[Task, list[Escalation], dict[str, Task], list[dict[str, Any]]]:
        task = await store.get_task(connection, loom.project_id, task_id)
        if task is None:
            raise holding.not_found(task_id)
        raised = await escalations.of_tasks(connection, loom.project_id, [task_id])
        before = await store.get_tasks(connection, loom.project_id, task.depends_on[:_NEIGHBOURS])
        return task, raised, before, await _refused(connection, task)

    task, raised, before, refused = await loom.look(read)
    return {
        "task": replies.full(
            id=task.id,
            title=task.title,
            status=str(task.status),
            attempts=f"{task.attempt} of {task.max_attempts}",
            done_when=task.done_when,
            files=list(task.files),
            checks=list(task.checks),
            context=_short(task.context, _CONTEXT),
        ),
        "failures": refused
        + [
            replies.full(
                kind=str(one.kind),
                attempt=one.attempt or None,
                message=_short(texts.mask(one.message), _MESSAGE),
                resolution=one.resolution,
                cause_found=one.diagnosis and one.diagnosis.get("cause"),
                note=one.note and _short(one.note, _MESSAGE),
            )
            for one in raised[:_FAILURES]
        ],
        "log": await asyncio.to_thread(_log, loom.config.loom_dir, task),
        "neighbours": [
            replies.full(id=one.id, title=one.title, status=str(one.status), output=_short(one.output, _OUTPUT))
            for one in before.values()
        ],
    }


async def _refused(connection: Connection, task: Task) -> list[dict[str, Any]]:
    """What was wrong with the work of a task's newest attempt, by the checks that ran for it and by its landing."""
    found = []
    landing = await landings.of_claim(connection, task.project_id, task.id, task.claim_token)
    if landing is not None and landing.reason:
        told = _short(texts.mask("\n".join(part for part in (landing.reason, landing.note) if part)), _MESSAGE)
        found.append({"kind": "sent back", "message": told})
    newest: dict[str, Proof] = {}
    for proof in await proofs.of_task(connection, task.project_id, task.id, _CHECKS, token=task.claim_token):
        newest.setdefault(proof.check_name, proof)
    for proof in newest.values():
        if proof.exit_status:
            head = f"Check {proof.check_name} ended with status {proof.exit_status}:"
            found.append({"kind": "check", "message": _short(texts.mask(f"{head}\n{proof.tail}"), _MESSAGE)})
    return found


def problems(answer: object, *, title: str | None = None) -> list[str]:
    """What is wrong with a diagnosis, a sentence each that a model can act on; empty if nothing is.

    Args:
        title: of the failed task, which no fix task may bear.
    """
    if found := _too_many_places(answer) or answers.problems(answer, _outputs()):
        return found
    assert isinstance(answer, dict), "the schema says so"
    action, fix_tasks = answer["action"], answer["fix_tasks"]
    if action == Remedy.FIX_FIRST and not fix_tasks:
        return ["The action is fix_first, but fix_tasks is empty. Say what is to be repaired first, or choose another."]
    if action != Remedy.FIX_FIRST and fix_tasks:
        return [f"The action is {action}, but there are fix_tasks. Leave them out, or choose fix_first."]
    if action == Remedy.ASK_PERSON and not answer.get("question", "").strip():
        return ["The action is ask_person, but there is no question. Put the question that a person is to answer."]
    return _wrong_places(fix_tasks) or _wrong_plan(fix_tasks) or _wrong_titles(fix_tasks, title)


async def carry_out(
    tx: Transaction,
    task_id: str,
    diagnosis: object,
    *,
    agent: str,
    max_attempts: int,
    run_id: str | None = None,
    left: str | None = None,
) -> dict[str, Any]:
    """Checks a diagnosis, records it with the newest escalation of a task, and carries it out.

    `fix_first` creates the fix tasks, in the task's epic and with its priority, and requeues the task, which waits for
    all of them; `retry` and `change_task` requeue it. Requeued, it has the diagnosis's note, its attempts begin anew,
    and its escalation is resolved. `ask_person` and `give_up` leave everything to a person, the diagnosis recorded.

    Args:
        diagnosis: the answer of the skill.
        agent: whose diagnosis it is.
        max_attempts: of each fix task.
        run_id: the run of the skill that made it.
        left: why it is only recorded and left to a person, whatever its action.

    Returns:
        id and status of the task as they are now, escalation, action, confidence, cause; fixes: ids in the order of
        fix_tasks; where it was left to a person, left: why, and the question.

    Raises:
        AnswerError: it is no diagnosis that can be carried out; TaskNotFoundError; TaskStateError: the task has neither
        failed nor an open question; InvalidInputError.
    """
    task_id = limits.task_id(task_id)
    task = await store.get_task(tx.connection, tx.project_id, task_id)
    if task is None:
        raise holding.not_found(task_id)
    if found := problems(diagnosis, title=task.title):
        raise asking.wrong(SKILL, found)
    assert isinstance(diagnosis, dict), "the check says so"
    checked = Diagnosis(
        cause=diagnosis["cause"],
        confidence=diagnosis["confidence"],
        action=Remedy(diagnosis["action"]),
        note=diagnosis["note"],
        evidence=tuple(diagnosis["evidence"]),
        question=diagnosis.get("question") or None,
        fix_tasks=tuple(diagnosis["fix_tasks"]),
        run_id=run_id,
    )
    mended = await mending.mend(tx, task_id, checked, agent=agent, max_attempts=max_attempts, left=left)
    return {
        **replies.full(
            id=task_id,
            status=str(mended.task.status),
            escalation=mended.escalation,
            action=str(checked.action),
            confidence=checked.confidence,
            cause=checked.cause,
            left=mended.left,
            question=checked.question if mended.left else None,
        ),
        "fixes": list(mended.fixes),
    }


@cache
def _outputs() -> Mapping[str, Any]:
    """The schema of a diagnosis."""
    name = f"{SKILL}.md"
    return loader.parse(loader.BUILTIN[name].decode(), f"built-in {name}", "built-in").outputs


_MANY = 10_000  # more than any diagnosis has


def _too_many_places(answer: object) -> list[str]:
    """Lists of very many places, counted before each of them is held against the schema, which takes seconds."""
    fix_tasks = answer.get("fix_tasks") if isinstance(answer, dict) else None
    rows = fix_tasks if isinstance(fix_tasks, list) else []
    last = len(rows) - 1
    crowded = (
        f"fix_tasks[{place}].depends_on names {len(before):,} places, but there are {last} other tasks."
        for place, one in enumerate(rows)
        if isinstance(one, dict) and isinstance(before := one.get("depends_on"), list) and len(before) > _MANY
    )
    return list(islice(crowded, answers.PROBLEMS_TOLD))


def _wrong_places(fix_tasks: list[dict[str, Any]]) -> list[str]:
    last = len(fix_tasks) - 1
    found = []
    for place, one in enumerate(fix_tasks):
        name, before = f"fix_tasks[{place}].depends_on", one.get("depends_on", ())
        if len(before) > last:
            found.append(f"{name} names {len(before):,} places, but there are {last} other tasks.")
        elif place in before:
            found.append(f"{name} names the task itself. Leave {place} out.")
        elif any(one > last for one in before):
            found.append(f"{name} names a place that is not there. Places go from 0 to {last}.")
    return found


def _wrong_plan(fix_tasks: list[dict[str, Any]]) -> list[str]:
    """What the rules for plans say."""
    if not fix_tasks:
        return []
    drafts, unreadable = checks.read(mending.planned(fix_tasks))
    return unreadable or checks.few(drafts)


def _wrong_titles(fix_tasks: list[dict[str, Any]], title: str | None) -> list[str]:
    found = []
    seen = {} if title is None else {checks.same(title): "the failed task"}
    for place, one in enumerate(fix_tasks):
        name = f"fix_tasks[{place}]"
        if twin := seen.get(checks.same(one["title"])):
            found.append(
                f"{name} has the title of {twin}. Give it a title that says what is different, or leave it out."
            )
        seen.setdefault(checks.same(one["title"]), name)
    return found


def _short(value: Any, most: int) -> Any:
    """A text or JSON value of at most so many characters; longer, the beginning of its text."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return value if len(text) <= most else texts.shorten(text, most, f"shortened; {len(text):,} characters")


def _log(loom_dir: Path | None, task: Task) -> str:
    """The end of what the newest attempt printed, "" if there is no such file."""
    if loom_dir is None or not task.claim_token:
        return ""
    path = loom_dir / "logs" / f"{task.id}-{task.claim_token}.log"
    try:
        return texts.mask(files.log_end(path, _LOG_BYTES, loom_dir).decode(errors="replace"))
    except OSError:  # none, or none that may be read
        return ""
