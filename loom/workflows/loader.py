"""Workflows: steps that lead from a goal to its end, in YAML.

    name: name_it
    description: One sentence that says what for and when.
    version: 1.0.0
    inputs:
      goal: {type: string, description: What is to be named}
    steps:
      - id: think
        type: skill                      # asks a model, or the calling agent
        skill: suggest_names
        inputs: {goal: "{{ inputs.goal }}"}
      - id: agree
        type: confirm                    # waits for a yes
        message: "Take {{ steps.think.names | first }}?"
        show: {names: "{{ steps.think.names }}"}
      - id: enough
        type: condition                  # goes on at another step further down, at `end`, or fails
        if: steps.think.names | length > 2
        else: fail
        message: There are not enough names.
      - id: tell
        type: action                     # one of `actions.py`
        action: send_message
        inputs: {to: orchestrator, message: "{{ steps.think.names | first }}"}
      - id: pause
        type: wait                       # for tasks, or for some seconds
        seconds: 5

Each step that takes time may have a `timeout` in seconds; without one a skill or an action has 900, a wait for tasks a
week, and a question to a person or to the calling agent is open for ever. `values.py` says what stands between {{ and
}}. A file of the project that runs a command counts only once it is trusted; see `library.py` for where files are
found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from loom import texts
from loom.config import LoomConfig
from loom.exceptions import LoomError, WorkflowError, WorkflowNotFoundError
from loom.skills import fields, library
from loom.skills import loader as skills
from loom.skills.fields import Input, Reader
from loom.skills.library import FileType, Library
from loom.workflows import actions, values

STEPS = 100
EXPRESSIONS = 1_000
END, FAIL = "end", "fail"
LONGEST = 90 * 86400.0  # seconds
_KEYS = ("name", "description", "version", "inputs", "steps")
_ALWAYS = ("id", "type", "timeout")


class StepType(StrEnum):
    """What a step does."""

    SKILL = "skill"
    ACTION = "action"
    CONFIRM = "confirm"
    CONDITION = "condition"
    WAIT = "wait"


_OF_TYPE: Mapping[StepType, tuple[str, ...]] = {
    StepType.SKILL: ("skill", "inputs"),
    StepType.ACTION: ("action", "inputs"),
    StepType.CONFIRM: ("message", "show", "agents"),
    StepType.CONDITION: ("if", "then", "else", "message"),
    StepType.WAIT: ("tasks", "dead", "seconds"),
}
_TIMEOUTS: Mapping[StepType, float | None] = {
    StepType.SKILL: 900.0,
    StepType.ACTION: 900.0,
    StepType.CONFIRM: None,
    StepType.CONDITION: None,
    StepType.WAIT: 7 * 86400.0,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `timeout` is in seconds, None for as long as it takes; `facts` has the keys of its type."""

    id: str
    type: StepType
    timeout: float | None
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Workflow:
    """One workflow. `source` is built-in, user or project, `place` names its file in errors; `definition` is what the
    file says, which a run keeps."""

    name: str
    description: str
    version: str
    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    source: str
    place: str
    definition: Mapping[str, Any]

    @property
    def commands(self) -> list[str]:
        """The ids of the steps that run a command."""
        return [one.id for one in self.steps if one.facts.get("action") == actions.RUN_COMMAND]

    def accept(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs with their defaults. Raises InvalidInputError that names what is missing, unknown or wrong."""
        return fields.accept(self.inputs, given, f"the workflow {self.name}")

    def place_of(self, step_id: str) -> int:
        """Where a step stands, from 0; `end` stands behind the last. Raises WorkflowError."""
        if step_id == END:
            return len(self.steps)
        for position, one in enumerate(self.steps):
            if one.id == step_id:
                return position
        raise WorkflowError(
            f"{self.name} has no step {texts.quote(step_id)}.", f"It has {', '.join(one.id for one in self.steps)}."
        )

    def where(self, step: Step, key: str) -> str:
        """Names file, step and key in errors."""
        return f"{self.place}: step {step.id}, `{key}`"


def load(config: LoomConfig) -> Library[Workflow]:
    """The workflows that count here; `parse` tells what is wrong with one that does not."""
    return library.collect(_TYPE, config)


def parse(text: str, place: str, source: str = "user") -> Workflow:
    """Reads the text of one workflow. Raises WorkflowError that names file, step and key."""
    reader = Reader(place, WorkflowError)
    reader.size(text)
    return read(reader.yaml(text, "it"), place, source)


def read(facts: Mapping[str, Any], place: str, source: str) -> Workflow:
    """A workflow from what its file says. Raises WorkflowError that names file, step and key."""
    reader = Reader(place, WorkflowError)
    reader.keys(facts, _KEYS)
    for key in ("name", "description", "version"):
        reader.storable(facts.get(key), f"`{key}`")
    found = Workflow(
        name=reader.name(facts, "name"),
        description=reader.text(facts, "description"),
        version=reader.text(facts, "version", "1"),
        inputs=reader.inputs(facts),
        steps=_steps(reader, facts.get("steps")),
        source=source,
        place=place,
        definition=facts,
    )
    if source != "built-in":  # of those the tests know, and to parse their expressions takes time
        _check_references(reader, found)
    return found


def check_skills(workflow: Workflow, known: Library[skills.Skill]) -> None:
    """Refuses a workflow that asks for a skill that does not count here, or gives it inputs that it does not take.

    Raises:
        WorkflowError: names file, step and key.
    """
    for step in workflow.steps:
        if step.type is StepType.SKILL:
            try:
                skill = known.get(step.facts["skill"])
            except LoomError as error:
                raise WorkflowError(f"{workflow.where(step, 'skill')}: {error.cause}", error.next_step) from None
            _check_inputs(Reader(workflow.place, WorkflowError), step, skill.inputs, f"the skill {skill.name}")


def notes(found: Library[Workflow], known: Library[skills.Skill]) -> list[str]:
    """Sentences about files that do not count, and about workflows that cannot start for want of a skill."""
    told = list(found.notes)
    for one in found.all.values():
        try:
            check_skills(one, known)
        except WorkflowError as error:
            told.append(texts.clean(str(error)))
    return told


_TYPE = FileType(
    noun="workflow",
    package="loom.workflows",
    folder="workflows",
    suffixes=(".yaml", ".yml"),
    parse=parse,
    needs=lambda workflow: "it runs a command" if workflow.commands else None,
    error=WorkflowError,
    missing=WorkflowNotFoundError,
)


def _steps(reader: Reader, given: object) -> tuple[Step, ...]:
    if not isinstance(given, list) or not given:
        reader.refuse("`steps` must be a list of at least one step")
    if len(given) > STEPS:
        reader.refuse(f"`steps` has {len(given):,} steps; the limit is {STEPS}")
    found: list[Step] = []
    for number, facts in enumerate(given, 1):
        step = _step(reader, facts, number)
        if any(step.id == other.id for other in found):
            reader.refuse(f"step {number}: `id` {step.id} is taken by another step", "Give each step its own.")
        found.append(step)
    for position, step in enumerate(found):
        later = [one.id for one in found[position + 1 :]]
        for key in ("then", "else") if step.type is StepType.CONDITION else ():
            target = step.facts.get(key)
            if target is not None and target not in (*later, END, FAIL):
                reader.refuse(
                    f"step {step.id}, `{key}`: {texts.quote(str(target))} is no step further down",
                    f"Use {', '.join([*later, END, FAIL])}.",
                )
    return tuple(found)


def _step(reader: Reader, facts: object, number: int) -> Step:
    where = f"step {number}, "
    if not isinstance(facts, dict):
        reader.refuse(f"step {number} is not a mapping of keys")
    name = reader.name(facts, "id", where)
    if name in (END, FAIL):
        reader.refuse(f"{where}`id` {name} has a meaning of its own", "Choose another.")
    where = f"step {name}, "
    chosen = reader.choice(facts, "type", [*StepType], where)
    if chosen is None:
        reader.refuse(f"{where}`type` is missing", f"Use one of {', '.join(StepType)}.")
    kind = StepType(chosen)
    reader.keys(facts, (*_ALWAYS, *_OF_TYPE[kind]), where=where)
    for key, value in facts.items():
        reader.storable(value, f"{where}`{key}`")
    timeout = reader.number(facts, "timeout", 1, LONGEST, where)
    step = Step(name, kind, _TIMEOUTS[kind] if timeout is None else timeout, facts)
    _CHECKS[kind](reader, step, where)
    return step


def _check_skill(reader: Reader, step: Step, where: str) -> None:
    reader.name(step.facts, "skill", where)
    reader.mapping(step.facts, "inputs", where)


def _check_action(reader: Reader, step: Step, where: str) -> None:
    name = reader.choice(step.facts, "action", [*actions.ACTIONS], where)
    if name is None:
        reader.refuse(f"{where}`action` is missing", f"Use one of {', '.join(actions.ACTIONS)}.")
    _check_inputs(reader, step, actions.ACTIONS[name].inputs, f"the action {name}")
    if name == actions.RUN_COMMAND:
        words = step.facts["inputs"]["words"]
        if values.is_expression(words) or (isinstance(words, list) and values.is_expression((words or [""])[0])):
            reader.refuse(f"{where}`inputs.words`: which program runs must stand in the file", "Write it out.")


def _check_confirm(reader: Reader, step: Step, where: str) -> None:
    reader.text(step.facts, "message", where=where)
    reader.mapping(step.facts, "show", where)
    reader.flag(step.facts, "agents", False, where)


def _check_condition(reader: Reader, step: Step, where: str) -> None:
    if isinstance(step.facts.get("if"), bool | int | float):
        reader.refuse(f"{where}`if` must be an expression, such as steps.review.verdict == 'accept'")
    reader.text(step.facts, "if", where=where)
    if "then" not in step.facts and "else" not in step.facts:
        reader.refuse(f"{where}`then` and `else` are missing", "Say where to go on with at least one of them.")
    if FAIL in (step.facts.get("then"), step.facts.get("else")):
        reader.text(step.facts, "message", where=where)


def _check_wait(reader: Reader, step: Step, where: str) -> None:
    if ("tasks" in step.facts) == ("seconds" in step.facts):
        reader.refuse(f"{where}`tasks` or `seconds` must be there, and not both")
    if "seconds" in step.facts and not values.is_expression(step.facts["seconds"]):
        reader.number(step.facts, "seconds", 0, LONGEST, where)
    if "tasks" in step.facts and not isinstance(step.facts["tasks"], str | list):
        reader.refuse(f"{where}`tasks` must be the id of a task, a list of them, or an expression")
    if "dead" in step.facts:
        reader.choice(step.facts, "dead", ("wait", FAIL), where)


_CHECKS: Mapping[StepType, Callable[[Reader, Step, str], None]] = {
    StepType.SKILL: _check_skill,
    StepType.ACTION: _check_action,
    StepType.CONFIRM: _check_confirm,
    StepType.CONDITION: _check_condition,
    StepType.WAIT: _check_wait,
}


def _check_inputs(reader: Reader, step: Step, inputs: tuple[Input, ...], who: str) -> None:
    """What can be known about the inputs of a step before it begins."""
    where, given = f"step {step.id}, ", reader.mapping(step.facts, "inputs", f"step {step.id}, ")
    reader.keys(given, [one.name for one in inputs], where=f"{where}`inputs`: {who} does not take it: ")
    for one in inputs:
        if one.name not in given and one.required:
            reader.refuse(f"{where}`inputs.{one.name}` is missing, which {who} needs")
        value = given.get(one.name)
        if value is not None and not values.is_expression(value) and not fields.fits(value, one.type):
            reader.refuse(f"{where}`inputs.{one.name}` must be of type {one.type}")


def _check_references(reader: Reader, workflow: Workflow) -> None:
    """Refuses an expression that names an input that is not declared, or a step that does not come before."""
    known = {one.name for one in workflow.inputs}
    count = 0
    before: list[str] = []
    for step in workflow.steps:
        for names, where in _references(workflow, step):
            if (count := count + 1) > EXPRESSIONS:
                reader.refuse(f"step {step.id} and those before it use more than {EXPRESSIONS:,} values")
            if names[0] == "inputs" and (len(names) == 1 or names[1] in known):
                continue
            if names[0] == "steps" and (len(names) == 1 or names[1] in before):
                continue
            told = where.removeprefix(f"{workflow.place}: ")
            if names[0] == "inputs":
                reader.refuse(f"{told} uses inputs.{names[1]}, which `inputs` does not name")
            if names[0] == "steps":
                reader.refuse(f"{told} uses steps.{names[1]}, which is no step before it")
            reader.refuse(f"{told} uses {names[0]}", "An expression sees inputs and steps.")
        before.append(step.id)


def _references(workflow: Workflow, step: Step) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, value in step.facts.items():
        if key == "if":
            yield from values.used(value, where=workflow.where(step, key))
        elif key not in _ALWAYS:
            yield from values.references(value, where=workflow.where(step, key))
