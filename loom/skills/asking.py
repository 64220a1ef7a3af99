"""Running a skill: its prompt filled in, answered by a provider or by the calling agent, the answer checked, all of it
recorded.

    run = await asking.run(loom, library.get("define_done"), {"task": {...}}, provider)   # a provider answers
    opened = await asking.start(loom, skill, inputs)                                      # the caller is to answer
    run = await asking.answer(loom, opened.run.id, {...})
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from loom import texts
from loom.exceptions import AnswerError, InvalidInputError, LoomError, RunLostError, RunNotFoundError
from loom.graph.model import limits
from loom.graph.store import skill_runs
from loom.graph.store.skill_runs import SkillRun, SkillRunStatus
from loom.graph.store.transaction import Transaction
from loom.skills import answers
from loom.skills.completion import Completion, Provider
from loom.skills.loader import Skill
from loom.wording import Argument, Words

if TYPE_CHECKING:
    from loom.graph.front import Loom

TIMEOUT = 900.0
_TRIES = 2
_WRONG_SHOWN = 20_000  # characters of a wrong answer that go back
_TOLD = 200  # characters of each problem in an error
_GIVEN_SHOWN = 1_500  # characters of a text that the calling agent has passed itself
_RUN_ID = re.compile(r"run-[0-9a-f]{16}")

Check = Callable[[dict[str, Any]], list[str]]
"""Says what is wrong with an answer, a sentence each."""

Look = Callable[[dict[str, Any]], Awaitable[list[str]]]
"""A check that looks into the project."""

Noted = Callable[[Transaction, SkillRun], Awaitable[None]]
"""Is told of a run in the transaction in which it begins."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A run that the calling agent is to answer."""

    run: SkillRun
    prompt: str


async def run(
    loom: Loom,
    skill: Skill,
    inputs: Mapping[str, Any],
    provider: Provider,
    *,
    check: Check | Look | None = None,
    agent_id: str | None = None,
    timeout: float = TIMEOUT,
    noted: Noted | None = None,
) -> SkillRun:
    """Has a provider answer. A wrong answer is sent back once with what was wrong.

    Args:
        check: in place of the skill's schema, where somebody knows better.
        timeout: seconds for each time that the provider is asked.
        noted: is told of the run when it begins.

    Raises:
        AnswerError: the second answer was wrong too; ProviderError, SkillError, InvalidInputError, ConfigError. The run
        is recorded either way.
    """
    values = skill.accept(inputs)
    prompt = full_prompt(skill, values)
    agent = loom.caller(agent_id)
    model = skill.model or loom.config.skills.model
    opened = await _begin(loom, skill, values, provider.name, model, agent, SkillRunStatus.RUNNING, noted)
    tally = _Tally()
    try:
        output = await _answered(skill, prompt, provider, check, tally, timeout)
    except BaseException as error:
        why = str(error) if isinstance(error, LoomError) else f"It was interrupted ({type(error).__name__})."
        await asyncio.shield(_finish(loom, opened.id, tally, error=texts.shorten(texts.clean(why), 8000)))
        raise
    finished = await _finish(loom, opened.id, tally, output=output)
    if finished is None:
        raise RunLostError(f"{opened.id} was taken for interrupted, and ended by somebody else.")
    return finished


async def start(
    loom: Loom,
    skill: Skill,
    inputs: Mapping[str, Any],
    *,
    noted: Noted | None = None,
) -> Opened:
    """Opens a run for the calling agent to answer, with an object that fits `run.expects`. Texts that it has passed
    itself are shortened in its prompt."""
    values = skill.accept(inputs)
    prompt = skill.render({name: _reminder(name, value) for name, value in values.items()})
    opened = await _begin(loom, skill, values, "agent", None, loom.caller(), SkillRunStatus.OPEN, noted)
    return Opened(opened, prompt)


async def answer(loom: Loom, run_id: str, output: object) -> SkillRun:
    """Checks and records the answer to an open run, once; again returns the first one. A wrong one leaves it open.

    Raises:
        RunNotFoundError, AnswerError.
    """
    found = await get(loom, run_id)
    if found.status is SkillRunStatus.DONE:
        return found
    if found.status is not SkillRunStatus.OPEN:
        raise RunNotFoundError(f"The run {run_id} is {found.status} and takes no answer.", "Start the skill again.")
    if problems := await asyncio.to_thread(answers.problems, output, found.expects):
        raise wrong(found.skill, problems)
    text = json.dumps(output, ensure_ascii=False)
    finished = await loom.transact(lambda tx: skill_runs.finish(tx, run_id, output=text, asked=1))
    return finished or await get(loom, run_id)


async def record(tx: Transaction, skill: Skill, inputs: Mapping[str, Any], output: str, *, agent: str) -> str:
    """Writes a run that the calling agent has answered without opening it first; returns its id. `output` is JSON
    text."""
    begun = await skill_runs.begin(
        tx,
        skill=skill.name,
        version=skill.version,
        provider="agent",
        model=None,
        agent=agent,
        status=SkillRunStatus.OPEN,
        inputs=json.dumps(dict(inputs), ensure_ascii=False),
        expects=skill.outputs,
    )
    await skill_runs.finish(tx, begun.id, output=output, asked=1)
    return begun.id


