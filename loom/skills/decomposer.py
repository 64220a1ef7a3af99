"""From a goal to a graph: what a model must know is gathered, its plan checked, shown, and written after a yes.

    material = await gathering.gather(loom, "Add sign-in", spec_path="docs/sign-in.md")
    plan, run = await make_plan(loom, material, provider)  # or a plan that somebody has written
    preview = await propose(loom, plan, goal="Add sign-in")
    answer = await confirm(loom, preview["plan_id"])       # in one transaction, once

Nothing is written to the graph before `confirm`, and then exactly the plan that was shown, checked again.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from loom import replies, texts
from loom.bus.events import EventType
from loom.exceptions import AnswerError, InvalidInputError, PlanError, PlanNotFoundError, TaskStateError
from loom.graph import store
from loom.graph.model import limits, plan
from loom.graph.model.plan import Draft
from loom.graph.model.task import Task, TaskStatus
from loom.graph.rules import plans
from loom.graph.store import plans as previews
from loom.graph.store.skill_runs import SkillRun
from loom.graph.store.transaction import Transaction
from loom.landing.checks import in_force
from loom.skills import asking, checks, loader
from loom.skills.asking import Noted
from loom.skills.checks import ProjectFacts
from loom.skills.completion import Provider
from loom.skills.gathering import Material, root, tracked_files
from loom.skills.preview import preview
from loom.wording import Argument, Words, call

if TYPE_CHECKING:
    from loom.config import LoomConfig
    from loom.db.connection import Connection
    from loom.graph.front import Loom

SKILL = "decompose_project"
IDS = "ids"  # in a stored answer; too many to be shown
_ROWS = 200  # of tasks in an answer
_REFUSED = "refused"  # the status in the answer to a plan that somebody said no to
_PLAN_ID = re.compile(r"plan-[0-9a-f]{8}")


async def make_plan(
    loom: Loom,
    material: Material,
    provider: Provider,
    *,
    timeout: float = asking.TIMEOUT,
    noted: Noted | None = None,
) -> tuple[dict[str, Any], SkillRun]:
    """Has a provider make a plan; one that is wrong is sent back once, with everything that is wrong with it. `timeout`
    and `noted` are the runner's."""
    files = frozenset(material.files)

    async def check(answer: dict[str, Any]) -> list[str]:
        drafts, problems = checks.read(answer)
        return problems or checks.problems(drafts, await _held_against(loom, drafts, files))

    made = await asking.run(
        loom,
        loader.load(loom.config).get(SKILL),
        material.inputs(),
        provider,
        check=check,
        timeout=timeout,
        noted=noted,
    )
    assert made.output is not None
    return made.output, made


def prompt(loom: Loom, material: Material) -> dict[str, Any]:
    """What a calling agent is told that is to make the plan itself."""
    skill = loader.load(loom.config).get(SKILL)
    return {
        "status": "plan_wanted",
        "next": Words(
            "Make the plan, an object that fits expects, and propose it with {}, the goal being the same.",
            call("decompose", goal=..., plan=...),
        ),
        "expects": skill.outputs,
        "prompt": skill.render(skill.accept(material.reminder())),
    }


async def propose(
    loom: Loom,
    given: object,
    *,
    goal: str = "",
    run_id: str | None = None,
    by_agent: bool = False,
    of_workflow: bool = False,
) -> dict[str, Any]:
    """Checks a plan, stores it and returns its preview, with the `plan_id` for `confirm`.

    Args:
        run_id: the run of the skill that made it.
        by_agent: the calling agent made it, as `prompt` asked for, which is recorded as a run too.
        of_workflow: a workflow asks about it, so that nobody else is to be asked.

    Raises:
        PlanError: something is wrong with it; its `problems` say all.
    """
    drafts, problems = checks.read(given)
    if drafts:
        files = frozenset(await tracked_files(loom.config.project_dir))
        problems = checks.problems(drafts, await _held_against(loom, drafts, files))
    if problems:
        raise refusal(problems)
    text = checks.text(given)
    said = limits.message(goal, "goal") if goal.strip() else ""
    agent = loom.caller()
    skill = loader.load(loom.config).get(SKILL) if by_agent else None

    async def write(tx: Transaction) -> str:
        made_by = run_id
        if skill is not None:
            made_by = await asking.record(tx, skill, {"goal": said}, text, agent=agent)
        return await previews.store(
            tx, text, count=len(drafts), goal=said, agent=agent, run_id=made_by, of_workflow=of_workflow
        )

    plan_id = await loom.transact(write)
    return {"plan_id": plan_id, "status": "preview", **preview(drafts)}


