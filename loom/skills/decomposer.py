"""From a goal to a graph: what a model must know is gathered, its plan checked, shown, and written after a yes.

    material = await gather(loom, "Add sign-in", spec_path="docs/sign-in.md")
    plan, run = await make_plan(loom, material, provider)  # or a plan that somebody has written
    preview = await propose(loom, plan, goal="Add sign-in")
    answer = await confirm(loom, preview["plan_id"])       # in one transaction, once

Nothing is written to the graph before `confirm`, and then exactly the plan that was shown, checked again.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom import replies, texts
from loom.bus.events import EventType
from loom.exceptions import AnswerError, InvalidInputError, PlanError, PlanNotFoundError
from loom.graph import store
from loom.graph.model import dependencies, limits, plan
from loom.graph.model.bulk import uncollected
from loom.graph.model.plan import Draft
from loom.graph.model.task import Task, TaskStatus
from loom.graph.rules import plans
from loom.graph.store.reading import GraphView
from loom.graph.store.skill_runs import SkillRun
from loom.graph.store.transaction import Transaction
from loom.replies import drawing
from loom.skills import asking, checks, loader
from loom.skills.asking import Noted
from loom.skills.checks import ProjectFacts
from loom.skills.providers import Provider
from loom.wording import Argument, Words, call

if TYPE_CHECKING:
    from loom.db.connection import Connection
    from loom.graph.front import Loom

SKILL = "decompose_project"
IDS = "ids"  # in a stored answer; too many to be shown
SPEC_BYTES = 256 * 1024
_GOAL_BYTES = 32 * 1024
_FILES_KNOWN = 200_000
_FILES_BYTES = 20_000_000
_FILES_SHOWN = 40_000  # characters of paths in a provider's prompt
_TASKS_SHOWN = 200
_REMINDED = 900  # characters of each in the prompt of an agent, who can look for itself
_GIT_SECONDS = 10.0
_ROWS = 200  # of tasks in an answer
_DRAWN = 60  # tasks in a chart
_PLAN_ID = re.compile(r"plan-[0-9a-f]{8}")
_WEIGHT = {"small": 1, "medium": 2, "large": 4}  # how long a task is beside others; unknown sizes are medium


@dataclass(frozen=True, slots=True)
class Material:
    """What a model must know: the goal, a specification, the files that git tracks, and the open tasks."""

    goal: str
    spec: str
    files: tuple[str, ...]
    tasks: tuple[tuple[str, str, str], ...]

    def inputs(self) -> dict[str, Any]:
        """As inputs of the skill, for a provider."""
        return self._inputs(self.goal, self.spec, _FILES_SHOWN, _TASKS_SHOWN)

    def reminder(self) -> dict[str, Any]:
        """As inputs of the skill, brief: for an agent that sees the same project."""
        room, rows = _REMINDED, 0
        while rows < len(self.tasks) and (room := room - len(self.tasks[rows][2]) - 60) > 0:
            rows += 1
        return self._inputs(_brief(self.goal), _brief(self.spec), _REMINDED, rows)

    def _inputs(self, goal: str, spec: str, characters: int, rows: int) -> dict[str, Any]:
        tasks = [{"id": one, "status": status, "title": title} for one, status, title in self.tasks[:rows]]
        return {
            "goal": goal,
            "spec": spec,
            "files": _tree(self.files, characters),
            "open_tasks": tasks,
            "more_tasks": max(len(self.tasks) - rows, 0),
        }


async def gather(loom: Loom, goal: str = "", *, spec_path: str | None = None, spec: str = "") -> Material:
    """Gathers what a model must know.

    Args:
        spec_path: a text file below the project's directory; `spec` is the text itself.

    Raises:
        InvalidInputError: neither goal nor specification, or a path that leads out of the project.
    """
    directory = loom.config.project_dir
    if spec_path is not None:
        spec = await asyncio.to_thread(_read_spec, directory, spec_path)
    if len(spec.encode(errors="replace")) > SPEC_BYTES:
        raise InvalidInputError(
            f"The specification is larger than {SPEC_BYTES // 1024} kB.", "Decompose it one part at a time."
        )
    if not goal.strip() and not spec.strip():
        raise InvalidInputError("There is neither a goal nor a specification.", "Say what is to be reached.")
    goal = limits.message(goal, "goal") if goal.strip() else "Carry out the specification."
    tracked = await asyncio.to_thread(tracked_files, directory)

    async def open_tasks(connection: Connection) -> list[tuple[str, str, str]]:
        records = await connection.fetch(_OPEN, loom.project_id, plan.PLAN_TASKS)
        return [(record["id"], record["status"], record["title"]) for record in records]

    return Material(goal, spec, tuple(tracked), tuple(await loom.look(open_tasks)))


async def make_plan(
    loom: Loom,
    material: Material,
    provider: Provider,
    *,
    agent_id: str | None = None,
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
        agent_id=agent_id,
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
    agent_id: str | None = None,
) -> dict[str, Any]:
    """Checks a plan, stores it and returns its preview, with the `plan_id` for `confirm`.

    Args:
        run_id: the run of the skill that made it.
        by_agent: the calling agent made it, as `prompt` asked for, which is recorded as a run too.

    Raises:
        PlanError: something is wrong with it; its `problems` say all.
    """
    drafts, problems = checks.read(given)
    if drafts:
        files = frozenset(await asyncio.to_thread(tracked_files, loom.config.project_dir))
        problems = checks.problems(drafts, await _held_against(loom, drafts, files))
    if problems:
        raise refusal(problems)
    text = checks.text(given)
    said = limits.message(goal, "goal") if goal.strip() else ""
    agent = loom.caller(agent_id)
    skill = loader.load(loom.config).get(SKILL) if by_agent else None

    async def write(tx: Transaction) -> str:
        made_by = run_id
        if skill is not None:
            made_by = await asking.record(tx, skill, {"goal": said}, text, agent=agent)
        return await store.plans.store(tx, text, goal=said, agent=agent, run_id=made_by)

    plan_id = await loom.transact(write)
    return {"plan_id": plan_id, "status": "preview", **preview(drafts)}


async def get(loom: Loom, plan_id: str) -> store.plans.Preview:
    """A stored plan as it is. Raises PlanNotFoundError."""
    stored = await loom.look(lambda connection: store.plans.get(connection, loom.project_id, _known(plan_id)))
    if stored is None:
        raise _missing(plan_id)
    return stored


async def shown(loom: Loom, plan_id: str) -> dict[str, Any]:
    """The preview of a stored plan again, or the answer if it was written. Raises PlanNotFoundError."""
    stored = await get(loom, plan_id)
    if stored.answer is not None:
        return _without_ids(stored.answer)
    return {"plan_id": plan_id, "status": "preview", **preview(plan.read(stored.plan))}


async def confirm(loom: Loom, plan_id: str, *, agent_id: str | None = None) -> dict[str, Any]:
    """Writes a stored plan, checked again, in one transaction. A second time it returns the first answer.

    Raises:
        PlanNotFoundError, PlanError: the project has changed so that the plan does not fit any more.
    """
    answer = await loom.transact(await writing(loom, plan_id, loom.caller(agent_id)))
    return _without_ids(answer)


async def writing(loom: Loom, plan_id: str, agent: str) -> Callable[[Transaction], Awaitable[dict[str, Any]]]:
    """What `confirm` does, to be done in somebody's transaction; the answer also has the `ids` of all tasks."""
    plan_id = _known(plan_id)
    directory = loom.config.project_dir
    files = frozenset(await asyncio.to_thread(tracked_files, directory))

    async def write(tx: Transaction) -> dict[str, Any]:
        stored = await store.plans.lock(tx, plan_id)
        if stored is None:
            raise _missing(plan_id)
        if stored.answer is not None:
            return stored.answer
        await store.lock_graph(tx)  # of two plans with the same titles the second sees the first
        drafts = plan.read(stored.plan)
        if problems := checks.problems(drafts, await _around(tx.connection, tx.project_id, drafts, directory, files)):
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
        await store.plans.applied(tx, plan_id, answer)
        return answer

    return write


