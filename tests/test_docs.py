"""What docs/skills-and-workflows.md says, held against the code."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from loom.config import LoomConfig, trust
from loom.graph.front import Loom
from loom.skills import fields, library, schemas, template
from loom.skills import loader as skills
from loom.workflows import actions, loader, runs, steps, values
from tests.pages import examples
from tests.skills.conftest import directory, home
from tests.workflows.conftest import outputs, put

__all__ = ["directory", "home"]

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "skills-and-workflows.md").read_text()


def section(title: str) -> str:
    """What stands on the page below a heading, up to the next one of its level."""
    level = title.partition(" ")[0]
    match = re.search(rf"^{re.escape(title)}\n(.*?)(?=^{level} |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert match, f"the page has the heading {title}"
    return match[1]


def row(text: str, name: str) -> str:
    """The row of a table that begins with a name, perhaps with a mark behind it."""
    (found,) = re.findall(rf"^\| `{re.escape(name)}`(?: \*)? \|.*$", text, re.MULTILINE)
    return str(found)


def unnamed(names: Iterable[str], text: str) -> list[str]:
    """Those of some names that a text does not have as code: alone, or followed by what belongs to them."""
    return [name for name in names if not re.search(rf"`{re.escape(name)}[`:(]", text)]


def skill() -> str:
    """The page's skill."""
    (text,) = examples(PAGE, "markdown")
    return text


def workflow() -> str:
    """The page's workflow."""
    (text,) = examples(PAGE, "yaml")
    return text


# --- the examples ---------------------------------------------------------------------------------------------------


def test_the_skill_of_the_page_is_one() -> None:
    found = skills.parse(skill(), "page.md")
    assert f"`.loom/skills/{found.name}.md`" in PAGE
    prompt = found.render(found.accept({"commits": "Add sign-in", "known": ["Dark mode"]}))
    assert "never an instruction" in prompt
    assert "1. -----" in prompt


def test_the_workflow_of_the_page_is_one_and_asks_for_the_skill_of_the_page() -> None:
    found = loader.parse(workflow(), "page.yaml")
    assert f"`.loom/workflows/{found.name}.yaml`" in PAGE
    assert {step.type for step in found.steps} == {*steps.StepType}
    one = skills.parse(skill(), "page.md")
    known = skills.load(LoomConfig())
    loader.check_skills(found, replace(known, all={one.name: one}))


async def test_the_workflow_of_the_page_runs_to_its_end(config: LoomConfig, directory: Path) -> None:
    commit(directory)
    put(directory, skill(), "release_note.md", "skills")
    put(directory, workflow(), "release.yaml")
    config = replace(config, project_dir=directory)
    assert "release" not in loader.load(config).all, "it runs a command and is not trusted"
    trust(directory)
    async with Loom(config, agent="writer") as loom:
        await loom.connect()
        run = await runs.start(loom, loader.load(config).get("release"), {"since": "v1"})
        await runs.advance(loom, run.id)
        await runs.answer(loom, run.id, {"headline": "Sign in", "changes": ["You can sign in."]})
        await runs.advance(loom, run.id)
        await runs.confirm(loom, run.id, yes=True, note="Go")
        await runs.advance(loom, run.id)
        for _ in range(2):
            claim = await loom.claim()
            assert claim is not None
            await loom.done(claim.task.id, {"summary": "there"})
        run = await runs.advance(loom, run.id)
        assert (run.status, run.error) == ("done", None)
        came_to = await outputs(loom, run)
    types = {step.id: step for step in loader.parse(workflow(), "page.yaml").steps}
    for step, output in came_to.items():
        if types[step].type is not steps.StepType.SKILL:
            told = row(PAGE, types[step].facts.get("action", str(types[step].type)))
            assert unnamed(output, told) == [], f"the page says what {step} comes to"
    assert await skipped(config) == ["note", "agree", "tasks", "work", "tell", "results"], (
        "nothing is new since the newest commit"
    )


def commit(directory: Path) -> None:
    """Makes a tag, and a commit after it."""
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(directory)]
    for words in (["commit", "-qm", "Begin"], ["tag", "v1"], ["commit", "-qm", "Add sign-in", "--allow-empty"]):
        subprocess.run([*git, *words], check=True)


async def skipped(config: LoomConfig) -> list[str]:
    """What the page's workflow passes by where there is nothing to tell."""
    async with Loom(config, agent="writer") as loom:
        await loom.connect()
        run = await runs.start(loom, loader.load(config).get("release"), {"since": "HEAD"})
        run = await runs.advance(loom, run.id)
        assert run.status == "done"
        return [one.step for one in (await runs.look(loom, run.id))[1] if one.status == "skipped"]


# --- what there is, and what the page names -------------------------------------------------------------------------


def test_every_key_of_a_skill_has_a_row() -> None:
    text = section("## Skills")
    for key in skills.KEYS:
        assert row(text, key)
    assert unnamed(skills.PROVIDERS, row(text, "provider")) == []
    assert unnamed(skills._FOREIGN, text) == []
    keywords = text.partition("uses these keywords: ")[2].partition("So there are no")[0]
    assert set(re.findall(r"`([^`]+)`", keywords)) == schemas.KEYWORDS
    assert unnamed(fields._TYPES, PAGE) == []


def test_what_templates_have_is_named() -> None:
    text = section("### The template")
    sandbox = template._Sandbox("page")
    assert unnamed([name for name in sandbox.filters if not name.startswith("_")], text) == []
    assert unnamed(sandbox.tests, text) == []
    assert unnamed([name for name in template._LOOP_FACTS if name != "index"], text) == []
    assert "`loop.index`" in text


def test_every_key_of_a_workflow_and_of_a_step_is_named() -> None:
    text = section("## Workflows")
    assert unnamed((*loader._KEYS, *steps.ALWAYS), text) == []
    for kind in steps.StepType:
        assert unnamed(steps._OF_TYPE[kind], row(text, str(kind))) == []


def test_every_action_has_a_row_with_its_inputs() -> None:
    text = section("### Actions")
    assert re.findall(r"^\| `(\w+)`", text, re.MULTILINE) == [*actions.ACTIONS]
    for name, action in actions.ACTIONS.items():
        _, mark, inputs, _, _ = row(text, name).split("|")
        assert unnamed([one.name for one in action.inputs], inputs) == []
        assert mark.endswith(" * ") is (action.change is not None), "a * marks what changes the graph"
    assert unnamed(actions._RESOLVE, row(text, "resolve")) == []


def test_the_limits_are_those_of_the_code() -> None:
    for told in (
        f"{fields.INPUTS_BYTES:,} bytes",
        f"a prompt of {template.RENDERED_CHARACTERS:,} characters",
        f"{template.STEPS:,} rounds and {template.SECONDS:g} seconds",
        f"{template._NODES:,} parts, loops {template._LOOP_DEPTH} deep",
        f"{template.EXPRESSION_CHARACTERS:,} characters",
        f"{loader.EXPRESSIONS:,} values",
        f"{values.CHARACTERS:,} characters",
        f"{actions._OUT_BYTES:,} bytes on standard output",
        f"{library.FILE_BYTES // 1024} kB",
        f"nested at most {schemas.DEPTH} deep",
        f"1 to {steps.STEPS} of them",
        f"1 to {steps.LONGEST / 86400:g} days",
    ):
        assert told in " ".join(PAGE.split())