async def get(loom: Loom, plan_id: str) -> previews.Preview:
    """A stored plan as it is. Raises PlanNotFoundError."""
    stored = await loom.look(lambda connection: previews.get(connection, loom.project_id, _known(plan_id)))
    if stored is None:
        raise _missing(plan_id)
    return stored


async def shown(loom: Loom, plan_id: str) -> dict[str, Any]:
    """The preview of a stored plan again, or the answer if it was written. Raises PlanNotFoundError, PlanError: it was
    refused."""
    stored = await get(loom, plan_id)
    _must_not_be_refused(stored)
    if stored.answer is not None:
        return _told(stored.answer)
    return {"plan_id": plan_id, "status": "preview", **preview(plan.read(stored.plan))}


async def confirm(loom: Loom, plan_id: str) -> dict[str, Any]:
    """Writes a stored plan, checked again, in one transaction, and sends word to whoever else proposed it. A second
    time it returns the first answer.

    Raises:
        PlanNotFoundError, PlanError: it was refused, or the project has changed so that it does not fit any more.
    """
    answer = await loom.transact(await writing(loom, plan_id, loom.caller()))
    return _told(answer)


async def refuse(loom: Loom, plan_id: str, *, note: str = "") -> None:
    """Says no to a stored plan, which is not written any more, and sends word of it, with a note, to whoever else
    proposed it.

    Raises:
        PlanNotFoundError, PlanError: it was refused before; TaskStateError: it is written.
    """
    plan_id, agent = _known(plan_id), loom.caller()
    said = limits.reason(note, "note") if note.strip() else ""

    async def write(tx: Transaction) -> None:
        stored = await previews.lock(tx, plan_id)
        if stored is None:
            raise _missing(plan_id)
        _must_not_be_refused(stored)
        if stored.answer is not None:
            raise TaskStateError(f"{plan_id} is written already.", "Cancel the tasks that are not wanted.")
        answer = replies.full(plan_id=plan_id, status=_REFUSED, by=agent, note=said or None)
        await previews.refused(tx, plan_id, answer, agent, said)
        await _send_word(tx, stored, agent, f"{_REFUSED}: {said}" if said else f"{_REFUSED}.")

    await loom.transact(write)


def _must_not_be_refused(stored: previews.Preview) -> None:
    if stored.answer is not None and stored.answer["status"] == _REFUSED:
        why = f"{stored.answer['by']} has refused it{f': {note}' if (note := stored.answer.get('note')) else '.'}"
        raise refusal([why], "Propose another one.")


async def writing(loom: Loom, plan_id: str, agent: str) -> Callable[[Transaction], Awaitable[dict[str, Any]]]:
    """What `confirm` does, to be done in somebody's transaction; the answer also has the `ids` of all tasks."""
    plan_id = _known(plan_id)
    files, config = frozenset(await tracked_files(loom.config.project_dir)), loom.config

    async def write(tx: Transaction) -> dict[str, Any]:
        stored = await previews.lock(tx, plan_id)
        if stored is None:
            raise _missing(plan_id)
        _must_not_be_refused(stored)
        if stored.answer is not None:
            return stored.answer
        await store.lock_graph(tx)  # of two plans with the same titles the second sees the first
        drafts = plan.read(stored.plan)
        if problems := checks.problems(drafts, await _around(tx.connection, config, drafts, files)):
            raise refusal(problems)
        planted = await plans.plant(tx, drafts, agent=agent, max_attempts=loom.max_attempts)
        counts = Counter(task.status for task in planted.tasks)
        data = replies.full(
            plan_id=plan_id,
            tasks=len(planted.tasks),
            epics=counts[TaskStatus.EPIC],
            goal=texts.shorten(stored.goal, 200),
        )
        tx.record_event(EventType.PROJECT_DECOMPOSED, agent=agent, data=data)
        answer = _written(plan_id, planted.tasks, counts)
        await previews.applied(tx, plan_id, answer)
        await _send_word(tx, stored, agent, f"written, {texts.plural(len(planted.tasks), 'task')}.")
        return answer

    return write