@uncollected()
def preview(drafts: Sequence[Draft]) -> dict[str, Any]:
    """What a plan would do: its waves (what can run at once), its critical path, and a chart. Tasks go by t and their
    place in the plan."""
    short = {draft.key: f"t{number}" for number, draft in enumerate(drafts, 1)}
    view = _view(drafts, short)
    titles = {short[draft.key]: draft.title for draft in drafts}
    waves = [[one.id for one in wave] for wave in drawing.waves(view)]
    path = _critical(drafts)
    outside = {name for draft in drafts for name in draft.depends_on if name not in short}
    return replies.full(
        count=sum(not draft.epic for draft in drafts),
        epics=sum(draft.epic for draft in drafts),
        edges=sum(len(draft.depends_on) for draft in drafts),
        waits_for=sorted(outside)[:50],
        waves=[
            {
                "wave": number,
                "count": len(wave),
                "tasks": [f"{one} {texts.shorten(titles[one], 100)}" for one in wave[:10]],
            }
            for number, wave in enumerate(waves[:50], 1)
        ],
        more_waves=max(len(waves) - 50, 0) or None,
        critical_path=[f"{short[key]} {texts.shorten(titles[short[key]], 100)}" for key in path[:50]],
        critical_path_length=len(path),
        mermaid=_chart(view),
    )


