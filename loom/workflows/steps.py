"""The steps of a workflow, as its file has them: which types there are, and what must stand in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from loom import texts
from loom.skills import fields
from loom.skills.fields import Input, Reader
from loom.workflows import actions, values

STEPS = 100
END, FAIL = "end", "fail"
LONGEST = 90 * 86400.0  # seconds
ALWAYS = ("id", "type", "timeout")
"""The keys that a step of every type has."""


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


def read_steps(reader: Reader, given: object) -> tuple[Step, ...]:
    """The steps of a workflow. Raises the reader's error, which names step and key."""
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
    _check_targets(reader, found)
    return tuple(found)


def check_inputs(reader: Reader, step: Step, inputs: tuple[Input, ...], who: str) -> None:
    """Refuses inputs of a step that are known to be wrong before it begins. `who`: what takes them, in errors."""
    where, given = f"step {step.id}, ", reader.mapping(step.facts, "inputs", f"step {step.id}, ")
    reader.keys(given, [one.name for one in inputs], where=f"{where}`inputs`: {who} does not take it: ")
    for one in inputs:
        if one.name not in given and one.required:
            reader.refuse(f"{where}`inputs.{one.name}` is missing, which {who} needs")
        value = given.get(one.name)
        if value is not None and not values.is_expression(value) and not fields.fits(value, one.type):
            reader.refuse(f"{where}`inputs.{one.name}` must be of type {one.type}")


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
    reader.keys(facts, (*ALWAYS, *_OF_TYPE[kind]), where=where)
    for key, value in facts.items():
        reader.storable(value, f"{where}`{key}`")
    timeout = reader.number(facts, "timeout", 1, LONGEST, where)
    step = Step(name, kind, _TIMEOUTS[kind] if timeout is None else timeout, facts)
    _CHECKS[kind](reader, step, where)
    return step


def _check_targets(reader: Reader, found: Sequence[Step]) -> None:
    """Refuses a condition that goes on at a step that does not come after it."""
    for position, step in enumerate(found):
        later = [one.id for one in found[position + 1 :]]
        for key in ("then", "else") if step.type is StepType.CONDITION else ():
            target = step.facts.get(key)
            if target is not None and target not in (*later, END, FAIL):
                reader.refuse(
                    f"step {step.id}, `{key}`: {texts.quote(str(target))} is no step further down",
                    f"Use {', '.join([*later, END, FAIL])}.",
                )


def _check_skill(reader: Reader, step: Step, where: str) -> None:
    reader.name(step.facts, "skill", where)
    reader.mapping(step.facts, "inputs", where)


def _check_action(reader: Reader, step: Step, where: str) -> None:
    name = reader.choice(step.facts, "action", [*actions.ACTIONS], where)
    if name is None:
        reader.refuse(f"{where}`action` is missing", f"Use one of {', '.join(actions.ACTIONS)}.")
    check_inputs(reader, step, actions.ACTIONS[name].inputs, f"the action {name}")
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