async def get(loom: Loom, run_id: str) -> SkillRun:
    """One run. Raises RunNotFoundError."""
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        raise InvalidInputError(
            Words("{} {} is not the id of a run.", Argument("run_id"), texts.quote(str(run_id))),
            "Pass it as it was given.",
        )
    found = await loom.look(lambda connection: skill_runs.get(connection, loom.project_id, run_id))
    if found is None:
        raise RunNotFoundError(f"This project has no run {run_id}.", "Start the skill again.")
    return found


def full_prompt(skill: Skill, values: Mapping[str, Any]) -> str:
    """The whole prompt: the skill's text, and what form the answer has."""
    schema = json.dumps(skill.outputs, ensure_ascii=False, separators=(",", ":"))
    return (
        f"{skill.render(values)}\n"
        "Answer with one JSON object and nothing else, no text before or after it. It must fit this JSON schema:\n"
        f"{schema}\n"
    )


def wrong(
    skill: str,
    problems: list[str],
    next_step: str = "Correct it and answer again.",
    given: Sequence[dict[str, Any]] = (),
) -> AnswerError:
    """The error for an answer that is wrong; whoever gave it can correct it, unless `next_step` says otherwise. `given`
    are the objects that a provider has answered."""
    more = len(problems) - 3
    others = f" There {'is' if more == 1 else 'are'} {more} more problem{'s' * (more != 1)}." if more > 0 else ""
    return AnswerError(
        f"The answer is not what {skill} asks for: {' '.join(_sentence(one) for one in problems[:3])}{others}",
        next_step,
        tuple(problems),
        tuple(given),
    )


@dataclass(slots=True)
class _Tally:
    """What a run has cost so far."""

    began: float = field(default_factory=time.monotonic)
    asked: int = 0
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None

    def add(self, one: Completion) -> None:
        """Counts one answer."""
        self.model = one.model
        for name in ("input_tokens", "output_tokens"):
            if (tokens := getattr(one, name)) is not None:
                setattr(self, name, (getattr(self, name) or 0) + tokens)


async def _answered(
    skill: Skill, prompt: str, provider: Provider, check: Check | Look | None, tally: _Tally, timeout: float
) -> str:
    """The answer as JSON text."""
    asked, problems, objects = prompt, list[str](), list[dict[str, Any]]()
    for _ in range(_TRIES):
        tally.asked += 1
        completion = await provider.complete(
            asked,
            schema=skill.outputs,
            model=skill.model,
            temperature=skill.temperature,
            max_tokens=skill.max_tokens,
            timeout=timeout,
        )
        tally.add(completion)
        try:
            found = answers.read(completion.text)
        except AnswerError as error:
            problems = [str(error)]
        else:
            objects.append(found)
            held: Check | Look = check or partial(answers.problems, schema=skill.outputs)
            # In a thread, so that nothing else stands still meanwhile.
            told: list[str] | Awaitable[list[str]] = await asyncio.to_thread(held, found)
            problems = told if isinstance(told, list) else await told
            if not problems:
                return limits.json_object(found, "output", answers.ANSWER_BYTES)
        asked = prompt + _sent_back(completion.text, problems)
    raise wrong(skill.name, problems, "Run it again, or choose another model.", objects)


def _sent_back(text: str, problems: list[str]) -> str:
    word = secrets.token_hex(8)
    shown = texts.clean(texts.shorten(text, _WRONG_SHOWN, f"{len(text):,} characters in all"))
    listed = "\n".join(f"- {texts.clean(one)}" for one in problems)
    return (
        f"\nYou have answered before, between the two lines with {word}, and it could not be used:\n"
        f"----- {word} begins: your answer -----\n{shown}\n----- {word} ends -----\n"
        f"What is wrong with it:\n{listed}\nAnswer again with the whole JSON object, all of this corrected.\n"
    )


async def _begin(
    loom: Loom,
    skill: Skill,
    values: Mapping[str, Any],
    provider: str,
    model: str | None,
    agent: str,
    status: SkillRunStatus,
    noted: Noted | None,
) -> SkillRun:
    text = limits.json_object(dict(values), "inputs", 1_000_000)

    async def write(tx: Transaction) -> SkillRun:
        opened = await skill_runs.begin(
            tx,
            skill=skill.name,
            version=skill.version,
            provider=provider,
            model=model,
            agent=agent,
            status=status,
            inputs=text,
            expects=skill.outputs,
        )
        if noted is not None:
            await noted(tx, opened)
        return opened

    return await loom.transact(write)


async def _finish(
    loom: Loom, run_id: str, tally: _Tally, *, output: str | None = None, error: str | None = None
) -> SkillRun | None:
    """Writes how a run ended; None if it had ended before."""
    return await loom.transact(
        lambda tx: skill_runs.finish(
            tx,
            run_id,
            output=output,
            error=error,
            model=tally.model,
            asked=tally.asked,
            input_tokens=tally.input_tokens,
            output_tokens=tally.output_tokens,
            seconds=time.monotonic() - tally.began,
        )
    )


def _reminder(name: str, value: Any) -> Any:
    if isinstance(value, str) and len(value) > _GIVEN_SHOWN:
        return texts.shorten(value, _GIVEN_SHOWN, f"{len(value):,} characters, as you passed it in inputs.{name}")
    return value


def _sentence(text: str) -> str:
    text = texts.shorten(texts.one_line(text), _TOLD)
    return text if text.endswith((".", "?", "!")) else f"{text}."