def _chart(view: GraphView) -> str:
    """A flowchart of as many tasks as an agent can afford to read."""
    kept = _DRAWN
    while True:
        shown = {one.id for one in view.tasks[:kept]}
        edges = [edge for edge in view.edges if edge[0] in shown]
        chart = drawing.mermaid(GraphView(view.tasks[:kept], edges, max(len(view.tasks) - kept, 0)))
        if len(chart) <= replies.FIELD_CHARACTERS or kept == 1:
            return chart
        kept = kept * 2 // 3


def refusal(problems: Sequence[str], next_step: str = "Correct it and propose it again.") -> PlanError:
    """The error for a plan that is sent back."""
    more = len(problems) - 1
    others = f" There {'is' if more == 1 else 'are'} {more} more." if more else ""
    return PlanError(f"The plan cannot be used as it is: {problems[0]}{others}", next_step, tuple(problems))


def refused(error: AnswerError) -> dict[str, Any] | None:
    """The last answer of a model that was a plan in form, if not in order, and can be saved; None without one."""
    for answer in reversed(error.answers):
        tasks = answer.get("tasks")
        if isinstance(tasks, list) and tasks and all(isinstance(task, dict) for task in tasks):
            with suppress(InvalidInputError):
                limits.json_object({"tasks": tasks}, "plan", plan.PLAN_BYTES)
                return {"tasks": tasks}
    return None


def tracked_files(directory: Path | None) -> list[str]:
    """The paths that git tracks below a directory; none where there is no repository."""
    if directory is None:
        return []
    try:
        # Nothing that the repository's own settings name is run for this.
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "ls-files", "-z", "--cached"],
            cwd=directory,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    found = done.stdout[:_FILES_BYTES].decode(errors="replace").split("\0")
    return [path for path in found[:_FILES_KNOWN] if path]


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


_OPEN = """
select id, status, title from tasks where project_id = $1 and done_at is null order by created_at desc, id limit $2
"""
_TWINS = """
select min(id) as id, title from (
    select id, lower(btrim(regexp_replace(title, '\\s+', ' ', 'g'))) as title from tasks
     where project_id = $1 and done_at is null
) t where title = any($2::text[]) group by title
"""


_THERE = "select id from tasks where project_id = $1 and id = any($2::text[])"


async def _held_against(loom: Loom, drafts: Sequence[Draft], files: Collection[str]) -> ProjectFacts:
    directory = loom.config.project_dir
    return await loom.look(lambda connection: _around(connection, loom.project_id, drafts, directory, files))


async def _around(
    connection: Connection, project_id: str, drafts: Sequence[Draft], directory: Path | None, files: Collection[str]
) -> ProjectFacts:
    """What a plan is held against, as the project is now."""
    twins = await connection.fetch(_TWINS, project_id, [checks.same(draft.title) for draft in drafts])
    titles = {record["title"]: record["id"] for record in twins}
    outside = checks.outside(drafts)
    there = await connection.fetch(_THERE, project_id, outside) if outside else ()
    return ProjectFacts(directory, files, titles, {*outside} - {record["id"] for record in there})


def _written(plan_id: str, tasks: Sequence[Task], counts: Mapping[TaskStatus, int]) -> dict[str, Any]:
    rows = [{"id": one.id, "status": str(one.status), "title": one.title} for one in tasks[:_ROWS]]
    return replies.full(
        plan_id=plan_id,
        status="written",
        count=len(tasks),
        ready=counts[TaskStatus.PENDING],
        blocked=counts[TaskStatus.BLOCKED],
        epics=counts[TaskStatus.EPIC],
        tasks=rows,
        more=max(len(tasks) - _ROWS, 0) or None,
        next=Words("Work can begin with {}.", call("claim")),
        **{IDS: [one.id for one in tasks]},
    )


