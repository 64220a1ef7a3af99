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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from loom import texts
from loom.bundled import bundled
from loom.config import LoomConfig
from loom.exceptions import LoomError, WorkflowError, WorkflowNotFoundError
from loom.skills import fields, library
from loom.skills import loader as skills
from loom.skills.fields import Input, Reader
from loom.skills.library import FileType, Library
from loom.workflows import actions, values
from loom.workflows.steps import ALWAYS, END, Step, StepType, check_inputs, read_steps

EXPRESSIONS = 1_000
_KEYS = ("name", "description", "version", "inputs", "steps")


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
        steps=read_steps(reader, facts.get("steps")),
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
            check_inputs(Reader(workflow.place, WorkflowError), step, skill.inputs, f"the skill {skill.name}")


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
    builtin=bundled("workflows/builtin", ".yaml"),
    folder="workflows",
    suffixes=(".yaml", ".yml"),
    parse=parse,
    needs=lambda workflow: "it runs a command" if workflow.commands else None,
    error=WorkflowError,
    missing=WorkflowNotFoundError,
)


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
        elif key not in ALWAYS:
            yield from values.references(value, where=workflow.where(step, key))
