"""What a workflow can do by itself: its actions.

One that changes the graph is prepared outside of a transaction and done in the one that also writes that its step is
done, so that it happens once. One that only looks, or that runs a command, is done between two transactions, and done
again if it was interrupted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom import process, texts
from loom.exceptions import InvalidInputError, WorkflowError
from loom.graph.model import limits, plan
from loom.graph.rules import plans, resolving, talking
from loom.graph.rules.claims import Terms
from loom.graph.store import reading
from loom.graph.store.transaction import Transaction
from loom.skills import decomposer, diagnosis
from loom.skills.fields import Input

if TYPE_CHECKING:
    from loom.graph.front import Loom

RUN_COMMAND = "run_command"
PLAN = "plan"
_OUT_BYTES = 100_000  # of what a command prints
_RESULTS = 60_000  # characters of all results together, if each is as long as it may be
_SHORTEST_RESULT = 100  # characters that one may have, however many there are
_RESOLVE = ("retry", "answer", "waive", "cancel")

Output = dict[str, Any]
Work = Callable[[Transaction], Awaitable[Output]]
"""Something to be done in a transaction. It may be done anew after a deadlock, so it has no effects but through it."""


@dataclass(frozen=True, slots=True)
class Action:
    """One action, with exactly one of these:

    Args:
        inputs: what it takes.
        change: prepares a change to the graph by an agent.
        look: looks or runs something, within so many seconds.
    """

    inputs: tuple[Input, ...]
    change: Callable[[Loom, Mapping[str, Any], str], Awaitable[Work]] | None = None
    look: Callable[[Loom, Mapping[str, Any], float], Awaitable[Output]] | None = None


# --- what changes the graph -----------------------------------------------------------------------------------------


async def _write_plan(loom: Loom, values: Mapping[str, Any], agent: str) -> Work:
    writing = await decomposer.writing(loom, values["plan_id"], agent)

    async def write(tx: Transaction) -> Output:
        answer = await writing(tx)
        return {name: answer[name] for name in ("plan_id", "count", decomposer.IDS)}

    return write


async def _create_tasks(loom: Loom, values: Mapping[str, Any], agent: str) -> Work:
    drafts = plan.parse({"tasks": values["tasks"]})

    async def write(tx: Transaction) -> Output:
        planted = await plans.plant(tx, drafts, agent=agent, max_attempts=loom.max_attempts)
        return {"count": len(planted.tasks), "ids": [one.id for one in planted.tasks]}

    return write


async def _mend(loom: Loom, values: Mapping[str, Any], agent: str) -> Work:
    task_id, found = limits.task_id(values["task_id"]), values["diagnosis"]

    async def write(tx: Transaction) -> Output:
        return await diagnosis.carry_out(tx, task_id, found, agent=agent, max_attempts=loom.max_attempts)

    return write


async def _resolve(loom: Loom, values: Mapping[str, Any], agent: str) -> Work:
    if values["action"] not in _RESOLVE:
        raise InvalidInputError(
            f"action {texts.quote(values['action'])} cannot be used here.", f"Use one of {', '.join(_RESOLVE)}."
        )
    chosen, settings = resolving.Resolution(values["action"]), loom.config.orchestration
    target = values["id"] if values["id"].startswith("esc-") else limits.task_id(values["id"], "id")
    note = limits.message(values["note"], "note") if values["note"] else None

    async def write(tx: Transaction) -> Output:
        outcome = await resolving.resolve(
            tx,
            target,
            chosen,
            by=agent,
            note=note,
            assignee=None,
            terms=Terms(settings.claim_ttl_seconds, settings.deadline_seconds),
            downstream=False,
        )
        return {"id": outcome.task.id, "status": str(outcome.task.status)}

    return write


async def _send_message(loom: Loom, values: Mapping[str, Any], agent: str) -> Work:
    to = limits.recipient(values["to"])
    body = limits.message(values["message"])

    async def write(tx: Transaction) -> Output:
        return {"message_id": (await talking.send(tx, agent, to, body)).id}

    return write


# --- what looks, or runs --------------------------------------------------------------------------------------------


async def _load_failure(loom: Loom, values: Mapping[str, Any], timeout: float) -> Output:
    return await diagnosis.material(loom, limits.task_id(values["task_id"]))


async def _load_results(loom: Loom, values: Mapping[str, Any], timeout: float) -> Output:
    ids = list(dict.fromkeys(limits.task_id(one, "tasks") for one in values["tasks"]))
    room = max(_RESULTS // max(len(ids), 1), _SHORTEST_RESULT)
    results = await loom.look(lambda connection: reading.results(connection, loom.project_id, ids, room))
    counts = Counter(one.status for one in results)
    parts, left = [", ".join(f"{count:,} {status}" for status, count in counts.items())], 2 * _RESULTS
    for number, one in enumerate(results):
        more = f"… ({one.length:,} characters)" if one.length > room else ""
        where = "" if one.landed is None else ", landed on {} as {}".format(*one.landed)
        parts.append(f"{one.id} ({one.status}{where}) {one.title}\n{one.output}{more}")
        left -= len(parts[-1]) + 2
        if left < 0:
            parts[-1] = f"… and {len(results) - number:,} tasks more, which are not shown."
            break
    return {"count": len(results), "text": texts.clean("\n\n".join(parts))}


async def _run_command(loom: Loom, values: Mapping[str, Any], timeout: float) -> Output:
    words = _command(values["words"])
    directory = loom.config.project_dir or Path.cwd()
    try:
        ended = await process.run(
            words, text=values["text"], env=process.environment(), cwd=directory, timeout=timeout, out_bytes=_OUT_BYTES
        )
    except TimeoutError:  # which is an OSError too
        raise
    except OSError as error:
        raise WorkflowError(f"The command {words[0]} cannot be started: {error.strerror}.", "Correct it.") from None
    out, err = (texts.clean(data.decode(errors="replace")).strip() for data in (ended.out, ended.err))
    if ended.cut:
        raise WorkflowError(
            f"The command {words[0]} was stopped: it printed more than {_OUT_BYTES:,} bytes.",
            "Have it write to a file, or print less.",
        )
    if ended.status and values["must_succeed"]:
        said = (err or out or "it said nothing")[-1000:]
        raise WorkflowError(
            f"The command {words[0]} ended with status {ended.status}: {said}", "Run it by hand to see."
        )
    return {"status": ended.status, "out": out, "err": err}


def _command(words: Sequence[object]) -> list[str]:
    """A command and its arguments, as the system takes them."""
    texts_alone = [one for one in words if isinstance(one, str) and one and "\0" not in one]
    if not words or len(texts_alone) < len(words):
        raise InvalidInputError("words must be a command and its arguments, each a text.", "Correct the workflow.")
    return texts_alone


def _input(name: str, type: str = "string", default: Any = None) -> Input:
    return Input(name, type, "", default is None, default)


ACTIONS: Mapping[str, Action] = {
    PLAN: Action((_input("goal"), _input("spec", default=""))),
    "write_plan": Action((_input("plan_id"),), change=_write_plan),
    "create_tasks": Action((_input("tasks", "array"),), change=_create_tasks),
    "mend": Action((_input("task_id"), _input("diagnosis", "object")), change=_mend),
    "resolve": Action((_input("id"), _input("action"), _input("note", default="")), change=_resolve),
    "send_message": Action((_input("to"), _input("message")), change=_send_message),
    "load_failure": Action((_input("task_id"),), look=_load_failure),
    "load_results": Action((_input("tasks", "array"),), look=_load_results),
    RUN_COMMAND: Action(
        (_input("words", "array"), _input("text", default=""), _input("must_succeed", "boolean", default=True)),
        look=_run_command,
    ),
}
"""All actions by name. `plan` has a model make one, see `asking.py`."""