def _without_ids(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != IDS}


def _view(drafts: Sequence[Draft], short: Mapping[str, str]) -> GraphView:
    """Drafts as the tasks that they would become."""
    moment = datetime.now(UTC)
    tasks = [
        Task(
            id=short[draft.key],
            project_id="",
            title=draft.title,
            status=TaskStatus.EPIC if draft.epic else TaskStatus.BLOCKED if draft.depends_on else TaskStatus.PENDING,
            priority=draft.priority,
            version=1,
            created_at=moment,
            updated_at=moment,
            parent_id=short.get(draft.parent or ""),
        )
        for draft in drafts
    ]
    edges = [(short[draft.key], short[name], False) for draft in drafts for name in draft.depends_on if name in short]
    return GraphView(tasks, edges, 0)


def _critical(drafts: Sequence[Draft]) -> list[str]:
    """The keys of the tasks on the longest way through the plan, by size."""
    by_key = {draft.key: draft for draft in drafts}
    edges = dependencies.waits_for(
        {draft.key: [name for name in draft.depends_on if name in by_key] for draft in drafts},
        {draft.key: draft.parent for draft in drafts if draft.parent in by_key},
        {draft.key for draft in drafts if draft.epic},
    )
    order, _ = dependencies.topological(edges)
    length: dict[str, int] = {}
    before: dict[str, str | None] = {}
    for node in order:
        draft = by_key[dependencies.task_of(node)]
        weight = 0 if draft.epic else _WEIGHT.get(str(draft.context.get("size", "")).lower(), 2)
        last = max(edges.get(node, ()), key=lambda one: length.get(one, 0), default=None)
        length[node], before[node] = weight + (length.get(last, 0) if last else 0), last
    node_now: str | None = max(order, key=lambda one: length[one], default=None)
    way: list[str] = []
    while node_now is not None:
        if not by_key[dependencies.task_of(node_now)].epic:
            way.append(node_now)
        node_now = before[node_now]
    return way[::-1]


def _tree(files: Sequence[str], characters: int) -> str:
    """Paths, one a line; where there are too many, directories with how many files they hold; no path is cut."""
    whole = "\n".join(files)
    if len(whole) <= characters:
        return whole
    for depth in (6, 5, 4, 3, 2, 1):
        counted = Counter("/".join(path.split("/")[:depth]) if path.count("/") >= depth else path for path in files)
        lines = [f"{path}/ ({count:,} files)" if count > 1 else path for path, count in counted.items()]
        if sum(map(len, lines)) + len(lines) <= characters:
            return "\n".join(lines)
    shown = "\n".join(lines)[:characters].rpartition("\n")[0]
    return f"{shown}\n… and more; {len(files):,} files in all"


def _brief(text: str) -> str:
    return texts.shorten(text, _REMINDED, f"{len(text):,} characters; you have the whole")


def _read_spec(directory: Path | None, given: str) -> str:
    if directory is None:
        raise InvalidInputError(
            Words("{} needs a project directory.", Argument("spec_path")), "Pass the text as the goal."
        )
    try:
        path = (directory / given).resolve(strict=True)
        if not path.is_relative_to(directory.resolve()) or not path.is_file():
            raise InvalidInputError(
                Words("{} {} is not a file of the project.", Argument("spec_path"), texts.quote(given)),
                "Name a file below the project.",
            )
        with path.open("rb") as stream:
            return stream.read(SPEC_BYTES + 1).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInputError(f"{texts.quote(given)} is not UTF-8 text.", "Convert it to UTF-8.") from None
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or "not a path"
        raise InvalidInputError(
            Words("{} {} cannot be read: {}.", Argument("spec_path"), texts.quote(given), why),
            "Name a text file below the project.",
        ) from None


def dumped(given: Mapping[str, Any]) -> str:
    """A plan as text to be edited: YAML, or JSON where some text in it would be read as another value."""
    import yaml

    plain = json.loads(json.dumps(given))
    text: str = yaml.safe_dump(plain, allow_unicode=True, sort_keys=False, width=100)
    try:
        return text if plan.load(text) == plain else json.dumps(plain, ensure_ascii=False, indent=1)
    except PlanError:
        return json.dumps(plain, ensure_ascii=False, indent=1)
