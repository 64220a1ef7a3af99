"""Steps that somebody has to answer: a provider at once, or the agent that carries the workflow on, when it can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from loom.graph.store import skill_runs
from loom.graph.store.skill_runs import SkillRun, SkillRunStatus
from loom.skills import asking, decomposer, diagnosis, gathering, loader, providers
from loom.skills.asking import Check, Noted
from loom.skills.completion import Provider
from loom.skills.loader import Skill
from loom.workflows import actions
from loom.workflows.steps import Step, StepType

if TYPE_CHECKING:
    from loom.graph.front import Loom


class Question(Protocol):
    """What is asked in one step."""

    @property
    def skill(self) -> Skill: ...

    async def ask(self, provider: Provider, noted: Noted, timeout: float) -> SkillRun:
        """Has a provider answer. Raises LoomError."""
        ...

    async def open(self, noted: Noted) -> None:
        """Makes ready for the calling agent to answer."""
        ...

    async def prompt(self) -> dict[str, Any]:
        """What the calling agent is told: `prompt`, and `expects`, the schema of its answer."""
        ...

    async def take(self, answer: Mapping[str, Any], skill_run_id: str | None) -> dict[str, Any]:
        """What the step comes to with the calling agent's answer. Raises LoomError if it is wrong."""
        ...

    async def result(self, run: SkillRun) -> dict[str, Any]:
        """What the step comes to with a run that has an answer. Raises LoomError."""
        ...


@dataclass(frozen=True, slots=True)
class SkillQuestion:
    """A skill with its inputs."""

    loom: Loom
    skill: Skill
    inputs: Mapping[str, Any]

    async def ask(self, provider: Provider, noted: Noted, timeout: float) -> SkillRun:
        return await asking.run(
            self.loom, self.skill, self.inputs, provider, check=self._check(), timeout=timeout, noted=noted
        )

    async def open(self, noted: Noted) -> None:
        await asking.start(self.loom, self.skill, self.inputs, noted=noted)

    async def prompt(self) -> dict[str, Any]:
        return {"expects": self.skill.outputs, "prompt": self.skill.render(self.skill.accept(self.inputs))}

    async def take(self, answer: Mapping[str, Any], skill_run_id: str | None) -> dict[str, Any]:
        assert skill_run_id is not None, "it was opened"
        check = self._check()
        if check is not None and (wrong := check(dict(answer))):
            raise asking.wrong(self.skill.name, wrong)
        return await self.result(await asking.answer(self.loom, skill_run_id, answer))

    async def result(self, run: SkillRun) -> dict[str, Any]:
        assert run.output is not None, "it is done"
        check = self._check()
        if check is not None and (wrong := check(run.output)):  # given beside the workflow, to the skill's run itself
            raise asking.wrong(self.skill.name, wrong)
        return run.output

    def _check(self) -> Check | None:
        """What an answer is held against beyond its schema, so that it is not first refused when it is carried out."""
        if self.skill.name != diagnosis.SKILL or self.skill.source != "built-in":
            return None
        return partial(diagnosis.problems, title=self.inputs["task"].get("title"))


@dataclass(frozen=True, slots=True)
class PlanQuestion:
    """A goal that a plan is to be made for; the step comes to the plan's preview."""

    loom: Loom
    skill: Skill
    goal: str
    spec: str

    async def ask(self, provider: Provider, noted: Noted, timeout: float) -> SkillRun:
        material = await gathering.gather(self.loom, self.goal, spec=self.spec)
        _, run = await decomposer.make_plan(self.loom, material, provider, timeout=timeout, noted=noted)
        return run

    async def open(self, noted: Noted) -> None:
        """Nothing: whoever makes the plan proposes it."""

    async def prompt(self) -> dict[str, Any]:
        asked = decomposer.prompt(self.loom, await gathering.gather(self.loom, self.goal, spec=self.spec))
        return {"expects": asked["expects"], "prompt": asked["prompt"]}

    async def take(self, answer: Mapping[str, Any], skill_run_id: str | None) -> dict[str, Any]:
        return await decomposer.propose(self.loom, answer, goal=self.goal, by_agent=True, of_workflow=True)

    async def result(self, run: SkillRun) -> dict[str, Any]:
        assert run.output is not None, "it is done"
        made = {"tasks": run.output["tasks"]}
        return await decomposer.propose(self.loom, made, goal=self.goal, run_id=run.id, of_workflow=True)


def is_asked(step: Step) -> bool:
    """Whether a model, or the calling agent, answers a step."""
    return step.type is StepType.SKILL or step.facts.get("action") == actions.PLAN


def question(loom: Loom, step: Step, inputs: Mapping[str, Any]) -> Question:
    """What such a step asks, with its inputs. Raises LoomError."""
    library = loader.load(loom.config)
    if step.type is StepType.SKILL:
        skill = library.get(step.facts["skill"])
        return SkillQuestion(loom, skill, skill.accept(inputs))
    return PlanQuestion(loom, library.get(decomposer.SKILL), inputs["goal"], inputs["spec"])


def provider_for(loom: Loom, question: Question) -> Provider | None:
    """Who answers; None: the calling agent. Raises ConfigError."""
    return providers.choose(loom.config, question.skill.provider)


async def begun_before(loom: Loom, skill_run_id: str) -> SkillRun:
    """The run of a skill that an earlier attempt of a step had begun: done, open, or failed, as what was broken off is
    from now on."""
    found = await asking.get(loom, skill_run_id)
    if found.status is SkillRunStatus.RUNNING:
        await loom.transact(lambda tx: skill_runs.finish(tx, skill_run_id, error="It was interrupted.", asked=1))
        found = await asking.get(loom, skill_run_id)
    return found
