"""What both faces say about skills and decomposition: one call each, and brief replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from loom import replies
from loom.config import LoomConfig
from loom.exceptions import ForbiddenError, InvalidInputError, LoomError, PlanError, RunAnsweredError
from loom.graph.store.skill_runs import SkillRun
from loom.replies import Reply
from loom.skills import asking, decomposer, fields, gathering, loader, providers
from loom.skills.library import Library
from loom.skills.loader import Skill
from loom.wording import Argument, Words, call

if TYPE_CHECKING:
    from loom.graph.front import Loom


async def skill(
    loom: Loom,
    name: str | None,
    inputs: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    output: Mapping[str, Any] | None = None,
) -> Reply:
    """Lists the skills, runs one, or takes the answer to an open run. Raises LoomError."""
    await loom.permit("skill")
    if run_id is not None:
        found = await asking.get(loom, run_id)
        if output is None:
            return ran(found)
        if loom.principal is not None and not loom.principal.owns(found.agent):
            raise ForbiddenError(f"{run_id} was begun by {found.agent}.", "Leave its answer to whoever began it.")
        answered = await asking.answer(loom, run_id, output)
        if answered.output != output:
            raise RunAnsweredError(
                f"{run_id} has its answer already; this one was not recorded.",
                Words("See its answer with {}, or start the skill again.", call("skill", run_id=run_id)),
            )
        return ran(answered)
    skills = loader.load(loom.config)
    if name is None:
        return listed(skills)
    if output is not None:
        raise InvalidInputError(
            Words("{} answers a run, but there is no {}.", Argument("output"), Argument("run_id")),
            Words("Answer with {}, the run being the one that you were given.", call("skill", run_id=..., output=...)),
        )
    chosen = skills.get(name)
    provider = providers.choose(loom.config, chosen.provider)
    if provider is not None:
        return ran(await asking.run(loom, chosen, inputs or {}, provider))
    opened = await asking.start(loom, chosen, inputs or {})
    return {
        "run_id": opened.run.id,
        "status": str(opened.run.status),
        "skill": chosen.name,
        "next": Words(
            "Do what the prompt says, and answer with {}, an object that fits expects.",
            call("skill", run_id=opened.run.id, output=...),
        ),
        "expects": chosen.outputs,
        "prompt": opened.prompt,
    }


async def decompose(
    loom: Loom,
    goal: str = "",
    spec_path: str | None = None,
    plan: Mapping[str, Any] | None = None,
    plan_id: str | None = None,
    *,
    confirm: bool = False,
) -> Reply:
    """Makes a plan or takes one, shows it, writes it after a yes; see `decomposer`. Raises LoomError."""
    await loom.permit("decompose")
    if confirm and plan_id is None:
        raise InvalidInputError(
            Words("{} needs the {} of a preview.", Argument("confirm"), Argument("plan_id")),
            Words(
                "Make a preview and show it, and when it is agreed to, confirm it with {}.",
                call("decompose", plan_id=..., confirm=True),
            ),
        )
    try:
        if plan_id is not None:
            if confirm:
                return await decomposer.confirm(loom, plan_id)
            return await decomposer.shown(loom, plan_id)
        if plan is not None:
            return await decomposer.propose(loom, plan, goal=goal, by_agent=True)
        material = await gathering.gather(loom, goal, spec_path=spec_path)
        provider = providers.choose(loom.config, loader.load(loom.config).get(decomposer.SKILL).provider)
        if provider is None:
            return decomposer.prompt(loom, material)
        made, run = await decomposer.make_plan(loom, material, provider)
        return await decomposer.propose(loom, made, goal=goal, run_id=run.id)
    except PlanError as error:
        return {
            "status": "sent_back",
            "problems": list(error.problems),
            "count": len(error.problems),
            "next": Words(
                "Correct all of these in the plan, and propose it again with {}.", call("decompose", plan=...)
            ),
        }


def listed(found: Library[Skill]) -> Reply:
    """The skills, and what was left out."""
    rows = [
        replies.full(
            name=one.name,
            description=one.description,
            inputs=fields.brief(one.inputs),
            source=None if one.source == "built-in" else one.source,
        )
        for one in found.all.values()
    ]
    return replies.full(skills=rows, count=len(rows), notes=list(found.notes))


def described(one: Skill) -> Reply:
    """One skill whole."""
    inputs = {
        i.name: replies.full(
            type=i.type, required=i.required, description=i.description or None, default=i.default or None
        )
        for i in one.inputs
    }
    return replies.full(
        name=one.name,
        description=one.description,
        version=one.version,
        source=one.source,
        file=one.place,
        provider=one.provider,
        model=one.model,
        temperature=one.temperature,
        max_tokens=one.max_tokens,
        inputs=inputs,
        outputs=one.outputs,
        template=one.template,
    )


def ran(run: SkillRun) -> Reply:
    """A run and its answer."""
    return replies.full(
        run_id=run.id,
        status=str(run.status),
        skill=run.skill,
        provider=run.provider,
        model=run.model,
        tokens={"input": run.input_tokens, "output": run.output_tokens} if run.input_tokens is not None else None,
        seconds=None if run.seconds is None else round(run.seconds, 1),
        error=run.error,
        output=run.output,
    )


def config(loom: Callable[[], Loom]) -> LoomConfig:
    """The configuration of a project; without one the defaults, with which Loom's own skills and the user's count."""
    try:
        return loom().config
    except LoomError:
        return LoomConfig()


def prompt(one: Skill, arguments: Mapping[str, Any]) -> str:
    """A skill's whole prompt for arguments that came as texts. Raises LoomError."""
    return asking.full_prompt(one, one.accept(fields.from_texts(one.inputs, arguments, one.name)))
