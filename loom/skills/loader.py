"""Skills: prompts in Markdown files with YAML front matter.

    ---
    name: estimate_complexity
    description: One sentence that says what for and when.
    version: 1.0.0
    inputs:
      task: {type: object, description: The task, required: true}
    outputs: {type: object, required: [size], properties: {size: {type: string}}}
    max_tokens: 2000
    ---
    The template, Jinja2 as far as `template.py` has it.

`library.py` says where they are found. One of the project that names a provider counts only once it is trusted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loom import texts
from loom.bundled import bundled
from loom.config import LoomConfig
from loom.exceptions import SkillError, SkillNotFoundError
from loom.skills import fields, library
from loom.skills.fields import Input, Reader
from loom.skills.library import FileType, Library

BUILTIN = bundled("skills/builtin", ".md")
"""The files of Loom's own."""

PROVIDERS = ("agent", "command", "anthropic", "openai")
KEYS = ("name", "description", "version", "inputs", "outputs", "provider", "model", "temperature", "max_tokens")
_FOREIGN = ("license", "compatibility", "metadata", "allowed-tools")  # what Agent Skills may have beside
_FENCE = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?\n(.*)\Z", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Skill:
    """One skill. `source` is built-in, user or project, `place` names its file in errors."""

    name: str
    description: str
    version: str
    inputs: tuple[Input, ...]
    outputs: dict[str, Any]
    template: str
    source: str
    place: str
    provider: str | None = None
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None

    def accept(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs with their defaults. Raises InvalidInputError that names what is missing, unknown or wrong."""
        return fields.accept(self.inputs, given, f"the skill {self.name}")

    def render(self, values: Mapping[str, Any]) -> str:
        """The prompt for accepted inputs. Raises SkillError."""
        from loom.skills import template

        return template.render(self.template, values, where=self.place)


def load(config: LoomConfig) -> Library[Skill]:
    """The skills that count here; `parse` tells what is wrong with one that does not."""
    return library.collect(_TYPE, config)


def parse(text: str, place: str, source: str = "user") -> Skill:
    """Reads the text of one skill. Raises SkillError that names the file and the key."""
    reader = Reader(place, SkillError)
    reader.size(text)
    match = _FENCE.match(text)
    if match is None:
        reader.refuse("does not begin with YAML front matter between two lines ---")
    facts = reader.yaml(match[1], "the front matter", first_line=2)
    reader.keys(facts, KEYS, _FOREIGN)
    skill = Skill(
        name=reader.name(facts, "name"),
        description=reader.text(facts, "description"),
        version=reader.text(facts, "version", "1"),
        inputs=reader.inputs(facts),
        outputs=_schema(reader, facts.get("outputs")),
        template=texts.clean(match[2]),
        source=source,
        place=place,
        provider=reader.choice(facts, "provider", PROVIDERS),
        model=reader.text(facts, "model", "") or None,
        temperature=reader.number(facts, "temperature", 0, 2),
        max_tokens=None if (most := reader.number(facts, "max_tokens", 1, 1_000_000)) is None else int(most),
    )
    if not skill.template.strip():
        reader.refuse("has no text below its front matter")
    if source != "built-in":  # of those the tests know, and what checks them takes half a second to import
        from loom.skills import schemas, template

        if unknown := template.names(skill.template, where=place) - {one.name for one in skill.inputs}:
            reader.refuse(f"the template uses {', '.join(sorted(unknown))}, which `inputs` does not name")
        if fault := schemas.fault_of(skill.outputs):
            reader.refuse(fault)
    return skill


_TYPE = FileType(
    noun="skill",
    builtin=BUILTIN,
    folder="skills",
    suffixes=(".md",),
    parse=parse,
    needs=lambda skill: "it names a provider" if skill.provider else None,
    error=SkillError,
    missing=SkillNotFoundError,
    within="SKILL.md",
)


def _schema(reader: Reader, given: object) -> dict[str, Any]:
    """The schema of the answer, which is an object."""
    if not isinstance(given, dict) or given.get("type") != "object":
        reader.refuse("`outputs` must be a JSON schema of type object")
    return given
