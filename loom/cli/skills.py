"""`loom skill` and `loom decompose`: prompts with checked answers, and the way from a goal to tasks."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import click

from loom.cli import names
from loom.cli.output import block, dim, emit, heading, plural, pretty, state, table
from loom.cli.shared import (
    Command,
    Group,
    Reply,
    agent_option,
    agreed,
    answer,
    can_ask,
    given_text,
    input_pairs,
    json_option,
    note,
    open_project,
    progress,
    read_text,
    settings,
    settings_here,
    wants_json,
)
from loom.exceptions import AnswerError, ConfigError, InvalidInputError, PlanError
from loom.graph.front import Loom
from loom.texts import clean, one_line

_NO_PROVIDER = (
    "No provider is configured that could make a plan, and neither `claude` nor `codex` can be asked here.",
    "Install one of them, set skills.provider or skills.command, or give the plan with --plan FILE.",
)


@click.group(cls=Group)
def skill() -> None:
    """Skills: prompts whose answers are checked and recorded."""


@skill.command("list")
def list_skills() -> None:
    """List the skills that count here: Loom's own, yours in ~/.loom/skills, the project's in .loom/skills."""
    from loom.skills import loader, tools

    config = settings()
    reply = tools.listed(loader.load(config))
    if sys.stderr.isatty():
        names.keep_described(config)
    if wants_json():
        emit(reply)
        return
    for line in table(
        [[one["name"], one.get("source", "built-in"), one_line(one["description"])] for one in reply["skills"]]
    ):
        click.echo(line)
    for one in reply.get("notes", ()):
        note(one)


@skill.command()
@click.argument("name")
def show(name: str) -> None:
    """Show the skill NAME: what it takes, what it answers, and its text."""
    from loom.skills import loader, tools

    reply = tools.described(loader.load(settings()).get(name))
    if wants_json():
        emit(reply)
        return
    click.echo(f"{heading(reply['name'])}  {reply['version']}  {dim(reply['source'])}")
    click.echo(f"  {one_line(reply['description'])}")
    rows = [
        [key, one["type"], "" if one["required"] else "optional", one_line(one.get("description", ""))]
        for key, one in reply.get("inputs", {}).items()
    ]
    for line in [*table(rows, "  "), *block("answers", pretty(reply["outputs"])), *block("text", reply["template"])]:
        click.echo(line)


@skill.command()
@click.argument("name", metavar="NAME|RUN")
@click.option("--input", "pairs", multiple=True, metavar="NAME=VALUE", help="An input; VALUE may be @file or JSON.")
@json_option("inputs", "All inputs as one object")
@json_option("output", "Your answer to the open run RUN")
@agent_option
def run(
    name: str, pairs: tuple[str, ...], inputs: dict[str, Any] | None, output: dict[str, Any] | None, agent: str | None
) -> None:
    """Run the skill NAME. Without a provider it prints the prompt and a run id: answer with `loom skill run RUN
    --output JSON`."""
    from loom.skills import fields, loader, tools

    async def work(loom: Loom) -> Reply:
        if name.startswith("run-"):
            return await tools.skill(loom, None, run_id=name, output=output)
        chosen = loader.load(loom.config).get(name)
        values = {**(inputs or {}), **fields.from_texts(chosen.inputs, input_pairs(pairs), name)}
        return await tools.skill(loom, name, values, output=output)

    answer(work, _run_lines, agent=agent, changes=True, here=True)


@click.command(cls=Command)
@click.argument("goal", required=False)
@click.option("--from", "file", metavar="FILE", help="Read a specification from this file, - for standard input.")
@click.option("--plan", "plan_file", metavar="FILE", help="Take this plan (YAML or JSON), or a stored one by its id.")
@click.option("--yes/--no", "yes", default=None, help="Write the plan without asking, or refuse a stored one.")
@click.option("--note", default="", metavar="TEXT", help="With --no: why, for whoever proposed it.")
@click.option("--save", metavar="FILE", help="Also save the plan as YAML, to be edited and given with --plan.")
@agent_option
def decompose(
    goal: str | None,
    file: str | None,
    plan_file: str | None,
    yes: bool | None,
    note: str,
    save: str | None,
    agent: str | None,
) -> None:
    """Turn GOAL, a specification, or both into tasks: make a plan, check it, show it, and write it after a yes.

    The configured provider makes it; without one Claude Code or Codex, whichever is installed, which read what they
    want to know of the project and change nothing."""
    if not (goal or file or plan_file):
        raise click.UsageError("Give GOAL, --from FILE or --plan FILE.")
    if yes is False:
        _refuse(plan_file, note, agent)
        return
    if note:
        raise click.UsageError("--note belongs to --no.")
    spec = given_text(None, file, "GOAL") or ""
    text = None if plan_file is None or _is_stored(plan_file) else read_text(plan_file)
    asyncio.run(_decompose(goal or "", spec, plan_file, text, yes=bool(yes), save=save, agent=agent))


def _refuse(plan_id: str | None, note: str, agent: str | None) -> None:
    """Says no to a stored plan."""
    from loom.skills import decomposer

    if plan_id is None or not _is_stored(plan_id):
        raise click.UsageError("--no refuses a stored plan: give its id with --plan.")

    async def work(loom: Loom) -> Reply:
        await decomposer.refuse(loom, plan_id, note=note)
        return {"plan_id": plan_id, "status": "refused"}

    answer(work, lambda reply: [f"{reply['plan_id']}  refused"], agent=agent, changes=True, here=True)


async def _decompose(
    goal: str, spec: str, name: str | None, text: str | None, *, yes: bool, save: str | None, agent: str | None
) -> None:
    from loom.orchestration.housekeeping import once
    from loom.skills import decomposer

    seen: Mapping[str, Any] = {}
    async with open_project(agent, settings_here()) as loom:
        try:
            if name is not None and text is None:
                seen = await decomposer.shown(loom, name)
                if save is not None:
                    _save(save, decomposer.dumped((await decomposer.get(loom, name)).plan))
            else:
                plan, run_id = await _plan(loom, goal, spec, text, save)
                if save is not None:
                    _save(save, decomposer.dumped(plan))
                seen = await decomposer.propose(loom, plan, goal=goal, run_id=run_id)
            wanted = seen["status"] == "preview" and await _agreed(seen, yes=yes)
            reply = await decomposer.confirm(loom, seen["plan_id"]) if wanted else seen
        except PlanError as error:
            raise _told(error, name, seen.get("plan_id")) from None
        if wants_json():
            emit(reply)
        else:
            for line in _written_lines(reply) if reply["status"] == "written" else _next_lines(reply):
                click.echo(line)
        sys.stdout.flush()
        await once(loom)


async def _plan(
    loom: Loom, goal: str, spec: str, text: str | None, save: str | None
) -> tuple[dict[str, Any], str | None]:
    """The plan that was given, or one that a provider makes; one that is refused is saved all the same."""
    from loom.graph.model import plan
    from loom.skills import decomposer, gathering, loader, providers

    if text is not None:
        given = plan.load(text)
        plan.read(given)
        assert isinstance(given, dict)
        return {"tasks": given["tasks"]}, None
    provider = providers.at_hand(loom.config, loader.load(loom.config).get(decomposer.SKILL).provider)
    if provider is None:
        raise ConfigError(*_NO_PROVIDER)
    material = await gathering.gather(loom, goal, spec=spec)
    progress(f"Asking {provider.name} for a plan.")
    try:
        made, run = await decomposer.make_plan(loom, material, provider)
    except AnswerError as error:
        if save is None or (given := decomposer.plan_in(error)) is None:
            raise
        _save(save, decomposer.dumped(given))
        advice = f"The refused plan is in {save}: correct it and run `loom decompose --plan {quote(save)}`."
        raise AnswerError(error.cause, advice, error.problems) from None
    return {"tasks": made["tasks"]}, run.id


async def _agreed(seen: Mapping[str, Any], *, yes: bool) -> bool:
    """Shows the preview to a person, and asks where there is somebody to ask."""
    if not wants_json():
        for line in _preview_lines(seen):
            click.echo(line)
    if yes or not can_ask():
        return yes
    # Before the question, since Ctrl-C may be the answer.
    click.echo(f"  {heading('plan')}  {seen['plan_id']}, kept for `loom decompose --plan {seen['plan_id']}`")
    return await agreed(f"Write these {plural(seen['count'], 'task')}?")


def _told(error: PlanError, name: str | None, plan_id: str | None) -> PlanError:
    """The error for whoever gave the plan, or has the stored one; several problems are told here, one a line."""
    from loom.skills import decomposer

    if name is not None and not _is_stored(name):
        way = f"Correct {'it' if name == '-' else name} and run it again."
    elif stored := plan_id or name:
        again = "correct FILE and run `loom decompose --plan FILE`."
        way = f"Save it with `loom decompose --plan {stored} --save FILE`, {again}"
    else:
        way = "Run it again, or choose another model."
    refusal = decomposer.refusal(error.problems, way)
    if len(error.problems) == 1 or wants_json():
        return refusal
    for one in error.problems:
        click.echo(f"  - {one_line(one)}", err=True)
    return PlanError(
        f"The plan cannot be used as it is: {plural(len(error.problems), 'problem')}.", way, error.problems
    )


def _is_stored(name: str) -> bool:
    from loom.skills import decomposer

    return decomposer.is_plan_id(name)


def _save(name: str, text: str) -> None:
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(f"{name} cannot be written: {error.strerror}.", "Name another file.") from None
    progress(f"Saved the plan in {name}.")


def _run_lines(reply: Reply) -> Iterator[str]:
    if reply["status"] == "open" and "prompt" in reply:
        yield reply["prompt"].rstrip("\n")
        yield "The answer is one JSON object that fits this schema:"
        yield clean(json.dumps(reply["expects"], ensure_ascii=False, separators=(",", ":")))
        yield dim(f"Answer with: loom skill run {reply['run_id']} --output JSON")
        return
    counted = reply.get("tokens")
    facts = [reply["provider"], reply.get("model", ""), f"{reply.get('seconds', 0)} s"]
    facts += [f"{counted['input']:,} tokens in, {counted.get('output') or 0:,} out"] if counted else []
    yield f"{reply['run_id']}  {reply['status']}  {dim(', '.join(one for one in facts if one))}"
    if "error" in reply:
        yield f"  {one_line(reply['error'])}"
    if "output" in reply:
        yield from block("output", pretty(reply["output"]))


def _preview_lines(seen: Mapping[str, Any]) -> Iterator[str]:
    epics = f" in {plural(seen['epics'], 'epic')}" if seen.get("epics") else ""
    edges = seen.get("edges", 0)
    yield heading(f"{plural(seen['count'], 'task')}{epics}, {edges:,} {'dependency' if edges == 1 else 'dependencies'}")
    for wave in seen["waves"]:
        yield f"  {heading('wave')} {wave['wave']}  {plural(wave['count'], 'task')} at once"
        yield from (f"    {one_line(one)}" for one in wave["tasks"])
        if (more := wave["count"] - len(wave["tasks"])) > 0:
            yield dim(f"    and {more:,} more")
    if "more_waves" in seen:
        yield dim(f"  and {plural(seen['more_waves'], 'wave')} more")
    yield f"  {heading('critical path')}  {plural(seen['critical_path_length'], 'task')}"
    yield from (f"    {one_line(one)}" for one in seen["critical_path"])
    yield from block("mermaid", seen["mermaid"])


def _next_lines(seen: Mapping[str, Any]) -> Iterator[str]:
    yield f"{seen['plan_id']}  nothing is written yet"
    yield f"  next: `loom decompose --plan {seen['plan_id']} --yes`, or `--no`"


def _written_lines(reply: Mapping[str, Any]) -> Iterator[str]:
    yield f"{plural(reply['count'], 'task')} written, {reply.get('ready', 0):,} of them ready"
    yield from table([[one["id"], state(one), one_line(one["title"])] for one in reply["tasks"][:20]], "  ")
    if reply["count"] > 20:
        yield dim(f"  and {reply['count'] - 20:,} more: loom graph")