async def _send_word(tx: Transaction, stored: previews.Preview, by: str, said: str) -> None:
    """Tells whoever else proposed a plan what was said to it, as whoever asks is told the answer."""
    if not (stored.of_workflow or stored.agent == by):
        await store.messages.send(tx, by, stored.agent, f"Answer on {stored.id}: {said}", stored.id)


def refusal(problems: Sequence[str], next_step: str = "Correct it and propose it again.") -> PlanError:
    """The error for a plan that is sent back."""
    more = len(problems) - 1
    others = f" There {'is' if more == 1 else 'are'} {more} more." if more else ""
    return PlanError(f"The plan cannot be used as it is: {problems[0]}{others}", next_step, tuple(problems))


def plan_in(error: AnswerError) -> dict[str, Any] | None:
    """The last answer of a model that was a plan in form, if not in order, and can be saved; None without one."""
    for answer in reversed(error.answers):
        tasks = answer.get("tasks")
        if isinstance(tasks, list) and tasks and all(isinstance(task, dict) for task in tasks):
            with suppress(InvalidInputError):
                limits.json_object({"tasks": tasks}, "plan", plan.PLAN_BYTES)
                return {"tasks": tasks}
    return None


def is_plan_id(text: str) -> bool:
    """Whether a text is the id of a stored plan and not the name of a file."""
    return _PLAN_ID.fullmatch(text) is not None


def _known(plan_id: object) -> str:
    if not isinstance(plan_id, str) or not is_plan_id(plan_id):
        raise InvalidInputError(
            Words("{} {} is not the id of a plan.", Argument("plan_id"), texts.quote(str(plan_id))),
            "Pass it as the preview gave it.",
        )
    return plan_id


def _missing(plan_id: str) -> PlanNotFoundError:
    return PlanNotFoundError(f"This project has no plan {plan_id}.", "Make a new preview.")


async def _held_against(loom: Loom, drafts: Sequence[Draft], files: Collection[str]) -> ProjectFacts:
    return await loom.look(lambda connection: _around(connection, loom.config, drafts, files))


async def _around(
    connection: Connection, config: LoomConfig, drafts: Sequence[Draft], files: Collection[str]
) -> ProjectFacts:
    """What a plan is held against, as the project is now."""
    project_id = config.project_id or ""
    titles = await previews.same_titles(connection, project_id, [checks.same(draft.title) for draft in drafts])
    outside = checks.outside(drafts)
    tasks = await store.get_tasks(connection, project_id, outside) if outside else {}
    cancelled = {id for id, task in tasks.items() if task.status is TaskStatus.CANCELLED}
    missing, names = {*outside} - {*tasks}, frozenset(in_force(config))
    return ProjectFacts(root(config.project_dir), files, titles, missing, cancelled, names)


def _written(plan_id: str, tasks: Sequence[Task], counts: Mapping[TaskStatus, int]) -> dict[str, Any]:
    rows = [
        replies.full(id=one.id, status=str(one.status), state=replies.state(one), title=one.title)
        for one in tasks[:_ROWS]
    ]
    return replies.full(
        plan_id=plan_id,
        status="written",
        count=len(tasks),
        ready=counts[TaskStatus.PENDING],
        blocked=counts[TaskStatus.BLOCKED],
        epics=counts[TaskStatus.EPIC],
        tasks=rows,
        more=max(len(tasks) - _ROWS, 0) or None,
        **{IDS: [one.id for one in tasks]},
    )


def _told(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What was kept of a plan that is written, and what is to be done now, which each face words when it is told."""
    facts = {name: value for name, value in answer.items() if name != IDS}
    return facts | {"next": Words("Work can begin with {}.", call("claim"))}


def dumped(given: Mapping[str, Any]) -> str:
    """A plan as text to be edited: YAML, or JSON where some text in it would be read as another value."""
    import yaml

    plain = json.loads(json.dumps(given))
    text: str = yaml.safe_dump(plain, allow_unicode=True, sort_keys=False, width=100)
    try:
        return text if plan.load(text) == plain else json.dumps(plain, ensure_ascii=False, indent=1)
    except PlanError:
        return json.dumps(plain, ensure_ascii=False, indent=1)
